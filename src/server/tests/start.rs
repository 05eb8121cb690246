//! A server that cannot be started leaves nothing behind, and nobody waits for it for ever.

use std::time::Duration;

use crate::conn::message::Request;
use crate::error::Error;
use crate::lifecycle::context::Context;
use crate::lifecycle::phase::StopCause;
use crate::server::Server;
use crate::sys::test_points::TestPoints;

#[test]
fn whichever_thread_cannot_be_started_nothing_is_left_and_the_handle_says_so() {
    // Two workers, the monitor, the threads of the hooks and the signals, and the acceptor.
    for started in 0..6 {
        let test_points = TestPoints::default();
        test_points.fail_spawn_after(started);
        let bound = Server::builder()
            .workers(2)
            .test_points(&test_points)
            .on_signals([crate::SIGHUP])
            .on_stopped("is never due", || panic!("the server has not run"))
            .bind("127.0.0.1:0")
            .unwrap();
        let (handle, addr) = (bound.handle(), bound.local_addr());
        let error = bound.spawn(|_: Request, _: Context| "hello").unwrap_err();
        assert!(matches!(error, Error::Start { .. }), "{error:?}");
        // The threads have ended, and with them went the last reference to the pool.
        assert!(handle.pool().is_none(), "after {started} threads");
        let report = handle.shutdown();
        assert_eq!(report.cause, StopCause::NotStarted);
        assert!(report.took == Duration::ZERO);
        // The port is free again.
        drop(Server::builder().bind(addr).unwrap());
    }
}

#[test]
fn hooks_run_although_no_thread_can_be_started_at_the_stop() {
    let test_points = TestPoints::default();
    let (ran, order) = crossbeam_channel::unbounded();
    let hook = |name: &'static str| {
        let ran = ran.clone();
        move || ran.send(name).unwrap()
    };
    let running = Server::builder()
        .workers(2)
        .test_points(&test_points)
        .on_shutdown("tells the balancer", hook("tells"))
        .on_shutdown("flushes", hook("flushes"))
        .on_stopped("closes the database", hook("closes"))
        .bind("127.0.0.1:0")
        .unwrap()
        .spawn(|_: Request, _: Context| "hello")
        .unwrap();
    test_points.fail_spawn_after(0);
    let report = running.handle().shutdown();
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        order.try_iter().collect::<Vec<_>>(),
        ["tells", "flushes", "closes"]
    );
}
