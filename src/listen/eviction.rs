//! Making room for a connection that waits to be accepted: those that have been silent longest go.
//!
//! The claim is the only way to them, as to every parked connection; and like the drain, who has
//! claimed one looks at its socket once more: a request that is there already is served.

use std::time::{Duration, Instant};

use crate::conn::park_deadlines::Overdue;
use crate::conn::serve_context::{Buffers, ServeContext};
use crate::pool::settle::{LetGo, Queue};
use crate::pool::shared::Pool;
use crate::sys::clock::after;

/// Finds connections to close.
#[derive(Debug)]
pub(crate) struct Evictor {
    /// The keys of connections that were silent when we last looked, and since when: the longest
    /// silent one is the last.
    ///
    /// Who has fallen silent since is younger than all of them, so the table is gone through once
    /// for as many connections as are in here, and not for each; one that is not silent any more,
    /// or not the same, shows another moment.
    candidates: Vec<(u64, u32)>,
    /// Not before then are others looked for.
    look_at: Option<Instant>,
    buffers: Buffers,
}

/// Of the acceptor's time, what a look at the whole table may take: a fiftieth. A full server
/// nobody of which is idle would look whenever a connection ends.
const LOOKS: u32 = 50;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// One was closed.
    One,
    /// None is silent for long enough. When to ask again, if that is known: one may be by then.
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

    /// Goes through the table.
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

    /// Claims a candidate and looks at it once more. False: it was served or left where it is.
    fn close_if_silent(&mut self, pool: &Pool, key: u32, idle_for: Duration) -> bool {
        let slot = pool.table.slot(key);
        if !slot.word.claim_idle() {
            return false;
        }
        let mut conn = slot.take();
        let mut cx = ServeContext::new(
            &pool.settings,
            &pool.lifecycle,
            &mut self.buffers,
            pool.lifecycle.clock.now(),
        );
        let how = match conn.check_eviction(idle_for, &cx) {
            Overdue::Close(reason) => LetGo::Close(reason),
            Overdue::Advance => LetGo::Queue(Queue::Ready),
            Overdue::Wait => LetGo::Park,
        };
        pool.settle_or_queue(key, conn, how, &mut cx);
        matches!(how, LetGo::Close(_))
    }
}
