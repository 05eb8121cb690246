//! A worker: a thread of the pool that polls with a permit, claims a connection that is ready and
//! serves it on the spot.
//!
//! ```text
//! permit ── take ──> what is queued ──> the poller ──> claim ──> serve ──> park ──┐
//!    ^                                                             │ slow         │
//!    └── permits channel <── given back, or revoked meanwhile ─────┘ <────────────┘
//! ```
//!
//! **Invariant:** no thread waits for a client while it holds a permit.

use std::iter::repeat_n;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::conn::latency::RouteKey;
use crate::conn::serve_context::{Buffers, ServeContext};
use crate::conn::stage::{Call, Conn, Next, Peer};
use crate::lifecycle::ledger::CloseReason;
use crate::lifecycle::phase::{Phase, awaited};
use crate::pool::detach::detach;
use crate::pool::permits::Permit;
use crate::pool::settle::{LetGo, Queue};
use crate::pool::shared::{Lane, Pool};
use crate::settings::{READY_BUDGET, REQUEST_BUDGET};
use crate::sys::logging;
use crate::sys::panics;
use crate::sys::poller::{Events, Ready};
use crate::sys::test_points::Point;

/// A worker, on its own thread.
pub(crate) struct Worker<'p> {
    index: usize,
    /// The pool is borrowed, because a reference count would travel between the cores with each
    /// request.
    pool: &'p Arc<Pool>,
    generation: u64,
    events: Events,
    /// Whether this worker is inside the slow lane.
    in_slow: bool,
    /// Whether this worker is inside the lane of streams.
    in_streams: bool,
}

/// Reports which thread has ended when it is dropped, however the thread ends.
pub(crate) struct Ended {
    pub(crate) thread: usize,
    pub(crate) to: Sender<usize>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.to.send(self.thread);
    }
}

/// The queue in which a connection has to wait, because this thread cannot go on with it now.
struct MustWait(Queue);

/// What a worker does with a connection after one step.
enum Step {
    /// It advances the connection again.
    GoOn,
    LetGo(LetGo),
}

/// What is known of a call of user code before it runs.
#[derive(Clone, Copy)]
struct UserCode {
    /// Whether the code reads or writes a body that the peer may be slow with.
    may_wait_for_peer: bool,
    /// Whether the route is expected to take long.
    is_slow: bool,
}

impl UserCode {
    /// Whether the permit has to be given back before the code runs.
    fn may_take_long(self) -> bool {
        self.may_wait_for_peer || self.is_slow
    }
}

impl<'p> Worker<'p> {
    pub(crate) fn new(index: usize, pool: &'p Arc<Pool>) -> Self {
        // One event for each wait, so that no connection waits while a handler runs.
        Self {
            index,
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
                    // A wake-up reaches one worker, which passes it on.
                    self.pool.poller.wake();
                    return;
                }
                permit = self.poll_once(held, &mut buffers);
            }
        }
    }

    /// Serves the queued connections, then polls once. It returns the permit unless that was given
    /// back or revoked.
    fn poll_once(&mut self, permit: Permit, buffers: &mut Buffers) -> Option<Permit> {
        let pool = self.pool;
        let mut permit = Some(permit);
        // Only the connections that are queued now, and not those that these queue again, so that
        // the connections in the poller are served too.
        let (calls, ready) = (
            pool.calls.len().min(REQUEST_BUDGET),
            pool.ready.len().min(READY_BUDGET),
        );
        let accepted = pool.accepted.len().min(REQUEST_BUDGET);
        for queue in repeat_n(&pool.calls, calls).chain(repeat_n(&pool.ready, ready)) {
            let Some((key, conn)) = pool.take_queued(queue) else {
                continue;
            };
            permit = self.serve(key, conn, permit, buffers);
            permit.as_ref()?;
        }
        for _ in 0..accepted {
            let Some((key, conn)) = pool.take_accepted() else {
                continue;
            };
            permit = self.serve(key, conn, permit, buffers);
            permit.as_ref()?;
        }
        let state = &pool.worker_states[self.index];
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
            Some(Ready::Socket { key, events }) => {
                pool.test_points.at(Point::EventBeforeClaim);
                match pool.take_ready(key, events) {
                    Some(conn) => self.serve(key, conn, permit, buffers),
                    None => permit,
                }
            }
        }
    }

    /// Serves a connection that this thread owns, and then those that waited for the lanes it
    /// entered.
    fn serve(
        &mut self,
        key: u32,
        conn: Box<Conn>,
        mut permit: Option<Permit>,
        buffers: &mut Buffers,
    ) -> Option<Permit> {
        permit = self.serve_one(key, conn, permit, buffers);
        let pool = self.pool;
        while let Some(key) = release_or_next(pool, &pool.slow, &mut self.in_slow)
            .or_else(|| release_or_next(pool, &pool.streams, &mut self.in_streams))
        {
            let conn = pool.take_claimed(key);
            permit = self.serve_one(key, conn, permit, buffers);
        }
        pool.worker_states[self.index].publish_counts(buffers);
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
        let mut cx = pool.serve_context(buffers);
        pool.test_points.at(Point::ClaimedBeforeServed);
        loop {
            let next = match conn.advance(&mut cx) {
                Next::Call(call) => self.start_call(key, &mut conn, call, &mut permit, &mut cx),
                next @ (Next::Pull | Next::Push) => {
                    self.go_on_with_body(key, &mut conn, &next, &mut permit, &mut cx)
                }
                Next::DedicatedThread => match detach(pool, key, conn, &mut cx) {
                    Ok(()) => return permit,
                    Err(refused) => {
                        conn = refused;
                        continue;
                    }
                },
                Next::Park => Step::LetGo(LetGo::Park),
                Next::Yield => Step::LetGo(LetGo::Queue(Queue::Ready)),
                Next::Close(reason) => Step::LetGo(LetGo::Close(reason)),
            };
            let Step::LetGo(how) = next else { continue };
            conn = match pool.settle(key, conn, how, &mut cx) {
                None => return permit,
                Some(conn) if permit.is_some() => conn,
                Some(conn) => {
                    // Without a permit this thread serves one connection, and then leaves.
                    let again = LetGo::Queue(Queue::Ready);
                    pool.settle_or_queue(key, conn, again, &mut cx);
                    return permit;
                }
            };
        }
    }

    /// Calls a request's handler, or has the request wait for a worker.
    fn start_call(
        &mut self,
        key: u32,
        conn: &mut Conn,
        call: Call,
        permit: &mut Option<Permit>,
        cx: &mut ServeContext<'_>,
    ) -> Step {
        if self.pool.lifecycle.phase() >= Phase::Cutting {
            // No handler is started any more: the drain answers in its place.
            conn.wait_for_cut(call, cx);
            return Step::LetGo(LetGo::Park);
        }
        let code = UserCode {
            may_wait_for_peer: call.holds_worker(),
            is_slow: self.pool.latency.is_slow(conn.route),
        };
        match self.admit(conn, code, permit) {
            Ok(()) => self.call(key, conn, call, permit, cx),
            Err(MustWait(queue)) => {
                conn.wait_for_worker(Some(call));
                Step::LetGo(LetGo::Queue(queue))
            }
        }
    }

    /// Goes on with a response's body, or has the connection wait for a worker that does.
    fn go_on_with_body(
        &mut self,
        key: u32,
        conn: &mut Conn,
        next: &Next,
        permit: &mut Option<Permit>,
        cx: &mut ServeContext<'_>,
    ) -> Step {
        let code = UserCode {
            may_wait_for_peer: conn.holds_worker(),
            is_slow: false,
        };
        match self.admit(conn, code, permit) {
            Ok(()) => self.run_user_code(key, conn, permit, cx, |conn, cx| match next {
                Next::Pull => conn.pull(cx),
                _ => conn.push(cx),
            }),
            Err(MustWait(queue)) => {
                conn.wait_for_worker_midway(cx.now);
                Step::LetGo(LetGo::Queue(queue))
            }
        }
    }

    /// Decides, before user code runs, whether it may run now and whether the permit is kept
    /// meanwhile.
    fn admit(
        &mut self,
        conn: &Conn,
        code: UserCode,
        permit: &mut Option<Permit>,
    ) -> Result<(), MustWait> {
        if code.may_take_long() || permit.is_none() {
            // The responses to earlier requests do not wait for this one. A failure shows at the
            // next write.
            let _ = conn.egress.flush_from_outside();
        }
        if code.may_wait_for_peer {
            self.enter_stream_lane()?;
        }
        if code.is_slow {
            self.enter_slow_lane(conn.route)?;
        }
        if code.may_take_long() {
            self.give_permit_back(permit);
        }
        Ok(())
    }

    /// Enters the lane of streams, unless this worker is inside.
    fn enter_stream_lane(&mut self) -> Result<(), MustWait> {
        if !self.in_streams {
            if !self.pool.streams.semaphore.acquire() {
                self.pool.test_points.at(Point::LaneFullBeforeQueued);
                return Err(MustWait(Queue::Streams));
            }
            self.in_streams = true;
        }
        Ok(())
    }

    /// Enters the slow lane if the route is slow enough to need it, unless this worker is inside.
    fn enter_slow_lane(&mut self, route: RouteKey) -> Result<(), MustWait> {
        let pool = self.pool;
        if !self.in_slow && pool.latency.is_very_slow(route) {
            // A call of the same route that still has its permit will be found to be slow too, so
            // it counts.
            if !pool
                .slow
                .semaphore
                .acquire_counting(pool.calls_with_permit(route))
            {
                pool.test_points.at(Point::LaneFullBeforeQueued);
                return Err(MustWait(Queue::Slow));
            }
            self.in_slow = true;
        }
        Ok(())
    }

    /// Lets another worker poll while this one runs user code that is going to be slow.
    fn give_permit_back(&self, permit: &mut Option<Permit>) {
        if let Some(permit) = permit.take() {
            self.pool.pass_permit_on(permit);
        }
    }

    /// Calls the handler.
    fn call(
        &mut self,
        key: u32,
        conn: &mut Conn,
        call: Call,
        permit: &mut Option<Permit>,
        cx: &mut ServeContext<'_>,
    ) -> Step {
        let Call { request, meta } = call;
        let pool = self.pool;
        let context = conn.context.clone();
        conn.egress.start();
        self.run_user_code(key, conn, permit, cx, |conn, cx| {
            let began = cx.look_at_clock();
            let response = panics::catch(|| (pool.handler)(request, context));
            let took = cx.look_at_clock().saturating_duration_since(began);
            pool.latency.record(conn.route, took);
            conn.answer(meta, response, cx);
            None
        })
    }

    /// Runs user code, visible to the monitor, which may revoke the permit. A panic ends only the
    /// connection.
    fn run_user_code<'t>(
        &mut self,
        key: u32,
        conn: &mut Conn,
        permit: &mut Option<Permit>,
        cx: &mut ServeContext<'t>,
        code: impl FnOnce(&mut Conn, &mut ServeContext<'t>) -> Option<Next>,
    ) -> Step {
        let state = &self.pool.worker_states[self.index];
        state.publish_call(key, conn.route);
        if permit.is_some() {
            self.generation += 1;
            state.word.begin_call(self.generation);
        } else {
            state.word.begin_call_without_permit();
        }
        self.pool.monitor.wake();
        let outcome = panics::catch(|| awaited(|| code(conn, cx)));
        self.pool.test_points.at(Point::ReturnedBeforePermitChecked);
        if permit.is_none() {
            state.word.end_call_without_permit();
        } else if !state.word.end_call(self.generation) {
            // The monitor has sent a fresh permit, and counted this call in the slow lane.
            *permit = None;
            self.pool.latency.revoked_call_returned(conn.route);
            if self.in_slow {
                self.pool.slow.semaphore.release();
            }
            self.in_slow = true;
        }
        let next = outcome.unwrap_or_else(|panic| {
            logging::error!(
                "a response's body panicked: {panic}, peer {}",
                Peer(&conn.egress)
            );
            conn.egress.transport().reset();
            Some(Next::Close(CloseReason::Failed))
        });
        match next {
            Some(Next::Close(reason)) => Step::LetGo(LetGo::Close(reason)),
            _ => Step::GoOn,
        }
    }
}

/// Leaves a lane, unless a connection waits for it. Then its key is returned, and it is claimed.
fn release_or_next(pool: &Pool, lane: &Lane, inside: &mut bool) -> Option<u32> {
    if !*inside {
        return None;
    }
    let next = lane.release_or_next(&pool.table);
    *inside = next.is_some();
    next
}
