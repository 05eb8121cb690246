//! Bodies: of requests, read by handlers, and of responses, given by them.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
#[cfg(doc)]
use std::io::Write;
use std::io::{self, Read};
use std::sync::PoisonError;

use bytes::Bytes;
use http::HeaderMap;

use crate::conn::body_writer::BodyWriter;
use crate::conn::request_body::{Allowance, Incoming, Limited};
use crate::conn::upgraded::Upgraded;
use crate::lifecycle::context::Context;

#[cfg(doc)]
use crate::conn::body_error::BodyError;

/// The body of a request or of a response.
///
/// A request's is read through [`Read`]: from memory when it was small enough to be collected
/// before the handler was called, else from the client as it comes, which blocks the handler. A
/// response's is made [`From`] bytes, strings and files, from any reader ([`reader`](Self::reader),
/// [`sized_reader`](Self::sized_reader)), or by a closure that writes ([`writer`](Self::writer)). A
/// request's body can be a response's.
///
/// A client that has said `Expect: 100-continue` is told to go on when its body is first read (RFC
/// 9110 section 10.1.1), and not at all if nobody reads it.
///
/// Short ones are read at once: [`into_bytes`](Self::into_bytes), [`into_text`](Self::into_text),
/// and `into_json` with the feature `json`.
#[derive(Default)]
pub struct Body {
    pub(crate) kind: Kind,
    /// Of a request body that was collected and had some.
    trailers: Option<Box<HeaderMap>>,
}

#[derive(Default)]
pub(crate) enum Kind {
    #[default]
    Empty,
    Bytes(Bytes),
    Read {
        reader: Box<dyn Read + Send>,
        len: Option<u64>,
    },
    Write(Box<WriteBody>),
    /// The same on a thread of its own.
    Stream(Box<WriteBody>),
    /// No body: what gets the connection behind a 101.
    Upgrade(Box<RunUpgraded>),
    /// From the client, as it comes.
    Incoming(Incoming),
}

/// The code that gets an upgraded connection.
pub(crate) type RunUpgraded = dyn FnOnce(Upgraded, Context) + Send;

/// The closure of [`Body::writer`].
pub(crate) type WriteBody = dyn FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send;

impl Body {
    pub(crate) fn of(kind: Kind) -> Self {
        Self {
            kind,
            trailers: None,
        }
    }

    /// A request body that came whole before its handler was called.
    pub(crate) fn collected(bytes: Vec<u8>, trailers: HeaderMap) -> Self {
        let trailers = (!trailers.is_empty()).then(|| Box::new(trailers));
        Self {
            trailers,
            ..bytes.into()
        }
    }

    /// A request body that comes while its handler runs.
    pub(crate) fn incoming(incoming: Incoming) -> Self {
        Self::of(Kind::Incoming(incoming))
    }

    /// A body of no bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    /// A body that is read, a piece at a time, as fast as the client takes it. The client sees it
    /// chunked (HTTP/1.0: ended by the connection's close). No worker waits for a slow client; a
    /// reader that blocks does block one.
    ///
    /// An error of the reader, once the response has begun, cuts the connection, so that the client
    /// does not take what it has for complete.
    #[must_use]
    pub fn reader(reader: impl Read + Send + 'static) -> Self {
        Self::of(Kind::Read {
            reader: Box::new(reader),
            len: None,
        })
    }

    /// A body that is read as with [`reader`](Self::reader), and is `len` bytes long: the client
    /// sees a `Content-Length`. A reader that ends before that cuts the connection; what it has
    /// beyond is not read.
    #[must_use]
    pub fn sized_reader(reader: impl Read + Send + 'static, len: u64) -> Self {
        Self::of(Kind::Read {
            reader: Box::new(reader),
            len: Some(len),
        })
    }

    /// A body that `write` writes, as fast as it likes: it blocks when the client is slower. The
    /// client sees it chunked (HTTP/1.0: ended by the connection's close).
    ///
    /// It holds a worker until it returns, so at most half of the workers run one at a time. An
    /// error it returns cuts the connection.
    #[must_use]
    pub fn writer(
        write: impl FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        Self::of(Kind::Write(Box::new(write)))
    }

    /// A body that `write` writes, as with [`writer`](Self::writer), on a thread of its own: for
    /// what goes on for as long as the client stays, such as server-sent events. It holds no
    /// worker; at most [`max_dedicated_threads`](crate::ServerBuilder::max_dedicated_threads) run at a time, and a
    /// further one is answered with 503. The response's head is sent at once, and what is written
    /// when it is [flushed](Write::flush).
    ///
    /// A stop waits for it as for every response: `write` should look at
    /// [`Context::draining`](crate::Context::draining).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use lameduck::{Body, Context, Request, Response};
    ///
    /// fn events(_request: Request, context: Context) -> Response {
    ///     let mut response = Response::new(Body::stream(move |out| {
    ///         for n in 0.. {
    ///             write!(out, "data: {n}\n\n")?;
    ///             out.flush()?;
    ///             if context.draining().recv_timeout(Duration::from_secs(1)) != Err(crossbeam_channel::RecvTimeoutError::Timeout) {
    ///                 break;
    ///             }
    ///         }
    ///         Ok(())
    ///     }));
    ///     let kind = lameduck::http::HeaderValue::from_static("text/event-stream");
    ///     response.headers_mut().insert(lameduck::http::header::CONTENT_TYPE, kind);
    ///     response
    /// }
    /// ```
    #[must_use]
    pub fn stream(
        write: impl FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        Self::of(Kind::Stream(Box::new(write)))
    }

    /// The number of bytes that are left, if it is known before they are read.
    #[must_use]
    pub fn len(&self) -> Option<u64> {
        match &self.kind {
            Kind::Empty => Some(0),
            Kind::Bytes(bytes) => Some(bytes.len() as u64),
            Kind::Read { len, .. } => *len,
            Kind::Write(_) | Kind::Stream(_) => None,
            Kind::Upgrade(_) => Some(0),
            Kind::Incoming(incoming) => incoming.remaining(),
        }
    }

    /// Whether there is certainly nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// Has reading fail beyond `max` bytes, with [`BodyError::TooLong`] inside the error. For a
    /// body whose length is not known: where it is, the caller has looked at it.
    pub(crate) fn limit(&mut self, max: u64) {
        let allowance = Allowance { max, left: max };
        match &mut self.kind {
            Kind::Incoming(incoming) => incoming.allowance = Some(allowance),
            Kind::Read { reader, len: None } => {
                let unlimited = std::mem::replace(reader, Box::new(io::empty()));
                *reader = Box::new(Limited {
                    reader: unlimited,
                    allowance,
                });
            }
            _ => {}
        }
    }

    /// Takes the fields that came after a chunked request body. There are none before the body was
    /// read to its end.
    #[must_use]
    pub fn take_trailers(&mut self) -> HeaderMap {
        match &self.kind {
            Kind::Incoming(Incoming { ingress, .. }) => ingress
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .decoder
                .take_trailers(),
            _ => self
                .trailers
                .take()
                .map_or_else(HeaderMap::new, |trailers| *trailers),
        }
    }
}

impl Read for Body {
    /// Reads what is there, blocking until something is.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the client closed before the end, `TimedOut` when it was too slow,
    /// `InvalidData` when the body's framing is broken, `ConnectionAborted` when the server has cut
    /// the connection or the response is complete. A body made by [`writer`](Body::writer) is not
    /// for reading: `Unsupported`.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Empty => Ok(0),
            Kind::Bytes(bytes) => {
                let n = bytes.len().min(buffer.len());
                buffer[..n].copy_from_slice(&bytes.split_to(n));
                Ok(n)
            }
            Kind::Read { reader, len: None } => reader.read(buffer),
            Kind::Read {
                reader,
                len: Some(len),
            } => {
                let most = usize::try_from(*len)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                let n = reader.read(&mut buffer[..most])?;
                *len -= n as u64;
                Ok(n)
            }
            Kind::Upgrade(_) => Ok(0),
            Kind::Write(_) | Kind::Stream(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a body that is written cannot be read",
            )),
            Kind::Incoming(incoming) => incoming.read(buffer),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Empty => "empty",
            Kind::Bytes(_) => "bytes",
            Kind::Read { .. } => "reader",
            Kind::Write(_) => "writer",
            Kind::Stream(_) => "stream",
            Kind::Upgrade(_) => "upgrade",
            Kind::Incoming(_) => "incoming",
        };
        f.debug_struct("Body")
            .field("kind", &kind)
            .field("len", &self.len())
            .finish()
    }
}

impl From<()> for Body {
    fn from((): ()) -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::empty()
        } else {
            Self::of(Kind::Bytes(bytes))
        }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Cow<'static, str>> for Body {
    fn from(text: Cow<'static, str>) -> Self {
        match text {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl TryFrom<File> for Body {
    type Error = io::Error;

    /// The file from its start to the end it has now. It is read as the client takes it.
    fn try_from(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::sized_reader(file, len))
    }
}
