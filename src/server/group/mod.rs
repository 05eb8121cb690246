//! Groups: several servers and services that stop as one. The first member that fails stops the
//! others, and its error is the group's.
//!
//! This file has what a program calls: the builder, the group and its handle. Read it first, then
//! `members.rs`, the state that they share and the rules by which a group stops and ends, then
//! `report.rs`, what the group says at its end. A group may use everything that a program may, and
//! the parts of a server's handle that are not public: it begins a stop with its own cause, cuts
//! it, and has itself called when the server has stopped.

mod members;
mod report;

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::error::{Error, Result};
use crate::handler::Handler;
use crate::lifecycle::context::Context;
use crate::lifecycle::phase::is_awaited;
use crate::server::Bound;
use crate::server::group::members::{Shared, if_alive};
use crate::server::signals::{Caught, SignalThread};
use crate::settings::STOP_TIMEOUT;
use crate::sys::test_points::TestPoints;

pub use crate::server::group::report::{
    GroupCause, GroupFailed, GroupReport, MemberOutcome, MemberReport,
};

/// Several services and servers that stop together.
///
/// A group stops when the first of its members fails or panics, when a signal comes, when its
/// context is cancelled, or when a [`GroupHandle`] is told so. A service that returns `Ok` stops no
/// other member; when all members have ended, so has the group.
///
/// The stop cancels the [`Context`] of each service, and begins the shutdown of each server. All of
/// them have [`stop_timeout`](GroupBuilder::stop_timeout) to end. Dropping a group begins the stop
/// and does not wait for it.
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
/// let error = report.first_error().unwrap();
/// assert_eq!(error.to_string(), "the time is over");
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

/// The description of a group that is to be started: see [`Group::builder`].
#[derive(Debug)]
#[must_use = "nothing happens before `start`"]
pub struct GroupBuilder {
    signals: Vec<i32>,
    context: Option<Context>,
    stop_timeout: Duration,
}

impl GroupBuilder {
    /// Sets the signals that stop the group. Default: none, and no signal handler is installed.
    ///
    /// The first signal does what [`GroupHandle::begin_shutdown`] does. A second one cuts the stop
    /// short, as [`GroupHandle::close`] does. A third one does what it does to a program that
    /// catches no signals, which is to end it. The same signal again within 300 ms does not count.
    pub fn on_signals(mut self, signals: impl IntoIterator<Item = i32>) -> Self {
        self.signals.extend(signals);
        self
    }

    /// Sets the context that the members' contexts are derived from. Cancelling it stops the group.
    /// Default: none.
    pub fn context(mut self, context: &Context) -> Self {
        self.context = Some(context.clone());
        self
    }

    /// Sets how long members may take to end once the group stops. Default: 30 s. Zero does not
    /// wait; [`Duration::MAX`] waits for ever.
    ///
    /// A server that has not stopped after this time is cut, even if its own
    /// [`grace_period`](crate::ServerBuilder::grace_period) is longer. A service that still runs is
    /// left behind on its thread, and the report names it.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// Makes the group. Its signals are caught from now on, until the group is dropped or
    /// [joined](Group::join).
    ///
    /// # Errors
    ///
    /// [`Error::SignalForbidden`] and [`Error::Signal`] if a signal cannot be caught;
    /// [`Error::Start`] if the thread that takes the signals cannot be made.
    pub fn start(self) -> Result<Group> {
        let caught = Caught::install(self.signals)?;
        let context = self
            .context
            .map_or_else(Context::root, |context| context.with_cancel());
        let shared = Arc::new(Shared::new(context, self.stop_timeout));
        // Weak, because a context may live longer than the groups that are made with it.
        let (stop, cut) = (Arc::downgrade(&shared), Arc::downgrade(&shared));
        shared.context.on_cancel(
            move || if_alive(&stop, |shared| shared.begin_stop(GroupCause::Context)),
            move || if_alive(&cut, |shared| shared.cut(GroupCause::Context)),
        );
        let (stop, cut) = (shared.clone(), shared.clone());
        let signals = caught
            .listen(
                &TestPoints::default(),
                move |signal| stop.begin_stop(GroupCause::Signal(signal)),
                move |signal| cut.cut(GroupCause::Signal(signal)),
            )
            .map_err(|source| Error::Start {
                what: "signal thread",
                source,
            })?;
        Ok(Group { shared, signals })
    }
}

impl Group {
    /// Makes a group that catches no signals and has every other default.
    pub fn new() -> Self {
        Self::builder()
            .start()
            .expect("a group without signals needs nothing that can fail")
    }

    /// Starts to describe a group.
    pub fn builder() -> GroupBuilder {
        GroupBuilder {
            signals: Vec::new(),
            context: None,
            stop_timeout: STOP_TIMEOUT,
        }
    }

    /// Runs `service` on a thread that belongs to it and that has its name.
    ///
    /// The context of the service is cancelled when the group stops. A service that does not end
    /// then is left behind after [`stop_timeout`](GroupBuilder::stop_timeout).
    ///
    /// An error, of any type, and a panic stop the group. A service that returns the
    /// [`reason`](Context::reason) for which its context was cancelled has not failed. A service
    /// whose thread cannot be made has failed. A service that comes when the group is already
    /// stopping is not started, and the report says so.
    pub fn spawn<F, E>(&self, name: impl Into<String>, service: F)
    where
        F: FnOnce(Context) -> Result<(), E> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let name = name.into();
        let Some(id) = self.shared.add_service(&name) else {
            return;
        };
        // Each service has a context of its own, so that cancelling it does not stop the others.
        let (shared, context) = (self.shared.clone(), self.shared.context.with_cancel());
        let run = move || shared.run_service(id, || service(context));
        // `std` panics on a thread name with a zero byte.
        let thread = std::thread::Builder::new().name(name.replace('\0', " "));
        if let Err(source) = thread.spawn(run) {
            let error = Error::Start {
                what: "thread for a service",
                source,
            };
            self.shared
                .member_ended(id, MemberOutcome::Failed(Arc::new(error)));
        }
    }

    /// Serves with `handler` as a member of the group.
    ///
    /// When the group stops, the shutdown of the server begins, with the times that the server was
    /// built with; the group's report holds the server's. A server that something else stops has
    /// ended well, and stops no other member. A server that cannot start has failed.
    ///
    /// A server that comes when the group is already stopping answers the clients that have
    /// connected, and stops too. One that comes when the group has ended is not started.
    pub fn serve(&self, name: impl Into<String>, bound: Bound, handler: impl Handler) {
        let shared = &self.shared;
        let Some(id) = shared.add_server(&name.into()) else {
            return;
        };
        let running = match bound.spawn(handler) {
            Ok(running) => running,
            Err(error) => return shared.member_ended(id, MemberOutcome::Failed(Arc::new(error))),
        };
        let handle = running.handle();
        shared.server_started(id, running);
        let shared = shared.clone();
        handle.on_stopped(move |report| {
            shared.member_ended(id, MemberOutcome::Served(Box::new(report)));
        });
    }

    /// Returns the context that is cancelled when the group stops. Cancelling it stops the group.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.shared.context
    }

    /// Returns a handle that stops the group from any thread.
    #[must_use]
    pub fn handle(&self) -> GroupHandle {
        GroupHandle(self.shared.clone())
    }

    /// Returns a channel that disconnects when every member has ended or was left behind, for a
    /// `select!` with other channels.
    ///
    /// Call it when the group has all its members: from then on the group ends as soon as no member
    /// runs.
    #[must_use]
    pub fn stopped(&self) -> &Receiver<()> {
        self.shared.stopped()
    }

    /// Waits until every member has ended, and returns how each did.
    ///
    /// Blocks until the group stops or all members have ended by themselves. A stop takes at most
    /// [`stop_timeout`](GroupBuilder::stop_timeout) and the time that a server needs to cut what is
    /// left: its [`cut_grace`](crate::ServerBuilder::cut_grace) and a moment.
    pub fn join(self) -> GroupReport {
        self.shared.wait()
    }
}

impl Default for Group {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.shared.begin_stop(GroupCause::Dropped);
        // A group whose members have all ended by themselves was never stopped.
        self.shared.context.cancel();
    }
}

/// Stops a group, from any thread. A clone is cheap.
#[derive(Debug, Clone)]
pub struct GroupHandle(Arc<Shared>);

impl GroupHandle {
    /// Begins the stop and returns at once. Services and handlers may call it too.
    ///
    /// The context of each service is cancelled, and the shutdown of each server begins. A stop
    /// that was begun before goes on unchanged.
    pub fn begin_shutdown(&self) {
        self.0.begin_stop(GroupCause::Handle);
    }

    /// Begins the stop, waits until every member has ended, and returns how each did.
    ///
    /// Blocks for at most [`stop_timeout`](GroupBuilder::stop_timeout) and the time that a server
    /// needs to cut what is left: its [`cut_grace`](crate::ServerBuilder::cut_grace) and a moment.
    /// Call it when the group has all its members, as [`Group::stopped`]. Any number of threads may
    /// call it, and [`Group::join`] beside it; all wait for the same stop, and get the same report.
    ///
    /// # Panics
    ///
    /// A service of this group, a handler or a hook would wait for itself. Called from there it
    /// begins the stop and then panics; use [`begin_shutdown`](Self::begin_shutdown) instead. A
    /// service of another group may call it.
    ///
    /// # Examples
    ///
    /// ```
    /// use lameduck::group::{Group, GroupCause};
    /// use lameduck::{Context, Server};
    ///
    /// let web = Server::builder().bind("127.0.0.1:0")?;
    /// let group = Group::new();
    /// group.serve("web", web, |_request, _context| "hello\n");
    /// group.spawn("cleaner", |context: Context| {
    ///     let _ = context.cancelled().recv();
    ///     context.reason().map_or(Ok(()), Err)
    /// });
    ///
    /// let report = group.handle().shutdown();
    /// assert!(report.is_clean(), "{report}");
    /// assert_eq!(report.cause, GroupCause::Handle);
    /// # Ok::<(), lameduck::Error>(())
    /// ```
    pub fn shutdown(&self) -> GroupReport {
        self.begin_shutdown();
        self.wait("shutdown")
    }

    /// Stops the group now, waits until that is done, and returns how each member ended.
    ///
    /// Each server cuts what is left, as [`ServerHandle::close`](crate::ServerHandle::close) does:
    /// a client with a request in flight gets 503 if its response is not begun, and a reset
    /// connection if it is. The context of each service is cancelled, and a service that has not
    /// ended 100 ms later is left behind on its thread. A stop that was begun before is cut short
    /// in the same way, also for callers that wait for it already.
    ///
    /// Blocks for at most these 100 ms, or for the `cut_grace` of a server and a moment.
    ///
    /// # Panics
    ///
    /// As [`shutdown`](Self::shutdown), after it has cut the stop short.
    pub fn close(&self) -> GroupReport {
        self.0.cut(GroupCause::Handle);
        self.wait("close")
    }

    fn wait(&self, call: &str) -> GroupReport {
        assert!(
            !is_awaited() && !self.0.is_service_thread(),
            "`{call}` waits for the service, handler or hook it was called from; \
             use `begin_shutdown`"
        );
        self.0.wait()
    }
}
