//! Properties that hold for whatever bytes a peer sends. Each is a function that panics if its
//! property does not hold.
//!
//! The property tests (`properties.rs`) call these functions with generated messages, and the fuzz
//! targets (`tests/fuzz`) with the inputs of a fuzzer. To compare, this module reads each message a
//! second time, in the simplest possible way and with the whole message at once.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::{Method, Uri, Version};

use super::Refusal;
use super::chunked::{Decoder, LAST_CHUNK, encode_chunk};
use super::framing::Framing;
use super::head::{Head, HeadScan};
use super::persist::Persist;
use crate::settings::Limits;

/// Checks that a head is read the same however it arrives, and that it says what its bytes say.
pub(crate) fn head(bytes: &[u8], pieces: &[usize], limits: &Limits) {
    let text = bytes.escape_ascii();
    let whole = HeadScan::new().parse(bytes, limits);
    assert_eq!(
        summary(&trickle(bytes, pieces, limits)),
        summary(&whole),
        "in pieces of {pieces:?}: {text}"
    );
    match whole {
        Ok(Some(head)) => {
            let before = HeadScan::new().parse(&bytes[..head.len - 1], limits);
            assert_eq!(
                summary(&before),
                summary(&Ok(None)),
                "without its last byte: {text}"
            );
            let alone = HeadScan::new().parse(&bytes[..head.len], limits);
            assert_eq!(
                summary(&alone),
                summary(&Ok(Some(head))),
                "without what follows: {text}"
            );
            check_head(
                &alone
                    .expect("it was no refusal before")
                    .expect("it was complete before"),
                bytes,
                limits,
            );
        }
        Ok(None) => assert!(
            bytes.len() < limits.max_head_bytes,
            "an incomplete head is within the limit: {text}"
        ),
        Err(refusal) => {
            let status = refusal.status.as_u16();
            assert!(
                [400, 414, 417, 421, 431, 501, 505].contains(&status),
                "{refusal:?}: {text}"
            );
            let longer = [bytes, b"\r\n\r\n"].concat();
            let longer = HeadScan::new().parse(&longer, limits);
            assert_eq!(
                summary(&longer),
                summary(&Err(refusal)),
                "whatever follows: {text}"
            );
        }
    }
}

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

/// Checks that the messages on a connection are the same however its bytes arrive: no byte moves
/// from one message to another.
pub(crate) fn connection(bytes: &[u8], pieces: &[usize], limits: &Limits) {
    let text = bytes.escape_ascii();
    let whole = messages(bytes, &[bytes.len().max(1)], limits);
    assert_eq!(
        messages(bytes, pieces, limits),
        whole,
        "in pieces of {pieces:?}: {text}"
    );
    let (mut found, mut rest) = (Vec::new(), bytes);
    // Each message is the same when it is alone, with nothing after it.
    for (message, len) in &whole.messages {
        let alone = messages(&rest[..*len], &[*len], limits);
        assert_eq!(
            (&alone.messages[..], alone.end),
            (&[(message.clone(), *len)][..], alone_end(&whole, &found)),
            "{text}"
        );
        found.push(*len);
        rest = &rest[*len..];
    }
    assert_eq!(
        found.iter().sum::<usize>() + whole.rest,
        bytes.len(),
        "consumed and rest are the input: {text}"
    );
}

/// Returns how the message after `found` ends when it is alone. If the connection is closed after
/// the last message, that message says so itself.
fn alone_end(whole: &Messages, found: &[usize]) -> End {
    let is_last = found.len() + 1 == whole.messages.len();
    if is_last && whole.end == End::Closed {
        End::Closed
    } else {
        End::Open
    }
}

/// Parses a head that arrives in pieces, and returns the first result that is not `None`.
fn trickle(bytes: &[u8], pieces: &[usize], limits: &Limits) -> Result<Option<Head>, Refusal> {
    let mut scan = HeadScan::new();
    let mut before = 0;
    for arrived in ends(bytes, pieces) {
        match scan.parse(&bytes[..arrived], limits) {
            Ok(None) => {
                let blank = bytes[..arrived]
                    .chunks(2)
                    .all(|pair| pair == b"\r\n" || pair == b"\r");
                assert_eq!(
                    scan.is_blank(),
                    blank,
                    "{}",
                    bytes[..arrived].escape_ascii()
                );
            }
            Ok(Some(head)) => {
                assert!(
                    arrived == bytes.len() || head.len > before,
                    "it was complete with the piece before"
                );
                return Ok(Some(head));
            }
            refused => return refused,
        }
        before = arrived;
    }
    Ok(None)
}

/// Compares a head with a simple reading of its bytes, which splits them at the line ends, and each
/// field at the first colon.
fn check_head(head: &Head, bytes: &[u8], limits: &Limits) {
    let Head {
        parts,
        len,
        framing,
        persist,
        expect_continue,
    } = head;
    // Each byte becomes a character, so that bytes above ASCII can be handled like others.
    let raw: String = bytes[..*len].iter().map(|&byte| char::from(byte)).collect();
    assert!(
        *len <= limits.max_head_bytes && raw.ends_with("\r\n\r\n"),
        "{raw:?}"
    );
    assert!(
        !raw.replace("\r\n", "")
            .contains(|char: char| char.is_ascii_control() && char != '\t'),
        "{raw:?}"
    );

    let mut lines = raw.split("\r\n").skip_while(|line| line.is_empty());
    let request_line = lines.next().expect("a head has a request line");
    assert!(
        request_line.len() <= limits.max_request_line_bytes,
        "{raw:?}"
    );
    let words: Vec<_> = request_line.split(' ').collect();
    let [method, target, version] = words[..] else {
        panic!("{} words in {request_line:?}", words.len())
    };
    assert_eq!(parts.method.as_str(), method);
    assert!(parts.method != Method::CONNECT);
    let minor = version
        .strip_prefix("HTTP/1.")
        .expect("its major version is 1");
    assert_eq!(
        parts.version,
        if minor == "0" {
            Version::HTTP_10
        } else {
            Version::HTTP_11
        }
    );

    let mut fields = HeaderMap::new();
    let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    assert!(lines.len() <= limits.max_fields, "{raw:?}");
    for line in lines {
        let (name, value) = line.split_once(':').expect("a field line has a colon");
        let name: HeaderName = name.parse().expect("a field name is a token");
        let value: Vec<_> = value
            .trim_matches([' ', '\t'])
            .chars()
            .map(|char| char as u8)
            .collect();
        fields.append(
            name,
            HeaderValue::from_bytes(&value).expect("a field value has no control characters"),
        );
    }
    let n_hosts = fields.get_all(HOST).iter().count();
    assert!(
        n_hosts == 1 || n_hosts == 0 && parts.version == Version::HTTP_10,
        "{raw:?}"
    );
    check_target(&parts.uri, target);
    if let Some(authority) = parts.uri.authority() {
        // The target's host replaces the field (RFC 9112 section 3.2.2).
        fields.insert(
            HOST,
            authority.as_str().parse().expect("a host is a field value"),
        );
    }
    assert_eq!(parts.headers, fields, "{raw:?}");

    check_framing(*framing, parts.version, &fields);
    let options = list(&fields, &CONNECTION);
    let closes = options.contains(&"close".to_owned())
        || parts.version == Version::HTTP_10 && !options.contains(&"keep-alive".to_owned());
    assert_eq!(*persist == Persist::Close, closes, "{raw:?}");
    assert!(
        !expect_continue || *framing != Framing::Empty && parts.version == Version::HTTP_11,
        "{raw:?}"
    );
}

/// Checks that a target is refused, or that nothing of it is dropped or changed except the case of
/// its scheme.
pub(crate) fn target(method: &Method, target: &[u8]) {
    if let Ok(uri) = super::target::parse(method, target.to_vec().into()) {
        check_target(
            &uri,
            str::from_utf8(target).expect("an accepted target is ASCII"),
        );
    }
}

fn check_target(uri: &Uri, target: &str) {
    let path_and_query = uri
        .path_and_query()
        .map_or("", |path_and_query| path_and_query.as_str());
    let Some(authority) = uri.authority() else {
        return assert_eq!(path_and_query, target);
    };
    let (scheme, rest) = target.split_once("://").expect("a URL has a scheme");
    assert!(
        uri.scheme_str()
            .is_some_and(|found| found.eq_ignore_ascii_case(scheme)),
        "{target:?}"
    );
    let rest = rest
        .strip_prefix(authority.as_str())
        .expect("the host follows the scheme");
    // For a URL without a path, `http` returns a slash in some places and nothing in others.
    let with_path = |text: &str| {
        if text.starts_with('/') {
            text.to_owned()
        } else {
            format!("/{text}")
        }
    };
    assert_eq!(with_path(path_and_query), with_path(rest), "{target:?}");
}

fn check_framing(framing: Framing, version: Version, fields: &HeaderMap) {
    let lengths: Vec<_> = fields.get_all(CONTENT_LENGTH).iter().collect();
    match framing {
        Framing::Chunked => {
            assert_eq!(
                (version, lengths.len()),
                (Version::HTTP_11, 0),
                "{fields:?}"
            );
            assert_eq!(list(fields, &TRANSFER_ENCODING), ["chunked"], "{fields:?}");
        }
        Framing::Length(_) | Framing::Empty => {
            let declared = match lengths[..] {
                [] => 0,
                [length] => length
                    .to_str()
                    .expect("it consists of digits")
                    .parse()
                    .expect("it is a number"),
                _ => panic!("more than one length: {fields:?}"),
            };
            assert!(
                lengths
                    .iter()
                    .all(|length| length.as_bytes().iter().all(u8::is_ascii_digit)),
                "{fields:?}"
            );
            assert_eq!(
                framing,
                if declared == 0 {
                    Framing::Empty
                } else {
                    Framing::Length(declared)
                }
            );
            assert!(!fields.contains_key(TRANSFER_ENCODING), "{fields:?}");
        }
        Framing::UntilClose => panic!("a request does not end with its connection: {fields:?}"),
    }
}

fn list(fields: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = fields
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    values
        .flat_map(|value| {
            value
                .split(',')
                .map(|part| part.trim().to_owned())
                .collect::<Vec<_>>()
        })
        .collect()
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
fn decode_into(
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

/// What was read from the bytes of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Messages {
    /// Each message, with the number of bytes that it took.
    messages: Vec<(String, usize)>,
    end: End,
    /// The number of bytes at the end that belong to no complete message.
    rest: usize,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum End {
    /// Another message may follow.
    Open,
    Closed,
    Refused(Refusal),
}

/// Reads one message after the other, as `conn/` does.
fn messages(bytes: &[u8], pieces: &[usize], limits: &Limits) -> Messages {
    let mut found = Messages {
        messages: Vec::new(),
        end: End::Open,
        rest: 0,
    };
    let (mut begun, mut consumed) = (0, 0);
    let mut scan = HeadScan::new();
    let mut body = None;
    'arrivals: for arrived in ends(bytes, pieces) {
        loop {
            let parsed = match &mut body {
                None => scan
                    .parse(&bytes[consumed..arrived], limits)
                    .map(|head| match head {
                        None => false,
                        Some(head) => {
                            consumed += head.len;
                            body = Some((Decoder::new(head.framing, limits), Vec::new(), head));
                            true
                        }
                    }),
                Some((decoder, content, _)) => {
                    let rooms = &mut std::iter::repeat(512);
                    decode_into(decoder, &bytes[consumed..arrived], rooms, content, limits).map(
                        |n| {
                            consumed += n;
                            decoder.is_done()
                        },
                    )
                }
            };
            match parsed {
                Ok(true) => {}
                Ok(false) => break,
                Err(refusal) => {
                    found.end = End::Refused(refusal);
                    break 'arrivals;
                }
            }
            let Some((mut decoder, content, head)) =
                body.take_if(|(decoder, ..)| decoder.is_done())
            else {
                continue;
            };
            let (trailers, persist) = (decoder.take_trailers(), head.persist);
            let content = content.escape_ascii();
            found.messages.push((
                format!("{} {content} {trailers:?}", summary(&Ok(Some(head)))),
                consumed - begun,
            ));
            begun = consumed;
            scan = HeadScan::new();
            if persist == Persist::Close {
                found.end = End::Closed;
                break 'arrivals;
            }
        }
    }
    found.rest = bytes.len() - begun;
    found
}

/// Returns how many bytes have arrived after each piece. After the last one it is all.
fn ends(bytes: &[u8], pieces: &[usize]) -> impl Iterator<Item = usize> {
    let mut arrived = 0;
    let mut pieces = pieces.iter().copied().cycle();
    std::iter::from_fn(move || {
        let piece = pieces.next().unwrap_or(1).max(1);
        (arrived < bytes.len()).then(|| {
            arrived = bytes.len().min(arrived + piece);
            arrived
        })
    })
}

fn summary(parsed: &Result<Option<Head>, Refusal>) -> String {
    format!("{parsed:?}")
}
