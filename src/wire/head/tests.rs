use std::fmt::Write as _;

use super::*;

/// Reads a head whole, cut in two at each byte, and byte by byte, and expects the same each time:
/// the request in short, or the refusal.
#[track_caller]
fn check(input: impl AsRef<[u8]>, expected: &str) {
    check_within(&Limits::default(), input, expected);
}

#[track_caller]
fn check_within(limits: &Limits, input: impl AsRef<[u8]>, expected: &str) {
    let input = input.as_ref();
    let text = input.escape_ascii();
    let whole = HeadScan::new().parse(input, limits);
    assert_eq!(summary(&whole), expected, "whole: {text}");

    for cut in 0..input.len() {
        let mut scan = HeadScan::new();
        let first = scan.parse(&input[..cut], limits);
        let both = if let Ok(None) = first {
            scan.parse(input, limits)
        } else {
            first
        };
        assert_eq!(summary(&both), expected, "cut at {cut}: {text}");
    }

    let (arrived, parsed) = byte_by_byte(limits, input);
    assert_eq!(summary(&parsed), expected, "byte by byte: {text}");
    if let Ok(Some(head)) = parsed {
        assert_eq!(
            head.len, arrived,
            "a head is read when its last byte arrives, and no further: {text}"
        );
    }
}

/// Returns the first thing to be said about a head that trickles in, and how many bytes that took.
fn byte_by_byte(limits: &Limits, input: &[u8]) -> (usize, Result<Option<Head>, Refusal>) {
    let mut scan = HeadScan::new();
    let mut parsed = (0..=input.len()).map(|len| (len, scan.parse(&input[..len], limits)));
    parsed
        .find(|(_, parsed)| !matches!(parsed, Ok(None)))
        .unwrap_or((input.len(), Ok(None)))
}

fn summary(parsed: &Result<Option<Head>, Refusal>) -> String {
    match parsed {
        Ok(None) => "incomplete".into(),
        Ok(Some(Head {
            parts,
            framing,
            persist,
            expect_continue,
            ..
        })) => {
            let continues = if *expect_continue {
                " 100-continue"
            } else {
                ""
            };
            format!(
                "{} {} {:?} {framing:?} {persist:?}{continues}",
                parts.method, parts.uri, parts.version
            )
        }
        Err(refusal) => format!("{} {}", refusal.status.as_u16(), refusal.reason),
    }
}

/// A GET with a `Host` and this line.
fn get(field: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")
}

/// A POST with a `Host` and this line.
fn post(field: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")
}

/// A request for this target.
fn target(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn parse(input: &str) -> Head {
    HeadScan::new()
        .parse(input.as_bytes(), &Limits::default())
        .unwrap()
        .unwrap()
}

mod accepted {
    use super::*;

    #[test]
    fn a_get_has_no_body() {
        check(
            "GET /a?b=c HTTP/1.1\r\nHost: example.org\r\n\r\n",
            "GET /a?b=c HTTP/1.1 Empty KeepAlive",
        );
    }

    #[test]
    fn a_post_has_the_declared_body() {
        check(
            post("Content-Length: 12"),
            "POST / HTTP/1.1 Length(12) KeepAlive",
        );
        check(post("Content-Length: 0"), "POST / HTTP/1.1 Empty KeepAlive");
        check(
            post("Transfer-Encoding: chunked"),
            "POST / HTTP/1.1 Chunked KeepAlive",
        );
    }

    #[test]
    fn a_head_without_its_last_byte_is_incomplete() {
        check("", "incomplete");
        check("\r", "incomplete");
        check("\r\n\r\n", "incomplete");
        check("GET / HTTP/1.1\r\nHost: a\r\n\r", "incomplete");
    }

    #[test]
    fn what_follows_a_head_is_left() {
        let first = get("A: b");
        check(
            format!("{first}GET /next"),
            "GET / HTTP/1.1 Empty KeepAlive",
        );
        assert_eq!(parse(&format!("{first}\r\n\r\n")).len, first.len());
    }

    #[test]
    fn empty_lines_before_the_request_line_are_skipped() {
        let input = format!("\r\n\r\n{}", get("A: b"));
        check(&input, "GET / HTTP/1.1 Empty KeepAlive");
        let head = parse(&input);
        assert_eq!(
            (head.len, &head.parts.headers["a"]),
            (input.len(), &"b".parse().unwrap())
        );
    }

    #[test]
    fn fields_keep_their_order_and_lose_the_whitespace_around_values() {
        let head = parse(
            "GET / HTTP/1.1\r\nHost:a\r\nX:\t one \t\r\nY:\r\nY: \r\nX: t\two, three\r\n\r\n",
        );
        let fields: Vec<_> = head
            .parts
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        assert_eq!(
            fields,
            [
                ("host", &b"a"[..]),
                ("x", b"one"),
                ("x", b"t\two, three"),
                ("y", b""),
                ("y", b"")
            ]
        );
    }

    #[test]
    fn bytes_above_ascii_are_passed_on_in_values() {
        let input = b"GET / HTTP/1.1\r\nHost: a\r\nX: \x80\xff\r\n\r\n";
        check(input, "GET / HTTP/1.1 Empty KeepAlive");
        let head = HeadScan::new()
            .parse(input, &Limits::default())
            .unwrap()
            .unwrap();
        assert_eq!(head.parts.headers["x"].as_bytes(), b"\x80\xff");
    }

    #[test]
    fn any_token_is_a_method() {
        check(
            target("PROPFIND", "/"),
            "PROPFIND / HTTP/1.1 Empty KeepAlive",
        );
        check(target("get", "/"), "get / HTTP/1.1 Empty KeepAlive");
        check(
            target(&"M".repeat(100), "/"),
            &format!("{} / HTTP/1.1 Empty KeepAlive", "M".repeat(100)),
        );
    }

    #[test]
    fn later_minor_versions_are_1_1() {
        for minor in 1..=9 {
            check(
                format!("GET / HTTP/1.{minor}\r\nHost: a\r\n\r\n"),
                "GET / HTTP/1.1 Empty KeepAlive",
            );
        }
    }

    #[test]
    fn http_1_0_needs_no_host_and_does_not_persist() {
        check("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0 Empty Close");
        check(
            "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            "GET / HTTP/1.0 Empty KeepAlive",
        );
    }

    #[test]
    fn a_url_is_a_target_and_its_host_replaces_the_field() {
        check(
            target("GET", "http://b:80/c?d"),
            "GET http://b:80/c?d HTTP/1.1 Empty KeepAlive",
        );
        check(
            target("GET", "HTTP://b"),
            "GET http://b/ HTTP/1.1 Empty KeepAlive",
        );
        check(
            target("OPTIONS", "http://b?c"),
            "OPTIONS http://b/?c HTTP/1.1 Empty KeepAlive",
        );
        let head = parse(&target("GET", "http://b:80/c"));
        assert_eq!(
            head.parts
                .headers
                .get_all("host")
                .iter()
                .collect::<Vec<_>>(),
            ["b:80"]
        );
    }

    #[test]
    fn two_slashes_begin_a_path_not_a_host() {
        check(target("GET", "//b/c"), "GET //b/c HTTP/1.1 Empty KeepAlive");
    }

    #[test]
    fn options_may_ask_for_the_whole_server() {
        check(target("OPTIONS", "*"), "OPTIONS * HTTP/1.1 Empty KeepAlive");
    }

    #[test]
    fn a_target_has_the_characters_of_rfc_3986_and_those_that_browsers_send() {
        let all = "/-._~!$&'()*+,;=:@%41//../?-._~!$&'()*+,;=:@%fF/?[]{}|^";
        check(
            target("GET", all),
            &format!("GET {all} HTTP/1.1 Empty KeepAlive"),
        );
    }

    #[test]
    fn an_expectation_counts_when_there_is_a_body() {
        check(
            post("Content-Length: 1\r\nExpect: 100-Continue"),
            "POST / HTTP/1.1 Length(1) KeepAlive 100-continue",
        );
        check(
            post("Expect: 100-continue"),
            "POST / HTTP/1.1 Empty KeepAlive",
        );
        check(post("Expect:"), "POST / HTTP/1.1 Empty KeepAlive");
    }

    #[test]
    fn an_expectation_in_http_1_0_is_ignored() {
        for expectation in ["100-continue", "miracle"] {
            let head =
                format!("POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: {expectation}\r\n\r\n");
            check(head, "POST / HTTP/1.0 Length(1) Close");
        }
    }

    #[test]
    fn hosts_have_many_forms() {
        for host in [
            "a",
            "a.b-c_d~",
            "a:",
            "a:80",
            "a:65535",
            "127.0.0.1:8080",
            "[::1]",
            "[2001:db8::a]:80",
            "a%20b",
            "a.,b",
        ] {
            check(
                format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
                "GET / HTTP/1.1 Empty KeepAlive",
            );
        }
    }
}

mod request_line_refused {
    use super::*;

    #[test]
    fn a_tls_handshake() {
        check(
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            "400 a control character in the head",
        );
    }

    #[test]
    fn another_protocol_at_its_first_byte() {
        check(b"\x80", "400 the method is not a token");
        check("(", "400 the method is not a token");
        check("GE@", "400 the method is not a token");
    }

    #[test]
    fn a_fault_before_another_is_the_one_that_is_told() {
        check("G@T / HTTP/1.1\n", "400 the method is not a token");
        check(b"\x80\0", "400 the method is not a token");
        let limits = Limits {
            max_request_line_bytes: 10,
            ..Limits::default()
        };
        check_within(&limits, "GET /234567\0", "414 the request line is too long");
        check_within(&limits, "METHOD7890(", "501 the method is too long");
        check_within(
            &limits,
            "GET /23456\0",
            "400 a control character in the head",
        );
    }

    #[test]
    fn a_space_before_the_method() {
        check(
            " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "400 the method is not a token",
        );
    }

    #[test]
    fn every_byte_that_is_not_of_a_token_in_a_method() {
        for byte in (0x80..=0xff).chain(*b"\"(),/:;<=>?@[\\]{}") {
            let long = [
                "M".repeat(40).as_bytes(),
                &[byte],
                b" / HTTP/1.1\r\nHost: a\r\n\r\n",
            ]
            .concat();
            check(long, "400 the method is not a token");
            check(
                [b"GE", &[byte][..], b"T / HTTP/1.1\r\nHost: a\r\n\r\n"].concat(),
                "400 the method is not a token",
            );
        }
    }

    #[test]
    fn http_0_9() {
        check(
            "GET /\r\n",
            "400 the request line is not a method, a target and a version",
        );
    }

    #[test]
    fn a_method_alone() {
        check(
            "GET\r\n",
            "400 the request line is not a method, a target and a version",
        );
    }

    #[test]
    fn two_spaces_in_a_row() {
        check(
            "GET  / HTTP/1.1\r\n",
            "400 the request line is not a method, a target and a version",
        );
        check(
            "GET /  HTTP/1.1\r\n",
            "400 the request line is not a method, a target and a version",
        );
    }

    #[test]
    fn a_space_in_the_target() {
        check(
            "GET /a b HTTP/1.1\r\n",
            "400 the request line is not a method, a target and a version",
        );
    }

    #[test]
    fn a_space_after_the_version() {
        check(
            "GET / HTTP/1.1 \r\n",
            "400 the request line is not a method, a target and a version",
        );
    }

    #[test]
    fn a_tab_for_a_space() {
        check("GET\t/ HTTP/1.1\r\n", "400 the method is not a token");
        check(
            "GET /\tHTTP/1.1\r\n",
            "400 the request line is not a method, a target and a version",
        );
        check(
            "GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n",
            "400 a character in the request target must be percent-encoded",
        );
    }

    #[test]
    fn an_empty_target() {
        check(
            "GET  HTTP/1.1\r\nHost: a\r\n\r\n",
            "400 the request target is neither a path nor an http URL",
        );
    }

    #[test]
    fn a_malformed_version() {
        for version in [
            "http/1.1",
            "HTTP/1.",
            "HTTP/1.10",
            "HTTP/01.1",
            "HTTP/1,1",
            "HTTP1.1",
            "HTTPS/1.1",
            "HTTP/x.1",
            "",
        ] {
            check(
                format!("GET / {version}\r\n"),
                "400 the request line does not end with an HTTP version",
            );
        }
    }

    #[test]
    fn another_major_version() {
        for version in ["HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
            check(
                format!("GET / {version}\r\n"),
                "505 an HTTP version other than 1.0 and 1.1",
            );
        }
        check(
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "505 an HTTP version other than 1.0 and 1.1",
        );
    }

    #[test]
    fn connect() {
        for authority in ["b:443", "127.0.0.1:80", "[::1]:443"] {
            check(
                target("CONNECT", authority),
                "501 this server is no proxy: CONNECT is not supported",
            );
        }
    }

    #[test]
    fn connect_that_is_malformed_too() {
        for authority in [
            "b",
            "b:",
            ":443",
            "b:x",
            "b:65536",
            "/",
            "*",
            "http://b:443/",
            "u@b:443",
            "[::1]",
            "b:443/",
        ] {
            check(
                target("CONNECT", authority),
                "400 the request target of CONNECT is not a host and a port",
            );
        }
        check("CONNECT b:443 HTTP/1.1\r\n\r\n", "400 no Host field");
        check(
            "CONNECT b:443 HTTP/1.1\r\nHost: a b\r\n\r\n",
            "400 the Host field is not a host with an optional port",
        );
    }

    #[test]
    fn a_url_that_promises_a_secured_connection() {
        check(
            target("GET", "HTTPS://b/"),
            "421 an https URL, but the connection is not secured",
        );
        check("GET https://b/ HTTP/1.1\r\n\r\n", "400 no Host field");
    }

    #[test]
    fn an_authority_as_target() {
        check(
            target("GET", "b:443"),
            "400 the request target is neither a path nor an http URL",
        );
    }

    #[test]
    fn a_relative_path() {
        check(
            target("GET", "index.html"),
            "400 the request target is neither a path nor an http URL",
        );
    }

    #[test]
    fn another_scheme() {
        for url in [
            "ftp://b/",
            "file:///etc/passwd",
            "http:/b",
            "http:",
            "javascript:1",
        ] {
            check(
                target("GET", url),
                "400 the request target is neither a path nor an http URL",
            );
        }
    }

    #[test]
    fn a_url_without_a_valid_host() {
        for url in [
            "http://",
            "http:///a",
            "http://:80/",
            "http://?",
            "http://b:x/",
            "http://b:65536/",
            "http://u:p@b/",
            "http://[::1/",
        ] {
            check(
                target("GET", url),
                "400 the URL in the request line has no valid host",
            );
        }
    }

    #[test]
    fn an_asterisk_without_options() {
        check(
            target("GET", "*"),
            "400 the request target * is for OPTIONS alone",
        );
    }

    #[test]
    fn a_fragment() {
        for fragment in ["/a#b", "/#", "/?a#b", "http://b#c", "http://b/#c"] {
            check(
                target("GET", fragment),
                "400 a character in the request target must be percent-encoded",
            );
        }
    }

    #[test]
    fn characters_that_everybody_encodes() {
        for byte in (0x80..=0xff).chain(*b"\"<>\\`") {
            for target in [&b"/a"[..], b"/?a", b"http://b/a"] {
                let head = [b"GET ", target, &[byte], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
                check(
                    head,
                    "400 a character in the request target must be percent-encoded",
                );
            }
        }
    }

    #[test]
    fn letters_above_ascii_though_they_are_utf_8() {
        for url in ["/\u{e4}", "/?\u{20ac}", "http://b/\u{1f986}"] {
            check(
                target("GET", url),
                "400 a character in the request target must be percent-encoded",
            );
        }
    }

    #[test]
    fn a_percent_sign_without_two_digits() {
        for path in ["/%", "/%4", "/%4g", "/%g4", "/?%", "/%%41"] {
            check(
                target("GET", path),
                "400 a character in the request target must be percent-encoded",
            );
        }
    }
}

mod lines_refused {
    use super::*;

    #[test]
    fn lf_alone_wherever_a_line_ends() {
        for head in [
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            check(head, "400 a line ends with LF alone, without CR");
        }
    }

    #[test]
    fn cr_alone_wherever_it_is() {
        for head in [
            "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\rHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHo\rst: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\rX",
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\rTransfer-Encoding: chunked\r\n\r\n",
        ] {
            check(head, "400 a CR is not followed by LF");
        }
    }

    #[test]
    fn every_control_character_wherever_it_is() {
        for byte in (0..0x20)
            .chain([0x7f])
            .filter(|byte| !b"\t\r\n".contains(byte))
        {
            let byte = char::from(byte);
            check(
                format!("G{byte}ET / HTTP/1.1\r\nHost: a\r\n\r\n"),
                "400 a control character in the head",
            );
            check(
                target("GET", &format!("/{byte}")),
                "400 a control character in the head",
            );
            check(
                get(&format!("X{byte}: a")),
                "400 a control character in the head",
            );
            check(
                get(&format!("X: a{byte}")),
                "400 a control character in the head",
            );
            check(
                get(&format!("Transfer-Encoding: {byte}chunked")),
                "400 a control character in the head",
            );
        }
    }

    #[test]
    fn a_folded_line() {
        for line in [
            "X: a\r\n b",
            "X: a\r\n\tb: c",
            "Transfer-Encoding:\r\n chunked",
            "X: a\r\n ",
        ] {
            check(get(line), "400 a field line begins with whitespace");
        }
        check(
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            "400 a field line begins with whitespace",
        );
    }

    #[test]
    fn whitespace_before_the_colon() {
        for line in [
            "Content-Length : 5",
            "Transfer-Encoding\t: chunked",
            "X : a",
        ] {
            check(
                post(line),
                "400 whitespace between a field name and its colon",
            );
        }
    }

    #[test]
    fn a_line_without_a_colon() {
        check(get("Host"), "400 a field line without a colon");
        check(
            get("GET /admin HTTP/1.1"),
            "400 a field line without a colon",
        );
    }

    #[test]
    fn an_empty_field_name() {
        check(get(": a"), "400 a field name is not a token");
    }

    #[test]
    fn every_byte_that_is_not_of_a_token_in_a_field_name() {
        for byte in (0x80..=0xff).chain(*b" \"(),/;<=>?@[\\]{}") {
            let head = [
                b"GET / HTTP/1.1\r\nHost: a\r\nX",
                &[byte][..],
                b"Y: b\r\n\r\n",
            ]
            .concat();
            check(head, "400 a field name is not a token");
        }
    }
}

mod fields_refused {
    use super::*;

    #[test]
    fn http_1_1_without_host() {
        check("GET / HTTP/1.1\r\n\r\n", "400 no Host field");
        check("GET http://b/ HTTP/1.1\r\n\r\n", "400 no Host field");
    }

    #[test]
    fn more_than_one_host() {
        check(get("Host: a"), "400 more than one Host field");
        check(
            "GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n",
            "400 more than one Host field",
        );
        check(
            "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "400 more than one Host field",
        );
    }

    #[test]
    fn a_host_that_is_none() {
        for host in [
            "",
            "a b",
            "a/b",
            "http://a",
            "u@a",
            "a#b",
            "a?b",
            "a\\b",
            "a\"",
            "a<b",
            "a%",
            "a%2",
            "a%zz",
            "a:b",
            "a:-1",
            "a:+1",
            "a:80:80",
            ":80",
            ":",
            "a:65536",
            "::1",
            "[",
            "[]",
            "[::1",
            "[::1]a",
            "[::1]:x",
            "[1.2.3.4]",
            "[::g]",
            "[v1.a]",
            "a, b",
            "\u{e4}",
        ] {
            for version in ["1.0", "1.1"] {
                let head = format!("GET / HTTP/{version}\r\nHost: {host}\r\n\r\n");
                check(
                    head,
                    "400 the Host field is not a host with an optional port",
                );
            }
            let head = format!("GET http://b/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
            check(
                head,
                "400 the Host field is not a host with an optional port",
            );
        }
    }

    #[test]
    fn an_expectation_that_cannot_be_met() {
        for expectation in [
            "miracle",
            "100-continue, miracle",
            "100",
            "100-continue=1",
            "\"100-continue\"",
        ] {
            check(
                post(&format!("Expect: {expectation}")),
                "417 an expectation other than 100-continue cannot be met",
            );
        }
    }

    #[test]
    fn a_body_that_two_readers_would_cut_differently() {
        check(
            post("Content-Length: 5\r\nTransfer-Encoding: chunked"),
            "400 both Transfer-Encoding and Content-Length",
        );
        check(
            post("Content-Length: 5\r\nContent-Length: 5"),
            "400 more than one Content-Length",
        );
        check(
            post("Content-Length: +5"),
            "400 Content-Length is not a number",
        );
        check(
            post("Transfer-Encoding: gzip, chunked"),
            "501 a transfer coding other than chunked",
        );
    }
}

mod limits {
    use super::*;

    #[test]
    fn a_request_line_may_be_as_long_as_the_limit() {
        let limits = Limits {
            max_request_line_bytes: 40,
            ..Limits::default()
        };
        let path = "/".repeat(40 - "GET  HTTP/1.1".len());
        check_within(
            &limits,
            target("GET", &path),
            &format!("GET {path} HTTP/1.1 Empty KeepAlive"),
        );
        check_within(
            &limits,
            format!("\r\n\r\n{}", target("GET", &path)),
            &format!("GET {path} HTTP/1.1 Empty KeepAlive"),
        );
        check_within(
            &limits,
            target("GET", &format!("{path}/")),
            "414 the request line is too long",
        );
        check_within(
            &limits,
            format!("{} /", "M".repeat(39)),
            "414 the request line is too long",
        );
        check_within(&limits, "M".repeat(41), "501 the method is too long");
    }

    #[test]
    fn a_head_may_be_as_long_as_the_limit() {
        let head = format!("\r\n{}", get("X: some value"));
        let just = Limits {
            max_head_bytes: head.len(),
            ..Limits::default()
        };
        check_within(&just, &head, "GET / HTTP/1.1 Empty KeepAlive");
        check_within(
            &just,
            format!("{head}GET"),
            "GET / HTTP/1.1 Empty KeepAlive",
        );
        let less = Limits {
            max_head_bytes: head.len() - 1,
            ..Limits::default()
        };
        check_within(&less, &head, "431 the request head is too long");
        check_within(
            &less,
            format!("{head}GET"),
            "431 the request head is too long",
        );
    }

    #[test]
    fn a_head_may_have_as_many_fields_as_the_limit() {
        let limits = Limits {
            max_fields: 3,
            ..Limits::default()
        };
        check_within(
            &limits,
            get("X: a\r\nX: b"),
            "GET / HTTP/1.1 Empty KeepAlive",
        );
        check_within(
            &limits,
            get("X: a\r\nX: b\r\nX: c"),
            "431 the request head has too many fields",
        );
    }

    #[test]
    fn the_limit_of_fields_can_be_raised_above_the_default() {
        let limits = Limits {
            max_fields: 300,
            ..Limits::default()
        };
        let get_with = |n_fields: usize| get(&vec!["X: a"; n_fields - 1].join("\r\n"));
        for n_fields in [Limits::MAX_FIELDS, Limits::MAX_FIELDS + 1, 300] {
            let head = HeadScan::new()
                .parse(get_with(n_fields).as_bytes(), &limits)
                .unwrap()
                .unwrap();
            assert_eq!(head.parts.headers.len(), n_fields);
        }
        let parsed = HeadScan::new().parse(get_with(301).as_bytes(), &limits);
        assert_eq!(summary(&parsed), "431 the request head has too many fields");
    }

    #[test]
    fn empty_lines_for_ever_are_a_long_head() {
        let limits = Limits {
            max_head_bytes: 100,
            ..Limits::default()
        };
        check_within(
            &limits,
            "\r\n".repeat(51),
            "431 the request head is too long",
        );
    }

    #[test]
    fn by_default_a_line_has_16_kib_and_a_head_64_kib_and_100_fields() {
        let parse =
            |input: String| summary(&HeadScan::new().parse(input.as_bytes(), &Limits::default()));
        let long = "a".repeat(16 * 1024);
        assert_eq!(
            parse(target("GET", &format!("/{long}"))),
            "414 the request line is too long"
        );
        assert_eq!(
            parse(get(&format!("X: {}", long.repeat(4)))),
            "431 the request head is too long"
        );
        assert_eq!(
            parse(get(&"X: a\r\n".repeat(100))),
            "431 the request head has too many fields"
        );
    }

    #[test]
    fn more_fields_than_a_header_map_holds_are_refused_without_a_panic() {
        let limits = Limits {
            max_head_bytes: 1 << 20,
            max_fields: usize::MAX,
            ..Limits::default()
        };
        let mut fields = String::new();
        for number in 0..40_000 {
            write!(fields, "x{number}: a\r\n").unwrap();
        }
        let parsed = HeadScan::new().parse(get(&fields).as_bytes(), &limits);
        assert_eq!(summary(&parsed), "431 the request head has too many fields");
    }
}

#[test]
fn a_scan_is_blank_while_only_empty_lines_have_come() {
    let input = format!("\r\n\r\n{}", get("A: b"));
    let mut scan = HeadScan::new();
    assert!(scan.is_blank());
    for len in 0..=input.len() {
        scan.parse(&input.as_bytes()[..len], &Limits::default())
            .unwrap();
        assert_eq!(scan.is_blank(), len <= b"\r\n\r\n".len(), "{len} bytes");
    }
}

#[test]
fn damaged_heads_are_read_the_same_however_they_are_cut() {
    const SOUND: &[u8] =
        b"\r\nPOST /a%20b?c[]=d HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\n\
        Content-Length: 10\r\nConnection: close, TE\r\nX:\r\n\r\nbody body ";
    const DAMAGES: &[u8] = b"\r\n \t:,;/\0\x7f\x80Aa0";

    for at in 0..SOUND.len() {
        let (before, after) = SOUND.split_at(at);
        let mut damaged = vec![[before, &after[1..]].concat()];
        for damage in DAMAGES {
            damaged.push([before, &[*damage], after].concat());
            damaged.push([before, &[*damage], &after[1..]].concat());
        }
        for input in damaged {
            let whole = HeadScan::new().parse(&input, &Limits::default());
            let (_, trickled) = byte_by_byte(&Limits::default(), &input);
            let text = input.escape_ascii();
            match (&whole, &trickled) {
                // Of two faults, the first to be seen depends on the cuts.
                (Err(whole), Err(trickled)) => assert_eq!(whole.status, trickled.status, "{text}"),
                _ => assert_eq!(summary(&whole), summary(&trickled), "{text}"),
            }
        }
    }
}

#[test]
fn a_head_request_is_known_as_one_before_it_is_complete() {
    for bytes in ["HEAD ", "HEAD / HTTP/1.1\r\n", "\r\nHEAD \0"] {
        assert!(HeadScan::is_to_head(bytes.as_bytes()), "{bytes:?}");
    }
    for bytes in [
        "",
        "\r\n",
        "HEAD",
        "HEADER / HTTP/1.1",
        "head /",
        "GET HEAD ",
    ] {
        assert!(!HeadScan::is_to_head(bytes.as_bytes()), "{bytes:?}");
    }
}
