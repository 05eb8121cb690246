//! When a context ends, and why.
//!
//! A scope belongs to a connection, to a program (a root), or was derived from another scope. A
//! derived scope ends when its parent ends, or earlier. Ending is two flags: the first one is
//! raised when draining starts, the second one when the scope is cancelled.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use crate::lifecycle::phase::{Flag, Lifecycle, Phase};
use crate::lifecycle::timer::{self, Alarm};
use crate::sys::clock::earlier;
use crate::sys::signal_name::signal_name;

/// Why a context has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CancelReason {
    /// The deadline of [`with_timeout`](crate::Context::with_timeout) or
    /// [`with_deadline`](crate::Context::with_deadline) has passed.
    Deadline,
    /// [`cancel`](crate::Context::cancel) was called on the context, or on one it was derived from.
    Cancelled,
    /// The server's stop has reached its deadline: the client does not get this response any more.
    Stopped,
    /// The client has reset its connection, see
    /// [`while_connected`](crate::Context::while_connected).
    ClientGone,
    /// The process got this signal.
    Signal(i32),
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("the deadline has passed"),
            Self::Cancelled => f.write_str("the context was cancelled"),
            Self::Stopped => f.write_str("the server has stopped"),
            Self::ClientGone => f.write_str("the client is gone"),
            Self::Signal(signal) => write!(f, "the process got {}", signal_name(*signal)),
        }
    }
}

/// A reason is an error, so that `?` can be used on it: `context.reason().map_or(Ok(()), Err)?`.
impl std::error::Error for CancelReason {}

/// The other end of a connection, as a context sees it.
pub(crate) trait Client: Send + Sync + fmt::Debug {
    /// Has `then` called if the connection breaks while the current request is served.
    fn on_gone(&self, then: Box<dyn FnOnce() + Send>);
}

#[derive(Debug, Clone)]
pub(super) enum Scope {
    Connection(Arc<Connection>),
    Root(Arc<Root>),
    Derived(Arc<Derived>),
}

/// The scope of all requests on one connection. It ends with its server's stop.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) local: Option<SocketAddr>,
    pub(super) client: Weak<dyn Client>,
}

/// A scope that the program makes and cancels.
#[derive(Debug)]
pub(super) struct Root {
    /// A root has no time between draining and its end: this is its flag for both.
    cancelled: Flag,
    /// Raised by a second request to stop: work that still goes on is to be cut.
    forced: Flag,
    reason: OnceLock<CancelReason>,
}

/// A scope that ends when its parent ends, or earlier.
#[derive(Debug)]
pub(super) struct Derived {
    parent: Scope,
    draining: Flag,
    cancelled: Flag,
    reason: OnceLock<CancelReason>,
    deadline: Option<Instant>,
    alarm: OnceLock<Alarm>,
    /// The calls that the parent's two flags owe this scope, and have to forget when it is dropped.
    calls: OnceLock<ParentCalls>,
}

#[derive(Debug)]
struct ParentCalls {
    draining: Option<u64>,
    cancelled: Option<u64>,
}

impl Scope {
    pub(super) fn root() -> Self {
        Self::Root(Arc::new(Root {
            cancelled: Flag::new(),
            forced: Flag::new(),
            reason: OnceLock::new(),
        }))
    }

    /// Cancels the scope. A connection's scope goes on, because only its server ends it.
    pub(super) fn cancel(&self, reason: CancelReason) {
        match self {
            Self::Root(root) => {
                let _ = root.reason.set(reason);
                root.cancelled.raise();
            }
            Self::Derived(derived) => derived.cancel(reason),
            Self::Connection(_) => {}
        }
    }

    /// Cuts the work that still goes on after a root was cancelled.
    pub(super) fn force(&self) {
        if let Self::Root(root) = self {
            root.forced.raise();
        }
    }

    /// Returns the flag that is raised when draining starts.
    pub(super) fn draining(&self) -> &Flag {
        match self {
            Self::Connection(connection) => &connection.lifecycle.draining,
            Self::Root(root) => &root.cancelled,
            Self::Derived(derived) => &derived.draining,
        }
    }

    /// Returns the flag that is raised when the scope ends.
    pub(super) fn cancelled(&self) -> &Flag {
        match self {
            Self::Connection(connection) => &connection.lifecycle.cancelled,
            Self::Root(root) => &root.cancelled,
            Self::Derived(derived) => &derived.cancelled,
        }
    }

    /// Returns the flag that is raised when the work that still goes on is to be cut.
    pub(super) fn forced(&self) -> &Flag {
        match self {
            Self::Connection(connection) => &connection.lifecycle.cancelled,
            Self::Root(root) => &root.forced,
            Self::Derived(derived) => derived.parent.forced(),
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        match self {
            Self::Connection(connection) => connection.lifecycle.phase() >= Phase::Draining,
            _ => self.draining().is_raised(),
        }
    }

    /// Returns why the scope has ended. `None` while it has not.
    pub(super) fn reason(&self) -> Option<CancelReason> {
        match self {
            Self::Connection(connection) => {
                let is_over = connection.lifecycle.cancelled.is_raised();
                is_over.then_some(CancelReason::Stopped)
            }
            Self::Root(root) => root.reason.get().copied(),
            Self::Derived(derived) => derived.reason.get().copied(),
        }
    }

    /// Returns when the scope will end at the latest, as far as that is known.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Connection(connection) => connection.lifecycle.plan()?.cut_at,
            Self::Root(_) => None,
            Self::Derived(derived) => earlier(derived.deadline, derived.parent.deadline()),
        }
    }

    /// Returns the connection that the scope belongs to or was derived from.
    pub(super) fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Connection(connection) => Some(connection),
            Self::Root(_) => None,
            Self::Derived(derived) => derived.parent.connection(),
        }
    }
}

impl Derived {
    pub(super) fn new(parent: &Scope, deadline: Option<Instant>) -> Arc<Self> {
        let derived = Arc::new(Self {
            parent: parent.clone(),
            draining: Flag::new(),
            cancelled: Flag::new(),
            reason: OnceLock::new(),
            deadline,
            alarm: OnceLock::new(),
            calls: OnceLock::new(),
        });
        let drain = derived.unless_dropped(|derived| derived.draining.raise());
        let cancel = derived.unless_dropped(|derived| {
            let reason = derived.parent.reason();
            derived.cancel(reason.unwrap_or(CancelReason::Cancelled));
        });
        let _ = derived.calls.set(ParentCalls {
            draining: parent.draining().on_raise(drain),
            cancelled: parent.cancelled().on_raise(cancel),
        });
        if let Some(deadline) = deadline {
            let cancel = derived.unless_dropped(|derived| derived.cancel(CancelReason::Deadline));
            let _ = derived.alarm.set(timer::at(deadline, cancel));
        }
        derived
    }

    /// Cancels the scope if its client resets the connection while the current request is served.
    pub(super) fn cancel_when_client_is_gone(self: &Arc<Self>) {
        let connection = self.parent.connection();
        if let Some(client) = connection.and_then(|connection| connection.client.upgrade()) {
            let cancel = self.unless_dropped(|derived| derived.cancel(CancelReason::ClientGone));
            client.on_gone(Box::new(cancel));
        }
    }

    fn cancel(&self, reason: CancelReason) {
        let _ = self.reason.set(reason);
        self.draining.raise();
        self.cancelled.raise();
    }

    /// Returns a call of `then` that does not keep the scope alive.
    fn unless_dropped(
        self: &Arc<Self>,
        then: impl FnOnce(&Self) + Send + 'static,
    ) -> impl FnOnce() + Send + 'static {
        let weak = Arc::downgrade(self);
        move || {
            if let Some(derived) = weak.upgrade() {
                then(&derived);
            }
        }
    }
}

impl Drop for Derived {
    fn drop(&mut self) {
        let Some(calls) = self.calls.get() else {
            return;
        };
        if let Some(call) = calls.draining {
            self.parent.draining().forget(call);
        }
        if let Some(call) = calls.cancelled {
            self.parent.cancelled().forget(call);
        }
    }
}
