//! Why a body could not be read to its end, and what its client is told.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};

/// Why a body could not be read whole. As a response it says so to the client, with the status that
/// each variant names.
#[derive(Debug)]
#[non_exhaustive]
pub enum BodyError {
    /// It is longer than is allowed here. As a response: 413.
    TooLong {
        /// How many bytes are.
        max: u64,
    },
    /// It is not what was expected. As a response: 400.
    Malformed {
        /// What was: `UTF-8 text`, for example.
        expected: &'static str,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The client was too slow with it. As a response: 408.
    TooSlow,
    /// Its framing is broken. As a response: 400; the connection ends with it.
    Broken(io::Error),
    /// The client ended it early, or the connection is lost. As a response: 400, which hardly
    /// anybody gets; the connection ends with it.
    Gone(io::Error),
    /// It does not come from a client, and what it comes from has failed. As a response: 500.
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
            Self::Gone(_) => f.write_str("the request body did not come whole"),
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
