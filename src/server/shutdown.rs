//! The stop, from the end of accepting to the report.
//!
//! Read [`drain`] from top to bottom: it is the second journey. The order matters: the acceptor
//! first, then parked connections, then the pool; in the opposite order, what sits between
//! them would be lost.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::conn::egress::{Egress, InFlight, TakeOver};
use crate::conn::serve_context::Buffers;
use crate::conn::stage::{Conn, RETRY_AFTER};
use crate::lifecycle::ledger::{CloseReason, WakeAt};
use crate::lifecycle::phase::{Lifecycle, Phase, Plan, StopCause};
use crate::lifecycle::report::{Report, StuckWorker};
use crate::lifecycle::unanswered::{Fate, UnansweredRequest};
use crate::listen::acceptor::{Acceptor, Threads};
use crate::listen::closing::{BacklogState, Closing};
use crate::listen::listener::Listener;
use crate::pool::settle::{LetGo, Queue};
use crate::pool::shared::{Accepted, Pool};
use crate::server::handle::ServerHandle;
use crate::settings::{CUT_GOODBYE, END_GRACE};
use crate::sys::clock::{Short, after, earlier};
use crate::sys::logging;
use crate::sys::test_points::Point;
use crate::sys::waker::wait_for;
use crate::wire::reply;

/// The time between two attempts to go on when the accept backlog waits for descriptors.
const SHORTAGE_LOOK: Duration = Duration::from_millis(100);
/// The time between two passes while cutting: a request that was on its way to a handler during one
/// pass is met by the next.
const CUT_AGAIN: Duration = Duration::from_millis(20);
/// The time between two lines in the log while draining.
const PROGRESS: Duration = Duration::from_secs(1);
/// The time that a worker gets to notice that its connection was cut, before it counts as stuck.
const STUCK_AFTER: Duration = Duration::from_millis(100);
/// The time that a thread which is not in user code gets to end. Only a machine that stands still
/// needs it.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Stops a server whose time of accepting is over.
pub(crate) fn drain(acceptor: Acceptor) -> Report {
    let Acceptor {
        pool,
        listeners,
        threads,
        mut hooks,
        ..
    } = acceptor;
    let lifecycle = pool.lifecycle.clone();
    let clock = &lifecycle.clock;
    let plan = lifecycle
        .plan()
        .expect("accepting ends when a stop was asked for");
    let mut report = Report::new(plan.cause);
    let mut buffers = Buffers::new();

    let draining_at = clock.now();
    report.add_phase(Phase::LameDuck, plan.begun_at, draining_at);
    lifecycle.enter(Phase::Draining);
    lifecycle.draining.raise();
    pool.stopping.wake();
    let on_shutdown = hooks.start_on_shutdown(clock);
    pool.test_points.at(Point::DrainingBeforeGated);
    close_listeners(listeners, &pool, &mut buffers, &mut report);
    pool.test_points.at(Point::ListenersClosedBeforeIdle);
    hurry_idle(&pool, &mut buffers);
    let empty = wait_until_empty(&pool, |plan| plan.cut_at);
    report.hooks = on_shutdown.wait(|| cut_at(&lifecycle), clock);

    let cutting_at = clock.now();
    report.add_phase(Phase::Draining, draining_at, cutting_at);
    if !empty {
        cut(&pool, &mut buffers, &mut report);
        report.add_phase(Phase::Cutting, cutting_at, clock.now());
    }

    pool.test_points.at(Point::TimeOverBeforeJoin);
    end_threads(threads, &pool, &mut buffers, &mut report);
    let on_stopped = hooks.start_on_stopped(clock);
    let cut_began_at = (!empty).then_some(cutting_at);
    let on_stopped = on_stopped.wait(|| over_at(&pool, cut_began_at), clock);
    report.hooks.extend(on_stopped);
    report.took = clock.now().saturating_duration_since(plan.begun_at);
    pool.count_answered(&mut buffers);
    count(&pool, &mut report);
    report
}

/// Ends what the grace period was not enough for, within the cut's grace.
fn cut(pool: &Pool, buffers: &mut Buffers, report: &mut Report) {
    let lifecycle = &pool.lifecycle;
    let clock = &lifecycle.clock;
    let reset_at = after(clock.now(), pool.settings.cut_grace);
    let left = || {
        reset_at.map_or(Duration::MAX, |at| {
            at.saturating_duration_since(clock.now())
        })
    };
    lifecycle.enter(Phase::Cutting);
    pool.test_points.at(Point::CuttingBeforeTakeOver);
    close_all(Pass::Within(left()), pool, buffers, report);
    // Only now: a handler that heeds it must not answer in the place of our 503.
    lifecycle.cancelled.raise();
    // A request that was being read, or was on its way to a handler, during a pass comes to rest
    // within a moment.
    loop {
        let again_at = after(clock.now(), CUT_AGAIN);
        if wait_until_empty(pool, |_| earlier(reset_at, again_at)) || left().is_zero() {
            break;
        }
        close_all(Pass::Within(left()), pool, buffers, report);
    }
    report.upgraded.finished = pool.dedicated.finished();
    // The close of an idle connection takes longer than a cut's grace that is very short: a request
    // that crosses it would be dropped unseen.
    let goodbyes_end = after(clock.now(), CUT_GOODBYE);
    while close_all(Pass::Reset, pool, buffers, report) > 0 {
        let again_at = after(clock.now(), CUT_AGAIN);
        if wait_until_empty(pool, |_| earlier(goodbyes_end, again_at))
            || goodbyes_end.is_some_and(|at| at <= clock.now())
        {
            break;
        }
    }
    close_all(Pass::Last, pool, buffers, report);
}

/// Ends the threads, and closes what comes to rest while they end. Threads that do not end are
/// named.
fn end_threads(threads: Threads, pool: &Arc<Pool>, buffers: &mut Buffers, report: &mut Report) {
    // First the dedicated threads, while there are workers to take their connections back.
    let dedicated = pool.dedicated.join(STUCK_AFTER, JOIN_TIMEOUT);
    if report.upgraded.cut == 0 {
        report.upgraded.finished = pool.dedicated.finished();
    }
    report.upgraded.told = report.upgraded.finished + report.upgraded.cut;
    pool.lifecycle.enter(Phase::Stopped);
    report.stuck = join(threads, pool, report);
    close_all(Pass::Last, pool, buffers, report);
    let dedicated = dedicated.into_iter();
    let stuck = dedicated.map(|(thread, key)| stuck(pool, thread, key));
    report.stuck.extend(stuck);
    let thread = pool.leftovers.join(STUCK_AFTER);
    let request = None;
    report
        .stuck
        .extend(thread.map(|thread| StuckWorker { thread, request }));
}

/// Returns the instant at which the stop is over, whatever user code does; `None` is never. If the
/// cut has begun, it counts from then.
fn over_at(pool: &Pool, cut_began_at: Option<Instant>) -> Option<Instant> {
    let cut_at = cut_began_at.or_else(|| cut_at(&pool.lifecycle))?;
    after(after(cut_at, pool.settings.cut_grace)?, END_GRACE)
}

fn cut_at(lifecycle: &Lifecycle) -> Option<Instant> {
    lifecycle.plan().expect("a stop was asked for").cut_at
}

/// Takes what is in the accept backlogs, closes the listeners, and has what was taken served.
fn close_listeners(
    listeners: Vec<Listener>,
    pool: &Pool,
    buffers: &mut Buffers,
    report: &mut Report,
) {
    let lifecycle = &pool.lifecycle;
    let mut closing = Closing::start(listeners, &lifecycle.clock);
    let rtt = longest_round_trip(pool);
    pool.test_points.at(Point::GatedBeforeEmptied);
    let taken_last = loop {
        let state = closing.accept(|| cut_at(lifecycle), rtt, pool);
        let connections = std::mem::take(&mut closing.connections);
        if state != BacklogState::OutOfDescriptors {
            break connections;
        }
        // Out of descriptors: some are needed back before the rest can be taken, those of idle
        // connections first.
        serve(connections, pool, buffers, report);
        hurry_idle(pool, buffers);
        pool.ledger.wake(WakeAt::AnyEnd);
        let until = earlier(
            cut_at(lifecycle),
            after(lifecycle.clock.now(), SHORTAGE_LOOK),
        );
        if wait_for(&[pool.waker.as_fd()], lifecycle.clock.until(until)) {
            pool.waker.reset();
        }
        if cut_at(lifecycle).is_some_and(|at| at <= lifecycle.clock.now()) {
            let line = "no descriptors were left for the rest of the accept backlog";
            closing.errors.push(line.to_owned());
            break Vec::new();
        }
    };
    let listeners = &mut report.listeners;
    listeners.without_syn_gate = closing.ungated;
    listeners.errors.append(&mut closing.errors);
    let (took, left) = closing.close();
    listeners.syn_gate = took;
    listeners.backlog_reset += left;
    serve(taken_last, pool, buffers, report);
}

/// Hands connections from the backlog to the pool. A connection for which there is no slot is reset
/// and counted: the stop is not clean then.
fn serve(connections: Vec<Accepted>, pool: &Pool, buffers: &mut Buffers, report: &mut Report) {
    for accepted in connections {
        match pool.adopt(accepted) {
            Some(new) => {
                report.listeners.backlog_served += 1;
                queue(new, pool, buffers);
            }
            None => report.listeners.backlog_reset += 1,
        }
    }
}

/// Queues a new connection for whoever serves next.
fn queue((key, conn): (u32, Box<Conn>), pool: &Pool, buffers: &mut Buffers) {
    let mut cx = pool.serve_context(buffers);
    pool.settle_or_queue(key, conn, LetGo::Queue(Queue::Ready), &mut cx);
}

/// Returns the longest round trip time of all connected clients.
fn longest_round_trip(pool: &Pool) -> Duration {
    let lines = pool
        .table
        .keys()
        .filter_map(|key| pool.table.slot(key).egress());
    lines
        .filter_map(|egress| Some(egress.transport().info()?.rtt))
        .max()
        .unwrap_or_default()
}

/// Gives each idle connection the deadline that it has while draining, and has the owner of each
/// other connection look at the phase once more before it parks the connection.
fn hurry_idle(pool: &Pool, buffers: &mut Buffers) {
    for key in pool.table.keys() {
        let slot = pool.table.slot(key);
        // As if an event had come: the owner of the connection finds the mark when it parks.
        if !slot.word.claim_by_event(false) {
            continue;
        }
        let mut cx = pool.serve_context(buffers);
        // To park a connection sets the deadline for the phase that the server is in.
        pool.settle_or_queue(key, slot.take(), LetGo::Park, &mut cx);
    }
}

/// Waits until the last connection has ended, or until `deadline`, which is asked again after each
/// wake-up because the plan may change. Returns whether the last connection has ended.
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

/// Logs one line that says what the stop still waits for.
fn tell_progress(pool: &Pool, until: Option<Instant>, now: Instant) {
    let (mut n, mut upgraded, mut oldest) = (0_usize, 0_usize, None::<(Instant, String)>);
    for egress in pool
        .table
        .keys()
        .filter_map(|key| pool.table.slot(key).egress())
    {
        if egress.is_upgraded() {
            upgraded += 1;
        } else if let Some((request, _)) = egress.in_flight() {
            n += 1;
            if oldest
                .as_ref()
                .is_none_or(|(since, _)| request.since < *since)
            {
                oldest = Some((
                    request.since,
                    format!("{} {}", request.method, request.target.path()),
                ));
            }
        }
    }
    let oldest = oldest.map_or_else(String::new, |(since, name)| {
        format!(
            " (oldest {name}, {})",
            Short(now.saturating_duration_since(since))
        )
    });
    let left = until.map_or_else(String::new, |at| {
        format!(", {} left", Short(at.saturating_duration_since(now)))
    });
    let open = pool.ledger.len();
    let upgraded = if upgraded > 0 {
        format!(", {upgraded} upgraded")
    } else {
        String::new()
    };
    logging::info!(
        "{}: {n} in flight{oldest}{upgraded}, {open} open{left}",
        pool.lifecycle.phase()
    );
}

/// What a pass of [`close_all`] gives the connections that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// So much time for responses that have begun, for 503s to arrive, and for goodbyes.
    Within(Duration),
    /// No time, but for connections that say goodbye: what is not with the kernel is reset.
    Reset,
    /// No time for any.
    Last,
}

/// Answers 503 to every request whose response is not begun, wherever it is, and sees to it that
/// each connection ends.
///
/// A connection that another thread owns is only taken over: its owner finds that it may not write,
/// and lets go of it. In the last pass it is reset too, which frees an owner that waits for the
/// peer. Its requests are named here, and those that nobody has read by the thread that closes it.
///
/// Returns how many connections say goodbye after the pass.
fn close_all(pass: Pass, pool: &Pool, buffers: &mut Buffers, report: &mut Report) -> usize {
    let refusal = refusal(&pool.lifecycle);
    let mut goodbyes = 0;
    let (within, resets) = match pass {
        Pass::Within(within) => (within, false),
        Pass::Reset | Pass::Last => (Duration::ZERO, true),
    };
    take_accepted(pool, buffers);
    for key in pool.table.keys() {
        let slot = pool.table.slot(key);
        let Some(egress) = slot.egress() else {
            continue;
        };
        // A request that was in flight before this pass has had its time, also for its 503 to
        // arrive.
        let was_in_flight = egress.in_flight().is_some();
        let mut cx = pool.serve_context(buffers);
        let owned = slot.word.claim_parked().map(|_| {
            let mut conn = slot.take();
            let over = conn.check_before_cut(within, &mut cx);
            (conn, over)
        });
        let taken = egress.take_over(&refusal);
        note_answered(&taken, &egress, cx.now, report);
        if resets {
            note_unfinished(&egress, cx.now, report);
        }
        let Some((mut conn, over)) = owned else {
            if resets && was_in_flight {
                egress.reset_from_outside();
            }
            continue;
        };
        let says_goodbye = conn.says_goodbye();
        goodbyes += usize::from(says_goodbye);
        let how = match pass {
            Pass::Reset if says_goodbye => LetGo::Park,
            Pass::Within(_) if matches!(taken, TakeOver::Answered(_)) => {
                conn.close_after_flush(CloseReason::Cut, &cx);
                LetGo::Queue(Queue::Ready)
            }
            Pass::Within(_) => over.map_or(LetGo::Queue(Queue::Ready), LetGo::Close),
            Pass::Reset | Pass::Last => {
                let lingered = conn.end_lingering(&mut cx);
                let is_cut = was_in_flight || conn.egress.pending() > 0;
                LetGo::Close(if is_cut {
                    CloseReason::Cut
                } else {
                    lingered.or(over).unwrap_or(CloseReason::Stopping)
                })
            }
        };
        pool.settle_or_queue(key, conn, how, &mut cx);
    }
    goodbyes
}

/// Gives slots to the connections that are still on their way to a worker, which may have sent
/// requests.
fn take_accepted(pool: &Pool, buffers: &mut Buffers) {
    while !pool.accepted.is_empty() {
        if let Some(new) = pool.take_accepted() {
            queue(new, pool, buffers);
        }
    }
}

/// A request that does not get its complete response, as the report names it.
fn unanswered(egress: &Egress, request: InFlight, fate: Fate, now: Instant) -> UnansweredRequest {
    UnansweredRequest {
        peer: egress.peer_addr(),
        method: request.method,
        target: request.target,
        age: now.saturating_duration_since(request.since),
        fate,
    }
}

/// Names a request that was answered with 503.
fn note_answered(taken: &TakeOver, egress: &Egress, now: Instant, report: &mut Report) {
    let TakeOver::Answered(request) = taken else {
        return;
    };
    let fate = if request.started {
        Fate::Answered503
    } else {
        Fate::NeverStarted
    };
    report
        .unanswered
        .push(unanswered(egress, request.clone(), fate, now));
}

/// Names the requests whose responses are about to be cut, and the upgraded connection.
fn note_unfinished(egress: &Egress, now: Instant, report: &mut Report) {
    let upgraded = egress.is_upgraded();
    let unfinished = egress.take_unfinished();
    // A connection whose thread is stuck is met by each last pass, and taken by the first.
    if upgraded && !unfinished.is_empty() {
        report.upgraded.cut += 1;
    }
    let unfinished = unfinished.into_iter();
    report
        .unanswered
        .extend(unfinished.map(|(request, bytes_sent)| {
            let fate = if upgraded {
                Fate::UpgradeCut { bytes_sent }
            } else {
                Fate::Cut { bytes_sent }
            };
            unanswered(egress, request, fate, now)
        }));
}

/// Encodes the 503 for a request that the server will not serve any more.
fn refusal(lifecycle: &Lifecycle) -> Vec<u8> {
    let date = reply::http_date(lifecycle.clock.wall());
    let mut out = Vec::new();
    let retry_after = [(http::header::RETRY_AFTER, RETRY_AFTER)];
    let reason = "the server is stopping and could not finish this request";
    reply::write_refusal(
        &mut out,
        StatusCode::SERVICE_UNAVAILABLE,
        reason,
        &date,
        &retry_after,
        true,
    );
    out
}

/// Ends a server whose stop has failed: its threads are told to end, and what is known of its
/// connections is reported with the fault.
pub(super) fn give_up(handle: &ServerHandle, fault: String) -> Report {
    let plan = handle.lifecycle().plan();
    let mut report = Report::new(plan.map_or(StopCause::Handle, |plan| plan.cause));
    handle.lifecycle().enter(Phase::Stopped);
    if let Some(pool) = handle.pool() {
        pool.dismiss_threads();
        count(&pool, &mut report);
    }
    report.faults.push(fault);
    report
}

/// Waits for the pool's threads, but not for a thread that sits in a handler. Returns those that
/// are left behind.
fn join(threads: Threads, pool: &Pool, report: &mut Report) -> Vec<StuckWorker> {
    let Threads { handles, ended } = threads;
    pool.dismiss_threads();
    let clock = &pool.lifecycle.clock;
    let began = clock.now();
    let mut running: Vec<_> = handles.into_iter().map(Some).collect();
    while running.iter().any(Option::is_some) {
        let waited = clock.now().saturating_duration_since(began);
        let in_handler = |i: usize| {
            pool.worker_states
                .get(i)
                .is_some_and(|state| state.word.look().is_in_call())
        };
        let only_stuck = running
            .iter()
            .enumerate()
            .all(|(i, handle)| handle.is_none() || in_handler(i));
        if waited >= JOIN_TIMEOUT || only_stuck && waited >= STUCK_AFTER {
            break;
        }
        match ended.recv_timeout(STUCK_AFTER) {
            Ok(thread) => {
                let Some(handle) = running[thread].take() else {
                    continue;
                };
                let name = handle.thread().name().unwrap_or_default().to_owned();
                if handle.join().is_err() {
                    report.faults.push(format!("{name} panicked"));
                }
            }
            Err(_) => continue,
        }
    }
    let left = running.into_iter().enumerate().filter_map(|(i, handle)| {
        let name = handle?.thread().name().unwrap_or_default().to_owned();
        Some(stuck(
            pool,
            name,
            pool.worker_states
                .get(i)
                .map_or(u32::MAX, |state| state.key.load(Relaxed)),
        ))
    });
    left.collect()
}

/// Names a thread that is left behind, and the request it serves.
fn stuck(pool: &Pool, thread: String, key: u32) -> StuckWorker {
    let now = pool.lifecycle.clock.now();
    let egress = pool.table.get(key).and_then(|slot| slot.egress());
    let request = egress.and_then(|egress| egress.in_flight());
    let request = request.map(|(request, _)| {
        (
            request.method,
            request.target,
            now.saturating_duration_since(request.since),
        )
    });
    StuckWorker { thread, request }
}

/// Adds the counts of the server's whole life to the report.
///
/// The connections of threads that were left behind have not ended. What is known of their requests
/// is taken from their egress.
fn count(pool: &Pool, report: &mut Report) {
    let left = pool
        .table
        .keys()
        .filter_map(|key| pool.table.slot(key).egress());
    left.for_each(|egress| pool.ledger.enter_requests(egress.close_books(false)));
    let open = pool.ledger.len();
    report.accepted = pool.ledger.accepted();
    report.requests = pool.ledger.requests();
    report.unlisted = pool.ledger.unlisted();
    report.listeners.accept_paused = pool.ledger.paused();
    report.unanswered.append(&mut pool.ledger.take_unanswered());
    report.cut_connections = pool.ledger.take_cut_connections();
    report.faults.append(&mut pool.ledger.take_faults());
    report.answered = Phase::ALL
        .iter()
        .map(|phase| (*phase, pool.answered(*phase)))
        .filter(|(_, n)| *n > 0)
        .collect();
    let closed = CloseReason::ALL
        .iter()
        .map(|reason| (*reason, pool.ledger.ended(*reason)));
    report.closed = closed.filter(|(_, n)| *n > 0).collect();
    report.balance(open);
}
