//! A connection from accept to close: it reads a request, has it answered, and starts again.
//!
//! [`Conn::advance`] runs until the connection needs user code, waits for its peer, or is over, and
//! returns which as a [`Next`]. It never blocks and never runs user code, so the monitor can call
//! it while all workers are in handlers. Only workers run the user code ([`Call`], [`Conn::pull`],
//! [`Conn::push`]).

use std::io;

use bytes::Buf;
use http::StatusCode;
use log::Level;

use crate::conn::body::Body;
use crate::conn::egress::InFlight;
use crate::conn::message::Request;
use crate::conn::progress::Progress;
use crate::conn::request_body::{self, Incoming, Reading};
use crate::conn::request_line;
use crate::conn::serve_context::ServeContext;
use crate::conn::stage::{
    Call, Collecting, Conn, Discard, Flush, Next, RequestMeta, Source, Stage, WaitsForRoom,
    body_progress_limit,
};
use crate::lifecycle::ledger::CloseReason;
use crate::settings::{
    LINGER_TIMEOUT, MAX_DISCARD_BYTES, MAX_PENDING_BYTES, PULL_BUDGET, REQUEST_BUDGET,
};
use crate::wire::Refusal;
use crate::wire::chunked::Decoder;
use crate::wire::framing::Framing;
use crate::wire::head::{Head, HeadScan};

impl Conn {
    /// Runs the connection until it needs user code, waits for its peer, or is over.
    pub(crate) fn advance(&mut self, cx: &mut ServeContext<'_>) -> Next {
        let next = self.run_stages(cx);
        self.yielded = matches!(next, Next::Yield);
        next
    }

    fn run_stages(&mut self, cx: &mut ServeContext<'_>) -> Next {
        loop {
            let next = match &self.stage {
                Stage::Fresh | Stage::Idle | Stage::Head => self.read_head(cx),
                Stage::Body(_) => self.collect(cx),
                Stage::Call(_) => match std::mem::replace(&mut self.stage, Stage::Moved) {
                    Stage::Call(call) => Some(Next::Call(*call)),
                    _ => unreachable!("the stage was a call a moment ago"),
                },
                Stage::Push(_) => Some(Next::Push),
                Stage::Dedicated(_) => Some(Next::DedicatedThread),
                Stage::Flush(_) => self.flush(cx),
                Stage::Discard(_) => self.discard(cx),
                Stage::Linger(_) => self.linger(cx),
                Stage::Moved => {
                    unreachable!("a connection is advanced after its owner has put it into a stage")
                }
            };
            if let Some(next) = next {
                return next;
            }
        }
    }

    fn read_head(&mut self, cx: &mut ServeContext<'_>) -> Option<Next> {
        if !self.recv_buf.is_empty() && cx.requests < REQUEST_BUDGET {
            if self.egress.pending() >= MAX_PENDING_BYTES
                && let Some(next) = self.send_pending_responses(cx)
            {
                return Some(next);
            }
            match self.scan.parse(self.recv_buf.bytes(), &cx.settings.limits) {
                Ok(Some(head)) => return self.begin_request(head, cx),
                // Some clients send an empty line after a body, which is no part of a head (RFC
                // 9112 section 2.2).
                Ok(None) if matches!(self.stage, Stage::Idle) && self.scan.is_blank() => {}
                Ok(None) if matches!(self.stage, Stage::Head) => {}
                Ok(None) => self.enter(Stage::Head, cx.now),
                Err(refusal) => {
                    self.refuse(refusal, cx);
                    return None;
                }
            }
        }
        if let Some(next) = self.send_pending_responses(cx) {
            return Some(next);
        }
        if cx.requests >= REQUEST_BUDGET && !self.recv_buf.is_empty() {
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
        self.receive(cx)
    }

    /// Sends the pending responses before anything else is read. `None`: all are sent.
    fn send_pending_responses(&mut self, cx: &mut ServeContext<'_>) -> Option<Next> {
        match self.egress.flush(&mut cx.buffers.out) {
            Ok(true) => None,
            Ok(false) => {
                let progress = Some(Progress::new(cx.now, self.egress.acknowledged()));
                let flush = Flush {
                    source: Source::None,
                    meta: None,
                    close: None,
                    progress,
                };
                self.enter(Stage::Flush(Box::new(flush)), cx.now);
                Some(Next::Park)
            }
            Err(_) => Some(Next::Close(CloseReason::Broken)),
        }
    }

    /// Reads once from the socket. `None`: the buffer or the end of stream has news.
    pub(super) fn receive(&mut self, cx: &mut ServeContext<'_>) -> Option<Next> {
        if !self.unread {
            return Some(Next::Park);
        }
        let room = self.recv_buf.room(&mut cx.buffers.read);
        let most = room.len();
        match self.egress.transport().recv(room) {
            Ok(0) => {
                (self.eof, self.unread, self.hup) = (true, false, false);
                None
            }
            Ok(n) => {
                self.recv_buf.filled(n);
                // A read that did not fill the buffer has drained the socket, and the next byte
                // causes an event. But the poller reports a hang-up only once, so after one the end
                // has to be read too.
                self.unread = n == most || self.hup || self.egress.transport().has_unread();
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

    /// Begins the request whose head is complete.
    fn begin_request(&mut self, head: Head, cx: &mut ServeContext<'_>) -> Option<Next> {
        let Head {
            parts,
            len,
            framing,
            persist,
            expect_continue,
        } = head;
        self.recv_buf.consume(len);
        self.scan = HeadScan::new();
        cx.requests += 1;
        self.streams_body = false;
        if matches!(self.stage, Stage::Idle) {
            self.was_idle_for = cx.now.saturating_duration_since(self.since);
        }
        self.room = WaitsForRoom::No;
        self.since = cx.now;
        let (method, target) = (parts.method.clone(), parts.uri.clone());
        self.egress.set_in_flight(InFlight {
            method,
            target,
            since: cx.now,
            started: false,
            id: None,
        });
        let meta = RequestMeta {
            method: parts.method.clone(),
            version: parts.version,
            persist,
            ingress: None,
        };
        if framing == Framing::Empty {
            self.stage = Stage::Moved;
            return Some(Next::Call(Call {
                request: Request::from_parts(parts, Body::empty()),
                meta,
            }));
        }
        let collecting = Collecting {
            parts,
            meta,
            decoder: Decoder::new(framing, &cx.settings.limits),
            body: Vec::new(),
            received_bytes: 0,
            progress: Progress::new(cx.now, 0),
        };
        if matches!(framing, Framing::Length(len) if len > cx.settings.max_body_bytes) {
            // In this stage the refusal knows what it is for.
            self.stage = Stage::Body(Box::new(collecting));
            self.refuse(request_body::BODY_TOO_LONG, cx);
            return None;
        }
        // A client that waits for `100 Continue` sends nothing before the handler has read.
        let expects_continue = expect_continue && self.recv_buf.is_empty();
        if expects_continue || cx.settings.collect_bytes == 0 {
            self.stage = Stage::Moved;
            return Some(Next::Call(self.stream(collecting, expects_continue, cx)));
        }
        self.stage = Stage::Body(Box::new(collecting));
        None
    }

    /// Decodes what has come of a body, until it is complete or as long as it may be in memory.
    fn collect(&mut self, cx: &mut ServeContext<'_>) -> Option<Next> {
        let most = cx.settings.collect_bytes;
        let Stage::Body(collecting) = &mut self.stage else {
            unreachable!("it is collected in this stage")
        };
        let Collecting {
            decoder,
            body,
            received_bytes,
            ..
        } = &mut **collecting;
        while !decoder.is_done() && body.len() < most && !self.recv_buf.is_empty() {
            let old = body.len();
            body.resize(old + self.recv_buf.len().min(most - old), 0);
            match decoder.decode(self.recv_buf.bytes(), &mut body[old..]) {
                Ok(decoded) => {
                    body.truncate(old + decoded.produced);
                    *received_bytes += decoded.consumed as u64;
                    self.recv_buf.consume(decoded.consumed);
                }
                Err(refusal) => {
                    self.refuse(refusal, cx);
                    return None;
                }
            }
        }
        if body.len() as u64 > cx.settings.max_body_bytes {
            self.refuse(request_body::BODY_TOO_LONG, cx);
            return None;
        }
        if decoder.is_done() || body.len() >= most {
            let Stage::Body(collecting) = std::mem::replace(&mut self.stage, Stage::Moved) else {
                unreachable!("it is collected in this stage")
            };
            self.since = cx.now;
            return Some(Next::Call(self.collected(*collecting, cx)));
        }
        if self.eof {
            self.refuse(
                Refusal {
                    status: StatusCode::BAD_REQUEST,
                    reason: "the request body ended before its length",
                },
                cx,
            );
            return None;
        }
        // The responses to earlier requests do not wait for this one's body.
        match self.egress.flush(&mut cx.buffers.out) {
            Ok(_) => self.receive(cx),
            Err(_) => Some(Next::Close(CloseReason::Broken)),
        }
    }

    /// Makes the call of a request whose body was collected, completely or up to its limit.
    fn collected(&mut self, mut collecting: Collecting, cx: &ServeContext<'_>) -> Call {
        if !collecting.decoder.is_done() {
            return self.stream(collecting, false, cx);
        }
        let body = Body::collected(collecting.body, collecting.decoder.take_trailers());
        Call {
            request: Request::from_parts(collecting.parts, body),
            meta: collecting.meta,
        }
    }

    /// Makes the call of a request whose body the handler reads as it comes.
    fn stream(
        &mut self,
        collecting: Collecting,
        expects_continue: bool,
        cx: &ServeContext<'_>,
    ) -> Call {
        let Collecting {
            parts,
            mut meta,
            decoder,
            body,
            ..
        } = collecting;
        let (incoming, ingress) = Incoming::pair(Reading {
            egress: self.egress.clone(),
            decoder,
            received: self.recv_buf.take(),
            collected: body,
            expects_continue,
            clock: cx.lifecycle.clock.clone(),
            progress_limit: body_progress_limit(cx.settings),
            eof: self.eof,
        });
        let mut body = Body::incoming(incoming);
        body.limit(cx.settings.max_body_bytes);
        meta.ingress = Some(ingress);
        self.streams_body = true;
        Call {
            request: Request::from_parts(parts, body),
            meta,
        }
    }

    /// Sends the pending bytes and, as far as that needs no user code, the rest of the response.
    fn flush(&mut self, cx: &mut ServeContext<'_>) -> Option<Next> {
        let sent = self.egress.flush(&mut cx.buffers.out);
        let Stage::Flush(flush) = &mut self.stage else {
            unreachable!("it is flushed in this stage")
        };
        let sent = match (&mut flush.source, sent) {
            (_, Err(error)) => Err(error),
            (_, Ok(false)) => Ok(false),
            (Source::None, Ok(true)) => Ok(true),
            (Source::Bytes(bytes), Ok(true)) => self.egress.send_directly(bytes).map(|taken| {
                bytes.advance(taken);
                bytes.is_empty()
            }),
            (Source::Read { .. }, Ok(true)) => {
                if let Some(progress) = &mut flush.progress {
                    progress.pause(cx.now, self.egress.acknowledged());
                }
                return Some(if cx.pulls < PULL_BUDGET {
                    Next::Pull
                } else {
                    Next::Yield
                });
            }
        };
        match sent {
            Ok(true) => {
                if !matches!(flush.source, Source::None) {
                    self.egress.complete();
                }
                let (meta, close) = (flush.meta.take(), flush.close);
                let sent = std::mem::replace(&mut self.stage, Stage::Moved);
                self.leave(sent);
                match meta {
                    Some(meta) => self.after_response_complete(meta, close, cx),
                    None => self.after_response_sent(close, cx),
                }
                None
            }
            Ok(false) => {
                let acknowledged = self.egress.acknowledged();
                match &mut flush.progress {
                    Some(progress) => progress.resume(cx.now, acknowledged),
                    none => *none = Some(Progress::new(cx.now, acknowledged)),
                }
                Some(Next::Park)
            }
            Err(_) => Some(Next::Close(CloseReason::Broken)),
        }
    }

    /// Goes on after a response is sent completely.
    pub(super) fn after_response_sent(
        &mut self,
        close: Option<CloseReason>,
        cx: &ServeContext<'_>,
    ) {
        match close {
            None => self.enter(Stage::Idle, cx.now),
            Some(reason) => {
                self.begin_linger(reason, LINGER_TIMEOUT, cx);
            }
        }
    }

    /// Goes on after a response is complete, though perhaps not sent: takes back the rest of the
    /// request's body.
    pub(super) fn after_response_complete(
        &mut self,
        meta: RequestMeta,
        mut close: Option<CloseReason>,
        cx: &mut ServeContext<'_>,
    ) {
        cx.buffers.answered[cx.lifecycle.phase() as usize] += 1;
        let mut unread_body = None;
        if let Some(ingress) = meta.ingress {
            match request_body::take_rest(&ingress) {
                Some(rest) => {
                    self.recv_buf.restore(rest.received);
                    self.eof |= rest.eof;
                    self.unread = true;
                    if rest.failed || rest.expects_continue {
                        close = close.or(Some(CloseReason::Refused));
                    }
                    unread_body = Some(rest.decoder).filter(|decoder| !decoder.is_done());
                    self.streams_body = unread_body.is_some();
                }
                None => {
                    let what = "a request body was still being read by another thread \
                        when its response was complete";
                    request_line::log(Level::Warn, &self.egress, format_args!("{what}"));
                    close = Some(CloseReason::Failed);
                }
            }
        }
        match (close, unread_body) {
            (Some(_), _) => {
                let flush = Flush {
                    source: Source::None,
                    meta: None,
                    close,
                    progress: None,
                };
                self.enter(Stage::Flush(Box::new(flush)), cx.now);
            }
            (None, Some(decoder)) => self.enter(
                Stage::Discard(Box::new(Discard { decoder, bytes: 0 })),
                cx.now,
            ),
            (None, None) => self.after_response_sent(None, cx),
        }
    }

    /// Reads and drops the rest of a request body, up to a limit.
    fn discard(&mut self, cx: &mut ServeContext<'_>) -> Option<Next> {
        if let Some(next) = self.flush_if_writable(cx) {
            return Some(next);
        }
        let Stage::Discard(discard) = &mut self.stage else {
            unreachable!("it is discarded in this stage")
        };
        let mut nowhere = [0; 1024];
        while !discard.decoder.is_done() && !self.recv_buf.is_empty() {
            match discard.decoder.decode(self.recv_buf.bytes(), &mut nowhere) {
                Ok(decoded) => {
                    discard.bytes += decoded.consumed as u64;
                    self.recv_buf.consume(decoded.consumed);
                }
                // The bytes after a body with broken framing cannot be told from the body.
                Err(_) => discard.bytes = u64::MAX,
            }
            if discard.bytes > MAX_DISCARD_BYTES {
                self.close_after_flush(CloseReason::Refused, cx);
                return None;
            }
        }
        if discard.decoder.is_done() {
            self.after_response_sent(None, cx);
            return None;
        }
        if self.eof {
            return Some(Next::Close(CloseReason::PeerGone));
        }
        self.receive(cx)
    }

    /// Sends what the kernel takes of the pending bytes. The rest is sent with the next event.
    fn flush_if_writable(&mut self, cx: &mut ServeContext<'_>) -> Option<Next> {
        self.egress
            .flush(&mut cx.buffers.out)
            .is_err()
            .then_some(Next::Close(CloseReason::Broken))
    }
}
