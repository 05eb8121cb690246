//! Clients that never close, go on talking or reset do not make a stop last, and cost nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::support::{
    Client, Gate, LIMIT, TestServer, builder, get, millis, now, pass_time, pattern, post,
};
use super::{app, patient};

#[test]
fn a_client_that_never_closes_after_our_end_is_not_waited_for_longer_than_the_linger() {
    for chatters in [false, true] {
        let gate = Gate::new();
        let server = TestServer::with(builder().workers(2).grace_period(LIMIT * 6), app(&gate));
        let mut idle = server.used_client("/");
        let mut client = server.block(&gate, "/block");
        server.begin_draining();
        idle.expect_eof();
        gate.open();
        assert!(client.read_response().closes());
        let chatter = Arc::new(AtomicBool::new(chatters));
        let threads = [&client, &idle].map(|client| {
            let (chatter, mut client) = (chatter.clone(), client.second());
            std::thread::spawn(move || {
                while chatter.load(SeqCst) && client.try_send("x").is_ok() {
                    pass_time(millis(20));
                }
            })
        });
        let began = now();
        let report = server.stop();
        let took = now() - began;
        chatter.store(false, SeqCst);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert!(took < millis(2000) + LIMIT / 5, "{chatters}: {took:?}");
        assert!(
            crate::support::cut(&report).is_empty() && report.stuck.is_empty(),
            "{report}"
        );
        let _ = (client.drain(), idle.drain());
    }
}

#[test]
fn clients_that_reset_in_any_state_while_it_drains_cost_nothing() {
    let gate = Gate::new();
    let server = TestServer::with(patient().workers(8).grace_period(LIMIT * 6), app(&gate));
    let fresh = server.client();
    let idle = server.used_client("/");
    let mut half_head = server.client();
    half_head.send("GET / HT");
    let mut half_body = server.client();
    half_body.send(&post("/body", &pattern(1_000))[..500]);
    let mut half_stream = server.client();
    half_stream.send(&post("/body", &pattern(300_000))[..200_000]);
    let in_handler = server.block(&gate, "/block");
    let mut pipelined = server.client();
    pipelined.send(["/1", "/2/block", "/3"].map(get).concat());
    gate.wait_entered(2);
    let mut in_response = Client::connect_narrow(server.local_addr());
    in_response.send_get("/big");
    assert_eq!(in_response.read_raw(8), b"HTTP/1.1");
    let mut lingering = server.client();
    let mut talks = server.client();
    server.wait_accepted(10);
    server.begin_draining();
    lingering.send_get("/last");
    assert!(lingering.read_response().closes());
    let clients = [
        fresh,
        idle,
        half_head,
        half_body,
        half_stream,
        in_handler,
        pipelined,
        in_response,
        lingering,
    ];
    clients.into_iter().for_each(Client::reset);
    assert_eq!(talks.get("/still").text(), "/still");
    gate.open();
    let report = server.stop();
    assert!(report.took < LIMIT / 2, "{report}");
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        report.closed.iter().map(|(_, n)| n).sum::<u64>(),
        10,
        "{report}"
    );
}
