//! Checks the properties of `oracle.rs`, and a few more, with generated messages: valid ones,
//! nearly valid ones, and any bytes.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::chunked::{Decoder, LAST_CHUNK, encode_chunk};
use super::framing::{Framing, response_framing};
use super::oracle;
use super::reply::{Connection, FieldCase, ReplyHead, write_head, write_refusal};
use crate::settings::Limits;

#[path = "../../tests/support/generators.rs"]
mod generators;
use generators::{chunked, config, pieces, request, stream};

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn a_head_is_the_same_however_it_arrives(
        bytes in request(),
        pieces in pieces(),
        limits in limits(),
    ) {
        oracle::head(&bytes, &pieces, &limits);
    }

    #[test]
    fn a_chunked_body_is_the_same_however_it_arrives(
        bytes in chunked(),
        pieces in pieces(),
        rooms in vec(0..50_usize, 1..5),
        limits in limits(),
    ) {
        oracle::body(Framing::Chunked, &bytes, &pieces, &rooms, &limits);
    }

    #[test]
    fn a_connection_has_the_same_messages_however_they_arrive(
        bytes in stream(),
        pieces in pieces(),
        limits in limits(),
    ) {
        oracle::connection(&bytes, &pieces, &limits);
    }

    #[test]
    fn any_bytes_are_a_head_or_a_refusal(
        bytes in vec(any::<u8>(), 0..120),
        pieces in pieces(),
        limits in limits(),
    ) {
        oracle::head(&bytes, &pieces, &limits);
    }

    #[test]
    fn any_bytes_are_a_chunked_body_or_a_refusal(
        bytes in vec(any::<u8>(), 0..120),
        pieces in pieces(),
    ) {
        oracle::body(Framing::Chunked, &bytes, &pieces, &[7, 0, 1], &Limits::default());
    }

    #[test]
    fn a_body_of_a_declared_length_is_that_many_bytes(
        bytes in vec(any::<u8>(), 0..120),
        len in prop_oneof![0..150_u64, any::<u64>()],
        pieces in pieces(),
        rooms in vec(0..50_usize, 1..5),
    ) {
        for framing in [Framing::Length(len), Framing::Empty, Framing::UntilClose] {
            oracle::body(framing, &bytes, &pieces, &rooms, &Limits::default());
        }
    }

    #[test]
    fn any_target_is_kept_as_it_is_or_refused(
        start in select(vec![
            &b""[..],
            b"/",
            b"http://",
            b"http://a",
            b"http://a/",
            b"https://[::1]:8/",
            b"*",
        ]),
        bytes in vec(
            prop_oneof![
                4 => (0x21..0x7f_u8).prop_map(|byte| vec![byte]),
                1 => any::<u8>().prop_map(|byte| vec![byte]),
                1 => any::<char>().prop_map(|char| char.to_string().into_bytes()),
            ],
            0..20,
        ),
    ) {
        let bytes = [start, &bytes.concat()].concat();
        for method in [Method::GET, Method::OPTIONS] {
            oracle::target(&method, &bytes);
        }
    }

    #[test]
    fn what_is_encoded_in_chunks_is_decoded_to_the_same(
        parts in vec(vec(any::<u8>(), 0..300), 0..8),
        pieces in pieces(),
        rooms in vec(0..300_usize, 1..5),
    ) {
        let mut encoded = Vec::new();
        for part in &parts {
            encode_chunk(part, &mut encoded);
        }
        encoded.extend_from_slice(LAST_CHUNK);
        oracle::body(Framing::Chunked, &encoded, &pieces, &rooms, &Limits::default());

        let mut content = vec![0; encoded.len()];
        let mut decoder = Decoder::new(Framing::Chunked, &Limits::default());
        let decoded = decoder
            .decode(&encoded, &mut content)
            .expect("the output of the encoder is valid");
        content.truncate(decoded.produced);
        prop_assert!(decoder.is_done());
        prop_assert_eq!((decoded.consumed, content), (encoded.len(), parts.concat()));
    }

    #[test]
    fn a_written_head_says_what_was_put_in_and_frames_it(
        fields in vec((name(), value()), 0..12),
        status in 200..600_u16,
        method in select(vec![Method::GET, Method::HEAD, Method::POST]),
        version in select(vec![Version::HTTP_10, Version::HTTP_11]),
        connection in select(vec![Connection::KeepAlive, Connection::Close]),
        body_len in prop_oneof![Just(None), any::<u64>().prop_map(Some)],
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        let status = StatusCode::from_u16(status).expect("it has three digits");
        let framing = response_framing(&method, version, status, body_len);
        let head = ReplyHead {
            status,
            request_version: version,
            framing,
            connection,
            date: DATE,
            unsent_len: body_len,
            case: FieldCase::Lower,
        };
        let mut out = Vec::new();
        write_head(&mut out, &head, &headers);
        let fields = read_back(&out, status)?;

        check_fields(fields, &head, &headers)?;
    }

    #[test]
    fn a_refusal_reads_back(
        reason in "[ -~]{0,40}",
        status in 400..600_u16,
        with_body: bool,
    ) {
        let status = StatusCode::from_u16(status).expect("it has three digits");
        let mut out = Vec::new();
        let extra = [(http::header::RETRY_AFTER, "1")];
        write_refusal(&mut out, status, &reason, DATE, &extra, with_body);
        let head_len = out.len() - if with_body { reason.len() + 1 } else { 0 };
        let fields = read_back(&out[..head_len], status)?;
        prop_assert_eq!(fields.len(), 5);
        let body = if with_body { format!("{reason}\n") } else { String::new() };
        prop_assert_eq!(&out[head_len..], body.as_bytes());
    }
}

type Fields<'a> = Vec<(&'a str, Vec<u8>)>;

/// Reads a response's head with another parser, as a client does.
fn read_back(out: &[u8], status: StatusCode) -> Result<Fields<'_>, TestCaseError> {
    let mut fields = [httparse::EMPTY_HEADER; 40];
    let mut response = httparse::Response::new(&mut fields);
    prop_assert_eq!(
        response.parse(out),
        Ok(httparse::Status::Complete(out.len()))
    );
    prop_assert_eq!(
        (response.version, response.code),
        (Some(1), Some(status.as_u16()))
    );
    prop_assert_eq!(
        response.reason,
        Some(status.canonical_reason().unwrap_or(""))
    );
    for (at, byte) in out.iter().enumerate() {
        match byte {
            b'\r' => prop_assert_eq!(out.get(at + 1), Some(&b'\n'), "a bare CR"),
            b'\n' => prop_assert_eq!(
                at.checked_sub(1).map(|before| out[before]),
                Some(b'\r'),
                "a bare LF"
            ),
            _ => {}
        }
    }
    // There is one line for the status, one for each field, and the empty one.
    let lines = out.iter().filter(|byte| **byte == b'\n').count();
    prop_assert_eq!(lines, response.headers.len() + 2);
    Ok(response
        .headers
        .iter()
        .map(|field| (lower(field.name), field.value.to_vec()))
        .collect())
}

/// Checks that the server's own fields are those that the server writes, with the right framing,
/// and that all other fields are as the handler set them.
fn check_fields(
    fields: Fields<'_>,
    head: &ReplyHead<'_>,
    headers: &HeaderMap,
) -> Result<(), TestCaseError> {
    let (ours, theirs): (Fields<'_>, Fields<'_>) = fields
        .into_iter()
        .partition(|(name, _)| SERVER_FIELDS.contains(name));
    let expected = headers
        .iter()
        .filter(|(name, _)| !SERVER_FIELDS.contains(&name.as_str()));
    let expected: Fields<'_> = expected
        .map(|(name, value)| (name.as_str(), value.as_bytes().trim_ascii().to_vec()))
        .collect();
    prop_assert_eq!(theirs, expected);

    let is_closed = head.connection == Connection::Close || head.framing == Framing::UntilClose;
    let upgrades = head.status == StatusCode::UPGRADE_REQUIRED && headers.contains_key("upgrade");
    let connection = match (is_closed, upgrades) {
        (true, true) => Some("close, upgrade"),
        (true, false) => Some("close"),
        (false, true) if head.request_version == Version::HTTP_10 => Some("keep-alive, upgrade"),
        (false, true) => Some("upgrade"),
        (false, false) => (head.request_version == Version::HTTP_10).then_some("keep-alive"),
    };
    let len = match head.framing {
        Framing::Length(len) => Some(len),
        Framing::Empty => head
            .unsent_len
            .filter(|_| head.status != StatusCode::NO_CONTENT),
        Framing::Chunked | Framing::UntilClose => None,
    };
    let expected = [
        ("date", Some(String::from_utf8_lossy(DATE).into_owned())),
        ("content-length", len.map(|len| len.to_string())),
        (
            "transfer-encoding",
            (head.framing == Framing::Chunked).then(|| "chunked".to_owned()),
        ),
        ("connection", connection.map(str::to_owned)),
    ];
    let expected: Fields<'_> = expected
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?.into_bytes())))
        .collect();
    let ours: Fields<'_> = ours
        .into_iter()
        .filter(|(name, _)| !upgrades || *name != "upgrade")
        .collect();
    prop_assert_eq!(ours, expected);
    Ok(())
}

/// Returns a field's name in lower case. Only the server's own fields are written with capitals.
fn lower(name: &str) -> &str {
    SERVER_FIELDS
        .iter()
        .find(|ours| ours.eq_ignore_ascii_case(name))
        .copied()
        .unwrap_or(name)
}

/// Field names, some of them the server's own.
fn name() -> impl Strategy<Value = HeaderName> {
    let server = select(SERVER_FIELDS.to_vec());
    let any = vec(select(&b"abcXYZ019-_!#$%&'*+.^`|~"[..]), 1..12);
    prop_oneof![
        1 => server.prop_map(|name| HeaderName::from_bytes(name.as_bytes())),
        4 => any.prop_map(|name| HeaderName::from_bytes(&name)),
    ]
    .prop_map(|name| name.expect("it is a token"))
}

/// Field values of all bytes that `http` allows in one.
fn value() -> impl Strategy<Value = HeaderValue> {
    vec(any::<u8>(), 0..20).prop_map(|mut bytes| {
        bytes.retain(|byte| HeaderValue::from_bytes(&[*byte]).is_ok());
        HeaderValue::from_bytes(&bytes).expect("each of its bytes may be in a value")
    })
}

/// The default limits, and low ones that a short message reaches.
fn limits() -> impl Strategy<Value = Limits> {
    let low = (
        10..60_usize,
        20..200_usize,
        0..6_usize,
        0..12_usize,
        0..20_usize,
        0..30_usize,
        0..3_usize,
    );
    let low = low.prop_map(
        |(line, head, fields, extension, extensions, trailer, trailers)| Limits {
            max_request_line_bytes: line,
            max_head_bytes: head,
            max_fields: fields,
            max_chunk_extension_bytes: extension,
            max_chunk_extensions_bytes: extensions,
            max_trailer_bytes: trailer,
            max_trailer_fields: trailers,
        },
    );
    prop_oneof![2 => Just(Limits::default()), 1 => low]
}

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// The fields that `reply.rs` writes itself, or leaves out.
const SERVER_FIELDS: [&str; 9] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
