//! A server that gets more than it can take says so, counts it, and does not grow.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(all(feature = "cli", target_os = "linux"))]

mod support;

use std::time::Duration;

use lameduck::report::CloseReason;
use lameduck::{Context, Request};

use support::child::Program;
use support::{Client, Gate, LIMIT, TestServer, builder, eventually, get, millis, pass_time};

#[test]
fn a_server_that_is_too_busy_says_when_to_come_back_and_counts_these_answers() {
    let gate = Gate::new();
    let waits = gate.clone();
    let server = TestServer::with(
        builder().workers(2).queue_timeout(millis(100)),
        move |request: Request, _: Context| {
            if request.uri().path().starts_with("/block") {
                waits.pass();
            }
            "hello"
        },
    );
    let mut blocked: Vec<_> = (0..2).map(|_| server.client()).collect();
    for (i, client) in blocked.iter_mut().enumerate() {
        client.send_get(&format!("/block-{i}"));
        gate.wait_entered(i + 1);
    }
    let mut turned_away: Vec<_> = (0..20).map(|_| server.client()).collect();
    turned_away
        .iter_mut()
        .for_each(|client| client.send_get("/"));
    for client in &mut turned_away {
        let answer = client.read_response();
        assert_eq!(
            (answer.status, answer.field("retry-after")),
            (503, Some("1"))
        );
    }
    drop(turned_away);
    eventually("they are counted", || {
        server.handle().stats().overloaded == 20
    });
    gate.open();
    blocked
        .iter_mut()
        .for_each(|client| assert_eq!(client.read_response().status, 200));
    drop(blocked);
    let report = server.stop();
    assert_eq!(
        report.closed_because(CloseReason::Overloaded),
        20,
        "{report}"
    );
    assert!(report.is_clean(), "a refusal in time is no loss: {report}");
    assert!(
        report
            .to_string()
            .contains("       20 closed after a 503: no worker was free in time"),
        "{report}"
    );
    assert!(
        report.to_json().contains("\"Overloaded\":20"),
        "{}",
        report.to_json()
    );
}

#[test]
fn a_client_that_pipelines_400_000_requests_does_not_grow_the_server() {
    const REQUESTS: usize = 400_000;
    // The growth has to leave room for the answers and requests that are held at one time, and for
    // the buffers of a worker. If each answer stayed in memory, it would be 60 MB; if each request
    // did, 15 MB.
    const GROWTH_MAX: u64 = 1 << 20;

    let program = Program::demo(&["--workers", "4"]);
    // After these requests, all that is allocated once is there.
    for _ in 0..8 {
        assert_eq!(program.client().get("/plaintext").status, 200);
    }
    let before = program.memory("VmRSS:");
    let mut client = program.client();
    let mut writer = client.second();
    let writing = std::thread::spawn(move || {
        let request = get("/plaintext");
        let batch = request.repeat(1000);
        for _ in 0..REQUESTS / 1000 {
            // The client does not read for a while, so that the kernel's buffers fill up.
            writer.try_send(&batch).unwrap();
        }
    });
    pass_time(Duration::from_secs(1));
    assert!(
        !writing.is_finished(),
        "the server has taken 400,000 requests whose answers nobody takes"
    );
    let blocked = program.memory("VmHWM:");
    let answer = client.read_response();
    assert_eq!(answer.text(), "Hello, World!");
    // All answers are equally long: they differ only in their Date.
    let len = answer_len(&program);
    let mut left = (REQUESTS - 1) * len;
    while left > 0 {
        let piece = left.min(1 << 20);
        let bytes = client.read_raw(piece);
        assert!(left != (REQUESTS - 1) * len || bytes.starts_with(b"HTTP/1.1 200 "));
        left -= piece;
    }
    writing.join().unwrap();
    client.half_close();
    client.expect_eof();
    let most = program.memory("VmHWM:");
    println!("resident: {before} before, at most {blocked} while nobody read, {most} in all");
    assert!(most <= before + GROWTH_MAX, "from {before} to {most} bytes");
}

/// Returns the length of the demo's shortest answer.
fn answer_len(program: &Program) -> usize {
    let mut client = program.client();
    client.send_get("/plaintext");
    client.half_close();
    let (bytes, _) = client.drain();
    bytes.len()
}

#[test]
fn connections_beyond_the_maximum_wait_and_are_all_served() {
    const CLIENTS: usize = 100;
    let gate = Gate::new();
    let waits = gate.clone();
    let description = builder().workers(4).max_connections(4).idle_grace(LIMIT);
    let server = TestServer::with(description, move |_: Request, _: Context| {
        waits.pass();
        "hello"
    });
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect();
    clients
        .iter_mut()
        .for_each(|client| client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    // All calls have one route, which is found to be slow, so one of the four workers is kept free.
    gate.wait_entered(3);
    assert_eq!(
        server.handle().stats().accepted,
        4,
        "as many as may be open"
    );
    gate.open();
    for mut client in clients {
        assert_eq!(client.read_response().text(), "hello");
    }
    let report = server.stop();
    assert_eq!(report.accepted, CLIENTS as u64, "{report}");
    assert_eq!(report.closed_because(CloseReason::Evicted), 0, "{report}");
    assert!(report.listeners.accept_paused > Duration::ZERO, "{report}");
    assert!(
        report
            .to_string()
            .contains("accepting paused for want of room: "),
        "{report}"
    );
    assert!(
        !report.to_json().contains("\"paused_ms\":0.000"),
        "{}",
        report.to_json()
    );
}
