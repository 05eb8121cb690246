//! The request target in its four forms and `Host`: RFC 9112 section 3.2, RFC 9110 sections 4.2,
//! 7.2 and 7.4.

use crate::{Suite, request};

#[test]
fn http_1_1_without_host_is_refused() {
    let suite = Suite::new();
    for line in [
        "GET /",
        "GET http://a/",
        "OPTIONS *",
        "POST /",
        "QUACK /",
        "CONNECT a:80",
        "GET /?x",
    ] {
        suite.refused(format!("{line} HTTP/1.1\r\n\r\n"), 400);
        suite.refused(
            format!("{line} HTTP/1.1\r\nX-Host: a\r\nHosts: a\r\n\r\n"),
            400,
        );
    }
    assert_eq!(suite.closed("GET / HTTP/1.0\r\n\r\n").status, 200);
}

#[test]
fn more_than_one_host_is_refused() {
    let suite = Suite::new();
    for line in [
        "GET / HTTP/1.1",
        "GET / HTTP/1.0",
        "GET http://a/ HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ] {
        for hosts in [
            "Host: a\r\nHost: b",
            "Host: a\r\nHost: a",
            "Host: a\r\nX: b\r\nhost: a",
            "Host:\r\nHost: a",
        ] {
            suite.refused(format!("{line}\r\n{hosts}\r\n\r\n"), 400);
        }
    }
}

#[test]
fn an_invalid_host_is_refused() {
    let suite = Suite::new();
    for host in [
        "a b",
        "a, b",
        "a\tb",
        "a/b",
        "/",
        "a/",
        "http://a",
        "http://a/",
        "//a",
        "u@a",
        "u:p@a",
        "@a",
        "a#b",
        "a?b",
        "a\\b",
        "\"a\"",
        "<a>",
        "a>",
        "{a}",
        "a|b",
        "a^b",
        "a`b",
        "a%",
        "a%2",
        "a%zz",
        "a:b",
        "a:-1",
        "a:+1",
        "a: 80",
        "a :80",
        "a:80:80",
        "a:80a",
        "a:65536",
        "a:99999999999999999999",
        "a:0x50",
        ":80",
        ":",
        "::",
        "::1",
        "[",
        "]",
        "[]",
        "[::1",
        "::1]",
        "[::1]a",
        "[::1]:x",
        "[::1] :80",
        "[1.2.3.4]",
        "[::g]",
        "[:::]",
        "a[",
        "\u{e4}",
        "a\u{a0}",
        "",
    ] {
        for line in ["GET / HTTP/1.1", "GET / HTTP/1.0", "GET http://b/ HTTP/1.1"] {
            suite.refused(format!("{line}\r\nHost: {host}\r\n\r\n"), 400);
        }
    }
}

#[test]
fn a_valid_host_is_accepted_in_each_form() {
    let suite = Suite::new();
    for host in [
        "a",
        "A.example",
        "a.b-c_d~",
        "localhost:8080",
        "a:",
        "a:0",
        "a:65535",
        "127.0.0.1",
        "127.0.0.1:80",
        "[::1]",
        "[::1]:80",
        "[2001:DB8::A]",
        "[::ffff:1.2.3.4]:1",
        "a%20b",
        "xn--bcher-kva.example",
        "a.",
        "1",
    ] {
        let seen = suite.accepted(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert!(
            seen.text().contains(&format!("host: {host}\n")),
            "{}",
            seen.text()
        );
    }
}

#[test]
fn the_origin_form_is_a_path() {
    let suite = Suite::new();
    for target in [
        "/",
        "/a/b?c=d&e",
        "/?",
        "/??",
        "//a/b",
        "/a//b",
        "/.",
        "/../a",
        "/%41%2f%00",
        "/a;b=c",
        "/:80",
        "/http://b/",
        "/*",
        "/a:b@c",
        "/-._~!$&'()*+,;=:@",
        "/?ids[]=7&x={y}|^",
        "/?%",
        "/?a=%zz&100%",
        "/?a\\b`c",
    ] {
        let seen = suite.accepted(request(&format!("GET {target}"), ""));
        assert!(
            seen.text().starts_with(&format!("GET {target} HTTP/1.1\n")),
            "{}",
            seen.text()
        );
    }
    for target in [
        "a",
        "a/b",
        "index.html",
        "?a",
        "#",
        "\\",
        "!",
        "%2f",
        "./a",
        "../a",
        "a:80",
        ";",
        "&",
    ] {
        suite.refused(request(&format!("GET {target}"), ""), 400);
    }
}

#[test]
fn a_target_has_no_fragment_and_no_character_that_must_be_encoded() {
    let suite = Suite::new();
    for target in [
        "/#",
        "/a#b",
        "/?a#b",
        "http://a/#b",
        "http://a#b",
        "/\"",
        "/<a>",
        "/a\\b",
        "/`",
        "/%",
        "/%4",
        "/%zz",
        "/a\\b?c",
        "/%?c",
        "/?\"",
        "/?<a>",
    ] {
        suite.refused(request(&format!("GET {target}"), ""), 400);
    }
    // Bytes above ASCII that are not UTF-8 among them.
    for byte in (0..=0x20).chain(0x7f..=0xff_u8) {
        for before in [&b"/a"[..], b"/?a", b"http://b/a"] {
            suite.refused(
                [b"GET ", before, &[byte], b"c HTTP/1.1\r\nHost: a\r\n\r\n"].concat(),
                400,
            );
        }
    }
}

#[test]
fn the_absolute_form_is_accepted() {
    let suite = Suite::new();
    for (target, uri) in [
        ("http://b/c?d", "http://b/c?d"),
        ("http://b", "http://b/"),
        ("http://b?c", "http://b/?c"),
        ("HTTP://b/", "http://b/"),
        ("http://b:80/", "http://b:80/"),
        ("http://b:/", "http://b:/"),
        ("http://[::1]:80/", "http://[::1]:80/"),
    ] {
        let seen = suite.accepted(request(&format!("GET {target}"), ""));
        assert!(
            seen.text().starts_with(&format!("GET {uri} HTTP/1.1\n")),
            "{target}: {}",
            seen.text()
        );
    }
}

#[test]
fn the_host_of_the_absolute_form_replaces_the_field() {
    let suite = Suite::new();
    for (target, host) in [
        ("http://b/", "b"),
        ("http://b:81/", "b:81"),
        ("http://[::1]/", "[::1]"),
    ] {
        let seen = suite.accepted(format!("GET {target} HTTP/1.1\r\nHost: other:1\r\n\r\n"));
        assert!(
            seen.text().contains(&format!("host: {host}\n")),
            "{}",
            seen.text()
        );
        assert!(!seen.text().contains("other"), "{}", seen.text());
    }
    let seen = suite.closed("GET http://b/ HTTP/1.0\r\n\r\n");
    assert!(seen.text().contains("host: b\n"), "{}", seen.text());
}

#[test]
fn an_absolute_form_without_a_valid_host_is_refused() {
    let suite = Suite::new();
    for url in [
        "http://",
        "http:///",
        "http:///a",
        "http://:80/",
        "http://?a",
        "http:/a",
        "http:a",
        "http://u@b/",
        "http://u:p@b/",
        "http://@b/",
        "http://b:x/",
        "http://b:-1/",
        "http://b:65536/",
        "http://[::1/",
        "http://[]/",
        "http://b c/",
        "http://b\\c/",
        "http://b%/",
    ] {
        suite.refused(request(&format!("GET {url}"), ""), 400);
    }
    for url in [
        "ftp://a/",
        "file:///a",
        "ws://a/",
        "urn:a:b",
        "mailto:a@b",
        "javascript:1",
        "://a/",
        "1http://a/",
    ] {
        suite.refused(request(&format!("GET {url}"), ""), 400);
    }
}

#[test]
fn an_https_url_over_a_connection_that_is_not_secured_is_421() {
    let suite = Suite::new();
    for url in ["https://a/", "HTTPS://a/b", "https://a:443/"] {
        suite.refused(request(&format!("GET {url}"), ""), 421);
    }
}

#[test]
fn the_asterisk_form_is_for_options_alone() {
    let suite = Suite::new();
    let seen = suite.accepted(request("OPTIONS *", ""));
    assert!(
        seen.text().starts_with("OPTIONS * HTTP/1.1\n"),
        "{}",
        seen.text()
    );
    for line in [
        "GET *",
        "HEAD /*?",
        "POST *",
        "options *",
        "QUACK *",
        "OPTIONS **",
        "OPTIONS *?a",
        "OPTIONS *a",
    ] {
        match line {
            "HEAD /*?" => assert_eq!(suite.client().head("/*?").status, 200),
            _ => _ = suite.refused(request(line, ""), 400),
        }
    }
}

#[test]
fn the_authority_form_is_for_connect_alone() {
    let suite = Suite::new();
    for line in [
        "GET a:80",
        "POST a:443",
        "OPTIONS a:80",
        "GET [::1]:80",
        "GET 127.0.0.1:80",
        "connect a:80",
    ] {
        suite.refused(request(line, ""), 400);
    }
}

#[test]
fn connect_is_501_and_malformed_400() {
    let suite = Suite::new();
    for target in ["a:80", "127.0.0.1:443", "[::1]:443"] {
        suite.refused(request(&format!("CONNECT {target}"), ""), 501);
    }
    for target in [
        "a",
        "a:",
        ":80",
        "a:x",
        "a:65536",
        "a:99999999",
        "/",
        "*",
        "http://a:80/",
        "u@a:80",
        "a:80/",
        "a:80:80",
    ] {
        suite.refused(request(&format!("CONNECT {target}"), ""), 400);
    }
    // Nothing of what a tunnel would carry is taken for a request.
    suite.refused(
        request("CONNECT a:80", "") + &request("GET /inside", ""),
        501,
    );
}
