//! Tests for the weaknesses that HTTP servers have had to admit, one for each class. This server
//! has none of them.
//!
//! The comments name advisories in which the class came up elsewhere, in our own words. Most are
//! about two readers that find different requests in the same bytes, so most tests hide a request
//! for `/smuggled` in something else: no handler may ever see one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bodies;
mod chunks;
mod floods;
mod framing;
mod heads;
#[cfg(all(feature = "cli", target_os = "linux"))]
mod memory;
mod responses;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lameduck::http::StatusCode;
use lameduck::{Context, IntoResponse, Request, Response};

use support::{Client, End, TestServer};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server that knows whether a smuggled request came through.
struct Victim {
    server: TestServer,
    smuggled: Arc<AtomicUsize>,
}

impl Victim {
    /// Starts a server whose handler reads all of a body and answers with its length, or leaves it
    /// unread for `/unread`.
    fn new() -> Self {
        Self::with(|request, _| match request.uri().path() {
            "/unread" => "unread".into_response(),
            "/forbidden" => StatusCode::FORBIDDEN.into_response(),
            _ => match std::io::copy(&mut request.into_body(), &mut std::io::sink()) {
                Ok(len) => format!("{len} bytes").into_response(),
                Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
            },
        })
    }

    fn with(handler: impl Fn(Request, Context) -> Response + Send + Sync + 'static) -> Self {
        let smuggled = Arc::new(AtomicUsize::new(0));
        let count = smuggled.clone();
        let server = TestServer::start(move |request: Request, context: Context| {
            if request.uri().path().contains("smuggled") {
                count.fetch_add(1, Ordering::Relaxed);
            }
            handler(request, context)
        });
        Self { server, smuggled }
    }

    /// Returns the statuses of all answers to `input`, after which the client finishes its side.
    #[track_caller]
    fn statuses(&self, input: impl AsRef<[u8]>) -> Vec<u16> {
        let statuses = statuses(&mut self.server.client(), input.as_ref());
        assert_eq!(
            self.smuggled.load(Ordering::Relaxed),
            0,
            "smuggled: {}",
            input.as_ref().escape_ascii()
        );
        statuses
    }

    /// Checks that each of these heads of a POST is refused, so that nothing after it is a request.
    #[track_caller]
    fn refuses_heads<'a>(&self, heads: impl IntoIterator<Item = &'a str>) {
        for head in heads {
            for body in ["", "0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "hello"] {
                let input = format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body}{SMUGGLED}");
                let statuses = self.statuses(&input);
                assert!(
                    matches!(statuses[..], [400 | 501]),
                    "{statuses:?} for {input:?}"
                );
            }
        }
    }

    /// Checks that each of these bodies is refused, so that nothing after it is a request.
    #[track_caller]
    fn refuses_chunks<'a>(&self, bodies: impl IntoIterator<Item = &'a str>) {
        for body in bodies {
            for path in ["/", "/unread"] {
                let input = format!(
                    "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}"
                );
                assert_eq!(self.statuses(&input), [400], "{input:?}");
            }
        }
    }
}

#[track_caller]
fn statuses(client: &mut Client, input: &[u8]) -> Vec<u16> {
    let _ = client.try_send(input);
    client.half_close();
    let mut statuses = Vec::new();
    loop {
        match client.try_read(false) {
            Ok(answer) => statuses.push(answer.status),
            Err(incomplete) => {
                assert!(
                    incomplete.answer.is_none() && incomplete.end == End::Eof,
                    "{incomplete:?}"
                );
                assert_eq!(client.drain(), (Vec::new(), End::Eof));
                return statuses;
            }
        }
    }
}
