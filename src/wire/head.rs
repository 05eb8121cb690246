//! Reads the head of a request (RFC 9112 sections 2 to 5).
//!
//! A head is looked at twice. While it arrives, it is split into lines; whatever cannot become a
//! request is refused then, without waiting for the rest. Once it is complete, `httparse` reads it.
//! `httparse` knows tokens only, so this module and those beside it check all else that a request
//! must be. Field values and target share one copy of the head's bytes.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::Bytes;
use http::header::{EXPECT, HeaderMap, HeaderName};
use http::request::Parts;
use http::uri::Scheme;
use http::{Method, Request, StatusCode, Version};

use super::framing::{Framing, request_framing};
use super::lines::{self, Lines};
use super::persist::{Persist, persist};
use super::syntax::{is_tchar, members};
use super::{Refusal, target};
use crate::settings::Limits;

/// A complete request head.
#[derive(Debug)]
pub(crate) struct Head {
    /// The method, the target, the version (1.0 or 1.1) and the fields. If the target names a host,
    /// the `Host` field has that host.
    pub(crate) parts: Parts,
    /// How many bytes the head took, with the empty lines before it. The body begins after them.
    pub(crate) len: usize,
    pub(crate) framing: Framing,
    pub(crate) persist: Persist,
    /// Whether the client waits for `100 Continue` before it sends the body. This is false if there
    /// is no body.
    pub(crate) expect_continue: bool,
}

/// How far an incomplete head has been read, so that a head in many small pieces costs no more than
/// one that arrives at once.
#[derive(Debug, Default)]
pub(crate) struct HeadScan {
    lines: Lines,
    part: Part,
}

#[derive(Debug, Default)]
enum Part {
    #[default]
    RequestLine,
    Fields {
        /// The bytes of the request line, which may have empty lines before it.
        request_line: Range<usize>,
        /// The number of field lines so far.
        count: usize,
    },
}

impl HeadScan {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Reads the head at the start of `bytes`. Returns `None` while it is incomplete.
    ///
    /// `bytes` begins with the first byte of the head, and only grows between calls. After a head
    /// or a refusal the next request needs a new scan.
    pub(crate) fn parse(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<Head>, Refusal> {
        let within_limit = &bytes[..bytes.len().min(limits.max_head_bytes)];
        // A fault at the beginning of a line is found before one at its end, as if the line had
        // arrived byte by byte.
        let in_order =
            |scan: &Self, refusal| scan.check_begun(within_limit, limits).and(Err(refusal));
        while let Some(line) = self
            .lines
            .next(within_limit)
            .or_else(|refusal| in_order(self, refusal))?
        {
            match &mut self.part {
                // RFC 9112 section 2.2: some clients send an empty line after a body.
                Part::RequestLine if line.is_empty() => {}
                Part::RequestLine => {
                    check_request_line_begun(line, limits)?;
                    check_request_line(line)?;
                    let end = self.lines.len() - b"\r\n".len();
                    self.part = Part::Fields {
                        request_line: end - line.len()..end,
                        count: 0,
                    };
                }
                Part::Fields {
                    request_line,
                    count,
                } if line.is_empty() => {
                    let len = self.lines.len();
                    return parse_complete(&bytes[..len], request_line.clone(), *count).map(Some);
                }
                Part::Fields { count, .. } if *count == limits.max_fields => {
                    return Err(TOO_MANY_FIELDS);
                }
                Part::Fields { count, .. } => *count += 1,
            }
        }
        self.check_begun(within_limit, limits)?;
        // A head of just the limit is too long already, because its end is missing.
        if bytes.len() >= limits.max_head_bytes {
            Err(HEAD_TOO_LONG)
        } else {
            Ok(None)
        }
    }

    /// Refuses a request line for the part of it that has arrived.
    fn check_begun(&self, bytes: &[u8], limits: &Limits) -> Result<(), Refusal> {
        match self.part {
            Part::RequestLine => check_request_line_begun(self.lines.begun(bytes), limits),
            Part::Fields { .. } => Ok(()),
        }
    }

    /// Returns whether `bytes`, which begin where a head does, seem to be a HEAD request. Even the
    /// refusal of one has no body (RFC 9110 section 9.3.2).
    pub(crate) fn is_to_head(bytes: &[u8]) -> bool {
        let begin = bytes
            .iter()
            .position(|byte| !b"\r\n".contains(byte))
            .unwrap_or(bytes.len());
        bytes[begin..].starts_with(b"HEAD ")
    }

    /// Returns whether no more than empty lines has come so far. The last of them may lack its LF.
    ///
    /// This is about the bytes that [`parse`](Self::parse) was given last. After a refusal the
    /// result means nothing.
    pub(crate) fn is_blank(&self) -> bool {
        matches!(self.part, Part::RequestLine) && self.lines.is_between()
    }
}

/// Refuses a request line for what can be seen before its end arrives. A peer that speaks another
/// protocol may never send an end of line.
fn check_request_line_begun(line: &[u8], limits: &Limits) -> Result<(), Refusal> {
    let early = METHOD_BYTES_EARLY.min(limits.max_request_line_bytes);
    let not_in_token = line.iter().take(early).position(|&byte| !is_tchar(byte));
    if not_in_token.is_some_and(|at| at == 0 || line[at] != b' ') {
        return Err(METHOD);
    }
    if line.len() > limits.max_request_line_bytes {
        let has_method = line[..limits.max_request_line_bytes].contains(&b' ');
        return Err(if has_method {
            REQUEST_LINE_TOO_LONG
        } else {
            METHOD_TOO_LONG
        });
    }
    Ok(())
}

/// Refuses a complete request line that does not have three parts, or whose version is not 1.x.
///
/// The parts must be separated by single spaces. RFC 9112 section 3 would allow other whitespace
/// between them.
fn check_request_line(line: &[u8]) -> Result<(), Refusal> {
    let is_space = |&byte: &u8| byte == b' ';
    let (Some(first), Some(last)) = (
        line.iter().position(is_space),
        line.iter().rposition(is_space),
    ) else {
        return Err(REQUEST_LINE);
    };
    if first == last || line[first + 1..last].contains(&b' ') {
        return Err(REQUEST_LINE);
    }
    match &line[last + 1..] {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'] => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(VERSION_UNKNOWN),
        _ => Err(VERSION),
    }
}

/// Reads a complete head, which is all of `bytes`. Its lines have been checked and counted.
fn parse_complete(
    bytes: &[u8],
    request_line: Range<usize>,
    n_fields: usize,
) -> Result<Head, Refusal> {
    let mut head = bytes[request_line.start..].to_vec();
    // A client of a later minor version understands 1.1 (RFC 9110 section 2.5), but `httparse`
    // refuses such a version.
    let minor = &mut head[request_line.len() - 1];
    *minor = (*minor).min(b'1');
    let head = Bytes::from(head);

    let mut on_stack = [const { MaybeUninit::uninit() }; Limits::MAX_FIELDS];
    let mut on_heap;
    let fields = if n_fields <= on_stack.len() {
        &mut on_stack[..n_fields]
    } else {
        on_heap = vec![MaybeUninit::uninit(); n_fields];
        &mut on_heap[..]
    };
    let mut request = httparse::Request::new(&mut []);
    // The default configuration is the strictest. It still takes an LF alone for a line's end,
    // which `Lines` has refused before, and most characters in a target, which `target` refuses
    // after.
    match httparse::ParserConfig::default().parse_request_with_uninit_headers(
        &mut request,
        &head,
        fields,
    ) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => {
            build(&request, &head, bytes.len())
        }
        Ok(_) => Err(HEAD),
        Err(error) => Err(explain(error, &head)),
    }
}

/// Turns what `httparse` found in `head` into the types of `http`, which share its memory, and
/// checks what it means.
fn build(request: &httparse::Request<'_, '_>, head: &Bytes, len: usize) -> Result<Head, Refusal> {
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(HEAD);
    };
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.version = if minor == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| METHOD)?;
    parts.uri = target::parse(&parts.method, head.slice_ref(target.as_bytes()))?;

    // Beyond 24,576 fields, which `max_fields` might allow, only the `try_` functions do not panic.
    parts.headers =
        HeaderMap::try_with_capacity(request.headers.len()).map_err(|_| TOO_MANY_FIELDS)?;
    for field in &*request.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| lines::FIELD_NAME)?;
        let value = lines::field_value(field.value, head)?;
        parts
            .headers
            .try_append(name, value)
            .map_err(|_| TOO_MANY_FIELDS)?;
    }
    target::settle_host(parts.version, &parts.uri, &mut parts.headers)?;
    let framing = request_framing(parts.version, &parts.headers)?;
    let persist = persist(parts.version, &parts.headers);
    let expect_continue =
        expects_continue(parts.version, &parts.headers)? && framing != Framing::Empty;
    // The request is well-formed, but not for this server. What is malformed about a request is
    // reported first.
    if parts.method == Method::CONNECT {
        return Err(CONNECT);
    }
    // RFC 9110 section 7.4: the scheme promises the client that nobody in between reads its
    // request, and this connection is not secured.
    if parts.uri.scheme() == Some(&Scheme::HTTPS) {
        return Err(MISDIRECTED);
    }
    Ok(Head {
        parts,
        len,
        framing,
        persist,
        expect_continue,
    })
}

/// Returns what is wrong with a head that `httparse` refuses. It reports the kind of the fault, and
/// not the place.
#[cold]
fn explain(error: httparse::Error, head: &Bytes) -> Refusal {
    let mut lines = Lines::default();
    let mut next = || {
        lines
            .next(head)
            .ok()
            .flatten()
            .filter(|line| !line.is_empty())
    };
    let request_line = next().unwrap_or_default();
    match error {
        httparse::Error::TooManyHeaders => TOO_MANY_FIELDS,
        httparse::Error::HeaderName => std::iter::from_fn(next)
            .find_map(|line| lines::field(line, head).err())
            .unwrap_or(HEAD),
        httparse::Error::Token => explain_request_line(request_line, head),
        // All other kinds have been refused line by line: control characters, other line ends,
        // other versions.
        _ => HEAD,
    }
}

fn explain_request_line(line: &[u8], head: &Bytes) -> Refusal {
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return REQUEST_LINE;
    };
    let Ok(method) = Method::from_bytes(method) else {
        return METHOD;
    };
    target::parse(&method, head.slice_ref(target))
        .err()
        .unwrap_or(HEAD)
}

/// Returns whether a request has `Expect: 100-continue` (RFC 9110 section 10.1.1), which is ignored
/// in HTTP/1.0.
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

const REQUEST_LINE: Refusal =
    Refusal::bad_request("the request line is not a method, a target and a version");
const HEAD: Refusal = Refusal::bad_request("the request head is malformed");
const METHOD: Refusal = Refusal::bad_request("the method is not a token");
const VERSION: Refusal = Refusal::bad_request("the request line does not end with an HTTP version");
const VERSION_UNKNOWN: Refusal = Refusal::new(
    StatusCode::HTTP_VERSION_NOT_SUPPORTED,
    "an HTTP version other than 1.0 and 1.1",
);
const CONNECT: Refusal = Refusal::new(
    StatusCode::NOT_IMPLEMENTED,
    "this server is no proxy: CONNECT is not supported",
);
const MISDIRECTED: Refusal = Refusal::new(
    StatusCode::MISDIRECTED_REQUEST,
    "an https URL, but the connection is not secured",
);
const METHOD_TOO_LONG: Refusal =
    Refusal::new(StatusCode::NOT_IMPLEMENTED, "the method is too long");
const REQUEST_LINE_TOO_LONG: Refusal =
    Refusal::new(StatusCode::URI_TOO_LONG, "the request line is too long");
const HEAD_TOO_LONG: Refusal = Refusal::new(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "the request head is too long",
);
const TOO_MANY_FIELDS: Refusal = Refusal::new(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "the request head has too many fields",
);
const EXPECTATION: Refusal = Refusal::new(
    StatusCode::EXPECTATION_FAILED,
    "an expectation other than 100-continue cannot be met",
);

/// The number of bytes of a method that are checked before its line is complete: far more than any
/// method has, and few enough to check them again at each byte that arrives.
const METHOD_BYTES_EARLY: usize = 32;

#[cfg(test)]
mod tests;
