//! Bytes that no handler reads are never taken for a request.

use std::sync::atomic::Ordering;

use super::support::get;
use super::{SMUGGLED, Victim, statuses};

// nginx CVE-2019-20372, Apache httpd CVE-2022-22720: after an answer that came before the body, the
// body was read as a request.
#[test]
fn an_unread_body_is_never_a_request() {
    let victim = Victim::new();
    for path in ["/unread", "/forbidden"] {
        for method in ["GET", "POST", "DELETE", "OPTIONS", "QUACK"] {
            let declared = format!(
                "{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
                SMUGGLED.len()
            );
            let chunk = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
            let chunked = format!(
                "{method} {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"
            );
            for input in [declared, chunked] {
                assert_eq!(
                    victim.statuses(input.clone() + &get("/") + &input).len(),
                    3,
                    "{input:?}"
                );
            }
        }
        // A body larger than what is collected or dropped, made of nothing but requests.
        let many = SMUGGLED.repeat(50_000);
        for head in [
            format!("Content-Length: {}\r\n\r\n", many.len()),
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", many.len()),
        ] {
            assert_eq!(
                victim
                    .statuses(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{head}{many}"))
                    .len(),
                1
            );
        }
    }
}

// The 0.CL class: a client waits for 100, the server answers at once, and the body comes all the
// same.
#[test]
fn a_body_after_an_answer_in_place_of_100_is_never_a_request() {
    let victim = Victim::new();
    for framing in [
        format!("Content-Length: {}", SMUGGLED.len()),
        "Transfer-Encoding: chunked".to_owned(),
    ] {
        for expectation in ["100-continue", "y 100-continue", "100-continue, x"] {
            let mut client = victim.server.client();
            client.send(format!(
                "POST /forbidden HTTP/1.1\r\nHost: a\r\nExpect: {expectation}\r\n{framing}\r\n\r\n"
            ));
            let answer = client.read_response();
            assert!(
                matches!(answer.status, 403 | 417) && answer.closes(),
                "{answer:?}"
            );
            assert_eq!(statuses(&mut client, SMUGGLED.as_bytes()), [] as [u16; 0]);
        }
    }
    assert_eq!(victim.smuggled.load(Ordering::Relaxed), 0);
}

// Tunnels by h2c and by websockets: a proxy opens one that the server never agreed to.
#[test]
fn bytes_after_an_upgrade_are_http_or_nothing() {
    let victim = Victim::new();
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    for (behind, expected) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[200, 505][..]),
        ("\0\0\x12\x04\0\0\0\0\0", &[200, 400]),
        ("\u{81}\u{85}hello", &[200, 400]),
        ("", &[200]),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[200, 200]),
    ] {
        assert_eq!(
            victim.statuses([upgrade, behind].concat()),
            expected,
            "{behind:?}"
        );
    }
    let connect = "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(victim.statuses([connect, SMUGGLED].concat()), [501]);
}
