//! An event for a connection is acted on once, whatever another thread does with the connection at
//! that moment.

use std::net::Shutdown;

use super::fixture::{Fixture, SECOND, get};
use crate::settings::IDLE_TIMEOUT;
use crate::sys::test_points::Point;

#[test]
fn bytes_that_come_between_put_and_park_are_not_missed() {
    let server = Fixture::new(|builder| builder);
    let (mut client, held) = server.about_to_park(&get("/a"));
    client.expect_body("/a");
    client.send(&get("/b"));
    held.release();
    client.expect_body("/b");
}

#[test]
fn an_end_that_comes_between_put_and_park_with_bytes_before_it_is_not_missed() {
    // There are two permits. One of the workers is held with its own, so another one sees the
    // events.
    let server = Fixture::new(|builder| builder.workers(3));
    let (mut client, held) = server.about_to_park(&get("/a"));
    client.expect_body("/a");
    let bytes = server.test_points.hold(Point::EventBeforeClaim);
    client.send(&get("/b"));
    bytes.wait();
    client.0.shutdown(Shutdown::Write).unwrap();
    let end = server.test_points.hold(Point::EventBeforeClaim);
    bytes.release();
    end.wait();
    let marked = server.test_points.hold(Point::AsleepBeforeQueuesChecked);
    end.release();
    marked.wait();
    marked.release();
    held.release();
    client.expect_body("/b");
    // No further event comes for the end. If it had no mark of its own, the connection would stay
    // open.
    client.expect_end();
}

#[test]
fn a_poller_about_to_sleep_sees_the_connection_that_comes() {
    let server = Fixture::new(|builder| builder.workers(1));
    drop(server.used("/a"));
    let held = server.test_points.hold(Point::AsleepBeforeQueuesChecked);
    // Any event makes the poller go round once.
    let mut first = server.connect();
    first.send(&get("/b"));
    held.wait();
    let mut second = server.connect();
    second.send(&get("/c"));
    held.release();
    first.expect_body("/b");
    second.expect_body("/c");
}

#[test]
fn an_event_for_a_connection_that_was_given_up_meanwhile_is_harmless() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"GET / HT");
    let held = server.test_points.hold(Point::EventBeforeClaim);
    client.send(b"T");
    held.wait();
    server.clock.advance(10 * SECOND);
    client.expect_status("408");
    held.release();
    let mut other = server.connect();
    other.send(&get("/other"));
    other.expect_body("/other");
}

#[test]
fn a_request_that_comes_with_its_deadline_is_served() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.used("/a");
    let held = server.test_points.hold(Point::OverdueBeforeClaim);
    server.clock.advance(IDLE_TIMEOUT);
    held.wait();
    client.send(&get("/b"));
    client.expect_body("/b");
    held.release();
    client.send(&get("/c"));
    client.expect_body("/c");
}

#[test]
fn a_request_whose_event_is_late_is_found_by_the_last_look() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.used("/a");
    let held = server.test_points.hold(Point::EventBeforeClaim);
    client.send(&get("/b"));
    held.wait();
    server.clock.advance(IDLE_TIMEOUT);
    client.expect_body("/b");
    held.release();
}
