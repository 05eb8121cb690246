//! Whatever a handler sets, its response is one response.

use lameduck::http::header::{CONTENT_LENGTH, HeaderName};
use lameduck::http::{HeaderValue, Response as HttpResponse, StatusCode};
use lameduck::{Body, IntoResponse};

use super::Victim;
use super::support::{End, get};

// gunicorn CVE-2018-1000164, hyper RUSTSEC-2017-0002, Node CVE-2016-2216: line breaks in a field
// that a handler sets went out.
#[test]
fn no_handler_can_split_a_response() {
    for text in [
        "a\r\nX-Evil: b",
        "a\nX-Evil: b",
        "a\rX-Evil: b",
        "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "a\0b",
    ] {
        assert!(
            HeaderValue::from_str(text).is_err()
                && HeaderValue::from_bytes(text.as_bytes()).is_err(),
            "{text:?}"
        );
        assert!(HeaderName::from_bytes(text.as_bytes()).is_err(), "{text:?}");
        assert!(
            HttpResponse::builder()
                .header("x", text)
                .body(Body::empty())
                .is_err(),
            "{text:?}"
        );
    }
    // There is no way to set a reason phrase. A value that can be set goes out as one line: U+010A
    // is an LF only to a server that cuts off its upper byte.
    let victim = Victim::with(|_, _| {
        let value = HeaderValue::from_bytes("\u{10a}\u{10d}".as_bytes()).unwrap();
        let status = StatusCode::from_u16(299).unwrap();
        (status, ([(HeaderName::from_static("x"), value)], "hi")).into_response()
    });
    let mut client = victim.server.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let (bytes, end) = client.drain();
    assert_eq!(end, End::Eof);
    assert!(bytes.starts_with(b"HTTP/1.1 299 \r\n"));
    let lines = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\r"))
        .count();
    assert_eq!(
        lines,
        bytes.iter().filter(|byte| **byte == b'\n').count(),
        "{}",
        bytes.escape_ascii()
    );
}

// A response whose length is not its body's has the client read the rest as the next response, or
// wait for ever.
#[test]
fn a_length_that_a_handler_declares_is_its_bodys_or_500() {
    for (length, expected) in [
        ("2", 200),
        ("1", 500),
        ("3", 500),
        ("+2", 500),
        ("2, 2", 500),
        ("", 500),
        ("18446744073709551618", 500),
    ] {
        let victim = Victim::with(move |_, _| {
            ([(CONTENT_LENGTH, HeaderValue::from_static(length))], "hi").into_response()
        });
        assert_eq!(
            victim.statuses(get("/") + &get("/")),
            [expected, expected],
            "{length:?}"
        );
    }
}
