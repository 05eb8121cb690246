//! The data of a connection and of its stages. The neighbouring files move it from one to the next.
//!
//! ```text
//! accept ──> Fresh ─┐
//!                   ├─ first bytes ─> Head ─ complete head ─┬─ body ──> Body ─ collected ─┐
//!   ┌──────> Idle ──┘                                       └─ no body ───────────────────┤
//!   │                                                                                     │
//!   │                          ┌─── a worker ─── Call <──── no worker is free ────────────┤
//!   │                          v                                                          │
//!   │         Moved: its handler runs <──────────────────── a worker ─────────────────────┘
//!   │             │
//!   │      ┌──────┴──────────────┬─────────────────────┐
//!   │   a closure       upgrade, long stream     any other body
//!   │      v                     v                     v
//!   │    Push                Dedicated               Flush
//!   │      └─────────────────────┴──────────┬──────────┘
//!   │                              response complete
//!   │             ┌─────────────────────────┼──────────────────────┐
//!   │    request body unread           nothing left         connection closes
//!   │             v                         │                      v
//!   ├─ dropped ─ Discard ─ too much or late ┼───────────────────> Flush ─ sent ─> Linger ─> closed
//!   └───────────────────────────────────────┘
//! ```
//!
//! Not drawn:
//!
//! * Refused requests: a bad head or body (4xx), an overdue `Head` or `Body` (408), an overdue
//!   `Call`, `Push` or `Dedicated` (503) all go to `Flush` and close.
//! * The kernel takes no more of the responses to earlier requests: `Idle` or `Head` goes to
//!   `Flush`, and to `Idle` once they are sent.
//! * The end of an upgrade: `Dedicated` goes to `Flush` and closes.
//! * In a draining server, after the idle grace or at the cut: `Fresh` or `Idle` goes to `Linger`.
//! * A connection that the peer breaks or stalls is closed in whatever stage it is.
//!
//! `Moved` also stands in while an owner replaces one stage by the next.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Version, response};

use crate::conn::body::{Body, RunUpgraded, WriteBody};
use crate::conn::egress::Egress;
use crate::conn::message::Request;
use crate::conn::progress::{Progress, ProgressLimit};
use crate::conn::receive_buffer::ReceiveBuffer;
use crate::conn::request_body::{self, Ingress};
use crate::conn::request_scan::RequestScan;
use crate::lifecycle::context::Context;
use crate::lifecycle::ledger::{CloseReason, Entry};
use crate::settings::{LINGER_QUIET, LINGER_TIMEOUT, RATE_AFTER, Settings};
use crate::sys::panics;
use crate::sys::poller::SocketEvents;
use crate::wire::chunked::Decoder;
use crate::wire::framing::Framing;
use crate::wire::head::HeadScan;
use crate::wire::persist::Persist;

/// A connection. It moves by value between its slot and the thread that has claimed it.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) egress: Arc<Egress>,
    pub(crate) context: Context,
    pub(super) entry: Entry,
    pub(super) stage: Stage,
    /// What is left of earlier stages and has to be dropped where user code may run.
    leftovers: Vec<Leftover>,
    pub(super) recv_buf: ReceiveBuffer,
    pub(super) scan: HeadScan,
    /// Whether the socket may hold bytes that no further event will report.
    pub(super) unread: bool,
    /// Whether the peer has finished or broken its side, and we have not read as far as that yet.
    pub(super) hup: bool,
    /// Whether we have read to the end of what the peer sent.
    pub(super) eof: bool,
    /// Whether the connection has yielded to others: it waits for a thread, not for its peer.
    pub(super) yielded: bool,
    /// Whether the connection waits, in the middle of its response and since `since`, for a worker
    /// that reads the rest.
    pub(super) waits_for_worker: bool,
    /// Whether the current request waits for room among the slow ones.
    pub(super) room: WaitsForRoom,
    /// Whether the current request has a body that comes while its response is made.
    pub(super) streams_body: bool,
    /// How long the connection was idle before its last request.
    pub(super) was_idle_for: Duration,
    /// When the stage began; while idle, when the last byte of the last response was appended.
    pub(super) since: Instant,
}

/// Whether a request waits until fewer slow handlers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitsForRoom {
    No,
    /// It waits for its turn.
    Yes,
    /// It has waited for so long that it also gets a worker that is kept free for fast handlers.
    Long,
}

/// What a connection waits for or is doing.
#[derive(Debug)]
pub(super) enum Stage {
    /// No byte has come yet.
    Fresh,
    /// The connection is between two requests.
    Idle,
    /// A part of a head is in the receive buffer.
    Head,
    /// The body of a request is being collected.
    Body(Box<Collecting>),
    /// A complete request waits for a worker.
    Call(Box<Call>),
    /// A response whose body a closure writes waits for a worker.
    Push(Box<Push>),
    /// The connection needs a dedicated thread, which its owner starts.
    Dedicated(Dedicated),
    /// A response is being sent.
    Flush(Box<Flush>),
    /// The rest of a request body that the handler did not read is read and dropped.
    Discard(Box<Discard>),
    /// Everything is answered and we have sent our FIN. What the peer still sends is read and
    /// dropped.
    Linger(Linger),
    /// The owner holds what the stage held, and will put another stage here.
    Moved,
}

/// What the response to a request depends on.
#[derive(Debug)]
pub(crate) struct RequestMeta {
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) persist: Persist,
    /// The connection's reference to a body that comes while the handler runs.
    pub(super) ingress: Option<Arc<Mutex<Ingress>>>,
}

/// A complete request, ready for its handler.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) meta: RequestMeta,
}

#[derive(Debug)]
pub(super) struct Collecting {
    pub(super) parts: Parts,
    pub(super) meta: RequestMeta,
    pub(super) decoder: Decoder,
    pub(super) body: Vec<u8>,
    /// Bytes of the body received, with its framing.
    pub(super) received_bytes: u64,
    pub(super) progress: Progress,
}

#[derive(Debug)]
pub(super) struct Flush {
    pub(super) source: Source,
    pub(super) meta: Option<RequestMeta>,
    /// Why the connection closes once the response is sent; `None` keeps it open.
    pub(super) close: Option<CloseReason>,
    pub(super) progress: Option<Progress>,
}

/// Where the rest of a response comes from once the pending bytes are sent.
pub(super) enum Source {
    /// All of the response is pending or sent.
    None,
    Bytes(Bytes),
    Read {
        body: Body,
        chunked: bool,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bytes(_) => "Bytes",
            Self::Read { .. } => "Read",
        })
    }
}

#[derive(Debug)]
pub(super) struct Discard {
    pub(super) decoder: Decoder,
    pub(super) bytes: u64,
}

/// What a connection needs next.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a box would be an allocation for each request"
)]
pub(crate) enum Next {
    /// The handler has to be called: user code.
    Call(Call),
    /// A piece of the response's body has to be read by [`Conn::pull`]: user code.
    Pull,
    /// The response's body has to be written by [`Conn::push`]: user code that may wait for the
    /// peer.
    Push,
    /// The connection needs a dedicated thread, for user code that may run as long as it likes.
    DedicatedThread,
    /// The connection waits for the peer or for its deadline.
    Park,
    /// The connection has used up its budget, and goes on after others were served.
    Yield,
    /// The connection is over.
    Close(CloseReason),
}

/// A response whose body a closure writes.
pub(super) struct Push {
    pub(super) meta: RequestMeta,
    pub(super) parts: response::Parts,
    pub(super) framing: Framing,
    pub(super) write: Box<WriteBody>,
    /// Whether the head is sent before the closure runs.
    pub(super) flush_head_first: bool,
}

/// What a connection needs a dedicated thread for.
#[derive(Debug)]
pub(super) enum Dedicated {
    Stream(Box<Push>),
    Upgrade(Box<Upgrade>),
}

/// A connection that is about to be upgraded.
pub(super) struct Upgrade {
    pub(super) meta: RequestMeta,
    pub(super) parts: response::Parts,
    pub(super) run: Box<RunUpgraded>,
}

impl std::fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgrade")
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push")
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

/// The state of a lingering close.
#[derive(Debug)]
pub(super) struct Linger {
    pub(super) reason: CloseReason,
    /// Bytes received and dropped.
    pub(super) bytes: u64,
    pub(super) began_at: Instant,
    pub(super) heard_at: Instant,
    /// When the lingering ends if the peer sends nothing more.
    pub(super) until: Instant,
    /// For how long each byte that comes prolongs the lingering.
    pub(super) at_most: Duration,
    /// The latest end of the lingering, whatever the peer sends.
    pub(super) end: Instant,
    /// Scans for requests that come after our FIN, which the report names. `None` if the report
    /// does not name them, or if what came is no request.
    pub(super) late_requests: Option<Box<RequestScan>>,
}

impl Conn {
    pub(crate) fn new(egress: Arc<Egress>, entry: Entry, context: Context, now: Instant) -> Self {
        Self {
            egress,
            context,
            entry,
            stage: Stage::Fresh,
            leftovers: Vec::new(),
            recv_buf: ReceiveBuffer::default(),
            scan: HeadScan::new(),
            unread: true,
            hup: false,
            eof: false,
            yielded: false,
            waits_for_worker: false,
            streams_body: false,
            was_idle_for: Duration::ZERO,
            room: WaitsForRoom::No,
            since: now,
        }
    }

    /// Notes what there may be to read, because an event said so or because no thread has watched.
    pub(crate) fn note_events(&mut self, events: SocketEvents) {
        self.unread |= events.readable;
        self.hup |= events.hup;
    }

    pub(super) fn enter(&mut self, stage: Stage, now: Instant) {
        let left = std::mem::replace(&mut self.stage, stage);
        self.leave(left);
        (self.since, self.waits_for_worker) = (now, false);
    }

    /// Keeps a stage that is over for [`take_leftovers`](Self::take_leftovers), if to drop it is user
    /// code.
    pub(super) fn leave(&mut self, stage: Stage) {
        if stage.drops_user_code() {
            self.leftovers.push(Leftover(Box::new(stage)));
        }
    }

    pub(crate) fn has_leftovers(&self) -> bool {
        !self.leftovers.is_empty()
    }

    /// Takes what is left of responses that are over. The caller sees to it that they are dropped
    /// where user code may run.
    pub(crate) fn take_leftovers(&mut self) -> Vec<Leftover> {
        std::mem::take(&mut self.leftovers)
    }

    /// Leaves the last stage of a connection that is about to be closed. Returns whether there is
    /// anything to drop.
    pub(crate) fn leave_last(&mut self) -> bool {
        if self.stage.drops_user_code() {
            let stage = std::mem::replace(&mut self.stage, Stage::Moved);
            self.leave(stage);
        }
        self.has_leftovers()
    }

    /// Takes all of that from a connection that is about to be closed.
    pub(crate) fn take_last_leftovers(&mut self) -> Vec<Leftover> {
        self.leave_last();
        self.take_leftovers()
    }

    /// Whether the user code that goes on with this connection may have to wait for the peer.
    pub(crate) fn may_wait_for_peer(&self) -> bool {
        match &self.stage {
            Stage::Push(_) => true,
            Stage::Call(call) => call.may_wait_for_peer(),
            Stage::Flush(flush) => flush
                .meta
                .as_ref()
                .and_then(|meta| meta.ingress.as_ref())
                .is_some_and(|ingress| !request_body::is_complete(ingress)),
            _ => false,
        }
    }
}

/// A stage whose drop is user code: it holds a response's body, or a closure.
#[derive(Debug)]
pub(crate) struct Leftover(#[allow(dead_code, reason = "it is there to be dropped")] Box<Stage>);

impl Stage {
    /// Whether to drop the stage runs user code, which may block or panic.
    fn drops_user_code(&self) -> bool {
        match self {
            Self::Push(_) | Self::Dedicated(_) => true,
            Self::Flush(flush) => match &flush.source {
                Source::None => false,
                // Bytes that nobody shares are plain memory; others may have an owner of the
                // program's.
                Source::Bytes(bytes) => !bytes.is_unique(),
                Source::Read { .. } => true,
            },
            _ => false,
        }
    }
}

impl Drop for Conn {
    /// Enters the requests of this connection in the ledger, however it ends.
    fn drop(&mut self) {
        // Only a thread that panics drops a connection that still has some, and a second panic
        // would end the process.
        for leftover in self.take_last_leftovers() {
            let _ = panics::catch(|| drop(leftover));
        }
        let requests = self.egress.close_books(self.entry.reason().may_break_off());
        self.entry.enter_requests(requests);
    }
}

impl Call {
    /// Whether the handler may have to wait for the peer.
    pub(crate) fn may_wait_for_peer(&self) -> bool {
        self.meta.ingress.is_some()
    }
}

impl Linger {
    /// Returns whether a peer that goes on sending has done so for too long, or for a while and at
    /// less than the minimum rate: such a peer would not come to an end.
    pub(super) fn is_over(&self, now: Instant, min_rate: u64) -> bool {
        let lingered = now.saturating_duration_since(self.began_at);
        let is_slow = || self.bytes < min_rate.saturating_mul(lingered.as_secs());
        now >= self.until || lingered >= RATE_AFTER && is_slow()
    }

    /// Returns how long a peer that has acknowledged everything must have been silent before the
    /// close. A refused peer may still be sending a body, over a network on which the next bytes
    /// take a while.
    pub(super) fn quiet_period(&self) -> Duration {
        match self.reason {
            CloseReason::Refused => LINGER_TIMEOUT,
            // The peer's acknowledgement says nothing of a request that was lost on its way.
            CloseReason::IdleStopping => self.at_most,
            _ => LINGER_QUIET,
        }
    }
}

/// Seconds after which a refused client may try again.
pub(crate) const RETRY_AFTER: &str = "1";

pub(super) fn body_progress_limit(settings: &Settings) -> ProgressLimit {
    ProgressLimit {
        timeout: settings.body_timeout,
        min_rate: settings.min_rate,
    }
}

pub(super) fn write_progress_limit(settings: &Settings) -> ProgressLimit {
    ProgressLimit {
        timeout: settings.write_timeout,
        min_rate: settings.min_rate,
    }
}

/// Displays the peer of a connection in log messages.
pub(crate) struct Peer<'a>(pub(crate) &'a Egress);

impl std::fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.peer_addr() {
            Some(peer) => write!(f, "{peer}"),
            None => f.write_str("on a unix socket"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any moment will do")]
    fn a_lingering_peer_that_trickles_is_over_when_the_rate_begins_to_count() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let linger = |bytes| Linger {
            reason: CloseReason::Refused,
            bytes,
            began_at: now,
            heard_at: now,
            until: now + 30 * second,
            at_most: 2 * second,
            end: now + 30 * second,
            late_requests: None,
        };
        assert!(!linger(9).is_over(now + 9 * second, 500));
        assert!(linger(10).is_over(now + 10 * second, 500));
        assert!(!linger(10).is_over(now + 10 * second, 0));
        assert!(!linger(5000).is_over(now + 10 * second, 500));
        assert!(linger(1 << 40).is_over(now + 30 * second, 500));
    }
}
