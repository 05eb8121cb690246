//! The reasons why a body could not be read to its end, and the responses for them.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};

/// The reason why a body could not be read to its end. As a response it says so to the client, with
/// the status that each variant names.
#[derive(Debug)]
#[non_exhaustive]
pub enum BodyError {
    /// The body is longer than is allowed here. As a response: 413.
    TooLong {
        /// The most bytes that are allowed.
        max: u64,
    },
    /// The body is not what was expected. As a response: 400.
    Malformed {
        /// What was expected, for example `UTF-8 text`.
        expected: &'static str,
        /// What is wrong with the body.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The client sent its body too slowly. As a response: 408.
    TooSlow,
    /// The framing of the body is broken. As a response: 400, after which the connection closes.
    Broken(io::Error),
    /// The client ended the body early, or the connection is lost. As a response: 400, which few
    /// clients still receive; the connection closes after it.
    Gone(io::Error),
    /// The body does not come from a client, and its source has failed. As a response: 500.
    Failed(io::Error),
}

impl BodyError {
    pub(super) fn malformed(
        expected: &'static str,
        source: impl Error + Send + Sync + 'static,
    ) -> Self {
        Self::Malformed {
            expected,
            source: Box::new(source),
        }
    }

    pub(super) fn of(error: io::Error, from_client: bool) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(this) => return this,
            Err(error) => error,
        };
        match error.kind() {
            _ if !from_client => Self::Failed(error),
            ErrorKind::TimedOut => Self::TooSlow,
            ErrorKind::InvalidData => Self::Broken(error),
            _ => Self::Gone(error),
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { max } => write!(f, "the request body is longer than {max} bytes"),
            Self::Malformed { expected, .. } => write!(f, "the request body is not {expected}"),
            Self::TooSlow => f.write_str("the request body came too slowly"),
            Self::Broken(_) => f.write_str("the request body's framing is broken"),
            Self::Gone(_) => f.write_str("the request body did not come completely"),
            Self::Failed(_) => f.write_str("cannot read a body"),
        }
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Malformed { source, .. } => Some(&**source),
            Self::Broken(error) | Self::Gone(error) | Self::Failed(error) => Some(error),
            Self::TooLong { .. } | Self::TooSlow => None,
        }
    }
}
