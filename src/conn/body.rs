//! Bodies: of requests, read by handlers, and of responses, given by them.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::HeaderMap;

use crate::conn::collect::BodyError;
use crate::conn::egress::Egress;
use crate::conn::progress::{Progress, ProgressLimit};
use crate::conn::upgraded::RunUpgraded;
use crate::settings::Limits;
use crate::settings::{MAX_DISCARD_BYTES, READ_BYTES};
use crate::sys::clock::Clock;
use crate::sys::waker::{wait_readable, wait_writable};
use crate::wire::chunked::{Decoder, encode_chunk};
use crate::wire::framing::Framing;
use crate::wire::reply::CONTINUE;

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

/// A request body that comes from the client while its handler runs.
///
/// The connection keeps the other reference, to take the rest back when the response is complete.
pub(crate) struct Incoming {
    ingress: Arc<Mutex<Ingress>>,
    /// How much the handler may read, if that was limited.
    allowance: Option<Allowance>,
}

#[derive(Debug, Clone, Copy)]
struct Allowance {
    max: u64,
    left: u64,
}

impl Allowance {
    /// Lets `n` bytes that were read pass, or not.
    fn spend(&mut self, n: usize) -> io::Result<usize> {
        let left = self.left.checked_sub(n as u64);
        self.left = left.ok_or_else(|| io::Error::other(BodyError::TooLong { max: self.max }))?;
        Ok(n)
    }
}

/// A reader of a limited body.
struct Limited {
    reader: Box<dyn Read + Send>,
    allowance: Allowance,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader
            .read(buffer)
            .and_then(|n| self.allowance.spend(n))
    }
}

/// How a request body is read from the client.
#[derive(Debug)]
pub(crate) struct Ingress {
    /// `None` once the response is complete: the body ends with it.
    egress: Option<Arc<Egress>>,
    decoder: Decoder,
    /// Received and not yet decoded; what follows the body belongs to the next request.
    received: Vec<u8>,
    at: usize,
    /// Decoded before the handler was called.
    collected: Bytes,
    /// The client waits for `100 Continue` and has not got it yet.
    expects_continue: bool,
    clock: Clock,
    progress_limit: ProgressLimit,
    progress: Progress,
    /// Bytes received.
    came: u64,
    eof: bool,
    failed: bool,
}

/// What a connection gives to read a request's body with.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) egress: Arc<Egress>,
    pub(crate) decoder: Decoder,
    pub(crate) received: Vec<u8>,
    pub(crate) collected: Vec<u8>,
    pub(crate) expects_continue: bool,
    pub(crate) clock: Clock,
    pub(crate) progress_limit: ProgressLimit,
    pub(crate) eof: bool,
}

/// What is left of a body when its response is complete.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) decoder: Decoder,
    pub(crate) received: Vec<u8>,
    /// The client still waits for `100 Continue`, and may send its body or not.
    pub(crate) expects_continue: bool,
    pub(crate) eof: bool,
    pub(crate) failed: bool,
}

impl Incoming {
    /// The handler's and the connection's reference to one body.
    pub(crate) fn pair(reading: Reading) -> (Self, Arc<Mutex<Ingress>>) {
        let Reading {
            egress,
            decoder,
            received,
            collected,
            expects_continue,
            clock,
            progress_limit,
            eof,
        } = reading;
        let progress = Progress::new(clock.now(), 0);
        let ingress = Ingress {
            egress: Some(egress),
            decoder,
            received,
            at: 0,
            collected: collected.into(),
            expects_continue,
            clock,
            progress_limit,
            progress,
            came: 0,
            eof,
            failed: false,
        };
        let ingress = Arc::new(Mutex::new(ingress));
        (
            Self {
                ingress: ingress.clone(),
                allowance: None,
            },
            ingress,
        )
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self
            .ingress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(buffer)?;
        self.allowance
            .as_mut()
            .map_or(Ok(n), |allowance| allowance.spend(n))
    }

    fn remaining(&self) -> Option<u64> {
        let ingress = self.ingress.lock().unwrap_or_else(PoisonError::into_inner);
        Some(ingress.decoder.remaining()? + ingress.collected.len() as u64)
    }
}

/// The connection takes back what the handler left. `None`: another thread is reading it at this
/// moment.
pub(crate) fn take_rest(ingress: &Mutex<Ingress>) -> Option<Rest> {
    let mut ingress = match ingress.try_lock() {
        Ok(ingress) => ingress,
        Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(std::sync::TryLockError::WouldBlock) => return None,
    };
    ingress.egress = None;
    let failed = ingress.failed;
    // Whoever still reads it must not take what has come for all of it.
    ingress.failed |= !ingress.decoder.is_done();
    let at = ingress.at;
    let mut received = std::mem::take(&mut ingress.received);
    received.drain(..at);
    Some(Rest {
        decoder: std::mem::replace(
            &mut ingress.decoder,
            Decoder::new(Framing::Empty, &Limits::default()),
        ),
        received,
        expects_continue: ingress.expects_continue,
        eof: ingress.eof,
        failed,
    })
}

/// Whether no request can follow this body on its connection: it cannot be read to its end, or the
/// client may send it or not, or nobody reads it and it is too long to be dropped.
pub(crate) fn is_in_the_way(ingress: &Arc<Mutex<Ingress>>) -> bool {
    let held = is_held(ingress);
    let Ok(ingress) = ingress.try_lock() else {
        return false;
    };
    let unread = ingress.decoder.remaining().unwrap_or(0);
    ingress.failed || !held && (ingress.expects_continue || unread > MAX_DISCARD_BYTES)
}

/// A response is about to begin. If its body reads the request's, a client that waits for
/// `100 Continue` is told before: afterwards it would take the response for a refusal.
pub(crate) fn continue_before_response(ingress: &Arc<Mutex<Ingress>>) {
    if is_held(ingress)
        && let Ok(mut ingress) = ingress.try_lock()
        && let Some(egress) = ingress.egress.clone()
    {
        // A failure shows at the next write.
        let _ = ingress.continue_if_expected(&egress);
    }
}

/// Whether the handler, or the response it gave, still has its reference.
fn is_held(ingress: &Arc<Mutex<Ingress>>) -> bool {
    Arc::strong_count(ingress) > 1
}

/// Whether the whole body has come from the client. False also while another thread reads it.
pub(crate) fn is_complete(ingress: &Mutex<Ingress>) -> bool {
    ingress
        .try_lock()
        .is_ok_and(|ingress| ingress.decoder.is_done())
}

impl Ingress {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if !self.collected.is_empty() {
            let n = self.collected.len().min(buffer.len());
            buffer[..n].copy_from_slice(&self.collected.split_to(n));
            return Ok(n);
        }
        if self.failed {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "reading the request body has failed before",
            ));
        }
        self.read_on(buffer).inspect_err(|_| self.failed = true)
    }

    fn read_on(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let decoded = self.decoder.decode(&self.received[self.at..], buffer);
            let decoded = decoded
                .map_err(|refusal| io::Error::new(io::ErrorKind::InvalidData, refusal.reason))?;
            self.at += decoded.consumed;
            if decoded.produced > 0 || self.decoder.is_done() {
                return Ok(decoded.produced);
            }
            let egress = self.egress.clone().ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the response is complete, and the request body with it",
                )
            })?;
            self.continue_if_expected(&egress)?;
            self.receive(&egress)?;
        }
    }

    /// The client sends its body only when it is told to; the first read tells it.
    fn continue_if_expected(&mut self, egress: &Egress) -> io::Result<()> {
        if !std::mem::take(&mut self.expects_continue) || !egress.is_not_begun() {
            return Ok(());
        }
        egress
            .append(false, |out| out.extend_from_slice(CONTINUE))
            .map_err(|_| cut())?;
        send_all(egress, &self.clock, self.progress_limit)
    }

    /// Blocks until the client has sent more.
    fn receive(&mut self, egress: &Egress) -> io::Result<()> {
        let eof = || {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the client closed before the end of its request body",
            )
        };
        if self.eof {
            return Err(eof());
        }
        self.received.resize(READ_BYTES, 0);
        self.at = 0;
        self.progress.resume(self.clock.now(), self.came);
        let result = loop {
            match egress.transport().recv(&mut self.received) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => break result,
            }
            let Some(until) = self
                .progress
                .check(self.clock.now(), self.came, self.progress_limit)
            else {
                break Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client is too slow with its request body",
                ));
            };
            wait_readable(egress.transport().as_fd(), self.clock.slice(until));
        };
        let n = *result.as_ref().unwrap_or(&0);
        self.came += n as u64;
        self.progress.pause(self.clock.now(), self.came);
        self.received.truncate(n);
        if result? == 0 {
            self.eof = true;
            return Err(eof());
        }
        Ok(())
    }
}

/// What a closure of [`Body::writer`] writes to.
///
/// What is written is collected and sent in pieces of 16 KiB or more; [`flush`](Write::flush) sends
/// what there is. Both block while the client is slower. Both fail when the client is gone or has
/// taken nothing for [`write_timeout`](crate::ServerBuilder::write_timeout), and when the stop has cut
/// the response: pass it on with `?`.
pub struct BodyWriter<'a> {
    egress: &'a Egress,
    chunked: bool,
    buffer: Vec<u8>,
    clock: &'a Clock,
    progress_limit: ProgressLimit,
}

/// How much a [`BodyWriter`] collects before it sends.
const WRITER_BYTES: usize = 16 << 10;

impl<'a> BodyWriter<'a> {
    pub(crate) fn new(
        egress: &'a Egress,
        chunked: bool,
        clock: &'a Clock,
        progress_limit: ProgressLimit,
    ) -> Self {
        Self {
            egress,
            chunked,
            buffer: Vec::new(),
            clock,
            progress_limit,
        }
    }

    /// Appends what was collected; `last` ends the body.
    pub(crate) fn pass_on(&mut self, last: bool) -> io::Result<()> {
        let (chunked, buffer) = (self.chunked, &mut self.buffer);
        let append = |out: &mut Vec<u8>| {
            if chunked {
                encode_chunk(buffer, out);
                if last {
                    out.extend_from_slice(crate::wire::chunked::LAST_CHUNK);
                }
            } else {
                out.extend_from_slice(buffer);
            }
        };
        self.egress.append(last, append).map_err(|_| cut())?;
        self.buffer.clear();
        Ok(())
    }
}

impl Write for BodyWriter<'_> {
    /// Takes all of `bytes`, blocking until there is room for them.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` or `ConnectionReset` when the client is gone, `TimedOut` when it takes nothing,
    /// `ConnectionAborted` when the server has cut the connection.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITER_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on(false)?;
        send_all(self.egress, self.clock, self.progress_limit)
    }
}

impl fmt::Debug for BodyWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyWriter")
            .field("chunked", &self.chunked)
            .field("buffered", &self.buffer.len())
            .finish()
    }
}

/// Blocks until the kernel has taken all that waits.
pub(super) fn send_all(
    egress: &Egress,
    clock: &Clock,
    progress_limit: ProgressLimit,
) -> io::Result<()> {
    let mut progress = None;
    while !egress.flush_from_outside()? {
        let (now, acknowledged) = (clock.now(), egress.acknowledged());
        let progress = progress.get_or_insert_with(|| Progress::new(now, acknowledged));
        let Some(until) = progress.check(now, acknowledged, progress_limit) else {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not take its response",
            ));
        };
        wait_writable(egress.transport().as_fd(), clock.slice(until));
    }
    Ok(())
}

fn cut() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the server has cut the connection",
    )
}
