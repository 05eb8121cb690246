//! The properties of bodies.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};

use super::ends;
use crate::settings::Limits;
use crate::wire::Refusal;
use crate::wire::chunked::{Decoder, LAST_CHUNK, encode_chunk};
use crate::wire::framing::Framing;

/// Checks that a body of any framing is read the same however it arrives and whatever room there is
/// for it: nothing is lost, nothing is read twice, and no more is kept than the limits allow.
pub(crate) fn body(
    framing: Framing,
    bytes: &[u8],
    pieces: &[usize],
    rooms: &[usize],
    limits: &Limits,
) {
    let text = bytes.escape_ascii();
    let whole = decode(
        framing,
        bytes,
        &[bytes.len().max(1)],
        &[bytes.len()],
        limits,
    );
    let cut = decode(framing, bytes, pieces, rooms, limits);
    assert_eq!(cut, whole, "in pieces of {pieces:?} into {rooms:?}: {text}");
    let Ok(decoded) = whole else { return };
    let (content, rest) = (&decoded.content, &bytes[decoded.consumed..]);
    match framing {
        Framing::Empty => assert!(decoded.is_done && decoded.consumed == 0 && content.is_empty()),
        Framing::Length(len) => {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            assert_eq!(
                (&content[..], decoded.is_done),
                (&bytes[..len.min(bytes.len())], len <= bytes.len())
            );
            assert_eq!(content.len() + rest.len(), bytes.len());
        }
        Framing::UntilClose => assert_eq!((&content[..], decoded.is_done), (bytes, false)),
        Framing::Chunked if decoded.is_done => {
            let (expected, trailers, expected_rest) =
                dechunk(bytes).unwrap_or_else(|| panic!("this is no chunked body: {text}"));
            assert_eq!(
                (&content[..], rest),
                (&expected[..], expected_rest),
                "{text}"
            );
            check_trailers(&decoded.trailers, &trailers, limits);
            let mut again = Vec::new();
            encode_chunk(content, &mut again);
            again.extend_from_slice(LAST_CHUNK);
            let again = decode(framing, &again, pieces, rooms, limits)
                .expect("the output of the encoder is valid");
            assert_eq!((&again.content, again.is_done), (content, true));
        }
        Framing::Chunked => assert!(
            rest.is_empty(),
            "an incomplete body consumes all of its input: {text}"
        ),
    }
}

/// Checks that the fields found after a body are those that were sent there, without those that
/// must not come after a body.
fn check_trailers(found: &HeaderMap, sent: &HeaderMap, limits: &Limits) {
    assert!(sent.len() <= limits.max_trailer_fields, "{sent:?}");
    for name in sent.keys() {
        let values = |fields: &HeaderMap| fields.get_all(name).iter().cloned().collect::<Vec<_>>();
        // Fields that begin with `x` have no meaning, so they are allowed after a body.
        let is_unknown = name.as_str().starts_with('x');
        assert!(
            values(found) == values(sent) || !is_unknown && !found.contains_key(name),
            "{found:?} of {sent:?}"
        );
    }
    assert!(
        found.keys().all(|name| sent.contains_key(name)),
        "{found:?} of {sent:?}"
    );
    assert!(
        [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, CONNECTION]
            .iter()
            .all(|name| !found.contains_key(name))
    );
}

/// Reads a complete chunked body. Returns its content, its trailer fields and the bytes after it,
/// or `None` if it is no chunked body.
fn dechunk(mut bytes: &[u8]) -> Option<(Vec<u8>, HeaderMap, &[u8])> {
    let mut content = Vec::new();
    loop {
        let line = take_line(&mut bytes)?;
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let extension = &line[digits..];
        if !(extension.is_empty() || b"; \t".contains(&extension[0])) || extension.contains(&b'\n')
        {
            return None;
        }
        let size = usize::from_str_radix(str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
        if size == 0 {
            let mut trailers = HeaderMap::new();
            loop {
                let line = take_line(&mut bytes)?;
                if line.is_empty() {
                    return Some((content, trailers, bytes));
                }
                let colon = line.iter().position(|byte| *byte == b':')?;
                let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
                trailers.append(HeaderName::from_bytes(&line[..colon]).ok()?, value);
            }
        }
        content.extend_from_slice(bytes.get(..size)?);
        bytes = bytes[size..].strip_prefix(b"\r\n")?;
    }
}

/// Takes the first line off `bytes`, and returns it without its end.
fn take_line<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &bytes[..end];
    *bytes = &bytes[end + 2..];
    Some(line)
}

/// What a decoder has made of its input.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    content: Vec<u8>,
    consumed: usize,
    is_done: bool,
    trailers: HeaderMap,
}

fn decode(
    framing: Framing,
    bytes: &[u8],
    pieces: &[usize],
    rooms: &[usize],
    limits: &Limits,
) -> Result<Decoded, Refusal> {
    let mut decoder = Decoder::new(framing, limits);
    let mut rooms = rooms.iter().copied().cycle();
    let (mut content, mut consumed) = (Vec::new(), 0);
    for arrived in ends(bytes, pieces) {
        consumed += decode_into(
            &mut decoder,
            &bytes[consumed..arrived],
            &mut rooms,
            &mut content,
            limits,
        )?;
    }
    let is_done = decoder.is_done();
    Ok(Decoded {
        content,
        consumed,
        is_done,
        trailers: decoder.take_trailers(),
    })
}

/// Decodes all of `input` that belongs to the body, and returns how much that was.
pub(super) fn decode_into(
    decoder: &mut Decoder,
    input: &[u8],
    rooms: &mut impl Iterator<Item = usize>,
    content: &mut Vec<u8>,
    limits: &Limits,
) -> Result<usize, Refusal> {
    let mut consumed = 0;
    while consumed < input.len() && !decoder.is_done() {
        // Without room the decoder comes to just before the next byte of content. The second call
        // has room for one.
        for room in [rooms.next().unwrap_or(1), 1] {
            let mut output = vec![0; room];
            let decoded = decoder
                .decode(&input[consumed..], &mut output)
                .inspect_err(|refusal| {
                    let again = decoder.decode(b"0\r\n\r\n", &mut []);
                    assert_eq!(again, Err(*refusal), "a refused body stays refused");
                })?;
            assert!(
                decoded.consumed >= decoded.produced,
                "no more is produced than consumed"
            );
            consumed += decoded.consumed;
            content.extend_from_slice(&output[..decoded.produced]);
            // A line is a vector that grows by doubling, and may be the only one.
            assert!(
                decoder.bytes_kept() <= 2 * limits.max_trailer_bytes + 8,
                "{} bytes are kept",
                decoder.bytes_kept()
            );
        }
    }
    Ok(consumed)
}
