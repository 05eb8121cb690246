//! A stop meets clients in the middle of something: a head, a body, a pipeline, a slow response.
//! None of it is lost.

use lameduck::http::StatusCode;
use lameduck::report::CloseReason;
use lameduck::{Context, Request};

use super::support::{
    Client, Gate, LIMIT, TestServer, builder, get, hello, millis, pass_time, pattern, post,
};
use super::{app, patient, sum};

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
    // The stop lasts for the head timeout and, for bytes that come after our answer, the linger.
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
        // The server waits for a client that has sent half a head.
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
fn a_slow_response_with_a_request_pipelined_after_it_loses_nothing() {
    for sent_before in [true, false] {
        let gate = Gate::new();
        let server = TestServer::start(app(&gate));
        let mut client = Client::connect_narrow(server.local_addr());
        client.send_get("/big");
        if sent_before {
            client.send_get("/next");
        }
        // The head was sent before the stop and does not tell of it.
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
