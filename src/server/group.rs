//! Several services as one: the first that fails stops the others, and its error is what comes out.
//!
//! Nothing here polls and nothing waits for a member: whoever ends, fails or stops the group does
//! what follows from it, on its own thread. **Invariant:** no callback, of a context, a server or a
//! timer, is called under the lock.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::process::{ExitCode, Termination};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::error::signal_name::signal_name;
use crate::error::{Error, Result};
use crate::handler::respond::Handler;
use crate::lifecycle::context::{CancelReason, Context};
use crate::lifecycle::phase::{Flag, StopCause};
use crate::lifecycle::report::{Report, Short};
use crate::lifecycle::timer::{self, Alarm};
use crate::server::signals::{Caught, SignalThread};
use crate::server::{Bound, Running, ServerHandle};
use crate::settings::STOP_TIMEOUT;
use crate::sys::clock::{Clock, after};
use crate::sys::panics;

/// Several services and servers that stop together: when the first one fails or panics, when a
/// signal comes, or when somebody says so. A service that ends well stops nobody; when all have
/// ended well the group is done.
///
/// To stop is to end well: the services' [`Context`] is cancelled, the servers begin their
/// shutdown. Both have [`stop_timeout`](GroupBuilder::stop_timeout). Dropping a group stops it, and
/// does not wait.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use lameduck::group::Group;
/// use lameduck::{Context, Server};
///
/// let web = Server::builder().bind("127.0.0.1:0")?;
/// let group = Group::new();
/// group.serve("web", web, |_request, _context| "hello\n");
/// group.spawn("timer", |context: Context| {
///     if context.sleep(Duration::from_millis(20)).is_ok() {
///         return Err("the time is over");
///     }
///     Ok(())
/// });
///
/// let report = group.join();
/// assert_eq!(report.first_error().unwrap().to_string(), "the time is over");
/// assert!(report.server("web").unwrap().is_clean());
/// # Ok::<(), lameduck::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping it stops its members"]
pub struct Group {
    shared: Arc<Shared>,
    #[allow(dead_code, reason = "it is there to be dropped")]
    signals: Option<SignalThread>,
}

/// What a group will be like: see [`Group::builder`].
#[derive(Debug)]
#[must_use = "nothing happens before `start`"]
pub struct GroupBuilder {
    signals: Vec<i32>,
    context: Option<Context>,
    stop_timeout: Duration,
}

impl GroupBuilder {
    /// Signals that stop the group: the first one as [`GroupHandle::begin_shutdown`] does; a second
    /// one ends the wait, so that servers cut what is left and services that still run are left
    /// behind; a third one ends the process. Default: none, and then nothing is installed.
    pub fn on_signals(mut self, signals: impl IntoIterator<Item = i32>) -> Self {
        self.signals.extend(signals);
        self
    }

    /// What the members' context is derived from: when it is cancelled, the group stops. Default:
    /// none.
    pub fn context(mut self, context: &Context) -> Self {
        self.context = Some(context.clone());
        self
    }

    /// How long members may take to end once the group stops. Default: 30 s. Zero does not wait;
    /// [`Duration::MAX`] is for ever.
    ///
    /// Then a server is cut, even if its own [`grace_period`](crate::ServerBuilder::grace_period)
    /// is longer, and a service is left behind on its thread and named in the report.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// Makes the group. Signals are caught from here on until it is dropped or was waited for.
    ///
    /// # Errors
    ///
    /// [`Error::SignalForbidden`], [`Error::Signal`] if a signal cannot be caught; [`Error::Start`]
    /// if no thread can be made for them.
    pub fn start(self) -> Result<Group> {
        let caught = Caught::install(self.signals)?;
        let context = self
            .context
            .map_or_else(Context::root, |context| context.with_cancel());
        let shared = Arc::new(Shared {
            context,
            stop_timeout: self.stop_timeout,
            state: Mutex::default(),
            stopped: Flag::new(),
        });
        // Weak: a context may live longer than its groups.
        let (stop, cut) = (Arc::downgrade(&shared), Arc::downgrade(&shared));
        shared.context.on_cancel(
            move || if_there(&stop, |shared| shared.stop(GroupCause::Context)),
            move || if_there(&cut, Shared::cut),
        );
        let (stop, cut) = (shared.clone(), shared.clone());
        let signals = caught
            .listen(
                move |signal| stop.stop(GroupCause::Signal(signal)),
                move |_| cut.cut(),
            )
            .map_err(|source| Error::Start {
                what: "signal thread",
                source,
            })?;
        Ok(Group { shared, signals })
    }
}

impl Group {
    /// A group that catches no signals and has every other default.
    pub fn new() -> Self {
        Self::builder()
            .start()
            .expect("without signals nothing can fail")
    }

    /// Starts to describe a group.
    pub fn builder() -> GroupBuilder {
        GroupBuilder {
            signals: Vec::new(),
            context: None,
            stop_timeout: STOP_TIMEOUT,
        }
    }

    /// Runs `service` on a thread of its own, which has its name.
    ///
    /// Its context is cancelled when the group stops; a service that does not heed it is left
    /// behind when [`stop_timeout`](GroupBuilder::stop_timeout) is over. An error, of any type, and
    /// a panic stop the group. To return the context's [`reason`](Context::reason) as the error
    /// once the group stops is to end well.
    ///
    /// A service that is given to a group that stops does not start any more, and the report says
    /// so. A thread that cannot be made is this service's failure.
    pub fn spawn<F, E>(&self, name: impl Into<String>, service: F)
    where
        F: FnOnce(Context) -> Result<(), E> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let name = name.into();
        let Some(id) = self.shared.join(&name) else {
            return;
        };
        // Its own: what one member cancels is not the others'.
        let (shared, context) = (self.shared.clone(), self.shared.context.with_cancel());
        let run = move || {
            let outcome = match panics::catch(|| service(context)) {
                Ok(Ok(())) => MemberOutcome::Done,
                Ok(Err(error)) => MemberOutcome::Failed(Arc::from(error.into())),
                Err(panic) => MemberOutcome::Panicked(panic.to_string()),
            };
            shared.ended(id, outcome);
        };
        // A name with a zero byte would be a panic.
        let thread = std::thread::Builder::new().name(name.replace('\0', " "));
        if let Err(source) = thread.spawn(run) {
            self.shared.ended(
                id,
                MemberOutcome::Failed(Arc::new(Error::Start {
                    what: "thread for a service",
                    source,
                })),
            );
        }
    }

    /// Serves with `handler` as a member of the group. When the group stops, the server's shutdown
    /// begins with the times it was built with; how it stopped is in the report.
    ///
    /// A server that is stopped by somebody else has ended well, and stops nobody. If the group
    /// stops already, the server answers who has connected and stops too. A server that cannot
    /// start is a member that has failed.
    pub fn serve(&self, name: impl Into<String>, bound: Bound, handler: impl Handler) {
        let name = name.into();
        let Some(id) = self.shared.join_serving(&name) else {
            return;
        };
        let running = match bound.spawn(handler) {
            Ok(running) => running,
            Err(error) => {
                return self
                    .shared
                    .ended(id, MemberOutcome::Failed(Arc::new(error)));
            }
        };
        let handle = running.handle();
        self.shared.serves(id, running);
        let shared = self.shared.clone();
        handle.on_stopped(move |report| shared.ended(id, MemberOutcome::Served(Box::new(report))));
    }

    /// The context that is cancelled when the group stops. Cancelling it stops the group.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.shared.context
    }

    /// What the group can be stopped with, from any thread.
    #[must_use]
    pub fn handle(&self) -> GroupHandle {
        GroupHandle(self.shared.clone())
    }

    /// A channel that disconnects when every member has ended or was left behind, for `select!`
    /// beside others. Call it when all members are there: a group none of whose members runs any
    /// more is done from then on.
    #[must_use]
    pub fn stopped(&self) -> &Receiver<()> {
        self.shared.settle(|state| state.is_complete = true);
        self.shared.stopped.receiver()
    }

    /// Waits until every member has ended, and says how each did.
    ///
    /// Blocks for as long as nobody fails, no signal comes and nobody stops it; from then on for at
    /// most [`stop_timeout`](GroupBuilder::stop_timeout), and for what a server needs to cut: its
    /// [`cut_grace`](crate::ServerBuilder::cut_grace) and a moment.
    pub fn join(self) -> GroupReport {
        let _ = self.stopped().recv();
        let mut state = self.shared.lock();
        let cause = state
            .stop
            .as_ref()
            .map_or(GroupCause::Ended, |stop| stop.cause.clone());
        let took = match (&state.stop, state.done_at) {
            (Some(stop), Some(done_at)) => done_at.saturating_duration_since(stop.begun_at),
            _ => Duration::ZERO,
        };
        let report = GroupReport {
            cause,
            took,
            members: std::mem::take(&mut state.ended),
        };
        drop(state);
        let left = report
            .members
            .iter()
            .filter(|member| matches!(member.outcome, MemberOutcome::LeftBehind));
        left.for_each(|member| log::warn!("{member}"));
        log::info!("{}", report.summary());
        report
    }
}

impl Default for Group {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.shared.stop(GroupCause::Dropped);
        // Of a group that was done without a stop it is still to come.
        self.shared.context.cancel();
    }
}

/// What a group can be stopped with, from any thread. A cheap clone.
#[derive(Debug, Clone)]
pub struct GroupHandle(Arc<Shared>);

impl GroupHandle {
    /// Begins the stop and returns at once; also for members and handlers. Services see their
    /// context cancelled, servers begin their shutdown. A stop that was begun before goes on
    /// unchanged.
    pub fn begin_shutdown(&self) {
        self.0.stop(GroupCause::Handle);
    }
}

/// What the group and its members share.
struct Shared {
    context: Context,
    stop_timeout: Duration,
    state: Mutex<State>,
    /// Raised when it is done.
    stopped: Flag,
}

#[derive(Default)]
struct State {
    stop: Option<Stop>,
    /// By the order in which they came.
    running: BTreeMap<u64, Member>,
    next: u64,
    /// In the order in which they ended.
    ended: Vec<MemberReport>,
    /// Somebody waits: no further members are expected.
    is_complete: bool,
    /// Services are not waited for any more.
    is_over: bool,
    done_at: Option<Instant>,
}

struct Stop {
    cause: GroupCause,
    begun_at: Instant,
    /// Comes at the end of the wait, unless the group is done before.
    alarm: Option<Alarm>,
}

struct Member {
    name: String,
    since: Instant,
    kind: Kind,
}

enum Kind {
    Service,
    /// `None` while it starts.
    Server(Option<Running>),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and sees whether the group is done with it.
    fn settle<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let value = change(&mut state);
        let waits_for = |member: &Member| matches!(member.kind, Kind::Server(_)) || !state.is_over;
        let is_done =
            state.is_complete && state.done_at.is_none() && !state.running.values().any(waits_for);
        if is_done {
            let now = Clock::System.now();
            state.done_at = Some(now);
            drop(state.stop.as_mut().and_then(|stop| stop.alarm.take()));
            for member in std::mem::take(&mut state.running).into_values() {
                state
                    .ended
                    .push(member.report(now, MemberOutcome::LeftBehind));
            }
        }
        drop(state);
        if is_done {
            self.stopped.raise();
        }
        value
    }

    /// Takes a service in. `None`: it is too late for it.
    fn join(&self, name: &str) -> Option<u64> {
        let mut state = self.lock();
        let is_late = state.stop.is_some() || state.done_at.is_some();
        state.join(name, Kind::Service, is_late)
    }

    /// Takes a server in, which has clients to answer even if the group stops.
    fn join_serving(&self, name: &str) -> Option<u64> {
        let mut state = self.lock();
        let is_late = state.done_at.is_some();
        state.join(name, Kind::Server(None), is_late)
    }

    fn serves(&self, id: u64, running: Running) {
        let handle = running.handle();
        let mut state = self.lock();
        if let Some(member) = state.running.get_mut(&id) {
            member.kind = Kind::Server(Some(running));
        }
        let stop = state.stop.as_ref().map(|stop| stop.cause.of_server());
        let is_over = state.is_over;
        drop(state);
        if let Some(cause) = stop {
            handle.begin_stop(cause);
            if is_over {
                handle.cut(cause);
            }
        }
    }

    fn ended(self: &Arc<Self>, id: u64, mut outcome: MemberOutcome) {
        let now = Clock::System.now();
        // To say what one was told is no failure.
        if let MemberOutcome::Failed(error) = &outcome
            && self
                .context
                .reason()
                .is_some_and(|reason| error.downcast_ref() == Some(&reason))
        {
            outcome = MemberOutcome::Done;
        }
        let ended = self.settle(|state| {
            // `None`: it was left behind before.
            let member = state.running.remove(&id)?;
            let report = member.report(now, outcome);
            state.ended.push(report.clone());
            // In the same breath, so that the first failure is the cause.
            let failure = report
                .outcome
                .is_failure()
                .then(|| GroupCause::Failed(report.name.clone()));
            let begun = failure.and_then(|cause| self.begin(state, cause));
            Some((member, report, begun))
        });
        // Not under the lock: a logger, and a server, which asks for its own stop when it is
        // dropped.
        let Some((_member, report, begun)) = ended else {
            return;
        };
        if report.outcome.is_failure() {
            log::error!("{report}");
        } else {
            log::info!("{report}");
        }
        if let Some(begun) = begun {
            self.tell(begun);
        }
    }

    fn stop(self: &Arc<Self>, cause: GroupCause) {
        let begun = self.settle(|state| self.begin(state, cause));
        if let Some(begun) = begun {
            self.tell(begun);
        }
    }

    /// What is to be done for the stop to begin. `None` if it has begun before.
    fn begin(self: &Arc<Self>, state: &mut State, cause: GroupCause) -> Option<Begun> {
        if state.stop.is_some() || state.done_at.is_some() {
            return None;
        }
        let begun_at = Clock::System.now();
        let shared = Arc::downgrade(self);
        let alarm = after(begun_at, self.stop_timeout)
            .map(|at| timer::at(at, move || if_there(&shared, |shared| shared.give_up())));
        let begun = Begun {
            cause: cause.clone(),
            servers: state.servers(),
        };
        state.stop = Some(Stop {
            cause,
            begun_at,
            alarm,
        });
        Some(begun)
    }

    fn tell(&self, begun: Begun) {
        let Begun { cause, servers } = begun;
        if self.lock().done_at.is_none() {
            log::info!("the group stops: {cause}");
        }
        servers
            .iter()
            .for_each(|server| server.begin_stop(cause.of_server()));
        self.context.cancel_because(match cause {
            GroupCause::Signal(signal) => CancelReason::Signal(signal),
            _ => CancelReason::Cancelled,
        });
    }

    /// The stop is to end now.
    fn cut(self: &Arc<Self>) {
        self.stop(GroupCause::Context);
        // For what members have derived from it.
        self.context.force();
        self.give_up();
    }

    /// Services are not waited for any more, and servers have only what cutting takes.
    fn give_up(&self) {
        let state = self.lock();
        let cause = state
            .stop
            .as_ref()
            .map_or(StopCause::Context, |stop| stop.cause.of_server());
        let servers = state.servers();
        drop(state);
        servers.iter().for_each(|server| server.cut(cause));
        self.settle(|state| state.is_over = true);
    }
}

/// For contexts and timers, which must not keep a group.
fn if_there(shared: &Weak<Shared>, then: impl FnOnce(&Arc<Shared>)) {
    if let Some(shared) = shared.upgrade() {
        then(&shared);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let running: Vec<_> = state.running.values().map(|member| &member.name).collect();
        f.debug_struct("Group")
            .field("running", &running)
            .field("is_stopping", &state.stop.is_some())
            .finish()
    }
}

/// A stop that has just begun: who is to be told.
struct Begun {
    cause: GroupCause,
    servers: Vec<ServerHandle>,
}

impl State {
    fn join(&mut self, name: &str, kind: Kind, is_late: bool) -> Option<u64> {
        let member = Member {
            name: name.to_owned(),
            since: Clock::System.now(),
            kind,
        };
        if is_late {
            self.ended.push(MemberReport {
                name: member.name,
                ran: Duration::ZERO,
                outcome: MemberOutcome::NotStarted,
            });
            return None;
        }
        self.next += 1;
        self.running.insert(self.next, member);
        Some(self.next)
    }

    fn servers(&self) -> Vec<ServerHandle> {
        let servers = self
            .running
            .values()
            .filter_map(|member| match &member.kind {
                Kind::Server(Some(running)) => Some(running.handle()),
                Kind::Server(None) | Kind::Service => None,
            });
        servers.collect()
    }
}

impl Member {
    fn report(&self, now: Instant, outcome: MemberOutcome) -> MemberReport {
        MemberReport {
            name: self.name.clone(),
            ran: now.saturating_duration_since(self.since),
            outcome,
        }
    }
}

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
    fn of_server(&self) -> StopCause {
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
    fn is_failure(&self) -> bool {
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
