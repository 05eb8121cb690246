//! A client that takes or sends a body slowly holds no worker, or only as many as may be held.

use super::support::{Client, End, LIMIT, TestServer, now, pattern};
use super::{BIG, assert_body, digest, of_each_kind, read_all};

#[test]
fn slow_readers_hold_no_worker() {
    let server = TestServer::start(of_each_kind);
    let mut slow = Vec::new();
    for path in [
        "/vec", "/bytes", "/reader", "/sized", "/file", "/reader", "/file", "/bytes",
    ] {
        let mut client = Client::connect_narrow(server.local_addr());
        client.send_get(path);
        assert_eq!(client.read_raw(17), b"HTTP/1.1 200 OK\r\n");
        slow.push(client);
    }
    let began = now();
    let mut normal = server.client();
    for _ in 0..100 {
        assert_body(&normal.get("/str"), "/str", 4);
        assert_body(&server.client().get("/str"), "/str", 4);
    }
    assert!(now() - began < LIMIT / 5);
    // All of each response comes, although no worker waited for its client.
    drain_together(slow);
    server.stop_cleanly();
}

#[test]
fn writers_with_slow_readers_hold_half_of_the_workers() {
    let server = TestServer::start(of_each_kind);
    let mut slow: Vec<_> = (0..8)
        .map(|_| Client::connect_narrow(server.local_addr()))
        .collect();
    // The first writer fills its lane, and the others wait.
    slow[0].send_get("/writer");
    assert_eq!(slow[0].read_raw(17), b"HTTP/1.1 200 OK\r\n");
    for client in &mut slow[1..] {
        client.send_get("/writer");
    }
    let mut normal = server.client();
    for _ in 0..100 {
        assert_body(&normal.get("/str"), "/str", 4);
        assert_body(&server.client().get("/str"), "/str", 4);
    }
    drain_together(slow);
}

#[test]
fn uploads_that_trickle_hold_no_worker_before_they_are_large() {
    let server = TestServer::start(read_all);
    let mut trickling: Vec<_> = (0..20).map(|_| server.client()).collect();
    for client in &mut trickling {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n");
        client.send(&pattern(100_000)[..50_000]);
    }
    // A large upload holds a worker, but only one of them does at a time.
    let mut large: Vec<_> = (0..4).map(|_| server.client()).collect();
    for client in &mut large {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n");
        client.send(&pattern(100_000)[..90_000]);
    }
    server.wait_accepted(24);
    let mut normal = server.client();
    for _ in 0..100 {
        assert_eq!(normal.get("/").text(), digest(b""));
    }
    for client in trickling.iter_mut().rev() {
        client.send(&pattern(100_000)[50_000..]);
    }
    for client in large.iter_mut().rev() {
        client.send(&pattern(100_000)[90_000..]);
    }
    for client in trickling.iter_mut().chain(&mut large) {
        assert_eq!(client.read_response().text(), digest(&pattern(100_000)));
    }
    server.stop_cleanly();
}

/// Checks that each client gets the rest of its response.
fn drain_together(clients: Vec<Client>) {
    let drain = |mut client: Client| {
        std::thread::spawn(move || {
            client.half_close();
            let (rest, end) = client.drain();
            assert_eq!(end, End::Eof);
            assert!(rest.len() > BIG, "{}", rest.len());
        })
    };
    let threads: Vec<_> = clients.into_iter().map(drain).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
