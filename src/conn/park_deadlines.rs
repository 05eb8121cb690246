//! A parked connection: what it waits for, until when, and what happens at its deadline.

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::conn::serve_context::ServeContext;
use crate::conn::stage::{
    Call, Conn, Next, Source, Stage, WaitsForRoom, body_progress_limit, write_progress_limit,
};
use crate::conn::transport::Look;
use crate::lifecycle::ledger::CloseReason;
use crate::lifecycle::phase::Phase;
use crate::settings::{
    CUT_GOODBYE, DISCARD_TIMEOUT, GOODBYE_ROUND_TRIPS, LINGER_QUIET, MAX_GOODBYE, MAX_ROOM_TIMEOUT,
    MIN_GOODBYE,
};
use crate::sys::poller::SocketEvents;
use crate::sys::waker::wait_writable;
use crate::wire::Refusal;

/// What has to be done with a connection whose deadline is over, or that may be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// Nothing: its deadline has moved.
    Wait,
    /// Advance it: it has something to do.
    Advance,
    /// Nothing, but its request has waited long for room among the slow ones.
    WaitsLong,
    /// Close it.
    Close(CloseReason),
}

impl Conn {
    /// Has the connection wait for a worker, with the call that `advance` asked for if there is
    /// one.
    pub(crate) fn wait_for_worker(&mut self, call: Option<Call>) {
        if let Some(call) = call {
            self.stage = Stage::Call(Box::new(call));
        }
    }

    /// Has a request wait for room among the slow ones, and after a while for any worker that has
    /// nothing else to do.
    pub(crate) fn wait_for_room(&mut self) {
        if self.room == WaitsForRoom::No {
            self.room = WaitsForRoom::Yes;
        }
    }

    /// Whether the request has waited long for room among the slow ones.
    pub(crate) fn has_waited_long_for_room(&self) -> bool {
        self.room == WaitsForRoom::Long
    }

    /// Has the connection wait for a worker in the middle of its response.
    pub(crate) fn wait_for_worker_midway(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Flush(_))
            && !std::mem::replace(&mut self.waits_for_worker, true)
        {
            self.since = now;
        }
    }

    /// Has a request wait for the cut, since no handler is called any more. The drain answers it,
    /// unless it has done so already.
    pub(crate) fn wait_for_cut(&mut self, call: Call, cx: &ServeContext<'_>) {
        self.wait_for_worker(Some(call));
        if self.egress.is_refused() {
            self.close_after_flush(CloseReason::Cut, cx);
            self.note_events(SocketEvents::ANY);
        }
    }

    /// Whether the poller has to report room to write before the connection is parked.
    pub(crate) fn needs_writable(&self) -> bool {
        self.egress.has_unsent()
            || matches!(&self.stage, Stage::Flush(flush) if matches!(flush.source, Source::Bytes(_)))
    }

    /// Gives the lent buffer back before the connection is parked, which keeps no more than the
    /// bytes it holds.
    pub(crate) fn release_buffer(&mut self, cx: &mut ServeContext<'_>) {
        self.recv_buf.release(&mut cx.buffers.read);
    }

    /// Returns when the connection has to be looked at if nothing happens until then.
    pub(crate) fn deadline(&mut self, cx: &ServeContext<'_>) -> Option<Instant> {
        if self.yielded {
            return None;
        }
        let settings = cx.settings;
        let draining = cx.lifecycle.phase() >= Phase::Draining;
        let timeout = match &mut self.stage {
            Stage::Fresh if draining => settings.idle_grace.min(settings.head_timeout),
            Stage::Idle if draining => {
                let grace = idle_grace(settings.idle_grace, self.was_idle_for);
                grace.min(settings.idle_timeout)
            }
            Stage::Fresh | Stage::Head => settings.head_timeout,
            Stage::Idle => settings.idle_timeout,
            Stage::Call(_) | Stage::Push(_) if self.room == WaitsForRoom::Yes => {
                (settings.queue_timeout / 2).min(MAX_ROOM_TIMEOUT)
            }
            Stage::Call(_) | Stage::Push(_) | Stage::Dedicated(_) => settings.queue_timeout,
            Stage::Flush(_) if self.waits_for_worker => settings.queue_timeout,
            Stage::Discard(_) => DISCARD_TIMEOUT,
            Stage::Body(collecting) => {
                return Some(
                    collecting
                        .progress
                        .check(
                            cx.now,
                            collecting.received_bytes,
                            body_progress_limit(settings),
                        )
                        .unwrap_or(cx.now),
                );
            }
            Stage::Flush(flush) => match &mut flush.progress {
                Some(progress) if progress.is_waiting() => {
                    let count = self.egress.acknowledged();
                    return Some(
                        progress
                            .check(cx.now, count, write_progress_limit(settings))
                            .unwrap_or(cx.now),
                    );
                }
                // The connection is being served.
                _ => return None,
            },
            Stage::Linger(linger) => {
                let end = linger.until;
                let quiet = linger.heard_at + linger.quiet_period();
                return Some(if quiet > cx.now {
                    quiet.min(end)
                } else {
                    end.min(cx.now + LINGER_QUIET)
                });
            }
            Stage::Moved => unreachable!("a connection is parked in a stage"),
        };
        self.since.checked_add(timeout)
    }

    /// Decides what happens to a parked connection whose deadline is over.
    pub(crate) fn overdue(&mut self, cx: &mut ServeContext<'_>) -> Overdue {
        if self.deadline(cx).is_none_or(|at| at > cx.now) && !matches!(self.stage, Stage::Linger(_))
        {
            return Overdue::Wait;
        }
        match &self.stage {
            // The connection comes from a dedicated thread, and its response has still to be sent.
            Stage::Idle if self.egress.has_unsent() => Overdue::Advance,
            Stage::Fresh | Stage::Idle => self.overdue_idle(cx),
            Stage::Head => self.refuse_overdue(
                StatusCode::REQUEST_TIMEOUT,
                "the request head took too long",
                cx,
            ),
            Stage::Body(_) => self.refuse_overdue(
                StatusCode::REQUEST_TIMEOUT,
                "the request body came too slowly",
                cx,
            ),
            Stage::Call(_) | Stage::Push(_) if self.room == WaitsForRoom::Yes => {
                self.room = WaitsForRoom::Long;
                Overdue::WaitsLong
            }
            Stage::Call(_) | Stage::Push(_) | Stage::Dedicated(_) => self.refuse_overdue(
                StatusCode::SERVICE_UNAVAILABLE,
                "the server is too busy",
                cx,
            ),
            // Only the missing end can tell the peer.
            Stage::Flush(_) if self.waits_for_worker => {
                self.egress.transport().reset();
                Overdue::Close(CloseReason::Overloaded)
            }
            // There is room to write: we are late, not the peer.
            Stage::Flush(_) if wait_writable(self.egress.transport().as_fd(), Duration::ZERO) => {
                Overdue::Advance
            }
            Stage::Flush(_) => {
                self.egress.transport().reset();
                Overdue::Close(CloseReason::Stalled)
            }
            Stage::Discard(_) => {
                self.close_after_flush(CloseReason::Refused, cx);
                Overdue::Advance
            }
            Stage::Linger(_) => self.overdue_linger(cx),
            Stage::Moved => unreachable!("a connection is parked in a stage"),
        }
    }

    /// Decides what happens to a connection that was silent between requests for too long.
    fn overdue_idle(&mut self, cx: &mut ServeContext<'_>) -> Overdue {
        match self.egress.transport().look() {
            // A request that came in time is served, although no thread has handled its event.
            Look::Bytes => {
                self.note_events(SocketEvents::BYTES);
                Overdue::Advance
            }
            Look::End => Overdue::Close(CloseReason::PeerClosed),
            Look::Broken => Overdue::Close(CloseReason::Broken),
            // A peer that reads its last response slowly is not idle: its next request would meet a
            // closed connection.
            Look::Silence if self.was_heard_lately(cx) => Overdue::Wait,
            // A request may cross our FIN: the peer sees our end only after a round trip, and a
            // peer that does not watch its idle connections sees it when it writes.
            Look::Silence if cx.lifecycle.phase() >= Phase::Draining => {
                self.begin_linger(CloseReason::IdleStopping, self.goodbye_time(), cx);
                Overdue::Advance
            }
            Look::Silence if matches!(self.stage, Stage::Fresh) => {
                Overdue::Close(CloseReason::Silent)
            }
            Look::Silence => Overdue::Close(CloseReason::Idle),
        }
    }

    /// Decides whether a lingering close is over.
    fn overdue_linger(&mut self, cx: &mut ServeContext<'_>) -> Overdue {
        let Stage::Linger(linger) = &self.stage else {
            unreachable!("the connection lingers in this stage")
        };
        let (heard_at, until, reason) = (linger.heard_at, linger.until, linger.reason);
        let quiet = linger.quiet_period();
        if cx.now >= until {
            self.end_lingering(cx);
            return Overdue::Close(reason);
        }
        let quiet = cx.now.saturating_duration_since(heard_at) >= quiet;
        // The bytes written to a unix socket are with the peer.
        let is_local = self.egress.peer_addr().is_none();
        let acknowledged = || {
            is_local
                || self
                    .egress
                    .transport()
                    .info()
                    .is_some_and(|info| info.is_fin_wait2)
        };
        if quiet && acknowledged() {
            Overdue::Close(reason)
        } else {
            Overdue::Wait
        }
    }

    /// Returns since when nothing is under way: no byte of a request has come, and the last
    /// response was sent.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        matches!(self.stage, Stage::Fresh | Stage::Idle).then_some(self.since)
    }

    /// Decides whether to evict this connection, from which nothing was heard for `idle_for`.
    pub(crate) fn check_eviction(&mut self, idle_for: Duration, cx: &ServeContext<'_>) -> Overdue {
        // A new connection has had no response yet. It gets the time that it would get at the stop;
        // otherwise clients would be accepted only to be evicted for the next ones.
        let (least, since) = match self.stage {
            Stage::Fresh => (cx.settings.idle_grace, self.since),
            Stage::Idle => (idle_for, self.since),
            _ => return Overdue::Wait,
        };
        if self.egress.has_unsent() || cx.now.saturating_duration_since(since) < least {
            return Overdue::Wait;
        }
        let transport = self.egress.transport();
        match transport.look() {
            Look::Bytes => {
                self.note_events(SocketEvents::BYTES);
                Overdue::Advance
            }
            Look::End => Overdue::Close(CloseReason::PeerClosed),
            Look::Broken => Overdue::Close(CloseReason::Broken),
            // The next request would meet a closed connection, whose RST destroys what the peer has
            // not read.
            Look::Silence
                if transport
                    .info()
                    .is_some_and(|info| !self.egress.is_acknowledged(info)) =>
            {
                Overdue::Wait
            }
            Look::Silence => Overdue::Close(CloseReason::Evicted),
        }
    }

    /// Whether, while draining, the peer's kernel was heard within the idle grace, or the peer
    /// takes its time with what was sent.
    fn was_heard_lately(&mut self, cx: &ServeContext<'_>) -> bool {
        if cx.lifecycle.phase() < Phase::Draining || !cx.lifecycle.clock.is_the_kernels() {
            return false;
        }
        let Some(info) = self.egress.transport().info() else {
            return false;
        };
        let grace = cx.settings.idle_grace;
        if info.silent_for < grace {
            self.since = cx.now.checked_sub(info.silent_for).unwrap_or(cx.now);
            return true;
        }
        // The kernel probes a closed window ever more seldom.
        let reading =
            !self.egress.is_acknowledged(info) && info.silent_for < cx.settings.write_timeout;
        if reading {
            self.since = cx.now;
        }
        reading
    }

    fn refuse_overdue(
        &mut self,
        status: StatusCode,
        reason: &'static str,
        cx: &mut ServeContext<'_>,
    ) -> Overdue {
        self.refuse(Refusal { status, reason }, cx);
        Overdue::Advance
    }

    /// Returns how long a request that crosses our end of an idle connection may take to come.
    fn goodbye_time(&self) -> Duration {
        let rtt = self.egress.transport().info().map(|info| info.rtt);
        (MIN_GOODBYE + GOODBYE_ROUND_TRIPS * rtt.unwrap_or_default()).min(MAX_GOODBYE)
    }

    /// Looks at the connection once more at the cut: a request that is here already gets an answer,
    /// and an idle connection lingers for at most `within`, or [`CUT_GOODBYE`] if that is longer.
    /// Returns why to close the connection if it is over.
    pub(crate) fn check_before_cut(
        &mut self,
        within: Duration,
        cx: &mut ServeContext<'_>,
    ) -> Option<CloseReason> {
        if !matches!(
            self.stage,
            Stage::Fresh | Stage::Idle | Stage::Head | Stage::Discard(_)
        ) {
            return None;
        }
        self.note_events(SocketEvents::ANY);
        match self.advance(cx) {
            Next::Call(call) => self.wait_for_worker(Some(call)),
            Next::Close(reason) => return Some(reason),
            Next::Park | Next::Yield | Next::Pull | Next::Push | Next::DedicatedThread => {}
        }
        match self.stage {
            Stage::Fresh | Stage::Idle => {
                let goodbye = self.goodbye_time().min(within.max(CUT_GOODBYE));
                self.begin_linger(CloseReason::IdleStopping, goodbye, cx);
            }
            // The responses to earlier requests have still to be sent.
            Stage::Head if self.egress.pending() > 0 => {}
            Stage::Head => {
                self.name_cut();
                return Some(CloseReason::Cut);
            }
            // Its response is complete; only the request's body is still coming.
            Stage::Discard(_) => self.close_after_flush(CloseReason::Refused, cx),
            _ => {}
        }
        None
    }

    /// Whether the connection was idle, and is closed with time for a request that crosses the
    /// close.
    pub(crate) fn says_goodbye(&self) -> bool {
        matches!(&self.stage, Stage::Linger(linger) if linger.reason == CloseReason::IdleStopping)
    }
}

/// Returns the idle grace of a connection that was idle for `last` before its last request.
///
/// A client that polls steadily at about the grace would send its next request just when it meets
/// our close. Its connection is kept somewhat longer, so that this request comes, and its response
/// says `Connection: close`.
fn idle_grace(grace: Duration, last: Duration) -> Duration {
    let margin = grace / 4;
    if last.abs_diff(grace) <= margin {
        last + margin
    } else {
        grace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(last: u64, expected: u64) {
        let grace = idle_grace(Duration::from_millis(1300), Duration::from_millis(last));
        assert_eq!(grace, Duration::from_millis(expected));
    }

    #[test]
    fn a_steady_interval_of_about_the_grace_is_waited_for() {
        check(0, 1300);
        check(974, 1300);
        check(975, 1300);
        check(1300, 1625);
        check(1625, 1950);
        check(1626, 1300);
        check(60_000, 1300);
        assert_eq!(idle_grace(Duration::ZERO, Duration::ZERO), Duration::ZERO);
    }
}
