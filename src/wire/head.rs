//! Bytes to the head of a request (RFC 9112 sections 2 to 5).
//!
//! A head is looked at twice: once for its lines while it arrives, which is where whatever cannot become a request is
//! refused without waiting for the rest, and once as a whole. Field values and target then share one copy of its bytes.

use bytes::Bytes;
use http::header::{EXPECT, HeaderMap};
use http::request::Parts;
use http::{Method, Request, StatusCode, Version};

use super::framing::{Framing, request_framing};
use super::lines::{self, Lines};
use super::persist::{Persist, persist};
use super::syntax::{is_tchar, members};
use super::{Limits, Refusal, target};

/// A complete request head.
#[derive(Debug)]
pub(crate) struct Head {
    /// Method, target, version (1.0 or 1.1) and fields. `Host` is the target's own where the target has one.
    pub(crate) parts: Parts,
    /// How many bytes the head took, empty lines before it included. The body begins there.
    pub(crate) len: usize,
    pub(crate) framing: Framing,
    pub(crate) persist: Persist,
    /// Whether the client waits for `100 Continue` before it sends the body. Never without a body.
    pub(crate) expect_continue: bool,
}

/// What is remembered about a head that is not complete yet: a head that trickles in costs no more than one that does
/// not.
#[derive(Debug, Default)]
pub(crate) struct HeadScan {
    lines: Lines,
    part: Part,
}

#[derive(Debug, Default, Clone, Copy)]
enum Part {
    #[default]
    RequestLine,
    Fields {
        /// Where the request line begins, after the empty lines before it.
        start: usize,
        count: usize,
    },
}

impl HeadScan {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Reads the head at the start of `bytes`, or nothing while it is not complete.
    ///
    /// `bytes` begins with the first byte of the head and only ever grows between calls. After a head or a refusal the
    /// next request needs a new scan.
    pub(crate) fn parse(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<Head>, Refusal> {
        let within_limit = &bytes[..bytes.len().min(limits.head_bytes_max)];
        while let Some(line) = self.lines.next(within_limit)? {
            match &mut self.part {
                // RFC 9112 section 2.2: some clients send an empty line after a body.
                Part::RequestLine if line.is_empty() => {}
                Part::RequestLine => {
                    check_request_line_begun(line, limits)?;
                    RequestLine::parse(line)?;
                    let start = self.lines.len() - line.len() - b"\r\n".len();
                    self.part = Part::Fields { start, count: 0 };
                }
                Part::Fields { start, count } if line.is_empty() => {
                    let len = self.lines.len();
                    return parse_complete(&bytes[*start..len], *count, len).map(Some);
                }
                Part::Fields { count, .. } if *count == limits.fields_max => return Err(TOO_MANY_FIELDS),
                Part::Fields { count, .. } => *count += 1,
            }
        }
        if let Part::RequestLine = self.part {
            check_request_line_begun(self.lines.begun(within_limit), limits)?;
        }
        // At the limit is too long already: the end is missing.
        if bytes.len() >= limits.head_bytes_max { Err(HEAD_TOO_LONG) } else { Ok(None) }
    }
}

/// Refuses a request line for what can be seen before its end: what talks another protocol may never send one.
fn check_request_line_begun(line: &[u8], limits: &Limits) -> Result<(), Refusal> {
    let not_in_token = line.iter().take(METHOD_BYTES_EARLY).position(|&byte| !is_tchar(byte));
    if not_in_token.is_some_and(|at| at == 0 || line[at] != b' ') {
        return Err(METHOD);
    }
    if line.len() > limits.request_line_bytes_max {
        return Err(REQUEST_LINE_TOO_LONG);
    }
    Ok(())
}

/// Reads a head whose lines have been counted; `len` is for the result.
fn parse_complete(head: &[u8], fields: usize, len: usize) -> Result<Head, Refusal> {
    let head = Bytes::copy_from_slice(head);
    let mut lines = Lines::default();
    let (mut parts, ()) = Request::new(()).into_parts();

    let request_line = RequestLine::parse(lines.next(&head)?.unwrap_or_default())?;
    parts.version = request_line.version;
    parts.method = Method::from_bytes(request_line.method).map_err(|_| METHOD)?;
    if parts.method == Method::CONNECT {
        return Err(CONNECT);
    }
    parts.uri = target::parse(&parts.method, head.slice_ref(request_line.target))?;

    // `try_`: beyond 24,576 fields, which `fields_max` might allow, the others panic.
    parts.headers = HeaderMap::try_with_capacity(fields).map_err(|_| TOO_MANY_FIELDS)?;
    while let Some(line @ [_, ..]) = lines.next(&head)? {
        let (name, value) = lines::field(line, &head)?;
        parts.headers.try_append(name, value).map_err(|_| TOO_MANY_FIELDS)?;
    }
    target::settle_host(parts.version, &parts.uri, &mut parts.headers)?;
    let framing = request_framing(parts.version, &parts.headers)?;
    let persist = persist(parts.version, &parts.headers);
    let expect_continue = expects_continue(parts.version, &parts.headers)? && framing != Framing::Empty;
    Ok(Head { parts, len, framing, persist, expect_continue })
}

/// Whether a request has `Expect: 100-continue` (RFC 9110 section 10.1.1), which HTTP/1.0 does not know.
fn expects_continue(version: Version, headers: &HeaderMap) -> Result<bool, Refusal> {
    if version == Version::HTTP_10 {
        return Ok(false);
    }
    let mut expected = false;
    for expectation in members(headers, &EXPECT).filter(|member| !member.is_empty()) {
        if !expectation.eq_ignore_ascii_case(b"100-continue") {
            return Err(EXPECTATION);
        }
        expected = true;
    }
    Ok(expected)
}

struct RequestLine<'h> {
    method: &'h [u8],
    target: &'h [u8],
    version: Version,
}

impl<'h> RequestLine<'h> {
    /// Takes a request line apart at its single spaces: RFC 9112 section 3 would let other whitespace separate too.
    fn parse(line: &'h [u8]) -> Result<Self, Refusal> {
        let mut words = line.split(|&byte| byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(REQUEST_LINE);
        };
        let version = match version {
            b"HTTP/1.1" => Version::HTTP_11,
            b"HTTP/1.0" => Version::HTTP_10,
            // A later minor version is one that understands 1.1 (RFC 9110 section 2.5).
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Version::HTTP_11,
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(VERSION_UNKNOWN),
            _ => return Err(VERSION),
        };
        Ok(Self { method, target, version })
    }
}

const REQUEST_LINE: Refusal = Refusal::bad_request("the request line is not a method, a target and a version");
const METHOD: Refusal = Refusal::bad_request("the method is not a token");
const VERSION: Refusal = Refusal::bad_request("the request line does not end with an HTTP version");
const VERSION_UNKNOWN: Refusal =
    Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "an HTTP version other than 1.0 and 1.1");
const CONNECT: Refusal = Refusal::new(StatusCode::NOT_IMPLEMENTED, "this server is no proxy: CONNECT is not supported");
const REQUEST_LINE_TOO_LONG: Refusal = Refusal::new(StatusCode::URI_TOO_LONG, "the request line is too long");
const HEAD_TOO_LONG: Refusal =
    Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request head is too long");
const TOO_MANY_FIELDS: Refusal =
    Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request head has too many fields");
const EXPECTATION: Refusal =
    Refusal::new(StatusCode::EXPECTATION_FAILED, "an expectation other than 100-continue cannot be met");

/// How much of a method is checked before its line is complete: far more than any has, and little enough to do it again
/// at each byte that arrives.
const METHOD_BYTES_EARLY: usize = 32;

#[cfg(test)]
mod tests;
