//! A connection that has a dedicated thread is told of a stop and is cut like any other, and is
//! counted once.

use std::io::Read;
use std::net::Shutdown;
use std::time::Duration;

use super::fixture::{Fixture, SECOND, fates, get};
use crate::lifecycle::ledger::CloseReason;
use crate::lifecycle::report::Report;
use crate::lifecycle::unanswered::Fate;
use crate::settings::IDLE_TIMEOUT;
use crate::sys::test_points::Point;

#[test]
fn an_upgrade_let_through_just_before_the_drain_is_told_of_it_and_waited_for() {
    for point in [Point::DedicatedBeforeThread, Point::DedicatedBeforeRun] {
        let server = Fixture::new(|builder| builder);
        let (mut client, held) = server.held_at(point, UPGRADE);
        server.begin_draining();
        held.release();
        client.expect_status("101");
        let mut bye = [0; 3];
        client.0.read_exact(&mut bye).unwrap();
        assert_eq!(&bye, b"bye");
        assert!(
            server
                .running
                .stopped()
                .try_recv()
                .is_err_and(|error| error.is_empty()),
            "the stop waits for the upgraded connection"
        );
        client.0.shutdown(Shutdown::Write).unwrap();
        client.expect_end();
        let report = server.stop();
        assert_eq!(
            (
                report.upgraded.told,
                report.upgraded.finished,
                report.upgraded.cut
            ),
            (1, 1, 0),
            "{report}"
        );
        assert_each_is_counted_once(&report);
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn a_connection_cut_before_its_thread_has_begun_gets_503_and_not_a_byte_more() {
    let stream = &get("/stream")[..];
    for (point, request) in [
        (Point::DedicatedBeforeThread, UPGRADE),
        (Point::DedicatedBeforeThread, stream),
        (Point::DedicatedBeforeRun, UPGRADE),
        (Point::DedicatedBeforeRun, stream),
    ] {
        let server = Fixture::new(|builder| builder);
        let (mut client, held) = server.held_at(point, request);
        server
            .running
            .handle()
            .begin_shutdown_within(Duration::ZERO);
        client.expect_status("503");
        // The connection comes back to the pool, which waits for the client's end: an RST could
        // destroy the 503 on its way.
        let put = server.test_points.hold(Point::InSlotBeforeParked);
        held.release();
        put.wait();
        put.release();
        assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
        drop(client);
        let report = server.stop();
        assert_eq!(fates(&report), [Fate::Answered503], "{report}");
        assert_eq!(report.upgraded.told, 0, "{report}");
        assert_each_is_counted_once(&report);
    }
}

#[test]
fn a_connection_whose_thread_ends_while_the_stop_cuts_is_closed_and_counted_once() {
    // The thread ends before the cut, or after even the cut grace, when no thread of the pool looks
    // at connections any more.
    for late in [false, true] {
        let server = Fixture::new(|builder| builder);
        let ended = server.test_points.hold(Point::DedicatedBeforeGivenBack);
        let (cutting, joining) = (
            server.test_points.hold(Point::CuttingBeforeTakeOver),
            server.test_points.hold(Point::TimeOverBeforeJoin),
        );
        let mut client = server.connect();
        client.send(&get("/stream"));
        ended.wait();
        server
            .running
            .handle()
            .begin_shutdown_within(Duration::ZERO);
        cutting.wait();
        let put = server.test_points.hold(Point::InSlotBeforeParked);
        if late {
            cutting.release();
            server.clock.advance(10 * SECOND);
            joining.wait();
            ended.release();
            put.wait();
            put.release();
        } else {
            ended.release();
            put.wait();
            put.release();
            cutting.release();
        }
        drop(joining);
        client.expect_stream();
        let report = server.stop();
        assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
        assert_each_is_counted_once(&report);
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn a_peer_that_is_gone_before_its_thread_begins_is_counted_once() {
    for point in [Point::DedicatedBeforeThread, Point::DedicatedBeforeRun] {
        let server = Fixture::new(|builder| builder);
        let (client, held) = server.held_at(point, UPGRADE);
        rustix::net::sockopt::set_socket_linger(&client.0, Some(Duration::ZERO)).unwrap();
        drop(client);
        server.begin_draining();
        held.release();
        let report = server.stop();
        assert_each_is_counted_once(&report);
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn a_deadline_that_passes_while_a_thread_has_the_connection_does_not_end_it_and_the_next_one_does()
{
    let server = Fixture::new(|builder| builder);
    // The connection is parked once, so that it has a deadline.
    let mut client = server.used("/a");
    server.wait_silent(1);
    let begun = server.test_points.hold(Point::DedicatedBeforeRun);
    client.send(&get("/stream"));
    begun.wait();
    let overdue = server.test_points.hold(Point::OverdueBeforeClaim);
    server.clock.advance(IDLE_TIMEOUT + SECOND);
    overdue.wait();
    begun.release();
    client.expect_stream();
    overdue.release();
    client.send(&get("/b"));
    client.expect_body("/b");
    server.wait_silent(1);
    server.clock.advance(IDLE_TIMEOUT + SECOND);
    client.expect_end();
    assert_eq!(server.stop().closed_because(CloseReason::Idle), 1);
}

const UPGRADE: &[u8] =
    b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n";

#[track_caller]
fn assert_each_is_counted_once(report: &Report) {
    let closed: u64 = report.closed.iter().map(|(_, n)| n).sum();
    assert_eq!(closed, report.accepted, "{report:?}");
}
