//! The limits on what a client may send and take, and that no client is slowed by what another one
//! sends or takes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use lameduck::layers::HandlerExt;
use lameduck::report::CloseReason;
use lameduck::{Body, Context, IntoResponse, Request, Response, ServerBuilder};

use support::{
    Client, LIMIT, TestServer, builder, eventually, get, hello, millis, now, post_chunked,
};

/// Checks that a request within a limit is served, and that one byte or field more is refused and
/// ends the connection.
#[track_caller]
fn check(
    build: impl FnOnce(ServerBuilder) -> ServerBuilder,
    within: &[u8],
    beyond: &[u8],
    status: u16,
) {
    let server = TestServer::with(build(builder().workers(2)), hello);
    let mut client = server.client();
    client.send(within);
    assert_eq!(client.read_response().status, 200);
    client.send(beyond);
    let answer = client.read_response();
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(
        answer.closes() && answer.text().contains("too "),
        "it says why: {answer:?}"
    );
    client.expect_eof();
    drop(client);
    let report = server.stop();
    assert_eq!(report.closed_because(CloseReason::Refused), 1, "{report}");
}

#[test]
fn a_request_line_that_is_too_long_gets_414() {
    let line =
        |len: usize| get(&format!("/{}", "x".repeat(len - "GET / HTTP/1.1".len()))).into_bytes();
    check(
        |builder| builder,
        &line(16 << 10),
        &line((16 << 10) + 1),
        414,
    );
    check(
        |builder| builder.max_request_line_bytes(100),
        &line(100),
        &line(101),
        414,
    );
}

#[test]
fn a_head_that_is_too_long_gets_431() {
    let head = |len: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        [start, &"x".repeat(len - start.len() - 4), "\r\n\r\n"]
            .concat()
            .into_bytes()
    };
    check(
        |builder| builder,
        &head(64 << 10),
        &head((64 << 10) + 1),
        431,
    );
    check(
        |builder| builder.max_head_bytes(200),
        &head(200),
        &head(201),
        431,
    );
}

#[test]
fn a_head_with_too_many_fields_gets_431() {
    let head = |fields: usize| {
        let more: String = (1..fields).map(|i| format!("X-{i}: a\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: a\r\n{more}\r\n").into_bytes()
    };
    check(|builder| builder, &head(100), &head(101), 431);
    check(|builder| builder.max_fields(3), &head(3), &head(4), 431);
}

#[test]
fn chunk_extensions_that_are_too_long_are_refused() {
    let body = |len: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(len));
    let request = |len: usize| {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        [head, &body(len)].concat().into_bytes()
    };
    check(|builder| builder, &request(200), &request(300), 400);
    // A megabyte of extensions is refused in the same way, and no more is kept of it.
    check(
        |builder| builder,
        &request(200),
        &request(1 << 20)[..60_000],
        400,
    );
}

#[test]
fn trailers_that_are_too_many_are_refused() {
    let request = |fields: usize| {
        let mut request = post_chunked("/", &[b"some"]);
        request.truncate(request.len() - 2);
        (0..fields).for_each(|i| request.extend_from_slice(format!("X-{i}: a\r\n").as_bytes()));
        request.extend_from_slice(b"\r\n");
        request
    };
    check(|builder| builder, &request(32), &request(33), 431);
}

/// A reader without an end, which counts the bytes that are read of it.
struct Endless(Arc<AtomicU64>);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer.fill(b'x');
        self.0.fetch_add(buffer.len() as u64, Relaxed);
        Ok(buffer.len())
    }
}

#[test]
#[cfg(target_os = "linux")]
fn little_is_made_of_a_response_that_its_client_does_not_take() {
    let made = Arc::new(AtomicU64::new(0));
    let counted = made.clone();
    let description = builder().workers(2).write_timeout(millis(500));
    let server = TestServer::with(description, move |_: Request, _: Context| {
        Body::reader(Endless(counted.clone()))
    });
    let mut client = Client::connect_with_buffer(server.local_addr(), 16 << 10);
    client.send_get("/");
    eventually("it is given up", || server.handle().stats().open == 0);
    // Without a limit the kernel would take 2.5 MB, and 25 GB for ten thousand clients.
    let made = made.load(Relaxed);
    assert!(made < 700_000, "{made} bytes");
    assert_eq!(server.stop().closed_because(CloseReason::Stalled), 1);
}

#[test]
fn endless_responses_to_fast_clients_hold_up_no_other_connection() {
    for workers in [1, 2] {
        let handler = |request: Request, _: Context| -> Response {
            match request.uri().path() {
                "/endless" => Body::sized_reader(io::repeat(b'x'), u64::MAX).into_response(),
                _ => "hello".into_response(),
            }
        };
        let server = TestServer::with(builder().workers(workers), handler);
        let over = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (mut client, over) = (server.client(), over.clone());
                client.send_get("/endless");
                client.read_raw(1 << 20);
                std::thread::spawn(move || {
                    while !over.load(Relaxed) {
                        client.read_raw(64 << 10);
                    }
                })
            })
            .collect();
        let mut longest = millis(0);
        for _ in 0..20 {
            let began = now();
            assert_eq!(server.client().get("/").text(), "hello");
            longest = longest.max(now() - began);
        }
        over.store(true, Relaxed);
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
        assert!(longest < LIMIT / 5, "{longest:?}");
        let _ = server.handle().close();
    }
}

#[test]
fn a_body_above_its_limit_gets_413_at_once_and_no_100() {
    let (called, calls) = crossbeam_channel::unbounded();
    let description = builder().max_body_bytes(1000);
    let server = TestServer::with(description, move |request: Request, _: Context| {
        called.send(()).unwrap();
        request
            .into_body()
            .into_bytes(5000)
            .map(|bytes| bytes.len().to_string())
    });
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    for fields in [
        "Content-Length: 1001\r\n",
        "Content-Length: 1001\r\nExpect: 100-continue\r\n",
        "Content-Length: 9223372036854775807\r\n",
    ] {
        let mut client = server.client();
        client.send(post(fields));
        // Nothing of the body was sent, so nothing was waited for.
        let answer = client.read_response();
        assert_eq!(answer.status, 413, "{fields}");
        assert!(answer.closes(), "{fields}");
        client.expect_eof();
    }
    // What follows the head is no request.
    let mut client = server.client();
    client.send(post("Content-Length: 1001\r\n") + &get("/inside"));
    assert_eq!(client.read_last_response().status, 413);
    let mut client = server.client();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n");
    assert_eq!(client.read_response_to_head().status, 413);
    client.expect_eof();
    assert!(calls.is_empty(), "no handler is called");

    let mut client = server.client();
    for len in [0, 1, 1000] {
        client.send(post(&format!("Content-Length: {len}\r\n")) + &"x".repeat(len));
        assert_eq!(client.read_response().text(), len.to_string());
    }
}

#[test]
fn a_chunked_body_that_turns_out_to_be_above_the_limit_gets_413() {
    for collect in [0, 500, 64 << 10] {
        let description = builder().max_body_bytes(1000).collect_bytes(collect);
        let handler = |request: Request, _: Context| {
            request
                .into_body()
                .into_bytes(5000)
                .map(|bytes| bytes.len().to_string())
        };
        let raised = handler.layer(lameduck::layers::body_limit(4000));
        let server = TestServer::with(description, raised);
        let post = |len: usize| {
            let body = "x".repeat(len);
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {len:x}\r\n{body}\r\n0\r\n\r\n"
            )
        };
        let mut client = server.client();
        client.send(post(1000));
        assert_eq!(client.read_response().text(), "1000");
        client.send(post(1001));
        assert_eq!(client.read_response().status, 413, "collected: {collect}");
    }
}
