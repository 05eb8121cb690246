//! The bodies of requests, which handlers read, and of responses, which handlers return.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::fs::File;
#[cfg(doc)]
use std::io::Write;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::PoisonError;

use bytes::Bytes;
use http::HeaderMap;

use crate::conn::body_error::BodyError;
use crate::conn::body_writer::BodyWriter;
use crate::conn::request_body::Incoming;
use crate::conn::upgraded::Upgraded;
use crate::lifecycle::context::Context;
use crate::settings::MAX_PULL_BYTES;

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
/// Where a length was declared, by [`sized_reader`](Self::sized_reader) or by the response's
/// `Content-Length`, a body that ends before it fails, for whoever reads it: for a layer as for the
/// server, which then cuts the connection. So no client takes a part for the whole. A body that
/// goes beyond its length fails for whoever reads it too, but for the server itself, which sends as
/// many bytes as were declared and reads no further.
///
/// Short bodies are read in one call: [`into_bytes`](Self::into_bytes),
/// [`into_text`](Self::into_text), and `into_json` with the feature `json`.
#[derive(Default)]
pub struct Body {
    pub(crate) kind: Kind,
    /// The number of bytes that have still to come, where somebody has declared it and the kind does
    /// not tell it.
    left: Option<u64>,
    /// How much more may be read, if that is limited.
    allowance: Option<Allowance>,
    /// What was wrong with the body. Every further read fails because of it.
    fault: Option<Fault>,
    /// The trailers of a request body that was collected.
    trailers: Option<Box<HeaderMap>>,
}

#[derive(Default)]
pub(crate) enum Kind {
    #[default]
    Empty,
    Bytes(Bytes),
    Read(Box<dyn Read + Send>),
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

#[derive(Debug, Clone, Copy)]
struct Allowance {
    max: u64,
    left: u64,
}

/// What is wrong with a body that was read.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// It is longer than a limit allows.
    TooLong { max: u64 },
    /// It has ended so many bytes before its declared length.
    Short { missing: u64 },
    /// It goes on after its declared length.
    Surplus,
}

impl Body {
    pub(crate) fn of(kind: Kind) -> Self {
        Self {
            kind,
            ..Self::default()
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
    /// does not take what it has for complete. Most proxies pass the cut on; lighttpd 1.4 presents
    /// the part that it has as a complete response.
    #[must_use]
    pub fn reader(reader: impl Read + Send + 'static) -> Self {
        Self::of(Kind::Read(Box::new(reader)))
    }

    /// Returns a body that is read as with [`reader`](Self::reader) and is `len` bytes long: the
    /// client sees a `Content-Length`.
    ///
    /// A reader that ends before `len` bytes fails the body: reading it is an error, and the
    /// connection is cut. The server sends `len` bytes of a longer reader and reads no further, so
    /// it may be a socket that stays open; for everyone else who reads the body, such as a layer, a
    /// reader that gives more than `len` bytes is an error. For the beginning of a longer source,
    /// pass its [`take`](Read::take)`(len)`.
    #[must_use]
    pub fn sized_reader(reader: impl Read + Send + 'static, len: u64) -> Self {
        let mut body = Self::reader(reader);
        body.declare(len);
        body
    }

    /// Returns a body that `write` writes as fast as it likes; it blocks while the client is
    /// slower. The client sees the body chunked (in HTTP/1.0 the close of the connection ends it),
    /// or with the `Content-Length` that the response declares: then the closure has to write as
    /// many bytes.
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
            Kind::Empty | Kind::Upgrade(_) => Some(0),
            Kind::Bytes(bytes) => Some(bytes.len() as u64),
            Kind::Read(_) | Kind::Write(_) | Kind::Stream(_) => self.left,
            Kind::Incoming(incoming) => incoming.remaining().or(self.left),
        }
    }

    /// Returns true if there is certainly nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// Has the body be `len` bytes long. If its length is known already and is another, reading it
    /// fails.
    pub(crate) fn declare(&mut self, len: u64) {
        let Some(known) = self.len() else {
            self.left = Some(len);
            return;
        };
        if known != len {
            self.fault.get_or_insert(match len.checked_sub(known) {
                Some(missing) => Fault::Short { missing },
                None => Fault::Surplus,
            });
        }
    }

    /// Takes the whole body, if it is in memory and nothing is wrong with it.
    pub(super) fn take_bytes(&mut self) -> Option<Bytes> {
        match &mut self.kind {
            Kind::Bytes(bytes) if self.fault.is_none() => Some(std::mem::take(bytes)),
            _ => None,
        }
    }

    /// Makes reads fail beyond `max` bytes, with [`BodyError::TooLong`] inside the error. Of several
    /// limits the one that is reached first counts.
    pub(crate) fn limit(&mut self, max: u64) {
        if self.allowance.is_none_or(|allowance| max < allowance.left) {
            self.allowance = Some(Allowance { max, left: max });
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
    /// `InvalidData` when the body's framing is broken or its length is not the declared one,
    /// `ConnectionAborted` when the server has cut the connection or the response is complete. An
    /// error with a [`BodyError`] inside when the body is longer than a layer allows. A body made by
    /// [`writer`](Body::writer) cannot be read: `Unsupported`.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_checked(buffer, Kind::read_with_room)
    }
}

impl Body {
    /// Reads for the server, which sends no more than was declared and looks for no more.
    pub(crate) fn read_to_send(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_checked(buffer, |kind, left, buffer| {
            let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            kind.read(&mut buffer[..most])
        })
    }

    /// Reads, and keeps a fault that was found for all further reads.
    fn read_checked(&mut self, buffer: &mut [u8], read_left: ReadLeft) -> io::Result<usize> {
        let checked = match self.fault {
            None => self.read_and_compare(buffer, read_left)?,
            Some(fault) => Err(fault),
        };
        checked.map_err(|fault| {
            self.fault = Some(fault);
            fault.into()
        })
    }

    /// Reads, and compares what came with what was declared and what is allowed.
    fn read_and_compare(
        &mut self,
        buffer: &mut [u8],
        read_left: ReadLeft,
    ) -> io::Result<Result<usize, Fault>> {
        let n = match self.left {
            _ if buffer.is_empty() => 0,
            None => self.kind.read(buffer)?,
            Some(0) => 0,
            Some(left) => {
                let n = read_left(&mut self.kind, left, buffer)?;
                if n == 0 {
                    return Ok(Err(Fault::Short { missing: left }));
                }
                let Some(left) = left.checked_sub(n as u64) else {
                    return Ok(Err(Fault::Surplus));
                };
                self.left = Some(left);
                n
            }
        };
        if let Some(Allowance { max, left }) = &mut self.allowance {
            let Some(rest) = left.checked_sub(n as u64) else {
                return Ok(Err(Fault::TooLong { max: *max }));
            };
            *left = rest;
        }
        Ok(Ok(n))
    }
}

/// Reads from a body of which so many bytes should be left.
type ReadLeft = fn(&mut Kind, u64, &mut [u8]) -> io::Result<usize>;

impl Kind {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Empty | Self::Upgrade(_) => Ok(0),
            Self::Bytes(bytes) => {
                let n = bytes.len().min(buffer.len());
                buffer[..n].copy_from_slice(&bytes.split_to(n));
                Ok(n)
            }
            Self::Read(reader) => reader.read(buffer),
            Self::Write(_) | Self::Stream(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a body that is written cannot be read",
            )),
            Self::Incoming(incoming) => incoming.read(buffer),
        }
    }

    /// Reads a body of which `left` bytes should be left. The read that may return the last of them
    /// has room for one more, so that a surplus shows before the body is complete.
    fn read_with_room(&mut self, left: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if left != buffer.len() {
            let most = left.saturating_add(1).min(buffer.len());
            return self.read(&mut buffer[..most]);
        }
        if left > 1 {
            return self.read(&mut buffer[..left - 1]);
        }
        let mut two = [0; 2];
        let n = self.read(&mut two)?;
        buffer[0] = two[0];
        Ok(n)
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        let wrong = |text: String| Self::new(io::ErrorKind::InvalidData, text);
        match fault {
            Fault::TooLong { max } => Self::other(BodyError::TooLong { max }),
            Fault::Short { missing } => wrong(format!(
                "it ended {missing} bytes before its declared length"
            )),
            Fault::Surplus => wrong("it goes on after its declared length".to_owned()),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Empty => "empty",
            Kind::Bytes(_) => "bytes",
            Kind::Read(_) => "reader",
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
    /// client takes it, wherever its cursor is; the cursor does not move. One that has become
    /// shorter by then fails the body, and what was appended to it is not sent.
    ///
    /// A file of `/proc` or `/sys` does not know its length. Up to 64 KiB of it are read at once,
    /// and the client sees a longer one chunked.
    ///
    /// # Errors
    ///
    /// `IsADirectory` for a directory, and `InvalidInput` for what else is no regular file, such as
    /// a pipe or a device, of which [`reader`](Body::reader) makes a body. Otherwise what the
    /// system says.
    fn try_from(file: File) -> io::Result<Self> {
        let about = file.metadata()?;
        if about.is_dir() {
            let reason = "a body is made of a file, and this is a directory";
            return Err(io::Error::new(io::ErrorKind::IsADirectory, reason));
        }
        if !about.is_file() {
            let reason = "a body is made of a regular file, and this is none";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        // The kernel makes such a file's bytes when they are read, and says that it has none or a
        // whole page. Others without blocks are empty, or so short that they cost nothing to read.
        if about.blocks() == 0 && about.len() <= MAX_PULL_BYTES as u64 {
            let mut start = Vec::new();
            let most = MAX_PULL_BYTES as u64 + 1;
            FileReader { file: &file, at: 0 }
                .take(most)
                .read_to_end(&mut start)?;
            return Ok(if (start.len() as u64) < most {
                start.into()
            } else {
                Self::reader(FileReader { file, at: 0 })
            });
        }
        let len = about.len();
        Ok(Self::sized_reader(
            FileReader { file, at: 0 }.take(len),
            len,
        ))
    }
}

/// Reads a file at an offset of its own: other readers of the same file may move its cursor.
struct FileReader<F> {
    file: F,
    at: u64,
}

impl<F: Borrow<File>> Read for FileReader<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.borrow().read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
