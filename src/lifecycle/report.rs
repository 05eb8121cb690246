//! What a stop did: to whom, and how long it took.

use std::fmt;
use std::net::SocketAddr;
use std::process::{ExitCode, Termination};
use std::time::Duration;

use http::{Method, Uri};

use crate::error::{Error, Result};
use crate::lifecycle::ledger::{CloseReason, Raced};
use crate::lifecycle::phase::{Phase, StopCause};

/// How a server stopped: what was finished, what was cut, what was left behind.
///
/// Returned to everyone who waits for the stop, equal for all. From `main` it sets the program's
/// exit code.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[must_use = "it says whether anything was cut"]
pub struct Report {
    /// Why the server stopped.
    pub cause: StopCause,
    /// From the first wish to stop to the end.
    pub took: Duration,
    /// How long each phase of the stop lasted, in their order.
    pub phases: Vec<(Phase, Duration)>,
    /// Connections accepted in the server's whole life.
    pub accepted: u64,
    /// How long in all clients had to wait in the accept backlog, because as many connections as
    /// allowed were open and none was idle, or the process was out of descriptors.
    pub paused: Duration,
    /// How long the listeners took to close, with new connections kept out.
    pub gate: Duration,
    /// Listeners whose new connections could not be kept out meanwhile: the system knows no such
    /// thing, or the socket may belong to others too. One that came in the very moment of the close
    /// may have been reset.
    pub ungated: usize,
    /// Connections that were still in the accept backlog when draining started. They were served.
    pub backlog: usize,
    /// Connections that were in it nevertheless when the listeners closed. They were reset.
    pub backlog_left: u32,
    /// Responses made in the server's whole life, by the phase they were made in.
    pub answered: Vec<(Phase, u64)>,
    /// How connections ended, in the server's whole life. What never happened is not listed.
    pub closed: Vec<(CloseReason, u64)>,
    /// Requests that were cut at the deadline, in their handler or while their response was sent.
    pub cut: Vec<CutRequest>,
    /// Requests that were given to no handler, and answered with 503, or reset behind an answer
    /// that their client had not taken: safe to repeat.
    pub never_started: Vec<CutRequest>,
    /// Requests that crossed our end of their connection: not served, and safe to repeat.
    pub raced: Vec<Raced>,
    /// What became of upgraded connections.
    pub upgraded: UpgradedReport,
    /// What became of the hooks.
    pub hooks: Vec<HookReport>,
    /// Workers whose handler did not return, and were left behind.
    pub stuck: Vec<StuckWorker>,
    /// What went wrong in closing listeners.
    pub errors: Vec<String>,
}

/// What became of the [upgraded](crate::upgrade::accept) connections that were open when draining started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct UpgradedReport {
    /// They were told of the stop.
    pub told: usize,
    /// They came to their own end in time.
    pub finished: usize,
    /// They were reset at the deadline. Each is listed in [`Report::cut`].
    pub cut: usize,
}

/// A request that did not get its whole response, or whose upgraded connection was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CutRequest {
    /// Who asked. `None` over a unix socket.
    pub peer: Option<SocketAddr>,
    /// The request's method.
    pub method: Method,
    /// The request's target.
    pub target: Uri,
    /// How long ago its head was complete.
    pub age: Duration,
    /// It was given to a handler. If not, nothing has happened and it is safe to repeat.
    pub started: bool,
    /// Bytes of its response that were sent.
    pub bytes_sent: u64,
    /// The client was answered with 503 instead.
    pub answered_503: bool,
    /// It had been answered with 101, and its connection was reset; `bytes_sent` are those sent on
    /// it since.
    pub upgraded: bool,
}

/// What became of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HookReport {
    /// The name it was given.
    pub name: String,
    /// How long it ran.
    pub took: Duration,
    /// How it ended.
    pub outcome: HookOutcome,
}

/// How a hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HookOutcome {
    /// It returned.
    Done,
    /// It panicked.
    Panicked,
    /// It had not returned when the stop was over, and was left behind.
    Late,
}

/// A worker that sat in a handler when the server ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StuckWorker {
    /// The thread's name.
    pub thread: String,
    /// The request it serves, if it is known: its method, its target and how long ago its head was
    /// complete.
    pub request: Option<(Method, Uri, Duration)>,
}

impl Report {
    pub(crate) fn new(cause: StopCause) -> Self {
        Self {
            cause,
            took: Duration::ZERO,
            phases: Vec::new(),
            accepted: 0,
            paused: Duration::ZERO,
            gate: Duration::ZERO,
            ungated: 0,
            backlog: 0,
            backlog_left: 0,
            answered: Vec::new(),
            closed: Vec::new(),
            cut: Vec::new(),
            never_started: Vec::new(),
            raced: Vec::new(),
            upgraded: UpgradedReport::default(),
            hooks: Vec::new(),
            stuck: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Of a server one of whose own threads has panicked.
    pub(crate) fn of_fault(thread: &str) -> Self {
        let stuck = vec![StuckWorker {
            thread: thread.to_owned(),
            request: None,
        }];
        Self {
            stuck,
            ..Self::new(StopCause::Handle)
        }
    }

    /// Whether every request that came was answered in full, every hook has returned and every
    /// thread has ended.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.exit_code() == 0
    }

    /// What a program that did nothing else should exit with: 0 if the stop was clean, 1 if
    /// something was cut, 3 if a worker was left behind. (2 is for who could not even start.)
    ///
    /// A request that the client had to expect not to be served, behind a response that said
    /// `Connection: close`, does not count; one that crossed our end of an idle connection does.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if !self.stuck.is_empty() {
            return 3;
        }
        let nothing_cut =
            self.cut.is_empty() && self.never_started.is_empty() && self.backlog_left == 0;
        let nothing_raced = self.raced.iter().all(|raced| raced.told);
        let hooks_done = self
            .hooks
            .iter()
            .all(|hook| hook.outcome == HookOutcome::Done);
        u8::from(!(nothing_cut && nothing_raced && hooks_done))
    }

    /// What happened, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let counted = [
            (self.cut.len(), "request", " cut"),
            (self.never_started.len(), "request", " never started"),
            (
                self.raced.iter().filter(|raced| !raced.told).count(),
                "request",
                " raced",
            ),
            (
                self.backlog_left as usize,
                "connection",
                " reset in the backlog",
            ),
            (
                self.hooks
                    .iter()
                    .filter(|hook| hook.outcome != HookOutcome::Done)
                    .count(),
                "hook",
                " failed",
            ),
            (self.stuck.len(), "worker", " left behind"),
        ];
        let counted = counted.iter().filter(|(n, ..)| *n > 0);
        let listed: Vec<_> = counted
            .map(|(n, what, how)| format!("{}{how}", count(*n as u64, what)))
            .collect();
        let outcome = if listed.is_empty() {
            "cleanly".to_owned()
        } else {
            format!("with {}", listed.join(", "))
        };
        format!(
            "stopped {outcome} by {}, in {}",
            self.cause,
            Short(self.took)
        )
    }

    /// For those who want `?`: a report that is not clean becomes an error.
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

    /// Responses made in `phase`.
    #[must_use]
    pub fn answered_in(&self, phase: Phase) -> u64 {
        self.answered
            .iter()
            .find(|(of, _)| *of == phase)
            .map_or(0, |(_, n)| *n)
    }

    /// Connections that ended because of `reason`.
    #[must_use]
    pub fn closed_because(&self, reason: CloseReason) -> u64 {
        self.closed
            .iter()
            .find(|(of, _)| *of == reason)
            .map_or(0, |(_, n)| *n)
    }
}

impl Termination for Report {
    fn report(self) -> ExitCode {
        self.exit_code().into()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        for (phase, took) in &self.phases {
            let answered = count(self.answered_in(*phase), "response");
            writeln!(
                f,
                "  {:<10} {:>9}   {answered}",
                phase.to_string(),
                Short(*took).to_string()
            )?;
        }
        let total = self.answered.iter().map(|(_, n)| n).sum::<u64>();
        writeln!(
            f,
            "  in all     {}, {}",
            count(self.accepted, "connection"),
            count(total, "response")
        )?;
        if !self.paused.is_zero() {
            writeln!(
                f,
                "  accepting paused for want of room: {} in all",
                Short(self.paused)
            )?;
        }
        if self.ungated > 0 {
            writeln!(
                f,
                "  {} closed without keeping new connections out",
                count(self.ungated as u64, "listener")
            )?;
        }
        if self.backlog > 0 {
            writeln!(
                f,
                "  {} in the accept backlog served after the listeners closed",
                count(self.backlog as u64, "connection")
            )?;
        }
        for (reason, n) in &self.closed {
            writeln!(f, "  {n:>9} {reason}")?;
        }
        for cut in &self.cut {
            writeln!(f, "  cut: {cut}")?;
        }
        for request in &self.never_started {
            writeln!(f, "  never started: {request}")?;
        }
        for raced in &self.raced {
            writeln!(f, "  raced: {raced}")?;
        }
        if self.upgraded.told > 0 {
            let UpgradedReport {
                told,
                finished,
                cut,
            } = self.upgraded;
            let told = count(told as u64, "upgraded connection");
            writeln!(
                f,
                "  {told} told of the stop: {finished} finished, {cut} cut"
            )?;
        }
        for hook in &self.hooks {
            writeln!(f, "  hook: {hook}")?;
        }
        for stuck in &self.stuck {
            writeln!(f, "  stuck: {stuck}")?;
        }
        for error in &self.errors {
            writeln!(f, "  error: {error}")?;
        }
        Ok(())
    }
}

impl fmt::Display for CutRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.target)?;
        if let Some(peer) = self.peer {
            write!(f, " of {peer}")?;
        }
        write!(f, ", {} old, ", Short(self.age))?;
        match (self.answered_503, self.started) {
            (true, true) => f.write_str("in its handler: answered with 503"),
            (true, false) => f.write_str("safe to repeat: answered with 503"),
            (false, false) => f.write_str("safe to repeat: reset unread"),
            (false, _) if self.upgraded => {
                write!(f, "upgraded: reset after {} bytes", self.bytes_sent)
            }
            (false, _) => write!(f, "reset after {} bytes of its response", self.bytes_sent),
        }
    }
}

impl fmt::Display for Raced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.target)?;
        if let Some(peer) = self.peer {
            write!(f, " of {peer}")?;
        }
        f.write_str(if self.told {
            " behind a last response, as the client knew"
        } else {
            " as we closed its idle connection"
        })
    }
}

impl fmt::Display for HookReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            HookOutcome::Done => "done",
            HookOutcome::Panicked => "panicked",
            HookOutcome::Late => "left behind",
        };
        write!(f, "{} {outcome} after {}", self.name, Short(self.took))
    }
}

impl fmt::Display for StuckWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.thread)?;
        match &self.request {
            Some((method, target, age)) => write!(f, " in {method} {target} for {}", Short(*age)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Asked => "closed after a last response, as the request or the handler asked",
            Self::Stopping => "closed after a last response, because of the stop",
            Self::PeerClosed => "closed by the peer between requests",
            Self::PeerGone => "closed by the peer within a request",
            Self::Broken => "broken",
            Self::Idle => "closed for being idle",
            Self::IdleStopping => "closed while idle, because of the stop",
            Self::Silent => "closed for never sending a byte",
            Self::Refused => "closed after a request that was refused",
            Self::Stalled => "reset because the peer did not take its response",
            Self::Failed => "reset or closed because a handler or body failed",
            Self::Cut => "cut at the deadline",
            Self::NoSlot => "closed unserved: no slot was free",
            Self::Evicted => "closed while idle, to make room for others",
            Self::Upgraded => "closed after it was upgraded",
            Self::Overloaded => "closed after a 503: no worker was free in time",
        })
    }
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A duration as people say it.
pub(crate) struct Short(pub(crate) Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds < 1.0 {
            write!(f, "{:.1} ms", seconds * 1e3)
        } else {
            write!(f, "{seconds:.1} s")
        }
    }
}
