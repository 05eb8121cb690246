//! A request that is not finished at the deadline is cut: it is answered with 503, or reset once
//! its response has begun, and the report names it.

use std::io::Write;
use std::time::Duration;

use lameduck::report::Fate;
use lameduck::{Body, Context, Error, Request};

use super::shared;
use super::support::{Client, End, Gate, LIMIT, TestServer, builder, gated, millis, now, pattern};

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

    let [cut] = &crate::support::cut(&report)[..] else {
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
            crate::support::cut(&report).len(),
            crate::support::never_started(&report).len()
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
            // The 503 has been sent by now, and this answer comes too late.
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
            crate::support::cut(&report).len(),
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
    let [cut] = &crate::support::cut(&report)[..] else {
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
    let [cut] = &crate::support::cut(&report)[..] else {
        panic!("{report}")
    };
    assert!(
        matches!(cut.fate, Fate::Cut { bytes_sent } if bytes_sent > 0),
        "{cut:?}"
    );
    assert!(report.stuck.is_empty(), "{report}");
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
        (crate::support::cut(&report).len(), report.stuck.len()),
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
    // A longer stop does not undo the shorter one.
    server.handle().begin_shutdown_within(LIMIT * 2);
    assert_eq!(client.read_response().status, 503);
    assert_eq!(crate::support::cut(&server.stop()).len(), 1);
    gate.open();
}
