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
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::Sender;

use crate::conn::latency::{Expected, LatencyEstimates, RouteKey};
use crate::conn::serve_context::{Buffers, ServeContext};
use crate::conn::stage::{Conn, Next};
use crate::lifecycle::phase::Phase;
use crate::pool::detach::{Detach, detach};
use crate::pool::guards::{HeldPermit, Room};
use crate::pool::leftovers::drop_one;
use crate::pool::serve::{Ran, ServingThread, after_user_code, call_handler, catch, serve};
use crate::pool::settle::{LetGo, Queue};
use crate::pool::shared::Pool;
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
    /// The permit, unless it was given back or revoked.
    permit: Option<HeldPermit<'p>>,
    /// Room in the slow lane, while this worker is inside.
    room: Option<Room<'p>>,
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

/// What is known of user code before it runs.
#[derive(Clone, Copy)]
struct UserCode {
    /// Whether it reads or writes a body that the peer may be slow with.
    may_wait_for_peer: bool,
    /// Whether it is a response's body, and not a handler.
    is_body: bool,
    /// Its route, if any route is known to be slow.
    route: Option<RouteKey>,
    expected: Expected,
}

impl UserCode {
    fn of(pool: &Pool, conn: &Conn, next: &Next) -> Self {
        let knows_any = !pool.latency.is_empty();
        let (may_wait_for_peer, is_body, route) = match next {
            Next::Call(call) => {
                let (method, target) = (call.request.method(), call.request.uri());
                let route = knows_any.then(|| pool.route(method, target.path()));
                (call.may_wait_for_peer(), false, route)
            }
            _ if knows_any => {
                let route = pool.route_in_flight(&conn.egress, true);
                (conn.may_wait_for_peer(), true, route)
            }
            _ => (conn.may_wait_for_peer(), true, None),
        };
        Self {
            may_wait_for_peer,
            is_body,
            route,
            expected: route.map_or(Expected::Fast, |route| pool.latency.expected(route)),
        }
    }

    /// Whether the permit has to be given back before the code runs.
    fn may_take_long(self) -> bool {
        self.may_wait_for_peer || self.expected >= Expected::Slow
    }

    /// Whether the code needs room in the slow lane. A response that has begun goes on in any worker:
    /// if it found no room in time, it would have to be cut.
    fn needs_room(self) -> bool {
        self.may_wait_for_peer || self.expected == Expected::VerySlow && !self.is_body
    }

    /// Learns how long the code has taken.
    fn record(self, pool: &Pool, conn: &Conn, took: std::time::Duration) {
        if self.may_wait_for_peer || self.route.is_none() && !LatencyEstimates::is_news(took) {
            return;
        }
        let route = || pool.route_in_flight(&conn.egress, self.is_body);
        if let Some(route) = self.route.or_else(route) {
            pool.latency.record(route, took);
        }
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
            permit: None,
            room: None,
        }
    }

    /// Works until the permits channel closes.
    pub(crate) fn run(mut self) {
        let pool = self.pool;
        let state = &pool.worker_states[self.index];
        state.thread.set();
        state.word.wake_up();
        let mut buffers = Buffers::new();
        for permit in pool.permits.take() {
            self.permit = Some(HeldPermit::new(pool, permit));
            while self.permit.is_some() {
                if pool.lifecycle.phase() == Phase::Stopped {
                    // A wake-up reaches one worker, which passes it on.
                    pool.poller.wake();
                    return;
                }
                if let Err(panic) = panics::catch(|| self.poll_once(&mut buffers)) {
                    logging::error!("lameduck-worker-{} panicked: {panic}", self.index);
                    self.recover();
                }
            }
        }
    }

    /// Brings the worker back to where it was before a panic in the server's own code. The
    /// connection is gone, and the guards have given back what it had.
    fn recover(&mut self) {
        let word = &self.pool.worker_states[self.index].word;
        self.room = None;
        match self.permit.take() {
            // The panic came in a call, whose permit the monitor may have revoked.
            Some(permit) if word.look().is_in_call() => {
                if word.end_call(self.generation) {
                    self.permit = Some(permit);
                } else {
                    permit.was_revoked();
                    drop(Room::taken_by_monitor(self.pool));
                }
            }
            permit => self.permit = permit,
        }
        word.wake_up();
    }

    /// Serves the queued connections, then polls once, unless it loses the permit before that.
    fn poll_once(&mut self, buffers: &mut Buffers) {
        let pool = self.pool;
        // Only the connections that are queued now, and not those that these queue again, so that
        // the connections in the poller are served too.
        let (calls, ready) = (
            pool.calls.len().min(REQUEST_BUDGET),
            pool.ready.len().min(READY_BUDGET),
        );
        let accepted = pool.accepted.len().min(REQUEST_BUDGET);
        for queue in repeat_n(&pool.calls, calls).chain(repeat_n(&pool.ready, ready)) {
            if let Some((key, conn)) = pool.take_queued(queue) {
                self.serve(key, conn, buffers);
                if self.permit.is_none() {
                    return;
                }
            }
        }
        for _ in 0..accepted {
            if let Some((key, conn)) = pool.take_accepted() {
                self.serve(key, conn, buffers);
                if self.permit.is_none() {
                    return;
                }
            }
        }
        let state = &pool.worker_states[self.index];
        state.word.fall_asleep();
        pool.test_points.at(Point::AsleepBeforeQueuesChecked);
        let block = !pool.has_queued() && pool.lifecycle.phase() != Phase::Stopped;
        pool.poller.wait(&mut self.events, block);
        state.word.wake_up();
        let ready = self.events.iter().next();
        match ready {
            // Nothing is here to do: what has waited long for room gets this worker.
            None => {
                if let Some((key, conn)) = pool.take_queued(&pool.slow.late) {
                    self.serve(key, conn, buffers);
                }
            }
            Some(Ready::Wake) => pool.poller_wake.acknowledge(),
            Some(Ready::Socket { key, events }) => {
                pool.test_points.at(Point::EventBeforeClaim);
                if let Some(conn) = pool.take_ready(key, events) {
                    self.serve(key, conn, buffers);
                }
            }
        }
    }

    /// Serves a connection that this thread owns, and then those that waited for the room that it
    /// has taken.
    fn serve(&mut self, key: u32, conn: Box<Conn>, buffers: &mut Buffers) {
        let pool = self.pool;
        serve(pool, key, conn, self, &mut pool.serve_context(buffers));
        while let Some((room, key)) = self.room.take().and_then(Room::next) {
            self.room = Some(room);
            let conn = pool.take_claimed(key);
            serve(pool, key, conn, self, &mut pool.serve_context(buffers));
        }
        pool.worker_states[self.index].publish_counts(buffers);
    }

    /// Decides, before user code runs, whether it may run now and whether the permit is kept
    /// meanwhile. False: it has to wait for room.
    fn admit(&mut self, conn: &Conn, code: UserCode) -> bool {
        let pool = self.pool;
        if code.may_take_long() || self.permit.is_none() {
            // The responses to earlier requests do not wait for this one. A failure shows at the
            // next write.
            let _ = conn.egress.flush_from_outside();
        }
        if code.needs_room() && self.room.is_none() {
            self.room = if conn.has_waited_long_for_room() && !code.may_wait_for_peer {
                Some(Room::force(pool))
            } else {
                // A call of the same route that still has its permit will be found to be slow too,
                // so it counts.
                let others = code.route.map_or(0, |route| pool.calls_with_permit(route));
                Room::enter(pool, others)
            };
            if self.room.is_none() {
                pool.test_points.at(Point::LaneFullBeforeQueued);
                return false;
            }
        }
        if code.may_take_long() {
            // Another worker polls while this one runs user code that is going to be slow.
            self.permit = None;
        }
        true
    }

    /// Runs user code, visible to the monitor, which may revoke the permit. A panic ends only the
    /// connection.
    fn run_visibly<'t>(
        &mut self,
        key: u32,
        conn: &mut Conn,
        is_body: bool,
        cx: &mut ServeContext<'t>,
        code: impl FnOnce(&mut Conn, &mut ServeContext<'t>) -> Option<Next>,
    ) -> Option<LetGo> {
        let pool = self.pool;
        let state = &pool.worker_states[self.index];
        state.key.store(key, Relaxed);
        state.is_body.store(is_body, Relaxed);
        if self.permit.is_some() {
            self.generation += 1;
            state.word.begin_call(self.generation);
        } else {
            state.word.begin_call_without_permit();
        }
        pool.wake_monitor_for_call(&conn.egress);
        let outcome = catch(|| code(conn, cx));
        pool.test_points.at(Point::ReturnedBeforePermitChecked);
        match self.permit.take() {
            None => state.word.end_call_without_permit(),
            Some(permit) if state.word.end_call(self.generation) => self.permit = Some(permit),
            Some(permit) => {
                // The monitor has sent a fresh permit, and taken room for this call.
                permit.was_revoked();
                let route = RouteKey::from_bits(state.revoked_route.load(Relaxed));
                pool.latency.revoked_call_returned(route);
                self.room = Some(Room::taken_by_monitor(pool));
            }
        }
        after_user_code(conn, outcome).map(LetGo::Close)
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // It will never poll again, and the monitor must not count on it.
            let word = &self.pool.worker_states[self.index].word;
            word.begin_call_without_permit();
        }
    }
}

impl ServingThread for Worker<'_> {
    fn run_user_code(
        &mut self,
        key: u32,
        conn: Box<Conn>,
        next: Next,
        cx: &mut ServeContext<'_>,
    ) -> Ran {
        let (mut conn, next) = match detach(self.pool, key, conn, next, cx) {
            Detach::Done => return Ran::Detached,
            Detach::Refused(conn) => return Ran::GoOn(conn),
            Detach::Waits(conn) => return Ran::LetGo(conn, LetGo::Queue(Queue::Streams)),
            Detach::Kept(conn, next) => (conn, next),
        };
        let code = UserCode::of(self.pool, &conn, &next);
        if self.admit(&conn, code) {
            let pool = self.pool;
            let ran = self.run_visibly(key, &mut conn, code.is_body, cx, |conn, cx| {
                run_next(pool, conn, next, code, cx)
            });
            return match ran {
                None => Ran::GoOn(conn),
                Some(how) => Ran::LetGo(conn, how),
            };
        }
        match next {
            Next::Call(call) => {
                if !code.may_wait_for_peer {
                    conn.wait_for_room();
                }
                conn.wait_for_worker(Some(call));
            }
            _ => conn.wait_for_worker_midway(cx.now),
        }
        Ran::LetGo(conn, LetGo::Queue(Queue::Slow))
    }

    fn drop_leftovers(&mut self, key: u32, conn: &mut Conn, cx: &mut ServeContext<'_>) {
        let leftovers = conn.take_leftovers();
        self.run_visibly(key, conn, true, cx, |_, _| {
            leftovers.into_iter().for_each(drop_one);
            None
        });
    }

    /// Without a permit it serves one connection, and then leaves.
    fn may_go_on(&self) -> bool {
        self.permit.is_some()
    }
}

/// Runs the user code that a connection needs next, and learns how long it takes.
fn run_next(
    pool: &Pool,
    conn: &mut Conn,
    next: Next,
    code: UserCode,
    cx: &mut ServeContext<'_>,
) -> Option<Next> {
    if let Next::Call(call) = next {
        let record = |conn: &Conn, took| code.record(pool, conn, took);
        call_handler(pool, conn, call, cx, record);
        return None;
    }
    let began = cx.look_at_clock();
    let next = match next {
        Next::Pull => conn.pull(cx),
        _ => conn.push(cx),
    };
    let took = cx.look_at_clock().saturating_duration_since(began);
    code.record(pool, conn, took);
    next
}
