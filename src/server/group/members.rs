//! The state that a group, its handles and its members share: which members run, how the others
//! ended, and the stop.
//!
//! No thread polls, and none waits for a member: the thread on which a member ends, or on which
//! somebody stops the group, also does what follows from it. **Invariant:** no callback of a
//! context, a server or a timer is called under the lock.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::lifecycle::context::Context;
use crate::lifecycle::phase::{Flag, StopCause};
use crate::lifecycle::scope::CancelReason;
use crate::lifecycle::timer::{self, Alarm};
use crate::server::group::report::{GroupCause, GroupReport, MemberOutcome, MemberReport};
use crate::server::{Running, ServerHandle};
use crate::settings::LOG_END;
use crate::sys::clock::{Clock, after};
use crate::sys::logging::{self, LogThread};
use crate::sys::panics;

/// How long a service has to end once the wait is cut short, before it is left behind: as long as
/// a server's worker has. Without it, `close` would report a service that heeds its context as left
/// behind whenever the thread of that service was not scheduled at once.
const SERVICE_CUT_GRACE: Duration = Duration::from_millis(100);

thread_local! {
    /// The address of the group whose service this thread runs; null on any other thread.
    static SERVICE_OF: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

/// What a group, its handles and its members share.
pub(super) struct Shared {
    pub(super) context: Context,
    stop_timeout: Duration,
    state: Mutex<State>,
    /// Raised when the group has ended.
    stopped: Flag,
    /// Made by the first caller that waits for the end.
    report: OnceLock<GroupReport>,
    logs: LogThread,
}

#[derive(Default)]
struct State {
    stop: Option<Stop>,
    /// The members that run, in the order in which they came.
    running: BTreeMap<u64, Member>,
    /// The key of the latest member in `running`.
    last_id: u64,
    /// The other members, in the order in which they ended.
    ended: Vec<MemberReport>,
    /// Whether somebody waits for the end, so that no further members are expected.
    is_complete: bool,
    /// Whether the group waits for its servers only, and no longer for services.
    has_given_up: bool,
    ended_at: Option<Instant>,
}

struct Stop {
    cause: GroupCause,
    begun_at: Instant,
    /// Goes off after the stop timeout.
    timeout: Option<Alarm>,
    /// Goes off a moment after the stop was cut short, if it was.
    cut_timeout: Option<Alarm>,
}

/// A member that runs.
struct Member {
    name: String,
    since: Instant,
    kind: Kind,
}

enum Kind {
    Service,
    /// `None` while the server starts.
    Server(Option<Running>),
}

/// How a group takes its members in, and how they end.
impl Shared {
    pub(super) fn new(context: Context, stop_timeout: Duration) -> Self {
        Self {
            context,
            stop_timeout,
            state: Mutex::default(),
            stopped: Flag::new(),
            report: OnceLock::new(),
            logs: LogThread::new(),
        }
    }

    /// Takes a service in. `None`: the group is stopping, and the service must not start.
    pub(super) fn add_service(&self, name: &str) -> Option<u64> {
        let mut state = self.lock();
        let is_late = state.stop.is_some() || state.ended_at.is_some();
        state.add(name, Kind::Service, is_late)
    }

    /// Takes a server in. A group that is stopping takes it too, because clients may be waiting in
    /// the server's accept backlog. `None`: the group has ended, and the server must not start.
    pub(super) fn add_server(&self, name: &str) -> Option<u64> {
        let mut state = self.lock();
        let is_late = state.ended_at.is_some();
        state.add(name, Kind::Server(None), is_late)
    }

    /// Runs a service on the calling thread until it ends.
    pub(super) fn run_service<E>(self: &Arc<Self>, id: u64, service: impl FnOnce() -> Result<(), E>)
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        SERVICE_OF.set(Arc::as_ptr(self));
        let outcome = match panics::catch(|| service().map_err(Into::into)) {
            Ok(Ok(())) => MemberOutcome::Done,
            Ok(Err(error)) => MemberOutcome::Failed(Arc::from(error)),
            Err(panic) => MemberOutcome::Panicked(panic.to_string()),
        };
        SERVICE_OF.set(ptr::null());
        self.member_ended(id, outcome);
    }

    /// Returns whether the calling thread runs a service of this group.
    pub(super) fn is_service_thread(&self) -> bool {
        ptr::eq(SERVICE_OF.get(), self)
    }

    /// Keeps a server that has started, and stops it if the group is stopping.
    pub(super) fn server_started(&self, id: u64, running: Running) {
        let handle = running.handle();
        let mut state = self.lock();
        if let Some(member) = state.running.get_mut(&id) {
            member.kind = Kind::Server(Some(running));
        }
        let (is_stopping, cause) = (state.stop.is_some(), state.stop_cause());
        let has_given_up = state.has_given_up;
        drop(state);
        if is_stopping {
            handle.begin_stop(cause);
        }
        if has_given_up {
            handle.cut(cause);
        }
    }

    /// Records how a member ended. A failure stops the group.
    pub(super) fn member_ended(self: &Arc<Self>, id: u64, outcome: MemberOutcome) {
        let outcome = self.without_cancel_reason(outcome);
        let ended = self.update(|state| {
            // `None`: the member was left behind before.
            let member = state.running.remove(&id)?;
            let report = member.report(Clock::System.now(), outcome);
            state.ended.push(report.clone());
            // Under the same lock, so that the failure that is listed first is the cause.
            let begun = if report.outcome.is_failure() {
                self.record_stop(state, GroupCause::Failed(report.name.clone()))
            } else {
                None
            };
            Some((member, report, begun))
        });
        // The member is dropped at the end and not under the lock: a server that is dropped asks
        // for its own stop.
        let Some((_member, report, begun)) = ended else {
            return;
        };
        if report.outcome.is_failure() {
            logging::error!("{report}");
        } else {
            logging::info!("{report}");
        }
        if let Some(begun) = begun {
            self.stop_members(begun);
        }
    }

    /// A service that returns the reason for which its context was cancelled has not failed.
    fn without_cancel_reason(&self, outcome: MemberOutcome) -> MemberOutcome {
        match (&outcome, self.context.reason()) {
            (MemberOutcome::Failed(error), Some(reason))
                if error.downcast_ref() == Some(&reason) =>
            {
                MemberOutcome::Done
            }
            _ => outcome,
        }
    }
}

/// How a group stops and ends.
impl Shared {
    /// Begins the stop. A stop that was begun before goes on unchanged.
    pub(super) fn begin_stop(self: &Arc<Self>, cause: GroupCause) {
        let begun = self.record_stop(&mut self.lock(), cause);
        if let Some(begun) = begun {
            self.stop_members(begun);
        }
    }

    /// Begins the stop if nobody has, and cuts it short: servers cut what is left at once, and
    /// services have [`SERVICE_CUT_GRACE`] to end.
    pub(super) fn cut(self: &Arc<Self>, cause: GroupCause) {
        self.begin_stop(cause);
        // Cuts what members have built with the context, servers of their own for example.
        self.context.force();
        let mut state = self.lock();
        let (servers, cause) = (state.servers(), state.stop_cause());
        if let Some(stop) = &mut state.stop
            && stop.cut_timeout.is_none()
        {
            let give_up_at = after(Clock::System.now(), SERVICE_CUT_GRACE);
            stop.cut_timeout = self.give_up_at(give_up_at);
        }
        drop(state);
        servers.iter().for_each(|server| server.cut(cause));
    }

    /// Returns a channel that disconnects when the group has ended, which it does as soon as no
    /// member runs.
    pub(super) fn stopped(&self) -> &Receiver<()> {
        self.update(|state| state.is_complete = true);
        self.stopped.receiver()
    }

    /// Waits for the end. The first caller makes the report and logs it; everybody gets the same.
    pub(super) fn wait(&self) -> GroupReport {
        let _ = self.stopped().recv();
        let report = self.report.get_or_init(|| {
            let report = self.lock().report();
            for member in report.left_behind() {
                logging::warn!("{member}");
            }
            logging::info!("{}", report.summary());
            // A logger that does not take its line must not hold the report back.
            self.logs.flush(LOG_END);
            report
        });
        report.clone()
    }

    /// Records that the stop begins. `None` if it has begun before, or the group has ended.
    fn record_stop(self: &Arc<Self>, state: &mut State, cause: GroupCause) -> Option<BegunStop> {
        if state.stop.is_some() || state.ended_at.is_some() {
            return None;
        }
        let begun_at = Clock::System.now();
        state.stop = Some(Stop {
            cause: cause.clone(),
            begun_at,
            timeout: self.give_up_at(after(begun_at, self.stop_timeout)),
            cut_timeout: None,
        });
        let servers = state.servers();
        Some(BegunStop { cause, servers })
    }

    /// Tells all members of a stop that has just begun.
    fn stop_members(&self, begun: BegunStop) {
        let BegunStop { cause, servers } = begun;
        // If the last member has failed, nothing is left to be stopped.
        if self.lock().ended_at.is_none() {
            logging::info!("the group stops: {cause}");
        }
        for server in servers {
            server.begin_stop(cause.as_stop_cause());
        }
        self.context.cancel_because(match cause {
            GroupCause::Signal(signal) => CancelReason::Signal(signal),
            _ => CancelReason::Cancelled,
        });
    }

    /// Sets an alarm that ends the wait for services; `None` is never.
    fn give_up_at(self: &Arc<Self>, at: Option<Instant>) -> Option<Alarm> {
        let shared = Arc::downgrade(self);
        at.map(|at| timer::at(at, move || if_alive(&shared, |shared| shared.give_up())))
    }

    /// Ends the wait for services, and has servers cut what is left.
    fn give_up(&self) {
        let (servers, cause) = self.update(|state| {
            state.has_given_up = true;
            (state.servers(), state.stop_cause())
        });
        servers.iter().for_each(|server| server.cut(cause));
    }

    /// Changes the state, and ends the group if nothing is left to wait for.
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let value = change(&mut state);
        let ends = state.end_if_idle();
        drop(state);
        if ends {
            self.stopped.raise();
        }
        value
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A stop that has just begun, and the servers that are to be told.
struct BegunStop {
    cause: GroupCause,
    servers: Vec<ServerHandle>,
}

impl State {
    fn add(&mut self, name: &str, kind: Kind, is_late: bool) -> Option<u64> {
        let member = Member {
            name: name.to_owned(),
            since: Clock::System.now(),
            kind,
        };
        if is_late {
            let report = member.report(member.since, MemberOutcome::NotStarted);
            self.ended.push(report);
            return None;
        }
        self.last_id += 1;
        self.running.insert(self.last_id, member);
        Some(self.last_id)
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

    /// What servers name as the cause of their stop.
    fn stop_cause(&self) -> StopCause {
        self.stop
            .as_ref()
            .map_or(StopCause::Context, |stop| stop.cause.as_stop_cause())
    }

    /// Ends the group if there is nothing left to wait for, and returns whether it did. Services
    /// that still run then are left behind.
    fn end_if_idle(&mut self) -> bool {
        let is_awaited =
            |member: &Member| matches!(member.kind, Kind::Server(_)) || !self.has_given_up;
        if !self.is_complete || self.ended_at.is_some() || self.running.values().any(is_awaited) {
            return false;
        }
        let now = Clock::System.now();
        self.ended_at = Some(now);
        if let Some(stop) = &mut self.stop {
            (stop.timeout, stop.cut_timeout) = (None, None);
        }
        let left_behind = std::mem::take(&mut self.running).into_values();
        self.ended
            .extend(left_behind.map(|member| member.report(now, MemberOutcome::LeftBehind)));
        true
    }

    /// The report of a group that has ended.
    fn report(&mut self) -> GroupReport {
        let (cause, took) = match (&self.stop, self.ended_at) {
            (Some(stop), Some(ended_at)) => (
                stop.cause.clone(),
                ended_at.saturating_duration_since(stop.begun_at),
            ),
            _ => (GroupCause::Ended, Duration::ZERO),
        };
        GroupReport {
            cause,
            took,
            members: std::mem::take(&mut self.ended),
        }
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

/// Does `then` with what a context or a timer refers to, neither of which may keep a group alive.
pub(super) fn if_alive(shared: &Weak<Shared>, then: impl FnOnce(&Arc<Shared>)) {
    if let Some(shared) = shared.upgrade() {
        then(&shared);
    }
}
