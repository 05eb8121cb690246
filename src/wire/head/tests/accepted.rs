//! Heads that are accepted, and what is read from them.

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
    let head =
        parse("GET / HTTP/1.1\r\nHost:a\r\nX:\t one \t\r\nY:\r\nY: \r\nX: t\two, three\r\n\r\n");
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
fn a_query_is_handed_over_as_a_browser_sends_it() {
    for query in [
        "%", "%zz", "100%", "%4", "a=%&b=%%", "`", "\\", "a\\..\\b", "??", "'{}|^[]", "%u20ac",
    ] {
        for before in ["/", "/a", "http://b/"] {
            let target_text = format!("{before}?{query}");
            let head = parse(&target("GET", &target_text));
            assert_eq!(head.parts.uri.query(), Some(query));
        }
    }
    let visible: String = (b'!'..=b'~').map(char::from).collect();
    let all = visible.replace(['"', '#', '<', '>'], "");
    let head = parse(&target("GET", &format!("/?{all}")));
    assert_eq!(head.parts.uri.query(), Some(&all[..]));
}

#[test]
fn letters_above_ascii_are_handed_over_percent_encoded() {
    for (sent, handed_over) in [
        ("/\u{e9}", "/%C3%A9"),
        ("/a\u{e9}b/c", "/a%C3%A9b/c"),
        ("/?q=\u{20ac}&%", "/?q=%E2%82%AC&%"),
        ("/\u{1f986}?\u{80}", "/%F0%9F%A6%86?%C2%80"),
        ("http://b/\u{10ffff}", "http://b/%F4%8F%BF%BF"),
    ] {
        check(
            target("GET", sent),
            &format!("GET {handed_over} HTTP/1.1 Empty KeepAlive"),
        );
    }
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
        let head = format!("POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: {expectation}\r\n\r\n");
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
