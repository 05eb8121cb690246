//! Requests that got no complete response, each with its fate. A report names them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Uri};

use crate::sys::clock::Short;

/// A request that was sent to the server and did not get its complete response.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnansweredRequest {
    /// The client's address. `None` over a unix socket.
    pub peer: Option<SocketAddr>,
    /// The request's method.
    pub method: Method,
    /// The request's target.
    pub target: Uri,
    /// How long the request's head had been complete when its fate was decided.
    pub age: Duration,
    /// What became of the request.
    pub fate: Fate,
}

/// What became of a request that did not get its complete response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fate {
    /// The handler had not answered the request by the stop's deadline. The client got 503 instead;
    /// the handler may have had effects.
    Answered503,
    /// The response was reset after a part of it was sent. The client can tell that it is not
    /// complete.
    Cut {
        /// The bytes of the response, head included, that the kernel had taken.
        bytes_sent: u64,
    },
    /// The request had been answered with 101, and the upgraded connection was reset at the stop's
    /// deadline.
    UpgradeCut {
        /// The bytes that the kernel had taken since the request, the 101 included.
        bytes_sent: u64,
    },
    /// No handler was given the request. The client got 503, and the request is safe to repeat.
    NeverStarted,
    /// No handler was given the request, and its connection was reset: it came after a request
    /// whose response the client had not taken. It is safe to repeat.
    Unread,
    /// The request crossed the server's close of an idle connection: the client sent it while the
    /// end of the connection was on its way. No handler was given it, and it is safe to repeat.
    Raced,
    /// The request came after a response that said `Connection: close`, so its client knows that it
    /// was not served (RFC 9112 section 9.6). A stop with no other fates than this one is clean.
    AfterClose,
}

/// A connection that the stop cut before a request on it was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CutConnection {
    /// The client's address. `None` over a unix socket.
    pub peer: Option<SocketAddr>,
}

impl Fate {
    /// Returns whether the stop's deadline took the request's response away: the client got 503
    /// while the handler still ran, a part of a response, or an upgraded connection that was reset.
    #[must_use]
    pub const fn is_cut(self) -> bool {
        matches!(
            self,
            Self::Answered503 | Self::Cut { .. } | Self::UpgradeCut { .. }
        )
    }

    /// Returns whether no handler has seen the request, so that sending it again does nothing
    /// twice.
    #[must_use]
    pub const fn is_safe_to_repeat(self) -> bool {
        matches!(
            self,
            Self::NeverStarted | Self::Unread | Self::Raced | Self::AfterClose
        )
    }

    /// Returns whether a stop with such a request is not clean, which is so for every fate but
    /// [`AfterClose`](Self::AfterClose).
    #[must_use]
    pub const fn is_loss(self) -> bool {
        !matches!(self, Self::AfterClose)
    }

    /// Whether the request's head was complete before the stop decided its fate, so that it is in
    /// [`Requests::named`](crate::report::Requests::named).
    pub(crate) const fn was_begun(self) -> bool {
        matches!(
            self,
            Self::Answered503 | Self::Cut { .. } | Self::UpgradeCut { .. } | Self::NeverStarted
        )
    }

    /// Returns what was done to the request, in front of its name.
    pub(crate) const fn verb(self) -> &'static str {
        match self {
            Self::Answered503 | Self::Cut { .. } | Self::UpgradeCut { .. } => "cut",
            Self::NeverStarted | Self::Unread => "never started",
            Self::Raced | Self::AfterClose => "raced",
        }
    }

    /// Returns the name of the fate in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Answered503 => "answered_503",
            Self::Cut { .. } => "cut",
            Self::UpgradeCut { .. } => "upgrade_cut",
            Self::NeverStarted => "never_started",
            Self::Unread => "unread",
            Self::Raced => "raced",
            Self::AfterClose => "after_close",
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered503 => f.write_str("in its handler: answered with 503"),
            Self::Cut { bytes_sent } => write!(f, "reset after {bytes_sent} bytes of its response"),
            Self::UpgradeCut { bytes_sent } => {
                write!(f, "upgraded: reset after {bytes_sent} bytes")
            }
            Self::NeverStarted => f.write_str("safe to repeat: answered with 503"),
            Self::Unread => f.write_str("safe to repeat: reset unread"),
            Self::Raced => f.write_str("safe to repeat: crossed the close of its idle connection"),
            Self::AfterClose => {
                f.write_str("after a response that said `Connection: close`, as its client knew")
            }
        }
    }
}

impl fmt::Display for UnansweredRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.target)?;
        if let Some(peer) = self.peer {
            write!(f, " of {peer}")?;
        }
        write!(f, ", {} old, {}", Short(self.age), self.fate)
    }
}

impl fmt::Display for CutConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut: a connection")?;
        if let Some(peer) = self.peer {
            write!(f, " of {peer}")?;
        }
        f.write_str(", before its request was complete")
    }
}
