//! A request that comes when the server has ended its connection is named in the report, which says
//! whether the client could know.

use super::app;
use super::support::{Gate, LIMIT, TestServer, builder, get, hello, millis, post};
use lameduck::ServerHandle;
use lameduck::report::Fate;
use std::time::Duration;

#[test]
fn a_request_that_crosses_the_end_of_its_idle_connection_is_named() {
    // The server waits 300 ms for such a request. On a machine that stands still for so long the
    // request comes too late.
    let mut attempts = 0;
    loop {
        let server = TestServer::with(builder().workers(2).idle_grace(millis(50)), hello);
        let mut client = server.used_client("/");
        let local = client.local_addr();
        server.handle().begin_shutdown();
        client.expect_eof();
        let _ = client.try_send([get("/raced?a=b"), get("/second")].concat());
        let report = server.stop();
        attempts += 1;
        if crate::support::raced(&report).is_empty() && attempts < 10 {
            continue;
        }
        let [first, second] = &crate::support::raced(&report)[..] else {
            panic!("after {attempts} attempts: {report}")
        };
        assert_eq!(
            (first.method.as_str(), first.target.to_string().as_str()),
            ("GET", "/raced?a=b")
        );
        assert_eq!(second.target.path(), "/second");
        for raced in [first, second] {
            assert_eq!(
                (raced.peer, raced.fate),
                (Some(local), Fate::Raced),
                "{raced:?}"
            );
        }
        assert_eq!(
            (report.is_clean(), report.exit_code()),
            (false, 1),
            "{report}"
        );
        assert!(
            report.summary().contains("2 requests raced"),
            "{}",
            report.summary()
        );
        return;
    }
}

#[test]
fn a_request_after_an_answer_that_said_close_is_named_and_the_client_knew() {
    let gate = Gate::new();
    let server = TestServer::start(app(&gate));
    let mut client = server.block(&gate, "/block");
    server.begin_draining();
    gate.open();
    assert!(client.read_response().closes());
    // The server lingers for at least 250 ms, which is time enough for this request.
    client.send(post("/behind", b"five!"));
    let report = server.stop();
    let [raced] = &crate::support::raced(&report)[..] else {
        panic!("{report}")
    };
    assert_eq!(
        (raced.method.as_str(), raced.target.path(), raced.fate),
        ("POST", "/behind", Fate::AfterClose)
    );
    assert_eq!(
        (report.is_clean(), report.exit_code()),
        (true, 0),
        "{report}"
    );
}

#[test]
fn a_request_that_crosses_the_cut_of_an_idle_connection_is_named() {
    let stops: [fn(&ServerHandle); 2] = [
        |handle| handle.begin_shutdown_within(millis(20)),
        // As a second signal does.
        |handle| handle.begin_shutdown_within(Duration::ZERO),
    ];
    for stop in stops {
        let server = TestServer::with(builder().workers(2).idle_grace(LIMIT), hello);
        let mut used = server.used_client("/");
        let mut fresh = server.client();
        stop(&server.handle());
        for (client, target) in [(&mut used, "/used"), (&mut fresh, "/fresh")] {
            client.expect_eof();
            client.send_get(target);
        }
        let report = server.stop();
        let mut raced: Vec<_> = report
            .unanswered
            .iter()
            .map(|request| (request.target.path(), request.fate))
            .collect();
        raced.sort_by_key(|(target, _)| *target);
        assert_eq!(
            raced,
            [("/fresh", Fate::Raced), ("/used", Fate::Raced)],
            "{report}"
        );
    }
}
