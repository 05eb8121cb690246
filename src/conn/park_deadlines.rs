//! A connection that nobody serves: what it waits for, until when, and what a deadline that is over
//! leads to.

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::conn::serve_context::ServeContext;
use crate::conn::stage::{
    Call, Conn, Next, Source, Stage, body_progress_limit, write_progress_limit,
};
use crate::conn::transport::Look;
use crate::lifecycle::ledger::CloseReason;
use crate::lifecycle::phase::Phase;
use crate::settings::{DISCARD_TIMEOUT, LINGER_QUIET, LINGER_TIMEOUT, MIN_GOODBYE};
use crate::sys::poller::SocketEvents;
use crate::sys::waker::wait_writable;
use crate::wire::Refusal;

/// What a deadline that is over, or a want of room, leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// It is not over any more.
    Wait,
    /// The connection has something to do: advance it.
    Advance,
    /// It is over.
    Close(CloseReason),
}

impl Conn {
    /// The owner could not go on with what `advance` asked for: it waits for a worker.
    pub(crate) fn wait_for_worker(&mut self, call: Option<Call>) {
        if let Some(call) = call {
            self.stage = Stage::Call(Box::new(call));
        }
    }

    /// The same for what is asked for in the middle of a response.
    pub(crate) fn wait_for_reader(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Flush(_))
            && !std::mem::replace(&mut self.waits_for_worker, true)
        {
            self.since = now;
        }
    }

    /// No handler is called any more: the drain answers, if it has not yet.
    pub(crate) fn wait_for_the_cut(&mut self, call: Call, cx: &ServeContext<'_>) {
        self.wait_for_worker(Some(call));
        if self.egress.is_refused() {
            self.close_after_flush(CloseReason::Cut, cx);
            self.note_events(SocketEvents::ANY);
        }
    }

    /// Whether room to write has to be told of before the connection is parked.
    pub(crate) fn wants_room(&self) -> bool {
        self.egress.has_unsent()
            || matches!(&self.stage, Stage::Flush(flush) if matches!(flush.source, Source::Bytes(_)))
    }

    /// Before the connection is parked: it keeps no more than the bytes it holds.
    pub(crate) fn give_back(&mut self, cx: &mut ServeContext<'_>) {
        self.recv_buf.give_back(&mut cx.buffers.read);
    }

    /// When the connection has to be looked at if nothing happens until then.
    pub(crate) fn deadline(&mut self, cx: &ServeContext<'_>) -> Option<Instant> {
        if self.yielded {
            return None;
        }
        let settings = cx.settings;
        let draining = cx.lifecycle.phase() >= Phase::Draining;
        let timeout = match &mut self.stage {
            Stage::Fresh if draining => settings.idle_grace.min(settings.head_timeout),
            Stage::Idle if draining => settings.idle_grace.min(settings.idle_timeout),
            Stage::Fresh | Stage::Head => settings.head_timeout,
            Stage::Idle => settings.idle_timeout,
            Stage::Call(_) | Stage::Push(_) | Stage::Dedicated(_) => settings.queue_timeout,
            Stage::Flush(_) if self.waits_for_worker => settings.queue_timeout,
            Stage::Discard(_) => DISCARD_TIMEOUT,
            Stage::Body(collecting) => {
                return Some(
                    collecting
                        .progress
                        .check(cx.now, collecting.came, body_progress_limit(settings))
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
                // It is being served.
                _ => return None,
            },
            Stage::Linger(linger) => {
                let end = linger.until;
                let quiet = linger.heard_at + linger.quiet();
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

    /// The deadline of a parked connection is over.
    pub(crate) fn overdue(&mut self, cx: &mut ServeContext<'_>) -> Overdue {
        if self.deadline(cx).is_none_or(|at| at > cx.now) && !matches!(self.stage, Stage::Linger(_))
        {
            return Overdue::Wait;
        }
        match &self.stage {
            // It comes from a thread of its own, and its answer has still to be sent.
            Stage::Idle if self.egress.has_unsent() => Overdue::Advance,
            Stage::Fresh | Stage::Idle => match self.egress.transport().look() {
                // A request that came in time is served, although its event was not.
                Look::Bytes => {
                    self.note_events(SocketEvents::BYTES);
                    Overdue::Advance
                }
                Look::End => Overdue::Close(CloseReason::PeerClosed),
                Look::Broken => Overdue::Close(CloseReason::Broken),
                // Who reads its last response slowly is not idle: its next request would meet a
                // closed connection.
                Look::Silence if self.was_heard_lately(cx) => Overdue::Wait,
                // A request may be on its way while ours is: our end is seen after a round trip,
                // and who does not watch its idle connections sees it when it writes.
                Look::Silence if cx.lifecycle.phase() >= Phase::Draining => {
                    self.say_goodbye(CloseReason::IdleStopping, self.goodbye_time(), cx);
                    Overdue::Advance
                }
                Look::Silence if matches!(self.stage, Stage::Fresh) => {
                    Overdue::Close(CloseReason::Silent)
                }
                Look::Silence => Overdue::Close(CloseReason::Idle),
            },
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
            Stage::Call(_) | Stage::Push(_) | Stage::Dedicated(_) => self.refuse_overdue(
                StatusCode::SERVICE_UNAVAILABLE,
                "the server is too busy",
                cx,
            ),
            // It cannot be told any more than by the missing end.
            Stage::Flush(_) if self.waits_for_worker => {
                self.egress.transport().reset();
                Overdue::Close(CloseReason::Overloaded)
            }
            // There is room: it is our turn that is late, not the peer's.
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
            Stage::Linger(linger) => {
                let (heard_at, until, reason) = (linger.heard_at, linger.until, linger.reason);
                let quiet = linger.quiet();
                if cx.now >= until {
                    self.end_lingering(cx);
                    return Overdue::Close(reason);
                }
                let quiet = cx.now.saturating_duration_since(heard_at) >= quiet;
                // What was written to a unix socket is with the peer.
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
            Stage::Moved => unreachable!("a connection is parked in a stage"),
        }
    }

    /// Since when nothing is under way: no byte of a request has come, and the last response was
    /// left to the kernel.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        matches!(self.stage, Stage::Fresh | Stage::Idle).then_some(self.since)
    }

    /// Room is needed: whether this connection, of which nothing was heard for `idle_for`, is one
    /// to give up.
    pub(crate) fn make_room(&mut self, idle_for: Duration, cx: &ServeContext<'_>) -> Overdue {
        // A new one has had no answer yet. It gets the time that it would get at the stop, or
        // clients would be accepted only to be sent away for the next.
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
            // Its next request would meet a closed connection, whose RST destroys what it has not
            // read.
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

    /// While draining: whether the peer's kernel was heard within the idle grace, or takes its time
    /// with what was sent.
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
        // A window that is closed is probed ever more seldom.
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

    /// How long a request that crosses our end of an idle connection may take to come.
    fn goodbye_time(&self) -> Duration {
        let rtt = self.egress.transport().info().map(|info| info.rtt);
        (MIN_GOODBYE + 2 * rtt.unwrap_or_default()).min(LINGER_TIMEOUT)
    }

    /// At the cut: a request that is here already gets an answer, and an idle connection a goodbye
    /// of at most `within`. Returns why to close the connection, if nothing is on its way to the
    /// peer that a last second could complete.
    pub(crate) fn look_once_more(
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
                let goodbye = self.goodbye_time().min(within);
                self.say_goodbye(CloseReason::IdleStopping, goodbye, cx);
                None
            }
            Stage::Head | Stage::Discard(_) if self.egress.pending() == 0 => Some(CloseReason::Cut),
            _ => None,
        }
    }
}
