//! A connection from accept to close: read a request, have it answered, and again.
//!
//! [`Conn::advance`] goes on until it needs user code, the peer, or an end, and says which as a [`Next`]. It never blocks
//! and never runs user code, so the monitor can do it when all workers sit in handlers. What runs user code
//! ([`Call`], [`Conn::pull`], [`Conn::push`]) is called by a worker.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::request::Parts;
use http::{Method, StatusCode, Version};

use crate::conn::body::{self, Body, Incoming, Ingress, Reading};
use crate::conn::egress::{Egress, InFlight};
use crate::conn::inbox::Inbox;
use crate::conn::patience::{Demand, Patience};
use crate::conn::transport::Look;
use crate::lifecycle::context::Context;
use crate::lifecycle::ledger::{CloseReason, Entry, Raced};
use crate::lifecycle::phase::{Lifecycle, Phase};
use crate::pace::Route;
use crate::settings::{
    DISCARD_BYTES_MAX, DISCARD_TIMEOUT, GOODBYE_MIN, LINGER_BYTES_MAX, LINGER_QUIET, LINGER_TIMEOUT, PENDING_BYTES_MAX,
    PULLS, READ_BYTES, Settings, TURN,
};
use crate::waker::wait_for_peer;
use crate::wire::Refusal;
use crate::wire::chunked::Decoder;
use crate::wire::framing::Framing;
use crate::wire::head::{Head, HeadScan};
use crate::wire::persist::Persist;
use crate::wire::reply;

/// What a handler is given.
pub type Request = http::Request<Body>;

/// A connection. Moved by value between its slot and the one who has claimed it.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) line: Arc<Egress>,
    pub(crate) context: Context,
    pub(super) entry: Entry,
    pub(super) stage: Stage,
    pub(super) inbox: Inbox,
    scan: HeadScan,
    /// The socket may hold bytes that no event will tell of.
    unread: bool,
    /// The peer has finished or broken its side, and we have not read as far as that yet.
    hup: bool,
    /// We have.
    pub(super) eof: bool,
    /// It has only given way to others: it waits for its turn, not for its peer.
    yielded: bool,
    /// What the poller tells of.
    pub(crate) told: Told,
    /// What was asked for last, for the pace.
    pub(crate) route: Route,
    /// When the stage began; while idle, when the last byte of the last answer was appended.
    pub(super) since: Instant,
}

/// What the poller tells a connection of. It only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Told {
    /// Not registered yet.
    Nothing,
    /// Bytes and hang-up.
    In,
    /// Room to write too.
    InAndOut,
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
    Push(Box<super::answer::Push>),
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
    asked: Asked,
    decoder: Decoder,
    body: Vec<u8>,
    /// Bytes of it received, framing and all.
    came: u64,
    patience: Patience,
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

#[derive(Debug)]
pub(super) struct Linger {
    reason: CloseReason,
    bytes: u64,
    heard_at: Instant,
    /// When it is over at the latest.
    until: Instant,
    /// Requests that come now are named in the report; `None` when nobody is to know, or what came is no request.
    late: Option<HeadScan>,
}

/// What a connection needs next.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
pub(crate) enum Next {
    /// Its handler to be called: user code.
    Call(Call),
    /// A piece of its response's body to be read, by [`Conn::pull`]: user code.
    Pull,
    /// Its response's body to be written, by [`Conn::push`]: user code that may wait for the peer.
    Push,
    /// The peer, or its deadline.
    Park,
    /// Another turn, after others had theirs.
    Yield,
    /// Nothing: it is over.
    Close(CloseReason),
}

/// What a deadline that is over leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// It is not over any more.
    Wait,
    /// The connection has something to do: advance it.
    Advance,
    /// It is over.
    Close(CloseReason),
}

/// What a thread brings when it serves a connection.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) lifecycle: &'a Lifecycle,
    pub(crate) buffers: &'a mut Buffers,
    pub(crate) now: Instant,
    requests: usize,
    pulls: usize,
}

/// The buffers of a thread, lent to the connection it serves.
#[derive(Debug)]
pub(crate) struct Buffers {
    read: Vec<u8>,
    pub(super) out: Vec<u8>,
    pub(super) pull: Vec<u8>,
    date: [u8; 29],
    date_until: Option<Instant>,
    /// Responses made, by the phase they were made in.
    pub(crate) answered: [u64; Phase::ALL.len()],
}

impl<'a> Turn<'a> {
    pub(crate) fn new(
        settings: &'a Settings,
        lifecycle: &'a Lifecycle,
        buffers: &'a mut Buffers,
        now: Instant,
    ) -> Self {
        Self { settings, lifecycle, buffers, now, requests: 0, pulls: 0 }
    }

    /// After user code, which may have taken any time.
    pub(crate) fn look_at_clock(&mut self) -> Instant {
        self.now = self.lifecycle.clock.now();
        self.now
    }

    /// The `Date` field's value, formatted once a second.
    pub(super) fn date(&mut self) -> [u8; 29] {
        if self.buffers.date_until.is_none_or(|until| self.now >= until) {
            let wall = self.lifecycle.clock.wall();
            self.buffers.date = reply::http_date(wall);
            let into_second = wall.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
            self.buffers.date_until = Some(self.now + Duration::from_nanos(1_000_000_000 - u64::from(into_second)));
        }
        self.buffers.date
    }
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self {
            read: vec![0; READ_BYTES],
            out: Vec::with_capacity(READ_BYTES),
            pull: Vec::new(),
            date: [0; 29],
            date_until: None,
            answered: [0; Phase::ALL.len()],
        }
    }
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
            told: Told::Nothing,
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
                Stage::Flush(_) => self.flush(turn),
                Stage::Discard(_) => self.discard(turn),
                Stage::Linger(_) => self.linger(turn),
                Stage::Taken => unreachable!("a connection is advanced when its owner has put it into a stage"),
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
                // Some clients send an empty line behind a body, which is no part of a head (RFC 9112 section 2.2).
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
            return Some(Next::Close(if between { CloseReason::PeerClosed } else { CloseReason::PeerGone }));
        }
        self.receive(turn)
    }

    /// Sends the answers that wait, before anything else is read. `None`: they are sent.
    fn send_answers(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
        match self.line.flush(&mut turn.buffers.out) {
            Ok(true) => None,
            Ok(false) => {
                let patience = Some(Patience::new(turn.now, self.line.acknowledged()));
                let flush = Flush { source: Source::None, asked: None, close: None, patience };
                self.enter(Stage::Flush(Box::new(flush)), turn.now);
                Some(Next::Park)
            }
            Err(_) => Some(Next::Close(CloseReason::Broken)),
        }
    }

    /// Reads once. `None`: there is something new to look at.
    fn receive(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
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
                // A read that did not fill the buffer has drained the socket, and the next byte is an event. But a
                // hang-up is told only once: then the end has to be read too.
                self.unread = n == most || self.hup;
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
        let Head { parts, len, framing, persist, expect_continue } = head;
        self.inbox.consume(len);
        self.scan = HeadScan::new();
        turn.requests += 1;
        self.since = turn.now;
        let (method, target) = (parts.method.clone(), parts.uri.clone());
        self.route = Route::of(&method, target.path());
        self.line.owe(InFlight { method, target, since: turn.now, started: false });
        let asked = Asked { method: parts.method.clone(), version: parts.version, persist, ingress: None };
        if framing == Framing::Empty {
            self.stage = Stage::Taken;
            return Some(Next::Call(Call { request: Request::from_parts(parts, Body::empty()), asked }));
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
        let Stage::Body(collecting) = &mut self.stage else { unreachable!("it is collected in this stage") };
        let Collecting { decoder, body, came, .. } = &mut **collecting;
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
                Refusal { status: StatusCode::BAD_REQUEST, reason: "the request body ended before its length" },
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
        Call { request: Request::from_parts(collecting.parts, body), asked: collecting.asked }
    }

    /// A request whose body its handler reads as it comes.
    fn stream(&mut self, collecting: Collecting, expects_continue: bool, turn: &Turn<'_>) -> Call {
        let Collecting { parts, mut asked, decoder, body, .. } = collecting;
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
        Call { request: Request::from_parts(parts, Body::incoming(incoming)), asked }
    }

    /// Sends what is pending and, while it needs no user code, what follows.
    fn flush(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
        let sent = self.line.flush(&mut turn.buffers.out);
        let Stage::Flush(flush) = &mut self.stage else { unreachable!("it is flushed in this stage") };
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
                return Some(if turn.pulls < PULLS { Next::Pull } else { Next::Yield });
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
    fn follow(&mut self, close: Option<CloseReason>, turn: &Turn<'_>) {
        match close {
            None => self.enter(Stage::Idle, turn.now),
            Some(reason) => {
                self.say_goodbye(reason, LINGER_TIMEOUT, turn);
            }
        }
    }

    /// What follows a response that is whole, if not all sent: the rest of its request is taken back.
    pub(super) fn finish(&mut self, asked: Asked, mut close: Option<CloseReason>, turn: &mut Turn<'_>) {
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
                    log::warn!("a request body was still being read by another thread when its response was complete");
                    close = Some(CloseReason::Failed);
                }
            }
        }
        match (close, unread_body) {
            (Some(_), _) => {
                let flush = Flush { source: Source::None, asked: None, close, patience: None };
                self.enter(Stage::Flush(Box::new(flush)), turn.now);
            }
            (None, Some(decoder)) => self.enter(Stage::Discard(Box::new(Discard { decoder, bytes: 0 })), turn.now),
            (None, None) => self.follow(None, turn),
        }
    }

    fn discard(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
        if let Some(next) = self.flush_quietly(turn) {
            return Some(next);
        }
        let Stage::Discard(discard) = &mut self.stage else { unreachable!("it is discarded in this stage") };
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
        self.line.flush(&mut turn.buffers.out).is_err().then_some(Next::Close(CloseReason::Broken))
    }

    fn linger(&mut self, turn: &mut Turn<'_>) -> Option<Next> {
        self.note_late_requests(turn);
        let Stage::Linger(linger) = &mut self.stage else { unreachable!("it lingers in this stage") };
        if self.eof || linger.bytes > LINGER_BYTES_MAX {
            return Some(Next::Close(linger.reason));
        }
        let reason = linger.reason;
        let next = self.receive(turn);
        if self.eof || matches!(next, Some(Next::Close(_))) {
            return Some(Next::Close(reason));
        }
        if next.is_none()
            && let Stage::Linger(linger) = &mut self.stage
        {
            linger.heard_at = turn.now;
        }
        next
    }

    /// Finishes our side, and waits for the peer to finish its own.
    fn say_goodbye(&mut self, reason: CloseReason, at_most: Duration, turn: &Turn<'_>) {
        self.line.transport().finish();
        let late = turn.lifecycle.is_stopping().then(HeadScan::new);
        let linger = Linger { reason, bytes: 0, heard_at: turn.now, until: turn.now + at_most, late };
        self.enter(Stage::Linger(linger), turn.now);
        self.unread = true;
    }

    /// Names requests that came after our end, and drops what came.
    fn note_late_requests(&mut self, turn: &Turn<'_>) {
        let Stage::Linger(linger) = &mut self.stage else { unreachable!("it lingers in this stage") };
        while let Some(scan) = &mut linger.late
            && !self.inbox.is_empty()
        {
            match scan.parse(self.inbox.bytes(), &turn.settings.limits) {
                Ok(Some(head)) => {
                    self.inbox.consume(head.len);
                    linger.bytes += head.len as u64;
                    let (peer, told) = (self.line.peer(), linger.reason != CloseReason::IdleStopping);
                    let (method, target) = (head.parts.method, head.parts.uri);
                    self.entry.raced(Raced { peer, method, target, told });
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
            _ => false,
        };
        let date = turn.date();
        let retry_after = [(http::header::RETRY_AFTER, RETRY_AFTER)];
        let extra = if refusal.status == StatusCode::SERVICE_UNAVAILABLE { &retry_after[..] } else { &[] };
        let answered = self.line.begin(&mut turn.buffers.out, true, |out| {
            reply::write_refusal(out, refusal.status, refusal.reason, &date, extra, !head_only);
        });
        log::debug!("{}: {}, peer {}", refusal.status, refusal.reason, Peer(&self.line));
        self.close_after_flush(if answered.is_ok() { CloseReason::Refused } else { CloseReason::Cut }, turn);
    }

    pub(crate) fn close_after_flush(&mut self, reason: CloseReason, turn: &Turn<'_>) {
        let flush = Flush { source: Source::None, asked: None, close: Some(reason), patience: None };
        self.enter(Stage::Flush(Box::new(flush)), turn.now);
    }

    pub(super) fn enter(&mut self, stage: Stage, now: Instant) {
        let left = std::mem::replace(&mut self.stage, stage);
        // What its handler gave and nobody took is user code's to drop.
        if matches!(left, Stage::Push(_) | Stage::Flush(_)) && catch_unwind(AssertUnwindSafe(|| drop(left))).is_err() {
            log::error!("a response's body panicked when it was dropped, peer {}", Peer(&self.line));
        }
        self.since = now;
    }

    /// The owner could not go on with what `advance` asked for: it waits for a worker.
    pub(crate) fn wait_for_worker(&mut self, call: Option<Call>) {
        if let Some(call) = call {
            self.stage = Stage::Call(Box::new(call));
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
        self.line.pending() > 0
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
            Stage::Call(_) | Stage::Push(_) => settings.queue_timeout,
            Stage::Discard(_) => DISCARD_TIMEOUT,
            Stage::Body(collecting) => {
                return Some(
                    collecting.patience.check(turn.now, collecting.came, body_demand(settings)).unwrap_or(turn.now),
                );
            }
            Stage::Flush(flush) => match &mut flush.patience {
                Some(patience) if patience.is_waiting() => {
                    let count = self.line.acknowledged();
                    return Some(patience.check(turn.now, count, write_demand(settings)).unwrap_or(turn.now));
                }
                // Its reader waits for a worker, which is no fault of the peer's.
                _ => return None,
            },
            Stage::Linger(linger) => {
                let end = linger.until;
                let quiet = linger.heard_at + LINGER_QUIET;
                return Some(if quiet > turn.now { quiet.min(end) } else { end.min(turn.now + LINGER_QUIET) });
            }
            Stage::Taken => unreachable!("a connection is parked in a stage"),
        };
        self.since.checked_add(timeout)
    }

    /// The deadline of a parked connection is over.
    pub(crate) fn overdue(&mut self, turn: &mut Turn<'_>) -> Overdue {
        if self.deadline(turn).is_none_or(|at| at > turn.now) && !matches!(self.stage, Stage::Linger(_)) {
            return Overdue::Wait;
        }
        match &self.stage {
            Stage::Fresh | Stage::Idle => match self.line.transport().look() {
                // A request that came in time is served, although its event was not.
                Look::Bytes => {
                    self.tell(true, false);
                    Overdue::Advance
                }
                Look::End => Overdue::Close(CloseReason::PeerClosed),
                Look::Broken => Overdue::Close(CloseReason::Broken),
                // Who reads its last response slowly is not idle: its next request would meet a closed connection.
                Look::Silence if self.was_heard_lately(turn) => Overdue::Wait,
                // A request may be on its way while ours is: our end is seen after a round trip, and who does not watch its
                // idle connections sees it when it writes.
                Look::Silence if turn.lifecycle.phase() >= Phase::Draining => {
                    let rtt = self.line.transport().info().map_or(Duration::ZERO, |info| info.rtt);
                    self.say_goodbye(CloseReason::IdleStopping, GOODBYE_MIN.max(2 * rtt).min(LINGER_TIMEOUT), turn);
                    Overdue::Advance
                }
                Look::Silence if matches!(self.stage, Stage::Fresh) => Overdue::Close(CloseReason::Silent),
                Look::Silence => Overdue::Close(CloseReason::Idle),
            },
            Stage::Head => self.refuse_overdue(StatusCode::REQUEST_TIMEOUT, "the request head took too long", turn),
            Stage::Body(_) => {
                self.refuse_overdue(StatusCode::REQUEST_TIMEOUT, "the request body came too slowly", turn)
            }
            Stage::Call(_) | Stage::Push(_) => {
                self.refuse_overdue(StatusCode::SERVICE_UNAVAILABLE, "the server is too busy", turn)
            }
            // There is room: it is our turn that is late, not the peer's.
            Stage::Flush(_) if wait_for_peer(self.line.transport().as_fd(), true, Duration::ZERO) => Overdue::Advance,
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
                if turn.now >= until {
                    // What came, and whose event nobody had the time to see, is named all the same.
                    self.tell(true, true);
                    while self.linger(turn).is_none() {}
                    return Overdue::Close(reason);
                }
                let quiet = turn.now.saturating_duration_since(heard_at) >= LINGER_QUIET;
                // What was written to a unix socket is with the peer.
                let is_local = self.line.peer().is_none();
                let acknowledged = || is_local || self.line.transport().info().is_some_and(|info| info.is_fin_wait2);
                if quiet && acknowledged() { Overdue::Close(reason) } else { Overdue::Wait }
            }
            Stage::Taken => unreachable!("a connection is parked in a stage"),
        }
    }

    /// While draining: whether the peer's kernel was heard within the idle grace, or takes its time with what was sent.
    fn was_heard_lately(&mut self, turn: &Turn<'_>) -> bool {
        if turn.lifecycle.phase() < Phase::Draining || !turn.lifecycle.clock.is_the_kernels() {
            return false;
        }
        let Some(info) = self.line.transport().info() else { return false };
        let grace = turn.settings.idle_grace;
        if info.silent_for < grace {
            self.since = turn.now.checked_sub(info.silent_for).unwrap_or(turn.now);
            return true;
        }
        // A window that is closed is probed ever more seldom.
        let reading = !self.line.is_acknowledged(info) && info.silent_for < turn.settings.write_timeout;
        if reading {
            self.since = turn.now;
        }
        reading
    }

    fn refuse_overdue(&mut self, status: StatusCode, reason: &'static str, turn: &mut Turn<'_>) -> Overdue {
        self.refuse(Refusal { status, reason }, turn);
        Overdue::Advance
    }

    /// At the cut: a request that is here already is owed an answer from now on. Why to close the connection, if nothing is
    /// and nothing is on its way to the peer that a last second could complete.
    pub(crate) fn look_once_more(&mut self, turn: &mut Turn<'_>) -> Option<CloseReason> {
        if !matches!(self.stage, Stage::Fresh | Stage::Idle | Stage::Head | Stage::Discard(_)) {
            return None;
        }
        self.tell(true, true);
        match self.advance(turn) {
            Next::Call(call) => self.wait_for_worker(Some(call)),
            Next::Close(reason) => return Some(reason),
            Next::Park | Next::Yield | Next::Pull | Next::Push => {}
        }
        match self.stage {
            Stage::Fresh | Stage::Idle => Some(CloseReason::IdleStopping),
            Stage::Head | Stage::Discard(_) if self.line.pending() == 0 => Some(CloseReason::Cut),
            _ => None,
        }
    }

    /// Ends the connection: the peer sees FIN if all was sent, and RST if a response is not whole.
    pub(crate) fn close(mut self, reason: CloseReason) {
        self.entry.because(reason);
        if self.line.is_begun() || matches!(reason, CloseReason::Cut | CloseReason::Stalled) {
            self.line.transport().reset();
        }
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

    /// After a piece was pulled.
    pub(super) fn count_pull(turn: &mut Turn<'_>) {
        turn.pulls += 1;
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
    Demand { timeout: settings.body_timeout, rate_min: settings.rate_min }
}

pub(super) fn write_demand(settings: &Settings) -> Demand {
    Demand { timeout: settings.write_timeout, rate_min: settings.rate_min }
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
