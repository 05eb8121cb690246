//! The bodies of requests, which handlers read, and of responses, which handlers return.

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
/// A request's body is read through [`Read`]: from memory if it was small enough to be collected
/// before the handler was called, otherwise from the client as it comes, which blocks the handler.
/// A response's body is made [`From`] bytes, strings and files, from any reader
/// ([`reader`](Self::reader), [`sized_reader`](Self::sized_reader)), or by a closure that writes
/// ([`writer`](Self::writer)). The body of a request can become the body of a response.
///
/// A client that has sent `Expect: 100-continue` gets `100 Continue` when its body is first read
/// (RFC 9110 section 10.1.1), and not at all if the body is never read.
///
/// Short bodies are read in one call: [`into_bytes`](Self::into_bytes),
/// [`into_text`](Self::into_text), and `into_json` with the feature `json`.
#[derive(Default)]
pub struct Body {
    pub(crate) kind: Kind,
    /// The trailers of a request body that was collected.
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
    /// Like `Write`, on a dedicated thread.
    Stream(Box<WriteBody>),
    /// No body, but the code that gets the connection after a 101.
    Upgrade(Box<RunUpgraded>),
    /// A request body that comes while its handler runs.
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

    /// Makes a request body that was complete before its handler was called.
    pub(crate) fn collected(bytes: Vec<u8>, trailers: HeaderMap) -> Self {
        let trailers = (!trailers.is_empty()).then(|| Box::new(trailers));
        Self {
            trailers,
            ..bytes.into()
        }
    }

    /// Makes a request body that comes while its handler runs.
    pub(crate) fn incoming(incoming: Incoming) -> Self {
        Self::of(Kind::Incoming(incoming))
    }

    /// Returns a body of no bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    /// Returns a body that is read piece by piece, as fast as the client takes it. The client sees
    /// it chunked (in HTTP/1.0 the close of the connection ends it). No worker waits for a slow
    /// client, but a reader that blocks does block a worker.
    ///
    /// If the reader fails after the response has begun, the connection is cut, so that the client
    /// does not take what it has for complete.
    #[must_use]
    pub fn reader(reader: impl Read + Send + 'static) -> Self {
        Self::of(Kind::Read {
            reader: Box::new(reader),
            len: None,
        })
    }

    /// Returns a body that is read as with [`reader`](Self::reader) and is `len` bytes long: the
    /// client sees a `Content-Length`. If the reader ends before that, the connection is cut;
    /// further bytes of the reader are not read.
    #[must_use]
    pub fn sized_reader(reader: impl Read + Send + 'static, len: u64) -> Self {
        Self::of(Kind::Read {
            reader: Box::new(reader),
            len: Some(len),
        })
    }

    /// Returns a body that `write` writes as fast as it likes; it blocks while the client is
    /// slower. The client sees the body chunked (in HTTP/1.0 the close of the connection ends it).
    ///
    /// The closure runs on a dedicated thread, or on a worker if there are
    /// [`max_dedicated_threads`](crate::ServerBuilder::max_dedicated_threads) already. If it returns
    /// an error, the connection is cut.
    #[must_use]
    pub fn writer(
        write: impl FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        Self::of(Kind::Write(Box::new(write)))
    }

    /// Returns a body that `write` writes on a dedicated thread, for a response that goes on for as
    /// long as the client stays, such as server-sent events. It holds no worker; at most
    /// [`max_dedicated_threads`](crate::ServerBuilder::max_dedicated_threads) run at a time, and a
    /// further request gets 503. The client sees the response's head at once, and what is written
    /// when it is [flushed](Write::flush).
    ///
    /// A stopping server waits for this response as for every other, so `write` should look at
    /// [`Context::draining`](crate::Context::draining).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use crossbeam_channel::RecvTimeoutError;
    /// use lameduck::http::{HeaderValue, header::CONTENT_TYPE};
    /// use lameduck::{Body, Context, Request, Response};
    ///
    /// fn events(_request: Request, context: Context) -> Response {
    ///     let mut response = Response::new(Body::stream(move |out| {
    ///         for n in 0.. {
    ///             write!(out, "data: {n}\n\n")?;
    ///             out.flush()?;
    ///             let pause = Duration::from_secs(1);
    ///             let draining = context.draining().recv_timeout(pause);
    ///             if draining != Err(RecvTimeoutError::Timeout) {
    ///                 break;
    ///             }
    ///         }
    ///         Ok(())
    ///     }));
    ///     let kind = HeaderValue::from_static("text/event-stream");
    ///     response.headers_mut().insert(CONTENT_TYPE, kind);
    ///     response
    /// }
    /// ```
    #[must_use]
    pub fn stream(
        write: impl FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        Self::of(Kind::Stream(Box::new(write)))
    }

    /// Returns the number of bytes that are left, if it is known before they are read.
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

    /// Returns true if there is certainly nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// Makes reads fail beyond `max` bytes, with [`BodyError::TooLong`] inside the error. This is
    /// for a body of unknown length: the caller has checked a known one.
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

    /// Takes the trailers of a chunked request body. There are none before the body was read to its
    /// end.
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
    /// Reads the bytes that are there, and blocks until there are some.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the client closed before the end, `TimedOut` when it was too slow,
    /// `InvalidData` when the body's framing is broken, `ConnectionAborted` when the server has cut
    /// the connection or the response is complete. A body made by [`writer`](Body::writer) cannot
    /// be read: `Unsupported`.
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

    /// Makes a body of the file, from its start to the end it has now. The file is read as the
    /// client takes it.
    fn try_from(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::sized_reader(file, len))
    }
}
