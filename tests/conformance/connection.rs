//! The life of a connection: RFC 9112 section 9, RFC 9110 section 7.6.

use lameduck::http::header::CONNECTION;
use lameduck::http::{HeaderValue, StatusCode};
use lameduck::{Body, Context, IntoResponse, Request};

use crate::support::{Delimited, Gate, LIMIT, TestServer, builder, millis};
use crate::{NEXT, Suite, post, request};

#[test]
fn http_1_1_connections_persist() {
    let suite = Suite::new();
    let mut client = suite.client();
    for _ in 0..200 {
        client.send(NEXT);
        let answer = client.read_response();
        assert_eq!((answer.status, answer.closes()), (200, false));
    }
    for fields in [
        "Connection: keep-alive\r\n",
        "Connection: Keep-Alive, foo\r\n",
        "Connection:\r\n",
        "Connection: closed\r\n",
        "Connection: \"close\"\r\n",
    ] {
        suite.accepted(request("GET /", fields));
    }
    suite.accepted(request(
        "GET /",
        "Keep-Alive: timeout=5, max=1\r\nProxy-Connection: close\r\n",
    ));
}

#[test]
fn a_client_that_asks_for_close_gets_close_and_nothing_more() {
    let suite = Suite::new();
    for value in [
        "close",
        "Close",
        "CLOSE",
        " close ",
        "close, foo",
        "foo, close",
        "foo,close,bar",
        "keep-alive, close",
        "close, keep-alive",
        ",close",
        "TE, close",
    ] {
        let answer = suite.closed(request("GET /", &format!("Connection: {value}\r\n")));
        assert_eq!(answer.status, 200, "{value}");
    }
    assert_eq!(
        suite
            .closed(request("GET /", "Connection: foo\r\nConnection: close\r\n"))
            .status,
        200
    );
    assert_eq!(
        suite
            .closed(request(
                "GET /",
                "Connection: close\r\nConnection: keep-alive\r\n"
            ))
            .status,
        200
    );
    assert_eq!(
        suite
            .closed(post("Connection: close\r\nContent-Length: 5\r\n", "hello"))
            .status,
        200
    );
    // Each request before the one that asks for the close is answered.
    let answers = suite.answers(NEXT.repeat(3) + &request("GET /", "Connection: close\r\n") + NEXT);
    assert_eq!(
        answers
            .iter()
            .map(|answer| answer.closes())
            .collect::<Vec<_>>(),
        [false, false, false, true]
    );
}

#[test]
fn http_1_0_closes_unless_it_asks_to_persist() {
    let suite = Suite::new();
    for fields in [
        "",
        "Connection: close\r\n",
        "Connection: keep-alive, close\r\n",
        "Connection: foo\r\n",
        "Keep-Alive: timeout=5\r\n",
        "Connection: keep-alive=1\r\n",
    ] {
        assert_eq!(
            suite
                .closed(format!("GET / HTTP/1.0\r\n{fields}\r\n"))
                .status,
            200,
            "{fields}"
        );
    }
    for fields in [
        "Connection: keep-alive\r\n",
        "Connection: Keep-Alive\r\n",
        "Connection: foo, KEEP-ALIVE\r\n",
        "Connection: foo\r\nConnection: keep-alive\r\n",
    ] {
        let answer = suite.accepted(format!("GET / HTTP/1.0\r\nHost: a\r\n{fields}\r\n"));
        assert_eq!(answer.field("connection"), Some("keep-alive"));
    }
}

#[test]
fn http_1_0_is_never_sent_chunks() {
    let suite = Suite::with(|request, _| crate::by_path(&request));
    for fields in ["", "Connection: keep-alive\r\n", "TE: trailers\r\n"] {
        for path in ["reader", "writer"] {
            let answer = suite.closed(format!("GET /200/{path} HTTP/1.0\r\n{fields}\r\n"));
            assert_eq!(answer.delimited, Delimited::ByClose, "{path}");
            assert_eq!(
                (answer.version.as_str(), answer.text()),
                ("HTTP/1.1", "0123456789"),
                "{path}"
            );
            assert_eq!(answer.field("transfer-encoding"), None);
        }
    }
}

#[test]
fn responses_come_in_the_order_of_the_requests() {
    let gate = Gate::new();
    let suite = Suite::gated(&gate);
    let mut client = suite.client();
    let lines = [
        "GET /1",
        "GET /slow",
        "POST /3",
        "DELETE /4",
        "OPTIONS *",
        "GET /6",
    ];
    client.send(lines.map(|line| request(line, "")).concat());
    gate.wait_entered(1);
    gate.open();
    for line in lines {
        assert!(client.read_response().text().starts_with(line), "{line}");
    }
}

#[test]
fn nothing_after_a_refused_request_is_taken_for_a_request() {
    let suite = Suite::new();
    for bad in [
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        request("GET /", "X : a\r\n"),
        post(
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
    ] {
        let answers = suite.answers(NEXT.repeat(2) + &bad + &NEXT.repeat(2));
        assert_eq!(
            answers
                .iter()
                .map(|answer| (answer.status, answer.closes()))
                .collect::<Vec<_>>(),
            [(200, false), (200, false), (400, true)]
        );
    }
}

#[test]
fn an_unread_body_is_read_to_its_end_or_the_connection_closes() {
    let suite = Suite::new();
    let smuggled = request("GET /smuggled", "");
    let fields = format!("Content-Length: {}\r\n", smuggled.len());
    let answer = suite.accepted(request("POST /unread", &fields) + &smuggled);
    assert_eq!(answer.text(), "unread");
    // This body is too long to be read and dropped.
    let answer = suite
        .closed(request("POST /unread", "Content-Length: 10000000\r\n") + &smuggled.repeat(3000));
    assert_eq!(answer.text(), "unread");
}

#[test]
fn a_handler_can_close_and_cannot_keep() {
    let suite = Suite::with(|request: Request, _: Context| {
        let value = request.uri().query().unwrap_or("none").replace('+', ", ");
        (
            [(CONNECTION, HeaderValue::from_str(&value).unwrap())],
            "bye",
        )
            .into_response()
    });
    for value in ["close", "CLOSE", "x+close", "keep-alive+close"] {
        let answer = suite.closed(request(&format!("GET /?{value}"), ""));
        assert_eq!(answer.field("connection"), Some("close"));
    }
    let answer = suite.closed(request("GET /?keep-alive", "Connection: close\r\n"));
    assert_eq!(answer.field("connection"), Some("close"));
}

#[test]
fn what_ends_with_the_connection_says_so() {
    let suite = Suite::with(|request, _| match request.uri().path() {
        "/panic" => panic!("on purpose"),
        _ => (StatusCode::OK, Body::reader(std::io::empty())).into_response(),
    });
    assert_eq!(suite.closed(request("GET /panic", "")).status, 500);
    assert_eq!(
        suite
            .closed("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .status,
        200
    );
    assert_eq!(suite.closed("quack\r\n\r\n").status, 400);
}

#[test]
fn a_head_that_is_cut_gets_503_without_a_body() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let description = builder()
        .workers(1)
        .grace_period(millis(50))
        .cut_grace(LIMIT);
    let server = TestServer::with(description, move |_: Request, _: Context| at_gate.pass());
    let mut client = server.client();
    client.send(request("HEAD /", ""));
    gate.wait_entered(1);
    server.handle().begin_shutdown();
    let answer = client.read_response_to_head();
    assert_eq!((answer.status, answer.closes()), (503, true));
    client.half_close();
    client.expect_eof();
    gate.open();
}
