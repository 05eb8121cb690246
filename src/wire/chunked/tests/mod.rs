//! Tests of the decoder and the encoder of bodies, by the parts of a body.

mod chunks;
mod encoder;
mod extensions;
mod lengths;
mod trailers;

use super::*;

/// Decodes a chunked body in one piece, cut in two at each byte, and byte by byte into an output of
/// one byte, and expects the same each time: the body and the input after it, or a refusal.
#[track_caller]
fn check(input: impl AsRef<[u8]>, expected: Result<(&str, &str), Refusal>) {
    check_framing(Framing::Chunked, &Limits::default(), input, expected);
}

#[track_caller]
fn check_framing(
    framing: Framing,
    limits: &Limits,
    input: impl AsRef<[u8]>,
    expected: Result<(&str, &str), Refusal>,
) {
    let input = input.as_ref();
    let expected =
        expected.map(|(body, rest)| (body.as_bytes().to_vec(), rest.as_bytes().to_vec()));
    let text = input.escape_ascii();
    assert_eq!(
        decode(framing, limits, &[input], 64),
        expected,
        "in one piece: {text}"
    );
    for cut in 0..=input.len() {
        let (first, second) = input.split_at(cut);
        assert_eq!(
            decode(framing, limits, &[first, second], 64),
            expected,
            "cut at {cut}: {text}"
        );
    }
    let bytes: Vec<_> = input.chunks(1).collect();
    assert_eq!(
        decode(framing, limits, &bytes, 1),
        expected,
        "byte by byte: {text}"
    );
    assert_eq!(
        decode(framing, limits, &[input], 1),
        expected,
        "to one byte of output: {text}"
    );
}

/// Decodes a body that arrives in these parts. Returns the body and the input after it, which is
/// [`INCOMPLETE`] if the body has not ended.
fn decode(
    framing: Framing,
    limits: &Limits,
    parts: &[&[u8]],
    room: usize,
) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
    let mut decoder = Decoder::new(framing, limits);
    let (mut input, mut body) = (Vec::new(), Vec::new());
    for part in parts {
        input.extend_from_slice(part);
        loop {
            let mut output = vec![0; room];
            let Decoded { consumed, produced } =
                decoder.decode(&input, &mut output).inspect_err(|refusal| {
                    assert_eq!(
                        decoder.decode(b"0\r\n\r\n", &mut [0]),
                        Err(*refusal),
                        "a refused body stays refused"
                    );
                })?;
            body.extend_from_slice(&output[..produced]);
            input.drain(..consumed);
            if consumed == 0 {
                assert!(
                    input.is_empty() || decoder.is_done(),
                    "the decoder is stuck at {}",
                    input.escape_ascii()
                );
                break;
            }
        }
    }
    Ok(if decoder.is_done() {
        (body, input)
    } else {
        (body, INCOMPLETE.into())
    })
}

const INCOMPLETE: &str = "(incomplete)";
