//! An idle server sleeps. This test has its own binary, because it counts what all threads of the
//! process do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use lameduck::{Context, Request};

use support::{
    Client, Gate, TestServer, builder, context_switches, eventually, get, get_last, millis,
    pass_time, server_threads,
};

const WINDOW: Duration = Duration::from_secs(2);

/// Returns how often the server's threads run in the window.
fn wake_ups_of_idle_server(what: &str) -> u64 {
    let threads = server_threads();
    let before = context_switches(&threads);
    pass_time(WINDOW);
    let wake_ups = context_switches(&threads) - before;
    println!(
        "{what}: {wake_ups} context switches of {} threads in {WINDOW:?}",
        threads.len()
    );
    wake_ups
}

#[test]
fn an_idle_server_makes_no_wake_ups() {
    // This server has the defaults, and not the tests' usual description.
    let gate = Gate::new();
    let at_gate = gate.clone();
    let server = TestServer::with(
        builder().workers(16),
        move |request: Request, _: Context| {
            if request.uri().path() == "/block" {
                at_gate.pass();
            }
            "hello"
        },
    );
    pass_time(millis(200));
    assert_eq!(wake_ups_of_idle_server("just started"), 0);

    let mut idle: Vec<_> = (0..100).map(|_| server.used_client("/")).collect();
    let mut blocked = server.block(&gate, "/block");
    pass_time(millis(200));
    assert_eq!(
        wake_ups_of_idle_server("with 100 idle connections and a blocked handler"),
        0
    );
    gate.open();
    assert_eq!(blocked.read_response().status, 200);

    let threads: Vec<_> = (0..4)
        .map(|part| {
            let addr = server.local_addr();
            std::thread::spawn(move || {
                for i in 0..500 {
                    let mut client = Client::connect(addr);
                    match (part + i) % 4 {
                        0 => assert_eq!(client.get("/").text(), "hello"),
                        1 => {
                            client.send(get_last("/"));
                            assert_eq!(client.read_response().text(), "hello");
                            client.expect_eof();
                        }
                        2 => {
                            client.send(&get("/")[..i % 20]);
                            client.reset();
                        }
                        _ => {
                            client.send(get("/").repeat(3));
                            client.half_close();
                            let (answers, _) = client.drain();
                            assert_eq!(
                                answers
                                    .windows(8)
                                    .filter(|window| window == b"HTTP/1.1")
                                    .count(),
                                3
                            );
                        }
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    eventually("only the idle connections are open", || {
        server.handle().stats().open == 101
    });
    pass_time(millis(200));
    assert_eq!(
        wake_ups_of_idle_server("right after 2,000 short connections"),
        0
    );
    assert_eq!(server.handle().stats().accepted, 2101);

    for client in &mut idle {
        assert_eq!(client.get("/").text(), "hello");
    }
    server.stop_cleanly();
}
