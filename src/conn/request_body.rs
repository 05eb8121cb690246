//! A request body that its handler reads while the client sends it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::StatusCode;

use crate::conn::body_writer::{cut, send_all};
use crate::conn::egress::Egress;
use crate::conn::progress::{Progress, ProgressLimit};
use crate::settings::{Limits, MAX_DISCARD_BYTES, READ_BYTES};
use crate::sys::clock::Clock;
use crate::sys::waker::wait_readable;
use crate::wire::Refusal;
use crate::wire::chunked::Decoder;
use crate::wire::framing::Framing;
use crate::wire::reply::CONTINUE;

/// A request body that comes from the client while its handler runs.
///
/// The connection keeps the other reference, to take the rest back when the response is complete.
pub(crate) struct Incoming {
    pub(super) ingress: Arc<Mutex<Ingress>>,
}

/// How a request body is read from the client.
#[derive(Debug)]
pub(crate) struct Ingress {
    /// The connection's egress, or `None` once the response is complete, which ends the body.
    egress: Option<Arc<Egress>>,
    pub(super) decoder: Decoder,
    /// Bytes that are received and not yet decoded. Those after the body belong to the next
    /// request.
    received: Vec<u8>,
    at: usize,
    /// Bytes that were decoded before the handler was called.
    collected: Bytes,
    /// Whether the client waits for `100 Continue` and has not got it yet.
    expects_continue: bool,
    clock: Clock,
    progress_limit: ProgressLimit,
    progress: Progress,
    /// The number of bytes received.
    received_bytes: u64,
    eof: bool,
    failed: bool,
}

/// What a connection provides for reading a request's body.
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

/// The rest of a body when its response is complete.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) decoder: Decoder,
    pub(crate) received: Vec<u8>,
    /// Whether the client still waits for `100 Continue`, so that it may send its body or not.
    pub(crate) expects_continue: bool,
    pub(crate) eof: bool,
    pub(crate) failed: bool,
}

impl Incoming {
    /// Makes the two references to one body: the handler's and the connection's.
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
            received_bytes: 0,
            eof,
            failed: false,
        };
        let ingress = Arc::new(Mutex::new(ingress));
        (
            Self {
                ingress: ingress.clone(),
            },
            ingress,
        )
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ingress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(buffer)
    }

    pub(super) fn remaining(&self) -> Option<u64> {
        let ingress = self.ingress.lock().unwrap_or_else(PoisonError::into_inner);
        Some(ingress.decoder.remaining()? + ingress.collected.len() as u64)
    }
}

/// Takes back for the connection what the handler left. `None`: another thread is reading the body
/// at this moment.
pub(crate) fn take_rest(ingress: &Mutex<Ingress>) -> Option<Rest> {
    let mut ingress = match ingress.try_lock() {
        Ok(ingress) => ingress,
        Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(std::sync::TryLockError::WouldBlock) => return None,
    };
    ingress.egress = None;
    let failed = ingress.failed;
    // A thread that still reads the body must not take what has come for all of it.
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

/// Reads what the handler left of a body and drops it, up to a limit, and takes back what has come
/// after it. Waits for the client.
pub(crate) fn drop_rest(ingress: &Mutex<Ingress>) -> Result<Rest, Refusal> {
    let mut nowhere = [0; 4 << 10];
    let mut dropped = 0;
    loop {
        let read = match ingress.try_lock() {
            Ok(mut ingress) => ingress.read(&mut nowhere),
            Err(_) => return Err(BODY_IN_USE),
        };
        match read {
            Ok(0) => return take_rest(ingress).ok_or(BODY_IN_USE),
            Ok(n) => dropped += n as u64,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(BODY_SLOW),
            Err(_) => return Err(BODY_BROKEN),
        }
        if dropped > MAX_DISCARD_BYTES {
            return Err(BODY_TOO_LONG);
        }
    }
}

/// Whether no request can follow this body on its connection, because it cannot be read to its end,
/// the client may send it or not, or it is unread and too long to be dropped.
pub(crate) fn is_in_the_way(ingress: &Arc<Mutex<Ingress>>) -> bool {
    let held = is_held(ingress);
    let Ok(ingress) = ingress.try_lock() else {
        return false;
    };
    let unread = ingress.decoder.remaining().unwrap_or(0);
    ingress.failed || !held && (ingress.expects_continue || unread > MAX_DISCARD_BYTES)
}

/// Sends an awaited `100 Continue` before a response whose body reads the request's. After the
/// response has begun, the client would take it for a refusal.
pub(crate) fn continue_before_response(ingress: &Arc<Mutex<Ingress>>) {
    if is_held(ingress)
        && let Ok(mut ingress) = ingress.try_lock()
        && let Some(egress) = ingress.egress.clone()
    {
        // A failure shows at the next write.
        let _ = ingress.continue_if_expected(&egress);
    }
}

/// Whether the handler, or the response it returned, still holds its reference.
fn is_held(ingress: &Arc<Mutex<Ingress>>) -> bool {
    Arc::strong_count(ingress) > 1
}

/// Whether all of the body has come from the client. False also while another thread reads it.
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

    /// Sends `100 Continue` on the first read, if the client waits for it before it sends its body.
    fn continue_if_expected(&mut self, egress: &Egress) -> io::Result<()> {
        if !std::mem::take(&mut self.expects_continue) || !egress.is_not_begun() {
            return Ok(());
        }
        egress
            .append(false, |out| out.extend_from_slice(CONTINUE))
            .map_err(|_| cut())?;
        send_all(egress, &self.clock, self.progress_limit)
    }

    /// Blocks until the client has sent more bytes.
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
        self.progress.resume(self.clock.now(), self.received_bytes);
        let mut wait = None;
        let result = loop {
            match egress.transport().recv(&mut self.received) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if wait.is_none() {
                        wait = egress.begin_wait();
                    }
                }
                result => break result,
            }
            let Some(until) =
                self.progress
                    .check(self.clock.now(), self.received_bytes, self.progress_limit)
            else {
                break Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client is too slow with its request body",
                ));
            };
            wait_readable(egress.transport().as_fd(), self.clock.slice(until));
        };
        let n = *result.as_ref().unwrap_or(&0);
        self.received_bytes += n as u64;
        self.progress.pause(self.clock.now(), self.received_bytes);
        self.received.truncate(n);
        if result? == 0 {
            self.eof = true;
            return Err(eof());
        }
        Ok(())
    }
}

pub(crate) const BODY_TOO_LONG: Refusal = Refusal::new(
    StatusCode::PAYLOAD_TOO_LARGE,
    "the request body is too long",
);
const BODY_SLOW: Refusal = Refusal::new(
    StatusCode::REQUEST_TIMEOUT,
    "the request body came too slowly",
);
const BODY_BROKEN: Refusal = Refusal::bad_request("the request body did not come completely");
const BODY_IN_USE: Refusal = Refusal::new(
    StatusCode::INTERNAL_SERVER_ERROR,
    "the request could not be served",
);
