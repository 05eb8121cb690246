//! The properties of heads and of request targets.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{Method, Uri, Version};

use super::{ends, summary};
use crate::settings::Limits;
use crate::wire::Refusal;
use crate::wire::framing::Framing;
use crate::wire::head::{Head, HeadScan};
use crate::wire::persist::Persist;

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

/// Checks that a target is refused, or that nothing of it is dropped or changed except the case of
/// its scheme, and letters above ASCII, which are percent-encoded.
pub(crate) fn target(method: &Method, target: &[u8]) {
    if let Ok(uri) = crate::wire::target::parse(method, target.to_vec().into()) {
        check_target(
            &uri,
            str::from_utf8(target).expect("an accepted target is UTF-8"),
        );
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
    check_request_line(parts, request_line);

    let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    assert!(lines.len() <= limits.max_fields, "{raw:?}");
    let mut fields: HeaderMap = lines.into_iter().map(field).collect();
    let n_hosts = fields.get_all(HOST).iter().count();
    assert!(
        n_hosts == 1 || n_hosts == 0 && parts.version == Version::HTTP_10,
        "{raw:?}"
    );
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

fn check_request_line(parts: &Parts, request_line: &str) {
    let words: Vec<_> = request_line.split(' ').collect();
    let [method, target, version] = words[..] else {
        panic!("{} words in {request_line:?}", words.len())
    };
    assert_eq!(parts.method.as_str(), method);
    assert!(parts.method != Method::CONNECT);
    // The characters of `raw` are bytes.
    let target: Vec<_> = target.chars().map(|char| char as u8).collect();
    check_target(
        &parts.uri,
        str::from_utf8(&target).expect("an accepted target is UTF-8"),
    );
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
}

fn field(line: &str) -> (HeaderName, HeaderValue) {
    let (name, value) = line.split_once(':').expect("a field line has a colon");
    let value: Vec<_> = value
        .trim_matches([' ', '\t'])
        .chars()
        .map(|char| char as u8)
        .collect();
    (
        name.parse().expect("a field name is a token"),
        HeaderValue::from_bytes(&value).expect("a field value has no control characters"),
    )
}

fn check_target(uri: &Uri, target: &str) {
    let encoded = |char: char| match char.is_ascii() {
        true => char.to_string(),
        false => {
            let mut bytes = [0; 4];
            let bytes = char.encode_utf8(&mut bytes).bytes();
            bytes.map(|byte| format!("%{byte:02X}")).collect()
        }
    };
    let target = &target.chars().map(encoded).collect::<String>();
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
