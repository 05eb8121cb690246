//! Decides where the body of a message ends (RFC 9112 section 6.3).

use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version};

use super::Refusal;
use super::syntax::{decimal, is_token, members};

/// How the body of a message is delimited (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body, and no field declares one.
    Empty,
    /// The body has as many bytes as `Content-Length` says.
    Length(u64),
    /// The body comes in chunks, of which the last is empty.
    Chunked,
    /// The body is all bytes until the connection closes. This is for responses only.
    UntilClose,
}

/// Returns how the body of a request is delimited. A declared length of zero means no body.
pub(crate) fn request_framing(version: Version, headers: &HeaderMap) -> Result<Framing, Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if headers.contains_key(TRANSFER_ENCODING) {
        // RFC 9112 section 6.1 would allow Transfer-Encoding to win. A client that sends both is an
        // attacker or broken.
        if length.is_some() {
            return Err(BOTH);
        }
        return chunked_framing(version, headers);
    }
    // RFC 9110 section 8.6 would allow identical lengths to count as one.
    if lengths.next().is_some() {
        return Err(LENGTH_REPEATED);
    }
    match length.map(|length| decimal(length.as_bytes())) {
        None | Some(Some(0)) => Ok(Framing::Empty),
        // No client has such a body. Many programs hold lengths in 63 bits, and one of them in front
        // of this server could read such a length as another.
        Some(Some(length)) if length > i64::MAX as u64 => Err(LENGTH_TOO_LARGE),
        Some(Some(length)) => Ok(Framing::Length(length)),
        Some(None) => Err(LENGTH_INVALID),
    }
}

/// Reads `Transfer-Encoding`, and refuses whatever is not `chunked`, once and alone.
fn chunked_framing(version: Version, headers: &HeaderMap) -> Result<Framing, Refusal> {
    // RFC 9112 section 6.1: in HTTP/1.0 the framing is faulty, whatever the field says.
    if version == Version::HTTP_10 {
        return Err(IN_HTTP_10);
    }
    let (mut chunked, mut unknown) = (false, false);
    for coding in members(headers, &TRANSFER_ENCODING) {
        // A coding with parameters is refused as malformed too, because `chunked` has none.
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
        // This is also for an unknown coding. Where the body ends is then unknown, for which RFC
        // 9112 section 6.3 requires 400, while it only recommends 501 for the coding.
        (false, _) => Err(CHUNKED_NOT_LAST),
    }
}

/// Returns how the body of a response is delimited. `body_len` is the length of the handler's body,
/// if it is known.
///
/// 205 tells the client to expect an empty body (RFC 9110 section 15.3.6), whatever body the
/// handler has returned.
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
const LENGTH_TOO_LARGE: Refusal = Refusal::bad_request("Content-Length is too large");
const LENGTH_INVALID: Refusal = Refusal::bad_request("Content-Length is not a number");

#[cfg(test)]
mod tests;
