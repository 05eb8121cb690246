//! A client that is too slow is given up in time, and no other client is.
//!
//! `min_rate` counts only after ten seconds of waiting, so it is tested where the clock can be set.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{self, Read, Write};
use std::time::Duration;

use lameduck::body::BodyWriter;
use lameduck::report::CloseReason;
use lameduck::{Body, Context, IntoResponse, Request, Response};

use support::{
    Client, End, Gate, LIMIT, TestServer, builder, eventually, get, get_last, hello, millis, now,
    pass_time, pattern, post,
};

const SHORT: Duration = Duration::from_millis(250);

/// Asserts that `action` takes as long as the timeout, and not much longer.
#[track_caller]
fn takes<T>(timeout: Duration, action: impl FnOnce() -> T) -> T {
    let began = now();
    let value = action();
    let took = now() - began;
    assert!(took >= timeout - millis(10), "too early: {took:?}");
    assert!(took < timeout + LIMIT / 5, "too late: {took:?}");
    value
}

#[test]
fn a_connection_that_never_sends_a_byte_closes_silently() {
    let server = TestServer::with(builder().workers(2).head_timeout(SHORT), hello);
    takes(SHORT, || server.client().expect_eof());
    eventually("it is closed", || server.handle().stats().open == 0);
    let report = server.stop();
    assert_eq!(report.closed_because(CloseReason::Silent), 1, "{report}");
}

/// Checks that the server waits for the rest of `half`, and then answers with 408.
#[track_caller]
fn expect_408(server: &TestServer, half: &str) {
    let mut client = server.client();
    let answer = takes(SHORT, || {
        client.send(half);
        client.read_response()
    });
    assert_eq!(answer.status, 408, "{half:?}");
    assert!(answer.closes());
    client.expect_eof();
}

#[test]
fn half_a_head_gets_408() {
    let server = TestServer::with(builder().workers(2).head_timeout(SHORT), hello);
    for half in [
        "G",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\n",
        "\r\n",
    ] {
        expect_408(&server, half);
    }
    let report = server.stop();
    assert_eq!(report.closed_because(CloseReason::Refused), 4, "{report}");
}

#[test]
fn a_head_that_trickles_gets_408_although_it_never_stops() {
    let server = TestServer::with(builder().workers(2).head_timeout(SHORT), hello);
    let mut client = server.client();
    let mut other = client.second();
    let answer = takes(SHORT, || {
        std::thread::spawn(move || {
            for byte in get("/a/long/path/that/takes/long/enough/to/send").bytes() {
                if other.try_send([byte]).is_err() {
                    return;
                }
                pass_time(millis(20));
            }
        });
        client.read_response()
    });
    assert_eq!(answer.status, 408);
}

#[test]
fn a_half_head_after_a_response_has_its_own_time() {
    let server = TestServer::with(builder().workers(2).head_timeout(SHORT), hello);
    let mut client = server.used_client("/");
    // The connection is idle for longer than a head may take.
    pass_time(SHORT * 2);
    client.send("GET /");
    let answer = takes(SHORT, || client.read_response());
    assert_eq!(answer.status, 408);
    client.expect_eof();
    // The same after a pipeline: the answers come first, then the refusal.
    let mut client = server.client();
    client.send(get("/") + &get("/") + "GE");
    assert_eq!(client.read_response().text(), "hello");
    assert_eq!(client.read_response().text(), "hello");
    assert_eq!(client.read_response().status, 408);
}

#[test]
fn an_idle_connection_closes() {
    let server = TestServer::with(builder().workers(2).idle_timeout(SHORT), hello);
    let mut client = server.used_client("/");
    takes(SHORT, || client.expect_eof());
    eventually("it is closed", || server.handle().stats().open == 0);
    let report = server.stop();
    assert_eq!(report.closed_because(CloseReason::Idle), 1, "{report}");
}

#[test]
fn a_connection_in_use_does_not_close() {
    let server = TestServer::with(
        builder().workers(2).idle_timeout(SHORT).head_timeout(SHORT),
        |_: Request, _: Context| {
            pass_time(SHORT / 5);
            "hello"
        },
    );
    let mut client = server.client();
    let began = now();
    while now() - began < SHORT * 4 {
        assert_eq!(client.get("/").text(), "hello");
        pass_time(SHORT / 3);
    }
}

#[test]
fn a_pipeline_that_waits_for_its_turn_is_not_idle() {
    let server = TestServer::with(builder().workers(1).idle_timeout(millis(1)), hello);
    let mut clients: Vec<_> = (0..50).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send(get("/").repeat(300));
    }
    for client in &mut clients {
        for n in 1..=300 {
            let answer = client
                .try_read(false)
                .unwrap_or_else(|end| panic!("answer {n} of 300: {end:?}"));
            assert_eq!(answer.text(), "hello");
        }
        client.expect_eof();
    }
}

#[test]
fn a_handler_may_take_longer_than_every_timeout() {
    let description = builder()
        .workers(2)
        .head_timeout(SHORT)
        .idle_timeout(SHORT)
        .body_timeout(SHORT);
    let description = description.write_timeout(SHORT).queue_timeout(SHORT);
    let gate = Gate::new();
    let at_gate = gate.clone();
    let server = TestServer::with(description, move |_: Request, _: Context| {
        at_gate.pass();
        "hello"
    });
    let mut client = server.client();
    client.send(post("/", b"body"));
    gate.wait_entered(1);
    pass_time(SHORT * 2);
    client.expect_nothing_yet();
    gate.open();
    assert_eq!(client.read_response().text(), "hello");
    assert_eq!(client.get("/").text(), "hello");
}

#[test]
fn a_body_that_stops_coming_gets_408() {
    let server = TestServer::with(builder().workers(2).body_timeout(SHORT), hello);
    for half in [
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        expect_408(&server, half);
    }
}

#[test]
fn a_body_that_keeps_coming_is_waited_for() {
    for collect in [64 << 10, 0] {
        let description = builder()
            .workers(2)
            .body_timeout(SHORT)
            .head_timeout(SHORT)
            .collect_bytes(collect);
        let server = TestServer::with(description, |request: Request, _: Context| {
            request.into_body()
        });
        let mut client = server.client();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 12\r\n\r\n");
        for byte in b"twelve bytes" {
            client.send([*byte]);
            pass_time(SHORT / 4);
        }
        assert_eq!(
            client.read_response().text(),
            "twelve bytes",
            "collecting {collect}"
        );
    }
}

#[test]
fn a_handler_whose_body_stops_coming_gets_an_error() {
    let (sender, errors) = crossbeam_channel::unbounded();
    let description = builder().workers(2).body_timeout(SHORT).collect_bytes(0);
    let server = TestServer::with(description, move |request: Request, _: Context| {
        let error = request
            .into_body()
            .read_to_end(&mut Vec::new())
            .unwrap_err();
        sender.send(error.kind()).unwrap();
        "incomplete"
    });
    let mut client = server.client();
    let error = takes(SHORT, || {
        client.send(&post("/", &pattern(1000))[..500]);
        errors.recv_timeout(LIMIT).unwrap()
    });
    assert_eq!(error, io::ErrorKind::TimedOut);
    assert_eq!(client.read_response().text(), "incomplete");
    client.expect_eof();
}

/// Answers with twenty megabytes, which is more than the kernel takes for a client that does not
/// read.
fn flood(request: Request, _: Context) -> Response {
    const LEN: u64 = 20 << 20;
    match request.uri().path() {
        "/bytes" => vec![b'x'; LEN as usize].into_response(),
        "/reader" => Body::reader(io::repeat(b'x').take(LEN)).into_response(),
        "/sized" => Body::sized_reader(io::repeat(b'x'), LEN).into_response(),
        _ => Body::writer(|out: &mut BodyWriter<'_>| {
            let piece = [b'x'; 1 << 16];
            (0..LEN >> 16).try_for_each(|_| out.write_all(&piece))
        })
        .into_response(),
    }
}

#[test]
fn a_client_that_does_not_read_is_reset() {
    let server = TestServer::with(builder().workers(4).write_timeout(SHORT), flood);
    for path in ["/bytes", "/reader", "/sized", "/writer"] {
        let mut client = Client::connect_narrow(server.local_addr());
        let before = server.handle().stats().closed;
        takes(SHORT, || {
            client.send_get(path);
            eventually("it is given up", || server.handle().stats().closed > before);
        });
        let (some, end) = client.drain();
        assert_eq!(end, End::Reset, "{path}");
        assert!(some.len() < 20 << 20, "{path}");
    }
    let report = server.stop();
    assert_eq!(
        report.closed_because(CloseReason::Stalled) + report.closed_because(CloseReason::Failed),
        4,
        "{report}"
    );
    assert!(report.closed_because(CloseReason::Stalled) >= 3, "{report}");
}

#[test]
fn a_client_that_does_not_read_the_answers_to_its_pipeline_is_reset() {
    let server = TestServer::with(
        builder().workers(1).write_timeout(SHORT),
        |_: Request, _: Context| "x".repeat(60_000),
    );
    let mut client = Client::connect_narrow(server.local_addr());
    client.send(get("/").repeat(400));
    eventually("it is given up", || server.handle().stats().closed == 1);
    let (_, end) = client.drain();
    assert_eq!(end, End::Reset);
    assert_eq!(server.client().get("/").status, 200);
}

#[test]
fn a_client_that_reads_slowly_is_waited_for() {
    // A shorter timeout would not be the client's fault: TCP tries a full window again only after a
    // fifth of a second.
    let server = TestServer::with(builder().workers(4).write_timeout(SHORT * 4), flood);
    let threads: Vec<_> = ["/bytes", "/reader", "/sized", "/writer"]
        .into_iter()
        .map(|path| {
            let mut client = Client::connect_with_buffer(server.local_addr(), 512 << 10);
            std::thread::spawn(move || {
                client.send_get(path);
                for _ in 0..5 {
                    pass_time(SHORT * 2);
                    client.read_raw(400_000);
                }
                client.half_close();
                let (rest, end) = client.drain();
                assert_eq!(end, End::Eof, "{path}");
                assert!(rest.len() + 2_000_000 > 20 << 20, "{path}: {}", rest.len());
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_client_that_reads_as_fast_as_it_can_is_never_too_slow() {
    // The response lasts for longer than the timeout in all, but no wait for the client does. (A
    // shorter timeout would not be the client's fault, see above.)
    let server = TestServer::with(
        builder().workers(2).write_timeout(SHORT * 4),
        |_: Request, _: Context| Body::reader(io::repeat(b'x').take(60 << 20)),
    );
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let mut client = server.client();
            std::thread::spawn(move || {
                client.send_get("/");
                client.half_close();
                let (bytes, end) = client.drain_count();
                assert_eq!(end, End::Eof, "after {bytes} bytes");
            })
        })
        .collect();
    let clients = threads.len();
    let cut = threads
        .into_iter()
        .filter_map(|thread| thread.join().err())
        .count();
    assert_eq!(cut, 0, "of {clients} were cut");
}

#[test]
fn a_small_body_that_no_handler_reads_and_that_never_comes_ends_the_connection() {
    let server = TestServer::with(builder().workers(2).collect_bytes(0), hello);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345");
    assert_eq!(client.read_response().text(), "hello");
    takes(Duration::from_secs(1), || client.expect_eof());
}

#[test]
fn a_client_that_does_not_close_after_the_last_response_is_not_waited_for() {
    let server = TestServer::start(hello);
    let mut silent = server.client();
    silent.send(get_last("/"));
    assert!(silent.read_response().closes());
    silent.expect_eof();
    let mut talking = server.client();
    talking.send(get_last("/"));
    let writing = std::thread::spawn(move || {
        let piece = pattern(10_000);
        while talking.try_send(&piece).is_ok() {}
    });
    eventually("both are closed", || {
        let stats = server.handle().stats();
        (stats.accepted, stats.open) == (2, 0)
    });
    writing.join().unwrap();
    server.stop_cleanly();
}

#[test]
fn a_timeout_of_zero_gives_up_as_soon_as_the_server_has_to_wait() {
    let server = TestServer::with(builder().head_timeout(Duration::ZERO), hello);
    server.client().expect_eof();

    let server = TestServer::with(builder().idle_timeout(Duration::ZERO), hello);
    let mut client = server.client();
    assert_eq!(client.get("/").text(), "hello");
    client.expect_eof();

    let server = TestServer::with(builder().body_timeout(Duration::ZERO), hello);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n1");
    assert_eq!(client.read_response().status, 408);
}

#[test]
fn the_longest_duration_overflows_nothing() {
    let max = Duration::MAX;
    let times = builder()
        .head_timeout(max)
        .idle_timeout(max)
        .body_timeout(max)
        .write_timeout(max)
        .queue_timeout(max);
    let server = TestServer::with(
        times.grace_period(max).cut_grace(max),
        |request: Request, _: Context| Body::reader(request.into_body()),
    );
    let mut client = server.client();
    for _ in 0..2 {
        let body = pattern(1 << 20);
        client.send(post("/", &body));
        assert_eq!(client.read_response().body, body);
    }
    drop(client);
    server.stop_cleanly();
}
