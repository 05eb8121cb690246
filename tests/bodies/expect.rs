//! A client that waits for 100 gets it when its body is read, and gets a refusal instead if the
//! body is not read.

use lameduck::{Context, Request};

use super::support::{Gate, TestServer};
use super::{digest, read_all};

#[test]
fn a_client_that_expects_continue_is_told_when_the_handler_reads() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let server = TestServer::start(move |request: Request, cx: Context| {
        at_gate.pass();
        read_all(request, cx)
    });
    let mut client = server.client();
    for _ in 0..2 {
        let entered = gate.entered();
        client.send(
            "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        );
        gate.wait_entered(entered + 1);
        client.expect_nothing_yet();
        gate.release();
        assert_eq!(client.read_raw(25), b"HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello");
        let answer = client.read_response();
        assert_eq!((answer.status, answer.text()), (200, &*digest(b"hello")));
        assert!(!answer.closes());
    }
}

#[test]
fn a_client_that_expects_continue_gets_a_refusal_without_it() {
    let server = TestServer::start(|_: Request, _: Context| lameduck::http::StatusCode::FORBIDDEN);
    let mut client = server.client();
    client
        .send("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let answer = client.read_response();
    assert_eq!(answer.status, 403);
    if answer.closes() {
        client.expect_eof();
    } else {
        // RFC 9110 section 10.1.1: the client may still send the body, and then it has to be read.
        client.send("hello");
        assert_eq!(client.get("/").status, 403);
    }
}

#[test]
fn a_client_that_sends_the_body_without_waiting_is_answered_too() {
    let server = TestServer::start(read_all);
    let mut client = server.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    );
    let mut answer = client.read_response();
    if answer.status == 100 {
        answer = client.read_response();
    }
    assert_eq!(answer.text(), digest(b"hello"));
    assert_eq!(client.get("/").text(), digest(b""));
    // HTTP/1.0 does not know 100, so this client gets none.
    let mut old = server.client();
    old.send("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(old.read_response().text(), digest(b"hello"));
}
