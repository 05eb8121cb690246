//! When accept(2) fails, the acceptor makes room, waits, or goes on, depending on the error. It
//! never spins and never ends.

use std::time::Duration;

use rustix::io::Errno;

use super::fixture::{Fixture, SECOND, get};
use super::{assert_served, idle_clients};
use crate::lifecycle::ledger::CloseReason;

#[test]
fn without_descriptors_the_end_of_a_connection_is_enough() {
    let server = Fixture::new(|builder| builder);
    let gate = server.enter_gate();
    server.test_points.fail_accept(Errno::MFILE, 1);
    let mut new = server.connect();
    new.send(&get("/new"));
    server.wait_paused(0);
    // The clock stands still: only the end of a connection can wake the acceptor.
    server.open.send(()).unwrap();
    drop(gate);
    new.expect_body("/new");
}

#[test]
fn without_descriptors_the_longest_idle_one_makes_room_however_short_that_is() {
    for error in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
        let server = Fixture::new(|builder| builder);
        let mut idle = idle_clients(&server, 2, Duration::ZERO);
        server.test_points.fail_accept(error, 1);
        let _new = assert_served(&server);
        idle[0].expect_end();
        idle[1].send(&get("/b"));
        idle[1].expect_body("/b");
        assert_eq!(
            server.stop().closed_because(CloseReason::Evicted),
            1,
            "{error}"
        );
    }
}

#[test]
fn a_descriptor_that_another_thread_has_taken_costs_one_connection_and_not_all() {
    let server = Fixture::new(|builder| builder);
    let _idle = idle_clients(&server, 3, Duration::ZERO);
    server.test_points.fail_accept(Errno::MFILE, 2);
    let mut new = server.connect();
    new.send(&get("/new"));
    server.wait_paused(0);
    server.clock.advance(SECOND);
    new.expect_body("/new");
    assert_eq!(server.stop().closed_because(CloseReason::Evicted), 1);
}

#[test]
fn without_descriptors_and_idle_connections_the_server_waits_and_does_not_spin() {
    let server = Fixture::new(|builder| builder);
    server.test_points.fail_accept(Errno::MFILE, 3);
    let mut new = server.connect();
    new.send(&get("/new"));
    // The acceptor tries once for each step of the clock, and not in between.
    for left in (0..3).rev() {
        server.wait_paused(left);
        let _ = server
            .running
            .stopped()
            .recv_timeout(Duration::from_millis(20));
        assert_eq!(server.test_points.accept_errors_left(), left);
        server.clock.advance(SECOND / 10);
    }
    new.expect_body("/new");
    let report = server.stop();
    assert_eq!(report.listeners.accept_paused, 3 * SECOND / 10, "{report}");
}

#[test]
fn a_connection_that_is_gone_before_it_is_accepted_holds_up_no_other_one() {
    let errors = [Errno::CONNABORTED, Errno::PROTO, Errno::INTR];
    #[cfg(target_os = "linux")]
    let errors = [
        &errors[..],
        &[Errno::PERM, Errno::HOSTUNREACH, Errno::NETDOWN],
    ]
    .concat();
    for error in errors {
        let server = Fixture::new(|builder| builder);
        let _idle = server.used("/a");
        server.wait_silent(1);
        server.test_points.fail_accept(error, 100);
        let _new = assert_served(&server);
        let report = server.stop();
        assert_eq!(
            (
                report.closed_because(CloseReason::Evicted),
                report.listeners.accept_paused
            ),
            (0, Duration::ZERO),
            "{error}"
        );
    }
}

#[test]
fn a_listener_that_always_fails_does_not_make_the_acceptor_spin() {
    for (error, times) in [(Errno::CONNABORTED, 1025), (Errno::INVAL, 1)] {
        // Each error has its own server, because the end of a connection would have the acceptor
        // try again at once.
        let server = Fixture::new(|builder| builder);
        server.test_points.fail_accept(error, 2 * times);
        let mut new = server.connect();
        new.send(&get("/new"));
        for left in [times, 0] {
            server.wait_paused(left);
            server.clock.advance(SECOND / 10);
        }
        new.expect_body("/new");
    }
}
