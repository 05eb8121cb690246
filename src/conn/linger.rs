//! How a connection ends: refused, with a lingering close until the peer has seen our end, or
//! reset.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::conn::request_scan::RequestScan;
use crate::conn::serve_context::ServeContext;
use crate::conn::stage::{Conn, Flush, Linger, Next, Peer, RETRY_AFTER, Source, Stage};
use crate::lifecycle::ledger::CloseReason;
use crate::lifecycle::unanswered::{CutConnection, Fate, UnansweredRequest};
use crate::settings::{LINGER_TIMEOUT, MAX_LINGER_TIMEOUT, PULL_BUDGET};
use crate::sys::logging;
use crate::sys::poller::SocketEvents;
use crate::wire::Refusal;
use crate::wire::head::{Head, HeadScan};
use crate::wire::reply;

/// The most unread requests that are named for one connection.
const MAX_UNREAD: usize = 1000;

impl Conn {
    /// Reads and drops what the peer still sends, until it ends or is too slow or too long about it.
    pub(super) fn linger(&mut self, cx: &mut ServeContext<'_>) -> Option<Next> {
        self.record_late_requests(cx);
        let Stage::Linger(linger) = &mut self.stage else {
            unreachable!("the connection lingers in this stage")
        };
        let reason = linger.reason;
        if self.eof {
            return Some(Next::Close(reason));
        }
        // Looked at where the peer gives way to others, or has sent nothing more: what has come
        // before is read in any case, as it may hold requests to be named. A peer that sends without
        // a pause is never parked, so that its deadline is not looked at.
        let is_over = linger.is_over(cx.now, cx.settings.min_rate);
        let next = if cx.pulls >= PULL_BUDGET {
            Some(Next::Yield)
        } else {
            cx.pulls += 1;
            self.receive(cx)
        };
        if self.eof
            || matches!(next, Some(Next::Close(_)))
            || matches!(next, Some(Next::Yield | Next::Park)) && is_over
        {
            return Some(Next::Close(reason));
        }
        if next.is_none()
            && let Stage::Linger(linger) = &mut self.stage
        {
            linger.heard_at = cx.now;
            // A stopping server does not wait longer for a peer that goes on sending.
            if !cx.lifecycle.is_stopping() {
                linger.until = (cx.now + linger.at_most).min(linger.end);
            }
        }
        next
    }

    /// Begins a lingering close: sends our FIN and waits for the peer's.
    pub(super) fn begin_linger(
        &mut self,
        reason: CloseReason,
        at_most: Duration,
        cx: &ServeContext<'_>,
    ) {
        self.egress.transport().finish();
        let late_requests = (cx.lifecycle.is_stopping() && reason != CloseReason::Upgraded)
            .then(|| Box::new(RequestScan::new()));
        // Only a refused peer may still be sending the body of a request.
        let longest = match reason {
            CloseReason::Refused => MAX_LINGER_TIMEOUT,
            _ => 2 * LINGER_TIMEOUT,
        };
        let end = cx.now + at_most.max(longest);
        let linger = Linger {
            reason,
            bytes: 0,
            began_at: cx.now,
            heard_at: cx.now,
            until: cx.now + at_most,
            at_most,
            end,
            late_requests,
        };
        self.enter(Stage::Linger(linger), cx.now);
        self.unread = true;
    }

    /// Reads what has come to a lingering connection and whose event no thread had the time to
    /// handle, so that the requests in it are named. Returns the reason that the connection lingers
    /// for, if it does.
    pub(crate) fn end_lingering(&mut self, cx: &mut ServeContext<'_>) -> Option<CloseReason> {
        let Stage::Linger(linger) = &self.stage else {
            return None;
        };
        let reason = linger.reason;
        self.note_events(SocketEvents::ANY);
        cx.pulls = 0;
        while self.linger(cx).is_none() {}
        Some(reason)
    }

    /// Names the requests that came after our FIN, and drops what came.
    fn record_late_requests(&mut self, cx: &ServeContext<'_>) {
        let Stage::Linger(linger) = &mut self.stage else {
            unreachable!("the connection lingers in this stage")
        };
        let fate = match linger.reason {
            CloseReason::IdleStopping => Fate::Raced,
            _ => Fate::AfterClose,
        };
        let before = self.recv_buf.len();
        if let Some(scan) = &mut linger.late_requests {
            while let Some(head) = scan.next_head(&mut self.recv_buf, &cx.settings.limits) {
                let peer = self.egress.peer_addr();
                self.entry.name_unanswered(unanswered(peer, head, fate));
            }
        }
        if linger
            .late_requests
            .as_ref()
            .is_none_or(|scan| scan.is_lost())
        {
            self.recv_buf.take();
        }
        linger.bytes += (before - self.recv_buf.len()) as u64;
    }

    /// Answers a request that cannot be served, and closes the connection.
    pub(crate) fn refuse(&mut self, refusal: Refusal, cx: &mut ServeContext<'_>) {
        let head_only = match &self.stage {
            Stage::Body(collecting) => collecting.meta.method == Method::HEAD,
            Stage::Call(call) => call.meta.method == Method::HEAD,
            Stage::Fresh | Stage::Idle | Stage::Head => HeadScan::is_to_head(self.recv_buf.bytes()),
            _ => false,
        };
        let date = cx.date();
        let retry_after = [(http::header::RETRY_AFTER, RETRY_AFTER)];
        let extra = if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
            &retry_after[..]
        } else {
            &[]
        };
        let answered = self
            .egress
            .begin_response(&mut cx.buffers.out, true, |out| {
                reply::write_refusal(
                    out,
                    refusal.status,
                    refusal.reason,
                    &date,
                    extra,
                    !head_only,
                );
            });
        logging::debug!(
            "{}: {}, peer {}",
            refusal.status,
            refusal.reason,
            Peer(&self.egress)
        );
        let reason = match refusal.status {
            _ if answered.is_err() => CloseReason::Cut,
            StatusCode::SERVICE_UNAVAILABLE => CloseReason::Overloaded,
            _ => CloseReason::Refused,
        };
        self.close_after_flush(reason, cx);
    }

    /// Names this connection as cut in the middle of a request's head.
    pub(super) fn name_cut(&self) {
        let peer = self.egress.peer_addr();
        self.entry.name_cut(CutConnection { peer });
    }

    /// Sends the pending bytes, then begins a lingering close for `reason`.
    pub(crate) fn close_after_flush(&mut self, reason: CloseReason, cx: &ServeContext<'_>) {
        let flush = Flush {
            source: Source::None,
            meta: None,
            close: Some(reason),
            progress: None,
        };
        self.enter(Stage::Flush(Box::new(flush)), cx.now);
    }

    /// Names the requests that are here after a request whose response is cut, and that no thread
    /// has looked at. Only complete heads count; it does not wait for more.
    pub(crate) fn name_unread(&mut self, cx: &mut ServeContext<'_>) {
        if !self.is_between_requests() {
            return;
        }
        let mut scan = RequestScan::new();
        let mut named = 0;
        while named < MAX_UNREAD {
            if let Some(head) = scan.next_head(&mut self.recv_buf, &cx.settings.limits) {
                named += 1;
                let peer = self.egress.peer_addr();
                let request = unanswered(peer, head, Fate::Unread);
                self.entry.name_unanswered(request);
            } else if scan.is_lost() || !self.receive_unread(cx) {
                return;
            }
        }
    }

    /// Receives once more: from the socket or, if that was reset from outside, the bytes that were
    /// kept. False: there are none.
    fn receive_unread(&mut self, cx: &mut ServeContext<'_>) -> bool {
        let room = self.recv_buf.room(&mut cx.buffers.read);
        if let Ok(n @ 1..) = self.egress.transport().recv(room) {
            self.recv_buf.filled(n);
            return true;
        }
        let kept = self.egress.take_unread();
        let mut left = &kept[..];
        while !left.is_empty() {
            let room = self.recv_buf.room(&mut cx.buffers.read);
            let n = room.len().min(left.len());
            room[..n].copy_from_slice(&left[..n]);
            self.recv_buf.filled(n);
            left = &left[n..];
        }
        !kept.is_empty()
    }

    /// Whether what is received next is a request's head, of which nothing was read yet.
    fn is_between_requests(&self) -> bool {
        match &self.stage {
            Stage::Flush(_) | Stage::Push(_) | Stage::Dedicated(_) | Stage::Moved => {
                !self.streams_body && !self.egress.is_upgraded()
            }
            _ => false,
        }
    }

    /// Ends the connection. The peer sees FIN if everything was sent, and RST if a response is not
    /// complete.
    pub(crate) fn close(mut self, reason: CloseReason) {
        self.entry.because(reason);
        logging::debug!("closed: {reason:?}, peer {}", Peer(&self.egress));
        if self.egress.is_begun() || matches!(reason, CloseReason::Cut | CloseReason::Stalled) {
            self.egress.transport().reset();
        } else {
            self.egress.transport().last_word();
        }
    }
}

/// A request that no handler has seen, as a report names it.
fn unanswered(peer: Option<SocketAddr>, head: Head, fate: Fate) -> UnansweredRequest {
    UnansweredRequest {
        peer,
        method: head.parts.method,
        target: head.parts.uri,
        age: Duration::ZERO,
        fate,
    }
}
