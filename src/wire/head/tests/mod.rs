//! Every head is read the same however it is cut into pieces.

mod accepted;
mod fields_refused;
mod limits;
mod lines_refused;
mod request_line_refused;

use std::fmt::Write as _;

use super::*;

/// Reads a head whole, cut in two at each byte, and byte by byte, and expects the same each time: a
/// summary of the request, or the refusal.
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

/// Reads a head that comes byte by byte: the first verdict on it, and after how many bytes.
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
                // Which of two faults is seen first depends on the cuts.
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
