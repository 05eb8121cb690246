//! Giving a connection a dedicated thread, and taking it back: for an upgrade, for a response that is
//! written for as long as it takes, and for code that may have to wait for its client.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use http::StatusCode;

use crate::conn::egress::PeerWait;
use crate::conn::serve_context::{Buffers, ServeContext};
use crate::conn::stage::{Conn, Next};
use crate::conn::transport::Look;
use crate::lifecycle::ledger::CloseReason;
use crate::lifecycle::phase::Phase;
use crate::pool::dedicated::{DedicatedThreads, Upgrading};
use crate::pool::guards::StreamRoom;
use crate::pool::serve::{Ran, ServingThread, after_user_code, call_handler, catch, serve};
use crate::pool::settle::{LetGo, Queue};
use crate::pool::shared::Pool;
use crate::sys::poller::SocketEvents;
use crate::sys::test_points::Point;
use crate::wire::Refusal;

const STOPPING: Refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping");
const TOO_MANY: Refusal = Refusal::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "too many connections have a dedicated thread",
);

/// What has become of a connection that may need a dedicated thread.
#[allow(
    clippy::large_enum_variant,
    reason = "a box would be an allocation for each request"
)]
pub(super) enum Detach {
    /// It has one.
    Done,
    /// It was refused one, and its owner goes on with the refusal.
    Refused(Box<Conn>),
    /// It has to wait for room among those that run such code.
    Waits(Box<Conn>),
    /// It needs none, or there is none left for it: its owner runs the code itself.
    Kept(Box<Conn>, Next),
}

/// Gives a connection a dedicated thread if the user code that it needs next should have one.
///
/// An upgrade or a stream must have one. What may have to wait for its client gets one if there is
/// one left, so that no client holds a worker.
pub(super) fn detach(
    pool: &Arc<Pool>,
    key: u32,
    mut conn: Box<Conn>,
    next: Next,
    cx: &mut ServeContext<'_>,
) -> Detach {
    match next {
        Next::DedicatedThread => match detach_or_refuse(pool, key, conn, cx) {
            Ok(()) => Detach::Done,
            Err(conn) => Detach::Refused(conn),
        },
        next if pool.lifecycle.phase() >= Phase::Cutting => Detach::Kept(conn, next),
        Next::Call(call) if call.may_wait_for_peer() => {
            // The responses to earlier requests do not wait for this one. A failure shows at the
            // next write.
            let _ = conn.egress.flush_from_outside();
            conn.wait_for_worker(Some(call));
            let Some(room) = StreamRoom::enter(pool, conn.has_waited_long_for_room()) else {
                conn.wait_for_room();
                return Detach::Waits(conn);
            };
            match start(pool, key, conn, For::Stream(room)) {
                Ok(()) => Detach::Done,
                Err(mut conn) => {
                    let next = conn.advance(cx);
                    Detach::Kept(conn, next)
                }
            }
        }
        next @ (Next::Pull | Next::Push) if conn.may_wait_for_peer() => {
            // A response that has begun does not wait.
            let force = matches!(next, Next::Pull) || conn.has_waited_long_for_room();
            let Some(room) = StreamRoom::enter(pool, force) else {
                conn.wait_for_room();
                return Detach::Waits(conn);
            };
            match start(pool, key, conn, For::Stream(room)) {
                Ok(()) => Detach::Done,
                Err(conn) => Detach::Kept(conn, next),
            }
        }
        next => Detach::Kept(conn, next),
    }
}

fn detach_or_refuse(
    pool: &Arc<Pool>,
    key: u32,
    mut conn: Box<Conn>,
    cx: &mut ServeContext<'_>,
) -> Result<(), Box<Conn>> {
    let is_upgrade = conn.is_upgrade();
    let upgrading = is_upgrade.then(|| DedicatedThreads::upgrading(&pool.dedicated));
    let last = if is_upgrade {
        Phase::LameDuck
    } else {
        Phase::Draining
    };
    if pool.lifecycle.phase() > last {
        conn.refuse(STOPPING, cx);
        return Err(conn);
    }
    start(pool, key, conn, For::LongRun(upgrading)).map_err(|mut conn| {
        conn.refuse(TOO_MANY, cx);
        conn
    })
}

/// Starts the dedicated thread of a connection. `Err`: there is none left.
fn start(pool: &Arc<Pool>, key: u32, conn: Box<Conn>, what_for: For) -> Result<(), Box<Conn>> {
    pool.test_points.at(Point::DedicatedBeforeThread);
    let shared = pool.clone();
    let run = move |(conn, what_for), in_user_code: &AtomicBool| {
        let (upgrading, room) = match what_for {
            For::LongRun(upgrading) => (upgrading, None),
            For::Stream(room) => (None, Some(room)),
        };
        let mut thread = DedicatedThread {
            pool: &shared,
            in_user_code,
            upgrading,
            room,
            has_run: false,
        };
        let mut buffers = Buffers::new();
        let mut cx = shared.serve_context(&mut buffers);
        serve(&shared, key, conn, &mut thread, &mut cx);
        shared.count_answered(&mut buffers);
    };
    DedicatedThreads::start(&pool.dedicated, key, (conn, what_for), run).map_err(|(conn, _)| conn)
}

/// A dedicated thread: it runs the user code that it was started for and what follows from it, and
/// gives the connection back to the pool.
struct DedicatedThread<'a> {
    pool: &'a Arc<Pool>,
    in_user_code: &'a AtomicBool,
    upgrading: Option<Upgrading>,
    room: Option<Arc<StreamRoom>>,
    has_run: bool,
}

/// What a connection gets a dedicated thread for.
enum For {
    /// An upgrade, or a response that goes on for as long as it likes.
    LongRun(Option<Upgrading>),
    /// Code that may wait for its client, and has room.
    Stream(Arc<StreamRoom>),
}

impl ServingThread for DedicatedThread<'_> {
    const IS_DEDICATED: bool = true;

    fn run_user_code(
        &mut self,
        _key: u32,
        mut conn: Box<Conn>,
        next: Next,
        cx: &mut ServeContext<'_>,
    ) -> Ran {
        let pool = self.pool;
        if !std::mem::replace(&mut self.has_run, true) {
            pool.test_points.at(Point::DedicatedBeforeRun);
        } else if let Next::Call(call) = next {
            // Any worker can go on with the next request. The response does not wait for one: a
            // failure shows at the next write.
            let _ = conn.egress.flush_from_outside();
            conn.wait_for_worker(Some(call));
            return Ran::LetGo(conn, LetGo::Queue(Queue::Calls));
        }
        let room = self.room.clone();
        conn.egress
            .tell_of_waits(room.map(|room| room as Arc<dyn PeerWait>));
        self.in_user_code.store(true, SeqCst);
        let outcome = catch(|| match next {
            Next::Call(call) => {
                // How long it takes is its client's affair, and tells nothing of the handler.
                call_handler(pool, &mut conn, call, cx, |_, _| {});
                None
            }
            Next::Pull => conn.pull(cx),
            Next::Push => conn.push(cx),
            _ => conn.run_on_dedicated_thread(&pool.stopping, cx),
        });
        self.in_user_code.store(false, SeqCst);
        conn.egress.tell_of_waits(None);
        pool.test_points.at(Point::DedicatedBeforeGivenBack);
        let upgrading = self.upgrading.take();
        // A connection that was answered 503 in the owner's place was never upgraded, and the
        // report names it among the requests.
        if upgrading.is_some()
            && !conn.egress.is_refused()
            && pool.lifecycle.phase() >= Phase::Draining
        {
            pool.dedicated.count_finished();
        }
        drop(upgrading);
        if let Some(reason) = after_user_code(&conn, outcome) {
            return Ran::LetGo(conn, LetGo::Close(reason));
        }
        // The stop may have cut the connection meanwhile, and there may be no worker any more.
        if conn.egress.transport().look() == Look::Broken {
            let reason = if conn.egress.is_cut() {
                CloseReason::Cut
            } else {
                CloseReason::Broken
            };
            return Ran::LetGo(conn, LetGo::Close(reason));
        }
        conn.note_events(SocketEvents::ANY);
        cx.look_at_clock();
        Ran::GoOn(conn)
    }

    /// The pool goes on with it: this thread has done what it is for.
    fn may_go_on(&self) -> bool {
        false
    }
}
