//! The trailer section.

use super::*;

/// Expects these fields, in order, after a body with this trailer section.
#[track_caller]
fn check_fields(section: &str, expected: &[(&str, &str)]) {
    let input = format!("5\r\nhello\r\n0\r\n{section}\r\n");
    check(format!("{input}GET"), Ok(("hello", "GET")));
    let mut decoder = Decoder::new(Framing::Chunked, &Limits::default());
    decoder.decode(input.as_bytes(), &mut [0; 5]).unwrap();
    let trailers = decoder.take_trailers();
    let fields: Vec<_> = trailers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    assert_eq!(fields, expected);
    assert!(decoder.take_trailers().is_empty());
}

/// Expects a trailer section to be refused.
#[track_caller]
fn check_refused(section: &str, status: u16, reason: &str) {
    let mut decoder = Decoder::new(Framing::Chunked, &Limits::default());
    let refusal = decoder
        .decode(format!("0\r\n{section}\r\n").as_bytes(), &mut [])
        .unwrap_err();
    assert_eq!((refusal.status.as_u16(), refusal.reason), (status, reason));
    check(format!("0\r\n{section}\r\n"), Err(refusal));
}

#[test]
fn fields_after_the_body_are_returned() {
    check_fields("", &[]);
    check_fields(
        "Digest: abc\r\nX:\tone \r\nX: two\r\nY:\r\n",
        &[("digest", "abc"), ("x", "one"), ("x", "two"), ("y", "")],
    );
}

#[test]
fn fields_that_belong_before_the_body_are_dropped() {
    check_fields(
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\nHOST: evil\r\nX: kept\r\nConnection: close\r\n\
         Authorization: me\r\nTrailer: X\r\nContent-Type: a/b\r\nExpect: 100-continue\r\n",
        &[("x", "kept")],
    );
}

#[test]
fn malformed_fields_are_refused() {
    check_refused(" A: b\r\n", 400, "a field line begins with whitespace");
    check_refused("A: b\r\n c\r\n", 400, "a field line begins with whitespace");
    check_refused(
        "A : b\r\n",
        400,
        "whitespace between a field name and its colon",
    );
    check_refused("A\r\n", 400, "a field line without a colon");
    check_refused(": b\r\n", 400, "a field name is not a token");
    check_refused(
        "A: \0\r\n",
        400,
        "a control character in the trailer section",
    );
    check_refused(
        "A\x7f: b\r\n",
        400,
        "a control character in the trailer section",
    );
}

#[test]
fn a_request_smuggled_as_trailer_is_refused() {
    check_refused(
        "GET /admin HTTP/1.1\r\nHost: a\r\n",
        400,
        "a field line without a colon",
    );
}

#[test]
fn at_most_32_fields_may_come_dropped_ones_included() {
    let fields = "Host: a\r\n".repeat(32);
    check_fields(&fields, &[]);
    check_refused(
        &format!("{fields}Host: a\r\n"),
        431,
        "the trailer section has too many fields",
    );
}

#[test]
fn at_most_8_kib_may_come() {
    let limits = Limits {
        max_trailer_bytes: 10,
        ..Limits::default()
    };
    let check = |section, expected| check_framing(Framing::Chunked, &limits, section, expected);
    check("0\r\nA: b\r\nCC: dd\r\n\r\n", Ok(("", "")));
    let input = "0\r\nA: b\r\nCC: ddd\r\n\r\n";
    let refusal = decode(Framing::Chunked, &limits, &[input.as_bytes()], 1).unwrap_err();
    assert_eq!(
        (refusal.status.as_u16(), refusal.reason),
        (431, "the trailer section is too long")
    );
    check(input, Err(refusal));
    assert_eq!(Limits::default().max_trailer_bytes, 8192);
}
