//! A connection that nobody serves: what it waits for, until when, and what a deadline that is over
//! leads to.

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::conn::serve_context::Turn;
use crate::conn::stages::{Call, Conn, Next, Source, Stage, body_demand, write_demand};
use crate::conn::transport::Look;
use crate::lifecycle::ledger::CloseReason;
use crate::lifecycle::phase::Phase;
use crate::settings::{DISCARD_TIMEOUT, GOODBYE_MIN, LINGER_QUIET, LINGER_TIMEOUT};
use crate::sys::waker::wait_for_peer;
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
        if matches!(self.stage, Stage::Flush(_)) && !std::mem::replace(&mut self.starved, true) {
            self.since = now;
        }
    }

    /// No handler is called any more: the drain answers, if it has not yet.
    pub(crate) fn wait_for_the_cut(&mut self, call: Call, turn: &Turn<'_>) {
        self.wait_for_worker(Some(call));
        if self.line.is_refused() {
            self.close_after_flush(CloseReason::Cut, turn);
            self.tell(true, true);
        }
    }

    /// Whether room to write has to be told of before the connection is parked.
    pub(crate) fn wants_room(&self) -> bool {
        self.line.has_unsent()
            || matches!(&self.stage, Stage::Flush(flush) if matches!(flush.source, Source::Bytes(_)))
    }

    /// Before the connection is parked: it keeps no more than the bytes it holds.
    pub(crate) fn give_back(&mut self, turn: &mut Turn<'_>) {
        self.inbox.give_back(&mut turn.buffers.read);
    }

    /// When the connection has to be looked at if nothing happens until then.
    pub(crate) fn deadline(&mut self, turn: &Turn<'_>) -> Option<Instant> {
        if self.yielded {
            return None;
        }
        let settings = turn.settings;
        let draining = turn.lifecycle.phase() >= Phase::Draining;
        let timeout = match &mut self.stage {
            Stage::Fresh if draining => settings.idle_grace.min(settings.head_timeout),
            Stage::Idle if draining => settings.idle_grace.min(settings.idle_timeout),
            Stage::Fresh | Stage::Head => settings.head_timeout,
            Stage::Idle => settings.idle_timeout,
            Stage::Call(_) | Stage::Push(_) | Stage::Own(_) => settings.queue_timeout,
            Stage::Flush(_) if self.starved => settings.queue_timeout,
            Stage::Discard(_) => DISCARD_TIMEOUT,
            Stage::Body(collecting) => {
                return Some(
                    collecting
                        .patience
                        .check(turn.now, collecting.came, body_demand(settings))
                        .unwrap_or(turn.now),
                );
            }
            Stage::Flush(flush) => match &mut flush.patience {
                Some(patience) if patience.is_waiting() => {
                    let count = self.line.acknowledged();
                    return Some(
                        patience
                            .check(turn.now, count, write_demand(settings))
                            .unwrap_or(turn.now),
                    );
                }
                // It is being served.
                _ => return None,
            },
            Stage::Linger(linger) => {
                let end = linger.until;
                let quiet = linger.heard_at + linger.quiet();
                return Some(if quiet > turn.now {
                    quiet.min(end)
                } else {
                    end.min(turn.now + LINGER_QUIET)
                });
            }
            Stage::Taken => unreachable!("a connection is parked in a stage"),
        };
        self.since.checked_add(timeout)
    }

    /// The deadline of a parked connection is over.
    pub(crate) fn overdue(&mut self, turn: &mut Turn<'_>) -> Overdue {
        if self.deadline(turn).is_none_or(|at| at > turn.now)
            && !matches!(self.stage, Stage::Linger(_))
        {
            return Overdue::Wait;
        }
        match &self.stage {
            // It comes from a thread of its own, and its answer has still to be sent.
            Stage::Idle if self.line.has_unsent() => Overdue::Advance,
            Stage::Fresh | Stage::Idle => match self.line.transport().look() {
                // A request that came in time is served, although its event was not.
                Look::Bytes => {
                    self.tell(true, false);
                    Overdue::Advance
                }
                Look::End => Overdue::Close(CloseReason::PeerClosed),
                Look::Broken => Overdue::Close(CloseReason::Broken),
                // Who reads its last response slowly is not idle: its next request would meet a
                // closed connection.
                Look::Silence if self.was_heard_lately(turn) => Overdue::Wait,
                // A request may be on its way while ours is: our end is seen after a round trip,
                // and who does not watch its idle connections sees it when it writes.
                Look::Silence if turn.lifecycle.phase() >= Phase::Draining => {
                    let rtt = self
                        .line
                        .transport()
                        .info()
                        .map_or(Duration::ZERO, |info| info.rtt);
                    self.say_goodbye(
                        CloseReason::IdleStopping,
                        GOODBYE_MIN.max(2 * rtt).min(LINGER_TIMEOUT),
                        turn,
                    );
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
                turn,
            ),
            Stage::Body(_) => self.refuse_overdue(
                StatusCode::REQUEST_TIMEOUT,
                "the request body came too slowly",
                turn,
            ),
            Stage::Call(_) | Stage::Push(_) | Stage::Own(_) => self.refuse_overdue(
                StatusCode::SERVICE_UNAVAILABLE,
                "the server is too busy",
                turn,
            ),
            // It cannot be told any more than by the missing end.
            Stage::Flush(_) if self.starved => {
                self.line.transport().reset();
                Overdue::Close(CloseReason::Overloaded)
            }
            // There is room: it is our turn that is late, not the peer's.
            Stage::Flush(_)
                if wait_for_peer(self.line.transport().as_fd(), true, Duration::ZERO) =>
            {
                Overdue::Advance
            }
            Stage::Flush(_) => {
                self.line.transport().reset();
                Overdue::Close(CloseReason::Stalled)
            }
            Stage::Discard(_) => {
                self.close_after_flush(CloseReason::Refused, turn);
                Overdue::Advance
            }
            Stage::Linger(linger) => {
                let (heard_at, until, reason) = (linger.heard_at, linger.until, linger.reason);
                let quiet = linger.quiet();
                if turn.now >= until {
                    // What came, and whose event nobody had the time to see, is named all the same.
                    self.tell(true, true);
                    turn.pulls = 0;
                    while self.linger(turn).is_none() {}
                    return Overdue::Close(reason);
                }
                let quiet = turn.now.saturating_duration_since(heard_at) >= quiet;
                // What was written to a unix socket is with the peer.
                let is_local = self.line.peer().is_none();
                let acknowledged = || {
                    is_local
                        || self
                            .line
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
            Stage::Taken => unreachable!("a connection is parked in a stage"),
        }
    }

    /// Since when nothing is under way: no byte of a request has come, and the last response was
    /// left to the kernel.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        matches!(self.stage, Stage::Fresh | Stage::Idle).then_some(self.since)
    }

    /// Room is needed: whether this connection, of which nothing was heard for `idle_for`, is one
    /// to give up.
    pub(crate) fn make_room(&mut self, idle_for: Duration, turn: &Turn<'_>) -> Overdue {
        // A new one has had no answer yet. It gets the time that it would get at the stop, or
        // clients would be accepted only to be sent away for the next.
        let (least, since) = match self.stage {
            Stage::Fresh => (turn.settings.idle_grace, self.since),
            Stage::Idle => (idle_for, self.since),
            _ => return Overdue::Wait,
        };
        if self.line.has_unsent() || turn.now.saturating_duration_since(since) < least {
            return Overdue::Wait;
        }
        let transport = self.line.transport();
        match transport.look() {
            Look::Bytes => {
                self.tell(true, false);
                Overdue::Advance
            }
            Look::End => Overdue::Close(CloseReason::PeerClosed),
            Look::Broken => Overdue::Close(CloseReason::Broken),
            // Its next request would meet a closed connection, whose RST destroys what it has not
            // read.
            Look::Silence
                if transport
                    .info()
                    .is_some_and(|info| !self.line.is_acknowledged(info)) =>
            {
                Overdue::Wait
            }
            Look::Silence => Overdue::Close(CloseReason::IdleShed),
        }
    }

    /// While draining: whether the peer's kernel was heard within the idle grace, or takes its time
    /// with what was sent.
    fn was_heard_lately(&mut self, turn: &Turn<'_>) -> bool {
        if turn.lifecycle.phase() < Phase::Draining || !turn.lifecycle.clock.is_the_kernels() {
            return false;
        }
        let Some(info) = self.line.transport().info() else {
            return false;
        };
        let grace = turn.settings.idle_grace;
        if info.silent_for < grace {
            self.since = turn.now.checked_sub(info.silent_for).unwrap_or(turn.now);
            return true;
        }
        // A window that is closed is probed ever more seldom.
        let reading =
            !self.line.is_acknowledged(info) && info.silent_for < turn.settings.write_timeout;
        if reading {
            self.since = turn.now;
        }
        reading
    }

    fn refuse_overdue(
        &mut self,
        status: StatusCode,
        reason: &'static str,
        turn: &mut Turn<'_>,
    ) -> Overdue {
        self.refuse(Refusal { status, reason }, turn);
        Overdue::Advance
    }

    /// At the cut: a request that is here already is owed an answer from now on. Why to close the
    /// connection, if nothing is and nothing is on its way to the peer that a last second could
    /// complete.
    pub(crate) fn look_once_more(&mut self, turn: &mut Turn<'_>) -> Option<CloseReason> {
        if !matches!(
            self.stage,
            Stage::Fresh | Stage::Idle | Stage::Head | Stage::Discard(_)
        ) {
            return None;
        }
        self.tell(true, true);
        match self.advance(turn) {
            Next::Call(call) => self.wait_for_worker(Some(call)),
            Next::Close(reason) => return Some(reason),
            Next::Park | Next::Yield | Next::Pull | Next::Push | Next::OwnThread => {}
        }
        match self.stage {
            Stage::Fresh | Stage::Idle => Some(CloseReason::IdleStopping),
            Stage::Head | Stage::Discard(_) if self.line.pending() == 0 => Some(CloseReason::Cut),
            _ => None,
        }
    }
}
