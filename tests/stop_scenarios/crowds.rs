//! A stop under load, with a full backlog or with every worker blocked, ends in time and loses
//! nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use lameduck::report::{CloseReason, Phase, UnansweredRequest};
use lameduck::{Context, Request, Server};

use super::app;
use super::support::{
    Client, Gate, LIMIT, TestServer, builder, eventually, get, hello, millis, now, pass_time,
};

#[test]
fn more_connections_in_the_accept_backlog_than_may_be_open_are_all_answered() {
    // This is also more than `max_connections` and the accepted channel hold together.
    const QUEUED: usize = 2500;
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
            names(&crate::support::cut(&report)),
            (0..workers).map(|i| format!("/{i}/block")).collect(),
            "{report}"
        );
        assert_eq!(
            names(&crate::support::never_started(&report)),
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
