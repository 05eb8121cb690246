//! Responses: RFC 9112 sections 4 to 6, RFC 9110 sections 5.6.7, 6.6.1, 8.6, 9.3.2 and 15.

use std::time::{Duration, SystemTime};

use lameduck::http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderName, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use lameduck::http::{HeaderMap, HeaderValue, StatusCode};
use lameduck::{Body, Context, IntoResponse, Request};

use crate::support::Delimited;
use crate::{NEXT, Suite, by_path, request, seen, statuses};

#[test]
fn the_status_line_has_its_space_with_or_without_a_phrase() {
    let suite = Suite::with(|request, _| by_path(&request));
    for (status, line) in [
        (200, "HTTP/1.1 200 OK\r\n"),
        (404, "HTTP/1.1 404 Not Found\r\n"),
        (299, "HTTP/1.1 299 \r\n"),
        (599, "HTTP/1.1 599 \r\n"),
    ] {
        for version in ["1.1", "1.0"] {
            let mut client = suite.client();
            client.send(format!("GET /{status} HTTP/{version}\r\nHost: a\r\n\r\n"));
            assert_eq!(client.read_raw(line.len()), line.as_bytes());
        }
    }
}

#[test]
fn the_version_is_1_1_whatever_the_request_has() {
    let suite = Suite::new();
    for version in ["1.0", "1.1", "1.2", "1.9"] {
        let answers = suite.answers(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
        assert_eq!(answers[0].version, "HTTP/1.1");
    }
    for bad in [
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "?\r\n\r\n",
    ] {
        assert_eq!(suite.closed(bad).version, "HTTP/1.1");
    }
}

#[test]
fn every_response_has_one_date_in_the_preferred_format() {
    let suite = Suite::with(|request, _| {
        let mut response = by_path(&request);
        if request.uri().query() == Some("own") {
            response
                .headers_mut()
                .insert(DATE, HeaderValue::from_static("yesterday"));
        }
        response
    });
    let mut answers = Vec::new();
    for target in [
        "/200/bytes",
        "/200/reader",
        "/204",
        "/301",
        "/304",
        "/404",
        "/500",
        "/200/bytes?own",
    ] {
        let mut client = suite.client();
        client.send(request(&format!("GET {target}"), ""));
        answers.push(client.read_response());
        answers.push(client.head(target));
    }
    answers.push(suite.refused("GET / HTTP/1.1\r\n\r\n", 400));
    answers.push(suite.refused(request("CONNECT a:80", ""), 501));
    for answer in answers {
        let date = answer.field("date").unwrap();
        assert_eq!(date.len(), "Sun, 06 Nov 1994 08:49:37 GMT".len(), "{date}");
        let at = httpdate::parse_http_date(date).unwrap();
        assert_eq!(httpdate::fmt_http_date(at), date, "no other form of it");
        let now = SystemTime::now();
        let off = now
            .duration_since(at)
            .unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_secs(60), "{date}");
    }
}

#[test]
fn responses_without_a_body_have_no_framing() {
    let suite = Suite::with(|request, _| by_path(&request));
    for status in [204, 304] {
        for kind in ["none", "bytes", "sized", "reader", "writer"] {
            for method in ["GET", "HEAD", "POST"] {
                let mut client = suite.client();
                client.send(request(&format!("{method} /{status}/{kind}"), "") + NEXT);
                let answer = client.read_response();
                assert_eq!(
                    (answer.status, answer.delimited),
                    (status, Delimited::NoBody)
                );
                assert_eq!(answer.field("transfer-encoding"), None, "{status} {kind}");
                assert_eq!(answer.field("content-length"), None, "{status} {kind}");
                // No byte of a body comes before the next answer.
                assert_eq!(client.read_response().status, 200, "{status} {kind}");
            }
        }
    }
}

#[test]
fn a_205_has_an_empty_body() {
    let suite = Suite::with(|request, _| by_path(&request));
    for kind in ["none", "bytes", "sized", "reader", "writer"] {
        let mut client = suite.client();
        client.send(request(&format!("GET /205/{kind}"), "") + NEXT);
        let answer = client.read_response();
        assert_eq!(
            (
                answer.status,
                answer.field("content-length"),
                answer.body.len()
            ),
            (205, Some("0"), 0),
            "{kind}"
        );
        assert_eq!(client.read_response().status, 200, "{kind}");
        let head = client.head(&format!("/205/{kind}"));
        assert!(
            matches!(head.field("content-length"), None | Some("0")),
            "{kind}: {head:?}"
        );
    }
}

#[test]
fn a_304_may_say_the_length_of_what_it_does_not_send() {
    let suite = Suite::with(|_, _| {
        let length = [(CONTENT_LENGTH, HeaderValue::from_static("1234"))];
        (StatusCode::NOT_MODIFIED, (length, ())).into_response()
    });
    let mut client = suite.client();
    for _ in 0..2 {
        client.send(request("GET /", ""));
        let answer = client.read_response();
        assert_eq!(
            (answer.status, answer.field("content-length")),
            (304, Some("1234"))
        );
    }
}

#[test]
fn head_is_get_without_the_body() {
    let suite = Suite::with(|request, _| by_path(&request));
    for status in [200, 201, 404, 500] {
        for kind in ["none", "bytes", "sized", "reader", "writer"] {
            let target = format!("/{status}/{kind}");
            let mut client = suite.client();
            client.send(
                request(&format!("HEAD {target}"), "") + &request(&format!("GET {target}"), ""),
            );
            let (head, mut get) = (client.read_response_to_head(), client.read_response());
            // RFC 9110 section 9.3.2: a field may be left out whose value is only known when the
            // body is made.
            get.fields.retain(|(name, _)| {
                name != "transfer-encoding" && (kind != "none" || name != "content-length")
            });
            let fields = |answer: &crate::support::Answer| {
                let kept = |(name, _): &&(String, String)| {
                    name != "date" && (kind != "none" || name != "content-length")
                };
                answer
                    .fields
                    .iter()
                    .filter(kept)
                    .cloned()
                    .collect::<Vec<_>>()
            };
            assert_eq!(
                (head.status, fields(&head)),
                (get.status, fields(&get)),
                "{target}"
            );
        }
    }
}

#[test]
fn a_refused_head_has_no_body() {
    let suite = Suite::new();
    for input in [
        "HEAD / HTTP/1.1\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
        "HEAD / HTTP/2.0\r\nHost: a\r\n\r\n",
        "HEAD * HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nHEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ] {
        let mut client = suite.client();
        client.send(input);
        let answer = client.read_response_to_head();
        assert!(answer.status >= 400 && answer.closes(), "{input:?}");
        client.half_close();
        client.expect_eof();
    }
}

#[test]
fn a_known_length_is_declared_and_an_unknown_one_chunked() {
    let suite = Suite::with(|request, _| by_path(&request));
    for (kind, delimited) in [
        ("none", Delimited::Length),
        ("bytes", Delimited::Length),
        ("sized", Delimited::Length),
        ("reader", Delimited::Chunked),
        ("writer", Delimited::Chunked),
    ] {
        for status in [200, 404] {
            let mut client = suite.client();
            client.send(request(&format!("GET /{status}/{kind}"), ""));
            let answer = client.read_response();
            assert_eq!(answer.delimited, delimited, "{kind}");
            assert_eq!(
                answer.text(),
                if kind == "none" { "" } else { "0123456789" }
            );
        }
    }
}

#[test]
fn an_informational_status_is_not_a_final_answer() {
    for status in [100, 101, 102, 103, 199] {
        let suite = Suite::with(move |_, _| StatusCode::from_u16(status).unwrap().into_response());
        for version in ["1.1", "1.0"] {
            let answers = suite.answers(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
            assert_eq!(statuses(&answers), [500], "{status}");
        }
    }
}

#[test]
fn framing_fields_of_a_handler_are_normalised() {
    for (name, value) in [
        (TRANSFER_ENCODING, "chunked"),
        (TRANSFER_ENCODING, "gzip"),
        (TE, "trailers"),
        (TRAILER, "X"),
        (UPGRADE, "h2c"),
        (HeaderName::from_static("keep-alive"), "timeout=5"),
        (HeaderName::from_static("proxy-connection"), "keep-alive"),
        (CONTENT_LENGTH, "5"),
        (CONNECTION, "keep-alive"),
        (CONNECTION, "content-type"),
    ] {
        let own = name.clone();
        let suite = Suite::with(move |_, _| {
            ([(own.clone(), HeaderValue::from_static(value))], "hello").into_response()
        });
        let answers = suite.answers(request("GET /", "") + NEXT);
        assert_eq!(answers.len(), 2);
        for answer in answers {
            assert_eq!(
                (answer.text(), answer.field("content-length")),
                ("hello", Some("5")),
                "{name}"
            );
            assert!(
                name == CONTENT_LENGTH || answer.field(name.as_str()).is_none(),
                "{name}: {answer:?}"
            );
        }
    }
}

#[test]
fn a_length_that_is_not_the_bodys_is_500() {
    for lengths in [
        &["4"][..],
        &["6"],
        &["0"],
        &["+5"],
        &["-5"],
        &["x"],
        &[""],
        &["5, 5"],
        &["5", "6"],
        &["18446744073709551616"],
    ] {
        let suite = Suite::with(move |_, _| {
            let mut headers = HeaderMap::new();
            headers.extend(
                lengths
                    .iter()
                    .map(|length| (CONTENT_LENGTH, HeaderValue::from_static(length))),
            );
            for length in &lengths[1..] {
                headers.append(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            let mut response = lameduck::Response::new(Body::from("hello"));
            *response.headers_mut() = headers;
            response
        });
        let mut client = suite.client();
        client.send(request("GET /", ""));
        let answer = client.read_response();
        assert_eq!(answer.status, 500, "{lengths:?}");
        assert_eq!(
            answer.field("content-length").unwrap(),
            answer.body.len().to_string(),
            "{lengths:?}"
        );
    }
}

#[test]
fn fields_of_a_handler_go_out_as_they_are() {
    let suite = Suite::with(|_, _| {
        let mut response = "hello".into_response();
        for cookie in ["a=1", "b=2"] {
            response
                .headers_mut()
                .append(SET_COOKIE, HeaderValue::from_static(cookie));
        }
        response.headers_mut().insert(
            "x-bytes",
            HeaderValue::from_bytes(b"\x80\xff\t ,\"").unwrap(),
        );
        response
            .headers_mut()
            .insert("x-empty", HeaderValue::from_static(""));
        response
    });
    let mut client = suite.client();
    client.send(request("GET /", "Connection: close\r\n"));
    let (bytes, _) = client.drain();
    let head = bytes.escape_ascii().to_string();
    for line in [
        "\\r\\nset-cookie: a=1\\r\\n",
        "\\r\\nset-cookie: b=2\\r\\n",
        "\\r\\nx-bytes: \\x80\\xff\\t ,\\\"\\r\\n",
        "\\r\\nx-empty: \\r\\n",
    ] {
        assert_eq!(head.matches(line).count(), 1, "{line} in {head}");
    }
}

#[test]
fn a_refusal_says_why_in_plain_words() {
    let suite = Suite::new();
    for (input, status, word) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "Host"),
        (request("GET /", "X : a\r\n"), 400, "colon"),
        (
            request("POST /", "Content-Length: 1\r\nContent-Length: 1\r\n"),
            400,
            "Content-Length",
        ),
        (
            request("POST /", "Transfer-Encoding: gzip, chunked\r\n"),
            501,
            "coding",
        ),
        (request("GET /", "Expect: x\r\n"), 417, "100-continue"),
        ("GET / HTTP/3.0\r\n\r\n".to_owned(), 505, "1.1"),
        (
            request(&format!("GET /{}", "a".repeat(20_000)), ""),
            414,
            "long",
        ),
        (request("GET /", &"X: a\r\n".repeat(101)), 431, "fields"),
        (request("GET https://a/", ""), 421, "https"),
    ] {
        let answer = suite.refused(input, status);
        assert!(answer.text().contains(word), "{}", answer.text());
    }
}

#[test]
fn ranges_are_not_served_and_conditions_are_the_handlers() {
    let suite = Suite::new();
    for fields in [
        "Range: bytes=0-3\r\n",
        "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        "If-None-Match: *\r\n",
        "If-Match: *\r\n",
    ] {
        let seen = suite.accepted(request("GET /", fields));
        assert!(
            seen.text()
                .to_ascii_lowercase()
                .contains(&fields.trim_end().to_ascii_lowercase()),
            "{}",
            seen.text()
        );
        assert_eq!(seen.field("content-range"), None);
    }
}

#[test]
fn no_line_break_of_a_handler_gets_out() {
    // The types of `http` refuse line breaks, so there is no way to give one to the server.
    for bad in [
        "a\r\nX: b",
        "a\rb",
        "a\nb",
        "a\0b",
        "\r\n\r\nHTTP/1.1 200 OK",
        "a\x7f",
    ] {
        assert!(
            HeaderValue::from_str(bad).is_err() && HeaderValue::from_bytes(bad.as_bytes()).is_err(),
            "{bad:?}"
        );
    }
    for bad in ["a\r\n", "a:b", "a b", "", "a\0", "\u{e4}"] {
        assert!(HeaderName::from_bytes(bad.as_bytes()).is_err(), "{bad:?}");
    }
    // No line break gets out either when a handler reflects what the client sent.
    let suite = Suite::with(|request: Request, _: Context| {
        let value = HeaderValue::from_str(&request.uri().to_string()).unwrap();
        (
            [(HeaderName::from_static("x-reflected"), value)],
            seen(request),
        )
            .into_response()
    });
    for target in [
        "/%0d%0aX:%20b",
        "/?a=%0d%0a%0d%0aHTTP/1.1%20200%20OK",
        "/%00%7f",
    ] {
        let answer = suite.accepted(request(&format!("GET {target}"), ""));
        assert_eq!(answer.field("x-reflected"), Some(target));
        assert_eq!(answer.field("x"), None);
    }
}
