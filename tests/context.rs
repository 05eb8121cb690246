//! A handler's context: it shows the stop, the handler's own deadline, and that the client is gone.

mod support;

use std::time::Duration;

use crossbeam_channel::{bounded, select};
use lameduck::Context;
use lameduck::context::CancelReason;
use support::{LIMIT, TestServer, builder, get, now};

#[test]
fn a_client_that_resets_its_connection_ends_the_context_that_asked_for_it() {
    let (entered_sender, entered) = bounded(1);
    let (ended_sender, ended) = bounded(1);
    let server = TestServer::start(move |request: lameduck::Request, context: Context| {
        if request.uri().path() == "/warm" {
            return "warm";
        }
        let context = context.while_connected();
        entered_sender.send(()).unwrap();
        let slept = context.sleep(LIMIT);
        ended_sender
            .send((slept, context.reason(), context.is_draining()))
            .unwrap();
        "done"
    });
    for target in ["/first", "/again"] {
        let mut client = server.client();
        if target == "/again" {
            assert_eq!(client.get("/warm").text(), "warm");
        }
        client.send(get(target));
        entered.recv_timeout(LIMIT).unwrap();
        client.reset();
        assert_eq!(
            ended.recv_timeout(LIMIT),
            Ok((
                Err(CancelReason::ClientGone),
                Some(CancelReason::ClientGone),
                true
            )),
            "{target}"
        );
    }
    let _ = server.stop();
}

#[test]
fn a_client_that_has_only_finished_its_side_is_not_gone() {
    let (entered_sender, entered) = bounded(1);
    let (go_sender, go) = bounded::<()>(1);
    let server = TestServer::start(move |request: lameduck::Request, context: Context| {
        if request.uri().path() == "/other" {
            return String::new();
        }
        let context = context.while_connected();
        entered_sender.send(()).unwrap();
        select! {
            recv(context.cancelled()) -> _ => format!("{:?}", context.reason()),
            recv(go) -> _ => "still here".to_owned(),
        }
    });
    let mut client = server.client();
    client.send(get("/"));
    entered.recv_timeout(LIMIT).unwrap();
    client.half_close();
    // When the request of another client was served, the server's poller has also seen the end of
    // this client's side, which came first.
    assert_eq!(server.client().get("/other").status, 200);
    go_sender.send(()).unwrap();
    assert_eq!(client.read_response().text(), "still here");
    let _ = server.stop();
}

#[test]
fn a_timeout_ends_a_handlers_sleep_and_the_response_is_sent() {
    let server = TestServer::start(|_request: lameduck::Request, context: Context| {
        assert_eq!(context.deadline(), None);
        let query = context.with_timeout(Duration::from_millis(5));
        let began = now();
        assert!(query.sleep(LIMIT).is_err());
        assert!(query.deadline().unwrap() >= began && !context.is_cancelled());
        format!("{}", query.reason().unwrap())
    });
    assert_eq!(server.client().get("/").text(), "the deadline has passed");
    server.stop_cleanly();
}

#[test]
fn a_derived_context_ends_with_the_stop() {
    let (entered_sender, entered) = bounded(1);
    let (ended_sender, ended) = bounded(1);
    let server = TestServer::with(
        builder().cut_grace(Duration::ZERO),
        move |_request: lameduck::Request, context: Context| {
            let work = context.with_cancel().with_timeout(LIMIT);
            entered_sender.send(()).unwrap();
            let drained = work.draining().recv_timeout(LIMIT).is_err();
            let early = work.reason();
            let slept = work.sleep(LIMIT);
            ended_sender
                .send((drained, early, slept, work.reason()))
                .unwrap();
            "late"
        },
    );
    let mut client = server.client();
    client.send(get("/"));
    entered.recv_timeout(LIMIT).unwrap();
    let report = server.handle().shutdown_within(Duration::from_millis(50));
    assert_eq!(support::cut(&report).len(), 1, "{report}");
    assert_eq!(
        ended.recv_timeout(LIMIT),
        Ok((
            true,
            None,
            Err(CancelReason::Stopped),
            Some(CancelReason::Stopped)
        ))
    );
}
