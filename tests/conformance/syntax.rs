//! Lines, request lines, versions and fields: RFC 9112 sections 2, 3 and 5, RFC 9110 sections 2.5
//! and 5.

use crate::support::Gate;
use crate::{Suite, chunked, post, request, seen};

#[test]
fn bytes_above_ascii_are_passed_on_in_field_values() {
    let suite = Suite::new();
    let seen = suite.accepted(b"GET / HTTP/1.1\r\nHost: a\r\nX: \x80\xff\xe2\x82\xac\r\n\r\n");
    assert!(
        seen.text().contains("x: \\x80\\xff\\xe2\\x82\\xac\n"),
        "{}",
        seen.text()
    );
    // In UTF-16, U+010D U+010A would be CR LF with other bytes between.
    suite.refused(
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\x0d\x01\x0a\r\n\r\n",
        400,
    );
}

#[test]
fn a_bare_cr_is_refused_wherever_it_is() {
    let suite = Suite::new();
    for input in [
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "G\rET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\r/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\rX: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX:\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n",
        "GET / HTTP/1.1\rHost: a\r\r",
    ] {
        suite.refused(input, 400);
    }
    for body in [
        "5\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "0\r\n\r0\r\n\r\n",
        "0\r\nX: a\rb\r\n\r\n",
    ] {
        suite.refused(chunked(body), 400);
    }
}

#[test]
fn a_bare_lf_is_refused_wherever_it_is() {
    let suite = Suite::new();
    for input in [
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET /\nHTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\n",
    ] {
        suite.refused(input, 400);
    }
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "0\r\nX: a\n\r\n",
        "0\r\n\n",
    ] {
        suite.refused(chunked(body), 400);
    }
}

#[test]
fn empty_lines_before_a_request_are_ignored() {
    let suite = Suite::new();
    for lines in ["\r\n", "\r\n\r\n", "\r\n\r\n\r\n\r\n"] {
        suite.accepted(lines.to_owned() + &request("GET /", ""));
    }
    // Old clients sent an empty line after a body.
    suite.accepted(post("Content-Length: 5\r\n", "hello\r\n"));
}

#[test]
fn whitespace_before_the_first_field_is_refused() {
    let suite = Suite::new();
    for line in [
        " X: b\r\n",
        "\tX: b\r\n",
        " \r\n",
        " Host: b\r\n",
        "\tContent-Length: 5\r\n",
    ] {
        suite.refused(format!("GET / HTTP/1.1\r\n{line}Host: a\r\n\r\n"), 400);
    }
}

#[test]
fn what_is_no_request_is_refused_with_400_and_closed() {
    let suite = Suite::new();
    for input in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
        b"\x00\x00\x00\x00\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"hello\r\n\r\n",
        b"Extra lineGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b": a\r\n\r\n",
        b" \r\n\r\n",
    ] {
        suite.refused(input, 400);
    }
}

#[test]
fn a_later_minor_version_is_1_1() {
    let suite = Suite::new();
    for minor in 1..=9 {
        let answer = suite.accepted(format!("GET / HTTP/1.{minor}\r\nHost: a\r\n\r\n"));
        assert!(
            answer.text().starts_with("GET / HTTP/1.1\n"),
            "{}",
            answer.text()
        );
        suite.refused(format!("GET / HTTP/1.{minor}\r\n\r\n"), 400);
    }
}

#[test]
fn another_major_version_is_505() {
    let suite = Suite::new();
    for version in ["0.9", "0.0", "2.0", "3.0", "9.9", "2.1"] {
        suite.refused(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"), 505);
    }
    suite.refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
}

#[test]
fn a_version_is_eight_characters_in_upper_case() {
    let suite = Suite::new();
    for version in [
        "http/1.1",
        "Http/1.1",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/1.10",
        "HTTP/1.1.1",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/11.1",
        "HTTP/1,1",
        "HTTP/1 .1",
        "HTTP/ 1.1",
        "HTTP 1.1",
        "HTTP1.1",
        "HTTP\\1.1",
        "HTTP/-1.1",
        "HTTP/+1.1",
        "HTTP/x.y",
        "HTTP/1.1x",
        "HTTP/4294967297.1",
        "HTTP/1.257",
        "HTTPS/1.1",
        "XHTTP/1.1",
        "HTP/1.1",
        "\"HTTP/1.1\"",
    ] {
        suite.refused(format!("GET / {version}\r\nHost: a\r\n\r\n"), 400);
    }
}

#[test]
fn a_request_line_without_a_version_is_refused() {
    let suite = Suite::new();
    for line in ["GET /", "GET / ", "GET", "GET ", "/", ""] {
        suite.refused(format!("{line}\r\nHost: a\r\n\r\n"), 400);
    }
}

#[test]
fn the_parts_of_a_request_line_are_separated_by_one_space() {
    let suite = Suite::new();
    for line in [
        " GET / HTTP/1.1",
        "\tGET / HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1\t",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET\t/\tHTTP/1.1",
        "GET \x0b/ HTTP/1.1",
        "GET /\x0cHTTP/1.1",
        "GET / / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET  HTTP/1.1",
        "GET HTTP/1.1",
        "GET/ HTTP/1.1",
        "GET /HTTP/1.1",
        "GET / HTTP/1.1 HTTP/1.1",
        "GET / HTTP/1.1 X",
        "\u{a0}GET / HTTP/1.1",
        "GET\u{a0}/ HTTP/1.1",
    ] {
        suite.refused(format!("{line}\r\nHost: a\r\n\r\n"), 400);
    }
}

#[test]
fn a_method_is_a_token_and_case_counts() {
    let suite = Suite::new();
    for method in [
        "GET",
        "get",
        "QUACK",
        "M-SEARCH",
        "!#$%&'*+-.^_`|~09",
        "GETGET",
        "PURGE",
    ] {
        let answer = suite.accepted(request(&format!("{method} /"), ""));
        assert!(
            answer.text().starts_with(&format!("{method} / ")),
            "{}",
            answer.text()
        );
    }
    for method in [
        "G@T",
        "GET\"",
        "GE(T)",
        "GET,",
        "GET/",
        "G:ET",
        "GET;",
        "G=\":<>(e),[T];?\"",
        "{GET}",
        "G\u{c9}T",
        "GET\0",
        "\x7f",
    ] {
        suite.refused(request(&format!("{method} /"), ""), 400);
    }
}

#[test]
fn a_method_too_long_is_501() {
    let suite = Suite::new();
    suite.refused(request(&format!("{} /", "M".repeat(20_000)), ""), 501);
    // A method that fits is left to the handler to refuse.
    suite.accepted(request(&format!("{} /", "M".repeat(1000)), ""));
}

#[test]
fn a_target_too_long_is_414_and_8000_bytes_are_not() {
    let suite = Suite::new();
    suite.accepted(request(&format!("GET /{}", "a".repeat(8000)), ""));
    suite.accepted(request(&format!("GET /?{}", "a".repeat(16_000)), ""));
    suite.refused(request(&format!("GET /{}", "a".repeat(17_000)), ""), 414);
    suite.refused(
        request(&format!("GET http://a/{}", "a".repeat(60_000)), ""),
        414,
    );
    // The answer comes before the end of the target does.
    suite.refused(format!("GET /{}", "a".repeat(17_000)), 414);
}

#[test]
fn fields_too_large_are_431() {
    let suite = Suite::new();
    suite.accepted(request("GET /", &format!("X: {}\r\n", "a".repeat(60_000))));
    suite.accepted(request("GET /", &"X: a\r\n".repeat(99)));
    suite.refused(
        request("GET /", &format!("X: {}\r\n", "a".repeat(70_000))),
        431,
    );
    suite.refused(
        request("GET /", &format!("{}: a\r\n", "a".repeat(70_000))),
        431,
    );
    suite.refused(request("GET /", &"X: a\r\n".repeat(100)), 431);
    suite.refused(
        request("GET /", &"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(3000)),
        431,
    );
}

#[test]
fn whitespace_before_the_colon_is_refused() {
    let suite = Suite::new();
    for field in [
        "Host : b",
        "X : a",
        "X\t: a",
        "X  \t : a",
        "Content-Length : 5",
        "Transfer-Encoding : chunked",
        "X :",
    ] {
        suite.refused(post(&format!("{field}\r\n"), ""), 400);
    }
}

#[test]
fn whitespace_around_a_value_is_no_part_of_it() {
    let suite = Suite::new();
    let seen = suite.accepted(
        "GET / HTTP/1.1\r\nhoSt:\ta\t \r\nX:b\r\nY:   c  d\t\r\nEmpty:\r\nBlank: \t \r\n\r\n",
    );
    let expected = "host: a\nx: b\ny: c  d\nempty: \nblank: \nbody";
    assert!(seen.text().contains(expected), "{}", seen.text());
    // The bytes that other encodings call whitespace are a part of the value.
    let seen = suite.accepted(b"GET / HTTP/1.1\r\nHost: a\r\nUser: \x85admin\xa0\r\n\r\n");
    assert!(
        seen.text().contains("user: \\x85admin\\xa0\n"),
        "{}",
        seen.text()
    );
}

#[test]
fn a_folded_line_is_refused() {
    let suite = Suite::new();
    for fold in [
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n",
        "X: a\r\n b: c\r\n",
        "X: a\r\n  \r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Content-Length: 5\r\n 0\r\n",
        "X:\r\n a\r\n",
    ] {
        suite.refused(post(fold, ""), 400);
    }
    suite.refused("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400);
}

#[test]
fn a_field_name_is_a_token_with_a_colon() {
    let suite = Suite::new();
    suite.accepted(request("GET /", "!#$%&'*+-.^_`|~09aZ: b\r\n"));
    for line in [
        ": a",
        ":",
        "X",
        "X a",
        "X[]: a",
        "X(b): a",
        "X,Y: a",
        "X/Y: a",
        "X;: a",
        "X=Y",
        "X@: a",
        "\"X\": a",
        "X\\: a",
        "{X}: a",
        "X\x7f: a",
        "X\0: a",
        "X\x01: a",
        "X Y: a",
        "X\tY: a",
        "X\u{e4}: a",
        "\u{ef}foo: a",
        "GET / HTTP/1.1",
        "=: a",
    ] {
        suite.refused(request("GET /", &format!("{line}\r\n")), 400);
    }
    suite.refused(b"GET / HTTP/1.1\r\nHost: a\r\n\x80X: a\r\n\r\n", 400);
}

#[test]
fn a_control_character_in_a_field_value_is_refused() {
    let suite = Suite::new();
    for byte in (0..0x20_u8).chain([0x7f]).filter(|byte| *byte != b'\t') {
        for value in [&b"a"[..], b"", b"a, b "] {
            let head = [
                b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
                value,
                &[byte],
                b"b\r\n\r\n",
            ]
            .concat();
            suite.refused(head, 400);
        }
    }
    let seen = suite.accepted(request("GET /", "X: a\tb\r\n"));
    assert!(seen.text().contains("x: a\\tb\n"), "{}", seen.text());
}

#[test]
fn unknown_fields_are_passed_on_in_order() {
    let suite = Suite::new();
    let seen = suite.accepted(request(
        "GET /",
        "X-Duck: one\r\nY: z\r\nx-DUCK: two, three\r\nX-duck:\r\n",
    ));
    let expected = "x-duck: one\nx-duck: two, three\nx-duck: \n";
    assert!(seen.text().contains(expected), "{}", seen.text());
}

#[test]
fn field_names_are_the_same_in_any_case() {
    let suite = Suite::new();
    suite.accepted("POST / HTTP/1.1\r\nhOST: a\r\ncONTENT-lENGTH: 5\r\n\r\nhello");
    suite.accepted("POST / HTTP/1.1\r\nHOST: a\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n0\r\n\r\n");
    suite.refused("POST / HTTP/1.1\r\nHOST: a\r\nhost: a\r\n\r\n", 400);
    suite.refused(
        post("CONTENT-LENGTH: 5\r\nTRANSFER-encoding: chunked\r\n", ""),
        400,
    );
}

#[test]
fn no_handler_sees_a_request_before_its_head_is_complete() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let suite = Suite::with(move |request, _| {
        at_gate.pass();
        seen(request)
    });
    gate.open();
    let head = request("GET /", "X: a\r\n");
    let (all_but_one, last) = head.split_at(head.len() - 1);
    let mut client = suite.client();
    for byte in all_but_one.bytes() {
        client.send([byte]);
    }
    // The same workers answer another client meanwhile.
    suite.accepted(request("GET /", ""));
    let entered = gate.entered();
    client.expect_nothing_yet();
    client.send(last);
    assert_eq!(client.read_response().status, 200);
    assert_eq!(gate.entered(), entered + 1);
}

#[test]
fn empty_members_of_a_list_are_ignored() {
    let suite = Suite::new();
    for fields in [
        "Connection: , ,\r\n",
        "Connection: ,keep-alive,\r\n",
        "Expect: ,\r\n",
        "Accept: ,,a,,\r\n",
    ] {
        suite.accepted(request("GET /", fields));
    }
    assert_eq!(
        suite
            .closed(request("GET /", "Connection: ,,close,\r\n"))
            .status,
        200
    );
}
