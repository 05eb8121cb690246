//! After its FIN the server still reads, so that no RST destroys a response, but only for a certain
//! time and not at any rate.

use std::io::Write;
use std::time::Duration;

use super::fixture::{Fixture, SECOND};
use crate::lifecycle::ledger::CloseReason;

#[test]
fn a_body_that_no_handler_reads_is_waited_for_for_a_second() {
    let server = Fixture::new(|builder| builder.collect_bytes(0));
    let mut client =
        server.parked(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    client.expect_body("/unread");
    server.clock.advance(SECOND);
    client.expect_end();
    drop(client);
    assert_eq!(server.stop().closed_because(CloseReason::Refused), 1);
}

#[test]
fn a_client_that_sends_on_after_the_last_response_is_read_for_a_time_however_much_it_sends() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.expect_body("/last");
    // Where the client ends is a matter of time, and not of bytes.
    let piece = [b'x'; 100_000];
    for _ in 0..1000 {
        client.0.write_all(&piece).unwrap();
    }
    // It never pauses, so that no deadline of a parked connection ends it.
    server.clock.advance(30 * SECOND);
    while client.0.write_all(&piece).is_ok() {}
    assert_eq!(server.stop().closed_because(CloseReason::Asked), 1);
}

#[test]
#[cfg(target_os = "linux")]
fn a_silent_client_that_has_acknowledged_everything_is_waited_for_for_a_quarter_of_a_second() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.expect_body("/last");
    client.expect_end();
    // The client's kernel acknowledges our FIN within 40 ms of real time. The manual clock goes on
    // by at most seven quarters of a second, which is less than the two seconds that a client may
    // otherwise take.
    let is_closed = (0..7).any(|_| {
        server.clock.advance(SECOND / 4);
        let _ = server
            .running
            .stopped()
            .recv_timeout(Duration::from_millis(50));
        server.running.handle().stats().open == 0
    });
    assert!(is_closed);
}

#[test]
fn a_client_that_does_not_close_after_our_end_is_given_up() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.expect_body("/last");
    client.expect_end();
    assert_eq!(
        server.running.handle().stats().open,
        1,
        "the connection lingers"
    );
    server.clock.advance(2 * SECOND);
    assert_eq!(server.stop().closed_because(CloseReason::Asked), 1);
}

#[test]
fn a_refused_client_may_pause_before_it_sends_the_rest_of_its_body() {
    let server = Fixture::new(|builder| builder.head_timeout(SECOND));
    let mut refused =
        server.parked(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\nContent-Length: 5\r\n\r\n");
    refused.expect_status("417");
    refused.expect_end();
    // Without this option the client's kernel acknowledges our FIN 40 ms later.
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_quickack(&refused.0, true).unwrap();
    let mut half = server.parked(b"GET / HTT");
    server.clock.advance(SECOND);
    // The sweeper has looked at every connection whose time was over, and at `half` last.
    half.expect_status("408");
    assert_eq!(server.running.handle().stats().open, 2, "both linger");
    refused.send(b"he");
    refused.send(b"llo");
    assert_eq!(server.stop().closed_because(CloseReason::Refused), 2);
}
