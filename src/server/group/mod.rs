//! Several services as one: the first that fails stops the others, and its error is what comes out.
//!
//! Nothing here polls and nothing waits for a member: whoever ends, fails or stops the group does
//! what follows from it, on its own thread. **Invariant:** no callback, of a context, a server or a
//! timer, is called under the lock.

mod members;
mod report;

use std::error::Error as StdError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::error::{Error, Result};
use crate::handler::respond::Handler;
use crate::lifecycle::context::Context;
use crate::lifecycle::phase::Flag;
use crate::server::Bound;
use crate::server::group::members::{Shared, if_there};
use crate::server::signals::{Caught, SignalThread};
use crate::settings::STOP_TIMEOUT;
use crate::sys::panics;

pub use crate::server::group::report::{
    GroupCause, GroupFailed, GroupReport, MemberOutcome, MemberReport,
};

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
        report
            .left_behind()
            .for_each(|member| log::warn!("{member}"));
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
