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
