//! What a handler can know of its request's surroundings, above all of the stop.
//!
//! A context is a chain: a connection's, or a program's own, and above it what was derived from
//! that, each of which is over when what it was derived from is. Beside it hangs a list of what
//! routers and layers have added: parameters, values.

use std::any::{Any, TypeId};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::lifecycle::phase::{Flag, Lifecycle, Phase};
use crate::lifecycle::timer::{self, Alarm};
use crate::sys::clock::{Clock, after, earlier};
use crate::sys::signal_name::signal_name;

/// Given to each handler: who asks, whether the server is stopping, and what the router and layers
/// have added. A cheap clone.
///
/// A program makes one of its own with [`root`](Self::root) or [`notify`](crate::signal::notify), to stop
/// its servers and its other threads by one word. From any context others can be derived, with a
/// [timeout](Self::with_timeout), a [cancel](Self::with_cancel) of their own or a
/// [value](Self::with_value); they are over when it is.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use lameduck::context::CancelReason;
/// use lameduck::Context;
///
/// let program = Context::root();
/// let query = program.with_timeout(Duration::from_millis(5));
/// assert!(query.sleep(Duration::MAX).is_err(), "it ends before");
/// assert_eq!(query.reason(), Some(CancelReason::Deadline));
/// assert!(!program.is_cancelled());
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    scope: Arc<Scope>,
    added: Option<Arc<Added>>,
}

#[derive(Debug)]
enum Scope {
    /// What all requests of one connection share.
    Connection(Connection),
    /// What a program has made.
    Root(Root),
    /// What was derived from another.
    Derived(Derived),
}

#[derive(Debug)]
struct Connection {
    lifecycle: Arc<Lifecycle>,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    client: Weak<dyn Client>,
}

/// The other end of a connection, as a context sees it.
pub(crate) trait Client: Send + Sync + fmt::Debug {
    /// Has `then` called if the client's end breaks while the current request is served.
    fn on_gone(&self, then: Box<dyn FnOnce() + Send>);
}

/// A context that somebody cancels.
#[derive(Debug)]
struct Root {
    cancelled: Flag,
    /// Asked for a second time: what still goes on is to be cut.
    forced: Flag,
    reason: OnceLock<CancelReason>,
}

/// A context that is over when its parent is, or before.
#[derive(Debug)]
struct Derived {
    parent: Context,
    /// Raised with the parent's, or when it is cancelled itself.
    draining: Flag,
    cancelled: Flag,
    reason: OnceLock<CancelReason>,
    deadline: Option<Instant>,
    /// What the parent has to forget when this one is gone: of its draining, of its end.
    told_by_parent: OnceLock<(Option<u64>, Option<u64>)>,
    alarm: OnceLock<Alarm>,
}

/// What a router or a layer has added, the latest first.
struct Added {
    before: Option<Arc<Self>>,
    what: What,
}

enum What {
    #[cfg_attr(not(feature = "router"), allow(dead_code, reason = "routers use it"))]
    Params(Vec<(String, String)>),
    Value(TypeId, Arc<dyn Any + Send + Sync>),
}

/// Why a context is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CancelReason {
    /// The time it was given is over: [`with_timeout`](Context::with_timeout).
    Deadline,
    /// Its [`cancel`](Context::cancel) was called, or that of one it was derived from.
    Cancelled,
    /// The server's stop has come to its deadline: nobody will get the response.
    Stopped,
    /// The client has reset its connection: [`while_connected`](Context::while_connected).
    ClientGone,
    /// The process got this signal.
    Signal(i32),
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("its time is over"),
            Self::Cancelled => f.write_str("it was cancelled"),
            Self::Stopped => f.write_str("the server has stopped"),
            Self::ClientGone => f.write_str("the client is gone"),
            Self::Signal(signal) => {
                write!(f, "the process got {}", signal_name(*signal))
            }
        }
    }
}

/// So that `?` can be used on it: `cx.reason().map_or(Ok(()), Err)?`.
impl std::error::Error for CancelReason {}

/// Whether new work should come here: see [`Context::readiness`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Readiness {
    /// The server serves and is not about to stop. As a response: 200.
    Ready,
    /// It is stopping. As a response: 503.
    Stopping,
}

/// Where contexts come from.
impl Context {
    pub(crate) fn of_connection(
        lifecycle: Arc<Lifecycle>,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
        client: Weak<dyn Client>,
    ) -> Self {
        Self::of(Scope::Connection(Connection {
            lifecycle,
            peer,
            local,
            client,
        }))
    }

    fn of(scope: Scope) -> Self {
        Self {
            scope: Arc::new(scope),
            added: None,
        }
    }

    /// A context that is over when [`cancel`](Self::cancel) is called.
    #[must_use]
    pub fn root() -> Self {
        Self::of(Scope::Root(Root {
            cancelled: Flag::new(),
            forced: Flag::new(),
            reason: OnceLock::new(),
        }))
    }

    /// A context that is over when this one is, or when its own [`cancel`](Self::cancel) is called:
    /// for what one request does on several threads.
    #[must_use]
    pub fn with_cancel(&self) -> Self {
        self.derive(None)
    }

    /// A context that is over when this one is, or after `timeout`. [`Duration::MAX`] is never;
    /// zero is at once.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        match after(Clock::System.now(), timeout) {
            Some(at) => self.with_deadline(at),
            None => self.with_cancel(),
        }
    }

    /// A context that is over when this one is, or at `deadline`.
    #[must_use]
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        let derived = self.derive(Some(deadline));
        let weak = Arc::downgrade(&derived.scope);
        let alarm = timer::at(deadline, move || {
            cancel_if_there(&weak, CancelReason::Deadline)
        });
        if let Scope::Derived(scope) = &*derived.scope {
            let _ = scope.alarm.set(alarm);
        }
        derived
    }

    /// A context that is over when this one is, or when the client resets its connection, with
    /// [`CancelReason::ClientGone`]: for a handler whose work is for this client alone.
    ///
    /// A client that has finished its side (FIN) may still read, and is not gone. Over a unix
    /// socket, and where the system does not tell, nothing is noticed. Only until the response is
    /// made; made from a context of [`root`](Self::root) it is [`with_cancel`](Self::with_cancel).
    #[must_use]
    pub fn while_connected(&self) -> Self {
        let derived = self.derive(None);
        let weak = Arc::downgrade(&derived.scope);
        if let Some(client) = self
            .connection()
            .and_then(|connection| connection.client.upgrade())
        {
            client.on_gone(Box::new(move || {
                cancel_if_there(&weak, CancelReason::ClientGone)
            }));
        }
        derived
    }

    /// This context with `value` in it, for whoever asks for its type: what a layer passes on to
    /// handlers.
    #[must_use]
    pub fn with_value<T: Any + Send + Sync>(&self, value: T) -> Self {
        self.with(What::Value(TypeId::of::<T>(), Arc::new(value)))
    }

    /// One that also holds a route's parameters.
    #[cfg_attr(not(feature = "router"), allow(dead_code, reason = "routers use it"))]
    pub(crate) fn with_params(&self, params: Vec<(String, String)>) -> Self {
        self.with(What::Params(params))
    }

    fn with(&self, what: What) -> Self {
        Self {
            scope: self.scope.clone(),
            added: Some(Arc::new(Added {
                before: self.added.clone(),
                what,
            })),
        }
    }

    fn derive(&self, deadline: Option<Instant>) -> Self {
        let scope = Arc::new(Scope::Derived(Derived {
            parent: Self {
                scope: self.scope.clone(),
                added: None,
            },
            draining: Flag::new(),
            cancelled: Flag::new(),
            reason: OnceLock::new(),
            deadline,
            told_by_parent: OnceLock::new(),
            alarm: OnceLock::new(),
        }));
        let (draining, cancelled) = (Arc::downgrade(&scope), Arc::downgrade(&scope));
        let (parent_draining, parent_cancelled) = self.flags();
        let drains = parent_draining.on_raise(move || {
            if let Some(Scope::Derived(derived)) = draining.upgrade().as_deref() {
                derived.draining.raise();
            }
        });
        let ends = parent_cancelled.on_raise(move || {
            if let Some(Scope::Derived(derived)) = cancelled.upgrade().as_deref() {
                derived.end(derived.parent.reason().unwrap_or(CancelReason::Cancelled));
            }
        });
        if let Scope::Derived(derived) = &*scope {
            let _ = derived.told_by_parent.set((drains, ends));
        }
        Self {
            scope,
            added: self.added.clone(),
        }
    }
}

/// How contexts end.
impl Context {
    /// Ends it, and what was derived from it; the stop of each server that was
    /// [built with it](crate::ServerBuilder::context) begins. A second time, and in the context a handler
    /// is given, it does nothing: that one is the server's to end.
    pub fn cancel(&self) {
        self.cancel_because(CancelReason::Cancelled);
    }

    pub(crate) fn cancel_because(&self, reason: CancelReason) {
        match &*self.scope {
            Scope::Root(root) => {
                let _ = root.reason.set(reason);
                root.cancelled.raise();
            }
            Scope::Derived(derived) => derived.end(reason),
            Scope::Connection(_) => {}
        }
    }

    /// Cuts what still goes on because of a first cancel.
    pub(crate) fn force(&self) {
        if let Scope::Root(root) = &*self.scope {
            root.forced.raise();
        }
    }

    /// Has `stop` called when it is cancelled, or a server it comes from drains, and `cut` when
    /// that is to end at once.
    pub(crate) fn on_cancel(
        &self,
        stop: impl FnOnce() + Send + 'static,
        cut: impl FnOnce() + Send + 'static,
    ) {
        self.flags().0.on_raise(stop);
        self.forced().on_raise(cut);
    }

    /// What is raised when it drains, and when it is over.
    fn flags(&self) -> (&Flag, &Flag) {
        match &*self.scope {
            Scope::Connection(Connection { lifecycle, .. }) => {
                (&lifecycle.draining, &lifecycle.cancelled)
            }
            Scope::Root(root) => (&root.cancelled, &root.cancelled),
            Scope::Derived(derived) => (&derived.draining, &derived.cancelled),
        }
    }

    fn forced(&self) -> &Flag {
        match &*self.scope {
            Scope::Connection(Connection { lifecycle, .. }) => &lifecycle.cancelled,
            Scope::Root(root) => &root.forced,
            Scope::Derived(derived) => derived.parent.forced(),
        }
    }
}

/// What handlers ask.
impl Context {
    /// A channel that disconnects when the server starts to drain: nothing new is accepted, and
    /// what is in flight is waited for. Of a root, or one derived from it: when it is cancelled.
    /// For `select!`; to ask without waiting see [`is_draining`](Self::is_draining).
    ///
    /// A handler that lives long (a stream, a long poll) should come to its end now.
    #[must_use]
    pub fn draining(&self) -> &Receiver<()> {
        self.flags().0.receiver()
    }

    /// A channel that disconnects when it is over; of a handler's own context that is the stop's
    /// deadline, when what is left is cut. For `select!`; to ask without waiting see
    /// [`is_cancelled`](Self::is_cancelled).
    #[must_use]
    pub fn cancelled(&self) -> &Receiver<()> {
        self.flags().1.receiver()
    }

    /// Whether the server is draining, or beyond. Of a root, or one derived from it: whether it is
    /// cancelled.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        match &*self.scope {
            Scope::Connection(Connection { lifecycle, .. }) => lifecycle.phase() >= Phase::Draining,
            _ => self.flags().0.is_raised(),
        }
    }

    /// Whether it is over: nobody will get what the handler still computes.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.reason().is_some()
    }

    /// Why it is over. `None` while it is not.
    #[must_use]
    pub fn reason(&self) -> Option<CancelReason> {
        match &*self.scope {
            Scope::Connection(Connection { lifecycle, .. }) => lifecycle
                .cancelled
                .is_raised()
                .then_some(CancelReason::Stopped),
            Scope::Root(root) => root.reason.get().copied(),
            Scope::Derived(derived) => derived.reason.get().copied(),
        }
    }

    /// Whether new work should come here: what a readiness probe asks. It says no from the first
    /// wish to stop on, while the server still accepts ([`lame_duck`](crate::ServerBuilder::lame_duck)).
    ///
    /// It is a response too: `|_request, context| context.readiness()` is a whole handler.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let stopping = match self.connection() {
            Some(connection) => connection.lifecycle.is_stopping(),
            None => self.is_cancelled(),
        };
        if stopping {
            Readiness::Stopping
        } else {
            Readiness::Ready
        }
    }

    /// When it will be over: at its own deadline, at that of what it was derived from, or when the
    /// stop cuts what is still in flight, whichever is first. `None` where nothing of that is
    /// known: while the server is not stopping, for example.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &*self.scope {
            Scope::Connection(Connection { lifecycle, .. }) => lifecycle.plan()?.cut_at,
            Scope::Root(_) => None,
            Scope::Derived(derived) => earlier(derived.deadline, derived.parent.deadline()),
        }
    }

    /// Blocks for `duration`, or until this context is over: a sleep that the stop interrupts.
    ///
    /// What a handler uses instead of [`std::thread::sleep`].
    ///
    /// # Errors
    ///
    /// Why this context is over, if that was the case before `duration` had passed.
    pub fn sleep(&self, duration: Duration) -> Result<(), CancelReason> {
        match self.cancelled().recv_timeout(duration) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            _ => Err(self.reason().unwrap_or(CancelReason::Cancelled)),
        }
    }

    /// The client's address. `None` over a unix socket, and for what does not come from a request.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.connection()?.peer
    }

    /// The address the client connected to. `None` over a unix socket, and for what does not come
    /// from a request.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.connection()?.local
    }

    /// What `name` stands for in the path that the route `/users/{name}` has matched,
    /// percent-decoded. `None` if the route has no such parameter.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.added().find_map(|what| match what {
            What::Params(params) => params
                .iter()
                .find(|(given, _)| given == name)
                .map(|(_, value)| value.as_str()),
            What::Value(..) => None,
        })
    }

    /// The value of this type that was [added](Self::with_value) last.
    #[must_use]
    pub fn value<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.added().find_map(|what| match what {
            What::Value(id, value) if *id == TypeId::of::<T>() => value.downcast_ref(),
            _ => None,
        })
    }

    fn added(&self) -> impl Iterator<Item = &What> {
        std::iter::successors(self.added.as_deref(), |added| added.before.as_deref())
            .map(|added| &added.what)
    }

    /// The connection it comes from.
    fn connection(&self) -> Option<&Connection> {
        match &*self.scope {
            Scope::Connection(connection) => Some(connection),
            Scope::Root(_) => None,
            Scope::Derived(derived) => derived.parent.connection(),
        }
    }
}

impl Derived {
    fn end(&self, reason: CancelReason) {
        let _ = self.reason.set(reason);
        self.draining.raise();
        self.cancelled.raise();
    }
}

impl Drop for Derived {
    fn drop(&mut self) {
        let (parent_draining, parent_cancelled) = self.parent.flags();
        let (drains, ends) = self.told_by_parent.get().copied().unwrap_or_default();
        drains
            .into_iter()
            .for_each(|then| parent_draining.forget(then));
        ends.into_iter()
            .for_each(|then| parent_cancelled.forget(then));
    }
}

fn cancel_if_there(scope: &Weak<Scope>, reason: CancelReason) {
    if let Some(Scope::Derived(derived)) = scope.upgrade().as_deref() {
        derived.end(reason);
    }
}

impl fmt::Debug for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Params(params) => f
                .debug_map()
                .entries(params.iter().map(|(name, value)| (name, value)))
                .finish(),
            What::Value(..) => f.write_str("a value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_derived_ends_with_what_it_came_from_and_not_the_other_way_round() {
        let root = Context::root();
        let (child, sibling) = (root.with_cancel(), root.with_cancel());
        let grandchild = child.with_timeout(Duration::MAX);
        child.cancel();
        assert_eq!(child.cancelled().recv(), Err(crossbeam_channel::RecvError));
        assert_eq!(
            grandchild.draining().recv(),
            Err(crossbeam_channel::RecvError)
        );
        assert_eq!(
            (child.reason(), grandchild.reason()),
            (Some(CancelReason::Cancelled), Some(CancelReason::Cancelled))
        );
        assert!(!root.is_cancelled() && !sibling.is_cancelled() && !sibling.is_draining());
        root.cancel_because(CancelReason::Signal(15));
        assert_eq!(sibling.reason(), Some(CancelReason::Signal(15)));
        assert_eq!(
            child.reason(),
            Some(CancelReason::Cancelled),
            "the first reason stays"
        );
    }

    #[test]
    fn one_derived_from_what_is_over_is_over() {
        let root = Context::root();
        root.cancel();
        let late = root.with_timeout(Duration::from_secs(1000));
        assert_eq!(late.reason(), Some(CancelReason::Cancelled));
        assert!(late.is_draining() && late.sleep(Duration::MAX).is_err());
    }

    #[test]
    fn a_timeout_ends_it_and_the_earlier_deadline_counts() {
        let root = Context::root();
        let long = root.with_timeout(Duration::from_secs(1000));
        let short = long.with_timeout(Duration::from_millis(1));
        assert!(short.deadline() < long.deadline());
        let longer = short.with_timeout(Duration::from_secs(1000));
        assert_eq!(longer.deadline(), short.deadline());
        assert!(longer.cancelled().recv().is_err());
        assert_eq!(
            (longer.reason(), short.reason()),
            (Some(CancelReason::Deadline), Some(CancelReason::Deadline))
        );
        assert_eq!((long.reason(), root.deadline()), (None, None));
        assert_eq!(
            root.with_timeout(Duration::ZERO).cancelled().recv(),
            Err(crossbeam_channel::RecvError)
        );
    }

    #[test]
    fn one_that_is_gone_leaves_nothing_behind() {
        let root = Context::root();
        for _ in 0..1000 {
            drop(root.with_timeout(Duration::from_secs(1000)).with_cancel());
        }
        let (draining, _) = root.flags();
        assert_eq!(draining.pending(), 0);
    }

    #[test]
    fn values_are_found_by_type_and_parameters_by_name_the_latest_first() {
        let context = Context::root()
            .with_value(1_u32)
            .with_params(vec![("a".into(), "x".into())]);
        let later = context
            .with_value("text")
            .with_value(2_u32)
            .with_params(vec![("b".into(), "y".into())]);
        assert_eq!(
            (later.value::<u32>(), later.value::<&str>()),
            (Some(&2), Some(&"text"))
        );
        assert_eq!(
            (later.param("a"), later.param("b"), later.param("c")),
            (Some("x"), Some("y"), None)
        );
        assert_eq!(
            (context.value::<u32>(), context.param("b")),
            (Some(&1), None)
        );
        let derived = later.with_cancel();
        assert_eq!(
            (derived.value::<u32>(), derived.param("a")),
            (Some(&2), Some("x"))
        );
    }
}
