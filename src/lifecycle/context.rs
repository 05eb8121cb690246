//! The context of a request: what its handler can learn about the connection and about the stop.
//!
//! A context is a scope, which says when it ends (`scope.rs`), and a list of what routers and
//! layers have added to it: route parameters and values.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::lifecycle::phase::Lifecycle;
use crate::lifecycle::scope::{CancelReason, Client, Connection, Derived, Scope};
use crate::sys::clock::{Clock, after};

/// Tells a handler which client asks, whether the server is stopping, and what the router and
/// layers have added. A clone is cheap.
///
/// A program makes a context of its own with [`root`](Self::root) or
/// [`notify`](crate::signal::notify), to stop its servers and its other threads with one call.
/// Other contexts are derived from a context, with a [timeout](Self::with_timeout), a
/// [`cancel`](Self::with_cancel) of their own or a [value](Self::with_value). They end when it
/// ends.
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
/// assert!(query.sleep(Duration::MAX).is_err(), "the timeout ends it");
/// assert_eq!(query.reason(), Some(CancelReason::Deadline));
/// assert!(!program.is_cancelled());
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    scope: Scope,
    added: Option<Arc<Added>>,
}

/// One item that a router or a layer has added, and those added before it.
struct Added {
    item: Item,
    before: Option<Arc<Self>>,
}

enum Item {
    #[cfg_attr(not(feature = "router"), allow(dead_code, reason = "routers use it"))]
    Params(Vec<(String, String)>),
    Value(TypeId, Arc<dyn Any + Send + Sync>),
}

/// Whether the server takes new work: what [`Context::readiness`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Readiness {
    /// The server is serving and is not about to stop. As a response this is 200.
    Ready,
    /// The server is stopping. As a response this is 503.
    Stopping,
}

/// How contexts are made.
impl Context {
    pub(crate) fn of_connection(
        lifecycle: Arc<Lifecycle>,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
        client: Weak<dyn Client>,
    ) -> Self {
        Self::of(Scope::Connection(Arc::new(Connection {
            lifecycle,
            peer,
            local,
            client,
        })))
    }

    fn of(scope: Scope) -> Self {
        Self { scope, added: None }
    }

    /// Returns a context that ends when [`cancel`](Self::cancel) is called on it.
    #[must_use]
    pub fn root() -> Self {
        Self::of(Scope::root())
    }

    /// Returns a context that ends when this one ends, or when [`cancel`](Self::cancel) is called
    /// on it: for work that one request does on several threads.
    #[must_use]
    pub fn with_cancel(&self) -> Self {
        self.derived(Derived::new(&self.scope, None))
    }

    /// Returns a context that ends when this one ends, or after `timeout`. [`Duration::MAX`] is no
    /// limit; with zero the context has ended already.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        match after(Clock::System.now(), timeout) {
            Some(at) => self.with_deadline(at),
            None => self.with_cancel(),
        }
    }

    /// Returns a context that ends when this one ends, or at `deadline`.
    #[must_use]
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        self.derived(Derived::new(&self.scope, Some(deadline)))
    }

    /// Returns a context that ends when this one ends, or when the client resets its connection,
    /// with [`CancelReason::ClientGone`]: for a handler whose work is for this client alone.
    ///
    /// A client that has only finished its side (FIN) may still read, and is not gone. The context
    /// does not notice a reset over a unix socket, on systems that do not report one, and once the
    /// handler has returned. On a context that comes from [`root`](Self::root), this method is the
    /// same as [`with_cancel`](Self::with_cancel).
    #[must_use]
    pub fn while_connected(&self) -> Self {
        let derived = Derived::new(&self.scope, None);
        derived.cancel_when_client_is_gone();
        self.derived(derived)
    }

    /// Returns this context with `value` added. A layer passes values on to handlers in this way;
    /// they find them by their type, with [`value`](Self::value).
    #[must_use]
    pub fn with_value<T: Any + Send + Sync>(&self, value: T) -> Self {
        self.with(Item::Value(TypeId::of::<T>(), Arc::new(value)))
    }

    /// Returns this context with a route's parameters added.
    #[cfg_attr(not(feature = "router"), allow(dead_code, reason = "routers use it"))]
    pub(crate) fn with_params(&self, params: Vec<(String, String)>) -> Self {
        self.with(Item::Params(params))
    }

    fn with(&self, item: Item) -> Self {
        Self {
            scope: self.scope.clone(),
            added: Some(Arc::new(Added {
                item,
                before: self.added.clone(),
            })),
        }
    }

    fn derived(&self, derived: Arc<Derived>) -> Self {
        Self {
            scope: Scope::Derived(derived),
            added: self.added.clone(),
        }
    }
}

/// How contexts end.
impl Context {
    /// Ends this context and those that were derived from it. Each server that was
    /// [built with it](crate::ServerBuilder::context) begins to stop.
    ///
    /// A second call does nothing. Neither does a call on the context that a handler is given,
    /// which is the server's to end.
    pub fn cancel(&self) {
        self.cancel_because(CancelReason::Cancelled);
    }

    pub(crate) fn cancel_because(&self, reason: CancelReason) {
        self.scope.cancel(reason);
    }

    /// Cuts the work that still goes on after a first cancel.
    pub(crate) fn force(&self) {
        self.scope.force();
    }

    /// Has `stop` called when this context is cancelled, or when the server it comes from drains;
    /// and `cut` when the work that still goes on then is to be cut.
    pub(crate) fn on_cancel(
        &self,
        stop: impl FnOnce() + Send + 'static,
        cut: impl FnOnce() + Send + 'static,
    ) {
        self.scope.draining().on_raise(stop);
        self.scope.forced().on_raise(cut);
    }
}

/// What handlers ask.
impl Context {
    /// Returns a channel that disconnects when the server starts to drain: it accepts no more
    /// connections and waits for the requests in flight. On a context that comes from
    /// [`root`](Self::root), the channel disconnects when that is cancelled.
    ///
    /// A handler that lives long (a stream, a long poll) should come to its end then. The channel
    /// is for `select!`; [`is_draining`](Self::is_draining) asks without waiting.
    #[must_use]
    pub fn draining(&self) -> &Receiver<()> {
        self.scope.draining().receiver()
    }

    /// Returns a channel that disconnects when this context ends. A handler's own context ends at
    /// the stop's deadline, when the requests that are still in flight are cut.
    ///
    /// The channel is for `select!`; [`is_cancelled`](Self::is_cancelled) asks without waiting.
    #[must_use]
    pub fn cancelled(&self) -> &Receiver<()> {
        self.scope.cancelled().receiver()
    }

    /// Returns whether the server is draining or in a later phase; on a context that comes from
    /// [`root`](Self::root), whether it is cancelled.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.scope.is_draining()
    }

    /// Returns whether this context has ended. The results of work that goes on then are lost.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.reason().is_some()
    }

    /// Returns why this context has ended. `None` while it has not.
    #[must_use]
    pub fn reason(&self) -> Option<CancelReason> {
        self.scope.reason()
    }

    /// Returns whether the server takes new work, for a readiness probe. The answer is
    /// [`Stopping`](Readiness::Stopping) from the beginning of the stop on, also while the server
    /// still accepts connections as a [`lame_duck`](crate::ServerBuilder::lame_duck).
    ///
    /// It is a response too: `|_request, context| context.readiness()` is a complete handler.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let stopping = match self.scope.connection() {
            Some(connection) => connection.lifecycle.is_stopping(),
            None => self.is_cancelled(),
        };
        if stopping {
            Readiness::Stopping
        } else {
            Readiness::Ready
        }
    }

    /// Returns when this context will end at the latest: the earliest of its own deadline, those of
    /// the contexts it was derived from, and the stop's, when requests in flight are cut. `None`
    /// while there is no such deadline: the stop has none before it begins.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.scope.deadline()
    }

    /// Blocks for `duration`, or until this context ends: a sleep that the stop interrupts.
    /// Handlers call it instead of [`std::thread::sleep`].
    ///
    /// # Errors
    ///
    /// The reason why this context has ended, if it ended before `duration` had passed.
    pub fn sleep(&self, duration: Duration) -> Result<(), CancelReason> {
        match self.cancelled().recv_timeout(duration) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            _ => Err(self.reason().unwrap_or(CancelReason::Cancelled)),
        }
    }

    /// Returns the client's address. `None` over a unix socket, and on a context that does not come
    /// from a request.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.scope.connection()?.peer
    }

    /// Returns the address that the client connected to. `None` over a unix socket, and on a
    /// context that does not come from a request.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.scope.connection()?.local
    }

    /// Returns what the parameter `name` of the matched route stands for, percent-decoded: the path
    /// `/users/7` and the route `/users/{name}` make it `7`. `None` if the route has no such
    /// parameter.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.added().find_map(|item| match item {
            Item::Params(params) => params
                .iter()
                .find(|(given, _)| given == name)
                .map(|(_, value)| value.as_str()),
            Item::Value(..) => None,
        })
    }

    /// Returns the value of this type that was [added](Self::with_value) last.
    #[must_use]
    pub fn value<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.added().find_map(|item| match item {
            Item::Value(id, value) if *id == TypeId::of::<T>() => value.downcast_ref(),
            _ => None,
        })
    }

    /// Returns the items that were added, the latest first.
    fn added(&self) -> impl Iterator<Item = &Item> {
        std::iter::successors(self.added.as_deref(), |added| added.before.as_deref())
            .map(|added| &added.item)
    }
}

thread_local! {
    /// What was added to the context of the handler or layer that this thread runs.
    static CURRENT: RefCell<Option<Arc<Added>>> = const { RefCell::new(None) };
}

/// What routers and layers have added to the context of a request, for code that runs for this
/// request after its handler has returned.
#[derive(Debug, Clone)]
pub(crate) struct AddedItems(Option<Arc<Added>>);

impl AddedItems {
    /// Returns those of the handler or layer that calls this.
    pub(crate) fn of_caller() -> Self {
        Self(CURRENT.with_borrow(Clone::clone))
    }

    /// Returns `context`, which belongs to the connection, with these items.
    pub(crate) fn add_to(self, context: Context) -> Context {
        Context {
            added: self.0.or(context.added),
            ..context
        }
    }
}

/// Marks that this thread runs a handler or a layer, until it is dropped.
pub(crate) struct Current(Option<Arc<Added>>);

impl Current {
    /// Begins to run code that is given `context`.
    pub(crate) fn enter(context: &Context) -> Self {
        Self(CURRENT.replace(context.added.clone()))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        // The former items are set back first: to drop the others may run user code.
        drop(CURRENT.replace(self.0.take()));
    }
}

impl fmt::Debug for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.item {
            Item::Params(params) => f
                .debug_map()
                .entries(params.iter().map(|(name, value)| (name, value)))
                .finish(),
            Item::Value(..) => f.write_str("a value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_context_ends_with_its_parent_and_not_the_other_way_round() {
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
    fn a_context_derived_from_an_ended_one_has_ended() {
        let root = Context::root();
        root.cancel();
        let late = root.with_timeout(Duration::from_secs(1000));
        assert_eq!(late.reason(), Some(CancelReason::Cancelled));
        assert!(late.is_draining() && late.sleep(Duration::MAX).is_err());
    }

    #[test]
    fn a_timeout_ends_a_context_and_the_earlier_deadline_counts() {
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
    fn a_dropped_context_leaves_nothing_in_its_parent() {
        let root = Context::root();
        for _ in 0..1000 {
            drop(root.with_timeout(Duration::from_secs(1000)).with_cancel());
        }
        assert_eq!(root.scope.draining().pending(), 0);
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
