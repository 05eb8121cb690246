//! Bodies of a declared length, without a body, or up to the end of the connection.

use super::*;

#[test]
fn a_body_ends_where_its_length_says() {
    check_framing(
        Framing::Length(5),
        &Limits::default(),
        "helloGET",
        Ok(("hello", "GET")),
    );
    check_framing(
        Framing::Length(5),
        &Limits::default(),
        "hell",
        Ok(("hell", INCOMPLETE)),
    );
}

#[test]
fn an_empty_body_is_done_at_once() {
    for framing in [Framing::Empty, Framing::Length(0)] {
        assert!(Decoder::new(framing, &Limits::default()).is_done());
        check_framing(framing, &Limits::default(), "GET", Ok(("", "GET")));
    }
}

#[test]
fn a_body_until_the_connection_closes_is_never_done() {
    check_framing(
        Framing::UntilClose,
        &Limits::default(),
        "hello",
        Ok(("hello", INCOMPLETE)),
    );
}

#[test]
fn the_rest_is_known_for_a_declared_length_only() {
    let mut decoder = Decoder::new(Framing::Length(u64::MAX), &Limits::default());
    assert_eq!(
        decoder.decode(b"hello", &mut [0; 3]),
        Ok(Decoded {
            consumed: 3,
            produced: 3
        })
    );
    assert_eq!(decoder.remaining(), Some(u64::MAX - 3));
    assert_eq!(
        Decoder::new(Framing::Empty, &Limits::default()).remaining(),
        Some(0)
    );
    assert_eq!(
        Decoder::new(Framing::Chunked, &Limits::default()).remaining(),
        None
    );
}
