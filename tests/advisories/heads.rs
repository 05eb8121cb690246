//! Where a line, a name, a target and a head end, and which host is meant: every head that two
//! readers could read differently is refused.

use lameduck::IntoResponse;

use super::{SMUGGLED, Victim};

// Go CVE-2019-16276, Netty CVE-2019-16869, Node CVE-2021-22959 and CVE-2024-27982: whitespace
// around a name was cut off, so that a field that other readers pass over framed the body.
#[test]
fn whitespace_before_or_in_a_name_is_refused() {
    Victim::new().refuses_heads([
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Content-Length : 48",
        "Content-Length\t: 48",
        " Content-Length: 48",
        "\tContent-Length: 48",
        "Content Length: 48",
        "Transfer Encoding: chunked",
        " Transfer-Encoding: chunked",
        "X : a",
    ]);
}

// Node CVE-2022-32215: one reader joined folded lines, and another did not.
#[test]
fn a_folded_framing_field_is_refused() {
    Victim::new().refuses_heads([
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r\n , identity",
        "Content-Length:\r\n\t48",
        "Content-Length: 4\r\n 8",
        "X: a\r\n Content-Length: 48",
        "X: a\r\n\tTransfer-Encoding: chunked",
        "X:\r\n \r\n a",
    ]);
}

// Node CVE-2022-32214, CVE-2022-35256 and CVE-2023-30589, waitress CVE-2019-16785, CPython's
// http.server: a bare CR or a bare LF ended a line.
#[test]
fn a_bare_cr_or_lf_ends_no_line() {
    let victim = Victim::new();
    victim.refuses_heads([
        "X: a\nTransfer-Encoding: chunked",
        "X: a\rTransfer-Encoding: chunked",
        "X: a\n\nTransfer-Encoding: chunked",
        "X: a\r\rX: b",
        "X: a\n",
        "X: a\r",
        "\rX: a",
        "\nX: a",
        "X\r: a",
        "X\n: a",
        "X:\ra",
        "X:\na",
        "X: a\r\n\rContent-Length: 48",
        "X: a\r\n\nContent-Length: 48",
    ]);
    for line in [
        "GET / HTTP/1.1\n",
        "GET / HTTP/1.1\r",
        "GET /\n",
        "GET /\rHTTP/1.1\r\n",
        "GET\n/ HTTP/1.1\r\n",
        "\nGET / HTTP/1.1\r\n",
    ] {
        assert_eq!(
            victim.statuses(format!("{line}Host: a\r\n\r\n{SMUGGLED}")),
            [400],
            "{line:?}"
        );
    }
}

// HAProxy CVE-2023-25725 (an empty name ended the head), and parsers that allow more characters in
// a name than a token has.
#[test]
fn a_name_that_is_no_token_is_refused() {
    let victim = Victim::new();
    for byte in (0..=0xff_u8)
        .filter(|byte| !(byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:\r".contains(byte)))
    {
        let input = [
            b"POST / HTTP/1.1\r\nHost: a\r\nX",
            &[byte][..],
            b"Y: b\r\n\r\n",
            SMUGGLED.as_bytes(),
        ]
        .concat();
        assert_eq!(victim.statuses(input), [400], "{byte:#x}");
    }
    victim.refuses_heads([":", ": a", "X", "X\r\n: a"]);
}

// nginx CVE-2013-4547, and many log and access rules since: two readers took characters in a target
// differently.
#[test]
fn a_target_with_whitespace_or_control_characters_is_refused() {
    let victim = Victim::new();
    for byte in (0..=0x20_u8).chain(0x7f..=0xff).chain(*b"\"<>\\`#") {
        let input = [
            b"GET /a",
            &[byte][..],
            b"/b HTTP/1.1\r\nHost: a\r\n\r\n",
            SMUGGLED.as_bytes(),
        ]
        .concat();
        assert_eq!(victim.statuses(input), [400], "{byte:#x}");
    }
    for version in [
        "HTTP/1.1 HTTP/1.1",
        "HTTP/1.32",
        "HTTP/1.1\0",
        " HTTP/1.1",
        "HTTP/1.1 ",
        "HTTP/2",
        "http/1.1",
    ] {
        assert_eq!(
            victim.statuses(format!("GET / {version}\r\nHost: a\r\n\r\n{SMUGGLED}")),
            [400],
            "{version:?}"
        );
    }
}

// Routing attacks: the host by which the proxy routes is not the one that the server sees.
#[test]
fn there_is_one_host_and_it_is_the_targets() {
    let victim = Victim::with(|request, _| {
        let hosts: Vec<_> = request
            .headers()
            .get_all("host")
            .iter()
            .map(|host| host.to_str().unwrap())
            .collect();
        hosts.join("|").into_response()
    });
    for hosts in [
        "Host: a\r\nHost: b",
        "Host: a\r\nhost: a",
        "Host: a, b",
        "Host: a b",
        "Host: b@a",
        "Host: a/b",
        "Host : a",
        " Host: a\r\nHost: b",
        "Host: a\r\n b",
        "Host:",
        "X: a",
    ] {
        assert_eq!(
            victim.statuses(format!("GET / HTTP/1.1\r\n{hosts}\r\n\r\n{SMUGGLED}")),
            [400],
            "{hosts:?}"
        );
    }
    let mut client = victim.server.client();
    client.send("GET http://target/ HTTP/1.1\r\nHost: field\r\n\r\n");
    assert_eq!(client.read_response().text(), "target");
    for target in [
        "http://a@b/",
        "http://a:b@c/",
        "http:///",
        "http://a b/",
        "https://a/",
        "ftp://a/",
        "a:80",
        "@a",
        "*",
    ] {
        let statuses = victim.statuses(format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\n\r\n{SMUGGLED}"
        ));
        assert!(
            matches!(statuses[..], [400 | 421]),
            "{target}: {statuses:?}"
        );
    }
}
