//! Eviction: making room for a connection that waits to be accepted, by closing the one that has
//! been silent longest.
//!
//! The evictor claims a connection before it touches it, as every thread must with a parked one.
//! Then it looks at the socket once more, as the drain does: a request that is there already is
//! served.

use std::time::{Duration, Instant};

use crate::conn::park_deadlines::Overdue;
use crate::conn::serve_context::Buffers;
use crate::pool::settle::{LetGo, Queue};
use crate::pool::shared::Pool;
use crate::sys::clock::after;

/// Finds the connections to close, and closes them.
#[derive(Debug)]
pub(crate) struct Evictor {
    /// The connections that were silent at the last look at the table: since when, and their keys.
    /// The one that has been silent longest comes last.
    ///
    /// A connection that has fallen silent after the look has been so for a shorter time than all
    /// of them. So one look at the table serves for all candidates in this list, and not for one
    /// eviction only. A slot whose connection has spoken since, or is another one, shows another
    /// moment than the one in this list.
    candidates: Vec<(u64, u32)>,
    /// The instant before which the table is not looked at again.
    look_at: Option<Instant>,
    buffers: Buffers,
}

/// After a look at the whole table, the acceptor waits for this many times the time that the look
/// took, so that looks take a fiftieth of its time. Without this limit, a full server with no idle
/// connection would look at the table whenever a connection ends.
const LOOKS: u32 = 50;

/// The result of an attempt to evict a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// A connection was closed.
    One,
    /// No connection has been silent for long enough. The instant, if it is known, is when one may
    /// have been.
    None(Option<Instant>),
}

impl Evictor {
    pub(crate) fn new() -> Self {
        Self {
            candidates: Vec::new(),
            look_at: None,
            buffers: Buffers::new(),
        }
    }

    /// Closes the connection that has been silent longest, if that is `idle_for` or more.
    pub(crate) fn evict(&mut self, pool: &Pool, idle_for: Duration) -> Eviction {
        let mut looked = false;
        loop {
            let Some(&(since, key)) = self.candidates.last() else {
                if looked {
                    return Eviction::None(None);
                }
                if self
                    .look_at
                    .is_some_and(|at| at > pool.lifecycle.clock.now())
                {
                    return Eviction::None(self.look_at);
                }
                self.look(pool);
                looked = true;
                continue;
            };
            if pool.table.slot(key).silent_since() == Some(since) {
                let ripe_at = pool.instant(since).and_then(|since| after(since, idle_for));
                if ripe_at.is_none_or(|at| at > pool.lifecycle.clock.now()) {
                    return Eviction::None(ripe_at);
                }
                if self.close_if_silent(pool, key, idle_for) {
                    self.candidates.pop();
                    return Eviction::One;
                }
            }
            self.candidates.pop();
        }
    }

    /// Looks at the whole table for silent connections.
    fn look(&mut self, pool: &Pool) {
        let began = pool.lifecycle.clock.now();
        let silent = pool
            .table
            .keys()
            .filter_map(|key| Some((pool.table.slot(key).silent_since()?, key)));
        self.candidates.clear();
        self.candidates.extend(silent);
        self.candidates.sort_unstable_by(|a, b| b.cmp(a));
        let now = pool.lifecycle.clock.now();
        self.look_at = after(now, LOOKS * now.saturating_duration_since(began));
    }

    /// Claims a candidate and looks at it once more. False: the connection was served, or left
    /// where it is.
    fn close_if_silent(&mut self, pool: &Pool, key: u32, idle_for: Duration) -> bool {
        let slot = pool.table.slot(key);
        if !slot.word.claim_idle() {
            return false;
        }
        let mut conn = slot.take();
        let mut cx = pool.serve_context(&mut self.buffers);
        let how = match conn.check_eviction(idle_for, &cx) {
            Overdue::Close(reason) => LetGo::Close(reason),
            Overdue::Advance => LetGo::Queue(Queue::Ready),
            Overdue::Wait | Overdue::WaitsLong => LetGo::Park,
        };
        pool.settle_or_queue(key, conn, how, &mut cx);
        matches!(how, LetGo::Close(_))
    }
}
