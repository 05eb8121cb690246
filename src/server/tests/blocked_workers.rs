//! While every worker is blocked, connections wait within limits, deadlines are kept, and a request
//! that waited too long is answered with 503.

use std::io::{Read, Write};
use std::time::Duration;

use super::fixture::{Fixture, LIMIT, SECOND, get, wait_until};
use crate::settings::MAX_ACCEPTED;
use crate::sys::test_points::Point;

#[test]
fn connections_on_their_way_to_a_worker_are_counted_and_the_rest_wait_in_the_backlog() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.maximum.is_some_and(|limit| limit < 4096) {
        return;
    }
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let server = Fixture::new(|builder| builder.workers(1));
    drop(server.used("/a"));
    // The only worker is held with an event, and takes no connection out of the accepted channel.
    let mut first = server.used("/b");
    let held = server.test_points.hold(Point::EventBeforeClaim);
    first.send(&get("/c"));
    held.wait();
    let stats = || server.running.handle().stats();
    let before = stats().accepted;
    let mut clients: Vec<_> = (0..MAX_ACCEPTED + 100).map(|_| server.connect()).collect();
    wait_until(|| stats().accepted - before >= MAX_ACCEPTED as u64);
    let _ = server
        .running
        .stopped()
        .recv_timeout(Duration::from_millis(50));
    assert_eq!(stats().accepted - before, MAX_ACCEPTED as u64);
    held.release();
    for client in &mut clients {
        client.send(&get("/d"));
    }
    clients
        .iter_mut()
        .for_each(|client| client.expect_body("/d"));
}

#[test]
fn a_request_that_finds_no_worker_is_answered_with_503() {
    for workers in [1, 4] {
        let server = Fixture::new(|builder| builder.workers(workers));
        let gates = server.block_all(workers);
        // No worker is free: only the monitor can park this connection.
        let held = server.test_points.hold(Point::QueuedBeforePushed);
        let mut waiting = server.connect();
        waiting.send(&get("/waits"));
        held.wait();
        held.release();
        server.clock.advance(10 * SECOND);
        let head = waiting.expect_status("503");
        assert!(head.contains("Retry-After: "), "{head}");
        gates.iter().for_each(|_| server.open.send(()).unwrap());
        for mut gate in gates {
            gate.expect_status("200");
        }
        assert!(server.stop().is_clean());
    }
}

#[test]
fn a_response_that_waits_for_room_in_its_lane_is_given_up_in_time() {
    // Without dedicated threads, one of the two workers may wait for a client.
    let server = Fixture::new(|builder| {
        builder
            .workers(2)
            .collect_bytes(0)
            .max_dedicated_threads(0)
            .write_timeout(Duration::MAX)
            .min_rate(0)
    });
    let mut echo = server.connect();
    echo.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    let mut writer = echo.0.try_clone().unwrap();
    let writing = std::thread::spawn(move || while writer.write_all(&[b'x'; 64 << 10]).is_ok() {});
    server.entered.recv_timeout(LIMIT).unwrap();
    // The echo leaves its lane, because its client takes nothing or because other connections get
    // their turn. Then `/hold` is in the lane, and the echo finds no room in it again.
    let mut holds = server.enter("/hold");
    let mut some = vec![0; 64 << 10];
    let reading = std::thread::spawn(move || while echo.0.read(&mut some).is_ok_and(|n| n > 0) {});
    wait_until(|| {
        server.clock.advance(10 * SECOND);
        server.running.handle().stats().overloaded == 1
    });
    writing.join().unwrap();
    reading.join().unwrap();
    server.open.send(()).unwrap();
    holds.expect_status("200");
}

#[test]
fn with_all_workers_blocked_heads_are_read_and_deadlines_kept() {
    for workers in [1, 4] {
        let server = Fixture::new(|builder| builder.workers(workers));
        let gates = server.block_all(workers);
        let mut silent = server.parked(b"");
        let mut half = server.parked(b"GET / HT");
        server.clock.advance(10 * SECOND);
        half.expect_status("408");
        silent.expect_end();
        gates.iter().for_each(|_| server.open.send(()).unwrap());
        for mut gate in gates {
            gate.expect_status("200");
        }
    }
}
