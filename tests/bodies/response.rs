//! A response of each kind arrives complete, and every client can tell where it ends.

use lameduck::http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use lameduck::{Context, Request};

use super::support::{Client, Delimited, TestServer, builder, get, pattern, post, post_chunked};
use super::{KINDS, SMALLER, assert_body, big, of_each_kind};

#[test]
fn a_response_of_each_kind_arrives_complete() {
    let server = TestServer::start(of_each_kind);
    let mut client = server.client();
    for (path, is_sized, len) in KINDS {
        let answer = client.get(path);
        assert_body(&answer, path, len);
        assert_eq!(
            answer.delimited,
            if is_sized {
                Delimited::Length
            } else {
                Delimited::Chunked
            },
            "{path}"
        );
        assert!(!answer.closes(), "{path}");
        assert!(answer.field("date").is_some(), "{path}");
    }
    // All requests are sent at once, and answered one after the other.
    let smaller = KINDS.iter().filter(|(path, ..)| *path != "/file");
    client.send(
        smaller
            .clone()
            .map(|(path, ..)| get(&format!("{path}?smaller")))
            .collect::<String>(),
    );
    for (path, _, len) in smaller {
        assert_body(&client.read_response(), path, (*len).min(SMALLER));
    }
    server.stop_cleanly();
}

#[test]
fn head_of_each_kind_has_no_body_and_the_length_that_get_would_have() {
    let server = TestServer::start(of_each_kind);
    let mut client = server.client();
    for (path, is_sized, len) in KINDS {
        let answer = client.head(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.closes(), "{path}");
        if let Some(declared) = answer.field("content-length") {
            assert!(is_sized, "{path}");
            assert_eq!(declared, len.to_string(), "{path}");
        }
        assert!(
            !is_sized || len == 0 || answer.field("content-length").is_some(),
            "{path}"
        );
    }
    assert_body(&client.get("/str"), "/str", 4);
    server.stop_cleanly();
}

#[test]
fn http_1_0_gets_each_kind_without_chunks() {
    let server = TestServer::start(of_each_kind);
    for (path, is_sized, len) in KINDS {
        for keep in [false, true] {
            let mut client = server.client();
            let asks = if keep {
                "Connection: keep-alive\r\n"
            } else {
                ""
            };
            client.send(format!("GET {path}?smaller HTTP/1.0\r\n{asks}\r\n"));
            let answer = client.read_response();
            assert_body(
                &answer,
                path,
                if path == "/file" {
                    len
                } else {
                    len.min(SMALLER)
                },
            );
            assert_eq!(
                answer.delimited,
                if is_sized {
                    Delimited::Length
                } else {
                    Delimited::ByClose
                },
                "{path}"
            );
            if keep && is_sized {
                assert_eq!(answer.field("connection"), Some("keep-alive"), "{path}");
                client.send("GET /str HTTP/1.0\r\n\r\n");
                assert_body(&client.read_response(), "/str", 4);
            }
            client.expect_eof();
        }
    }
    server.stop_cleanly();
}

#[test]
fn http_1_0_head_of_each_kind_has_no_body() {
    let server = TestServer::start(of_each_kind);
    for (path, ..) in KINDS {
        let mut client = server.client();
        client.send(format!("HEAD {path} HTTP/1.0\r\n\r\n"));
        assert_eq!(client.read_response_to_head().status, 200, "{path}");
        client.expect_eof();
    }
}

#[test]
fn a_wrong_length_of_the_handler_becomes_500() {
    let server = TestServer::start(|request: Request, _: Context| {
        let value = HeaderValue::from_str(request.uri().query().unwrap_or("5")).unwrap();
        ([(CONTENT_LENGTH, value)], "hello")
    });
    let mut client = server.client();
    for query in ["4", "6", "0", "x", "-5", "+5", "18446744073709551621"] {
        let answer = client.get(&format!("/?{query}"));
        assert_eq!(answer.status, 500, "{query}");
        if answer.closes() {
            client.expect_eof();
            client = server.client();
        }
        assert_eq!(client.get("/?5").text(), "hello");
    }
}

#[test]
fn framing_fields_of_the_handler_are_not_sent() {
    let server = TestServer::start(|_: Request, _: Context| {
        let field = |name, value| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        let fields = [
            field("transfer-encoding", "chunked"),
            field("connection", "keep-alive, x-hop"),
            field("keep-alive", "timeout=5"),
            field("date", "never"),
            field("x-own", "kept"),
        ];
        (fields, "hello")
    });
    let mut client = server.client();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!(
            (answer.text(), answer.delimited),
            ("hello", Delimited::Length)
        );
        assert_eq!(
            (answer.field("x-own"), answer.field("keep-alive")),
            (Some("kept"), None)
        );
        assert_ne!(answer.field("date"), Some("never"));
    }
}

#[test]
fn a_request_body_can_be_the_response_body() {
    for collect in [64 << 10, 0] {
        let server = TestServer::with(
            builder().workers(2).collect_bytes(collect),
            |request: Request, _: Context| request.into_body(),
        );
        let mut client = server.client();
        for len in [0, 5, 100_000] {
            let body = pattern(len);
            client.send(post("/", &body));
            let answer = client.read_response();
            assert!(
                answer.body == body,
                "{len} bytes, collecting {collect}: {} {}",
                answer.status,
                answer.body.len()
            );
            client.send(post_chunked("/", &[&body]));
            assert!(
                client.read_response().body == body,
                "{len} bytes chunked, collecting {collect}"
            );
        }
        // The body does not fit into the buffers between the two, so the client has to read while
        // it writes.
        let addr = server.local_addr();
        let mut echo = Client::connect(addr);
        let (mut reader, writer) = (
            echo.second(),
            std::thread::spawn(move || echo.send(post("/", big()))),
        );
        assert!(reader.read_response().body == big());
        writer.join().unwrap();
        let mut continued = server.client();
        continued.send(
            "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        );
        assert_eq!(continued.read_response().status, 100);
        continued.send("hello");
        assert_eq!(continued.read_response().text(), "hello");
        server.stop_cleanly();
    }
}
