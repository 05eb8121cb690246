//! What a thread lends to the connection it serves: its buffers, the time, and its budgets.

use std::time::{Duration, Instant};

use crate::lifecycle::phase::{Lifecycle, Phase};
use crate::settings::{READ_BYTES, Settings};
use crate::wire::reply;

/// What a thread lends to the connection it serves.
#[derive(Debug)]
pub(crate) struct ServeContext<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) lifecycle: &'a Lifecycle,
    pub(crate) buffers: &'a mut Buffers,
    pub(crate) now: Instant,
    pub(super) requests: usize,
    pub(super) pulls: usize,
}

/// The buffers and counters of a thread.
#[derive(Debug)]
pub(crate) struct Buffers {
    pub(super) read: Vec<u8>,
    pub(super) out: Vec<u8>,
    pub(super) pull: Vec<u8>,
    date: [u8; 29],
    date_until: Option<Instant>,
    /// The responses made, by the phase they were made in.
    pub(crate) answered: [u64; Phase::ALL.len()],
}

impl<'a> ServeContext<'a> {
    pub(crate) fn new(
        settings: &'a Settings,
        lifecycle: &'a Lifecycle,
        buffers: &'a mut Buffers,
        now: Instant,
    ) -> Self {
        Self {
            settings,
            lifecycle,
            buffers,
            now,
            requests: 0,
            pulls: 0,
        }
    }

    /// Gives the connection its budgets once more, on a thread on which no other one waits.
    pub(crate) fn renew_budgets(&mut self) {
        (self.requests, self.pulls) = (0, 0);
    }

    /// Reads the clock again, after user code that may have taken any time.
    pub(crate) fn look_at_clock(&mut self) -> Instant {
        self.now = self.lifecycle.clock.now();
        self.now
    }

    /// Returns the value of the `Date` field, which is formatted once a second.
    pub(super) fn date(&mut self) -> [u8; 29] {
        if self
            .buffers
            .date_until
            .is_none_or(|until| self.now >= until)
        {
            let wall = self.lifecycle.clock.wall();
            self.buffers.date = reply::http_date(wall);
            let into_second = wall
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.subsec_nanos());
            self.buffers.date_until =
                Some(self.now + Duration::from_nanos(1_000_000_000 - u64::from(into_second)));
        }
        self.buffers.date
    }
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self {
            read: vec![0; READ_BYTES],
            out: Vec::with_capacity(READ_BYTES),
            pull: Vec::new(),
            date: [0; 29],
            date_until: None,
            answered: [0; Phase::ALL.len()],
        }
    }
}
