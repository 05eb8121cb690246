//! The loop that serves a connection until it is parked, queued or closed. Workers, the monitor and
//! dedicated threads all run it; they differ in the user code that they run.

use log::Level;

use crate::conn::request_line::{self, Answering};
use crate::conn::serve_context::ServeContext;
use crate::conn::stage::{Call, Conn, Next};
use crate::lifecycle::ledger::CloseReason;
use crate::lifecycle::phase::{Phase, awaited};
use crate::pool::guards::ServedSlot;
use crate::pool::settle::{LetGo, Queue};
use crate::pool::shared::Pool;
use crate::sys::panics::{self, Panic};
use crate::sys::test_points::Point;

/// A thread that serves connections.
pub(super) trait ServingThread {
    /// Whether the thread belongs to one connection, and may wait for its client.
    const IS_DEDICATED: bool = false;

    /// Runs the user code that a connection needs next, or has another thread run it.
    fn run_user_code(
        &mut self,
        key: u32,
        conn: Box<Conn>,
        next: Next,
        cx: &mut ServeContext<'_>,
    ) -> Ran;

    /// Drops what is left of responses that are over, if the thread may run user code. Otherwise
    /// that is done when the thread lets go of the connection.
    fn drop_leftovers(&mut self, _key: u32, _conn: &mut Conn, _cx: &mut ServeContext<'_>) {}

    /// Whether the thread goes on with a connection for which an event has come meanwhile.
    fn may_go_on(&self) -> bool;
}

/// What has become of a connection that needed user code.
pub(super) enum Ran {
    /// The thread goes on with it.
    GoOn(Box<Conn>),
    LetGo(Box<Conn>, LetGo),
    /// It has a dedicated thread.
    Detached,
}

/// Serves a connection that this thread owns until it is parked, queued or closed.
pub(super) fn serve<T: ServingThread>(
    pool: &Pool,
    key: u32,
    mut conn: Box<Conn>,
    thread: &mut T,
    cx: &mut ServeContext<'_>,
) {
    let _slot = ServedSlot { pool, key };
    pool.test_points.at(Point::ClaimedBeforeServed);
    loop {
        let next = conn.advance(cx);
        if conn.has_leftovers() {
            thread.drop_leftovers(key, &mut conn, cx);
        }
        let ran = match next {
            Next::Park => Ran::LetGo(conn, LetGo::Park),
            Next::Close(reason) => Ran::LetGo(conn, LetGo::Close(reason)),
            Next::Yield if T::IS_DEDICATED && conn.may_wait_for_peer() => {
                cx.renew_budgets();
                Ran::GoOn(conn)
            }
            Next::Yield => Ran::LetGo(conn, LetGo::Queue(Queue::Ready)),
            Next::Call(call) if pool.lifecycle.phase() >= Phase::Cutting => {
                // No handler is started any more: the drain answers in its place.
                conn.wait_for_cut(call, cx);
                Ran::LetGo(conn, LetGo::Park)
            }
            next @ (Next::Call(_) | Next::Pull | Next::Push | Next::DedicatedThread) => {
                thread.run_user_code(key, conn, next, cx)
            }
        };
        let how;
        (conn, how) = match ran {
            Ran::GoOn(same) => {
                conn = same;
                continue;
            }
            Ran::LetGo(conn, how) => (conn, how),
            Ran::Detached => return,
        };
        if matches!(how, LetGo::Close(_)) && conn.leave_last() {
            thread.drop_leftovers(key, &mut conn, cx);
        }
        conn = match pool.settle(key, conn, how, cx) {
            None => return,
            Some(conn) if thread.may_go_on() => conn,
            Some(conn) => {
                return pool.settle_or_queue(key, conn, LetGo::Queue(Queue::Ready), cx);
            }
        };
    }
}

/// Calls the handler of a request and takes its response. `record` is told how long that took,
/// before the response is taken.
pub(super) fn call_handler(
    pool: &Pool,
    conn: &mut Conn,
    call: Call,
    cx: &mut ServeContext<'_>,
    record: impl FnOnce(&Conn, std::time::Duration),
) {
    let Call { request, meta } = call;
    let context = conn.context.clone();
    conn.egress.start();
    let _answering = Answering::start(&conn.egress);
    let began = cx.look_at_clock();
    let response = panics::catch(|| pool.handler.handle(request, context));
    let took = cx.look_at_clock().saturating_duration_since(began);
    record(conn, took);
    conn.answer(meta, response, cx);
}

/// Runs user code in which a stop must not wait for itself. A panic ends only the connection.
pub(super) fn catch(code: impl FnOnce() -> Option<Next>) -> Result<Option<Next>, Panic> {
    panics::catch(|| awaited(code))
}

/// Goes on after user code: `Some` closes the connection.
pub(super) fn after_user_code(
    conn: &Conn,
    outcome: Result<Option<Next>, Panic>,
) -> Option<CloseReason> {
    match outcome {
        Ok(Some(Next::Close(reason))) => Some(reason),
        Ok(_) => None,
        Err(panic) => {
            conn.egress.transport().reset();
            let what = format_args!("a response's body panicked: {panic}");
            request_line::log(Level::Error, &conn.egress, what);
            Some(CloseReason::Failed)
        }
    }
}
