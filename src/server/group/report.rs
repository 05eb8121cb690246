//! How a group ended, and each of its members.

use std::error::Error as StdError;
use std::fmt;
use std::io::Write;
use std::process::{ExitCode, Termination};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Causes;
use crate::lifecycle::phase::StopCause;
use crate::lifecycle::report::Report;
use crate::sys::clock::Short;
use crate::sys::signal_name::signal_name;

/// How a group ended, and each of its members.
///
/// Everybody who waits for the group gets the same one. From `main` it sets the program's exit
/// code.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use = "it says whether anything failed"]
pub struct GroupReport {
    /// Why the group stopped.
    pub cause: GroupCause,
    /// The time from the beginning of the stop to the end of the group. Zero if all members ended
    /// by themselves.
    pub took: Duration,
    /// What became of each member, in the order in which they ended. Members that were left behind
    /// come last.
    pub members: Vec<MemberReport>,
}

/// Why a group stopped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GroupCause {
    /// All members ended, and none of them failed.
    Ended,
    /// The member of this name was the first to fail or to panic.
    Failed(String),
    /// The process got this signal.
    Signal(i32),
    /// A [`GroupHandle`](crate::group::GroupHandle) was told so.
    Handle,
    /// The group's context, or the one it is derived from, was cancelled.
    Context,
    /// The group was dropped.
    Dropped,
}

impl GroupCause {
    /// Returns what the report of a server in the group names as the cause.
    pub(super) fn as_stop_cause(&self) -> StopCause {
        match self {
            Self::Signal(signal) => StopCause::Signal(*signal),
            _ => StopCause::Context,
        }
    }
}

impl fmt::Display for GroupCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("all have ended"),
            Self::Failed(name) => write!(f, "{name} has failed"),
            Self::Signal(signal) => write!(f, "{}", signal_name(*signal)),
            Self::Handle => f.write_str("a call of its handle"),
            Self::Context => f.write_str("its context was cancelled"),
            Self::Dropped => f.write_str("it was dropped"),
        }
    }
}

/// What became of one member of a group.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MemberReport {
    /// The name that the member was given.
    pub name: String,
    /// How long the member ran.
    pub ran: Duration,
    /// How the member ended.
    pub outcome: MemberOutcome,
}

impl MemberReport {
    /// Returns the error that the member failed with.
    #[must_use]
    pub fn error(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        match &self.outcome {
            MemberOutcome::Failed(error) => Some(&**error),
            _ => None,
        }
    }
}

/// How a member of a group ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum MemberOutcome {
    /// The service returned `Ok`, or the reason for which its context was cancelled.
    Done,
    /// The server stopped, as its report says.
    Served(Box<Report>),
    /// The service returned this error, or the member could not be started because of it.
    Failed(Arc<dyn StdError + Send + Sync>),
    /// The service panicked with this text.
    Panicked(String),
    /// The service still ran when the group stopped waiting for it.
    LeftBehind,
    /// The member came when the group was already stopping, and was not started.
    NotStarted,
}

impl MemberOutcome {
    /// Returns whether a member that ends like this stops its group.
    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Panicked(_))
    }

    fn is_left_behind(&self) -> bool {
        matches!(self, Self::LeftBehind)
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Done | Self::NotStarted => 0,
            Self::Served(report) => report.exit_code(),
            Self::Failed(_) | Self::Panicked(_) => 1,
            Self::LeftBehind => 3,
        }
    }
}

impl GroupReport {
    /// Returns whether no member failed, every server stopped cleanly and nothing was left behind.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.exit_code() == 0
    }

    /// Returns the exit code of a program that does nothing else.
    ///
    /// It is 0 if all is clean, 1 if a member failed or a server cut something, and 3 if a service
    /// or a server's worker was left behind.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let codes = self.members.iter().map(|member| member.outcome.exit_code());
        codes.max().unwrap_or(0)
    }

    /// Returns the errors that members failed with, and the members' names, in the order in which
    /// the errors came.
    pub fn errors(&self) -> impl Iterator<Item = (&str, &(dyn StdError + Send + Sync + 'static))> {
        self.members
            .iter()
            .filter_map(|member| Some((member.name.as_str(), member.error()?)))
    }

    /// Returns the first of the [`errors`](Self::errors).
    #[must_use]
    pub fn first_error(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.errors().map(|(_, error)| error).next()
    }

    /// Returns what became of the member `name`.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&MemberReport> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Returns how the server `name` stopped.
    #[must_use]
    pub fn server(&self, name: &str) -> Option<&Report> {
        match &self.member(name)?.outcome {
            MemberOutcome::Served(report) => Some(report),
            _ => None,
        }
    }

    /// Turns a report that is not clean into an error, for programs that use `?`.
    ///
    /// # Errors
    ///
    /// [`GroupFailed`] with this report.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::error::Error;
    /// use lameduck::group::Group;
    ///
    /// let group = Group::new();
    /// group.spawn("import", |_context| Err("the disk is full"));
    ///
    /// let failed = group.join().into_result().unwrap_err();
    /// assert_eq!(failed.to_string(), "import failed");
    /// assert_eq!(failed.source().unwrap().to_string(), "the disk is full");
    /// assert_eq!(failed.report().exit_code(), 1);
    /// ```
    pub fn into_result(self) -> Result<Self, GroupFailed> {
        if self.is_clean() {
            Ok(self)
        } else {
            Err(GroupFailed(Box::new(self)))
        }
    }

    /// Returns what happened, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        if self.cause == GroupCause::Ended {
            return format!("the group has ended: all {} have", self.members.len());
        }
        let left = match self.left_behind().count() {
            0 => String::new(),
            left => format!(", {left} left behind"),
        };
        format!(
            "the group has stopped: {}; it took {}{left}",
            self.cause,
            Short(self.took)
        )
    }

    /// Returns the members that were left behind.
    pub(super) fn left_behind(&self) -> impl Iterator<Item = &MemberReport> {
        self.members
            .iter()
            .filter(|member| member.outcome.is_left_behind())
    }

    /// Returns the first member that failed or, if none did, the first that was not clean.
    fn first_problem(&self) -> Option<&MemberReport> {
        let members = || self.members.iter();
        members()
            .find(|member| member.outcome.is_failure())
            .or_else(|| members().find(|member| member.outcome.exit_code() > 0))
    }
}

impl Termination for GroupReport {
    /// Returns the [exit code](Self::exit_code). A report that is not clean is written to stderr
    /// before.
    fn report(self) -> ExitCode {
        if !self.is_clean() {
            // Where stderr is closed there is nobody to tell, but the exit code still does.
            let _ = std::io::stderr().write_all(self.to_string().as_bytes());
        }
        self.exit_code().into()
    }
}

impl fmt::Display for GroupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        for member in &self.members {
            writeln!(f, "  {member}")?;
            if let MemberOutcome::Served(report) = &member.outcome {
                // The member's line is the first one of its server's report.
                for line in report.to_string().lines().skip(1) {
                    writeln!(f, "  {line}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for MemberReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, ran) = (&self.name, Short(self.ran));
        match &self.outcome {
            MemberOutcome::Done => write!(f, "{name} ended after {ran}"),
            MemberOutcome::Served(report) => write!(f, "{name} {}", report.summary()),
            MemberOutcome::Failed(error) => {
                write!(f, "{name} failed after {ran}: {}", Causes(&**error))
            }
            MemberOutcome::Panicked(text) => write!(f, "{name} panicked after {ran}: {text}"),
            MemberOutcome::LeftBehind => {
                write!(f, "{name} did not end and was left behind after {ran}")
            }
            MemberOutcome::NotStarted => write!(f, "{name} was not started"),
        }
    }
}

/// The error that a group's report becomes if a member failed or did not end cleanly.
///
/// It says which member that was, the first one that failed if any did; the error of that member is
/// the `source`. `Debug` writes the same line with all causes after it, since that is what a `main`
/// that returns this error prints.
#[derive(Clone)]
pub struct GroupFailed(Box<GroupReport>);

impl GroupFailed {
    /// Returns the report, which says how each member ended.
    pub fn report(&self) -> &GroupReport {
        &self.0
    }

    /// Turns the error back into the report.
    pub fn into_report(self) -> GroupReport {
        *self.0
    }
}

impl fmt::Display for GroupFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first_problem() {
            Some(member) if member.error().is_some() => write!(f, "{} failed", member.name),
            Some(member) => write!(f, "{member}"),
            None => f.write_str(&self.0.summary()),
        }
    }
}

impl fmt::Debug for GroupFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Causes(self))
    }
}

impl StdError for GroupFailed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.first_problem()?.error().map(|error| error as _)
    }
}
