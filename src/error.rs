//! What can go wrong before, while and after a server runs, as one enum.

use std::fmt;
use std::io;

use crate::lifecycle::report::Report;
use crate::sys::signal_name::signal_name;

/// What lameduck's fallible calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What lameduck was doing when it failed; the cause, where there is one, is the error's `source`.
///
/// A connection that had to be cut is not an error but a line of the [`Report`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An address could not be listened on.
    Listen {
        /// The address as it was given.
        addr: String,
        /// Why not.
        source: io::Error,
    },
    /// An address could not be understood or names nothing to listen on.
    Address {
        /// The address as it was given.
        addr: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A signal can never be caught, as the kernel (SIGKILL, SIGSTOP) or the signal's nature
    /// (SIGSEGV, …) has it.
    SignalForbidden {
        /// The signal's number.
        signal: i32,
    },
    /// A signal's handler could not be installed.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Why not.
        source: io::Error,
    },
    /// A thread, the poller or a descriptor the server needs could not be made.
    Start {
        /// What could not be made.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The server was told to stop before it ran, and a stopped server does not run again.
    Stopped,
    /// The stop was not clean: the report that says what was cut or left behind.
    Unclean(Box<Report>),
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
            Self::Unclean(report) => write!(f, "the server did not stop cleanly: {report}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
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
    /// Returns the report if the stop was clean, else an error with it: for those who want `?`.
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
