use http::header::{CONTENT_TYPE, RETRY_AFTER};

use super::*;

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// Returns the head of a response to an HTTP/1.1 request, on a connection that is kept.
fn head(status: u16, framing: Framing) -> ReplyHead<'static> {
    let status = StatusCode::from_u16(status).unwrap();
    let (request_version, connection) = (Version::HTTP_11, Connection::KeepAlive);
    ReplyHead {
        status,
        request_version,
        framing,
        connection,
        date: DATE,
        unsent_len: None,
        case: FieldCase::Lower,
    }
}

/// Expects a head to have these lines after the status line and `Date`.
#[track_caller]
fn check(head: &ReplyHead<'_>, fields: &[(&'static str, &'static str)], expected: &[&str]) {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    let mut out = b"before ".to_vec();
    write_head(&mut out, head, &headers);
    let out = String::from_utf8(out).unwrap();
    let lines = out
        .strip_suffix("\r\n\r\n")
        .expect("a head ends with an empty line")
        .split("\r\n");
    let status = format!(
        "before HTTP/1.1 {} {}",
        head.status.as_str(),
        head.status.canonical_reason().unwrap_or("")
    );
    let date = format!("Date: {}", str::from_utf8(DATE).unwrap());
    let expected: Vec<_> = [&*status, &*date]
        .into_iter()
        .chain(expected.iter().copied())
        .collect();
    assert_eq!(lines.collect::<Vec<_>>(), expected);
}

mod framing {
    use super::*;

    #[test]
    fn a_length_is_declared() {
        check(&head(200, Framing::Length(0)), &[], &["Content-Length: 0"]);
        check(&head(200, Framing::Length(9)), &[], &["Content-Length: 9"]);
        check(
            &head(200, Framing::Length(10)),
            &[],
            &["Content-Length: 10"],
        );
        check(
            &head(200, Framing::Length(u64::MAX)),
            &[],
            &["Content-Length: 18446744073709551615"],
        );
    }

    #[test]
    fn chunks_are_announced() {
        check(
            &head(200, Framing::Chunked),
            &[],
            &["Transfer-Encoding: chunked"],
        );
    }

    #[test]
    fn a_body_until_close_closes() {
        check(&head(200, Framing::UntilClose), &[], &["Connection: close"]);
    }

    #[test]
    fn a_response_without_body_tells_the_length_that_a_get_would_have() {
        let with_length = |status| ReplyHead {
            unsent_len: Some(5),
            ..head(status, Framing::Empty)
        };
        check(&with_length(200), &[], &["Content-Length: 5"]);
        check(&with_length(304), &[], &["Content-Length: 5"]);
        check(&with_length(204), &[], &[]);
        check(&with_length(103), &[], &[]);
        check(&head(304, Framing::Empty), &[], &[]);
    }
}

mod connection {
    use super::*;

    #[test]
    fn a_close_is_announced() {
        let closes = ReplyHead {
            connection: Connection::Close,
            ..head(200, Framing::Length(1))
        };
        check(&closes, &[], &["Content-Length: 1", "Connection: close"]);
    }

    #[test]
    fn http_1_0_is_told_that_the_connection_goes_on() {
        let to_1_0 = ReplyHead {
            request_version: Version::HTTP_10,
            ..head(200, Framing::Length(1))
        };
        check(
            &to_1_0,
            &[],
            &["Content-Length: 1", "Connection: keep-alive"],
        );
        let closes = ReplyHead {
            connection: Connection::Close,
            ..to_1_0
        };
        check(&closes, &[], &["Content-Length: 1", "Connection: close"]);
    }

    #[test]
    fn an_upgrade_is_named() {
        let upgrade = [("upgrade", "websocket")];
        check(
            &head(101, Framing::Empty),
            &upgrade,
            &["Connection: upgrade", "upgrade: websocket"],
        );
        let closes = ReplyHead {
            connection: Connection::Close,
            ..head(426, Framing::Length(0))
        };
        check(
            &closes,
            &upgrade,
            &[
                "Content-Length: 0",
                "Connection: close, upgrade",
                "upgrade: websocket",
            ],
        );
        check(&head(200, Framing::Empty), &upgrade, &[]);
        // HTTP/1.0 takes a connection for closed that is not said to be kept.
        let to_1_0 = ReplyHead {
            request_version: Version::HTTP_10,
            ..head(426, Framing::Length(0))
        };
        check(
            &to_1_0,
            &upgrade,
            &[
                "Content-Length: 0",
                "Connection: keep-alive, upgrade",
                "upgrade: websocket",
            ],
        );
    }
}

mod fields {
    use super::*;

    #[test]
    fn fields_of_the_handler_follow() {
        check(
            &head(200, Framing::Empty),
            &[
                ("a", "b"),
                ("set-cookie", "c"),
                ("set-cookie", "d\te"),
                ("empty", ""),
            ],
            &["a: b", "set-cookie: c", "set-cookie: d\te", "empty: "],
        );
    }

    #[test]
    fn fields_that_only_the_server_writes_are_left_out() {
        let ours = [
            ("connection", "close, x"),
            ("content-length", "7"),
            ("date", "yesterday"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "gzip"),
            ("upgrade", "h2c"),
            ("x", "y"),
        ];
        check(
            &head(200, Framing::Length(1)),
            &ours,
            &["Content-Length: 1", "x: y"],
        );
    }

    #[test]
    fn a_status_without_a_phrase_keeps_the_space() {
        check(&head(299, Framing::Length(0)), &[], &["Content-Length: 0"]);
    }
}

mod refusals {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_of_text() {
        let mut out = Vec::new();
        let extra = [(RETRY_AFTER, "1")];
        write_refusal(
            &mut out,
            StatusCode::SERVICE_UNAVAILABLE,
            "try again",
            DATE,
            &extra,
            true,
        );
        let expected = "HTTP/1.1 503 Service Unavailable\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Content-Type: text/plain; charset=utf-8\r\nContent-Length: 10\r\nConnection: close\r\nRetry-After: 1\r\n\r\n\
            try again\n";
        assert_eq!(str::from_utf8(&out).unwrap(), expected);

        let mut without_body = Vec::new();
        write_refusal(
            &mut without_body,
            StatusCode::SERVICE_UNAVAILABLE,
            "try again",
            DATE,
            &extra,
            false,
        );
        assert_eq!(
            str::from_utf8(&without_body).unwrap(),
            expected.strip_suffix("try again\n").unwrap()
        );
    }
}

mod lengths {
    use super::*;

    #[track_caller]
    fn check(lengths: &[&str], expected: Result<Option<u64>, BadLength>) {
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, "a/b".parse().unwrap())]);
        for length in lengths {
            headers.append(CONTENT_LENGTH, length.parse().unwrap());
        }
        assert_eq!(declared_length(&headers), expected, "{lengths:?}");
    }

    #[test]
    fn a_declared_length_is_read() {
        check(&[], Ok(None));
        check(&["0"], Ok(Some(0)));
        check(&["5", "5"], Ok(Some(5)));
    }

    #[test]
    fn an_invalid_length_is_an_error() {
        for lengths in [
            &["x"][..],
            &[""],
            &["+5"],
            &["5,5"],
            &["5", "6"],
            &["5", "x"],
        ] {
            check(lengths, Err(BadLength));
        }
    }
}

mod dates {
    use super::*;

    #[track_caller]
    fn check(at: SystemTime, expected: &str) {
        assert_eq!(str::from_utf8(&http_date(at)).unwrap(), expected);
    }

    #[test]
    fn a_date_is_written_in_the_preferred_format() {
        check(UNIX_EPOCH, "Thu, 01 Jan 1970 00:00:00 GMT");
        check(
            UNIX_EPOCH + Duration::from_millis(784_111_777_999),
            "Sun, 06 Nov 1994 08:49:37 GMT",
        );
    }

    #[test]
    fn a_clock_that_is_far_off_does_not_panic() {
        check(
            UNIX_EPOCH - Duration::from_secs(1),
            "Thu, 01 Jan 1970 00:00:00 GMT",
        );
        check(
            UNIX_EPOCH + Duration::from_secs(1 << 40),
            "Fri, 31 Dec 9999 23:59:59 GMT",
        );
    }
}
