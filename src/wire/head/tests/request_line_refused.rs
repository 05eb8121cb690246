//! Heads that are refused for their request line.

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
fn of_two_faults_the_first_one_is_reported() {
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
fn characters_that_clients_encode() {
    let everywhere = b"\"<>".iter().chain(b"\x7f\t");
    for &byte in everywhere {
        for target in [&b"/a"[..], b"/?a", b"http://b/a"] {
            check_character(target, byte);
        }
    }
    for byte in *b"\\`" {
        for target in [&b"/a"[..], b"http://b/a"] {
            check_character(target, byte);
        }
    }
}

#[track_caller]
fn check_character(target: &[u8], byte: u8) {
    let head = [b"GET ", target, &[byte], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    let expected = match byte {
        0x7f => "400 a control character in the head",
        _ => "400 a character in the request target must be percent-encoded",
    };
    check(head, expected);
}

#[test]
fn bytes_above_ascii_that_are_not_utf_8() {
    for bytes in [
        &b"\xe9"[..],
        b"\xc3",
        b"\x80",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc3/\xa9",
    ] {
        for target in [&b"/a"[..], b"/?a", b"http://b/a"] {
            let head = [b"GET ", target, bytes, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            check(
                head,
                "400 a character in the request target must be percent-encoded",
            );
        }
    }
}

#[test]
fn letters_above_ascii_where_the_host_is() {
    check(
        target("GET", "http://b\u{e9}/"),
        "400 the URL in the request line has no valid host",
    );
    check(
        target("GET", "b\u{e9}"),
        "400 the request target is neither a path nor an http URL",
    );
    check(
        target("CONNECT", "b\u{e9}:80"),
        "400 the request target of CONNECT is not a host and a port",
    );
}

#[test]
fn a_percent_sign_without_two_digits_in_a_path() {
    for path in ["/%", "/%4", "/%4g", "/%g4", "/%?", "/%%41", "/%4\u{e9}"] {
        check(
            target("GET", path),
            "400 a character in the request target must be percent-encoded",
        );
    }
}
