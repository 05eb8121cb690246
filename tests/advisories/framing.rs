//! Where a request's body ends: no spelling of a coding or a length is read in two ways.

use super::support::pattern;
use super::{SMUGGLED, Victim};

// gunicorn CVE-2024-1135 and CVE-2024-6827 (a coding it did not know made it fall back to the
// length), Node CVE-2019-15605, tiny_http RUSTSEC-2020-0031, Go CVE-2022-1705, waitress
// CVE-2019-16786: malformed codings were taken for `chunked`, or for no coding, with a length
// beside them or without.
#[test]
fn no_spelling_of_a_transfer_coding_is_taken_for_another() {
    let codings = [
        "chunked, chunked",
        "chunked,chunked",
        "chunked, identity",
        "identity, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "gzip",
        "identity",
        "xchunked",
        "chunkedx",
        "x-chunked",
        "chunk",
        "\"chunked\"",
        "'chunked'",
        "chunked;q=1",
        "chunked;",
        ";chunked",
        "chunked,",
        ",chunked",
        "chunked ,",
        "",
        ",",
        "chunked\x0b",
        "\x0bchunked",
        "\x0cchunked",
        "chunked\0",
        "\x01chunked",
        "chunked\x7f",
        "chun\tked",
        "c hunked",
        "\u{a0}chunked",
        "chunked\u{85}",
        "cow, chunked",
        "chunked, cow",
        "chunked=1",
        "[chunked]",
        "chunked/1.1",
        "none",
        "0",
        "chun\rked",
        "chunked\r",
        "chun\nked",
    ];
    let victim = Victim::new();
    for coding in codings {
        victim.refuses_heads([format!("Transfer-Encoding: {coding}").as_str()]);
        for length in [0, 5, 48] {
            victim.refuses_heads([
                format!("Transfer-Encoding: {coding}\r\nContent-Length: {length}").as_str(),
                format!("Content-Length: {length}\r\nTransfer-Encoding: {coding}").as_str(),
            ]);
        }
    }
}

// The class that is named CL.TE and TE.CL: RFC 9112 section 6.1 lets the coding win, which is no
// protection when the other reader lets the length win.
#[test]
fn a_coding_and_a_length_together_are_refused() {
    let victim = Victim::new();
    for coding in [
        "chunked",
        "Chunked",
        "CHUNKED",
        "\tchunked",
        "chunked\t",
        "chunked \t",
    ] {
        for length in ["0", "4", "5", "6", "48", "00", "99999"] {
            let (coding, length) = (
                format!("Transfer-Encoding: {coding}"),
                format!("Content-Length: {length}"),
            );
            victim.refuses_heads([
                format!("{coding}\r\n{length}").as_str(),
                format!("{length}\r\nX: a\r\n{coding}").as_str(),
            ]);
        }
    }
}

// Node CVE-2020-8287, hyper RUSTSEC-2021-0020 (CVE-2021-21299), Tornado GHSA-753j-mpmx-qq6g: of two
// fields only one was looked at.
#[test]
fn two_transfer_encoding_fields_are_refused() {
    Victim::new().refuses_heads([
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nX: a\r\ntransfer-encoding:",
    ]);
}

// Tornado GHSA-qppv-j76h-2rpx, hyper RUSTSEC-2021-0078 (CVE-2021-32715), aiohttp CVE-2023-47627,
// Tomcat CVE-2022-42252, HAProxy CVE-2023-40225, Puma CVE-2023-40175: lengths that are no numbers
// were taken for some.
#[test]
fn a_length_that_is_no_number_is_refused() {
    let victim = Victim::new();
    for length in [
        "+48", "-48", "-0", "+0", "0x30", "0X30", "060h", "4_8", "4 8", "4\t8", "48,", ",48",
        "48;", "48.0", "4.8e1", "\"48\"", "", " ", "abc", "48\x0b", "48\0", "\u{661}", "0b110000",
        "0o60", "48\u{a0}", "1e1", "٤٨",
    ] {
        victim.refuses_heads([format!("Content-Length: {length}").as_str()]);
    }
}

// Go CVE-2015-5740, waitress CVE-2019-16792, Jetty CVE-2017-7658: of two lengths one was taken, or
// they were joined.
#[test]
fn two_lengths_are_refused_though_they_agree() {
    Victim::new().refuses_heads([
        "Content-Length: 48\r\nContent-Length: 0",
        "Content-Length: 0\r\nContent-Length: 48",
        "Content-Length: 48\r\nContent-Length: 48",
        "Content-Length: 48, 48",
        "Content-Length: 0, 48",
        "Content-Length: 48,0",
        "Content-Length:\r\nContent-Length: 48",
        "Content-Length: 48\r\ncontent-length: 48",
        "Content-Length: 0\r\nX: a\r\nContent-Length: 0",
    ]);
}

// tiny_http died of a length of 9223372036854775807, and other servers of lengths that their
// integers could not hold.
#[test]
fn a_length_at_the_edge_of_an_integer_is_waited_for_or_refused() {
    let victim = Victim::new();
    for length in [
        "2147483647",
        "2147483648",
        "4294967295",
        "4294967296",
        "9223372036854775807",
    ] {
        for path in ["/", "/unread", "/forbidden"] {
            for expectation in ["", "Expect: 100-continue\r\n"] {
                let head = format!(
                    "POST {path} HTTP/1.1\r\nHost: a\r\n{expectation}Content-Length: {length}\r\n\r\n"
                );
                let statuses = victim.statuses(head.clone() + SMUGGLED);
                assert_eq!(statuses, [400], "the body is not complete: {head}");
                // More bytes than are collected, so that the handler is called.
                let statuses = victim
                    .statuses([head.as_bytes(), &pattern(100_000), SMUGGLED.as_bytes()].concat());
                assert_eq!(statuses.len(), 1, "{head}");
            }
        }
    }
    for length in [
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551664",
        "36893488147419103280",
        "340282366920938463463374607431768211456",
    ] {
        victim.refuses_heads([format!("Content-Length: {length}").as_str()]);
    }
    assert_eq!(victim.server.client().get("/").status, 200);
}
