//! A permit that is revoked or passed on is neither lost nor doubled, and no call waits for a lane
//! that has room.

use super::fixture::{Fixture, LIMIT, get};
use crate::sys::test_points::Point;

#[test]
fn a_handler_that_returns_while_its_permit_is_revoked_keeps_the_count() {
    for _ in 0..20 {
        let server = Fixture::new(|builder| builder.workers(2));
        let revoking = server.test_points.hold(Point::SlowBeforeRevoked);
        let mut client = server.enter_gate();
        revoking.wait();
        let returned = server.test_points.hold(Point::ReturnedBeforePermitChecked);
        server.open.send(()).unwrap();
        returned.wait();
        returned.release();
        client.expect_body("/gate");
        revoking.release();
        for _ in 0..10 {
            let mut client = server.connect();
            client.send(&get("/a"));
            client.expect_body("/a");
        }
        // If a permit had been lost or gained, one of these two requests would hang or be refused.
        let gates: Vec<_> = (0..2).map(|_| server.connect()).collect();
        for mut gate in gates {
            gate.send(&get("/gate"));
            server.entered.recv_timeout(LIMIT).unwrap();
            server.open.send(()).unwrap();
            gate.expect_body("/gate");
        }
    }
}

#[test]
fn a_permit_on_its_way_holds_up_no_connection_for_good() {
    let server = Fixture::new(|builder| builder.workers(2));
    let giving = server.test_points.hold(Point::PermitFreeBeforePassedOn);
    let mut gate = server.enter_gate();
    giving.wait();
    let mut other = server.connect();
    other.send(&get("/a"));
    giving.release();
    other.expect_body("/a");
    server.open.send(()).unwrap();
    gate.expect_body("/gate");
}

#[test]
fn room_in_a_lane_that_comes_free_while_a_call_goes_to_wait_is_not_missed() {
    let server = Fixture::new(|builder| builder.workers(2));
    // The first call is found to be slow, so the second one needs the lane of slow handlers, which
    // has room for one.
    let revoked = server.test_points.hold(Point::PermitFreeBeforePassedOn);
    let mut first = server.enter_gate();
    revoked.wait();
    revoked.release();
    let held = server.test_points.hold(Point::LaneFullBeforeQueued);
    let mut second = server.connect();
    second.send(&get("/gate"));
    held.wait();
    server.open.send(()).unwrap();
    first.expect_body("/gate");
    held.release();
    server.entered.recv_timeout(LIMIT).unwrap();
    server.open.send(()).unwrap();
    second.expect_body("/gate");
}
