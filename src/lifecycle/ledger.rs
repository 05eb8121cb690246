//! Who is open, and how each connection ended: so that none can vanish unreported.
//!
//! **Invariant:** a connection holds an [`Entry`] from accept to close; dropping it is what counts
//! its end.

use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::lifecycle::unanswered::UnansweredRequest;
use crate::sys::sync::{AtomicU8, AtomicU64, AtomicUsize, Mutex, lock};
use crate::sys::waker::Waker;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The response said `Connection: close` because the request or its version asked for it, or
    /// the handler did.
    Asked,
    /// The response said `Connection: close` because the server is stopping.
    Stopping,
    /// The peer closed between requests.
    PeerClosed,
    /// The peer closed before a request was complete.
    PeerGone,
    /// The connection broke: reset by the peer, or by the network.
    Broken,
    /// We closed it between requests: idle for longer than allowed.
    Idle,
    /// We closed it between requests because the server is stopping.
    IdleStopping,
    /// No first byte came in time.
    Silent,
    /// A request was refused: malformed, too large, too slow, or not to be served.
    Refused,
    /// The peer took too long to take its response.
    Stalled,
    /// A handler, or the body it returned, failed after the response had begun.
    Failed,
    /// Cut at the stop's deadline.
    Cut,
    /// Dropped before anything was read, because the server was out of slots.
    NoSlot,
    /// We closed it between requests, or before its first byte, to make room: as many as allowed
    /// were open, or the process was out of descriptors.
    Evicted,
    /// A request found no worker in time, and was answered with 503; or the rest of a response that
    /// is read from its request found none, and the connection was reset.
    Overloaded,
    /// It was upgraded, and its closure has returned.
    Upgraded,
}

impl CloseReason {
    pub(crate) const ALL: [Self; 16] = [
        Self::Asked,
        Self::Stopping,
        Self::PeerClosed,
        Self::PeerGone,
        Self::Broken,
        Self::Idle,
        Self::IdleStopping,
        Self::Silent,
        Self::Refused,
        Self::Stalled,
        Self::Failed,
        Self::Cut,
        Self::NoSlot,
        Self::Evicted,
        Self::Overloaded,
        Self::Upgraded,
    ];
}

/// The open connections' count and the ended ones' tallies.
#[derive(Debug)]
pub(crate) struct Ledger {
    open: AtomicUsize,
    accepted: AtomicU64,
    ended: [AtomicU64; CloseReason::ALL.len()],
    /// Nanoseconds in which clients waited to be accepted for want of room.
    paused: AtomicU64,
    unanswered: Mutex<Vec<UnansweredRequest>>,
    /// What the acceptor waits for.
    wake: AtomicU8,
    /// The acceptor's. It is gone when the server has stopped.
    waker: Weak<Waker>,
}

impl Ledger {
    pub(crate) fn new(waker: Weak<Waker>) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            ended: std::array::from_fn(|_| AtomicU64::new(0)),
            paused: AtomicU64::new(0),
            unanswered: Mutex::default(),
            wake: AtomicU8::new(WakeAt::Never as u8),
            waker,
        })
    }

    /// Enters a connection, before it is handed to anybody.
    pub(crate) fn open(ledger: &Arc<Self>) -> Entry {
        ledger.open.fetch_add(1, SeqCst);
        ledger.accepted.fetch_add(1, Relaxed);
        Entry {
            ledger: ledger.clone(),
            reason: CloseReason::Broken,
        }
    }

    /// Connections that are open now.
    pub(crate) fn len(&self) -> usize {
        self.open.load(SeqCst)
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    pub(crate) fn ended(&self, reason: CloseReason) -> u64 {
        self.ended[reason as usize].load(Acquire)
    }

    /// Clients had to wait for so long because there was no room for another connection.
    pub(crate) fn count_pause(&self, pause: Duration) {
        self.paused
            .fetch_add(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn paused(&self) -> Duration {
        Duration::from_nanos(self.paused.load(Relaxed))
    }

    /// Takes down a request that nobody will answer.
    fn name_unanswered(&self, request: UnansweredRequest) {
        let mut all = lock(&self.unanswered);
        if all.len() < MAX_UNANSWERED {
            all.push(request);
        }
    }

    /// Takes the requests that connections have named.
    pub(crate) fn take_unanswered(&self) -> Vec<UnansweredRequest> {
        std::mem::take(&mut lock(&self.unanswered))
    }

    /// Whether the acceptor waits for any connection's end.
    #[cfg(test)]
    pub(crate) fn waits_for_any_end(&self) -> bool {
        self.wake.load(SeqCst) == WakeAt::AnyEnd as u8
    }

    /// Whether as many connections are open as may be. If so, the acceptor will be woken when one
    /// ends.
    pub(crate) fn is_full(&self, max_connections: usize) -> bool {
        if self.len() >= max_connections {
            self.wake(WakeAt::AnyEnd);
            // One may have ended before we said so.
            if self.len() >= max_connections {
                return true;
            }
        }
        self.wake(WakeAt::Never);
        false
    }

    /// When the acceptor is to be woken. It looks at [`len`](Self::len) after saying so.
    pub(crate) fn wake(&self, at: WakeAt) {
        self.wake.store(at as u8, SeqCst);
    }
}

/// No report names more of them: a client can send as many behind our end as it likes.
const MAX_UNANSWERED: usize = 10_000;

/// Which end of a connection the acceptor waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WakeAt {
    Never,
    /// Any: the server is full.
    AnyEnd,
    /// The last one's: the server drains.
    LastEnd,
}

/// A connection's line in the ledger.
#[derive(Debug)]
pub(crate) struct Entry {
    ledger: Arc<Ledger>,
    reason: CloseReason,
}

impl Entry {
    /// Says why the connection is about to end. Without it, it broke.
    pub(crate) fn because(&mut self, reason: CloseReason) {
        self.reason = reason;
    }

    /// A request came on this connection that nobody will answer.
    pub(crate) fn name_unanswered(&self, request: UnansweredRequest) {
        self.ledger.name_unanswered(request);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.ended[self.reason as usize].fetch_add(1, Relaxed);
        let last = self.ledger.open.fetch_sub(1, SeqCst) == 1;
        let wake = self.ledger.wake.load(SeqCst);
        let is_waited_for = wake == WakeAt::AnyEnd as u8 || last && wake == WakeAt::LastEnd as u8;
        if is_waited_for && let Some(waker) = self.ledger.waker.upgrade() {
            waker.wake();
        }
    }
}
