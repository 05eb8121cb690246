//! A permit that is revoked or passed on is neither lost nor doubled, and no call waits for a lane
//! that has room.

use std::sync::atomic::Ordering::Relaxed;

use super::fixture::{FAULT, Faulty, Fixture, LIMIT, get, wait_until};
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

#[test]
fn a_worker_that_computes_loses_its_permit_and_its_route_is_known_for_it() {
    let (compute, computing) = crossbeam_channel::bounded::<()>(0);
    let running = crate::Server::builder()
        .workers(16)
        .bind("127.0.0.1:0")
        .unwrap()
        .spawn(move |_: crate::Request, _: crate::Context| {
            while computing.try_recv() == Err(crossbeam_channel::TryRecvError::Empty) {}
            "done"
        })
        .unwrap();
    let pool = running.handle().pool().unwrap();
    let mut client = std::net::TcpStream::connect(running.local_addr()).unwrap();
    std::io::Write::write_all(&mut client, &get("/")).unwrap();
    wait_until(|| pool.revoked.load(Relaxed) == 1);
    assert!(!pool.latency.is_empty());
    compute.send(()).unwrap();
    drop(compute);
}

#[test]
fn a_panic_outside_of_user_code_loses_no_permit_no_room_and_no_slot() {
    let server = Fixture::new(|builder| builder.workers(16).transport(Faulty::transport));
    // Each round meets the fault on two workers.
    for _ in 0..7 {
        // The first request is a gate's, so the worker has lost its permit and has room when the
        // connection goes on and panics; the second client's worker has a permit.
        let mut slow = server.enter_gate();
        slow.send(FAULT);
        server.open.send(()).unwrap();
        slow.expect_body("/gate");
        slow.expect_end();
        let mut fast = server.connect();
        fast.send(FAULT);
        fast.expect_end();
        let mut client = server.connect();
        client.send(&get("/a"));
        client.expect_body("/a");
    }
    let pool = server.running.handle().pool().unwrap();
    wait_until(|| pool.slow.semaphore.is_free());
    drop(pool);
    let report = server.stop();
    let closed: u64 = report.closed.iter().map(|(_, n)| n).sum();
    assert_eq!(closed, report.accepted, "{report}");
}
