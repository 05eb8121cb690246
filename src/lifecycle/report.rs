//! The report of a stop: what was finished, what was cut, and how long it took.

use std::fmt;
use std::io::Write;
use std::process::{ExitCode, Termination};
use std::time::{Duration, Instant};

use http::{Method, Uri};

use crate::lifecycle::ledger::{CloseReason, Requests};
use crate::lifecycle::phase::{Phase, StopCause};
use crate::lifecycle::unanswered::{CutConnection, Fate, UnansweredRequest};
use crate::sys::clock::Short;

/// How a server stopped: what was finished, what was cut, what was left behind.
///
/// Every caller that waits for the stop gets an equal one. Returned from `main`, it sets the
/// program's exit code.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[must_use = "it says whether anything was cut"]
pub struct Report {
    /// Why the server stopped.
    pub cause: StopCause,
    /// The time from the first request to stop to the end of the server.
    pub took: Duration,
    /// How long each phase of the stop lasted, in their order.
    pub phases: Vec<(Phase, Duration)>,
    /// The number of connections accepted since the server started.
    pub accepted: u64,
    /// The number of responses made since the server started, by the phase they were made in.
    pub answered: Vec<(Phase, u64)>,
    /// The number of connections that ended since the server started, by reason. A reason for which
    /// none ended is not listed.
    pub closed: Vec<(CloseReason, u64)>,
    /// What became of all requests since the server started, in numbers.
    pub requests: Requests,
    /// The requests that did not get their complete response because of the stop, each with its
    /// [`Fate`].
    pub unanswered: Vec<UnansweredRequest>,
    /// The number of requests that would be in [`unanswered`](Self::unanswered) with a fate that is
    /// safe to repeat, if that list were not limited to 10,000 of them.
    pub unlisted: u64,
    /// The connections that were cut at the deadline before a request on them was complete.
    pub cut_connections: Vec<CutConnection>,
    /// What became of upgraded connections.
    pub upgraded: UpgradedReport,
    /// What became of the listeners and of the connections in their accept backlogs.
    pub listeners: ListenersReport,
    /// What became of the hooks.
    pub hooks: Vec<HookReport>,
    /// The workers whose handler did not return, and that were left behind.
    pub stuck: Vec<StuckWorker>,
    /// Faults of the server itself, each in a line: a thread that panicked, or a sum that does not
    /// come out. There should be none; a stop with one is not clean.
    pub faults: Vec<String>,
}

/// What became of the listeners, and of the connections in their accept backlogs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ListenersReport {
    /// The time in all that clients had to wait in the accept backlog since the server started,
    /// because as many connections as allowed were open and none was idle, or because the process
    /// was out of descriptors.
    pub accept_paused: Duration,
    /// The time for which the SYN gate kept new connections out while the listeners closed.
    pub syn_gate: Duration,
    /// The number of listeners that closed without a SYN gate, because the system has none or other
    /// processes may hold the socket too. A connection that was being made in the very moment of
    /// the close may have been reset.
    pub without_syn_gate: usize,
    /// The number of connections that were still in an accept backlog when draining started, and
    /// were served.
    pub backlog_served: usize,
    /// The number of connections that were in a backlog nevertheless when its listener closed, and
    /// were reset. A stop with any of them is not clean.
    pub backlog_reset: u32,
    /// The errors that came while listeners closed.
    pub errors: Vec<String>,
}

/// What became of the [upgraded](crate::upgrade) connections that were open when draining started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct UpgradedReport {
    /// The number of connections whose closures were told of the stop.
    pub told: usize,
    /// The number of connections that came to their own end in time.
    pub finished: usize,
    /// The number of connections that were reset at the deadline. Each is listed in
    /// [`Report::unanswered`].
    pub cut: usize,
}

/// What became of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HookReport {
    /// The name that the hook was given.
    pub name: String,
    /// How long the hook ran.
    pub took: Duration,
    /// How the hook ended.
    pub outcome: HookOutcome,
}

/// How a hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HookOutcome {
    /// The hook returned.
    Done,
    /// The hook panicked.
    Panicked,
    /// The hook had not returned when the stop was over, and was left behind.
    Late,
}

/// A worker that was still in a handler when the server ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StuckWorker {
    /// The thread's name.
    pub thread: String,
    /// The request that the worker serves, if it is known: its method, its target, and the time
    /// since its head was complete.
    pub request: Option<(Method, Uri, Duration)>,
}

impl Report {
    pub(crate) fn new(cause: StopCause) -> Self {
        Self {
            cause,
            took: Duration::ZERO,
            phases: Vec::new(),
            accepted: 0,
            answered: Vec::new(),
            closed: Vec::new(),
            requests: Requests::default(),
            unanswered: Vec::new(),
            unlisted: 0,
            cut_connections: Vec::new(),
            upgraded: UpgradedReport::default(),
            listeners: ListenersReport::default(),
            hooks: Vec::new(),
            stuck: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Adds a phase that lasted from `from` to `to`.
    pub(crate) fn add_phase(&mut self, phase: Phase, from: Instant, to: Instant) {
        let took = to.saturating_duration_since(from);
        self.phases.push((phase, took));
    }

    /// Returns whether every request that came was answered in full, no connection was cut, every
    /// hook has returned, every thread has ended and every sum comes out.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.exit_code() == 0
    }

    /// Returns the exit code of a program that does nothing else: 0 if the stop was clean, 3 if a
    /// worker was left behind, and otherwise 1. (The code 2 is for programs that could not start.)
    ///
    /// The code 1 says that a request or a connection was cut at the deadline, that a request was
    /// never started or raced, that a connection was closed unserved, that a hook failed, or that
    /// the report has a fault. A *raced* request crossed the close of its idle connection: no
    /// handler was given it, and a client that repeats it loses nothing. A request with the fate
    /// [`Fate::AfterClose`] does not count, because its client had to expect it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.marks() {
            marks if marks.is_empty() => 0,
            _ if self.stuck.is_empty() => 1,
            _ => 3,
        }
    }

    /// Returns what makes the stop unclean: how many, of what, and what became of them. Each
    /// number is one that the report prints.
    fn marks(&self) -> Vec<(u64, &'static str, &'static str)> {
        let fated = |is: fn(Fate) -> bool| {
            let requests = self.unanswered.iter().filter(|request| is(request.fate));
            requests.count() as u64
        };
        let never_started = |fate| matches!(fate, Fate::NeverStarted | Fate::Unread);
        let cut = fated(Fate::is_cut);
        // A connection of which no request is named was cut itself.
        let connections = self.closed_because(CloseReason::Cut);
        let named = cut + fated(never_started);
        let cut_connections =
            (self.cut_connections.len() as u64).max(connections.saturating_sub(named));
        let all = [
            (cut, "request", " cut"),
            (fated(never_started), "request", " never started"),
            (fated(|fate| fate == Fate::Raced), "request", " raced"),
            (self.unlisted, "more request", " not listed"),
            (cut_connections, "connection", " cut"),
            (
                self.listeners.backlog_reset.into(),
                "connection",
                " reset in the backlog",
            ),
            (
                self.closed_because(CloseReason::NoSlot),
                "connection",
                " closed unserved",
            ),
            (self.failed_hooks(), "hook", " failed"),
            (self.stuck.len() as u64, "worker", " left behind"),
            (self.faults.len() as u64, "fault", " of the server"),
        ];
        all.into_iter().filter(|(n, ..)| *n > 0).collect()
    }

    /// Adds a fault for each sum that does not come out. `open` connections have not ended, because
    /// the threads that serve them were left behind.
    pub(crate) fn balance(&mut self, open: usize) {
        let ended: u64 = self.closed.iter().map(|(_, n)| n).sum();
        let named = self
            .unanswered
            .iter()
            .filter(|request| request.fate.was_begun());
        let named = named.count() as u64;
        // A thread that is left behind may end its connection while the sums are made.
        let all_ended = self.stuck.is_empty();
        if open > 0 && all_ended {
            let open = count(open as u64, "connection");
            self.faults.push(format!("{open} did not end"));
        }
        if self.accepted != ended + open as u64 && all_ended {
            let accepted = count(self.accepted, "connection");
            self.faults.push(format!(
                "{accepted} accepted, but {ended} ended and {open} open"
            ));
        }
        let lost = self.closed_because(CloseReason::Lost);
        if lost > 0 {
            let lost = count(lost, "connection");
            self.faults
                .push(format!("{lost} dropped by a thread that did not close it"));
        }
        let Requests {
            begun,
            answered,
            broken_off,
            lost,
            ..
        } = self.requests;
        if lost > 0 || begun != answered + broken_off + named {
            let begun = count(begun, "request");
            self.faults.push(format!(
                "{begun} begun, but {answered} answered, {broken_off} broken off and {named} named"
            ));
        }
    }

    /// Returns what happened, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let listed: Vec<_> = self
            .marks()
            .into_iter()
            .map(|(n, what, how)| format!("{}{how}", count(n, what)))
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

    /// Returns what is lost, a line for each request, connection, worker, hook and fault, as the log
    /// has them. At most `max` lines; the last one then says how many there are besides.
    pub(crate) fn losses(&self, max: usize) -> Vec<String> {
        let requests = self
            .unanswered
            .iter()
            .filter(|request| request.fate.is_loss());
        let requests = requests.map(|request| format!("{}: {request}", request.fate.verb()));
        let connections = self.cut_connections.iter().map(ToString::to_string);
        let failed = self.hooks.iter().filter(|hook| hook.is_failed());
        let failed = failed.map(|hook| format!("hook: {hook}"));
        let stuck = self.stuck.iter().map(|stuck| format!("stuck: {stuck}"));
        let faults = self.faults.iter().map(|fault| format!("fault: {fault}"));
        // The few before the many, so that none of the few is left out.
        let mut lines = faults
            .chain(stuck)
            .chain(failed)
            .chain(requests)
            .chain(connections);
        let mut losses: Vec<_> = lines.by_ref().take(max).collect();
        let more = lines.count() as u64 + self.unlisted;
        if more > 0 {
            losses.push(format!("and {more} more"));
        }
        losses
    }

    fn failed_hooks(&self) -> u64 {
        self.hooks.iter().filter(|hook| hook.is_failed()).count() as u64
    }

    /// Returns how many responses were made in `phase`.
    #[must_use]
    pub fn answered_in(&self, phase: Phase) -> u64 {
        self.answered
            .iter()
            .find(|(of, _)| *of == phase)
            .map_or(0, |(_, n)| *n)
    }

    /// Returns how many connections ended because of `reason`.
    #[must_use]
    pub fn closed_because(&self, reason: CloseReason) -> u64 {
        self.closed
            .iter()
            .find(|(of, _)| *of == reason)
            .map_or(0, |(_, n)| *n)
    }
}

impl Termination for Report {
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
        self.listeners.fmt(f)?;
        for (reason, n) in &self.closed {
            writeln!(f, "  {n:>9} {reason}")?;
        }
        let (lost, after_close): (Vec<_>, Vec<_>) = self
            .unanswered
            .iter()
            .partition(|request| request.fate.is_loss());
        for request in lost {
            writeln!(f, "  {}: {request}", request.fate.verb())?;
        }
        if self.unlisted > 0 {
            writeln!(f, "  and {} more", count(self.unlisted, "request"))?;
        }
        if !after_close.is_empty() {
            let requests = count(after_close.len() as u64, "request");
            let fate = Fate::AfterClose;
            writeln!(f, "  {requests} came {fate}")?;
        }
        for connection in &self.cut_connections {
            writeln!(f, "  {connection}")?;
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
        for error in &self.listeners.errors {
            writeln!(f, "  error: {error}")?;
        }
        for fault in &self.faults {
            writeln!(f, "  fault: {fault}")?;
        }
        Ok(())
    }
}

impl ListenersReport {
    /// Writes the lines of a report about waiting clients and closed listeners.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.accept_paused.is_zero() {
            let paused = Short(self.accept_paused);
            writeln!(f, "  accepting paused for want of room: {paused} in all")?;
        }
        if self.without_syn_gate > 0 {
            let listeners = count(self.without_syn_gate as u64, "listener");
            writeln!(
                f,
                "  {listeners} closed without keeping new connections out"
            )?;
        }
        if self.backlog_served > 0 {
            let served = count(self.backlog_served as u64, "connection");
            writeln!(
                f,
                "  {served} in the accept backlog served after the listeners closed"
            )?;
        }
        Ok(())
    }
}

impl HookReport {
    fn is_failed(&self) -> bool {
        self.outcome != HookOutcome::Done
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
            Self::Lost => "dropped without being closed, a fault of the server",
        })
    }
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
