//! The errors of the crate's fallible calls, as one enum.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::lifecycle::report::Report;
use crate::sys::signal_name::signal_name;

/// The result of lameduck's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error that says what lameduck was doing when it failed; the cause, where there is one, is the
/// error's `source`.
///
/// `Debug` writes the same line with all causes after it, since that is what a `main` that returns
/// this error prints. A connection that had to be cut is not an error but a line of the [`Report`].
#[non_exhaustive]
pub enum Error {
    /// An address could not be listened on.
    Listen {
        /// The address as it was given.
        addr: String,
        /// Why it could not be listened on.
        source: io::Error,
    },
    /// An address could not be understood or names nothing to listen on.
    Address {
        /// The address as it was given.
        addr: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A signal can never be caught, because the kernel forbids it (SIGKILL, SIGSTOP) or because
    /// the signal reports a fault of the program itself (SIGSEGV and its like).
    SignalForbidden {
        /// The signal's number.
        signal: i32,
    },
    /// A signal's handler could not be installed.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Why it could not be installed.
        source: io::Error,
    },
    /// A thread, the poller or a descriptor the server needs could not be made.
    Start {
        /// What could not be made.
        what: &'static str,
        /// Why it could not be made.
        source: io::Error,
    },
    /// The server was told to stop before it ran, and a stopped server does not run again.
    Stopped,
    /// The stop was not clean. The report says what was cut or left behind.
    Unclean(Box<Report>),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Causes(self))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { addr, .. } => write!(f, "cannot listen on {addr}"),
            Self::Address { addr, reason } => write!(f, "cannot listen on {addr:?}: {reason}"),
            Self::SignalForbidden { signal } => {
                write!(
                    f,
                    "cannot catch {}: no process is ever allowed to",
                    signal_name(*signal)
                )
            }
            Self::Signal { signal, .. } => write!(f, "cannot catch {}", signal_name(*signal)),
            Self::Start { what, .. } => write!(f, "cannot start the server's {what}"),
            Self::Stopped => write!(f, "cannot run a server that was already stopped"),
            Self::Unclean(report) => {
                let report = report.to_string();
                write!(f, "the server did not stop cleanly: {}", report.trim_end())
            }
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Listen { source, .. }
            | Self::Signal { source, .. }
            | Self::Start { source, .. } => Some(source),
            Self::Address { .. }
            | Self::SignalForbidden { .. }
            | Self::Stopped
            | Self::Unclean(_) => None,
        }
    }
}

impl Report {
    /// Turns a report that is not clean into an error, for programs that use `?`.
    ///
    /// # Errors
    ///
    /// [`Error::Unclean`] with this report.
    pub fn into_result(self) -> Result<Self> {
        if self.is_clean() {
            Ok(self)
        } else {
            Err(Error::Unclean(Box::new(self)))
        }
    }
}

/// Displays an error, its cause, the cause of that and so on, with a colon between them.
pub(crate) struct Causes<'e>(pub(crate) &'e (dyn StdError + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: &Error, display: &str, debug: &str) {
        assert_eq!(error.to_string(), display);
        assert_eq!(format!("{error:?}"), debug);
    }

    #[test]
    fn debug_is_display_with_the_causes() {
        let source = io::Error::from_raw_os_error(rustix::io::Errno::ADDRINUSE.raw_os_error());
        let cause = source.to_string();
        let error = Error::Listen {
            addr: "127.0.0.1:9104".to_owned(),
            source,
        };
        check(
            &error,
            "cannot listen on 127.0.0.1:9104",
            &format!("cannot listen on 127.0.0.1:9104: {cause}"),
        );
        let start = Error::Start {
            what: "waker",
            source: io::Error::other(error),
        };
        check(
            &start,
            "cannot start the server's waker",
            &format!("cannot start the server's waker: cannot listen on 127.0.0.1:9104: {cause}"),
        );
    }

    #[test]
    fn debug_of_an_error_without_a_cause_is_display() {
        let text = "cannot run a server that was already stopped";
        check(&Error::Stopped, text, text);
    }
}
