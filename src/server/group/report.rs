//! How a group and its members ended.

use std::error::Error as StdError;
use std::fmt;
use std::process::{ExitCode, Termination};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lifecycle::phase::StopCause;
use crate::lifecycle::report::{Report, Short};
use crate::sys::socket::signal_name;

/// How a group ended, and each of its members. From `main` it sets the program's exit code.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use = "it says whether anything failed"]
pub struct GroupReport {
    /// Why the group stopped.
    pub cause: GroupCause,
    /// From the first wish to stop to the end; zero if all members have ended well by themselves.
    pub took: Duration,
    /// What became of each member, in the order in which they ended; those that were left behind
    /// come last.
    pub members: Vec<MemberReport>,
}

/// Why a group stopped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GroupCause {
    /// All members have ended well.
    Ended,
    /// The member of this name was the first to fail or to panic.
    Failed(String),
    /// The process got this signal.
    Signal(i32),
    /// Its handle was told so.
    Handle,
    /// Its context, or the one this is derived from, was cancelled.
    Context,
    /// The group was dropped.
    Dropped,
}

impl GroupCause {
    /// As a server says it.
    pub(super) fn of_server(&self) -> StopCause {
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

/// What became of a member.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MemberReport {
    /// The name it was given.
    pub name: String,
    /// How long it ran.
    pub ran: Duration,
    /// How it ended.
    pub outcome: MemberOutcome,
}

impl MemberReport {
    /// The error it has failed with.
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
    /// The service returned, and no error.
    Done,
    /// The server stopped, in this way.
    Served(Box<Report>),
    /// The service returned this error, or the member could not be started because of it.
    Failed(Arc<dyn StdError + Send + Sync>),
    /// The service panicked with this text.
    Panicked(String),
    /// The service did not heed its context until the wait was over.
    LeftBehind,
    /// The group was stopping before it could start.
    NotStarted,
}

impl MemberOutcome {
    /// Whether it stops the group.
    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Panicked(_))
    }

    /// 0 if it ended well, 1 if it failed or cut something, 3 if something was left behind.
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
    /// Whether no member has failed, each server has stopped cleanly and nothing was left behind.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.exit_code() == 0
    }

    /// What a program that did nothing else should exit with: 0 if all is clean, 1 if a member has
    /// failed or something was cut, 3 if a service or a worker was left behind.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.members
            .iter()
            .map(|member| member.outcome.exit_code())
            .max()
            .unwrap_or(0)
    }

    /// The errors of members with their names, in the order in which they came.
    pub fn errors(&self) -> impl Iterator<Item = (&str, &(dyn StdError + Send + Sync + 'static))> {
        self.members
            .iter()
            .filter_map(|member| Some((member.name.as_str(), member.error()?)))
    }

    /// The first of [`errors`](Self::errors).
    #[must_use]
    pub fn first_error(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.errors().map(|(_, error)| error).next()
    }

    /// What became of the member `name`.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&MemberReport> {
        self.members.iter().find(|member| member.name == name)
    }

    /// How the server `name` stopped.
    #[must_use]
    pub fn server(&self, name: &str) -> Option<&Report> {
        match &self.member(name)?.outcome {
            MemberOutcome::Served(report) => Some(report),
            _ => None,
        }
    }

    /// For those who want `?`: a report that is not clean becomes an error, whose `source` is what
    /// the first member that failed has returned.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] with this report.
    pub fn into_result(self) -> Result<Self> {
        if self.is_clean() {
            Ok(self)
        } else {
            Err(Error::Group(Box::new(self)))
        }
    }

    /// What happened, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let left = self
            .members
            .iter()
            .filter(|member| matches!(member.outcome, MemberOutcome::LeftBehind))
            .count();
        let left = if left > 0 {
            format!(", {left} left behind")
        } else {
            String::new()
        };
        match self.cause {
            GroupCause::Ended => format!("the group has ended: all {} have", self.members.len()),
            _ => format!(
                "the group has stopped: {}; it took {}{left}",
                self.cause,
                Short(self.took)
            ),
        }
    }

    /// The first member that did not end well: one that failed before one that was not clean.
    pub(crate) fn first_problem(&self) -> Option<&MemberReport> {
        let failed = self
            .members
            .iter()
            .find(|member| member.outcome.is_failure());
        failed.or_else(|| {
            self.members
                .iter()
                .find(|member| member.outcome.exit_code() > 0)
        })
    }
}

impl Termination for GroupReport {
    fn report(self) -> ExitCode {
        self.exit_code().into()
    }
}

impl fmt::Display for GroupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        for member in &self.members {
            writeln!(f, "  {member}")?;
            if let MemberOutcome::Served(report) = &member.outcome {
                // Its first line is said already.
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
                write!(f, "{name} failed after {ran}: {error}")?;
                let mut cause = error.source();
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
            MemberOutcome::Panicked(text) => write!(f, "{name} panicked after {ran}: {text}"),
            MemberOutcome::LeftBehind => {
                write!(f, "{name} did not end and was left behind after {ran}")
            }
            MemberOutcome::NotStarted => write!(f, "{name} was not started"),
        }
    }
}
