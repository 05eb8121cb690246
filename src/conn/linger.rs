//! How a connection ends: refused, lingering until its peer has seen our end, or cut.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use crate::conn::egress::InFlight;
use crate::conn::serve_context::Turn;
use crate::conn::stages::{Conn, Flush, Next, Peer, RETRY_AFTER, Source, Stage};
use crate::lifecycle::ledger::{CloseReason, Raced};
use crate::settings::{LINGER_BYTES_MAX, LINGER_QUIET, LINGER_TIMEOUT, LINGER_TIMEOUT_MAX, PULLS};
use crate::wire::Refusal;
use crate::wire::framing::Framing;
use crate::wire::head::HeadScan;
use crate::wire::reply;

/// What is known of a connection that lingers.
#[derive(Debug)]
pub(super) struct Linger {
    pub(super) reason: CloseReason,
    pub(super) bytes: u64,
    pub(super) heard_at: Instant,
    /// When it is over if nothing more comes.
    pub(super) until: Instant,
    /// How long it goes on behind each byte that comes, and until when at the latest.
    at_most: Duration,
    end: Instant,
    /// Requests that come now are named in the report; `None` when nobody is to know, or what came
    /// is no request.
    pub(super) late: Option<HeadScan>,
}

/// No more of them are named for a connection.
const UNREAD_MAX: usize = 1000;

impl Linger {
    /// How long a peer that has acknowledged everything must have been silent. One that was refused
    /// may be sending a body, over a line where the next bytes take a while.
    pub(super) fn quiet(&self) -> Duration {
        if self.reason == CloseReason::Refused {
            LINGER_TIMEOUT
        } else {
            LINGER_QUIET
        }
    }
}

impl Conn {
    pub(super) fn linger(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
        self.note_late_requests(turn);
        let Stage::Linger(linger) = &mut self.stage else {
            unreachable!("it lingers in this stage")
        };
        if self.eof || linger.bytes > LINGER_BYTES_MAX {
            return Some(Next::Close(linger.reason));
        }
        let reason = linger.reason;
        if turn.pulls >= PULLS {
            return Some(Next::Yield);
        }
        turn.pulls += 1;
        let next = self.receive(turn);
        if self.eof || matches!(next, Some(Next::Close(_))) {
            return Some(Next::Close(reason));
        }
        if next.is_none()
            && let Stage::Linger(linger) = &mut self.stage
        {
            linger.heard_at = turn.now;
            // A stop waits no longer for who goes on sending.
            if !turn.lifecycle.is_stopping() {
                linger.until = (turn.now + linger.at_most).min(linger.end);
            }
        }
        next
    }

    /// Finishes our side, and waits for the peer to finish its own.
    pub(super) fn say_goodbye(&mut self, reason: CloseReason, at_most: Duration, turn: &Turn<'_>) {
        self.line.transport().finish();
        let late =
            (turn.lifecycle.is_stopping() && reason != CloseReason::Upgraded).then(HeadScan::new);
        let (until, end) = (
            turn.now + at_most,
            turn.now + at_most.max(LINGER_TIMEOUT_MAX),
        );
        let linger = Linger {
            reason,
            bytes: 0,
            heard_at: turn.now,
            until,
            at_most,
            end,
            late,
        };
        self.enter(Stage::Linger(linger), turn.now);
        self.unread = true;
    }

    /// Names requests that came after our end, and drops what came.
    fn note_late_requests(&mut self, turn: &Turn<'_>) {
        let Stage::Linger(linger) = &mut self.stage else {
            unreachable!("it lingers in this stage")
        };
        while let Some(scan) = &mut linger.late
            && !self.inbox.is_empty()
        {
            match scan.parse(self.inbox.bytes(), &turn.settings.limits) {
                Ok(Some(head)) => {
                    self.inbox.consume(head.len);
                    linger.bytes += head.len as u64;
                    let (peer, told) =
                        (self.line.peer(), linger.reason != CloseReason::IdleStopping);
                    let (method, target) = (head.parts.method, head.parts.uri);
                    self.entry.raced(Raced {
                        peer,
                        method,
                        target,
                        told,
                    });
                    // What follows a request with a body is that body.
                    linger.late = (head.framing == Framing::Empty).then(HeadScan::new);
                }
                Ok(None) => return,
                Err(_) => linger.late = None,
            }
        }
        linger.bytes += self.inbox.take().len() as u64;
    }

    /// Answers what cannot be served, and closes.
    pub(crate) fn refuse(&mut self, refusal: Refusal, turn: &mut Turn<'_>) {
        let head_only = match &self.stage {
            Stage::Body(collecting) => collecting.asked.method == Method::HEAD,
            Stage::Call(call) => call.asked.method == Method::HEAD,
            Stage::Fresh | Stage::Idle | Stage::Head => HeadScan::is_to_head(self.inbox.bytes()),
            _ => false,
        };
        let date = turn.date();
        let retry_after = [(http::header::RETRY_AFTER, RETRY_AFTER)];
        let extra = if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
            &retry_after[..]
        } else {
            &[]
        };
        let answered = self.line.begin(&mut turn.buffers.out, true, |out| {
            reply::write_refusal(
                out,
                refusal.status,
                refusal.reason,
                &date,
                extra,
                !head_only,
            );
        });
        log::debug!(
            "{}: {}, peer {}",
            refusal.status,
            refusal.reason,
            Peer(&self.line)
        );
        let reason = match refusal.status {
            _ if answered.is_err() => CloseReason::Cut,
            StatusCode::SERVICE_UNAVAILABLE => CloseReason::Overloaded,
            _ => CloseReason::Refused,
        };
        self.close_after_flush(reason, turn);
    }

    pub(crate) fn close_after_flush(&mut self, reason: CloseReason, turn: &Turn<'_>) {
        let flush = Flush {
            source: Source::None,
            asked: None,
            close: Some(reason),
            patience: None,
        };
        self.enter(Stage::Flush(Box::new(flush)), turn.now);
    }

    /// Takes the requests that are here behind an answer that the peer has not taken, and that
    /// nobody has looked at: whole heads, without waiting for more.
    pub(crate) fn take_unread(&mut self, turn: &mut Turn<'_>) -> Vec<InFlight> {
        let mut found = Vec::new();
        if !matches!(&self.stage, Stage::Flush(flush) if flush.asked.is_none()) {
            return found;
        }
        let mut scan = HeadScan::new();
        while found.len() < UNREAD_MAX {
            match scan.parse(self.inbox.bytes(), &turn.settings.limits) {
                Ok(Some(head)) => {
                    self.inbox.consume(head.len);
                    scan = HeadScan::new();
                    let (method, target) = (head.parts.method, head.parts.uri);
                    found.push(InFlight {
                        method,
                        target,
                        since: turn.now,
                        started: false,
                    });
                    // What follows a request with a body is that body.
                    if head.framing != Framing::Empty {
                        break;
                    }
                }
                Ok(None) => match self
                    .line
                    .transport()
                    .recv(self.inbox.room(&mut turn.buffers.read))
                {
                    Ok(n @ 1..) => self.inbox.filled(n),
                    _ => break,
                },
                Err(_) => break,
            }
        }
        found
    }

    /// Ends the connection: the peer sees FIN if all was sent, and RST if a response is not whole.
    pub(crate) fn close(mut self, reason: CloseReason) {
        self.entry.because(reason);
        if self.line.is_begun() || matches!(reason, CloseReason::Cut | CloseReason::Stalled) {
            self.line.transport().reset();
        } else {
            self.line.transport().last_word();
        }
    }
}
