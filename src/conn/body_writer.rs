//! The writer for the closure of a response body.

use std::fmt;
use std::io::{self, Write};

use crate::conn::egress::Egress;
use crate::conn::progress::{Progress, ProgressLimit};
use crate::sys::clock::Clock;
use crate::sys::waker::wait_writable;
use crate::wire::chunked::encode_chunk;
use crate::wire::framing::Framing;

/// The writer that a closure of [`Body::writer`](crate::Body::writer) writes to.
///
/// The bytes are collected and sent in pieces of 16 KiB or more; [`flush`](Write::flush) sends what
/// there is. Both block while the client is slower. Both fail when the client is gone or has taken
/// nothing for [`write_timeout`](crate::ServerBuilder::write_timeout), and when a stop has cut the
/// response. Pass such an error on with `?`.
pub struct BodyWriter<'a> {
    egress: &'a Egress,
    chunked: bool,
    /// The number of bytes that have still to be written, if the response declares its length.
    left: Option<u64>,
    /// Whether the closure has tried to write more than that.
    overrun: bool,
    buffer: Vec<u8>,
    clock: &'a Clock,
    progress_limit: ProgressLimit,
}

/// The bytes that a [`BodyWriter`] collects before it sends them.
const WRITER_BYTES: usize = 16 << 10;

impl<'a> BodyWriter<'a> {
    pub(crate) fn new(
        egress: &'a Egress,
        framing: Framing,
        clock: &'a Clock,
        progress_limit: ProgressLimit,
    ) -> Self {
        let left = if let Framing::Length(len) = framing {
            Some(len)
        } else {
            None
        };
        Self {
            egress,
            chunked: framing == Framing::Chunked,
            left,
            overrun: false,
            buffer: Vec::new(),
            clock,
            progress_limit,
        }
    }

    /// Ends the body, unless it is not as long as was declared.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        match self.left {
            _ if self.overrun => Err(overrun()),
            Some(missing @ 1..) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it ended {missing} bytes before its declared length"),
            )),
            _ => self.pass_on(true),
        }
    }

    /// Appends the collected bytes to the response; `last` ends the body.
    fn pass_on(&mut self, last: bool) -> io::Result<()> {
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
    /// `ConnectionAborted` when the server has cut the connection, `InvalidData` when the body would
    /// become longer than the response's `Content-Length`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(left) = &mut self.left {
            let Some(rest) = left.checked_sub(bytes.len() as u64) else {
                self.overrun = true;
                return Err(overrun());
            };
            *left = rest;
        }
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

fn overrun() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "it goes on after its declared length",
    )
}

pub(super) fn cut() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the server has cut the connection",
    )
}
