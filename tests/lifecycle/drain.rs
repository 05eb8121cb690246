//! A request that is here when a stop begins is answered, and the last response on each connection
//! says `Connection: close`.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use lameduck::body::BodyWriter;
use lameduck::report::{CloseReason, Phase};
use lameduck::{Body, Context, IntoResponse, Request, Response, Server};

use super::shared;
use super::support::{
    Client, Delimited, End, Gate, LIMIT, Reader, TestServer, builder, eventually, gated, get,
    hello, millis, now, pass_time, pattern, post,
};

#[test]
fn a_request_in_flight_is_finished_and_its_response_says_close() {
    let _shared = shared();
    let gate = Gate::new();
    let server = TestServer::start(gated(&gate));
    let mut idle = server.used_client("/");
    let mut client = server.block(&gate, "/block");
    server.handle().begin_shutdown();
    idle.expect_eof();
    client.expect_nothing_yet();
    gate.open();
    let answer = client.read_response();
    assert_eq!(answer.text(), "/block");
    assert!(answer.closes(), "{answer:?}");
    client.expect_eof();
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.answered_in(Phase::Draining), 1, "{report}");
    assert_eq!(
        report.closed_because(CloseReason::IdleStopping),
        1,
        "{report}"
    );
    assert_eq!(report.closed_because(CloseReason::Stopping), 1, "{report}");
}

#[test]
fn a_response_made_right_after_the_stop_has_begun_says_close() {
    let _shared = shared();
    for _ in 0..20 {
        let gate = Gate::new();
        let server = TestServer::start(gated(&gate));
        let mut client = server.block(&gate, "/block");
        server.handle().begin_shutdown();
        gate.open();
        assert!(client.read_response().closes());
        client.expect_eof();
    }
}

#[test]
fn every_pipelined_request_that_is_here_is_answered_in_a_stop() {
    let _shared = shared();
    let gate = Gate::new();
    let server = TestServer::start(gated(&gate));
    let mut client = server.client();
    client.send(get("/block") + &get("/next").repeat(200));
    gate.wait_entered(1);
    server.begin_draining();
    gate.open();
    assert_eq!(client.read_response().text(), "/block");
    let mut closes = 0;
    for i in 0..200 {
        assert_eq!(closes, 0, "a response after one that says close");
        let answer = client.read_response();
        assert_eq!(answer.text(), "/next", "{i}");
        closes += usize::from(answer.closes());
    }
    assert_eq!(closes, 1);
    client.expect_eof();
    server.stop_cleanly();
}

#[test]
fn long_pipelines_that_wait_for_their_turn_are_answered_in_a_stop() {
    let _shared = shared();
    const REQUESTS: usize = 300;
    let gate = Gate::new();
    let server = TestServer::with(builder().workers(1), gated(&gate));
    let mut blocked = server.block(&gate, "/block");
    let mut clients: Vec<_> = (0..50).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send(get("/next").repeat(REQUESTS));
    }
    server.wait_accepted(51);
    server.begin_draining();
    gate.open();
    assert!(blocked.read_response().closes());
    for (i, client) in clients.iter_mut().enumerate() {
        for n in 1..=REQUESTS {
            let answer = client.try_read(false);
            let answer = answer
                .unwrap_or_else(|end| panic!("client {i}: answer {n} of {REQUESTS}: {end:?}"));
            assert_eq!(
                answer.closes(),
                n == REQUESTS,
                "client {i}: answer {n} of {REQUESTS}"
            );
        }
        client.expect_eof();
    }
    server.stop_cleanly();
}

#[test]
fn a_connection_that_keeps_sending_requests_is_answered_while_draining() {
    let _shared = shared();
    let gate = Gate::new();
    let server = TestServer::with(Server::builder().workers(4).idle_grace(LIMIT), gated(&gate));
    let mut idle = server.used_client("/");
    let mut fresh = server.client();
    let mut half = server.client();
    half.send("GET /half HTTP/1.1\r\nHo");
    server.wait_accepted(3);
    let mut blocked = server.block(&gate, "/block");
    server.begin_draining();
    for (client, rest, path) in [
        (&mut idle, get("/again").as_str(), "/again"),
        (&mut fresh, &get("/fresh"), "/fresh"),
        (&mut half, "st: test\r\n\r\n", "/half"),
    ] {
        client.send(rest);
        let answer = client.read_response();
        assert_eq!(answer.text(), path);
        assert!(answer.closes(), "{path}");
        client.expect_eof();
    }
    gate.open();
    assert!(blocked.read_response().closes());
    server.stop_cleanly();
}

#[test]
fn silent_connections_are_closed_once_idle_grace_is_over() {
    let _shared = shared();
    let server = TestServer::with(Server::builder().workers(2).idle_grace(millis(300)), hello);
    let mut talked = server.used_client("/");
    let mut fresh = server.client();
    server.wait_accepted(2);
    let began = now();
    server.handle().begin_shutdown();
    talked.expect_eof();
    fresh.expect_eof();
    let report = server.stop();
    let took = now() - began;
    assert!(report.is_clean(), "{report}");
    assert!(took >= millis(200) && took < LIMIT / 5, "{took:?}");

    let server = TestServer::with(Server::builder().workers(2).idle_grace(millis(300)), hello);
    let mut long_idle = server.used_client("/");
    pass_time(millis(350));
    let began = now();
    server.handle().begin_shutdown();
    long_idle.expect_eof();
    let took = now() - began;
    assert!(
        took < millis(200),
        "it was silent for long enough before: {took:?}"
    );
}

#[test]
fn after_a_stop_connections_are_refused() {
    let _shared = shared();
    let server = TestServer::start(hello);
    server.stop_cleanly();
    let error = std::net::TcpStream::connect(server.local_addr()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn requests_in_the_accept_backlog_are_answered_in_a_stop() {
    let _shared = shared();
    let gate = Gate::new();
    let server = TestServer::with(builder().workers(1).max_connections(1), gated(&gate));
    let mut first = server.block(&gate, "/block");
    let mut waiting: Vec<_> = (0..20).map(|_| server.client()).collect();
    for client in &mut waiting {
        client.send_get("/waiting");
    }
    server.handle().begin_shutdown();
    gate.open();
    assert_eq!(first.read_response().text(), "/block");
    for client in &mut waiting {
        let answer = client.read_response();
        assert_eq!(answer.text(), "/waiting");
        assert!(answer.closes());
        client.expect_eof();
    }
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        (report.accepted, report.listeners.backlog_served),
        (21, 20),
        "{report}"
    );
}

#[test]
fn a_client_that_has_finished_its_side_gets_its_answers() {
    let _shared = shared();
    for expected_slow in [false, true] {
        let gate = Gate::new();
        let server = TestServer::with(builder().workers(4), gated(&gate));
        if expected_slow {
            let mut slow = server.block(&gate, "/gated/block");
            pass_time(millis(5));
            gate.release();
            assert_eq!(slow.read_response().status, 200);
        }
        let mut quick = server.client();
        quick.send_get("/quick");
        quick.half_close();
        assert_eq!(quick.read_response().text(), "/quick");
        quick.expect_eof();

        let mut pipelined = server.client();
        pipelined.send([get("/1"), get("/2"), get("/3")].concat());
        pipelined.send(post("/4", &pattern(100_000)));
        pipelined.half_close();
        for path in ["/1", "/2", "/3", "/4"] {
            assert_eq!(pipelined.read_response().text(), path);
        }
        pipelined.expect_eof();

        let mut gated = server.block(&gate, "/gated/block");
        gated.half_close();
        let mut stopped = server.block(&gate, "/other/block");
        stopped.half_close();
        assert_eq!(server.client().get("/fast").status, 200);
        gated.expect_nothing_yet();
        server.begin_draining();
        gate.open();
        for client in [&mut gated, &mut stopped] {
            assert_eq!(client.read_response().status, 200);
            client.expect_eof();
        }
        server.stop_cleanly();
    }
}

#[test]
fn a_four_megabyte_response_to_a_slow_reader_arrives_complete_through_a_stop() {
    let _shared = shared();
    let body = pattern(4 << 20);
    for kind in ["/bytes", "/reader", "/sized", "/writer", "/file"] {
        let source = body.clone();
        let path = std::env::temp_dir().join(format!("lameduck-test-{}-stop", std::process::id()));
        std::fs::write(&path, &body).unwrap();
        let file = path.clone();
        let server = TestServer::start(move |request: Request, _: Context| -> Response {
            let body = source.clone();
            match request.uri().path() {
                "/bytes" => body.into_response(),
                "/reader" => Body::reader(std::io::Cursor::new(body)).into_response(),
                "/sized" => Body::sized_reader(std::io::Cursor::new(body), 4 << 20).into_response(),
                "/file" => Body::try_from(std::fs::File::open(&file).unwrap())
                    .unwrap()
                    .into_response(),
                _ => Body::writer(move |out: &mut BodyWriter<'_>| out.write_all(&body))
                    .into_response(),
            }
        });
        let mut client = Client::connect_narrow(server.local_addr());
        client.send_get(kind);
        // The first bytes of the response are here, so it has begun.
        let mut whole = client.read_raw(17);
        assert_eq!(whole, b"HTTP/1.1 200 OK\r\n");
        let handle = server.handle();
        let (sender, stopped) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || sender.send(handle.shutdown()).unwrap());
        server.wait_for_phase(Phase::Draining);
        for _ in 0..10 {
            whole.extend(client.read_raw(100_000));
            pass_time(millis(5));
        }
        assert!(
            stopped.try_recv().is_err(),
            "{kind}: it waits for the response"
        );
        let (rest, end) = client.drain();
        whole.extend(rest);
        assert_eq!(end, End::Eof, "{kind}");
        let report = stopped.recv_timeout(LIMIT).unwrap();
        assert!(report.is_clean(), "{kind}: {report}");
        let mut response = Reader::over(&whole[..]);
        let answer = response.read_last_response();
        let is_chunked = matches!(kind, "/reader" | "/writer");
        assert_eq!(answer.delimited == Delimited::Chunked, is_chunked, "{kind}");
        assert!(
            answer.body == body,
            "{kind}: {} of {} bytes",
            answer.body.len(),
            body.len()
        );
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn what_clients_saw_is_what_the_report_says() {
    let _shared = shared();
    let server = TestServer::with(Server::builder().workers(4), hello);
    let (answered, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (answered, refused, mut client) =
                (answered.clone(), refused.clone(), server.client());
            std::thread::spawn(move || {
                loop {
                    client.send_get("/");
                    let answer = client.read_response();
                    assert_eq!(
                        (answer.text(), answer.delimited),
                        ("hello", Delimited::Length)
                    );
                    answered.fetch_add(1, SeqCst);
                    if answer.closes() {
                        client.expect_eof();
                        return refused.fetch_add(1, SeqCst);
                    }
                }
            })
        })
        .collect();
    eventually("all are at it", || answered.load(SeqCst) > 1000);
    let mut idle = server.used_client("/");
    let mut refusal = server.client();
    refusal.send("bad\r\n\r\n");
    assert_eq!(refusal.read_response().status, 400);
    refusal.expect_eof();
    let mut leaves = server.used_client("/");
    leaves.half_close();
    leaves.expect_eof();
    let report = server.stop();
    idle.expect_eof();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.accepted, 11, "{report}");
    assert_eq!(
        report.answered.iter().map(|(_, n)| n).sum::<u64>(),
        answered.load(SeqCst) + 2,
        "{report}"
    );
    assert_eq!(
        report.closed.iter().map(|(_, n)| n).sum::<u64>(),
        11,
        "{report}"
    );
    assert_eq!(
        report.closed_because(CloseReason::Stopping),
        refused.load(SeqCst),
        "{report}"
    );
    assert_eq!(
        report.closed_because(CloseReason::IdleStopping),
        1,
        "{report}"
    );
    assert_eq!(report.closed_because(CloseReason::Refused), 1, "{report}");
    assert_eq!(
        report.closed_because(CloseReason::PeerClosed),
        1,
        "{report}"
    );
    let stats = server.handle().stats();
    assert_eq!((stats.open, stats.accepted, stats.closed), (0, 11, 11));
    assert_eq!(stats.answered, answered.load(SeqCst) + 2);
}
