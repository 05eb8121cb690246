//! HTTP/1.1 without a socket, a thread or a clock (RFC 9110 and RFC 9112).
//!
//! Bytes go in, meaning comes out: [`head`] reads a request head, [`framing`] says how the body
//! after it ends, [`chunked`] takes the body out of the bytes, [`persist`] tells whether another
//! request may follow, and [`reply`] writes the answer.
//!
//! **Invariant:** nothing here reads past the end of the message it is given: what follows belongs
//! to the next one. **Invariant:** a message that two readers could cut differently is refused,
//! never repaired; that is what request smuggling lives on. Where the RFC tolerates such a message,
//! the place that refuses it says so. **Invariant:** no allocation is sized by a number a peer has
//! declared, only by bytes that have arrived.

pub(crate) mod chunked;
pub(crate) mod framing;
pub(crate) mod head;
mod lines;
#[cfg(any(test, fuzzing))]
pub(crate) mod oracle;
pub(crate) mod persist;
#[cfg(test)]
mod properties;
pub(crate) mod reply;
pub(crate) mod syntax;
mod target;
mod trailers;

use http::StatusCode;

/// Why a message is refused: the status the client gets and a reason in plain words. The connection
/// closes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

impl Refusal {
    pub(crate) const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason }
    }

    const fn bad_request(reason: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }
}

/// Limits on what a peer may send in a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Method, target and version, without the line end. More is 414.
    pub(crate) max_request_line_bytes: usize,
    /// The whole head: empty lines before it, request line, fields, and the empty line that ends
    /// it. More is 431.
    pub(crate) max_head_bytes: usize,
    /// Field lines in a head. More is 431.
    pub(crate) max_fields: usize,
    /// What follows the size of one chunk on its line. More is 400.
    pub(crate) max_chunk_extension_bytes: usize,
    /// The same, added up over a whole body. More is 400.
    pub(crate) max_chunk_extensions_bytes: usize,
    /// The lines of a trailer section, without their line ends. More is 431.
    pub(crate) max_trailer_bytes: usize,
    /// Field lines in a trailer section, also those that are dropped. More is 431.
    pub(crate) max_trailer_fields: usize,
}

impl Limits {
    pub(crate) const MAX_REQUEST_LINE_BYTES: usize = 16 * 1024;
    pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;
    pub(crate) const MAX_FIELDS: usize = 100;
    pub(crate) const MAX_CHUNK_EXTENSION_BYTES: usize = 256;
    pub(crate) const MAX_CHUNK_EXTENSIONS_BYTES: usize = 16 * 1024;
    pub(crate) const MAX_TRAILER_BYTES: usize = 8 * 1024;
    pub(crate) const MAX_TRAILER_FIELDS: usize = 32;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_request_line_bytes: Self::MAX_REQUEST_LINE_BYTES,
            max_head_bytes: Self::MAX_HEAD_BYTES,
            max_fields: Self::MAX_FIELDS,
            max_chunk_extension_bytes: Self::MAX_CHUNK_EXTENSION_BYTES,
            max_chunk_extensions_bytes: Self::MAX_CHUNK_EXTENSIONS_BYTES,
            max_trailer_bytes: Self::MAX_TRAILER_BYTES,
            max_trailer_fields: Self::MAX_TRAILER_FIELDS,
        }
    }
}
