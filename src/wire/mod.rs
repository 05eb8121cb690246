//! Bytes to messages and back: HTTP/1.1 (RFC 9110 and RFC 9112) without a socket, a thread or a
//! clock.
//!
//! This floor may use the settings, for the limits of messages, and no other floor. All of it can
//! therefore be tested with bytes alone, cut at any place.
//!
//! Read it in the order of a request: [`head`], with [`lines`] and [`target`], reads a request's
//! head; [`framing`] says how the body after it ends; [`chunked`], with [`trailers`], takes the
//! body out of the bytes; [`persist`] says whether another request may follow; [`reply`] writes the
//! head of the response. [`syntax`] has the grammar that these share. `oracle.rs` has the
//! properties that hold for whatever a peer sends.
//!
//! **Invariant:** no function here reads past the end of the message that it is given: what follows
//! belongs to the next message.
//!
//! **Invariant:** a message that two readers could cut differently is refused and never repaired,
//! because request smuggling depends on such messages. Where the RFC tolerates one, a comment at
//! its refusal says so.
//!
//! **Invariant:** no allocation is sized by a number that a peer has declared, only by bytes that
//! have arrived.

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

/// Why a message is refused: the status that the client gets, and the reason in plain words. The
/// connection closes after the refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

impl Refusal {
    pub(crate) const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason }
    }

    pub(crate) const fn bad_request(reason: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }
}
