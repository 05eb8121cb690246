//! What is known about heads that are still incomplete, and heads that arrive in pieces.

use super::*;

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
