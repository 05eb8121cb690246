//! What a handler can know about its request's surroundings, above all about the stop.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::lifecycle::phase::{Flag, Lifecycle, Phase};

/// Given to each handler: who asks, and whether the server is stopping. A cheap clone.
///
/// A program makes one of its own with [`root`](Self::root) or [`notify`](crate::notify), to stop its servers and its other
/// threads by one word.
#[derive(Debug, Clone)]
pub struct Context(Arc<Scope>);

#[derive(Debug)]
enum Scope {
    /// What all requests of one connection share.
    Connection { lifecycle: Arc<Lifecycle>, peer: Option<SocketAddr>, local: Option<SocketAddr> },
    /// What a program has made.
    Root(Root),
}

/// A context that somebody cancels.
#[derive(Debug)]
struct Root {
    cancelled: Flag,
    /// Asked for a second time: what still goes on is to be cut.
    forced: Flag,
    reason: OnceLock<Reason>,
}

/// Why a context is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The stop's deadline is over.
    Deadline,
    /// Its [`cancel`](Context::cancel) was called.
    Cancelled,
    /// The process got this signal.
    Signal(i32),
}

/// Whether new work should come here: see [`Context::readiness`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Readiness {
    /// The server serves and is not about to stop. As a response: 200.
    Ready,
    /// It is stopping. As a response: 503.
    Stopping,
}

impl Context {
    pub(crate) fn of_connection(
        lifecycle: Arc<Lifecycle>,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> Self {
        Self(Arc::new(Scope::Connection { lifecycle, peer, local }))
    }

    /// A context that is over when [`cancel`](Self::cancel) is called.
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::new(Scope::Root(Root { cancelled: Flag::new(), forced: Flag::new(), reason: OnceLock::new() })))
    }

    /// Cancels it, and begins the stop of each server that was [built with it](crate::Builder::context). In a handler's
    /// context, and a second time, it does nothing.
    pub fn cancel(&self) {
        self.cancel_because(Reason::Cancelled);
    }

    pub(crate) fn cancel_because(&self, reason: Reason) {
        if let Scope::Root(root) = &*self.0 {
            let _ = root.reason.set(reason);
            root.cancelled.raise();
        }
    }

    /// Cuts what still goes on because of a first cancel.
    pub(crate) fn force(&self) {
        if let Scope::Root(root) = &*self.0 {
            root.forced.raise();
        }
    }

    /// Has `stop` called when it is cancelled, or a server it comes from drains, and `cut` when that is to end at once.
    pub(crate) fn on_cancel(&self, stop: impl FnOnce() + Send + 'static, cut: impl FnOnce() + Send + 'static) {
        let (stopping, forced) = match &*self.0 {
            Scope::Root(root) => (&root.cancelled, &root.forced),
            Scope::Connection { lifecycle, .. } => (&lifecycle.draining, &lifecycle.cancelled),
        };
        stopping.on_raise(stop);
        forced.on_raise(cut);
    }

    /// The client's address. `None` over a unix socket, and for a root.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        match &*self.0 {
            Scope::Connection { peer, .. } => *peer,
            Scope::Root(_) => None,
        }
    }

    /// The address the client connected to. `None` over a unix socket, and for a root.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        match &*self.0 {
            Scope::Connection { local, .. } => *local,
            Scope::Root(_) => None,
        }
    }

    /// A channel that disconnects when the server starts to drain: nothing new is accepted, and what is in flight is
    /// waited for. Of a root: when it is cancelled. For `select!`; to ask without waiting see
    /// [`is_draining`](Self::is_draining).
    ///
    /// A handler that lives long (a stream, a long poll) should come to its end now.
    #[must_use]
    pub fn draining(&self) -> &Receiver<()> {
        match &*self.0 {
            Scope::Connection { lifecycle, .. } => lifecycle.draining.receiver(),
            Scope::Root(root) => root.cancelled.receiver(),
        }
    }

    /// A channel that disconnects at the stop's deadline, when what is left is cut. Of a root: when it is cancelled. For
    /// `select!`; to ask without waiting see [`is_cancelled`](Self::is_cancelled).
    #[must_use]
    pub fn cancelled(&self) -> &Receiver<()> {
        match &*self.0 {
            Scope::Connection { lifecycle, .. } => lifecycle.cancelled.receiver(),
            Scope::Root(root) => root.cancelled.receiver(),
        }
    }

    /// Whether the server is draining, or beyond. Of a root: whether it is cancelled.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        match &*self.0 {
            Scope::Connection { lifecycle, .. } => lifecycle.phase() >= Phase::Draining,
            Scope::Root(root) => root.cancelled.is_raised(),
        }
    }

    /// Whether the stop's deadline is over: nobody will get what the handler still computes. Of a root: whether it is
    /// cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.reason().is_some()
    }

    /// Why it is cancelled. `None` while it is not.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match &*self.0 {
            Scope::Connection { lifecycle, .. } => lifecycle.cancelled.is_raised().then_some(Reason::Deadline),
            Scope::Root(root) => root.reason.get().copied(),
        }
    }

    /// Whether new work should come here: what a readiness probe asks. It says no from the first wish to stop on, while the
    /// server still accepts ([`lame_duck`](crate::Builder::lame_duck)).
    ///
    /// It is a response too: `|_request, context| context.readiness()` is a whole handler.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let stopping = match &*self.0 {
            Scope::Connection { lifecycle, .. } => lifecycle.is_stopping(),
            Scope::Root(root) => root.cancelled.is_raised(),
        };
        if stopping { Readiness::Stopping } else { Readiness::Ready }
    }

    /// When what is still in flight will be cut. `None` while the server is not stopping, when it never cuts, and for a root.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &*self.0 {
            Scope::Connection { lifecycle, .. } => lifecycle.plan()?.cut_at,
            Scope::Root(_) => None,
        }
    }

    /// Waits for `duration`, or until it is cancelled. True: the whole time has passed.
    ///
    /// What a handler uses instead of `std::thread::sleep`.
    #[must_use]
    pub fn wait(&self, duration: Duration) -> bool {
        self.cancelled().recv_timeout(duration) == Err(RecvTimeoutError::Timeout)
    }
}
