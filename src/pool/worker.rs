//! A thread of the pool: with a permit it polls, claims what is ready and serves it on the spot.
//!
//! ```text
//! permit ── turn ──> what is queued ──> the poller ──> claim ──> serve ──> park ──┐
//!    ^                                                             │ slow         │
//!    └── permits channel <── given back, or revoked meanwhile ─────┘ <────────────┘
//! ```
//!
//! **Invariant:** nobody waits for a client with a permit in hand.

use std::iter::repeat_n;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::conn::serve_context::{Buffers, ServeContext};
use crate::conn::stage::{Call, Conn, Next, Peer};
use crate::lifecycle::ledger::CloseReason;
use crate::lifecycle::phase::{Phase, awaited};
use crate::pool::detach::detach;
use crate::pool::permits::Permit;
use crate::pool::shared::{Lane, Marked, Pool, Queue};
use crate::settings::{READY_BUDGET, REQUEST_BUDGET};
use crate::sys::panics;
use crate::sys::poller::{Events, Ready};
use crate::sys::test_points::Point;

/// A worker, on its own thread.
pub(crate) struct Worker<'p> {
    me: usize,
    /// Borrowed: a count of references would travel between the cores with each request.
    pool: &'p Arc<Pool>,
    generation: u64,
    events: Events,
    /// Semaphore in the pool's sections that the connection being served occupies.
    in_slow: bool,
    in_streams: bool,
}

/// Says which thread has ended, however it does.
pub(crate) struct Ended {
    pub(crate) thread: usize,
    pub(crate) to: Sender<usize>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.to.send(self.thread);
    }
}

/// Why a connection cannot go on with this thread now.
struct MustWait(Queue);

impl<'p> Worker<'p> {
    pub(crate) fn new(me: usize, pool: &'p Arc<Pool>) -> Self {
        // One event for each wait: nothing sits behind a handler.
        Self {
            me,
            pool,
            generation: 0,
            events: Events::new(1),
            in_slow: false,
            in_streams: false,
        }
    }

    /// Works until the permits channel closes.
    pub(crate) fn run(mut self) {
        let mut buffers = Buffers::new();
        for permit in self.pool.permits.take() {
            let mut permit = Some(permit);
            while let Some(held) = permit {
                if self.pool.lifecycle.phase() == Phase::Stopped {
                    // The bell wakes one: pass it on.
                    self.pool.poller.wake();
                    return;
                }
                permit = self.poll_once(held, &mut buffers);
            }
        }
    }

    /// Takes what is queued, then polls once. The permit comes back unless it was given away or
    /// revoked.
    fn poll_once(&mut self, permit: Permit, buffers: &mut Buffers) -> Option<Permit> {
        let pool = self.pool;
        let mut permit = Some(permit);
        // What is queued now, and not what these put there again: the poller's connections get
        // their turn too.
        let (calls, ready) = (
            pool.calls.len().min(REQUEST_BUDGET),
            pool.ready.len().min(READY_BUDGET),
        );
        let accepted = pool.accepted.len().min(REQUEST_BUDGET);
        for queue in repeat_n(&pool.calls, calls).chain(repeat_n(&pool.ready, ready)) {
            let Some(key) = queue.claim(&pool.table) else {
                continue;
            };
            permit = self.serve(key, self.take_queued(key), permit, buffers);
            permit.as_ref()?;
        }
        for _ in 0..accepted {
            let Some((key, conn)) = pool
                .next_accepted()
                .and_then(|accepted| pool.adopt(accepted))
            else {
                continue;
            };
            permit = self.serve(key, conn, permit, buffers);
            permit.as_ref()?;
        }
        let state = &pool.worker_states[self.me];
        state.word.fall_asleep();
        pool.test_points.at(Point::AsleepBeforeQueuesChecked);
        let block = !pool.has_queued() && pool.lifecycle.phase() != Phase::Stopped;
        pool.poller.wait(&mut self.events, block);
        state.word.wake_up();
        let ready = self.events.iter().next();
        match ready {
            None => permit,
            Some(Ready::Wake) => {
                pool.poller_wake.acknowledge();
                permit
            }
            Some(Ready::Socket { key, readable, hup }) => {
                pool.test_points.at(Point::EventBeforeClaim);
                let slot = pool.table.slot(key);
                if !slot.word.claim_by_event(hup) {
                    pool.note_hup(slot, hup);
                    return permit;
                }
                let mut conn = slot.take();
                conn.tell(readable, hup);
                self.serve(key, conn, permit, buffers)
            }
        }
    }

    /// Events of a queued connection leave no mark: whatever may have come is looked for.
    fn take_queued(&self, key: u32) -> Box<Conn> {
        let mut conn = self.pool.table.slot(key).take();
        conn.tell(true, true);
        conn
    }

    /// Serves a connection this thread owns, and then those that waited for the places it took.
    fn serve(
        &mut self,
        key: u32,
        conn: Box<Conn>,
        mut permit: Option<Permit>,
        buffers: &mut Buffers,
    ) -> Option<Permit> {
        permit = self.serve_one(key, conn, permit, buffers);
        let pool = self.pool;
        while let Some(key) = next_in(pool, &pool.slow, &mut self.in_slow)
            .or_else(|| next_in(pool, &pool.streams, &mut self.in_streams))
        {
            let conn = self.take_queued(key);
            permit = self.serve_one(key, conn, permit, buffers);
        }
        pool.worker_states[self.me].publish(buffers);
        permit
    }

    /// Serves a connection until it is parked, queued or closed.
    fn serve_one(
        &mut self,
        key: u32,
        mut conn: Box<Conn>,
        mut permit: Option<Permit>,
        buffers: &mut Buffers,
    ) -> Option<Permit> {
        let pool = self.pool;
        let mut cx = ServeContext::new(
            &pool.settings,
            &pool.lifecycle,
            buffers,
            pool.lifecycle.clock.now(),
        );
        pool.test_points.at(Point::ClaimedBeforeServed);
        let reason = loop {
            let next = match conn.advance(&mut cx) {
                // Nobody starts a handler any more: the drain answers.
                Next::Call(call) if pool.lifecycle.phase() >= Phase::Cutting => {
                    conn.wait_for_the_cut(call, &cx);
                    Some(Next::Park)
                }
                Next::Call(call) => match self.admit(&conn, Some(&call), &mut permit) {
                    Ok(()) => self.call(key, &mut conn, call, &mut permit, &mut cx),
                    Err(MustWait(queue)) => {
                        conn.wait_for_worker(Some(call));
                        pool.enqueue(key, conn, queue, &mut cx);
                        return permit;
                    }
                },
                next @ (Next::Pull | Next::Push) => {
                    match self.admit(&conn, None, &mut permit) {
                        Ok(()) => {
                            self.user_code(key, &mut conn, &mut permit, &mut cx, |conn, cx| {
                                match next {
                                    Next::Pull => conn.pull(cx),
                                    _ => conn.push(cx),
                                }
                            })
                        }
                        Err(MustWait(queue)) => {
                            conn.wait_for_reader(cx.now);
                            pool.enqueue(key, conn, queue, &mut cx);
                            return permit;
                        }
                    }
                }
                Next::DedicatedThread => match detach(pool, key, conn, &mut cx) {
                    Ok(()) => return permit,
                    Err(refused) => {
                        conn = refused;
                        None
                    }
                },
                next => Some(next),
            };
            match next {
                None => {}
                Some(Next::Close(reason)) => break reason,
                Some(Next::Yield) => {
                    pool.enqueue(key, conn, Queue::Ready, &mut cx);
                    return permit;
                }
                Some(_) => match pool.park(key, conn, &mut cx) {
                    Ok(()) => return permit,
                    Err(Marked(marked, mark)) => {
                        conn = marked;
                        conn.tell(true, mark.hup);
                        if permit.is_none() {
                            pool.enqueue(key, conn, Queue::Ready, &mut cx);
                            return permit;
                        }
                    }
                },
            }
        };
        pool.close(key, conn, reason);
        permit
    }

    /// Before user code runs: takes a place where one is needed, and gives the permit back if it is
    /// going to be slow.
    fn admit(
        &mut self,
        conn: &Conn,
        call: Option<&Call>,
        permit: &mut Option<Permit>,
    ) -> Result<(), MustWait> {
        let pool = self.pool;
        let holds = call.map_or_else(|| conn.holds_worker(), Call::holds_worker);
        let slow = call.is_some() && pool.latency.is_slow(conn.route);
        if slow || holds || permit.is_none() {
            // What is answered does not wait for what is slow. A failure shows at the next write.
            let _ = conn.egress.flush_from_outside();
        }
        if holds && !self.in_streams {
            if !pool.streams.semaphore.acquire() {
                pool.test_points.at(Point::LaneFullBeforeQueued);
                return Err(MustWait(Queue::Streams));
            }
            self.in_streams = true;
        }
        if slow && !self.in_slow && pool.latency.is_very_slow(conn.route) {
            // A call of the same route that still has its permit will be found to be slow too.
            if !pool.slow.semaphore.acquire_beside(pool.busy_in(conn.route)) {
                pool.test_points.at(Point::LaneFullBeforeQueued);
                return Err(MustWait(Queue::Slow));
            }
            self.in_slow = true;
        }
        if (slow || holds)
            && let Some(permit) = permit.take()
        {
            pool.give(permit);
        }
        Ok(())
    }

    /// Calls the handler.
    fn call(
        &mut self,
        key: u32,
        conn: &mut Conn,
        call: Call,
        permit: &mut Option<Permit>,
        cx: &mut ServeContext<'_>,
    ) -> Option<Next> {
        let Call { request, meta } = call;
        let pool = self.pool;
        let context = conn.context.clone();
        conn.egress.start();
        self.user_code(key, conn, permit, cx, |conn, cx| {
            let began = cx.look_at_clock();
            let response = panics::catch(|| (pool.handler)(request, context));
            let took = cx.look_at_clock().saturating_duration_since(began);
            pool.latency.record(conn.route, took);
            conn.answer(meta, response, cx);
            None
        })
    }

    /// Runs what the user wrote: the monitor sees it, and may take the permit away. A panic ends
    /// the connection alone.
    fn user_code<'t>(
        &mut self,
        key: u32,
        conn: &mut Conn,
        permit: &mut Option<Permit>,
        cx: &mut ServeContext<'t>,
        code: impl FnOnce(&mut Conn, &mut ServeContext<'t>) -> Option<Next>,
    ) -> Option<Next> {
        let state = &self.pool.worker_states[self.me];
        state.show(key, conn.route);
        if permit.is_some() {
            self.generation += 1;
            state.word.begin_busy(self.generation);
        } else {
            state.word.begin_out();
        }
        self.pool.monitor.wake();
        let outcome = panics::catch(|| awaited(|| code(conn, cx)));
        self.pool.test_points.at(Point::ReturnedBeforePermitChecked);
        if permit.is_none() {
            state.word.end_out();
        } else if !state.word.end_busy(self.generation) {
            // The monitor has sent a fresh one, and counted us among the slow.
            *permit = None;
            self.pool.latency.come_back(conn.route);
            if self.in_slow {
                self.pool.slow.semaphore.release();
            }
            self.in_slow = true;
        }
        outcome.unwrap_or_else(|panic| {
            log::error!(
                "a response's body panicked: {panic}, peer {}",
                Peer(&conn.egress)
            );
            conn.egress.transport().reset();
            Some(Next::Close(CloseReason::Failed))
        })
    }
}

/// Leaves a section, unless somebody waits there whose connection can take the place: then its key,
/// claimed.
fn next_in(pool: &Pool, lane: &Lane, inside: &mut bool) -> Option<u32> {
    if !*inside {
        return None;
    }
    let next = lane.leave_or_next(&pool.table);
    *inside = next.is_some();
    next
}
