//! Giving a connection a dedicated thread, and taking it back: for an upgrade, and for a response
//! that is written for as long as it takes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use http::StatusCode;

use crate::conn::serve_context::{Buffers, ServeContext};
use crate::conn::stage::{Conn, Next, Peer};
use crate::conn::transport::Look;
use crate::lifecycle::ledger::CloseReason;
use crate::lifecycle::phase::{Phase, awaited};
use crate::pool::dedicated::{DedicatedThreads, Upgrading};
use crate::pool::settle::{LetGo, Queue};
use crate::pool::shared::Pool;
use crate::sys::logging;
use crate::sys::panics;
use crate::sys::poller::SocketEvents;
use crate::sys::test_points::Point;
use crate::wire::Refusal;

const STOPPING: Refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping");
const TOO_MANY: Refusal = Refusal::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "too many connections have a dedicated thread",
);

/// Gives a connection the dedicated thread that it needs. `Err`: it was refused, and its owner goes
/// on with it.
pub(crate) fn detach(
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
    pool.test_points.at(Point::DedicatedBeforeThread);
    let shared = pool.clone();
    let run =
        move |(conn, upgrading), inside: &AtomicBool| run(&shared, key, conn, upgrading, inside);
    DedicatedThreads::start(&pool.dedicated, key, (conn, upgrading), run).map_err(
        |(mut conn, _)| {
            conn.refuse(TOO_MANY, cx);
            conn
        },
    )
}

/// Runs on the dedicated thread: user code, after which the connection goes back to the pool.
fn run(
    pool: &Pool,
    key: u32,
    mut conn: Box<Conn>,
    upgrading: Option<Upgrading>,
    in_user_code: &AtomicBool,
) {
    let mut buffers = Buffers::new();
    let mut cx = pool.serve_context(&mut buffers);
    pool.test_points.at(Point::DedicatedBeforeRun);
    in_user_code.store(true, SeqCst);
    let run = panics::catch(|| awaited(|| conn.run_on_dedicated_thread(&pool.stopping, &mut cx)));
    in_user_code.store(false, SeqCst);
    pool.test_points.at(Point::DedicatedBeforeGivenBack);
    // A connection that was answered 503 in the owner's place was never upgraded, and the report
    // names it among the requests.
    if upgrading.is_some() && !conn.egress.is_refused() && pool.lifecycle.phase() >= Phase::Draining
    {
        pool.dedicated.count_finished();
    }
    drop(upgrading);
    let next = run.unwrap_or_else(|panic| {
        logging::error!(
            "the code on a dedicated thread panicked: {panic}, peer {}",
            Peer(&conn.egress)
        );
        conn.egress.transport().reset();
        Some(Next::Close(CloseReason::Failed))
    });
    let how = match next {
        Some(Next::Close(reason)) => LetGo::Close(reason),
        // The stop may have cut the connection meanwhile, and there may be no worker any more.
        _ if conn.egress.transport().look() == Look::Broken => {
            LetGo::Close(if conn.egress.is_cut() {
                CloseReason::Cut
            } else {
                CloseReason::Broken
            })
        }
        _ => {
            conn.note_events(SocketEvents::ANY);
            // The client's response does not wait for a worker. A failure shows at the next write.
            let _ = conn.egress.flush_from_outside();
            cx.look_at_clock();
            LetGo::Queue(Queue::Ready)
        }
    };
    pool.settle_or_queue(key, conn, how, &mut cx);
    pool.count_answered(&mut buffers);
}
