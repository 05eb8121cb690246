//! Fields that are refused although their lines are whole: hosts, expectations and framing.

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
