//! What a handler can know about its request's surroundings, above all about the stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::lifecycle::phase::{Lifecycle, Phase};

/// Given to each handler: who asks, and whether the server is stopping. A cheap clone.
#[derive(Debug, Clone)]
pub struct Context(Arc<Scope>);

/// What all requests of one connection share.
#[derive(Debug)]
struct Scope {
    lifecycle: Arc<Lifecycle>,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
}

impl Context {
    pub(crate) fn new(lifecycle: Arc<Lifecycle>, peer: Option<SocketAddr>, local: Option<SocketAddr>) -> Self {
        Self(Arc::new(Scope { lifecycle, peer, local }))
    }

    /// The client's address. `None` over a unix socket.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.peer
    }

    /// The address the client connected to. `None` over a unix socket.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.0.local
    }

    /// A channel that disconnects when the server starts to drain: nothing new is accepted, and what is in flight is
    /// waited for. For `select!`; to ask without waiting see [`is_draining`](Self::is_draining).
    ///
    /// A handler that lives long (a stream, a long poll) should come to its end now.
    #[must_use]
    pub fn draining(&self) -> &Receiver<()> {
        self.0.lifecycle.draining.receiver()
    }

    /// A channel that disconnects at the stop's deadline, when what is left is cut. For `select!`; to ask without waiting
    /// see [`is_cancelled`](Self::is_cancelled).
    #[must_use]
    pub fn cancelled(&self) -> &Receiver<()> {
        self.0.lifecycle.cancelled.receiver()
    }

    /// Whether the server is draining, or beyond.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.lifecycle.phase() >= Phase::Draining
    }

    /// Whether the stop's deadline is over: nobody will get what the handler still computes.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.lifecycle.phase() >= Phase::Cutting
    }

    /// When what is still in flight will be cut. `None` while the server is not stopping, or when it never cuts.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.lifecycle.plan().and_then(|plan| plan.cut_at)
    }

    /// Waits for `duration`, or until the request is cancelled. True: the whole time has passed.
    ///
    /// What a handler uses instead of `std::thread::sleep`.
    #[must_use]
    pub fn wait(&self, duration: Duration) -> bool {
        self.cancelled().recv_timeout(duration) == Err(RecvTimeoutError::Timeout)
    }
}
