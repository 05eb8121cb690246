//! `Expect: 100-continue`, early answers while a body still comes, and `Upgrade`: RFC 9110 sections
//! 7.8, 10.1.1 and 15.2.

use lameduck::http::StatusCode;
use lameduck::{Context, IntoResponse, Request};

use crate::support::{Client, Gate, TestServer, builder, pattern};
use crate::{NEXT, Suite, answers, post, request, seen, statuses};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[test]
fn a_client_that_expects_100_gets_it_before_the_body_and_then_the_answer() {
    let suite = Suite::new();
    for expectation in [
        "100-continue",
        "100-Continue",
        "100-CONTINUE",
        "100-continue,",
        "100-continue\r\nExpect: 100-continue",
    ] {
        let mut client = suite.client();
        for (framing, body) in [
            ("Content-Length: 5", "hello"),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ] {
            client.send(post(&format!("Expect: {expectation}\r\n{framing}\r\n"), ""));
            assert_eq!(client.read_raw(CONTINUE.len()), CONTINUE, "{expectation}");
            client.send(body);
            let answer = client.read_response();
            assert_eq!(answer.status, 200);
            assert!(answer.text().contains("body hello\n"), "{}", answer.text());
            assert!(!answer.closes());
        }
    }
}

#[test]
fn a_final_status_takes_the_place_of_100_and_says_that_the_connection_closes() {
    let suite = Suite::with(|_, _| StatusCode::FORBIDDEN.into_response());
    for framing in [
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 100000000000\r\n",
    ] {
        let mut client = suite.client();
        client.send(post(&format!("Expect: 100-continue\r\n{framing}"), ""));
        let answer = client.read_response();
        assert_eq!(answer.status, 403);
        assert!(answer.closes());
        client.expect_eof();
    }
}

#[test]
fn what_is_wrong_with_a_request_is_said_in_place_of_100() {
    let suite = Suite::new();
    for (input, status) in [
        (
            "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: x\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
        ),
    ] {
        suite.refused(input, status);
    }
}

#[test]
fn no_100_is_sent_when_the_body_is_here_already() {
    let suite = Suite::new();
    suite.accepted(post(
        "Expect: 100-continue\r\nContent-Length: 5\r\n",
        "hello",
    ));
    suite.accepted(post(
        "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
    ));
}

#[test]
fn an_expectation_without_a_body_is_met() {
    let suite = Suite::new();
    for fields in [
        "Expect: 100-continue\r\n",
        "Expect: 100-continue\r\nContent-Length: 0\r\n",
        "Expect:\r\n",
    ] {
        suite.accepted(request("GET /", fields));
        suite.accepted(post(fields, ""));
    }
}

#[test]
fn http_1_0_is_never_sent_100() {
    let suite = Suite::new();
    for expectation in ["100-continue", "miracle"] {
        let head = format!("POST / HTTP/1.0\r\nExpect: {expectation}\r\nContent-Length: 5\r\n\r\n");
        // The body comes when the server has had the head for as long as it takes to answer another
        // client.
        let mut client = suite.client();
        client.send(&head);
        suite.accepted(request("GET /", ""));
        client.expect_nothing_yet();
        client.send("hello");
        let answer = client.read_response();
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains("body hello\n"));
        assert_eq!(suite.closed(head + "hello").status, 200);
    }
}

#[test]
fn an_unknown_expectation_is_417() {
    let suite = Suite::new();
    for expectation in [
        "miracle",
        "100-continue, miracle",
        "miracle\r\nExpect: 100-continue",
        "100",
        "100-continue=1",
        "100-continue;a=b",
        "101-continue",
    ] {
        suite.refused(
            post(
                &format!("Expect: {expectation}\r\nContent-Length: 5\r\n"),
                "hello",
            ),
            417,
        );
        suite.refused(request("GET /", &format!("Expect: {expectation}\r\n")), 417);
    }
}

#[test]
fn an_early_answer_is_readable_after_a_hundred_megabytes_were_sent() {
    const PIECES: usize = 100;
    fn check<S: std::io::Read + std::io::Write>(mut client: Client<S>) {
        let piece = vec![b'x'; 1 << 20];
        let length = format!("Content-Length: {}\r\n", PIECES << 20);
        client.send(request("POST /", &length));
        for _ in 0..PIECES {
            client.send(&piece);
        }
        assert_eq!(client.read_response().status, 413);
    }
    let too_much = |_: Request, _: Context| StatusCode::PAYLOAD_TOO_LARGE;
    let path = std::env::temp_dir().join(format!("lameduck-early-{}", std::process::id()));
    let addrs = ["127.0.0.1:0".to_owned(), format!("unix:{}", path.display())];
    let running = builder().bind(addrs).unwrap().spawn(too_much).unwrap();
    check(Client::connect(running.local_addr()));
    check(Client::connect_unix(&path));
    assert!(running.handle().shutdown().is_clean());
}

#[test]
fn an_early_answer_is_readable_after_ten_megabytes_were_sent() {
    // The handler or the server answers without reading the body, in place of 100 if the client
    // waits for that.
    let suite = Suite::with(|request: Request, _: Context| match request.uri().path() {
        "/413" => (StatusCode::PAYLOAD_TOO_LARGE, "too much\n").into_response(),
        "/400" => (StatusCode::BAD_REQUEST, "not like this\n").into_response(),
        "/200" => "seen enough\n".into_response(),
        _ => seen(request),
    });
    let big = pattern(10 << 20);
    for (path, expectation, status) in [
        ("/413", "", 413),
        ("/400", "", 400),
        ("/200", "", 200),
        ("/413", "Expect: 100-continue\r\n", 413),
        ("/", "Expect: miracle\r\n", 417),
    ] {
        for chunks in [false, true] {
            let mut client = suite.client();
            let framing = if chunks {
                "Transfer-Encoding: chunked\r\n".into()
            } else {
                format!("Content-Length: {}\r\n", big.len())
            };
            client.send(request(
                &format!("POST {path}"),
                &(expectation.to_owned() + &framing),
            ));
            if chunks {
                for piece in big.chunks(64 << 10) {
                    client.send(format!("{:x}\r\n", piece.len()));
                    client.send(piece);
                    client.send("\r\n");
                }
                client.send("0\r\n\r\n");
            } else {
                client.send(&big);
            }
            let answer = client.read_response();
            assert_eq!(answer.status, status, "{path} {expectation}");
            assert!(
                chunks || answer.closes(),
                "{path} {expectation}: {answer:?}"
            );
            client.half_close();
            client.expect_eof();
        }
    }
}

#[test]
fn an_early_answer_comes_before_the_body_does() {
    let suite = Suite::with(|_, _| (StatusCode::PAYLOAD_TOO_LARGE, "too much\n").into_response());
    let mut client = suite.client();
    client.send(post("Content-Length: 10485760\r\n", &"a".repeat(100_000)));
    let answer = client.read_response();
    assert_eq!((answer.status, answer.text()), (413, "too much\n"));
    assert!(answer.closes());
    // The server still takes the rest for a while.
    client.send([0; 100_000]);
    client.half_close();
    client.expect_eof();
}

#[test]
fn an_upgrade_that_no_handler_accepts_is_ignored() {
    let suite = Suite::new();
    for fields in [
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0, HTTP/2.0\r\n",
        "Connection: Upgrade\r\nUpgrade: HTTP/1.1\r\n",
    ] {
        for line in ["GET /", "POST /"] {
            let answer = suite.accepted(request(line, fields));
            assert_eq!(answer.field("upgrade"), None);
        }
        let answers = suite.answers(format!("GET / HTTP/1.0\r\n{fields}\r\n"));
        assert_eq!(statuses(&answers), [200]);
    }
    // A body that comes with such a request is read as its body.
    suite.accepted(post(
        "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n",
        "hello",
    ));
}

#[test]
fn half_closed_clients_get_all_their_answers() {
    let gate = Gate::new();
    let suite = Suite::gated(&gate);
    let mut client = suite.client();
    client.send(
        [
            request("GET /first", ""),
            request("GET /slow", ""),
            post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ]
        .concat()
            + NEXT,
    );
    client.half_close();
    // All answers but the first one are made long after the client has finished its side.
    gate.wait_entered(1);
    assert!(client.read_response().text().starts_with("GET /first"));
    gate.open();
    for line in ["GET /slow", "POST /", "GET /next"] {
        assert!(client.read_response().text().starts_with(line));
    }
    client.expect_eof();
}

#[test]
fn a_half_closed_client_gets_a_response_of_many_pieces() {
    let server = TestServer::start(|_: Request, _: Context| {
        lameduck::Body::sized_reader(std::io::repeat(b'x'), 5 << 20)
    });
    let answers = answers(&mut server.client(), request("GET /", "").as_bytes());
    assert_eq!(
        answers
            .iter()
            .map(|answer| answer.body.len())
            .collect::<Vec<_>>(),
        [5 << 20]
    );
}
