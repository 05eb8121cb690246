//! HTTP/1.1 to the letter: a test for each MUST and each SHOULD of RFC 9112 and RFC 9110 that
//! concerns an origin server.
//!
//! `src/docs/conformance.md` lists them with the names of these tests; `list.rs` checks that the
//! list is true. Most tests are tables: bytes in, statuses out, and whether the connection goes on.
//! After the input the client sends one more request, `GET /next`, which is answered if the
//! connection goes on and must not be answered if it does not. Then the client finishes its side,
//! so every answer here is one to a half-closed client. The tests' own reader
//! (`tests/support/response.rs`) reads the answers; it is strict and shares no code with the crate.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod connection;
#[cfg(feature = "cli")]
mod demo;
mod expect;
mod framing;
mod list;
mod responses;
mod syntax;
mod target;

use std::fmt::Write as _;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lameduck::http::{Method, StatusCode};
use lameduck::{Body, Context, IntoResponse, Request, Response};

use support::{Answer, Client, End, Gate, TestServer};

/// A server whose handler answers with what it saw of the request, and counts its calls.
struct Suite {
    server: TestServer,
    handled: Arc<AtomicUsize>,
}

const NEXT: &str = "GET /next HTTP/1.1\r\nHost: next\r\n\r\n";

impl Suite {
    fn new() -> Self {
        Self::with(|request, _| match request.uri().path() {
            "/unread" => "unread".into_response(),
            _ => seen(request),
        })
    }

    /// Starts a suite whose handler waits at the gate for `/slow`.
    fn gated(gate: &Gate) -> Self {
        let gate = gate.clone();
        Self::with(move |request, _| {
            if request.uri().path() == "/slow" {
                gate.pass();
            }
            seen(request)
        })
    }

    fn with(handler: impl Fn(Request, Context) -> Response + Send + Sync + 'static) -> Self {
        let handled = Arc::new(AtomicUsize::new(0));
        let count = handled.clone();
        let server = TestServer::start(move |request: Request, context: Context| {
            if request.uri().path() != "/next" {
                count.fetch_add(1, Ordering::Relaxed);
            }
            handler(request, context)
        });
        Self { server, handled }
    }

    fn client(&self) -> Client {
        self.server.client()
    }

    /// Returns all answers to `input`, after which the client finishes its side. The connection has
    /// to end in order.
    #[track_caller]
    fn answers(&self, input: impl AsRef<[u8]>) -> Vec<Answer> {
        answers(&mut self.client(), input.as_ref())
    }

    /// Returns the answer to `input`, after which the connection has to go on.
    #[track_caller]
    fn accepted(&self, input: impl AsRef<[u8]>) -> Answer {
        let input = input.as_ref();
        let mut answers = self.answers([input, NEXT.as_bytes()].concat());
        let statuses = statuses(&answers);
        assert_eq!(statuses, [200, 200], "{}", input.escape_ascii());
        assert!(!answers[0].closes(), "{}", input.escape_ascii());
        assert!(
            answers[1].text().starts_with("GET /next HTTP/1.1"),
            "{}: {answers:?}",
            input.escape_ascii()
        );
        answers.swap_remove(0)
    }

    /// Returns the answer to `input`, after which the connection has to close.
    #[track_caller]
    fn closed(&self, input: impl AsRef<[u8]>) -> Answer {
        let input = input.as_ref();
        let mut answers = self.answers([input, NEXT.as_bytes()].concat());
        assert_eq!(answers.len(), 1, "{}: {answers:?}", input.escape_ascii());
        assert!(answers[0].closes(), "{}: {answers:?}", input.escape_ascii());
        answers.swap_remove(0)
    }

    /// Checks that the server refuses `input`, which no handler sees: with this status, a reason in
    /// plain words, and the end of the connection.
    #[track_caller]
    fn refused(&self, input: impl AsRef<[u8]>, status: u16) -> Answer {
        let (input, handled) = (input.as_ref(), self.handled.load(Ordering::Relaxed));
        let answer = self.closed(input);
        assert_eq!(
            answer.status,
            status,
            "{}: {}",
            input.escape_ascii(),
            answer.text()
        );
        assert_eq!(
            answer.field("content-type"),
            Some("text/plain; charset=utf-8"),
            "{answer:?}"
        );
        assert!(
            answer.text().len() > 5 && answer.text().ends_with('\n'),
            "{answer:?}"
        );
        assert!(answer.field("date").is_some(), "{answer:?}");
        assert_eq!(
            self.handled.load(Ordering::Relaxed),
            handled,
            "{}: a handler saw it",
            input.escape_ascii()
        );
        answer
    }
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

/// Returns all answers to `input`, after which the client finishes its side.
#[track_caller]
fn answers(client: &mut Client, input: &[u8]) -> Vec<Answer> {
    // A refusal may come, and the connection end, before all is sent.
    let _ = client.try_send(input);
    client.half_close();
    let mut answers = Vec::new();
    loop {
        match client.try_read(false) {
            Ok(answer) => answers.push(answer),
            Err(incomplete) => {
                let (rest, end) = client.drain();
                assert!(
                    incomplete.answer.is_none() && rest.is_empty(),
                    "half an answer to {}",
                    input.escape_ascii()
                );
                assert_eq!(
                    (incomplete.end, end),
                    (End::Eof, End::Eof),
                    "{}",
                    input.escape_ascii()
                );
                return answers;
            }
        }
    }
}

/// Returns what a handler sees of a request: request line, fields, body, trailer fields.
fn seen(request: Request) -> Response {
    let mut text = format!(
        "{} {} {:?}\n",
        request.method(),
        request.uri(),
        request.version()
    );
    for (name, value) in request.headers() {
        writeln!(text, "{name}: {}", value.as_bytes().escape_ascii()).unwrap();
    }
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    match body.read_to_end(&mut bytes) {
        Ok(_) => writeln!(text, "body {}", bytes.escape_ascii()).unwrap(),
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
    for (name, value) in &body.take_trailers() {
        writeln!(text, "trailer {name}: {}", value.as_bytes().escape_ascii()).unwrap();
    }
    text.into_response()
}

/// Returns a request with a `Host` and these lines, each with its line end.
fn request(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

/// Returns a POST with these lines and this body.
fn post(fields: &str, body: &str) -> String {
    request("POST /", fields) + body
}

/// Returns a POST with this chunked body.
fn chunked(body: impl AsRef<[u8]>) -> Vec<u8> {
    [
        post("Transfer-Encoding: chunked\r\n", "").as_bytes(),
        body.as_ref(),
    ]
    .concat()
}

/// Returns a response with a body of the kind that the last part of the path names, and with the
/// status that the first part names.
fn by_path(request: &Request) -> Response {
    let mut parts = request.uri().path().split('/').skip(1);
    let status = parts
        .next()
        .and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok())
        .unwrap_or_default();
    let body = match parts.next() {
        Some("bytes") => Body::from("0123456789"),
        Some("sized") => Body::sized_reader(&b"0123456789"[..], 10),
        Some("reader") => Body::reader(&b"0123456789"[..]),
        Some("writer") => Body::writer(|client| std::io::Write::write_all(client, b"0123456789")),
        _ => Body::empty(),
    };
    (status, body).into_response()
}

/// The methods that every server knows, except CONNECT.
const METHODS: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::PATCH,
    Method::OPTIONS,
    Method::TRACE,
];
