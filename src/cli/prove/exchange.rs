//! An exchange on one connection: the bytes of several requests, and how far they are written and
//! answered.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::cli::prove::answer::Reader;
use crate::cli::prove::request::Request;

/// Requests that are written together, and what has come back.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The requests without a response yet, and where each begins and ends in `bytes`.
    pub(super) requests: VecDeque<(Request, usize, usize)>,
    pub(super) bytes: Vec<u8>,
    /// How many of `bytes` were written.
    pub(super) written: usize,
    /// From each of these instants on, `bytes` may be written up to this position. Never empty.
    pub(super) releases: Vec<(Instant, usize)>,
    /// Why writing has failed. The client still reads the responses that come.
    pub(super) cannot_write: Option<Errno>,
    pub(super) reader: Reader,
    /// When a slow reader reads next. `None` is as soon as bytes come.
    pub(super) read_at: Option<Instant>,
    /// Whether a response has said that it is the last one on its connection.
    pub(super) server_closes: bool,
    /// How long the connection had been silent before the client last wrote.
    pub(super) silence: Duration,
}

/// What a client waits for: events of its socket, and a time.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) until: Option<Instant>,
    pub(super) events: PollFlags,
}

impl Exchange {
    pub(super) fn new() -> Self {
        Self {
            requests: VecDeque::new(),
            bytes: Vec::new(),
            written: 0,
            releases: Vec::new(),
            cannot_write: None,
            reader: Reader::default(),
            read_at: None,
            server_closes: false,
            silence: Duration::ZERO,
        }
    }

    pub(super) fn is_written(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Returns how many bytes may have been written by `now`.
    fn released(&self, now: Instant) -> usize {
        self.releases
            .iter()
            .rev()
            .find(|(at, _)| *at <= now)
            .map_or(0, |(_, end)| *end)
    }

    /// Writes what may be written and the socket takes. Returns whether that was anything.
    pub(super) fn write(&mut self, mut socket: &TcpStream, now: Instant) -> bool {
        let (before, released) = (self.written, self.released(now));
        while self.written < released && self.cannot_write.is_none() && !self.server_closes {
            match socket.write(&self.bytes[self.written..released]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.cannot_write = Some(Errno::from_io_error(&error).unwrap_or(Errno::IO))
                }
            }
        }
        self.written > before
    }

    pub(super) fn wait(&self, now: Instant) -> Wait {
        let mut events = if self.read_at.is_none() {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let mut until = self.read_at;
        let next = self.releases.iter().find(|(_, end)| *end > self.written);
        match next.filter(|_| self.cannot_write.is_none() && !self.server_closes) {
            Some((at, _)) if *at > now => until = Some(until.map_or(*at, |until| until.min(*at))),
            Some(_) => events |= PollFlags::OUT,
            None => {}
        }
        Wait { until, events }
    }
}
