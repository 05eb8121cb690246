//! The body of a request arrives complete, however it is framed, collected or left unread, or its
//! reader gets an error.

use std::io::{self, Read};

use lameduck::report::CloseReason;
use lameduck::{Context, Request};

use super::support::{
    Gate, LIMIT, TestServer, builder, eventually, get, pattern, post, post_chunked, within_limit,
};
use super::{big, digest, read_all};

#[test]
fn request_bodies_arrive_complete_however_they_are_framed_and_collected() {
    for collect in [0, 1, 100, 64 << 10, 4 << 20] {
        let server = TestServer::with(builder().workers(2).collect_bytes(collect), read_all);
        let mut client = server.client();
        for len in [
            0,
            1,
            99,
            100,
            101,
            16 << 10,
            64 << 10,
            (64 << 10) + 1,
            1 << 20,
        ] {
            let body = pattern(len);
            client.send(post("/", &body));
            assert_eq!(
                client.read_response().text(),
                digest(&body),
                "{len} bytes, collecting {collect}"
            );
            let chunks: Vec<_> = body.chunks(7777).collect();
            client.send(post_chunked("/", &chunks));
            assert_eq!(
                client.read_response().text(),
                digest(&body),
                "{len} bytes chunked, collecting {collect}"
            );
        }
        let tiny: Vec<_> = big()[..3000].chunks(1).collect();
        client.send(post_chunked("/", &tiny));
        assert_eq!(
            client.read_response().text(),
            digest(&big()[..3000]),
            "in tiny chunks, collecting {collect}"
        );
        server.stop_cleanly();
    }
}

#[test]
fn a_body_of_ten_megabytes_arrives_while_it_is_sent() {
    let server = TestServer::start(read_all);
    let mut client = server.client();
    client.send(post("/", big()));
    assert_eq!(client.read_response().text(), digest(big()));
    let chunks: Vec<_> = big().chunks(100_000).collect();
    client.send(post_chunked("/", &chunks));
    assert_eq!(client.read_response().text(), digest(big()));
}

#[test]
fn a_small_body_is_collected_before_the_handler_is_called() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let server = TestServer::start(move |request: Request, cx: Context| {
        if request.uri().path() == "/upload" {
            at_gate.pass();
        }
        read_all(request, cx)
    });
    let mut client = server.client();
    client.send("POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345");
    // When requests that were sent later on other connections are answered, the head of the first
    // one was read.
    for _ in 0..10 {
        assert_eq!(server.client().get("/").status, 200);
    }
    assert_eq!(gate.entered(), 0);
    client.send("67890");
    gate.wait_entered(1);
    gate.open();
    assert_eq!(client.read_response().text(), digest(b"1234567890"));
}

#[test]
fn with_collecting_off_the_handler_is_called_before_the_body_comes() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let server = TestServer::with(
        builder().workers(2).collect_bytes(0),
        move |request: Request, cx: Context| {
            at_gate.pass();
            read_all(request, cx)
        },
    );
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    gate.wait_entered(1);
    gate.open();
    client.send("5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(client.read_response().text(), digest(b"hello"));
}

#[test]
fn the_body_of_a_get_does_not_become_the_next_request() {
    let server = TestServer::start(read_all);
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 33\r\n\r\nGET /2 HTTP/1.1\r\nHost: other\r\n\r\n!");
    client.send(get("/3"));
    assert_eq!(
        client.read_response().text(),
        digest(b"GET /2 HTTP/1.1\r\nHost: other\r\n\r\n!")
    );
    assert_eq!(client.read_response().text(), digest(b""));
    // The server counts an answer when it is sent.
    eventually("two requests are counted", || {
        server.handle().stats().answered == 2
    });
}

#[test]
fn a_connection_stays_usable_after_a_small_body_that_no_handler_read() {
    for collect in [0, 64 << 10] {
        let server = TestServer::with(
            builder().workers(2).collect_bytes(collect),
            |_: Request, _: Context| "unread",
        );
        let mut client = server.client();
        for len in [1, 1000, 100_000, 250_000] {
            client.send(post("/", &pattern(len)));
            let answer = client.read_response();
            assert_eq!(answer.text(), "unread", "{len} bytes, collecting {collect}");
            assert!(!answer.closes(), "{len} bytes, collecting {collect}");
            client.send(post_chunked("/", &[&pattern(len)]));
            assert_eq!(
                client.read_response().text(),
                "unread",
                "{len} bytes chunked, collecting {collect}"
            );
            assert_eq!(client.get("/").text(), "unread");
        }
    }
}

#[test]
fn the_response_to_a_large_body_that_no_handler_read_can_be_read() {
    let server = TestServer::start(|_: Request, _: Context| "unread");
    for chunked in [false, true] {
        let mut client = server.client();
        let request = if chunked {
            post_chunked("/", &[big()])
        } else {
            post("/", big())
        };
        // The handler reads nothing, so the server may not take all of the request.
        let sent = client.try_send(&request);
        let answer = client.read_response();
        assert_eq!(
            answer.text(),
            "unread",
            "chunked: {chunked}, sent: {sent:?}"
        );
        assert!(
            chunked || answer.closes(),
            "the server knows that it will close: {answer:?}"
        );
        client.drain();
    }
    let mut client = server.client();
    let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n";
    client.send([head.as_bytes(), &pattern(70_000)].concat());
    let answer = client.read_response();
    assert_eq!(answer.text(), "unread");
    assert!(answer.closes());
    client.expect_eof();
    let report = server.stop();
    assert_eq!(report.closed_because(CloseReason::Refused), 3, "{report}");
}

#[test]
fn a_body_whose_client_leaves_is_an_error_for_its_reader() {
    for collect in [0, 100] {
        let (sender, errors) = crossbeam_channel::unbounded();
        let server = TestServer::with(
            builder().workers(2).collect_bytes(collect),
            move |request: Request, _: Context| {
                let error = request
                    .into_body()
                    .read_to_end(&mut Vec::new())
                    .unwrap_err();
                sender.send(error.kind()).unwrap();
                "incomplete"
            },
        );
        for half in [true, false] {
            for request in [
                post("/", &pattern(10_000)),
                post_chunked("/", &[&pattern(10_000)]),
            ] {
                let mut client = server.client();
                client.send(&request[..5000]);
                if half {
                    client.half_close();
                    let answer = client.read_response();
                    assert!(answer.closes(), "{answer:?}");
                    client.expect_eof();
                } else {
                    client.reset();
                }
                let error = errors.recv_timeout(LIMIT).unwrap();
                assert!(
                    matches!(
                        error,
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                    ),
                    "collecting {collect}: {error:?}"
                );
            }
        }
    }
    // The handler is never called for a body that is collected and does not come completely.
    let server = TestServer::start(|_: Request, _: Context| -> &str {
        panic!("the request is not complete")
    });
    let mut client = server.client();
    client.send(&post("/", b"hello")[..50]);
    client.half_close();
    assert_eq!(client.read_response().status, 400);
    client.expect_eof();
}

#[test]
fn broken_chunks_are_refused() {
    for (collect, len) in [(64 << 10, 0), (0, 0), (10, 100)] {
        let server = TestServer::with(builder().workers(2).collect_bytes(collect), read_all);
        let mut client = server.client();
        let request = post_chunked("/", &[&pattern(len + 1)]);
        let whole = request.strip_suffix(b"0\r\n\r\n").unwrap();
        client.send([whole, b"x\r\n", get("/smuggled").as_bytes()].concat());
        let answer = client.read_response();
        let status = if collect > 10 { 400 } else { 500 };
        assert_eq!(answer.status, status, "collecting {collect}");
        assert!(answer.closes());
        client.expect_eof();
    }
}

#[test]
fn trailers_of_a_request_are_there_after_its_body() {
    for collect in [64 << 10, 0, 3] {
        let server = TestServer::with(
            builder().workers(2).collect_bytes(collect),
            |request: Request, _: Context| {
                let mut body = request.into_body();
                let mut text = String::new();
                body.read_to_string(&mut text).unwrap();
                let trailers = body.take_trailers();
                assert!(!trailers.contains_key("content-length"));
                format!("{text} {}", trailers["checksum"].to_str().unwrap())
            },
        );
        let mut client = server.client();
        let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: Checksum\r\n\r\n";
        let body = "5\r\nhello\r\n0\r\nChecksum: abc\r\nContent-Length: 3\r\n\r\n";
        client.send([head, body, &get("/")].concat());
        assert_eq!(
            client.read_response().text(),
            "hello abc",
            "collecting {collect}"
        );
    }
}

#[test]
fn a_body_that_is_passed_on_to_another_thread_ends_with_its_response() {
    let (sender, bodies) = crossbeam_channel::unbounded();
    let server = TestServer::with(
        builder().workers(2).collect_bytes(0),
        move |request: Request, _: Context| {
            sender.send(request.into_body()).unwrap();
            "answered"
        },
    );
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.read_response().text(), "answered");
    let mut body = bodies.recv_timeout(LIMIT).unwrap();
    let error = within_limit("a read of an abandoned body", move || {
        body.read(&mut [0; 16])
    });
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    client.send("hello");
    assert_eq!(client.get("/").text(), "answered");
}
