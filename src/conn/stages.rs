//! A connection from accept to close: read a request, have it answered, and again.
//!
//! [`Conn::advance`] goes on until it needs user code, the peer, or an end, and says which as a
//! [`Next`]. It never blocks and never runs user code, so the monitor can do it when all workers
//! sit in handlers. What runs user code ([`Call`], [`Conn::pull`], [`Conn::push`]) is called by a
//! worker.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::{Buf, Bytes};
use http::request::Parts;
use http::{Method, StatusCode, Version};

use crate::conn::body::{self, Body, Incoming, Ingress, Reading};
use crate::conn::egress::{Egress, InFlight};
use crate::conn::latency::Route;
use crate::conn::linger::Linger;
use crate::conn::progress::{Demand, Patience};
use crate::conn::receive_buffer::Inbox;
use crate::conn::serve_context::Turn;
use crate::lifecycle::context::Context;
use crate::lifecycle::ledger::{CloseReason, Entry};
use crate::settings::{
    DISCARD_BYTES_MAX, LINGER_TIMEOUT, PENDING_BYTES_MAX, PULLS, Settings, TURN,
};
use crate::sys::panics;
use crate::wire::Refusal;
use crate::wire::chunked::Decoder;
use crate::wire::framing::Framing;
use crate::wire::head::{Head, HeadScan};
use crate::wire::persist::Persist;

/// What a handler is given: a method, a target, fields as they were sent, and a [`Body`].
///
/// It has passed the rules of RFC 9112: there is one valid `Host` in HTTP/1.1, its framing cannot
/// be read in two ways, and it is within the server's limits. Who has sent it is in the
/// [`Context`].
pub type Request = http::Request<Body>;

/// A connection. Moved by value between its slot and the one who has claimed it.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) line: Arc<Egress>,
    pub(crate) context: Context,
    pub(super) entry: Entry,
    pub(super) stage: Stage,
    pub(super) inbox: Inbox,
    pub(super) scan: HeadScan,
    /// The socket may hold bytes that no event will tell of.
    pub(super) unread: bool,
    /// The peer has finished or broken its side, and we have not read as far as that yet.
    hup: bool,
    /// We have.
    pub(super) eof: bool,
    /// It has only given way to others: it waits for its turn, not for its peer.
    pub(super) yielded: bool,
    /// In the middle of its response it waits, since `since`, for a worker that reads the rest.
    pub(super) starved: bool,
    /// What was asked for last, for the pace.
    pub(crate) route: Route,
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
    /// A part of a head is in the inbox.
    Head,
    /// A body is being collected.
    Body(Box<Collecting>),
    /// A complete request waits for a worker.
    Call(Box<Call>),
    /// A response whose closure is to be run waits for a worker.
    Push(Box<super::response::Push>),
    /// A thread of its own is wanted: the owner gives it one.
    Own(super::response::Own),
    /// A response is on its way.
    Flush(Box<Flush>),
    /// A request body the handler did not read is read and dropped.
    Discard(Box<Discard>),
    /// All is answered and our side finished; what the peer still sends is read and dropped.
    Linger(Linger),
    /// With its owner, who puts another stage here.
    Taken,
}

/// What answering a request needs to know of it.
#[derive(Debug)]
pub(crate) struct Asked {
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
    pub(crate) asked: Asked,
}

#[derive(Debug)]
pub(super) struct Collecting {
    parts: Parts,
    pub(super) asked: Asked,
    decoder: Decoder,
    body: Vec<u8>,
    /// Bytes of it received, framing and all.
    pub(super) came: u64,
    pub(super) patience: Patience,
}

#[derive(Debug)]
pub(super) struct Flush {
    pub(super) source: Source,
    pub(super) asked: Option<Asked>,
    /// Why the connection closes when the response is sent.
    pub(super) close: Option<CloseReason>,
    pub(super) patience: Option<Patience>,
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
    decoder: Decoder,
    bytes: u64,
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
    OwnThread,
    /// The peer, or its deadline.
    Park,
    /// Another turn, after others had theirs.
    Yield,
    /// Nothing: it is over.
    Close(CloseReason),
}

impl Conn {
    pub(crate) fn new(line: Arc<Egress>, entry: Entry, context: Context, now: Instant) -> Self {
        Self {
            line,
            context,
            entry,
            stage: Stage::Fresh,
            inbox: Inbox::default(),
            scan: HeadScan::new(),
            unread: true,
            hup: false,
            eof: false,
            yielded: false,
            starved: false,
            route: Route::default(),
            since: now,
        }
    }

    /// An event, or whoever took the connection from a queue, says what there may be to read.
    pub(crate) fn tell(&mut self, readable: bool, hup: bool) {
        self.unread |= readable;
        self.hup |= hup;
    }

    /// Goes on until user code, the peer or an end is needed.
    pub(crate) fn advance(&mut self, turn: &mut Turn<'_>) -> Next {
        let next = self.advance_on(turn);
        self.yielded = matches!(next, Next::Yield);
        next
    }

    fn advance_on(&mut self, turn: &mut Turn<'_>) -> Next {
        loop {
            let next = match &self.stage {
                Stage::Fresh | Stage::Idle | Stage::Head => self.read_head(turn),
                Stage::Body(_) => self.collect(turn),
                Stage::Call(_) => match std::mem::replace(&mut self.stage, Stage::Taken) {
                    Stage::Call(call) => Some(Next::Call(*call)),
                    _ => unreachable!("it was a call a moment ago"),
                },
                Stage::Push(_) => Some(Next::Push),
                Stage::Own(_) => Some(Next::OwnThread),
                Stage::Flush(_) => self.flush(turn),
                Stage::Discard(_) => self.discard(turn),
                Stage::Linger(_) => self.linger(turn),
                Stage::Taken => {
                    unreachable!("a connection is advanced when its owner has put it into a stage")
                }
            };
            if let Some(next) = next {
                return next;
            }
        }
    }

    fn read_head(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
        if !self.inbox.is_empty() && turn.requests < TURN {
            if self.line.pending() >= PENDING_BYTES_MAX
                && let Some(next) = self.send_answers(turn)
            {
                return Some(next);
            }
            match self.scan.parse(self.inbox.bytes(), &turn.settings.limits) {
                Ok(Some(head)) => return self.begin(head, turn),
                // Some clients send an empty line behind a body, which is no part of a head (RFC
                // 9112 section 2.2).
                Ok(None) if matches!(self.stage, Stage::Idle) && self.scan.is_blank() => {}
                Ok(None) if matches!(self.stage, Stage::Head) => {}
                Ok(None) => self.enter(Stage::Head, turn.now),
                Err(refusal) => {
                    self.refuse(refusal, turn);
                    return None;
                }
            }
        }
        if let Some(next) = self.send_answers(turn) {
            return Some(next);
        }
        if turn.requests >= TURN && !self.inbox.is_empty() {
            return Some(Next::Yield);
        }
        if self.eof {
            let between = !matches!(self.stage, Stage::Head);
            return Some(Next::Close(if between {
                CloseReason::PeerClosed
            } else {
                CloseReason::PeerGone
            }));
        }
        self.receive(turn)
    }

    /// Sends the answers that wait, before anything else is read. `None`: they are sent.
    fn send_answers(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
        match self.line.flush(&mut turn.buffers.out) {
            Ok(true) => None,
            Ok(false) => {
                let patience = Some(Patience::new(turn.now, self.line.acknowledged()));
                let flush = Flush {
                    source: Source::None,
                    asked: None,
                    close: None,
                    patience,
                };
                self.enter(Stage::Flush(Box::new(flush)), turn.now);
                Some(Next::Park)
            }
            Err(_) => Some(Next::Close(CloseReason::Broken)),
        }
    }

    /// Reads once. `None`: there is something new to look at.
    pub(super) fn receive(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
        if !self.unread {
            return Some(Next::Park);
        }
        let room = self.inbox.room(&mut turn.buffers.read);
        let most = room.len();
        match self.line.transport().recv(room) {
            Ok(0) => {
                (self.eof, self.unread, self.hup) = (true, false, false);
                None
            }
            Ok(n) => {
                self.inbox.filled(n);
                // A read that did not fill the buffer has drained the socket, and the next byte is
                // an event. But a hang-up is told only once: then the end has to be read too.
                self.unread = n == most || self.hup || self.line.transport().has_unread();
                None
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {
                    (self.unread, self.hup) = (false, false);
                    Some(Next::Park)
                }
                io::ErrorKind::Interrupted => None,
                _ => Some(Next::Close(CloseReason::Broken)),
            },
        }
    }

    /// A head is complete.
    fn begin(&mut self, head: Head, turn: &mut Turn<'_>) -> Option<Next> {
        let Head {
            parts,
            len,
            framing,
            persist,
            expect_continue,
        } = head;
        self.inbox.consume(len);
        self.scan = HeadScan::new();
        turn.requests += 1;
        self.since = turn.now;
        let (method, target) = (parts.method.clone(), parts.uri.clone());
        self.route = Route::of(&method, target.path());
        self.line.owe(InFlight {
            method,
            target,
            since: turn.now,
            started: false,
        });
        let asked = Asked {
            method: parts.method.clone(),
            version: parts.version,
            persist,
            ingress: None,
        };
        if framing == Framing::Empty {
            self.stage = Stage::Taken;
            return Some(Next::Call(Call {
                request: Request::from_parts(parts, Body::empty()),
                asked,
            }));
        }
        let collecting = Collecting {
            parts,
            asked,
            decoder: Decoder::new(framing, &turn.settings.limits),
            body: Vec::new(),
            came: 0,
            patience: Patience::new(turn.now, 0),
        };
        // Who waits for `100 Continue` sends nothing before the handler has asked for it.
        let expects_continue = expect_continue && self.inbox.is_empty();
        if expects_continue || turn.settings.collect_bytes == 0 {
            self.stage = Stage::Taken;
            return Some(Next::Call(self.stream(collecting, expects_continue, turn)));
        }
        self.stage = Stage::Body(Box::new(collecting));
        None
    }

    fn collect(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
        let most = turn.settings.collect_bytes;
        let Stage::Body(collecting) = &mut self.stage else {
            unreachable!("it is collected in this stage")
        };
        let Collecting {
            decoder,
            body,
            came,
            ..
        } = &mut **collecting;
        while !decoder.is_done() && body.len() < most && !self.inbox.is_empty() {
            let old = body.len();
            body.resize(old + self.inbox.len().min(most - old), 0);
            match decoder.decode(self.inbox.bytes(), &mut body[old..]) {
                Ok(decoded) => {
                    body.truncate(old + decoded.produced);
                    *came += decoded.consumed as u64;
                    self.inbox.consume(decoded.consumed);
                }
                Err(refusal) => {
                    self.refuse(refusal, turn);
                    return None;
                }
            }
        }
        if decoder.is_done() || body.len() >= most {
            let Stage::Body(collecting) = std::mem::replace(&mut self.stage, Stage::Taken) else {
                unreachable!("it is collected in this stage")
            };
            self.since = turn.now;
            return Some(Next::Call(self.collected(*collecting, turn)));
        }
        if self.eof {
            self.refuse(
                Refusal {
                    status: StatusCode::BAD_REQUEST,
                    reason: "the request body ended before its length",
                },
                turn,
            );
            return None;
        }
        // Answers to earlier requests do not wait for this one's body.
        match self.line.flush(&mut turn.buffers.out) {
            Ok(_) => self.receive(turn),
            Err(_) => Some(Next::Close(CloseReason::Broken)),
        }
    }

    fn collected(&mut self, mut collecting: Collecting, turn: &Turn<'_>) -> Call {
        if !collecting.decoder.is_done() {
            return self.stream(collecting, false, turn);
        }
        let body = Body::collected(collecting.body, collecting.decoder.take_trailers());
        Call {
            request: Request::from_parts(collecting.parts, body),
            asked: collecting.asked,
        }
    }

    /// A request whose body its handler reads as it comes.
    fn stream(&mut self, collecting: Collecting, expects_continue: bool, turn: &Turn<'_>) -> Call {
        let Collecting {
            parts,
            mut asked,
            decoder,
            body,
            ..
        } = collecting;
        let (incoming, ingress) = Incoming::pair(Reading {
            line: self.line.clone(),
            decoder,
            received: self.inbox.take(),
            collected: body,
            expects_continue,
            clock: turn.lifecycle.clock.clone(),
            demand: body_demand(turn.settings),
            eof: self.eof,
        });
        asked.ingress = Some(ingress);
        Call {
            request: Request::from_parts(parts, Body::incoming(incoming)),
            asked,
        }
    }

    /// Sends what is pending and, while it needs no user code, what follows.
    fn flush(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
        let sent = self.line.flush(&mut turn.buffers.out);
        let Stage::Flush(flush) = &mut self.stage else {
            unreachable!("it is flushed in this stage")
        };
        let sent = match (&mut flush.source, sent) {
            (_, Err(error)) => Err(error),
            (_, Ok(false)) => Ok(false),
            (Source::None, Ok(true)) => Ok(true),
            (Source::Bytes(bytes), Ok(true)) => self.line.send_directly(bytes).map(|taken| {
                bytes.advance(taken);
                bytes.is_empty()
            }),
            (Source::Read { .. }, Ok(true)) => {
                if let Some(patience) = &mut flush.patience {
                    patience.pause(turn.now, self.line.acknowledged());
                }
                return Some(if turn.pulls < PULLS {
                    Next::Pull
                } else {
                    Next::Yield
                });
            }
        };
        match sent {
            Ok(true) => {
                let Stage::Flush(flush) = std::mem::replace(&mut self.stage, Stage::Taken) else {
                    unreachable!("it is flushed in this stage")
                };
                if !matches!(flush.source, Source::None) {
                    self.line.whole();
                }
                match flush.asked {
                    Some(asked) => self.finish(asked, flush.close, turn),
                    None => self.follow(flush.close, turn),
                }
                None
            }
            Ok(false) => {
                let acknowledged = self.line.acknowledged();
                match &mut flush.patience {
                    Some(patience) => patience.resume(turn.now, acknowledged),
                    none => *none = Some(Patience::new(turn.now, acknowledged)),
                }
                Some(Next::Park)
            }
            Err(_) => Some(Next::Close(CloseReason::Broken)),
        }
    }

    /// What follows a response that is sent.
    pub(super) fn follow(&mut self, close: Option<CloseReason>, turn: &Turn<'_>) {
        match close {
            None => self.enter(Stage::Idle, turn.now),
            Some(reason) => {
                self.say_goodbye(reason, LINGER_TIMEOUT, turn);
            }
        }
    }

    /// What follows a response that is whole, if not all sent: the rest of its request is taken
    /// back.
    pub(super) fn finish(
        &mut self,
        asked: Asked,
        mut close: Option<CloseReason>,
        turn: &mut Turn<'_>,
    ) {
        turn.buffers.answered[turn.lifecycle.phase() as usize] += 1;
        let mut unread_body = None;
        if let Some(ingress) = asked.ingress {
            match body::take_rest(&ingress) {
                Some(rest) => {
                    self.inbox.restore(rest.received);
                    self.eof |= rest.eof;
                    self.unread = true;
                    if rest.failed || rest.expects_continue {
                        close = close.or(Some(CloseReason::Refused));
                    }
                    unread_body = Some(rest.decoder).filter(|decoder| !decoder.is_done());
                }
                None => {
                    log::warn!(
                        "a request body was still being read by another thread when its response was complete"
                    );
                    close = Some(CloseReason::Failed);
                }
            }
        }
        match (close, unread_body) {
            (Some(_), _) => {
                let flush = Flush {
                    source: Source::None,
                    asked: None,
                    close,
                    patience: None,
                };
                self.enter(Stage::Flush(Box::new(flush)), turn.now);
            }
            (None, Some(decoder)) => self.enter(
                Stage::Discard(Box::new(Discard { decoder, bytes: 0 })),
                turn.now,
            ),
            (None, None) => self.follow(None, turn),
        }
    }

    fn discard(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
        if let Some(next) = self.flush_quietly(turn) {
            return Some(next);
        }
        let Stage::Discard(discard) = &mut self.stage else {
            unreachable!("it is discarded in this stage")
        };
        let mut nowhere = [0; 1024];
        while !discard.decoder.is_done() && !self.inbox.is_empty() {
            match discard.decoder.decode(self.inbox.bytes(), &mut nowhere) {
                Ok(decoded) => {
                    discard.bytes += decoded.consumed as u64;
                    self.inbox.consume(decoded.consumed);
                }
                // What follows a body with broken framing cannot be told from it.
                Err(_) => discard.bytes = u64::MAX,
            }
            if discard.bytes > DISCARD_BYTES_MAX {
                self.close_after_flush(CloseReason::Refused, turn);
                return None;
            }
        }
        if discard.decoder.is_done() {
            self.follow(None, turn);
            return None;
        }
        if self.eof {
            return Some(Next::Close(CloseReason::PeerGone));
        }
        self.receive(turn)
    }

    /// Sends what is pending; what is not taken is sent with the next event.
    fn flush_quietly(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
        self.line
            .flush(&mut turn.buffers.out)
            .is_err()
            .then_some(Next::Close(CloseReason::Broken))
    }

    pub(super) fn enter(&mut self, stage: Stage, now: Instant) {
        let left = std::mem::replace(&mut self.stage, stage);
        // What its handler gave and nobody took is user code's to drop.
        if matches!(left, Stage::Push(_) | Stage::Own(_) | Stage::Flush(_))
            && let Err(panic) = panics::catch(|| drop(left))
        {
            log::error!(
                "a response's body panicked when it was dropped: {panic}, peer {}",
                Peer(&self.line)
            );
        }
        (self.since, self.starved) = (now, false);
    }

    /// Whether user code that goes on with this connection may have to wait for the peer.
    pub(crate) fn holds_worker(&self) -> bool {
        match &self.stage {
            Stage::Push(_) => true,
            Stage::Flush(flush) => flush
                .asked
                .as_ref()
                .and_then(|asked| asked.ingress.as_ref())
                .is_some_and(|ingress| !body::is_complete(ingress)),
            _ => false,
        }
    }
}

impl Call {
    /// Whether its handler may have to wait for the peer.
    pub(crate) fn holds_worker(&self) -> bool {
        self.asked.ingress.is_some()
    }
}

/// Seconds after which a refused client may try again.
pub(crate) const RETRY_AFTER: &str = "1";

pub(super) fn body_demand(settings: &Settings) -> Demand {
    Demand {
        timeout: settings.body_timeout,
        rate_min: settings.rate_min,
    }
}

pub(super) fn write_demand(settings: &Settings) -> Demand {
    Demand {
        timeout: settings.write_timeout,
        rate_min: settings.rate_min,
    }
}

/// A peer as log lines name it.
pub(crate) struct Peer<'a>(pub(crate) &'a Egress);

impl std::fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.peer() {
            Some(peer) => write!(f, "{peer}"),
            None => f.write_str("on a unix socket"),
        }
    }
}
