//! Requests to `lameduck demo` as the suites send them that people run against servers.

use crate::support::child::Program;
use crate::support::{Client, LIMIT, get};
use crate::{METHODS, NEXT, answers, request};

/// Returns the statuses of all answers to `input`.
#[track_caller]
fn statuses(demo: &Program, input: impl AsRef<[u8]>) -> Vec<u16> {
    crate::statuses(&answers(&mut demo.client(), input.as_ref()))
}

#[test]
fn an_incomplete_head_is_waited_for() {
    let demo = Program::demo(&[]);
    let head = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut clients: Vec<Client> = (1..head.len())
        .map(|len| {
            let mut client = demo.client();
            client.send(&head[..len]);
            client
        })
        .collect();
    // The server has dealt with these inputs when the last of many later requests has its answer.
    for _ in 0..50 {
        assert_eq!(demo.client().get("/plaintext").status, 200);
    }
    for (client, len) in clients.iter_mut().zip(1..) {
        client.expect_nothing_yet();
        client.send(&head[len..]);
        assert_eq!(
            client.read_response().status,
            200,
            "the first {len} bytes alone"
        );
    }
}

#[test]
fn sound_requests_are_served() {
    let demo = Program::demo(&[]);
    for input in [
        "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nhoSt:\texample.com\r\nempty:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: example.com\r\nX-Empty-Header: \r\n\r\n",
        "GET / HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "GET /plaintext HTTP/1.2\r\nHost: example.com\r\n\r\n",
        "\r\nGET /plaintext HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "GET /plaintext HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello",
        "GET /plaintext HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        assert_eq!(
            statuses(&demo, input.to_owned() + &get("/plaintext")),
            [200, 200],
            "{input:?}"
        );
    }
}

#[test]
fn unsound_requests_are_refused() {
    let demo = Program::demo(&[]);
    for (input, status) in [
        ("GET / \r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nHost: example.com\r\nX-Invalid[]: test\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nHost: example.com\r\nHost: example.org\r\n\r\n",
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: example.com\r\nContent-Length: -123456789123456789123456789\r\n\r\n",
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: example.com\r\nContent-Length: -1234\r\n\r\n",
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: example.com\r\nContent-Length: abc\r\n\r\n",
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: example.com\r\nX-Bad-Control-Char: test\x07\r\n\r\n",
            400,
        ),
        ("GET / HTTP/9.9\r\nHost: example.com\r\n\r\n", 505),
        ("Extra lineGET / HTTP/1.1\r\nHost: example.com\r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nHost: example.com\r\n\rSome-Header: Test\r\n\r\n",
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        (
            "CONNECT example.com:80 HTTP/1.1\r\nHost: example.com\r\n\r\n",
            501,
        ),
        (
            "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: gzip\r\n\r\n",
            400,
        ),
        (
            "GET https://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
            421,
        ),
        (
            "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 10\r\n\r\nhello",
            400,
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            400,
        ),
    ] {
        let incomplete = input.ends_with("hello") || input.ends_with("hello\r\n");
        let next = if incomplete { "" } else { NEXT };
        assert_eq!(
            statuses(&demo, input.to_owned() + next),
            [status],
            "{input:?}"
        );
    }
}

#[test]
fn methods_are_served_not_allowed_or_not_implemented() {
    let demo = Program::demo(&[]);
    for method in METHODS.iter().filter(|method| *method != "HEAD") {
        let expected = match method.as_str() {
            "GET" | "OPTIONS" => 200,
            _ => 405,
        };
        let answers = answers(
            &mut demo.client(),
            request(&format!("{method} /plaintext"), "").as_bytes(),
        );
        assert_eq!(answers[0].status, expected, "{method}");
        assert_eq!(
            answers[0].field("allow").is_some(),
            method != "GET",
            "{method}"
        );
    }
    assert_eq!(
        demo.client().head("/plaintext").field("content-length"),
        Some("13")
    );
    for method in ["QUACK", "get", "Get", "PROPFIND", "M-SEARCH"] {
        assert_eq!(
            statuses(&demo, request(&format!("{method} /plaintext"), "")),
            [501],
            "{method}"
        );
    }
    assert_eq!(
        statuses(
            &demo,
            request(&format!("{} /plaintext", "M".repeat(20_000)), "")
        ),
        [501]
    );
}

#[test]
fn statuses_come_with_the_fields_they_must_have() {
    let demo = Program::demo(&[]);
    for (status, name) in [
        (401, "www-authenticate"),
        (405, "allow"),
        (407, "proxy-authenticate"),
        (426, "upgrade"),
    ] {
        let answer = demo.client().get(&format!("/status?code={status}"));
        assert_eq!(answer.status, status);
        assert!(answer.field(name).is_some(), "{answer:?}");
    }
    let upgrade = demo.client().get("/status?code=426");
    assert_eq!(upgrade.field("connection"), Some("upgrade"));
}

#[test]
fn an_echo_with_100_continue_is_complete() {
    let demo = Program::demo(&[]);
    let mut client = demo.client();
    client.send(
        "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    assert_eq!(
        client.read_raw(25),
        b"HTTP/1.1 100 Continue\r\n\r\n",
        "within {LIMIT:?}"
    );
    client.send("hello");
    assert_eq!(client.read_response().text(), "hello");
}
