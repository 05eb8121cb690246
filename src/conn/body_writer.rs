//! The writer for the closure of a response body.

use std::fmt;
use std::io::{self, Write};

use crate::conn::egress::Egress;
use crate::conn::progress::{Progress, ProgressLimit};
use crate::sys::clock::Clock;
use crate::sys::waker::wait_writable;
use crate::wire::chunked::encode_chunk;

/// The writer that a closure of [`Body::writer`](crate::Body::writer) writes to.
///
/// The bytes are collected and sent in pieces of 16 KiB or more; [`flush`](Write::flush) sends what
/// there is. Both block while the client is slower. Both fail when the client is gone or has taken
/// nothing for [`write_timeout`](crate::ServerBuilder::write_timeout), and when a stop has cut the
/// response. Pass such an error on with `?`.
pub struct BodyWriter<'a> {
    egress: &'a Egress,
    chunked: bool,
    buffer: Vec<u8>,
    clock: &'a Clock,
    progress_limit: ProgressLimit,
}

/// The bytes that a [`BodyWriter`] collects before it sends them.
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

    /// Appends the collected bytes to the response; `last` ends the body.
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
    /// Takes all of `bytes`, and blocks until there is room for them.
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

    /// Sends the collected bytes, and blocks until the kernel has taken them.
    ///
    /// # Errors
    ///
    /// The same as for [`write`](Self::write).
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

/// Blocks until the kernel has taken all pending bytes.
pub(super) fn send_all(
    egress: &Egress,
    clock: &Clock,
    progress_limit: ProgressLimit,
) -> io::Result<()> {
    let (mut progress, mut wait) = (None, None);
    while !egress.flush_from_outside()? {
        if wait.is_none() {
            wait = egress.begin_wait();
        }
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

pub(super) fn cut() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the server has cut the connection",
    )
}
