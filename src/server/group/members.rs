//! What the group and its members share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::lifecycle::context::{CancelReason, Context};
use crate::lifecycle::phase::{Flag, StopCause};
use crate::lifecycle::timer::{self, Alarm};
use crate::server::group::report::{GroupCause, MemberOutcome, MemberReport};
use crate::server::{Running, ServerHandle};
use crate::sys::clock::{Clock, after};

/// What the group and its members share.
pub(super) struct Shared {
    pub(super) context: Context,
    pub(super) stop_timeout: Duration,
    pub(super) state: Mutex<State>,
    /// Raised when it is done.
    pub(super) stopped: Flag,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) stop: Option<Stop>,
    /// By the order in which they came.
    running: BTreeMap<u64, Member>,
    next: u64,
    /// In the order in which they ended.
    pub(super) ended: Vec<MemberReport>,
    /// Somebody waits: no further members are expected.
    pub(super) is_complete: bool,
    /// Services are not waited for any more.
    is_over: bool,
    pub(super) done_at: Option<Instant>,
}

pub(super) struct Stop {
    pub(super) cause: GroupCause,
    pub(super) begun_at: Instant,
    /// Comes at the end of the wait, unless the group is done before.
    alarm: Option<Alarm>,
}

pub(super) struct Member {
    name: String,
    since: Instant,
    kind: Kind,
}

pub(super) enum Kind {
    Service,
    /// `None` while it starts.
    Server(Option<Running>),
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and sees whether the group is done with it.
    pub(super) fn settle<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
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
    pub(super) fn join(&self, name: &str) -> Option<u64> {
        let mut state = self.lock();
        let is_late = state.stop.is_some() || state.done_at.is_some();
        state.join(name, Kind::Service, is_late)
    }

    /// Takes a server in, which has clients to answer even if the group stops.
    pub(super) fn join_serving(&self, name: &str) -> Option<u64> {
        let mut state = self.lock();
        let is_late = state.done_at.is_some();
        state.join(name, Kind::Server(None), is_late)
    }

    pub(super) fn serves(&self, id: u64, running: Running) {
        let handle = running.handle();
        let mut state = self.lock();
        if let Some(member) = state.running.get_mut(&id) {
            member.kind = Kind::Server(Some(running));
        }
        let stop = state.stop.as_ref().map(|stop| stop.cause.as_stop_cause());
        let is_over = state.is_over;
        drop(state);
        if let Some(cause) = stop {
            handle.begin_stop(cause);
            if is_over {
                handle.cut(cause);
            }
        }
    }

    pub(super) fn ended(self: &Arc<Self>, id: u64, mut outcome: MemberOutcome) {
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

    pub(super) fn stop(self: &Arc<Self>, cause: GroupCause) {
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
            .for_each(|server| server.begin_stop(cause.as_stop_cause()));
        self.context.cancel_because(match cause {
            GroupCause::Signal(signal) => CancelReason::Signal(signal),
            _ => CancelReason::Cancelled,
        });
    }

    /// The stop is to end now.
    pub(super) fn cut(self: &Arc<Self>) {
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
            .map_or(StopCause::Context, |stop| stop.cause.as_stop_cause());
        let servers = state.servers();
        drop(state);
        servers.iter().for_each(|server| server.cut(cause));
        self.settle(|state| state.is_over = true);
    }
}

/// For contexts and timers, which must not keep a group.
pub(super) fn if_there(shared: &Weak<Shared>, then: impl FnOnce(&Arc<Shared>)) {
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
