//! A request that meets any step of a stop is answered, or is named in the report.

#[cfg(target_os = "linux")]
use std::io::ErrorKind;
use std::net::Shutdown;
#[cfg(target_os = "linux")]
use std::net::TcpStream;
use std::time::Duration;

use super::fixture::{Fixture, fates, get};
use crate::lifecycle::ledger::CloseReason;
use crate::lifecycle::phase::Phase;
use crate::lifecycle::unanswered::Fate;
use crate::settings::IDLE_GRACE;
use crate::sys::test_points::Point;

#[test]
fn a_draining_server_gives_idle_connections_their_grace_and_not_more() {
    let server = Fixture::new(|builder| builder);
    let mut idle = server.used("/a");
    server.begin_draining();
    idle.send(&get("/b"));
    let (head, body) = idle.response();
    assert!(body == "/b" && head.contains("Connection: close"), "{head}");
    idle.expect_end();
    drop(idle);
    assert!(server.stop().is_clean());
}

#[test]
fn silent_and_idle_connections_end_at_idle_grace_and_not_at_the_deadline() {
    let server = Fixture::new(|builder| builder);
    let mut silent = server.parked(b"");
    let mut idle = server.used("/a");
    server.begin_draining();
    server.clock.advance(IDLE_GRACE);
    silent.expect_end();
    idle.expect_end();
    let report = server.stop();
    assert_eq!(
        report.closed_because(CloseReason::IdleStopping),
        2,
        "{report}"
    );
}

/// A client that polls at the very interval of the idle grace.
#[test]
fn a_steady_client_is_closed_after_a_response_and_not_when_its_next_request_comes() {
    let server = Fixture::new(|builder| builder);
    let mut steady = server.used("/a");
    server.wait_silent(1);
    server.clock.advance(IDLE_GRACE);
    steady.send(&get("/b"));
    steady.expect_body("/b");
    server.wait_silent(1);
    server.begin_draining();
    server.clock.advance(IDLE_GRACE);
    steady.send(&get("/c"));
    let (head, body) = steady.response();
    assert!(body == "/c" && head.contains("Connection: close"), "{head}");
    drop(steady);
    assert!(server.stop().is_clean());
}

#[test]
fn a_connection_that_the_acceptor_has_just_accepted_at_the_stop_is_served() {
    let server = Fixture::new(|builder| builder);
    let held = server.test_points.hold(Point::AcceptedBeforeSent);
    let mut client = server.connect();
    client.send(&get("/a"));
    held.wait();
    server.running.handle().begin_shutdown();
    held.release();
    client.expect_body("/a");
    drop(client);
    assert!(server.stop().is_clean());
}

#[test]
fn a_connection_that_comes_before_the_listener_closes_is_served() {
    let server = Fixture::new(|builder| builder);
    let held = server.test_points.hold(Point::DrainingBeforeGated);
    server.running.handle().begin_shutdown();
    held.wait();
    let mut client = server.connect();
    client.send(&get("/a"));
    held.release();
    client.expect_body("/a");
    drop(client);
    let report = server.stop();
    assert_eq!(report.listeners.backlog_served, 1, "{report}");
    assert!(report.is_clean());
}

#[test]
#[cfg(target_os = "linux")]
fn the_syn_gate_keeps_new_connections_out_and_those_in_the_backlog_are_served() {
    let server = Fixture::new(|builder| builder);
    let (draining, gated) = (
        server.test_points.hold(Point::DrainingBeforeGated),
        server.test_points.hold(Point::GatedBeforeEmptied),
    );
    server.running.handle().begin_shutdown();
    draining.wait();
    let mut client = server.connect();
    client.send(&get("/a"));
    draining.release();
    gated.wait();
    let late = TcpStream::connect_timeout(&server.running.local_addr(), Duration::from_millis(200));
    // Before Linux 5.7, and without CAP_NET_RAW, the client's SYN is dropped instead.
    let kind = late.unwrap_err().kind();
    assert!(
        matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::TimedOut),
        "{kind:?}"
    );
    gated.release();
    client.expect_body("/a");
    drop(client);
    let report = server.stop();
    assert_eq!(
        {
            let listeners = &report.listeners;
            (
                listeners.backlog_served,
                listeners.backlog_reset,
                listeners.without_syn_gate,
            )
        },
        (1, 0, 0),
        "{report}"
    );
}

#[test]
fn a_request_that_crosses_our_end_of_an_idle_connection_is_reported() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.used("/a");
    server.begin_draining();
    server.clock.advance(IDLE_GRACE);
    client.expect_end();
    client.send(&get("/late?x=1"));
    client.0.shutdown(Shutdown::Write).unwrap();
    let report = server.stop();
    assert_eq!(fates(&report), [Fate::Raced], "{report}");
    assert_eq!(report.unanswered[0].target, "/late?x=1");
    assert!(!report.is_clean(), "{report}");
}

#[test]
fn a_handler_that_returns_just_before_the_cut_is_answered() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.enter_gate();
    let held = server.test_points.hold(Point::CuttingBeforeTakeOver);
    server
        .running
        .handle()
        .begin_shutdown_within(Duration::ZERO);
    held.wait();
    server.open.send(()).unwrap();
    client.expect_body("/gate");
    held.release();
    drop(client);
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_handler_that_returns_after_the_cut_writes_nothing() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.enter_gate();
    let stopping = server.running.handle();
    stopping.begin_shutdown_within(Duration::ZERO);
    client.expect_status("503");
    server.open.send(()).unwrap();
    client.expect_end();
    drop(client);
    let report = server.stop();
    assert_eq!(fates(&report), [Fate::Answered503], "{report}");
}

#[test]
fn a_request_that_is_read_while_the_cut_goes_by_is_answered_by_its_next_pass() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.used("/a");
    // The connection has to be parked. Otherwise the worker that still has it would find the next
    // request without claiming the connection.
    server.wait_silent(1);
    let held = server.test_points.hold(Point::ClaimedBeforeServed);
    client.send(&get("/b"));
    held.wait();
    // `other` comes later in the table, so when it has its 503 the cut has passed both.
    let mut other = server.enter_gate();
    server
        .running
        .handle()
        .begin_shutdown_within(Duration::ZERO);
    other.expect_status("503");
    held.release();
    let answer = std::thread::spawn(move || {
        client.expect_status("503");
        client.expect_end();
    });
    while !answer.is_finished() && server.running.handle().phase() < Phase::Stopped {
        server.clock.advance(Duration::from_millis(20));
        let _ = server
            .running
            .stopped()
            .recv_timeout(Duration::from_millis(1));
    }
    server.open.send(()).unwrap();
    drop(other);
    answer.join().unwrap();
    let report = server.stop();
    let mut fates = fates(&report);
    fates.sort_by_key(|fate| fate.is_cut());
    assert_eq!(fates, [Fate::NeverStarted, Fate::Answered503], "{report}");
}
