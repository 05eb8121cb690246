//! From start to stop: nobody loses a request, nothing is left behind, and the report says what
//! happened.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use lameduck::body::BodyWriter;
use lameduck::report::{CloseReason, Fate, Phase, StopCause};
use lameduck::{Body, Context, Error, IntoResponse, Request, Response, Server, ServerHandle};

use support::{
    Client, Delimited, End, Gate, LIMIT, Reader, TestServer, builder, descriptors, eventually,
    gated, get, get_last, hello, millis, now, pass_time, pattern, post, serve, server_threads,
    within_limit,
};

/// Held by tests that start servers, and exclusively by those that count what servers leave in the
/// process.
static PROCESS: RwLock<()> = RwLock::new(());

fn shared() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    let guard = PROCESS.write().unwrap_or_else(PoisonError::into_inner);
    eventually("other tests' servers are gone", || {
        server_threads().is_empty()
    });
    guard
}

#[test]
fn no_thread_and_no_descriptor_is_left_after_a_stop() {
    let _alone = alone();
    let cycle = |signals: &[i32]| {
        let gate = Gate::new();
        let description = builder().workers(8).on_signals(signals.iter().copied());
        let server = TestServer::with(description, gated(&gate));
        let _idle: Vec<_> = (0..50).map(|_| server.used_client("/")).collect();
        let _silent: Vec<_> = (0..50).map(|_| server.client()).collect();
        let mut half: Vec<_> = (0..50).map(|_| server.client()).collect();
        for client in &mut half {
            client.send("POST / HTTP/1.1\r\nContent-Le");
        }
        let mut blocked: Vec<_> = ["/a/block", "/bb/block", "/ccc/block"]
            .map(|path| server.block(&gate, path))
            .into();
        half.clear();
        server.handle().begin_shutdown();
        gate.open();
        for client in &mut blocked {
            assert_eq!(client.read_response().status, 200);
        }
        let report = server.stop();
        assert!(report.is_clean(), "{report}");
        drop((_idle, _silent, blocked));
        // The server itself is still held: what it has left is only its handle.
        let left = descriptors();
        drop(server);
        left
    };
    // What the process opens once and keeps is open after this.
    cycle(&[signal_hook::consts::SIGUSR1]);
    let before = descriptors();
    assert_eq!(cycle(&[]), before);
    assert_eq!(cycle(&[signal_hook::consts::SIGUSR1]), before);
    eventually("all threads are gone", || server_threads().is_empty());
}

#[test]
fn a_server_that_never_runs_leaves_nothing() {
    let _alone = alone();
    let before = descriptors();
    let bound = builder().bind("127.0.0.1:0").unwrap();
    let addr = bound.local_addr();
    let handle = bound.handle();
    drop(bound);
    assert_eq!(descriptors(), before);
    assert!(server_threads().is_empty());
    let _ = builder().bind(addr).unwrap();
    let report = within_limit("a stop without a server", move || handle.shutdown());
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_hundred_starts_and_stops_on_one_port_leave_nothing() {
    let _alone = alone();
    let addr = builder().bind("127.0.0.1:0").unwrap().local_addr();
    let before = descriptors();
    for i in 0..100 {
        let running = serve(builder().workers(4), addr, hello);
        let mut client = Client::connect(addr);
        assert_eq!(client.get("/").text(), "hello");
        let report = running.handle().shutdown();
        assert!(report.is_clean(), "cycle {i}: {report}");
        assert_eq!(
            (report.accepted, report.answered_in(Phase::Running)),
            (1, 1),
            "cycle {i}"
        );
        client.expect_eof();
    }
    assert_eq!(descriptors(), before);
    eventually("all threads are gone", || server_threads().is_empty());
}

#[test]
fn a_hundred_servers_that_stop_at_once_leave_nothing() {
    let _alone = alone();
    let before = descriptors();
    for _ in 0..100 {
        let running = serve(builder().workers(4), "127.0.0.1:0", hello);
        let report = running.handle().shutdown();
        assert!(report.is_clean(), "{report}");
        assert!(report.took < LIMIT / 10, "{report}");
    }
    assert_eq!(descriptors(), before);
    eventually("all threads are gone", || server_threads().is_empty());
}

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
fn a_talkative_connection_is_answered_while_draining() {
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
fn a_lame_duck_accepts_and_serves_and_says_close() {
    let _shared = shared();
    let server = TestServer::with(builder().workers(2).lame_duck(millis(300)), hello);
    let mut known = server.used_client("/");
    assert!(server.handle().is_ready());
    assert_eq!(server.handle().phase(), Phase::Running);
    let began = now();
    server.handle().begin_shutdown();
    assert!(!server.handle().is_ready());
    assert_eq!(server.handle().phase(), Phase::LameDuck);
    for client in [&mut known, &mut server.client()] {
        let answer = client.get("/");
        assert_eq!(answer.text(), "hello");
        assert!(answer.closes());
        client.expect_eof();
    }
    let report = server.stop();
    let took = now() - began;
    assert!(took >= millis(300) && took < LIMIT / 5, "{took:?}");
    assert_eq!(report.answered_in(Phase::LameDuck), 2, "{report}");
    assert_eq!(server.handle().phase(), Phase::Stopped);
    assert!(!server.handle().is_ready());
}

#[test]
fn a_shorter_stop_ends_the_lame_duck() {
    let _shared = shared();
    let server = TestServer::with(builder().workers(2).lame_duck(LIMIT * 6), hello);
    server.handle().begin_shutdown();
    assert_eq!(server.handle().phase(), Phase::LameDuck);
    let handle = server.handle();
    let report = within_limit("a shorter stop", move || {
        handle.shutdown_within(Duration::from_secs(1))
    });
    assert!(report.is_clean(), "{report}");
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
fn past_the_deadline_the_server_leaves_a_stuck_handler_and_names_it() {
    let _shared = shared();
    let gate = Gate::new();
    let server = TestServer::with(
        builder()
            .workers(2)
            .grace_period(millis(200))
            .cut_grace(millis(200)),
        gated(&gate),
    );
    let mut client = server.block(&gate, "/stuck/block");
    let began = now();
    let report = server.stop();
    let took = now() - began;
    assert!(took >= millis(200) && took < LIMIT / 5, "{took:?}");
    assert_eq!(report.exit_code(), 3, "{report}");
    assert!(!report.is_clean());

    let [cut] = &support::cut(&report)[..] else {
        panic!("{report}")
    };
    assert_eq!(
        (cut.method.as_str(), cut.target.path()),
        ("GET", "/stuck/block")
    );
    assert_eq!(cut.peer, Some(client.local_addr()));
    assert_eq!(cut.fate, Fate::Answered503, "{cut:?}");
    assert!(cut.age >= millis(195), "{cut:?}");
    let [stuck] = &report.stuck[..] else {
        panic!("{report}")
    };
    assert!(stuck.thread.starts_with("lameduck-worker-"), "{stuck:?}");
    let (method, target, age) = stuck.request.clone().unwrap();
    assert_eq!((method.as_str(), target.path()), ("GET", "/stuck/block"));
    assert!(age >= millis(195), "{stuck:?}");
    assert!(report.to_string().contains("/stuck/block"), "{report}");

    let answer = client.read_response();
    assert_eq!(answer.status, 503);
    assert!(
        answer.closes() && answer.field("retry-after").is_some(),
        "{answer:?}"
    );
    client.expect_eof();

    assert!(matches!(report.into_result(), Err(Error::Unclean(_))));
    gate.open();
}

#[test]
fn what_waited_for_a_stuck_worker_is_reported_as_never_started() {
    let _shared = shared();
    let gate = Gate::new();
    let description = builder()
        .workers(1)
        .grace_period(millis(100))
        .cut_grace(millis(500));
    let server = TestServer::with(description, gated(&gate));
    let mut blocked = server.block(&gate, "/block");
    let mut waiting: Vec<_> = (0..10).map(|_| server.client()).collect();
    for client in &mut waiting {
        client.send_get("/waiting");
    }
    server.wait_accepted(11);
    let report = server.stop();
    for client in waiting.iter_mut().chain([&mut blocked]) {
        assert_eq!(client.read_response().status, 503);
        client.expect_eof();
    }
    assert_eq!(
        (
            support::cut(&report).len(),
            support::never_started(&report).len()
        ),
        (1, 10),
        "{report}"
    );
    assert!(
        report
            .unanswered
            .iter()
            .all(|request| matches!(request.fate, Fate::Answered503 | Fate::NeverStarted)),
        "{report}"
    );
    assert_eq!(report.stuck.len(), 1, "{report}");
    assert_eq!(gate.entered(), 1);
    gate.open();
}

#[test]
fn a_handler_that_heeds_the_cancellation_is_not_stuck() {
    let _shared = shared();
    let (entered, wait_entered) = crossbeam_channel::unbounded();
    let gate = Gate::new();
    let at_the_end = gate.clone();
    let server = TestServer::with(
        builder().workers(2).grace_period(millis(100)),
        move |_: Request, cx: Context| {
            assert!(!cx.is_draining() && !cx.is_cancelled() && cx.deadline().is_none());
            entered.send("running").unwrap();
            let _ = cx.draining().recv();
            entered.send("draining").unwrap();
            assert!(cx.is_draining() && cx.deadline().is_some());
            assert!(cx.sleep(LIMIT).is_err(), "it is cancelled before");
            assert!(cx.is_cancelled());
            // Whoever answers first has answered.
            at_the_end.pass();
            "too late"
        },
    );
    let mut client = server.client();
    client.send_get("/long");
    assert_eq!(wait_entered.recv_timeout(LIMIT), Ok("running"));
    server.handle().begin_shutdown();
    assert_eq!(client.read_response().status, 503);
    assert_eq!(wait_entered.try_recv(), Ok("draining"));
    gate.open();
    client.expect_eof();
    let report = server.stop();
    assert_eq!(
        (
            support::cut(&report).len(),
            report.stuck.len(),
            report.exit_code()
        ),
        (1, 0, 1),
        "{report}"
    );
}

#[test]
fn a_response_that_has_begun_is_reset_at_the_end() {
    let _shared = shared();
    let gate = Gate::new();
    let writing = gate.clone();
    let description = builder()
        .workers(2)
        .grace_period(millis(100))
        .cut_grace(millis(100));
    let server = TestServer::with(description, move |_: Request, _: Context| {
        let gate = writing.clone();
        Body::writer(move |out| {
            out.write_all(b"first part")?;
            out.flush()?;
            gate.pass();
            out.write_all(b"second part")
        })
    });
    let mut client = server.block(&gate, "/begun");
    let report = server.stop();
    let incomplete = client.expect_incomplete();
    assert_eq!(incomplete.end, End::Reset);
    assert_eq!(incomplete.answer.map_or(0, |answer| answer.status), 200);
    let [cut] = &support::cut(&report)[..] else {
        panic!("{report}")
    };
    assert_eq!(cut.target.path(), "/begun");
    assert!(
        matches!(cut.fate, Fate::Cut { bytes_sent } if bytes_sent > 10),
        "{cut:?}"
    );
    gate.open();
}

#[test]
fn a_response_that_its_client_does_not_take_is_reset_at_the_end() {
    let _shared = shared();
    let body = pattern(20 << 20);
    let bytes = bytes::Bytes::from(body.clone());
    let description = builder()
        .workers(2)
        .grace_period(millis(100))
        .cut_grace(millis(100));
    let server = TestServer::with(description, move |_: Request, _: Context| bytes.clone());
    let mut client = Client::connect_narrow(server.local_addr());
    client.send_get("/big");
    let head = client.read_raw(8);
    assert_eq!(head, b"HTTP/1.1");
    let report = server.stop();
    let (rest, end) = client.drain();
    assert!(rest.len() < body.len());
    assert_eq!(end, End::Reset);
    let [cut] = &support::cut(&report)[..] else {
        panic!("{report}")
    };
    assert!(
        matches!(cut.fate, Fate::Cut { bytes_sent } if bytes_sent > 0),
        "{cut:?}"
    );
    assert!(report.stuck.is_empty(), "{report}");
}

#[test]
fn a_four_megabyte_response_to_a_slow_reader_arrives_whole_through_a_stop() {
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

/// A handler that does `action` with the handle of the server it runs in.
fn with_own_handle(action: impl Fn(&ServerHandle) + Send + Sync + 'static) -> TestServer {
    let own = Arc::new(OnceLock::<ServerHandle>::new());
    let known = own.clone();
    let server = TestServer::start(move |_: Request, _: Context| {
        action(known.get().unwrap());
        "done"
    });
    own.set(server.handle()).unwrap();
    server
}

#[test]
fn a_handler_can_begin_the_shutdown() {
    let _shared = shared();
    let server = with_own_handle(ServerHandle::begin_shutdown);
    let mut client = server.client();
    let answer = client.get("/");
    assert_eq!(answer.text(), "done");
    assert!(answer.closes());
    client.expect_eof();
    server.running().stopped().recv_timeout(LIMIT).unwrap_err();
    assert_eq!(server.handle().phase(), Phase::Stopped);
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.cause, StopCause::Handle);
}

#[test]
fn a_handler_that_waits_for_the_shutdown_begins_it_and_panics_with_the_reason() {
    let _shared = shared();
    type Call = fn(&ServerHandle);
    let calls: [(&str, Call); 3] = [
        ("shutdown", |handle| drop(handle.shutdown())),
        ("shutdown_within", |handle| {
            drop(handle.shutdown_within(LIMIT))
        }),
        ("close", |handle| drop(handle.close())),
    ];
    for (name, call) in calls {
        let (sender, reason) = crossbeam_channel::bounded(1);
        let server = with_own_handle(move |handle| {
            let panic = catch_unwind(AssertUnwindSafe(|| call(handle))).unwrap_err();
            sender
                .send(panic.downcast_ref::<String>().cloned().unwrap())
                .unwrap();
            resume_unwind(panic);
        });
        let mut client = server.client();
        client.send_get("/");
        let reason = reason.recv_timeout(LIMIT).unwrap();
        assert!(
            reason.contains(name) && reason.contains("begin_shutdown"),
            "{reason}"
        );
        let answer = client.read_response();
        // `close` cuts, and is itself cut.
        assert!(
            answer.status == 500 || name == "close" && answer.status == 503,
            "{name}: {answer:?}"
        );
        assert!(answer.closes(), "{name}");
        client.expect_eof();
        server.running().stopped().recv_timeout(LIMIT).unwrap_err();
        let report = server.stop();
        assert!(report.stuck.is_empty(), "{name}: {report}");
    }
}

#[test]
fn every_shutdown_returns_an_equal_report() {
    let _shared = shared();
    let gate = Gate::new();
    let server = TestServer::with(
        builder()
            .workers(2)
            .grace_period(millis(100))
            .cut_grace(millis(100)),
        gated(&gate),
    );
    let _blocked = server.block(&gate, "/block");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let handle = server.handle();
            std::thread::spawn(move || handle.shutdown())
        })
        .collect();
    let reports: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let last = server.stop();
    assert_eq!(support::cut(&last).len(), 1, "{last}");
    for report in reports {
        assert_eq!(report, last);
    }
    assert_eq!(server.handle().close(), last);
    gate.open();
}

#[test]
fn a_server_that_was_stopped_before_it_ran_does_not_run() {
    let _shared = shared();
    for stop in [
        |handle: &ServerHandle| handle.begin_shutdown(),
        |handle: &ServerHandle| drop(handle.shutdown()),
    ] {
        let bound = builder().bind("127.0.0.1:0").unwrap();
        let (addr, handle) = (bound.local_addr(), bound.handle());
        stop(&handle);
        assert_eq!(handle.phase(), Phase::Stopped);
        let error = within_limit("run", move || bound.run(hello)).unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error:?}");
        assert!(error.to_string().contains("stopped"), "{error}");
        assert!(
            std::net::TcpStream::connect(addr).is_err(),
            "the listener is closed"
        );
    }
    let bound = builder().bind("127.0.0.1:0").unwrap();
    bound.handle().begin_shutdown();
    assert!(matches!(bound.spawn(hello), Err(Error::Stopped)));
}

#[test]
fn run_blocks_until_the_stop_and_gives_the_report() {
    let _shared = shared();
    let bound = builder().bind("127.0.0.1:0").unwrap();
    let (addr, handle) = (bound.local_addr(), bound.handle());
    let thread = std::thread::spawn(move || bound.run(hello));
    assert_eq!(Client::connect(addr).get("/").text(), "hello");
    let report = handle.shutdown();
    assert_eq!(thread.join().unwrap().unwrap(), report);
    assert_eq!(report.accepted, 1);
}

#[test]
fn dropping_the_running_server_begins_the_stop_and_does_not_wait() {
    let _shared = shared();
    let gate = Gate::new();
    let running = serve(builder().workers(2), "127.0.0.1:0", gated(&gate));
    let handle = running.handle();
    let mut client = Client::connect(running.local_addr());
    client.send_get("/block");
    gate.wait_entered(1);
    drop(running);
    assert!(handle.phase() >= Phase::LameDuck && handle.phase() < Phase::Stopped);
    gate.open();
    assert!(client.read_response().closes());
    let report = handle.shutdown();
    assert_eq!(report.cause, StopCause::Dropped);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn close_cuts_at_once() {
    let _shared = shared();
    let gate = Gate::new();
    let server = TestServer::with(builder().workers(2).lame_duck(LIMIT * 3), gated(&gate));
    let mut idle = server.used_client("/");
    let mut half = server.client();
    half.send("GET / HT");
    let mut client = server.block(&gate, "/block");
    let began = now();
    let report = server.handle().close();
    assert!(now() - began < LIMIT / 3);
    assert_eq!(client.read_response().status, 503);
    client.expect_eof();
    let (nothing, _) = idle.drain();
    assert!(nothing.is_empty());
    let (nothing, _) = half.drain();
    assert!(nothing.is_empty());
    assert_eq!(
        (support::cut(&report).len(), report.stuck.len()),
        (1, 1),
        "{report}"
    );
    gate.open();
}

#[test]
fn a_stop_without_end_can_be_cut_short() {
    let _shared = shared();
    let gate = Gate::new();
    let server = TestServer::with(
        builder()
            .workers(2)
            .grace_period(Duration::MAX)
            .cut_grace(millis(100)),
        gated(&gate),
    );
    let mut client = server.block(&gate, "/block");
    server.begin_draining();
    server.handle().begin_shutdown_within(Duration::MAX);
    client.expect_nothing_yet();
    server.handle().begin_shutdown_within(millis(50));
    // A longer one does not undo it.
    server.handle().begin_shutdown_within(LIMIT * 2);
    assert_eq!(client.read_response().status, 503);
    assert_eq!(support::cut(&server.stop()).len(), 1);
    gate.open();
}

#[test]
fn stopped_can_be_selected_on() {
    let _shared = shared();
    let server = TestServer::start(hello);
    let (_sender, other) = crossbeam_channel::unbounded::<()>();
    crossbeam_channel::select! {
        recv(server.running().stopped()) -> _ => panic!("it has not stopped yet"),
        recv(other) -> _ => panic!("nobody sends"),
        default => {}
    }
    server.handle().begin_shutdown();
    crossbeam_channel::select! {
        recv(server.running().stopped()) -> end => assert!(end.is_err()),
        recv(other) -> _ => panic!("nobody sends"),
        default(LIMIT) => panic!("it has not stopped"),
    }
    assert_eq!(server.handle().phase(), Phase::Stopped);
}

#[test]
fn signals_that_nobody_may_catch_are_refused() {
    let _shared = shared();
    for (signal, name) in [
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGSTOP, "SIGSTOP"),
        (libc::SIGSEGV, "SIGSEGV"),
    ] {
        let error = builder()
            .on_signals([libc::SIGUSR2, signal])
            .bind("127.0.0.1:0")
            .unwrap_err();
        assert!(
            matches!(error, Error::SignalForbidden { signal: which } if which == signal),
            "{error:?}"
        );
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_number_that_is_no_signal_is_refused() {
    let _shared = shared();
    for number in [4711, -1, 0] {
        let error = builder()
            .on_signals([number])
            .bind("127.0.0.1:0")
            .unwrap_err();
        assert!(
            matches!(error, Error::Signal { signal, .. } if signal == number),
            "{error:?}"
        );
    }
}

#[test]
fn a_signal_stops_the_server_and_a_second_one_cuts() {
    let _alone = alone();
    let gate = Gate::new();
    let server = TestServer::with(
        builder().workers(2).on_signals([libc::SIGUSR1]),
        gated(&gate),
    );
    let raise = || {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR1)
            .unwrap()
    };
    let mut idle = server.used_client("/");
    let mut client = server.block(&gate, "/block");
    raise();
    idle.expect_eof();
    client.expect_nothing_yet();
    assert_eq!(server.handle().phase(), Phase::Draining);
    raise();
    assert_eq!(client.read_response().status, 503);
    let report = server.handle().shutdown();
    assert_eq!(report.cause, StopCause::Signal(libc::SIGUSR1));
    assert_eq!(
        (support::cut(&report).len(), report.stuck.len()),
        (1, 1),
        "{report}"
    );
    gate.open();
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

#[test]
fn two_servers_in_one_process_stop_apart() {
    let _shared = shared();
    let one = TestServer::start(|_: Request, _: Context| "one");
    let other = TestServer::start(|_: Request, _: Context| "other");
    let (mut of_one, mut of_other) = (one.used_client("/"), other.used_client("/"));
    assert_eq!(of_one.get("/").text(), "one");
    let report = one.stop();
    assert_eq!(
        (report.accepted, report.answered_in(Phase::Running)),
        (1, 2),
        "{report}"
    );
    of_one.expect_eof();
    assert_eq!(of_other.get("/").text(), "other");
    assert_eq!(other.client().get("/").text(), "other");
    assert_eq!(other.handle().phase(), Phase::Running);
    let report = other.stop();
    assert_eq!(
        (report.accepted, report.answered_in(Phase::Running)),
        (2, 3),
        "{report}"
    );
}

#[test]
fn a_handler_may_stop_another_server_and_wait() {
    let _shared = shared();
    let other = TestServer::start(|_: Request, _: Context| "other");
    let handle = other.handle();
    let server = TestServer::start(move |_: Request, _: Context| {
        let handle = handle.clone();
        std::thread::spawn(move || handle.shutdown())
            .join()
            .unwrap()
            .to_string()
    });
    assert!(server.client().get("/").text().contains("cleanly"));
    assert_eq!(other.handle().phase(), Phase::Stopped);
}

#[test]
fn a_unix_socket_is_served_and_its_file_is_gone_after_the_stop() {
    let _shared = shared();
    let path = std::env::temp_dir().join(format!("lameduck-test-{}.sock", std::process::id()));
    let addr = format!("unix:{}", path.display());
    for _ in 0..2 {
        let running = serve(builder().workers(2), &addr, hello);
        let mut client = Client::connect_unix(&path);
        client.send(get_last("/"));
        assert_eq!(client.read_last_response().text(), "hello");
        drop(client);
        let report = running.handle().shutdown();
        assert!(report.is_clean(), "{report}");
        assert!(!path.exists());
    }
}
