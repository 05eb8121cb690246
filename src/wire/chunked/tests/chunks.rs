//! The framing of chunks.

use super::*;

#[test]
fn a_body_is_put_together_from_its_chunks() {
    check(
        "5\r\nhello\r\n1\r\n,\r\n6\r\n world\r\n0\r\n\r\nGET",
        Ok(("hello, world", "GET")),
    );
}

#[test]
fn a_body_may_be_empty() {
    check("0\r\n\r\n", Ok(("", "")));
    check("000\r\n\r\n\r\n", Ok(("", "\r\n")));
}

#[test]
fn sizes_are_hexadecimal() {
    let data = "x".repeat(0x1a);
    for size in ["1a", "1A", "001a", "000000000000001a"] {
        check(format!("{size}\r\n{data}\r\n0\r\n\r\n"), Ok((&data, "")));
    }
}

#[test]
fn data_may_look_like_framing() {
    check("7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", Ok(("\r\n0\r\n\r\n", "")));
}

#[test]
fn the_largest_size_there_is_allocates_nothing() {
    check("ffffffffffffffff\r\nhello", Ok(("hello", INCOMPLETE)));
}

#[test]
fn the_end_is_reached_without_room_for_output() {
    let mut decoder = Decoder::new(Framing::Chunked, &Limits::default());
    let input = b"2;a=b\r\nhi\r\n0\r\nA: b\r\n\r\nGET";
    assert_eq!(
        decoder.decode(input, &mut []),
        Ok(Decoded {
            consumed: 7,
            produced: 0
        })
    );
    assert_eq!(
        decoder.decode(&input[7..], &mut [0; 2]),
        Ok(Decoded {
            consumed: 15,
            produced: 2
        })
    );
    assert!(decoder.is_done());
}

#[test]
fn a_size_is_hexadecimal_digits_and_nothing_else() {
    for size in [
        "", "+5", "-5", "0x5", "5h", "5_0", "x", " 5", "\t5", "\"5\"", "5.0", "\r", ";a=b",
        "\u{b2}", "\0", "G",
    ] {
        check(format!("{size}\r\nhello\r\n0\r\n\r\n"), Err(SIZE));
    }
}

#[test]
fn a_size_that_does_not_fit_is_refused() {
    check("10000000000000000\r\n", Err(SIZE_TOO_LARGE));
    check("00000000000000005\r\nhello", Err(SIZE_TOO_LARGE));
    check("fffffffffffffffff\r\n", Err(SIZE_TOO_LARGE));
}

#[test]
fn lf_alone_ends_no_line() {
    check("5\nhello\r\n0\r\n\r\n", Err(LINE_END));
    check("5;a\nhello\r\n0\r\n\r\n", Err(LINE_END));
    check("5;a=\"\nhello\r\n0\r\n\r\n", Err(LINE_END));
    check("\n", Err(LINE_END));
    check("0\r\n\n", Err(LINE_END));
    check("0\r\nA: b\n\r\n", Err(LINE_END));
}

#[test]
fn cr_alone_ends_no_line() {
    check("5\rhello\r\n0\r\n\r\n", Err(LINE_END));
    check("5\r\r\nhello\r\n0\r\n\r\n", Err(LINE_END));
    check("5;a\rhello\r\n0\r\n\r\n", Err(LINE_END));
    check("5;a=\"\r\"\r\nhello\r\n0\r\n\r\n", Err(EXTENSION));
    check("0\r\n\rG", Err(LINE_END));
    check("0\r\nA: b\rC: d\r\n\r\n", Err(LINE_END));
}

#[test]
fn data_longer_or_shorter_than_its_size_is_refused() {
    check("4\r\nhello\r\n0\r\n\r\n", Err(DATA_END));
    check("5\r\nhello0\r\n\r\n", Err(DATA_END));
    check("5\r\nhello\n0\r\n\r\n", Err(DATA_END));
    check("5\r\nhello\rX", Err(DATA_END));
    check("6\r\nhello\r\n0\r\n\r\n", Err(DATA_END));
}

#[test]
fn an_incomplete_body_waits_for_more() {
    let whole = "5\r\nhello\r\n0;a=\"b\"\r\nA: b\r\n\r\n";
    for len in 0..whole.len() {
        let body = &"hello"[..len.saturating_sub(3).min(5)];
        check(&whole[..len], Ok((body, INCOMPLETE)));
    }
    check(whole, Ok(("hello", "")));
}
