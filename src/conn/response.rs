//! Turns a handler's response into bytes.
//!
//! A response whose body is in memory and short is complete with its head. The others go on in
//! pieces: pulled from a reader while the client takes them, or pushed by a closure.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, Method, StatusCode, response};
use log::Level;

use crate::conn::body::{Body, Kind};
use crate::conn::body_writer::{self, BodyWriter};
use crate::conn::message::Response;
use crate::conn::request_body;
use crate::conn::request_line;
use crate::conn::serve_context::ServeContext;
use crate::conn::stage::{
    Conn, Dedicated, Flush, Next, Push, RequestMeta, Source, Stage, Upgrade, write_progress_limit,
};
use crate::conn::transport::Look;
use crate::conn::upgraded::Upgraded;
use crate::lifecycle::ledger::CloseReason;
use crate::settings::MAX_PULL_BYTES;
use crate::sys::panics::Panic;
use crate::sys::waker::Waker;
use crate::wire::chunked::{LAST_CHUNK, encode_chunk};
use crate::wire::framing::{Framing, response_framing};
use crate::wire::persist::Persist;
use crate::wire::reply::{self, Connection, FieldCase, ReplyHead};
use crate::wire::syntax::members;

/// The longest body that is copied after its head, so that both leave in one write.
const MAX_INLINE_BYTES: usize = 16 << 10;

impl Conn {
    /// Takes the response that a handler returned, or the panic that ended it.
    pub(crate) fn answer(
        &mut self,
        meta: RequestMeta,
        outcome: Result<Response, Panic>,
        cx: &mut ServeContext<'_>,
    ) {
        let (response, failed) = match outcome {
            Ok(mut response) => {
                let panicked = response.extensions_mut().remove::<Panicked>();
                (response, panicked.is_some())
            }
            Err(panic) => {
                let what = format_args!("a handler panicked: {panic}");
                request_line::log(Level::Error, &self.egress, what);
                (internal_error(), true)
            }
        };
        let (mut parts, mut body) = response.into_parts();
        // 101 is no response with a body, but the end of HTTP on this connection.
        let is_upgrade = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        if is_upgrade && matches!(body.kind, Kind::Upgrade(_)) {
            let Kind::Upgrade(run) = body.kind else {
                unreachable!("it was one a moment ago")
            };
            let upgrade = Dedicated::Upgrade(Box::new(Upgrade { meta, parts, run }));
            return self.enter(Stage::Dedicated(upgrade), cx.now);
        }
        let (framing, unsent_len) = match frame_response(&meta, &parts, &mut body) {
            Ok(framed) => framed,
            Err(reason) => {
                let what = format_args!("a handler's response is answered with 500: {reason}");
                request_line::log(Level::Error, &self.egress, what);
                (parts, body) = internal_error().into_parts();
                let len = body.len();
                (
                    response_framing(&meta.method, meta.version, parts.status, len),
                    len,
                )
            }
        };
        let bodyless = matches!(framing, Framing::Empty | Framing::Length(0));
        let push = |parts, write, flush_head_first, meta| {
            Box::new(Push {
                meta,
                parts,
                framing,
                write,
                flush_head_first,
            })
        };
        match body.kind {
            Kind::Write(write) if !bodyless => {
                self.enter(Stage::Push(push(parts, write, false, meta)), cx.now);
            }
            Kind::Stream(write) if !bodyless => {
                let stream = Dedicated::Stream(push(parts, write, true, meta));
                self.enter(Stage::Dedicated(stream), cx.now);
            }
            _ => self.begin_response(meta, &parts, body, (framing, unsent_len), failed, cx),
        }
    }

    /// Appends the head of a framed response, and its body if that is short. The rest of the body
    /// follows in `Flush`.
    fn begin_response(
        &mut self,
        meta: RequestMeta,
        parts: &response::Parts,
        body: Body,
        (framing, unsent_len): (Framing, Option<u64>),
        failed: bool,
        cx: &mut ServeContext<'_>,
    ) {
        if let Some(ingress) = &meta.ingress {
            request_body::continue_before_response(ingress);
        }
        let close = self.close_reason(&meta, &parts.headers, framing, failed, cx);
        let (inline, source) = split_body(framing, body);
        let complete = matches!(source, Source::None);
        let framed = Framed {
            framing,
            unsent_len,
            close,
            complete,
        };
        if !self.append_head(&meta, parts, framed, inline.as_deref(), cx) {
            return self.close_after_flush(CloseReason::Cut, cx);
        }
        if complete {
            return self.after_response_complete(meta, close, cx);
        }
        let flush = Flush {
            source,
            meta: Some(meta),
            close,
            progress: None,
        };
        self.enter(Stage::Flush(Box::new(flush)), cx.now);
    }

    /// Appends a response's head, and its body if that is short. False: another thread has taken
    /// the connection over.
    fn append_head(
        &self,
        meta: &RequestMeta,
        parts: &response::Parts,
        framed: Framed,
        inline: Option<&[u8]>,
        cx: &mut ServeContext<'_>,
    ) -> bool {
        let date = cx.date();
        let head = ReplyHead {
            status: parts.status,
            request_version: meta.version,
            framing: framed.framing,
            connection: if framed.close.is_some() {
                Connection::Close
            } else {
                Connection::KeepAlive
            },
            date: &date,
            unsent_len: framed.unsent_len,
            case: if cx.settings.title_case_fields {
                FieldCase::Title
            } else {
                FieldCase::Lower
            },
        };
        let begun = self
            .egress
            .begin_response(&mut cx.buffers.out, framed.complete, |out| {
                reply::write_head(out, &head, &parts.headers);
                out.extend_from_slice(inline.unwrap_or_default());
            });
        if begun.is_ok() {
            let what = format_args!("answered with {}", parts.status.as_u16());
            request_line::log(Level::Debug, &self.egress, what);
        }
        begun.is_ok()
    }

    /// Returns why the connection closes after a response; `None` keeps it open.
    fn close_reason(
        &self,
        meta: &RequestMeta,
        headers: &HeaderMap,
        framing: Framing,
        failed: bool,
        cx: &ServeContext<'_>,
    ) -> Option<CloseReason> {
        let handler_closes =
            || members(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"close"));
        let body_is_in_the_way = || {
            meta.ingress
                .as_ref()
                .is_some_and(request_body::is_in_the_way)
        };
        if failed {
            Some(CloseReason::Failed)
        } else if body_is_in_the_way() {
            // This comes before everything that only asks for the close: the peer is sending, and
            // needs time to see its response.
            Some(CloseReason::Refused)
        } else if meta.persist == Persist::Close
            || framing == Framing::UntilClose
            || handler_closes()
        {
            Some(CloseReason::Asked)
        } else if cx.lifecycle.is_stopping() && self.is_last_request() {
            Some(CloseReason::Stopping)
        } else {
            None
        }
    }

    /// Whether no further request is here already. Only the response to the last one says
    /// `Connection: close`.
    fn is_last_request(&self) -> bool {
        self.recv_buf.is_empty() && self.egress.transport().look() != Look::Bytes
    }

    /// Reads a piece of the response's body and appends it. This is user code.
    pub(crate) fn pull(&mut self, cx: &mut ServeContext<'_>) -> Option<Next> {
        cx.pulls += 1;
        self.waits_for_worker = false;
        let Stage::Flush(flush) = &mut self.stage else {
            unreachable!("only a flushing connection asks for a pull")
        };
        let Source::Read { body, chunked } = &mut flush.source else {
            unreachable!("only a source that is read asks for a pull")
        };
        let buffer = &mut cx.buffers.pull;
        buffer.resize(MAX_PULL_BYTES, 0);
        let piece = match body.read_to_send(buffer) {
            Ok(n) => &buffer[..n],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return None,
            Err(error) => {
                return Some(self.fail(
                    level_of(&error),
                    format_args!("cannot read a response's body: {error}"),
                ));
            }
        };
        let last = piece.is_empty() || !*chunked && body.is_empty();
        let append = |out: &mut Vec<u8>| match *chunked {
            true if piece.is_empty() => out.extend_from_slice(LAST_CHUNK),
            true => encode_chunk(piece, out),
            false => out.extend_from_slice(piece),
        };
        if self.egress.append(last, append).is_err() {
            return Some(Next::Close(CloseReason::Cut));
        }
        if last {
            flush.source = Source::None;
        }
        None
    }

    /// Runs the closure that writes the response's body. This is user code that may wait for the
    /// peer.
    pub(crate) fn push(&mut self, cx: &mut ServeContext<'_>) -> Option<Next> {
        let Stage::Push(push) = std::mem::replace(&mut self.stage, Stage::Moved) else {
            unreachable!("only a response with a closure asks for a push")
        };
        let Push {
            meta,
            parts,
            framing,
            write,
            flush_head_first,
        } = *push;
        if let Some(ingress) = &meta.ingress {
            request_body::continue_before_response(ingress);
        }
        let close = self.close_reason(&meta, &parts.headers, framing, false, cx);
        let framed = Framed {
            framing,
            unsent_len: None,
            close,
            complete: false,
        };
        if !self.append_head(&meta, &parts, framed, None, cx) {
            // The 503 sent in its place has still to reach the peer.
            self.close_after_flush(CloseReason::Cut, cx);
            return None;
        }
        if flush_head_first {
            // A failure shows at the next write.
            let _ = self.egress.flush_from_outside();
        }
        let clock = cx.lifecycle.clock.clone();
        let mut writer = BodyWriter::new(
            &self.egress,
            framing,
            &clock,
            write_progress_limit(cx.settings),
        );
        let written = write(&mut writer).and_then(|()| writer.finish());
        if let Err(error) = written {
            return Some(self.fail(
                level_of(&error),
                format_args!("cannot write a response's body: {error}"),
            ));
        }
        cx.look_at_clock();
        self.after_response_complete(meta, close, cx);
        None
    }

    /// Whether the connection needs its dedicated thread for an upgrade.
    pub(crate) fn is_upgrade(&self) -> bool {
        matches!(self.stage, Stage::Dedicated(Dedicated::Upgrade(_)))
    }

    /// Runs what the connection needed a dedicated thread for. This is user code.
    pub(crate) fn run_on_dedicated_thread(
        &mut self,
        stopping: &Arc<Waker>,
        cx: &mut ServeContext<'_>,
    ) -> Option<Next> {
        let Stage::Dedicated(work) = std::mem::replace(&mut self.stage, Stage::Moved) else {
            unreachable!("only a connection that needs a dedicated thread gets one")
        };
        match work {
            Dedicated::Stream(push) => {
                self.stage = Stage::Push(push);
                self.push(cx)
            }
            Dedicated::Upgrade(upgrade) => self.run_upgrade(*upgrade, stopping, cx),
        }
    }

    /// Sends 101, and runs the code that uses the connection for another protocol.
    fn run_upgrade(
        &mut self,
        upgrade: Upgrade,
        stopping: &Arc<Waker>,
        cx: &mut ServeContext<'_>,
    ) -> Option<Next> {
        let Upgrade { meta, parts, run } = upgrade;
        // The other protocol begins after the request's body. A client that waits for 100 gets it
        // before 101 (RFC 9110 section 7.8).
        if let Some(ingress) = &meta.ingress {
            match request_body::drop_rest(ingress) {
                Ok(rest) => {
                    self.recv_buf.restore(rest.received);
                    self.eof |= rest.eof;
                    self.streams_body = false;
                }
                Err(refusal) => {
                    self.refuse(refusal, cx);
                    return None;
                }
            }
        }
        let framed = Framed {
            framing: Framing::Empty,
            unsent_len: None,
            close: None,
            complete: false,
        };
        if !self.append_head(&meta, &parts, framed, None, cx) {
            // The 503 sent in its place has still to reach the peer.
            self.close_after_flush(CloseReason::Cut, cx);
            return None;
        }
        cx.buffers.answered[cx.lifecycle.phase() as usize] += 1;
        if body_writer::send_all(
            &self.egress,
            &cx.lifecycle.clock,
            write_progress_limit(cx.settings),
        )
        .is_err()
        {
            return Some(Next::Close(CloseReason::Broken));
        }
        self.egress.begin_upgrade();
        let received = self.recv_buf.take();
        let write_timeout = cx.settings.write_timeout;
        let (io, end) = Upgraded::new(
            self.egress.clone(),
            self.context.clone(),
            received,
            stopping.clone(),
            write_timeout,
        );
        run(io, self.context.clone());
        drop(end);
        self.egress.end_upgrade();
        cx.look_at_clock();
        self.close_after_flush(CloseReason::Upgraded, cx);
        None
    }

    /// Resets the connection because a response that has begun cannot be completed: the peer must
    /// not take the part it has for all of it.
    fn fail(&self, level: Level, reason: std::fmt::Arguments<'_>) -> Next {
        request_line::log(level, &self.egress, reason);
        self.egress.transport().reset();
        Next::Close(CloseReason::Failed)
    }
}

/// Splits a body into the part that is copied after its head, and the source of the rest.
fn split_body(framing: Framing, mut body: Body) -> (Option<Bytes>, Source) {
    // Dropping a body that is not sent runs user code, whose panics the caller catches.
    if matches!(framing, Framing::Empty | Framing::Length(0)) {
        return (None, Source::None);
    }
    if let Kind::Bytes(bytes) = &mut body.kind {
        let bytes = std::mem::take(bytes);
        return match bytes.len() {
            0..=MAX_INLINE_BYTES => (Some(bytes), Source::None),
            _ => (None, Source::Bytes(bytes)),
        };
    }
    let chunked = framing == Framing::Chunked;
    (None, Source::Read { body, chunked })
}

/// Returns the level at which an error is logged. A client that goes away is no fault of the
/// program, and must not fill its log.
fn level_of(error: &io::Error) -> Level {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof => Level::Debug,
        _ => Level::Warn,
    }
}

/// How a response is sent.
#[derive(Debug, Clone, Copy)]
struct Framed {
    framing: Framing,
    /// The length of the body that a GET would get, if none is sent.
    unsent_len: Option<u64>,
    close: Option<CloseReason>,
    /// Whether nothing follows the head and its inline body.
    complete: bool,
}

/// Returns how a response is framed, and the length of a body that is left out.
fn frame_response(
    meta: &RequestMeta,
    parts: &response::Parts,
    body: &mut Body,
) -> Result<(Framing, Option<u64>), &'static str> {
    if parts.status.is_informational() {
        return Err("its status is informational, which announces another response");
    }
    let declared =
        reply::declared_length(&parts.headers).map_err(|_| "its Content-Length is not a number")?;
    if let Some(len) = declared {
        body.declare(len);
    }
    let framing = response_framing(&meta.method, meta.version, parts.status, body.len());
    if framing == Framing::Empty && parts.status == StatusCode::RESET_CONTENT {
        // The response to HEAD says what GET would get, whose body is left out too.
        return Ok((framing, Some(0)));
    }
    if framing == Framing::Empty {
        // The body that a handler returned with 304 is not the one it would have sent with 200.
        let is_left_out = meta.method == Method::HEAD && parts.status != StatusCode::NOT_MODIFIED;
        let would_be = body.len().filter(|len| *len > 0 && is_left_out);
        return Ok((framing, declared.or(would_be)));
    }
    match (declared, body.len()) {
        (Some(declared), Some(len)) if declared != len => {
            Err("its Content-Length is not its body's length")
        }
        _ => Ok((framing, None)),
    }
}

/// Marks a response that stands for a panic, after which the connection closes.
#[derive(Debug, Clone, Copy)]
struct Panicked;

/// Returns the response in place of a handler that has panicked.
pub(crate) fn panicked() -> Response {
    let mut response = internal_error();
    response.extensions_mut().insert(Panicked);
    response
}

/// Returns whether a response stands for a panic.
pub(crate) fn is_panic(response: &Response) -> bool {
    response.extensions().get::<Panicked>().is_some()
}

fn internal_error() -> Response {
    let mut response = Response::new(Body::from(
        "500 Internal Server Error: the request could not be served\n",
    ));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let text = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, text);
    response
}
