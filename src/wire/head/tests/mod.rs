//! Tests of heads: those that are accepted, those that are refused, and those that are incomplete.

mod accepted;
mod fields_refused;
mod incomplete;
mod limits;
mod lines_refused;
mod request_line_refused;

use super::*;

/// Parses a head in one piece, cut in two at each byte, and byte by byte, and expects the same each
/// time: the request in short, or the refusal.
#[track_caller]
fn check(input: impl AsRef<[u8]>, expected: &str) {
    check_within(&Limits::default(), input, expected);
}

#[track_caller]
fn check_within(limits: &Limits, input: impl AsRef<[u8]>, expected: &str) {
    let input = input.as_ref();
    let text = input.escape_ascii();
    let whole = HeadScan::new().parse(input, limits);
    assert_eq!(summary(&whole), expected, "in one piece: {text}");

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

/// Parses a head byte by byte. Returns the first result that is not `None`, and how many bytes that
/// took.
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

/// Returns a GET request with a `Host` field and this line.
fn get(field: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")
}

/// Returns a POST request with a `Host` field and this line.
fn post(field: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n")
}

/// Returns a request for this target.
fn target(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn parse(input: &str) -> Head {
    HeadScan::new()
        .parse(input.as_bytes(), &Limits::default())
        .unwrap()
        .unwrap()
}
