//! Where the body of a message ends (RFC 9112 section 6.3).

use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version};

use super::Refusal;
use super::syntax::{decimal, is_token, members};

/// How the body of a message is delimited (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body, and nothing is said about one.
    Empty,
    /// As many bytes as `Content-Length` says.
    Length(u64),
    /// Chunks, the last of them empty.
    Chunked,
    /// All bytes until the connection closes. Responses only.
    UntilClose,
}

/// Returns how the body of a request is delimited. A declared length of zero is no body.
pub(crate) fn request_framing(version: Version, headers: &HeaderMap) -> Result<Framing, Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if headers.contains_key(TRANSFER_ENCODING) {
        // RFC 9112 section 6.1 would let Transfer-Encoding win; who sends both is attacking or
        // broken.
        if length.is_some() {
            return Err(BOTH);
        }
        return chunked_framing(version, headers);
    }
    // RFC 9110 section 8.6 would let identical ones pass for one.
    if lengths.next().is_some() {
        return Err(LENGTH_REPEATED);
    }
    match length.map(|length| decimal(length.as_bytes())) {
        None | Some(Some(0)) => Ok(Framing::Empty),
        Some(Some(length)) => Ok(Framing::Length(length)),
        Some(None) => Err(LENGTH_INVALID),
    }
}

/// Reads `Transfer-Encoding`: `chunked`, the last and only coding, or a refusal.
fn chunked_framing(version: Version, headers: &HeaderMap) -> Result<Framing, Refusal> {
    // RFC 9112 section 6.1: the framing is faulty, whatever the field says.
    if version == Version::HTTP_10 {
        return Err(IN_HTTP_10);
    }
    let (mut chunked, mut unknown) = (false, false);
    for coding in members(headers, &TRANSFER_ENCODING) {
        // A parameter is malformed here too: `chunked` has none.
        if !is_token(coding) {
            return Err(MALFORMED_CODING);
        }
        if chunked {
            return Err(CHUNKED_NOT_LAST);
        }
        chunked = coding.eq_ignore_ascii_case(b"chunked");
        unknown |= !chunked;
    }
    match (chunked, unknown) {
        (true, false) => Ok(Framing::Chunked),
        (true, true) => Err(UNKNOWN_CODING),
        // Also for a coding nobody knows: where the body ends is unknown, and RFC 9112 section 6.3
        // demands 400 for that, while 501 for the coding is only advised.
        (false, _) => Err(CHUNKED_NOT_LAST),
    }
}

/// Returns how the body of a response is delimited; `body_len` is what the handler's body has, if
/// that is known.
///
/// 205 tells the client to expect an empty body (RFC 9110 section 15.3.6), whatever the handler has
/// given.
pub(crate) fn response_framing(
    method: &Method,
    request_version: Version,
    status: StatusCode,
    body_len: Option<u64>,
) -> Framing {
    if status == StatusCode::RESET_CONTENT && method != Method::HEAD {
        return Framing::Length(0);
    }
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if method == Method::HEAD || status.is_informational() || bodiless {
        return Framing::Empty;
    }
    match body_len {
        Some(len) => Framing::Length(len),
        None if request_version == Version::HTTP_10 => Framing::UntilClose,
        None => Framing::Chunked,
    }
}

const BOTH: Refusal = Refusal::bad_request("both Transfer-Encoding and Content-Length");
const IN_HTTP_10: Refusal = Refusal::bad_request("Transfer-Encoding in HTTP/1.0");
const MALFORMED_CODING: Refusal =
    Refusal::bad_request("Transfer-Encoding is not a list of transfer codings");
const CHUNKED_NOT_LAST: Refusal =
    Refusal::bad_request("Transfer-Encoding does not end with chunked, named once");
const UNKNOWN_CODING: Refusal = Refusal::new(
    StatusCode::NOT_IMPLEMENTED,
    "a transfer coding other than chunked",
);
const LENGTH_REPEATED: Refusal = Refusal::bad_request("more than one Content-Length");
const LENGTH_INVALID: Refusal = Refusal::bad_request("Content-Length is not a number");

#[cfg(test)]
mod tests;
