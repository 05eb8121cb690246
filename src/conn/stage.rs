//! A connection and the stages it goes through: the data, which the files beside this one move.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Version, response};

use crate::conn::body::{Body, RunUpgraded, WriteBody};
use crate::conn::egress::Egress;
use crate::conn::latency::RouteKey;
use crate::conn::message::Request;
use crate::conn::progress::{Progress, ProgressLimit};
use crate::conn::receive_buffer::ReceiveBuffer;
use crate::conn::request_body::{self, Ingress};
use crate::lifecycle::context::Context;
use crate::lifecycle::ledger::{CloseReason, Entry};
use crate::settings::{LINGER_QUIET, LINGER_TIMEOUT, Settings};
use crate::sys::panics;
use crate::sys::poller::SocketEvents;
use crate::wire::chunked::Decoder;
use crate::wire::head::HeadScan;
use crate::wire::persist::Persist;

/// A connection. Moved by value between its slot and the one who has claimed it.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) egress: Arc<Egress>,
    pub(crate) context: Context,
    pub(super) entry: Entry,
    pub(super) stage: Stage,
    pub(super) recv_buf: ReceiveBuffer,
    pub(super) scan: HeadScan,
    /// The socket may hold bytes that no event will tell of.
    pub(super) unread: bool,
    /// The peer has finished or broken its side, and we have not read as far as that yet.
    pub(super) hup: bool,
    /// We have.
    pub(super) eof: bool,
    /// It has only given way to others: it waits for its turn, not for its peer.
    pub(super) yielded: bool,
    /// In the middle of its response it waits, since `since`, for a worker that reads the rest.
    pub(super) waits_for_worker: bool,
    /// What was asked for last, for the pace.
    pub(crate) route: RouteKey,
    /// When the stage began; while idle, when the last byte of the last answer was appended.
    pub(super) since: Instant,
}

/// What a connection waits for, or is doing.
#[derive(Debug)]
pub(super) enum Stage {
    /// No byte came yet.
    Fresh,
    /// Between requests.
    Idle,
    /// A part of a head is in the recv_buf.
    Head,
    /// A body is being collected.
    Body(Box<Collecting>),
    /// A complete request waits for a worker.
    Call(Box<Call>),
    /// A response whose closure is to be run waits for a worker.
    Push(Box<Push>),
    /// A thread of its own is wanted: the owner gives it one.
    Dedicated(Dedicated),
    /// A response is on its way.
    Flush(Box<Flush>),
    /// A request body the handler did not read is read and dropped.
    Discard(Box<Discard>),
    /// All is answered and our side finished; what the peer still sends is read and dropped.
    Linger(Linger),
    /// With its owner, who puts another stage here.
    Moved,
}

/// What answering a request needs to know of it.
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
    /// Bytes of it received, framing and all.
    pub(super) came: u64,
    pub(super) progress: Progress,
}

#[derive(Debug)]
pub(super) struct Flush {
    pub(super) source: Source,
    pub(super) meta: Option<RequestMeta>,
    /// Why the connection closes when the response is sent.
    pub(super) close: Option<CloseReason>,
    pub(super) progress: Option<Progress>,
}

/// Where the rest of a response comes from, once what is pending is sent.
pub(super) enum Source {
    /// There is no rest.
    None,
    Bytes(Bytes),
    Read {
        body: Body,
        chunked: bool,
        left: Option<u64>,
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
    /// Its handler to be called: user code.
    Call(Call),
    /// A piece of its response's body to be read, by [`Conn::pull`]: user code.
    Pull,
    /// Its response's body to be written, by [`Conn::push`]: user code that may wait for the peer.
    Push,
    /// A thread of its own, for user code that may go on for as long as it likes.
    DedicatedThread,
    /// The peer, or its deadline.
    Park,
    /// Another turn, after others had theirs.
    Yield,
    /// Nothing: it is over.
    Close(CloseReason),
}

/// A response that a closure writes, when a worker may wait for it.
pub(super) struct Push {
    pub(super) meta: RequestMeta,
    pub(super) parts: response::Parts,
    pub(super) write: Box<WriteBody>,
    /// The head is sent before the closure runs.
    pub(super) at_once: bool,
}

/// What a connection wants a thread of its own for.
#[derive(Debug)]
pub(super) enum Dedicated {
    Stream(Box<Push>),
    Upgrade(Box<Switch>),
}

/// A connection that is about to be no longer HTTP.
pub(super) struct Switch {
    pub(super) meta: RequestMeta,
    pub(super) parts: response::Parts,
    pub(super) run: Box<RunUpgraded>,
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switch")
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

/// What is known of a connection that lingers.
#[derive(Debug)]
pub(super) struct Linger {
    pub(super) reason: CloseReason,
    pub(super) bytes: u64,
    pub(super) heard_at: Instant,
    /// When it is over if nothing more comes.
    pub(super) until: Instant,
    /// How long it goes on behind each byte that comes, and until when at the latest.
    pub(super) at_most: Duration,
    pub(super) end: Instant,
    /// Requests that come now are named in the report; `None` when nobody is to know, or what came
    /// is no request.
    pub(super) late: Option<HeadScan>,
}

impl Conn {
    pub(crate) fn new(egress: Arc<Egress>, entry: Entry, context: Context, now: Instant) -> Self {
        Self {
            egress,
            context,
            entry,
            stage: Stage::Fresh,
            recv_buf: ReceiveBuffer::default(),
            scan: HeadScan::new(),
            unread: true,
            hup: false,
            eof: false,
            yielded: false,
            waits_for_worker: false,
            route: RouteKey::default(),
            since: now,
        }
    }

    /// Notes what there may be to read, as an event said, or because nobody has watched.
    pub(crate) fn note_events(&mut self, events: SocketEvents) {
        self.unread |= events.readable;
        self.hup |= events.hup;
    }

    pub(super) fn enter(&mut self, stage: Stage, now: Instant) {
        let left = std::mem::replace(&mut self.stage, stage);
        // What its handler gave and nobody took is user code's to drop.
        if matches!(left, Stage::Push(_) | Stage::Dedicated(_) | Stage::Flush(_))
            && let Err(panic) = panics::catch(|| drop(left))
        {
            log::error!(
                "a response's body panicked when it was dropped: {panic}, peer {}",
                Peer(&self.egress)
            );
        }
        (self.since, self.waits_for_worker) = (now, false);
    }

    /// Whether user code that goes on with this connection may have to wait for the peer.
    pub(crate) fn holds_worker(&self) -> bool {
        match &self.stage {
            Stage::Push(_) => true,
            Stage::Flush(flush) => flush
                .meta
                .as_ref()
                .and_then(|meta| meta.ingress.as_ref())
                .is_some_and(|ingress| !request_body::is_complete(ingress)),
            _ => false,
        }
    }
}

impl Call {
    /// Whether its handler may have to wait for the peer.
    pub(crate) fn holds_worker(&self) -> bool {
        self.meta.ingress.is_some()
    }
}

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

/// A peer as log lines name it.
pub(crate) struct Peer<'a>(pub(crate) &'a Egress);

impl std::fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.peer_addr() {
            Some(peer) => write!(f, "{peer}"),
            None => f.write_str("on a unix socket"),
        }
    }
}
