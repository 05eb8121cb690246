//! What can be under way when a stop begins, one scenario a test: each request is answered, or cut
//! and named.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lameduck::body::BodyWriter;
use lameduck::http::StatusCode;
use lameduck::report::{CloseReason, Fate, HookOutcome, Phase, UnansweredRequest};
use lameduck::{
    Body, Context, Handler, IntoResponse, Report, Request, Response, Server, ServerBuilder,
    ServerHandle,
};

use support::{
    Client, Delimited, End, Gate, LIMIT, TestServer, builder, eventually, get, hello, millis, now,
    pass_time, pattern, post,
};

/// Answers with the path. Waits at the gate for one that ends in `block`; reads the body for one
/// that begins with `/body`; has 4 MiB for `/big`.
fn app(gate: &Gate) -> impl Handler + use<> {
    let gate = gate.clone();
    move |mut request: Request, _: Context| -> Response {
        let path = request.uri().path().to_owned();
        if path.ends_with("block") {
            gate.pass();
        }
        if path.starts_with("/body") {
            let mut body = Vec::new();
            return match request.body_mut().read_to_end(&mut body) {
                Ok(_) => format!("{} bytes, {}", body.len(), sum(&body)).into_response(),
                Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
            };
        }
        if path == "/big" {
            return pattern(4 << 20).into_response();
        }
        path.into_response()
    }
}

/// Differs when bytes are lost, added or swapped.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum: u64, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    })
}

/// Connections that wait for their next request have time for it.
fn patient() -> ServerBuilder {
    builder().idle_grace(LIMIT * 2)
}

// What a client is in the middle of.

#[test]
fn a_client_that_trickles_its_head_does_not_extend_the_drain() {
    let server = TestServer::with(
        builder()
            .workers(2)
            .idle_grace(millis(200))
            .head_timeout(millis(500))
            .grace_period(LIMIT * 6),
        hello,
    );
    let mut early = server.client();
    early.send("GET / HTTP/1.1\r\nX: ");
    let mut late = server.client();
    server.wait_accepted(2);
    server.begin_draining();
    let trickle = |mut client: Client| {
        let mut answers = client.second();
        let thread = std::thread::spawn(move || {
            while client.try_send("x").is_ok() {
                pass_time(millis(20));
            }
        });
        let answer = answers.read_response();
        assert_eq!(answer.status, 408);
        assert!(answer.closes());
        thread
    };
    late.send("GET / HTTP/1.1\r\nX: ");
    let threads = [trickle(late), trickle(early)];
    let report = server.stop();
    for thread in threads {
        thread.join().unwrap();
    }
    // The head's time, and for bytes that come after our answer the linger's.
    assert!(
        report.took < millis(500) + millis(2000) + LIMIT / 5,
        "{report}"
    );
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.closed_because(CloseReason::Refused), 2, "{report}");
}

#[test]
fn a_body_that_is_half_sent_at_the_stop_is_read_to_its_end() {
    for len in [1_000, 300_000] {
        let gate = Gate::new();
        let server = TestServer::start(app(&gate));
        let body = pattern(len);
        let request = post("/body", &body);
        let (first, second) = request.split_at(request.len() / 2);
        let mut client = server.client();
        client.send(first);
        server.wait_accepted(1);
        server.begin_draining();
        client.expect_nothing_yet();
        client.send(second);
        let answer = client.read_response();
        assert_eq!(
            (answer.status, answer.text()),
            (200, &*format!("{len} bytes, {}", sum(&body)))
        );
        assert!(answer.closes());
        client.expect_eof();
        server.stop_cleanly();
    }
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it_while_draining() {
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let gate = Gate::new();
    let server = TestServer::with(patient().workers(4), app(&gate));
    let mut before = server.client();
    before.send(head("/body/block"));
    gate.wait_entered(1);
    let mut after = server.client();
    server.wait_accepted(2);
    server.begin_draining();
    before.expect_nothing_yet();
    gate.open();
    after.send(head("/body"));
    for client in [&mut before, &mut after] {
        assert_eq!(client.read_response().status, 100);
        client.send("hello");
        let answer = client.read_response();
        assert_eq!(
            (answer.status, answer.text()),
            (200, &*format!("5 bytes, {}", sum(b"hello")))
        );
        assert!(answer.closes());
        client.expect_eof();
    }
    server.stop_cleanly();
}

#[test]
fn an_answer_to_an_upload_that_still_comes_is_read_by_its_client() {
    const LEN: usize = 10 << 20;
    for reads_meanwhile in [true, false] {
        let gate = Gate::new();
        let at_the_gate = gate.clone();
        let server = TestServer::start(move |_: Request, _: Context| {
            at_the_gate.pass();
            (StatusCode::PAYLOAD_TOO_LARGE, "too large")
        });
        let mut client = server.client();
        client.send(format!(
            "POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: {LEN}\r\n\r\n"
        ));
        let mut answers = client.second();
        let uploading = std::thread::spawn(move || {
            let piece = vec![b'u'; 64 << 10];
            (0..LEN / piece.len()).all(|_| client.try_send(&piece).is_ok())
        });
        gate.wait_entered(1);
        server.begin_draining();
        gate.open();
        let (answer, _whole) = if reads_meanwhile {
            (answers.read_response(), uploading.join().unwrap())
        } else {
            let whole = uploading.join().unwrap();
            (answers.read_response(), whole)
        };
        assert_eq!(
            (answer.status, answer.text()),
            (413, "too large"),
            "{reads_meanwhile}"
        );
        assert!(answer.closes());
        let report = server.stop();
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn of_five_pipelined_requests_all_are_answered_and_only_the_last_answer_says_close() {
    let gate = Gate::new();
    let server = TestServer::start(app(&gate));
    let mut client = server.client();
    client.send(["/1", "/2/block", "/3", "/4", "/5"].map(get).concat());
    let first = client.read_response();
    assert_eq!((first.text(), first.closes()), ("/1", false));
    gate.wait_entered(1);
    server.begin_draining();
    gate.open();
    for path in ["/2/block", "/3", "/4", "/5"] {
        let answer = client.read_response();
        assert_eq!((answer.text(), answer.closes()), (path, path == "/5"));
    }
    client.expect_eof();
    server.stop_cleanly();
}

#[test]
fn bytes_that_are_in_the_kernel_when_the_stop_begins_are_served() {
    for _ in 0..50 {
        let server =
            TestServer::start(|request: Request, _: Context| request.uri().path().to_owned());
        let mut idle: Vec<_> = (0..10).map(|_| server.used_client("/before")).collect();
        let mut fresh: Vec<_> = (0..10).map(|_| server.client()).collect();
        idle.iter_mut()
            .for_each(|client| client.send_get("/at-once"));
        // Half a head is enough to be waited for.
        fresh.iter_mut().for_each(|client| client.send("GET /at-"));
        server.handle().begin_shutdown();
        fresh
            .iter_mut()
            .for_each(|client| client.send("once HTTP/1.1\r\nHost: test\r\n\r\n"));
        for mut client in idle.into_iter().chain(fresh) {
            let answer = client.read_response();
            assert_eq!(answer.text(), "/at-once");
            client.expect_eof();
        }
        server.stop_cleanly();
    }
}

#[test]
fn a_slow_response_with_a_request_pipelined_behind_it_loses_nothing() {
    for sent_before in [true, false] {
        let gate = Gate::new();
        let server = TestServer::start(app(&gate));
        let mut client = Client::connect_narrow(server.local_addr());
        client.send_get("/big");
        if sent_before {
            client.send_get("/next");
        }
        // Its head was sent before the stop and says nothing of it.
        let mut whole = client.read_raw(17);
        assert_eq!(whole, b"HTTP/1.1 200 OK\r\n");
        server.begin_draining();
        if !sent_before {
            client.send_get("/next");
        }
        for _ in 0..20 {
            whole.extend(client.read_raw(50_000));
            pass_time(millis(5));
        }
        let head_end = whole
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap()
            + 4;
        assert!(
            !String::from_utf8_lossy(&whole[..head_end])
                .to_lowercase()
                .contains("connection: close")
        );
        whole.extend(client.read_raw((4 << 20) - (whole.len() - head_end)));
        assert!(
            whole[head_end..] == pattern(4 << 20),
            "every byte, and in order"
        );
        let next = client.read_response();
        assert_eq!(
            (next.text(), next.closes()),
            ("/next", true),
            "{sent_before}"
        );
        client.expect_eof();
        server.stop_cleanly();
    }
}

// What cannot be finished.

/// Cuts the response to `request`, of which the client was sent `first part`.
fn cut_after_first_part(request: &str) -> (Client, Report) {
    let gate = Gate::new();
    let at_the_gate = gate.clone();
    let description = builder()
        .workers(2)
        .grace_period(millis(50))
        .cut_grace(millis(100));
    let server = TestServer::with(description, move |_: Request, _: Context| {
        let gate = at_the_gate.clone();
        Body::writer(move |out: &mut BodyWriter<'_>| {
            out.write_all(b"first part")?;
            out.flush()?;
            gate.pass();
            // The closure has nothing more to say, and does not know of the cut.
            Ok(())
        })
    });
    let mut client = server.client();
    client.send(request);
    gate.wait_entered(1);
    let report = server.stop();
    gate.open();
    (client, report)
}

#[test]
fn a_chunked_response_that_is_cut_lacks_its_last_chunk() {
    let (mut client, report) = cut_after_first_part(&get("/chunked"));
    let (bytes, end) = client.drain();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.ends_with("a\r\nfirst part\r\n"), "{text}");
    assert_eq!(end, End::Reset);
    let [cut] = &support::cut(&report)[..] else {
        panic!("{report}")
    };
    assert_eq!(
        (cut.target.path(), cut.fate),
        (
            "/chunked",
            Fate::Cut {
                bytes_sent: text.len() as u64
            }
        )
    );
}

#[test]
fn a_response_without_a_length_that_is_cut_ends_with_a_reset() {
    let (mut client, report) = cut_after_first_part("GET /old HTTP/1.0\r\n\r\n");
    let incomplete = client.expect_incomplete();
    // With a FIN it would look complete.
    assert_eq!(incomplete.end, End::Reset);
    let answer = incomplete.answer.unwrap();
    assert_eq!(
        (answer.delimited, answer.text()),
        (Delimited::ByClose, "first part")
    );
    assert_eq!(support::cut(&report).len(), 1, "{report}");
}

#[test]
fn a_response_that_has_begun_and_ends_within_cut_grace_arrives_whole() {
    let (entered, wait_entered) = crossbeam_channel::unbounded();
    let description = builder()
        .workers(2)
        .grace_period(millis(50))
        .cut_grace(LIMIT);
    let server = TestServer::with(description, move |_: Request, context: Context| {
        let entered = entered.clone();
        Body::writer(move |out: &mut BodyWriter<'_>| {
            out.write_all(b"first part")?;
            out.flush()?;
            entered.send(()).unwrap();
            let _ = context.sleep(LIMIT);
            out.write_all(b", last part")
        })
    });
    let mut client = server.client();
    client.send_get("/heeds");
    wait_entered.recv_timeout(LIMIT).unwrap();
    let report = server.stop();
    assert_eq!(client.read_response().text(), "first part, last part");
    assert!(report.is_clean(), "{report}");
    assert!(report.took < LIMIT / 2, "{report}");
}

#[test]
fn of_a_pipelined_batch_whose_second_handler_is_cut_the_first_answer_comes_before_the_503() {
    for cut_at_once in [true, false] {
        for _ in 0..5 {
            let gate = Gate::new();
            let server = TestServer::with(builder().workers(2).cut_grace(millis(50)), app(&gate));
            let mut client = server.client();
            client.send(["/first", "/second/block", "/third"].map(get).concat());
            gate.wait_entered(1);
            let report = if cut_at_once {
                server.handle().close()
            } else {
                server.handle().shutdown_within(millis(50))
            };
            gate.open();
            let first = client.read_response();
            assert_eq!(
                (first.status, first.text(), first.closes()),
                (200, "/first", false)
            );
            let second = client.read_response();
            assert_eq!((second.status, second.closes()), (503, true));
            client.expect_eof();
            let [cut] = &support::cut(&report)[..] else {
                panic!("{report}")
            };
            assert_eq!(
                (cut.target.path(), cut.fate),
                ("/second/block", Fate::Answered503)
            );
        }
    }
}

// Clients that do not do their part.

#[test]
fn a_client_that_never_closes_after_our_end_is_not_waited_for_longer_than_the_linger() {
    for chatters in [false, true] {
        let gate = Gate::new();
        let server = TestServer::with(builder().workers(2).grace_period(LIMIT * 6), app(&gate));
        let mut idle = server.used_client("/");
        let mut client = server.block(&gate, "/block");
        server.begin_draining();
        idle.expect_eof();
        gate.open();
        assert!(client.read_response().closes());
        let chatter = Arc::new(AtomicBool::new(chatters));
        let threads = [&client, &idle].map(|client| {
            let (chatter, mut client) = (chatter.clone(), client.second());
            std::thread::spawn(move || {
                while chatter.load(SeqCst) && client.try_send("x").is_ok() {
                    pass_time(millis(20));
                }
            })
        });
        let began = now();
        let report = server.stop();
        let took = now() - began;
        chatter.store(false, SeqCst);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert!(took < millis(2000) + LIMIT / 5, "{chatters}: {took:?}");
        assert!(
            support::cut(&report).is_empty() && report.stuck.is_empty(),
            "{report}"
        );
        let _ = (client.drain(), idle.drain());
    }
}

#[test]
fn clients_that_reset_in_any_state_while_it_drains_cost_nothing() {
    let gate = Gate::new();
    let server = TestServer::with(patient().workers(8).grace_period(LIMIT * 6), app(&gate));
    let fresh = server.client();
    let idle = server.used_client("/");
    let mut half_head = server.client();
    half_head.send("GET / HT");
    let mut half_body = server.client();
    half_body.send(&post("/body", &pattern(1_000))[..500]);
    let mut half_stream = server.client();
    half_stream.send(&post("/body", &pattern(300_000))[..200_000]);
    let in_handler = server.block(&gate, "/block");
    let mut pipelined = server.client();
    pipelined.send(["/1", "/2/block", "/3"].map(get).concat());
    gate.wait_entered(2);
    let mut in_response = Client::connect_narrow(server.local_addr());
    in_response.send_get("/big");
    assert_eq!(in_response.read_raw(8), b"HTTP/1.1");
    let mut lingering = server.client();
    let mut talks = server.client();
    server.wait_accepted(10);
    server.begin_draining();
    lingering.send_get("/last");
    assert!(lingering.read_response().closes());
    let clients = [
        fresh,
        idle,
        half_head,
        half_body,
        half_stream,
        in_handler,
        pipelined,
        in_response,
        lingering,
    ];
    clients.into_iter().for_each(Client::reset);
    assert_eq!(talks.get("/still").text(), "/still");
    gate.open();
    let report = server.stop();
    assert!(report.took < LIMIT / 2, "{report}");
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        report.closed.iter().map(|(_, n)| n).sum::<u64>(),
        10,
        "{report}"
    );
}

// A crowd.

#[test]
fn a_thousand_connections_in_the_accept_backlog_are_answered() {
    const QUEUED: usize = 1000;
    let gate = Gate::new();
    let server = TestServer::with(builder().workers(1).max_connections(1), app(&gate));
    let mut first = server.block(&gate, "/block");
    let mut queued: Vec<_> = (0..QUEUED).map(|_| server.client()).collect();
    for (i, client) in queued.iter_mut().enumerate() {
        client.send_get(&format!("/{i}"));
    }
    assert_eq!(server.handle().stats().accepted, 1);
    server.begin_draining();
    gate.open();
    assert!(first.read_response().closes());
    for (i, client) in queued.iter_mut().enumerate() {
        let answer = client.read_response();
        assert_eq!((answer.text(), answer.closes()), (&*format!("/{i}"), true));
        client.expect_eof();
    }
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        (
            report.listeners.backlog_served,
            report.listeners.backlog_reset,
            report.accepted
        ),
        (QUEUED, 0, QUEUED as u64 + 1),
        "{report}"
    );
}

#[test]
fn under_twice_the_load_it_can_bear_a_stop_ends_soon_and_loses_nothing() {
    let server = TestServer::with(Server::builder().workers(2), |_: Request, _: Context| {
        pass_time(millis(2));
        "hello"
    });
    let addr = server.local_addr();
    let (answered, lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let hammer = |keeps_alive: bool| {
        let (answered, lost) = (answered.clone(), lost.clone());
        std::thread::spawn(move || {
            let mut client = None::<Client>;
            loop {
                let mut current = match client.take() {
                    Some(client) => client,
                    None => match std::net::TcpStream::connect_timeout(&addr, LIMIT) {
                        Ok(stream) => Client::of(stream),
                        Err(_) => return,
                    },
                };
                // A failed write of the only request on a connection has sent nothing.
                if current.try_send(get("/")).is_err() {
                    lost.fetch_add(u64::from(keeps_alive), SeqCst);
                    continue;
                }
                match current.try_read(false) {
                    Ok(answer) => {
                        assert_eq!((answer.status, answer.text()), (200, "hello"));
                        answered.fetch_add(1, SeqCst);
                        client = (keeps_alive && !answer.closes()).then_some(current);
                    }
                    Err(_) => {
                        lost.fetch_add(1, SeqCst);
                    }
                }
            }
        })
    };
    let threads: Vec<_> = (0..32).map(|i| hammer(i % 2 == 0)).collect();
    eventually("all are at it", || answered.load(SeqCst) > 300);
    let began = now();
    let report = server.stop();
    let took = now() - began;
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    println!("a stop under twice the load: {took:?}");
    assert!(took < LIMIT / 2, "{report}");
    assert_eq!(lost.load(SeqCst), 0, "{report}");
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        report.answered.iter().map(|(_, n)| n).sum::<u64>(),
        answered.load(SeqCst),
        "{report}"
    );
}

#[test]
fn with_nothing_connected_a_stop_is_over_at_once() {
    let server = TestServer::with(Server::builder().workers(4), hello);
    assert_eq!(server.client().get("/").status, 200);
    eventually("nothing is connected", || server.handle().stats().open == 0);
    let began = now();
    let report = server.stop();
    let took = now() - began;
    println!("a stop with nothing connected: {took:?}");
    assert!(took < millis(100), "{took:?}: {report}");
}

#[test]
fn with_all_workers_blocked_idle_connections_and_half_heads_end_in_time() {
    for workers in [1, 4] {
        let gate = Gate::new();
        let description = builder()
            .idle_grace(millis(200))
            .head_timeout(millis(600))
            .grace_period(LIMIT * 6);
        let server = TestServer::with(description.workers(workers), app(&gate));
        let mut idle = server.used_client("/");
        let mut silent = server.client();
        let mut blocked = server.block_all(&gate, workers);
        let mut half = server.client();
        half.send("GET / HT");
        let mut queued: Vec<_> = (0..3).map(|_| server.client()).collect();
        queued
            .iter_mut()
            .for_each(|client| client.send_get("/queued"));
        server.wait_accepted(6 + workers as u64);
        let began = now();
        server.begin_draining();
        idle.expect_eof();
        silent.expect_eof();
        let idle_took = now() - began;
        assert!(
            idle_took < millis(600) + LIMIT / 10,
            "{workers}: {idle_took:?}"
        );
        let timed_out = half.read_response();
        assert_eq!(
            (timed_out.status, timed_out.closes()),
            (408, true),
            "{workers}"
        );
        half.expect_eof();
        assert_eq!(server.handle().phase(), Phase::Draining);
        queued.iter_mut().for_each(Client::expect_nothing_yet);
        gate.open();
        for client in blocked.iter_mut().chain(&mut queued) {
            let answer = client.read_response();
            assert_eq!((answer.status, answer.closes()), (200, true), "{workers}");
            client.expect_eof();
        }
        let report = server.stop();
        assert!(report.is_clean(), "{workers}: {report}");
        assert_eq!(
            report.closed_because(CloseReason::IdleStopping),
            2,
            "{workers}: {report}"
        );
    }
}

#[test]
fn with_all_workers_blocked_queued_requests_get_503_at_the_cut() {
    for workers in [1, 4] {
        let gate = Gate::new();
        let description = builder().grace_period(millis(200)).cut_grace(millis(500));
        let server = TestServer::with(description.workers(workers), app(&gate));
        let mut blocked = server.block_all(&gate, workers);
        let mut half = server.client();
        half.send("GET / HT");
        let mut queued: Vec<_> = (0..3).map(|_| server.client()).collect();
        for (i, client) in queued.iter_mut().enumerate() {
            client.send_get(&format!("/queued/{i}"));
        }
        server.wait_accepted(4 + workers as u64);
        let report = server.stop();
        gate.open();
        for client in blocked.iter_mut().chain(&mut queued) {
            let answer = client.read_response();
            assert_eq!((answer.status, answer.closes()), (503, true), "{workers}");
            assert!(answer.field("retry-after").is_some(), "{answer:?}");
            client.expect_eof();
        }
        let (nothing, _) = half.drain();
        assert!(
            nothing.is_empty(),
            "{:?}",
            String::from_utf8_lossy(&nothing)
        );
        let names = |list: &[&UnansweredRequest]| -> BTreeSet<_> {
            list.iter()
                .map(|request| request.target.path().to_owned())
                .collect()
        };
        assert_eq!(
            names(&support::cut(&report)),
            (0..workers).map(|i| format!("/{i}/block")).collect(),
            "{report}"
        );
        assert_eq!(
            names(&support::never_started(&report)),
            (0..3).map(|i| format!("/queued/{i}")).collect(),
            "{report}"
        );
        assert_eq!(
            (report.stuck.len(), report.exit_code()),
            (workers, 3),
            "{report}"
        );
    }
}

// Requests that cross our end.

#[test]
fn a_request_that_crosses_the_end_of_its_idle_connection_is_named() {
    // The server waits 50 ms for such a request: on a machine that stands still for so long it
    // comes too late.
    let mut attempts = 0;
    loop {
        let server = TestServer::with(builder().workers(2).idle_grace(millis(50)), hello);
        let mut client = server.used_client("/");
        let local = client.local_addr();
        server.handle().begin_shutdown();
        client.expect_eof();
        let _ = client.try_send([get("/raced?a=b"), get("/second")].concat());
        let report = server.stop();
        attempts += 1;
        if support::raced(&report).is_empty() && attempts < 10 {
            continue;
        }
        let [first, second] = &support::raced(&report)[..] else {
            panic!("after {attempts} attempts: {report}")
        };
        assert_eq!(
            (first.method.as_str(), first.target.to_string().as_str()),
            ("GET", "/raced?a=b")
        );
        assert_eq!(second.target.path(), "/second");
        for raced in [first, second] {
            assert_eq!(
                (raced.peer, raced.fate),
                (Some(local), Fate::Raced),
                "{raced:?}"
            );
        }
        assert_eq!(
            (report.is_clean(), report.exit_code()),
            (false, 1),
            "{report}"
        );
        assert!(
            report.summary().contains("2 requests raced"),
            "{}",
            report.summary()
        );
        return;
    }
}

#[test]
fn a_request_behind_an_answer_that_said_close_is_named_and_the_client_knew() {
    let gate = Gate::new();
    let server = TestServer::start(app(&gate));
    let mut client = server.block(&gate, "/block");
    server.begin_draining();
    gate.open();
    assert!(client.read_response().closes());
    // The linger of 250 ms and more is time enough.
    client.send(post("/behind", b"five!"));
    let report = server.stop();
    let [raced] = &support::raced(&report)[..] else {
        panic!("{report}")
    };
    assert_eq!(
        (raced.method.as_str(), raced.target.path(), raced.fate),
        ("POST", "/behind", Fate::AfterClose)
    );
    assert_eq!(
        (report.is_clean(), report.exit_code()),
        (true, 0),
        "{report}"
    );
}

// Who stops it.

#[test]
fn a_hook_that_waits_for_the_stop_panics_and_is_reported() {
    let own = Arc::new(OnceLock::<ServerHandle>::new());
    let known = own.clone();
    let description = builder()
        .workers(2)
        .on_shutdown("waits for itself", move || {
            let _ = known.get().unwrap().shutdown();
        });
    let server = TestServer::with(description, hello);
    own.set(server.handle()).unwrap();
    let report = server.stop();
    let [hook] = &report.hooks[..] else {
        panic!("{report}")
    };
    assert_eq!(
        (hook.name.as_str(), hook.outcome),
        ("waits for itself", HookOutcome::Panicked)
    );
    assert_eq!(
        (report.is_clean(), report.exit_code()),
        (false, 1),
        "{report}"
    );
    assert!(report.took < LIMIT / 2, "{report}");
}

#[test]
fn a_hook_can_shorten_the_stop() {
    let own = Arc::new(OnceLock::<ServerHandle>::new());
    let known = own.clone();
    let gate = Gate::new();
    let description =
        builder()
            .workers(2)
            .cut_grace(millis(100))
            .on_shutdown("hurries", move || {
                known.get().unwrap().begin_shutdown_within(millis(20));
            });
    let server = TestServer::with(description, app(&gate));
    own.set(server.handle()).unwrap();
    let mut client = server.block(&gate, "/block");
    let report = server.stop();
    gate.open();
    assert_eq!(client.read_response().status, 503);
    assert_eq!(
        (report.hooks[0].outcome, support::cut(&report).len()),
        (HookOutcome::Done, 1),
        "{report}"
    );
}

#[test]
fn eight_threads_that_stop_it_in_different_ways_get_equal_reports() {
    for _ in 0..10 {
        let gate = Gate::new();
        let server = TestServer::with(builder().workers(2).cut_grace(millis(50)), app(&gate));
        let mut client = server.block(&gate, "/block");
        let stops: [fn(&ServerHandle) -> Report; 4] = [
            ServerHandle::shutdown,
            |handle| handle.shutdown_within(millis(50)),
            |handle| handle.shutdown_within(Duration::MAX),
            ServerHandle::close,
        ];
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let handle = server.handle();
                std::thread::spawn(move || stops[i % 4](&handle))
            })
            .collect();
        let reports: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        gate.open();
        assert!(
            reports.iter().all(|report| *report == reports[0]),
            "{reports:#?}"
        );
        assert_eq!(support::cut(&reports[0]).len(), 1, "{}", reports[0]);
        assert!(reports[0].took < LIMIT / 5, "{}", reports[0]);
        assert_eq!(client.read_response().status, 503);
    }
}

// In a process of its own, for the limit of its descriptors.

#[cfg(feature = "cli")]
mod in_a_child {
    use super::*;
    use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
    use std::net::TcpStream;
    use support::child::{Program, shell};

    #[test]
    fn without_descriptors_for_the_accept_backlog_it_is_answered_nevertheless() {
        const IDLE: usize = 48;
        const QUEUED: usize = 150;
        let script =
            "ulimit -n 64 && exec \"$0\" demo --listen 127.0.0.1:0 --workers 1 --idle-grace 100ms";
        let demo = Program::serving(&mut shell(script));
        let mut idle: Vec<_> = (0..IDLE).map(|_| demo.client()).collect();
        for client in &mut idle {
            assert_eq!(client.get("/plaintext").status, 200);
        }
        let mut queued: Vec<_> = (0..QUEUED).map(|_| demo.client()).collect();
        queued
            .iter_mut()
            .for_each(|client| client.send_get("/plaintext"));
        // They fill what 80 % of the limit allows, so nobody has accepted these.
        queued[QUEUED - 1].expect_nothing_yet();
        demo.signal(Signal::TERM);
        for (i, client) in queued.iter_mut().enumerate() {
            let answer = client
                .try_read(false)
                .unwrap_or_else(|end| panic!("{i} of {QUEUED}: {end:?}"));
            assert_eq!((answer.status, answer.closes()), (200, true), "{i}");
            client.expect_eof();
        }
        idle.iter_mut().for_each(Client::expect_eof);
        let ended = demo.end();
        assert_eq!(ended.code, Some(0), "{}", ended.output);
    }

    #[test]
    fn ten_thousand_idle_connections_close_soon_after_their_grace() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        )
        .unwrap();
        let room = maximum.map_or(10_000, |maximum| {
            (maximum * 4 / 5).saturating_sub(1_000).min(10_000)
        });
        let demo = Program::demo(&["--workers", "2", "--idle-grace", "1s"]);
        let mut clients: Vec<_> = (0..room)
            .map(|_| TcpStream::connect(demo.local_addr()).unwrap())
            .collect();
        for client in &mut clients {
            client.set_read_timeout(Some(LIMIT)).unwrap();
            client.write_all(get("/plaintext").as_bytes()).unwrap();
        }
        let mut buffer = [0; 1024];
        for client in &mut clients {
            let mut len = 0;
            while !buffer[..len].ends_with(b"Hello, World!") {
                len += client.read(&mut buffer[len..]).unwrap();
            }
        }
        let began = now();
        demo.signal(Signal::TERM);
        let ended = demo.end();
        let took = now() - began;
        println!("a stop with {room} idle connections and an idle grace of 1 s: {took:?}");
        assert_eq!(ended.code, Some(0), "{}", ended.output);
        assert!(
            took < millis(1000) + LIMIT / 2,
            "{took:?}: {}",
            ended.output
        );
        assert!(
            ended.output.contains(&format!("{room} closed while idle")),
            "{}",
            ended.output
        );
        assert!(
            clients
                .iter_mut()
                .all(|client| client.read(&mut buffer).unwrap() == 0)
        );
    }
}

#[test]
fn answers_that_a_deaf_client_has_not_taken_are_each_named_when_they_are_cut() {
    let server = TestServer::with(
        builder().cut_grace(Duration::ZERO),
        |request: Request, _: Context| format!("{:>10000}", request.uri().path()),
    );
    let mut client = Client::connect_narrow(server.local_addr());
    client.send((0..100).map(|n| get(&format!("/{n}"))).collect::<String>());
    // It is stuck: what was answered fills the kernel's buffers, and what is made besides waits.
    let answered = || server.handle().stats().answered;
    let mut before = 0;
    support::eventually("no more is answered", || {
        pass_time(millis(20));
        std::mem::replace(&mut before, answered()) == answered() && before > 0
    });
    let report = server.handle().shutdown_within(Duration::ZERO);
    let answered: u64 = report.answered.iter().map(|(_, n)| n).sum();
    assert!(
        !report.is_clean() && support::cut(&report).len() > 1,
        "{report}"
    );
    let first = answered - support::cut(&report).len() as u64;
    for (n, cut) in (first..answered).zip(&support::cut(&report)) {
        assert_eq!(cut.target.path(), format!("/{n}"), "{report}");
        let Fate::Cut { bytes_sent } = cut.fate else {
            panic!("{report}")
        };
        assert!(bytes_sent == 0 || n == first, "{report}");
    }
    let unread: Vec<_> = support::never_started(&report)
        .iter()
        .map(|cut| cut.target.path().to_owned())
        .collect();
    assert_eq!(
        unread,
        (answered..100).map(|n| format!("/{n}")).collect::<Vec<_>>(),
        "{report}"
    );
}
