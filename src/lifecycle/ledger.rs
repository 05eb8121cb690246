//! Which connections are open, and how the others ended, so that none can vanish unreported.
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
    /// The peer closed the connection between requests.
    PeerClosed,
    /// The peer closed the connection before a request was complete.
    PeerGone,
    /// The connection broke: it was reset by the peer, or by the network.
    Broken,
    /// The server closed the connection between requests, because it was idle for longer than
    /// allowed.
    Idle,
    /// The server closed the connection between requests, because it is stopping.
    IdleStopping,
    /// The peer sent no first byte in time.
    Silent,
    /// A request was refused: it was malformed, too large, too slow, or not to be served.
    Refused,
    /// The peer took too long to take its response.
    Stalled,
    /// A handler, or the body it returned, failed after the response had begun.
    Failed,
    /// The connection was cut at the stop's deadline.
    Cut,
    /// The connection was dropped before anything was read, because the server was out of slots.
    NoSlot,
    /// The server closed the connection between requests, or before its first byte, to make room:
    /// as many as allowed were open, or the process was out of descriptors.
    Evicted,
    /// A request found no worker in time, and was answered with 503; or the rest of a response that
    /// is read from its request found none, and the connection was reset.
    Overloaded,
    /// The connection was upgraded, and its closure has returned.
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

/// The number of open connections, and how many have ended for each reason.
#[derive(Debug)]
pub(crate) struct Ledger {
    open: AtomicUsize,
    accepted: AtomicU64,
    ended: [AtomicU64; CloseReason::ALL.len()],
    /// The nanoseconds in which clients waited to be accepted for want of room.
    paused: AtomicU64,
    unanswered: Mutex<Vec<UnansweredRequest>>,
    /// The [`WakeAt`] that the acceptor has set.
    wake: AtomicU8,
    /// The acceptor's waker. It is gone when the server has stopped.
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

    /// Enters a connection, before another thread gets it.
    pub(crate) fn open(ledger: &Arc<Self>) -> Entry {
        ledger.open.fetch_add(1, SeqCst);
        ledger.accepted.fetch_add(1, Relaxed);
        Entry {
            ledger: ledger.clone(),
            reason: CloseReason::Broken,
        }
    }

    /// Returns how many connections are open now.
    pub(crate) fn len(&self) -> usize {
        self.open.load(SeqCst)
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    pub(crate) fn ended(&self, reason: CloseReason) -> u64 {
        self.ended[reason as usize].load(Acquire)
    }

    /// Adds to the time for which clients had to wait because there was no room for another
    /// connection.
    pub(crate) fn count_pause(&self, pause: Duration) {
        self.paused
            .fetch_add(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn paused(&self) -> Duration {
        Duration::from_nanos(self.paused.load(Relaxed))
    }

    /// Records a request that will not be answered.
    fn name_unanswered(&self, request: UnansweredRequest) {
        let mut all = lock(&self.unanswered);
        if all.len() < MAX_UNANSWERED {
            all.push(request);
        }
    }

    /// Takes the requests that connections have recorded.
    pub(crate) fn take_unanswered(&self) -> Vec<UnansweredRequest> {
        std::mem::take(&mut lock(&self.unanswered))
    }

    /// Returns whether the acceptor waits for the end of any connection.
    #[cfg(test)]
    pub(crate) fn waits_for_any_end(&self) -> bool {
        self.wake.load(SeqCst) == WakeAt::AnyEnd as u8
    }

    /// Returns whether as many connections are open as may be. If so, the acceptor will be woken
    /// when one ends.
    pub(crate) fn is_full(&self, max_connections: usize) -> bool {
        if self.len() >= max_connections {
            self.wake(WakeAt::AnyEnd);
            // A connection may have ended before the ledger knew that the acceptor waits.
            if self.len() >= max_connections {
                return true;
            }
        }
        self.wake(WakeAt::Never);
        false
    }

    /// Sets which end of a connection wakes the acceptor. The acceptor looks at [`len`](Self::len)
    /// after this call, because a connection may have ended before it.
    pub(crate) fn wake(&self, at: WakeAt) {
        self.wake.store(at as u8, SeqCst);
    }
}

/// The most unanswered requests that a report names. A client can send as many as it likes after
/// the server's FIN.
const MAX_UNANSWERED: usize = 10_000;

/// Which end of a connection the acceptor waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WakeAt {
    /// The acceptor waits for none.
    Never,
    /// The acceptor waits for the end of any connection, because the server is full.
    AnyEnd,
    /// The acceptor waits for the end of the last connection, because the server drains.
    LastEnd,
}

/// A connection's entry in the ledger. Dropping it counts how the connection ended.
#[derive(Debug)]
pub(crate) struct Entry {
    ledger: Arc<Ledger>,
    reason: CloseReason,
}

impl Entry {
    /// Sets why the connection is about to end. Without this call it counts as broken.
    pub(crate) fn because(&mut self, reason: CloseReason) {
        self.reason = reason;
    }

    /// Records a request that came on this connection and will not be answered.
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
