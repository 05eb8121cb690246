//! A client that sends or takes nothing, or too little, loses its connection when its time is over,
//! and not before.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use super::fixture::{Build, Fixture, LIMIT, SECOND, get, wait_until};
use crate::lifecycle::ledger::CloseReason;
use crate::settings::IDLE_TIMEOUT;
use crate::sys::test_points::Point;

#[test]
fn a_client_that_never_speaks_is_closed_without_a_byte() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"");
    server.clock.advance(10 * SECOND);
    client.expect_end();
    assert_eq!(server.stop().closed_because(CloseReason::Silent), 1);
}

#[test]
fn half_a_head_is_answered_with_408() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"GET / HTT");
    server.clock.advance(10 * SECOND);
    let head = client.expect_status("408");
    assert!(head.contains("Connection: close"), "{head}");
    client.expect_end();
}

#[test]
fn a_head_that_trickles_does_not_get_more_time() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"GET / HTT");
    server.clock.advance(9 * SECOND);
    let held = server.test_points.hold(Point::InSlotBeforeParked);
    client.send(b"P");
    held.wait();
    held.release();
    server.clock.advance(SECOND);
    client.expect_status("408");
}

#[test]
fn an_idle_connection_is_closed_after_its_timeout_and_not_before() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.used("/a");
    server.clock.advance(IDLE_TIMEOUT - SECOND);
    client.send(&get("/b"));
    client.expect_body("/b");
    server.clock.advance(IDLE_TIMEOUT + SECOND);
    client.expect_end();
    assert_eq!(server.stop().closed_because(CloseReason::Idle), 1);
}

#[test]
fn a_body_that_stops_coming_is_answered_with_408() {
    let server = Fixture::new(|builder| builder.min_rate(0));
    let mut client =
        server.parked(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    server.clock.advance(29 * SECOND);
    server.clock.advance(SECOND);
    client.expect_status("408");
}

#[test]
fn a_body_below_the_least_rate_is_answered_with_408() {
    let server = Fixture::new(|builder| builder);
    let mut client =
        server.parked(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n12345");
    server.clock.advance(10 * SECOND);
    client.expect_status("408");
}

#[test]
fn a_peer_that_takes_nothing_is_reset_after_the_write_timeout() {
    let server = Fixture::new(|builder| builder.min_rate(0));
    let mut client = server.parked(&get("/big"));
    // Bytes that the kernel still passes on to the peer's buffer count as progress, and give the
    // peer more time.
    while server.running.handle().stats().open > 0 {
        server.clock.advance(30 * SECOND);
        let _ = server
            .running
            .stopped()
            .recv_timeout(Duration::from_millis(20));
    }
    // The client may still read bytes that were under way, or the RST destroys them.
    let mut taken = 0;
    let mut buffer = vec![0; 1 << 20];
    let ended = loop {
        match client.0.read(&mut buffer) {
            Ok(0) => break false,
            Ok(n) => taken += n,
            Err(error) => break error.kind() == ErrorKind::ConnectionReset,
        }
    };
    assert!(ended && taken < 32 << 20, "{taken} bytes, reset: {ended}");
    let report = server.stop();
    assert_eq!(report.closed_because(CloseReason::Stalled), 1, "{report}");
}

#[test]
fn a_peer_that_takes_less_than_the_least_rate_is_reset_however_long_it_may_be_silent() {
    for path in ["/big", "/pulled"] {
        let server = Fixture::new(|builder| builder.write_timeout(Duration::MAX));
        let mut client = server.parked(&get(path));
        let mut some = [0; 1000];
        // The client reads a hundred bytes for each second on the clock, which is not enough. The
        // kernel's buffers make them come in bursts.
        wait_until(|| {
            server.clock.advance(10 * SECOND);
            let _ = client.0.read(&mut some);
            server.running.handle().stats().open == 0
        });
        assert_eq!(
            server.stop().closed_because(CloseReason::Stalled),
            1,
            "{path}"
        );
    }
}

#[test]
fn a_closure_whose_peer_takes_too_little_gets_an_error() {
    // First a client that takes nothing, then one that takes less than the least rate.
    let builders: [Build; 2] = [
        |builder| builder.min_rate(0),
        |builder| builder.write_timeout(Duration::MAX),
    ];
    for build in builders {
        let server = Fixture::new(build);
        let mut client = server.connect();
        client.send(&get("/pushed"));
        wait_until(|| {
            server.clock.advance(10 * SECOND);
            !server.stalled.is_empty()
        });
        assert_eq!(
            server.stalled.recv_timeout(LIMIT).unwrap(),
            Some(ErrorKind::TimedOut)
        );
        assert_eq!(server.stop().closed_because(CloseReason::Failed), 1);
    }
}

#[test]
fn a_handler_whose_body_comes_too_slowly_gets_an_error() {
    let head = b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n12345";
    let builders: [(Build, u32); 2] = [
        (|builder| builder.min_rate(0), 30),
        (|builder| builder.body_timeout(Duration::MAX), 10),
    ];
    for (build, seconds) in builders {
        let server = Fixture::new(|builder| build(builder.collect_bytes(0)));
        let mut client = server.connect();
        client.send(head);
        server.entered.recv_timeout(LIMIT).unwrap();
        // A second before its time is over, the handler still waits.
        for _ in 1..seconds {
            server.clock.advance(SECOND);
            let _ = server
                .running
                .stopped()
                .recv_timeout(Duration::from_millis(3));
        }
        client.0.set_nonblocking(true).unwrap();
        assert_eq!(
            client.0.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        client.0.set_nonblocking(false).unwrap();
        wait_until(|| {
            server.clock.advance(SECOND);
            client.0.peek(&mut [0]).is_ok()
        });
        client.expect_body(&ErrorKind::TimedOut.to_string());
    }
}
