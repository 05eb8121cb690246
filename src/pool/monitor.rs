//! The monitor: the thread that revokes permits, sweeps deadlines, and serves connections as the
//! caretaker while every worker is in user code.
//!
//! It is woken when no worker polls, because all are in user code, and then looks at them every few
//! milliseconds, as long as it finds one in user code with a permit. Otherwise it sleeps until the
//! next deadline. So neither an idle server has wake-ups but those of deadlines, nor one with a
//! worker that polls.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::conn::latency::RouteKey;
use crate::conn::park_deadlines::Overdue;
use crate::conn::serve_context::{Buffers, ServeContext};
use crate::conn::stage::{Conn, Next};
use crate::lifecycle::phase::Phase;
use crate::pool::deadlines::Deadlines;
use crate::pool::detach::{Detach, detach};
use crate::pool::guards::Room;
use crate::pool::permits::WorkerSnapshot;
use crate::pool::serve::{Ran, ServingThread, serve};
use crate::pool::settle::{LetGo, Queue};
use crate::pool::shared::{Pool, WorkerState};
use crate::pool::slots::{Claimed, Slot};
use crate::sys::poller::{Events, Ready};
use crate::sys::test_points::Point;
use crate::sys::threads::Activity;
use crate::sys::waker::wait_for;

/// The time between two looks at the workers while nothing is wrong. A handler that blocks
/// unexpectedly holds other connections up for at most so long, and for the short tick.
///
/// On busy cores each wake-up preempts a worker. A look every millisecond took more than 1 % of the
/// cores by itself.
const TICK: Duration = Duration::from_millis(8);
/// The time until the second look at a worker that waits in a call. It loses its permit if it still
/// waits in the same call: a handler may also wait for a moment, for a lock that it shares.
const SHORT_TICK: Duration = Duration::from_millis(1);
/// The time that a worker must have run within one call, between two looks, to lose its permit
/// although it waits for nothing. One that waits for a core, on a busy machine, runs less.
const COMPUTES_AFTER: Duration = Duration::from_millis(2);
/// The ticks without a call in progress before the monitor sleeps: under load it would be woken
/// again at once.
const QUIET_TICKS: u32 = 10;

/// The monitor, on its own thread.
pub(crate) struct Monitor<'p> {
    pool: &'p Arc<Pool>,
    events: Events,
    buffers: Buffers,
    seen: Vec<Seen>,
    /// Whether a worker was seen to wait in a call, so that it is looked at again soon.
    looks_again: bool,
}

/// What the monitor saw of a worker at its last look.
#[derive(Debug, Clone, Copy)]
struct Seen {
    word: WorkerSnapshot,
    /// What the worker's thread did when this call was first seen, or first seen to run.
    activity: Activity,
}

/// What the workers do at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Workers {
    /// No worker runs user code with a permit.
    Quiet,
    /// A worker runs user code with a permit.
    Busy,
    /// All workers run user code without a permit: no worker polls.
    AllWithoutPermit,
}

impl<'p> Monitor<'p> {
    pub(crate) fn new(pool: &'p Arc<Pool>) -> Self {
        let nothing = Seen {
            word: WorkerSnapshot::INITIAL,
            activity: Activity::Unknown,
        };
        let seen = vec![nothing; pool.worker_states.len()];
        Self {
            pool,
            events: Events::new(64),
            buffers: Buffers::new(),
            seen,
            looks_again: false,
        }
    }

    /// Watches until the server has stopped.
    pub(crate) fn run(mut self) {
        let pool = self.pool;
        let mut quiet = 0;
        while pool.lifecycle.phase() != Phase::Stopped {
            let next = self.sweep();
            let workers = self.revoke_permits();
            if workers == Workers::AllWithoutPermit {
                self.serve_as_caretaker();
            }
            pool.count_answered(&mut self.buffers);
            quiet = if workers == Workers::Busy {
                0
            } else {
                quiet + 1
            };
            let tick = if quiet < QUIET_TICKS && workers != Workers::AllWithoutPermit {
                Some(if self.looks_again { SHORT_TICK } else { TICK })
            } else {
                None
            };
            self.sleep(tick, next, workers);
            if tick.is_none() {
                // The worker that woke this thread may be fast, and its next call would wake it
                // again: stay awake for some ticks.
                quiet = 0;
            }
        }
        // The wake-up that ends the workers one after the other may have come here.
        pool.poller.wake();
    }

    /// Sleeps for a tick, or until a deadline or a worker needs the monitor.
    fn sleep(&mut self, tick: Option<Duration>, deadline: Option<Instant>, workers: Workers) {
        let pool = self.pool;
        let until = pool.lifecycle.clock.until(deadline);
        let timeout = match (tick, until) {
            (Some(tick), Some(until)) => Some(tick.min(until)),
            (tick, until) => tick.or(until),
        };
        let waker = pool.monitor.waker.as_fd();
        let caretaking = workers == Workers::AllWithoutPermit;
        if tick.is_none() {
            pool.monitor.fall_asleep();
            if caretaking {
                // A thread that queues a connection has to wake the poller for us: no worker would
                // see it.
                pool.caretaker.fall_asleep();
            }
            // A thread that changes one of these looks afterwards whether the monitor sleeps.
            let changed = self.look() != workers
                || pool.lifecycle.phase() == Phase::Stopped
                || pool.deadlines.first().map(|at| pool.instant(at)) != deadline.map(Some)
                || caretaking && pool.has_queued_for_anybody();
            if changed {
                return self.wake_up();
            }
        }
        // While no worker polls, the monitor has to watch the poller.
        let woken = if caretaking {
            wait_for(&[waker, pool.poller.as_fd()], timeout)
        } else {
            wait_for(&[waker], timeout)
        };
        self.wake_up();
        if woken {
            self.pool.monitor.waker.reset();
        }
    }

    fn wake_up(&self) {
        self.pool.monitor.wake_up();
        self.pool.caretaker.wake_up();
    }

    /// Revokes the permit of each worker that is held up in the same call as at the last look, and
    /// returns what the workers do.
    fn revoke_permits(&mut self) -> Workers {
        let pool = self.pool;
        let mut busy = false;
        self.looks_again = false;
        for (state, before) in pool.worker_states.iter().zip(&mut self.seen) {
            let word = state.word.look();
            busy |= word.is_in_call_with_permit();
            if word != before.word {
                let activity = if word.is_in_call_with_permit() {
                    state.thread.activity()
                } else {
                    Activity::Unknown
                };
                self.looks_again |= activity == Activity::Waits;
                *before = Seen { word, activity };
            } else if word.is_in_call_with_permit()
                && before.activity.is_held_up(state.thread.activity())
            {
                revoke(pool, state, word);
            }
        }
        match self.look() {
            Workers::AllWithoutPermit => Workers::AllWithoutPermit,
            _ if busy => Workers::Busy,
            workers => workers,
        }
    }

    /// Returns what the workers do at this moment.
    fn look(&self) -> Workers {
        let mut workers = self
            .pool
            .worker_states
            .iter()
            .map(|state| state.word.look());
        if workers
            .clone()
            .all(WorkerSnapshot::is_in_call_without_permit)
        {
            Workers::AllWithoutPermit
        } else if workers.any(WorkerSnapshot::is_in_call_with_permit) {
            Workers::Busy
        } else {
            Workers::Quiet
        }
    }

    /// Does what the workers would do, except user code: it takes new connections, reads heads and
    /// sends responses on.
    fn serve_as_caretaker(&mut self) {
        let pool = self.pool;
        while !pool.accepted.is_empty() {
            if let Some((key, conn)) = pool.take_accepted() {
                self.serve_without_user_code(key, conn);
            }
        }
        // Only those that are queued now: a connection that needs a worker goes to another queue,
        // but one that yields comes back to this one.
        for _ in 0..pool.ready.len() {
            let Some((key, conn)) = pool.take_queued(&pool.ready) else {
                break;
            };
            self.serve_without_user_code(key, conn);
        }
        pool.poller.wait(&mut self.events, false);
        let ready: Vec<_> = self.events.iter().collect();
        for ready in ready {
            match ready {
                Ready::Wake => {
                    pool.poller_wake.acknowledge();
                    // The wake-up may have been meant for a worker that has returned meanwhile, and
                    // this thread may not look again.
                    if pool.has_queued() {
                        pool.wake_poller();
                    }
                }
                Ready::Socket { key, events } => {
                    if let Some(conn) = pool.take_ready(key, events) {
                        self.serve_without_user_code(key, conn);
                    }
                }
            }
        }
    }

    /// Serves a connection as far as that needs no user code.
    fn serve_without_user_code(&mut self, key: u32, conn: Box<Conn>) {
        let mut caretaker = Caretaker(self.pool);
        let mut cx = self.pool.serve_context(&mut self.buffers);
        serve(self.pool, key, conn, &mut caretaker, &mut cx);
    }

    /// Handles the deadlines that are over, and returns the next one.
    fn sweep(&mut self) -> Option<Instant> {
        let pool = self.pool;
        loop {
            let now = pool.nanos(pool.lifecycle.clock.now());
            match pool
                .deadlines
                .pop(now, |key| &pool.table.slot(key).deadline)
            {
                Ok(key) => self.expire(key, now),
                Err(next) => return next.and_then(|at| pool.instant(at)),
            }
        }
    }

    /// Handles a deadline that was over at `now`, unless the connection is being served or was
    /// served meanwhile.
    fn expire(&mut self, key: u32, now: u64) {
        let pool = self.pool;
        pool.test_points.at(Point::OverdueBeforeClaim);
        let slot = pool.table.slot(key);
        let Some(claimed) = slot.word.claim_overdue() else {
            return;
        };
        let mut conn = slot.take();
        let mut cx = pool.serve_context(&mut self.buffers);
        let overdue = if Deadlines::is_over(&slot.deadline, now) {
            conn.overdue(&mut cx)
        } else {
            Overdue::Wait
        };
        if claimed == Claimed::Queued {
            // Its queue entry is stale now, whatever happens to the connection.
            [
                &pool.calls,
                &pool.ready,
                &pool.slow.waiting,
                &pool.slow.late,
                &pool.streams.waiting,
            ]
            .into_iter()
            .for_each(|queue| queue.drop_stale(&pool.table));
        }
        let how = match (overdue, claimed) {
            (Overdue::Advance, _) => return self.serve_without_user_code(key, conn),
            (Overdue::Close(reason), _) => LetGo::Close(reason),
            (Overdue::WaitsLong, _) => LetGo::Queue(Queue::Late),
            (Overdue::Wait, Claimed::Queued) => LetGo::Queue(Queue::Calls),
            (Overdue::Wait, Claimed::Idle) => LetGo::Park,
        };
        if let Some(conn) = pool.settle(key, conn, how, &mut cx) {
            self.serve_without_user_code(key, conn);
        }
    }
}

/// The monitor while it serves in the workers' place: it runs no user code.
struct Caretaker<'p>(&'p Arc<Pool>);

impl ServingThread for Caretaker<'_> {
    fn run_user_code(
        &mut self,
        key: u32,
        conn: Box<Conn>,
        next: Next,
        cx: &mut ServeContext<'_>,
    ) -> Ran {
        let (mut conn, next) = match detach(self.0, key, conn, next, cx) {
            Detach::Done => return Ran::Detached,
            Detach::Refused(conn) => return Ran::GoOn(conn),
            Detach::Waits(conn) => return Ran::LetGo(conn, LetGo::Queue(Queue::Streams)),
            Detach::Kept(conn, next) => (conn, next),
        };
        match next {
            Next::Call(call) => {
                // The responses to earlier requests do not wait for this one. A failure shows at
                // the next write.
                let _ = conn.egress.flush_from_outside();
                conn.wait_for_worker(Some(call));
            }
            _ => conn.wait_for_worker_midway(cx.now),
        }
        Ran::LetGo(conn, LetGo::Queue(Queue::Calls))
    }

    fn may_go_on(&self) -> bool {
        true
    }
}

impl Activity {
    /// Whether a worker that did this when its call was first seen, and is still in it and does
    /// `now`, waits or computes there. One that was preempted goes on as soon as it has a core, and
    /// another worker in its place would have to wait for one too.
    fn is_held_up(&mut self, now: Self) -> bool {
        match (*self, now) {
            (Self::Runs(before), Self::Runs(now)) => now.saturating_sub(before) >= COMPUTES_AFTER,
            (Self::Waits, now @ Self::Runs(_)) => {
                *self = now;
                false
            }
            (_, Self::Waits | Self::Unknown) | (Self::Unknown, _) => true,
        }
    }
}

/// Revokes the permit of a worker, unless its call has just returned.
fn revoke(pool: &Pool, state: &WorkerState, seen: WorkerSnapshot) {
    let egress = pool
        .table
        .get(state.key.load(Relaxed))
        .and_then(Slot::egress);
    let route = egress
        .as_ref()
        .and_then(|egress| pool.route_in_flight(egress, state.is_body.load(Relaxed)))
        .unwrap_or(RouteKey::NONE);
    // The call is first counted as slow, then revoked, because the worker undoes both as soon
    // as it sees the revocation.
    let room = Room::force(pool);
    pool.latency.revoke(route);
    state.revoked_route.store(route.to_bits(), Relaxed);
    pool.test_points.at(Point::SlowBeforeRevoked);
    let Some(permit) = state.word.revoke(seen) else {
        pool.latency.was_not_revoked(route);
        return;
    };
    room.leave_to_worker();
    pool.revoked.fetch_add(1, Relaxed);
    if let Some(egress) = egress {
        // The responses to earlier pipelined requests do not wait for this one. A failure shows
        // at the next write.
        let _ = egress.flush_from_outside();
    }
    pool.pass_permit_on(permit);
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ran(millis: u64) -> Activity {
        Activity::Runs(Duration::from_millis(millis))
    }

    #[track_caller]
    fn check(looks: &[Activity], expected: bool) {
        let (mut first, later) = (looks[0], &looks[1..]);
        let held_up = later.iter().map(|now| first.is_held_up(*now));
        assert_eq!(held_up.last(), Some(expected), "{looks:?}");
    }

    #[test]
    fn a_worker_that_waits_for_a_core_is_not_held_up() {
        check(&[ran(5), ran(5)], false);
        check(&[ran(5), ran(6), ran(6), ran(6)], false);
        // It has waited for a lock, and now waits for a core.
        check(&[Activity::Waits, ran(5), ran(5)], false);
    }

    #[test]
    fn a_worker_that_waits_or_computes_in_its_call_is_held_up() {
        check(&[Activity::Waits, Activity::Waits], true);
        check(&[ran(5), Activity::Waits], true);
        check(&[ran(5), ran(7)], true);
        check(&[Activity::Waits, ran(5), ran(7)], true);
        // Where the system does not tell, time has to do.
        check(&[Activity::Unknown, Activity::Unknown], true);
    }
}
