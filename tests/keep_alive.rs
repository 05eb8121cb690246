//! Many requests on one connection are answered in order, however their bytes are cut, for as long
//! as both sides keep the connection.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use lameduck::http::header::{CONNECTION, HeaderName, HeaderValue};
use lameduck::http::{StatusCode, Version};
use lameduck::report::CloseReason;
use lameduck::{Body, Context, IntoResponse, Request, Response};

use support::{
    Delimited, LIMIT, TestServer, builder, eventually, get, now, pattern, post, post_chunked,
};

/// Answers with the method, the target and the body.
fn echo(request: Request, _: Context) -> String {
    let (parts, mut body) = request.into_parts();
    let mut text = String::new();
    body.read_to_string(&mut text).unwrap();
    format!("{} {} {text}", parts.method, parts.uri)
}

#[test]
fn a_thousand_requests_in_one_write_are_answered_in_order() {
    for workers in [1, 2, 16] {
        let server = TestServer::with(builder().workers(workers), echo);
        let mut client = server.client();
        client.send((0..1000).map(|i| get(&format!("/{i}"))).collect::<String>());
        for i in 0..1000 {
            assert_eq!(client.read_response().text(), format!("GET /{i} "));
        }
        let mixed = (0..1000).flat_map(|i| match i % 3 {
            0 => get(&format!("/{i}")).into_bytes(),
            1 => post(&format!("/{i}"), b"length"),
            _ => post_chunked(&format!("/{i}"), &[b"in ", b"chunks"]),
        });
        client.send(mixed.collect::<Vec<_>>());
        for i in 0..1000 {
            let rest = ["GET /# ", "POST /# length", "POST /# in chunks"][i % 3]
                .replace('#', &i.to_string());
            assert_eq!(client.read_response().text(), rest);
        }
        server.stop_cleanly();
    }
}

#[test]
fn pipelined_requests_to_slow_and_fast_handlers_are_answered_in_order() {
    let server = TestServer::with(builder().workers(2), |request: Request, _: Context| {
        let path = request.uri().path();
        if path.starts_with("/slow/") {
            support::pass_time(support::millis(2));
        }
        path.to_owned()
    });
    let mut clients: Vec<_> = (0..8).map(|_| server.client()).collect();
    let path = |i| {
        if i % 5 == 3 {
            format!("/slow/{i}")
        } else {
            format!("/{i}")
        }
    };
    for client in &mut clients {
        client.send((0..60).map(|i| get(&path(i))).collect::<String>());
    }
    for client in &mut clients {
        for i in 0..60 {
            assert_eq!(client.read_response().text(), path(i));
        }
    }
}

#[test]
fn requests_may_be_cut_at_each_byte() {
    // The only worker looks first at what was sent first, so the fence shows that it has read the
    // bytes before.
    for collect in [64 << 10, 0] {
        let server = TestServer::with(builder().workers(1).collect_bytes(collect), echo);
        let requests = [
            get("/1").into_bytes(),
            post("/2", b"two"),
            post_chunked("/3", &[b"th", b"ree"]),
            get("/4").into(),
        ];
        let bytes = requests.concat();
        let mut fence = server.client();
        let mut client = server.client();
        for cut in 1..bytes.len() {
            client.send(&bytes[..cut]);
            // Without collecting, the only worker waits for the body, and cannot answer the fence.
            if collect > 0 {
                assert_eq!(fence.get("/fence").text(), "GET /fence ");
            }
            client.send(&bytes[cut..]);
            for text in ["GET /1 ", "POST /2 two", "POST /3 three", "GET /4 "] {
                assert_eq!(
                    client.read_response().text(),
                    text,
                    "cut at {cut}, collecting {collect}"
                );
            }
        }
        for byte in &bytes {
            client.send([*byte]);
            if collect > 0 {
                assert_eq!(fence.get("/fence").status, 200);
            }
        }
        for text in ["GET /1 ", "POST /2 two", "POST /3 three", "GET /4 "] {
            assert_eq!(client.read_response().text(), text, "byte by byte");
        }
        server.stop_cleanly();
    }
}

#[test]
fn http_1_0_closes_unless_it_asks_to_keep_the_connection() {
    let server = TestServer::start(echo);
    let mut client = server.client();
    for _ in 0..3 {
        client.send("GET /kept HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        let answer = client.read_response();
        assert_eq!(answer.text(), "GET /kept ");
        assert_eq!(answer.field("connection"), Some("keep-alive"));
        assert_eq!(answer.version, "HTTP/1.1");
    }
    client.send("GET /last HTTP/1.0\r\n\r\nGET /never HTTP/1.0\r\n\r\n");
    let answer = client.read_response();
    assert_eq!(answer.text(), "GET /last ");
    assert!(answer.closes());
    client.expect_eof();
}

#[test]
fn http_1_1_keeps_the_connection_unless_told_to_close() {
    let server = TestServer::start(echo);
    let mut client = server.client();
    for _ in 0..3 {
        let answer = client.get("/kept");
        assert_eq!(answer.field("connection"), None);
    }
    for value in ["close", "Close", "foo, close", "keep-alive, close"] {
        let mut client = server.client();
        client.send(
            format!("GET / HTTP/1.1\r\nHost: test\r\nConnection: {value}\r\n\r\n") + &get("/never"),
        );
        let answer = client.read_response();
        assert!(answer.closes(), "{value}");
        assert_eq!(answer.text(), "GET / ");
        client.expect_eof();
    }
    let report = server.stop();
    assert_eq!(report.closed_because(CloseReason::Asked), 4, "{report}");
}

#[test]
fn a_handler_can_close_the_connection() {
    let server = TestServer::start(|request: Request, _: Context| {
        let value = request.uri().query().unwrap_or("close").replace('+', ", ");
        (
            [(CONNECTION, HeaderValue::from_str(&value).unwrap())],
            "bye",
        )
    });
    for query in ["", "?close", "?CLOSE", "?x-hop+close"] {
        let mut client = server.client();
        client.send(get(&format!("/{query}")) + &get("/never"));
        let answer = client.read_response();
        assert!(answer.closes(), "{query}");
        assert_eq!(answer.text(), "bye");
        client.expect_eof();
    }
    let mut client = server.client();
    assert!(!client.get("/?keep-alive").closes());
    assert!(!client.get("/?closed").closes());
    eventually("all are counted", || server.handle().stats().answered == 6);
}

#[test]
fn responses_that_have_no_body_do_not_get_one() {
    let server = TestServer::start(|request: Request, _: Context| -> Response {
        let mut parts = request.uri().path().split('/').skip(1);
        let status = StatusCode::from_bytes(parts.next().unwrap().as_bytes()).unwrap();
        let body = match parts.next() {
            Some("text") => Body::from("a body that is not to be sent"),
            Some("reader") => Body::reader(std::io::repeat(b'x')),
            Some("writer") => Body::writer(|_| panic!("nobody needs it")),
            _ => Body::empty(),
        };
        (status, body).into_response()
    });
    let mut client = server.client();
    for status in [204, 304] {
        for body in ["none", "text", "reader", "writer"] {
            let answer = client.get(&format!("/{status}/{body}"));
            assert_eq!(answer.status, status);
            assert_eq!(answer.field("transfer-encoding"), None, "{status} {body}");
            assert!(
                status == 304 || answer.field("content-length").is_none(),
                "{status} {body}"
            );
            assert!(!answer.closes(), "{status} {body}");
        }
        let bodies = ["text", "none", "reader", "writer", "text"];
        client.send(
            bodies
                .map(|body| get(&format!("/{status}/{body}")))
                .concat(),
        );
        for _ in bodies {
            assert_eq!(client.read_response().status, status);
        }
    }
    for body in ["text", "reader", "writer"] {
        assert_eq!(client.head(&format!("/200/{body}")).status, 200);
    }
    assert_eq!(
        client.get("/200/text").text(),
        "a body that is not to be sent"
    );
    // Zero bytes are a body too.
    assert_eq!(client.get("/200/none").field("content-length"), Some("0"));
    assert_eq!(client.get("/404").field("content-length"), Some("0"));
}

#[test]
fn an_informational_status_of_the_handler_is_not_sent_as_the_answer() {
    let server = TestServer::start(|_: Request, _: Context| StatusCode::CONTINUE);
    assert_eq!(server.client().get("/").status, 500);
}

#[test]
fn an_endless_pipeline_does_not_hold_up_another_connection() {
    let server = TestServer::with(builder().workers(1), echo);
    let (stop, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut writer = server.client();
    let mut reader = writer.second();
    let writing = {
        let (stop, sent) = (stop.clone(), sent.clone());
        std::thread::spawn(move || {
            let batch = get("/endless").repeat(500);
            while !stop.load(SeqCst) {
                writer.send(&batch);
                sent.fetch_add(500, SeqCst);
            }
            writer.half_close();
        })
    };
    let reading = std::thread::spawn(move || {
        let mut read = 0_u64;
        while let Ok(answer) = reader.try_read(false) {
            assert_eq!(answer.text(), "GET /endless ");
            read += 1;
        }
        read
    });
    eventually("the pipeline is full", || sent.load(SeqCst) > 5_000);
    let began = now();
    let mut known = server.client();
    for _ in 0..20 {
        assert_eq!(known.get("/known").text(), "GET /known ");
        assert_eq!(server.client().get("/new").text(), "GET /new ");
    }
    let took = now() - began;
    println!("40 requests beside an endless pipeline on one worker: {took:?}");
    assert!(took < LIMIT / 3, "{took:?}");
    stop.store(true, SeqCst);
    writing.join().unwrap();
    assert_eq!(reading.join().unwrap(), sent.load(SeqCst));
    server.stop_cleanly();
}

#[test]
fn a_pipeline_whose_client_does_not_read_is_answered_when_it_does() {
    let server = TestServer::with(builder().workers(1), |_: Request, _: Context| {
        "x".repeat(2000)
    });
    let mut writer = server.client();
    let mut reader = writer.second();
    let writing = std::thread::spawn(move || {
        for _ in 0..40 {
            writer.send(get("/").repeat(500));
        }
        writer
    });
    // No other client waits for the pipeline.
    let mut other = server.client();
    for _ in 0..50 {
        assert_eq!(other.get("/").body.len(), 2000);
    }
    for _ in 0..20_000 {
        assert_eq!(reader.read_response().body.len(), 2000);
    }
    drop(writing.join().unwrap());
    server.stop_cleanly();
}

#[test]
fn a_malformed_request_is_refused_after_the_answers_to_those_before_it() {
    let server = TestServer::start(echo);
    let mut client = server.client();
    client.send(get("/1") + &get("/2") + "GET / HTTP/1.1\r\nbad field\r\n\r\n" + &get("/never"));
    assert_eq!(client.read_response().text(), "GET /1 ");
    assert_eq!(client.read_response().text(), "GET /2 ");
    let answer = client.read_response();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.delimited, Delimited::Length);
    assert!(answer.closes());
    client.expect_eof();
    assert_eq!(server.client().get("/").status, 200);
}

#[test]
fn an_empty_line_before_a_request_is_ignored() {
    let server = TestServer::start(echo);
    let mut client = server.client();
    // Some clients send an empty line after a body (RFC 9112 section 2.2).
    client.send([&post("/1", b"one")[..], b"\r\n", get("/2").as_bytes()].concat());
    assert_eq!(client.read_response().text(), "POST /1 one");
    assert_eq!(client.read_response().text(), "GET /2 ");
    client.send("\r\n");
    assert_eq!(client.get("/3").text(), "GET /3 ");
}

#[test]
fn a_handler_sees_the_request_as_it_was_sent() {
    let server = TestServer::start(|request: Request, cx: Context| {
        assert_eq!(request.version(), Version::HTTP_11);
        assert_eq!(request.headers()[HeaderName::from_static("x-own")], "a, b");
        assert_eq!(cx.local_addr().unwrap().ip(), cx.peer_addr().unwrap().ip());
        format!(
            "{} {} {}",
            request.method(),
            request.uri(),
            cx.peer_addr().unwrap()
        )
    });
    let mut client = server.client();
    client.send("BREW /pot%20a?x=1&y=%2F HTTP/1.1\r\nHost: test\r\nX-Own:\ta, b \r\n\r\n");
    assert_eq!(
        client.read_response().text(),
        format!("BREW /pot%20a?x=1&y=%2F {}", client.local_addr())
    );
}

#[test]
fn a_body_is_not_mixed_up_with_those_of_other_connections() {
    let server = TestServer::with(builder().workers(4), |request: Request, _: Context| {
        request.into_body()
    });
    let threads: Vec<_> = (0..8_usize)
        .map(|of| {
            let mut client = server.client();
            std::thread::spawn(move || {
                for i in 0..50 {
                    let body: Vec<_> = pattern(20_000 + i * 13)
                        .iter()
                        .map(|byte| byte ^ of as u8)
                        .collect();
                    client.send(post("/", &body));
                    client.send(post_chunked("/", &[&body[..i], &body[i..]]));
                    assert!(client.read_response().body == body);
                    assert!(client.read_response().body == body);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    server.stop_cleanly();
}
