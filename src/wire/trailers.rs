//! Reads the trailer section of a chunked body (RFC 9112 section 7.1.2).

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName};

use super::{Refusal, lines};
use crate::settings::Limits;

/// The trailer fields that have arrived, and what has arrived of the next line.
#[derive(Debug, Default)]
pub(super) struct Trailers {
    fields: HeaderMap,
    line: Vec<u8>,
    /// How many bytes all lines have had.
    bytes: usize,
    /// How many lines there were, those of dropped fields included.
    lines: usize,
}

impl Trailers {
    /// Adds a byte to the current line. CR and LF are not added.
    pub(super) fn push(&mut self, byte: u8, limits: &Limits) -> Result<(), Refusal> {
        if byte != b'\t' && byte.is_ascii_control() {
            return Err(CONTROL);
        }
        if self.bytes == limits.max_trailer_bytes {
            return Err(TOO_LONG);
        }
        self.bytes += 1;
        self.line.push(byte);
        Ok(())
    }

    /// Ends the current line and reads it as a field.
    pub(super) fn end_line(&mut self, limits: &Limits) -> Result<(), Refusal> {
        if self.lines == limits.max_trailer_fields {
            return Err(TOO_MANY);
        }
        self.lines += 1;
        let line = Bytes::from(std::mem::take(&mut self.line));
        let (name, value) = lines::field(&line, &line)?;
        if is_allowed(&name) {
            self.fields.try_append(name, value).map_err(|_| TOO_MANY)?;
        }
        Ok(())
    }

    /// Returns the fields, and leaves none.
    pub(super) fn take(&mut self) -> HeaderMap {
        std::mem::take(&mut self.fields)
    }

    /// Returns how many bytes of what a peer has sent are kept.
    #[cfg(any(test, fuzzing))]
    pub(super) fn bytes_kept(&self) -> usize {
        let fields = self
            .fields
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len());
        self.line.capacity() + fields.sum::<usize>()
    }
}

/// Returns whether a field may come after the body.
///
/// RFC 9110 section 6.5.1 rules out fields that are needed before the body: for framing, routing,
/// authentication, conditions and other modifiers of the request, and the format of the content. A
/// handler that merged such a field into the head would act on something that no proxy in between
/// has looked at.
fn is_allowed(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "host"
            | "max-forwards"
            | "authorization"
            | "cookie"
            | "proxy-authorization"
            | "cache-control"
            | "expect"
            | "if-match"
            | "if-modified-since"
            | "if-none-match"
            | "if-range"
            | "if-unmodified-since"
            | "pragma"
            | "range"
            | "content-encoding"
            | "content-range"
            | "content-type"
    )
}

const CONTROL: Refusal = Refusal::bad_request("a control character in the trailer section");
const TOO_LONG: Refusal = Refusal::new(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "the trailer section is too long",
);
const TOO_MANY: Refusal = Refusal::new(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "the trailer section has too many fields",
);
