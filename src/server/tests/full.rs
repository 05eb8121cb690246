//! A full server lets a new connection in by closing the one that has been silent longest, and
//! closes none that has a request.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use super::fixture::{Fixture, SECOND, get, wait_until};
use super::{assert_served, idle_clients};
use crate::lifecycle::ledger::CloseReason;
use crate::settings::IDLE_GRACE;
use crate::sys::test_points::Point;

#[test]
fn a_full_server_closes_the_connection_that_has_been_idle_longest() {
    let server = Fixture::new(|builder| builder.max_connections(3));
    let mut idle = idle_clients(&server, 3, SECOND);
    let mut new = Vec::new();
    for left in (0..3).rev() {
        new.push(assert_served(&server));
        idle.remove(0).expect_end();
        for client in &mut idle {
            client.0.set_nonblocking(true).unwrap();
            assert_eq!(
                client.0.read(&mut [0]).unwrap_err().kind(),
                ErrorKind::WouldBlock,
                "{left} idle connections are left"
            );
            client.0.set_nonblocking(false).unwrap();
        }
    }
    assert_eq!(server.running.handle().stats().evicted, 3);
    let report = server.stop();
    assert_eq!(
        (report.closed_because(CloseReason::Evicted), report.accepted),
        (3, 6),
        "{report}"
    );
}

#[test]
fn a_full_server_closes_no_connection_while_no_client_waits() {
    let server = Fixture::new(|builder| builder.max_connections(2));
    let mut idle = idle_clients(&server, 2, 30 * SECOND);
    for (i, client) in idle.iter_mut().enumerate() {
        client.send(&get(&format!("/{i}")));
        client.expect_body(&format!("/{i}"));
    }
    assert_eq!(server.stop().closed_because(CloseReason::Evicted), 0);
}

#[test]
fn a_new_connection_waits_until_another_one_has_been_idle_for_long_enough() {
    let server = Fixture::new(|builder| builder.max_connections(1).idle_timeout(Duration::MAX));
    let mut idle = server.used("/a");
    let mut new = server.connect();
    new.send(&get("/new"));
    server.clock.advance(SECOND / 2);
    idle.send(&get("/b"));
    idle.expect_body("/b");
    server.clock.advance(SECOND / 2);
    idle.send(&get("/c"));
    idle.expect_body("/c");
    assert_eq!(server.running.handle().stats().evicted, 0);
    // On Linux no connection is evicted before its client's kernel has acknowledged the last
    // answer, which takes it up to 40 ms of real time.
    wait_until(|| {
        server.clock.advance(SECOND);
        server.running.handle().stats().evicted == 1
    });
    idle.expect_end();
    new.expect_body("/new");
    let report = server.stop();
    // Elsewhere nothing makes sure that the acceptor has seen the new client before the clock went
    // on, and the wait is counted only from then.
    if cfg!(target_os = "linux") {
        assert!(report.listeners.accept_paused >= SECOND, "{report}");
    }
}

#[test]
fn a_full_server_lets_one_in_when_another_one_ends() {
    let server = Fixture::new(|builder| builder.max_connections(1));
    let gate = server.enter_gate();
    let mut new = server.connect();
    new.send(&get("/new"));
    server.open.send(()).unwrap();
    drop(gate);
    new.expect_body("/new");
}

#[test]
fn a_client_that_has_sent_a_request_is_served_and_the_next_one_makes_room() {
    let server = Fixture::new(|builder| builder.max_connections(2));
    let mut idle = idle_clients(&server, 2, SECOND);
    // The worker that has the event is held before it claims the connection.
    let held = server.test_points.hold(Point::EventBeforeClaim);
    idle[0].send(&get("/late"));
    held.wait();
    let _new = assert_served(&server);
    idle[0].expect_body("/late");
    idle[1].expect_end();
    held.release();
    assert_eq!(server.stop().closed_because(CloseReason::Evicted), 1);
}

#[test]
fn a_silent_connection_makes_room_once_it_has_had_its_time() {
    let server = Fixture::new(|builder| builder.max_connections(1));
    let mut silent = server.parked(b"");
    server.wait_silent(1);
    let mut new = server.connect();
    new.send(&get("/new"));
    server.clock.advance(IDLE_GRACE);
    silent.expect_end();
    new.expect_body("/new");
    assert_eq!(server.stop().closed_because(CloseReason::Evicted), 1);
}
