//! The encoder of chunks.

use super::*;

#[track_caller]
fn check(data: &[u8], expected: &str) {
    let mut out = b"before ".to_vec();
    encode_chunk(data, &mut out);
    assert_eq!(str::from_utf8(&out).unwrap(), format!("before {expected}"));
}

#[test]
fn a_chunk_is_its_size_and_its_data() {
    check(b"x", "1\r\nx\r\n");
    check(b"0123456789abcde", "f\r\n0123456789abcde\r\n");
    check(b"0123456789abcdef", "10\r\n0123456789abcdef\r\n");
    check(&[b'x'; 0xabc], &format!("abc\r\n{}\r\n", "x".repeat(0xabc)));
    check(
        &[b'x'; 0x1000],
        &format!("1000\r\n{}\r\n", "x".repeat(0x1000)),
    );
}

#[test]
fn empty_data_is_no_chunk() {
    check(b"", "");
}

#[test]
fn what_is_encoded_can_be_decoded() {
    let mut out = Vec::new();
    for len in 0..100 {
        encode_chunk(&vec![b'x'; len], &mut out);
    }
    out.extend_from_slice(LAST_CHUNK);
    let decoded = decode(Framing::Chunked, &Limits::default(), &[&out], 64);
    assert_eq!(decoded, Ok((vec![b'x'; (0..100).sum()], Vec::new())));
}
