//! The stop, from the end of accepting to the report.
//!
//! Read [`drain`] from top to bottom: it is the second journey. The order matters: the acceptor first, then parked
//! connections, then the pool; the other way round what sits between is lost.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::acceptor::{Acceptor, Threads};
use crate::backlog;
use crate::clock::{after, earlier};
use crate::conn::egress::Taken;
use crate::conn::exchange::{Buffers, RETRY_AFTER, Turn};
use crate::lifecycle::ledger::{CloseReason, WakeAt};
use crate::lifecycle::phase::{Lifecycle, Phase, Plan};
use crate::lifecycle::report::{CutRequest, Report, Short, StuckWorker};
use crate::pool::{Marked, Pool, Queue};
use crate::race::Point;
use crate::waker::wait_for;
use crate::wire::reply;

/// Between two lines in the log while draining.
const PROGRESS: Duration = Duration::from_secs(1);
/// A worker that was cut loose has this long to notice before it counts as stuck.
const STUCK_AFTER: Duration = Duration::from_millis(100);
/// A thread that has nothing left to do has this long to end; only a machine that stands still needs it.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Stops a server whose time of accepting is over.
pub(crate) fn drain(acceptor: Acceptor) -> Report {
    let Acceptor { pool, listeners, threads, .. } = acceptor;
    let lifecycle = pool.lifecycle.clone();
    let plan = lifecycle.plan().expect("accepting ends when a stop was asked for");
    let mut report = Report::new(plan.cause);
    let mut buffers = Buffers::new();

    let draining_at = lifecycle.clock.now();
    report.phases.push((Phase::LameDuck, draining_at.saturating_duration_since(plan.begun_at)));
    lifecycle.enter(Phase::Draining);
    lifecycle.draining.raise();
    pool.settings.races.at(Point::Draining);
    let closed = backlog::close(listeners, &pool);
    report.backlog = closed.connections.len();
    report.errors = closed.errors;
    for accepted in closed.connections {
        if let Some((key, conn)) = pool.adopt(accepted) {
            let mut turn = Turn::new(&pool.settings, &lifecycle, &mut buffers, draining_at);
            pool.enqueue(key, conn, Queue::Ready, &mut turn);
        }
    }
    pool.settings.races.at(Point::Closed);
    hurry_idle(&pool, &mut buffers);
    let empty = wait_until_empty(&pool, |plan| plan.cut_at);

    let cutting_at = lifecycle.clock.now();
    report.phases.push((Phase::Draining, cutting_at.saturating_duration_since(draining_at)));
    if !empty {
        lifecycle.enter(Phase::Cutting);
        lifecycle.cancelled.raise();
        pool.settings.races.at(Point::Cutting);
        report.cut = cut(&pool, &mut buffers);
        let reset_at = after(cutting_at, pool.settings.cut_grace);
        wait_until_empty(&pool, |_| reset_at);
        reset(&pool, &mut report.cut);
        let took = lifecycle.clock.now().saturating_duration_since(cutting_at);
        report.phases.push((Phase::Cutting, took));
    }

    lifecycle.enter(Phase::Stopped);
    report.stuck = join(threads, &pool);
    report.took = lifecycle.clock.now().saturating_duration_since(plan.begun_at);
    count(&pool, &mut report);
    report
}

/// Gives each idle connection the deadline it has from now on, and has whoever serves one look at the phase once more
/// before it parks it.
fn hurry_idle(pool: &Pool, buffers: &mut Buffers) {
    for key in pool.table.keys() {
        let slot = pool.table.slot(key);
        // As if there were something to read: whoever owns the connection finds our mark.
        if !slot.word.claim_by_event(false) {
            continue;
        }
        let mut turn = Turn::new(&pool.settings, &pool.lifecycle, buffers, pool.lifecycle.clock.now());
        // Parking sets the deadline for the phase it is now.
        if let Err(Marked(mut conn, mark)) = pool.park(key, slot.take(), &mut turn) {
            conn.tell(true, mark.hup);
            pool.enqueue(key, conn, Queue::Ready, &mut turn);
        }
    }
}

/// Waits until the last connection has ended, or until `deadline` of the plan as it then is. True: it has.
fn wait_until_empty(pool: &Pool, deadline: impl Fn(&Plan) -> Option<Instant>) -> bool {
    let lifecycle = &*pool.lifecycle;
    pool.ledger.wake(WakeAt::LastEnd);
    let mut progress_at = after(lifecycle.clock.now(), PROGRESS);
    loop {
        if pool.ledger.len() == 0 {
            return true;
        }
        let now = lifecycle.clock.now();
        let plan = lifecycle.plan().expect("a stop was asked for");
        let until = deadline(&plan);
        if until.is_some_and(|at| at <= now) {
            return false;
        }
        if progress_at.is_some_and(|at| at <= now) {
            tell_progress(pool, until, now);
            progress_at = after(now, PROGRESS);
        }
        let timeout = lifecycle.clock.until(earlier(until, progress_at));
        if wait_for(&[pool.waker.as_fd()], timeout) {
            pool.waker.reset();
        }
    }
}

/// One line that says what is still waited for.
fn tell_progress(pool: &Pool, until: Option<Instant>, now: Instant) {
    let in_flight = pool.table.keys().filter_map(|key| pool.table.slot(key).line()?.in_flight());
    let (mut n, mut oldest) = (0_usize, None::<(Instant, String)>);
    for (request, _) in in_flight {
        n += 1;
        if oldest.as_ref().is_none_or(|(since, _)| request.since < *since) {
            oldest = Some((request.since, format!("{} {}", request.method, request.target.path())));
        }
    }
    let oldest = oldest.map_or_else(String::new, |(since, name)| {
        format!(" (oldest {name}, {})", Short(now.saturating_duration_since(since)))
    });
    let left = until.map_or_else(String::new, |at| format!(", {} left", Short(at.saturating_duration_since(now))));
    let open = pool.ledger.len();
    log::info!("{}: {n} in flight{oldest}, {open} open{left}", pool.lifecycle.phase());
}

/// Answers 503 to every request whose response is not begun, wherever it is; gives the others their last time.
fn cut(pool: &Pool, buffers: &mut Buffers) -> Vec<CutRequest> {
    let now = pool.lifecycle.clock.now();
    let refusal = refusal(&pool.lifecycle);
    let mut requests = Vec::new();
    for key in pool.table.keys() {
        let slot = pool.table.slot(key);
        let Some(line) = slot.line() else { continue };
        let taken = line.take_over(&refusal);
        if let Taken::Answered(request) = &taken {
            requests.push(CutRequest {
                peer: line.peer(),
                method: request.method.clone(),
                target: request.target.clone(),
                age: now.saturating_duration_since(request.since),
                started: request.started,
                bytes_sent: 0,
                answered_503: true,
            });
        }
        // What nobody serves at the moment is moved on; who serves one finds it shut.
        let Some(_) = slot.word.claim_parked() else { continue };
        let mut turn = Turn::new(&pool.settings, &pool.lifecycle, buffers, now);
        let mut conn = slot.take();
        match taken {
            Taken::Nothing if conn.has_nothing_to_finish() => pool.close(key, conn, CloseReason::Cut),
            Taken::Nothing | Taken::Begun => pool.enqueue(key, conn, Queue::Ready, &mut turn),
            Taken::Answered(_) => {
                conn.close_after_flush(CloseReason::Cut, &turn);
                pool.enqueue(key, conn, Queue::Ready, &mut turn);
            }
        }
    }
    requests
}

/// What a request is answered with that nobody will serve any more.
fn refusal(lifecycle: &Lifecycle) -> Vec<u8> {
    let date = reply::http_date(lifecycle.clock.wall());
    let mut out = Vec::new();
    let retry_after = [(http::header::RETRY_AFTER, RETRY_AFTER)];
    let reason = "the server is stopping and could not finish this request";
    reply::write_refusal(&mut out, StatusCode::SERVICE_UNAVAILABLE, reason, &date, &retry_after, true);
    out
}

/// Resets what is left, which also frees a thread that waits for its client.
fn reset(pool: &Pool, cut: &mut Vec<CutRequest>) {
    let now = pool.lifecycle.clock.now();
    for key in pool.table.keys() {
        let slot = pool.table.slot(key);
        let Some(line) = slot.line() else { continue };
        if let Some((request, bytes_sent)) = line.in_flight_begun() {
            cut.push(CutRequest {
                peer: line.peer(),
                method: request.method,
                target: request.target,
                age: now.saturating_duration_since(request.since),
                started: true,
                bytes_sent,
                answered_503: false,
            });
            line.transport().reset();
        }
        if slot.word.claim_parked().is_some() {
            pool.close(key, slot.take(), CloseReason::Cut);
        }
    }
}

/// Waits for the pool's threads, but not for one that sits in a handler. The ones left behind.
fn join(threads: Threads, pool: &Pool) -> Vec<StuckWorker> {
    let Threads { handles, ended } = threads;
    pool.permits.close();
    pool.poller.ring();
    pool.monitor.waker.wake();
    let clock = &pool.lifecycle.clock;
    let began = clock.now();
    let mut running: Vec<_> = handles.into_iter().map(Some).collect();
    while running.iter().any(Option::is_some) {
        let waited = clock.now().saturating_duration_since(began);
        let in_handler = |i: usize| pool.desks.get(i).is_some_and(|desk| desk.word.look().is_in_user_code());
        let only_stuck = running.iter().enumerate().all(|(i, handle)| handle.is_none() || in_handler(i));
        if waited >= JOIN_TIMEOUT || only_stuck && waited >= STUCK_AFTER {
            break;
        }
        match ended.recv_timeout(STUCK_AFTER) {
            Ok(thread) => {
                if let Some(handle) = running[thread].take() {
                    let _ = handle.join();
                }
            }
            Err(_) => continue,
        }
    }
    let now = clock.now();
    let left = running.into_iter().enumerate().filter_map(|(i, handle)| {
        let handle = handle?;
        let line = pool.desks.get(i).and_then(|desk| pool.table.get(desk.key.load(Relaxed))?.line());
        let request = line.and_then(|line| line.in_flight());
        let request =
            request.map(|(request, _)| (request.method, request.target, now.saturating_duration_since(request.since)));
        Some(StuckWorker { thread: handle.thread().name().unwrap_or_default().to_owned(), request })
    });
    left.collect()
}

/// The counts of the server's whole life.
fn count(pool: &Arc<Pool>, report: &mut Report) {
    report.accepted = pool.ledger.accepted();
    report.answered = Phase::ALL.iter().map(|phase| (*phase, pool.answered(*phase))).filter(|(_, n)| *n > 0).collect();
    let closed = CloseReason::ALL.iter().map(|reason| (*reason, pool.ledger.ended(*reason)));
    report.closed = closed.filter(|(_, n)| *n > 0).collect();
}
