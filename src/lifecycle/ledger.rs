//! Which connections are open, and how the others ended, so that none can vanish unreported.
//!
//! **Invariant:** a connection holds an [`Entry`] from accept to close; dropping it is what counts
//! its end.

use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::lifecycle::unanswered::{CutConnection, UnansweredRequest};
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
    /// A thread of the server dropped the connection without closing it, which is a fault of the
    /// server. A stop with such a connection is not clean.
    Lost,
}

impl CloseReason {
    pub(crate) const ALL: [Self; 17] = [
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
        Self::Lost,
    ];

    /// Whether a connection that ends for this reason may leave a request without its complete
    /// response: the peer did not take it, or the code that makes it has failed or found no worker.
    /// It is said by the end of the connection itself, so no report has to name the request.
    pub(crate) const fn may_break_off(self) -> bool {
        matches!(
            self,
            Self::PeerClosed
                | Self::PeerGone
                | Self::Broken
                | Self::Stalled
                | Self::Failed
                | Self::Overloaded
        )
    }
}

/// What became of the requests of a server, or of one of its connections. The first number is the
/// sum of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Requests {
    /// The requests whose heads were complete and valid.
    pub begun: u64,
    /// The requests whose responses the kernel has taken completely. The server's own refusals
    /// count, such as 408 and 413.
    pub answered: u64,
    /// The requests of [`Report::unanswered`](crate::Report::unanswered) whose responses the stop
    /// has taken away. It lists others too, which were not begun.
    pub named: u64,
    /// The requests whose connections ended before their responses were complete, for a reason that
    /// is not the stop's: the peer was gone or did not take the response, or the handler failed
    /// after the response had begun.
    pub broken_off: u64,
    /// The requests of which the server cannot say what became of them, which is a fault of the
    /// server. A stop with such a request is not clean.
    pub lost: u64,
}

impl Requests {
    fn as_array(self) -> [u64; 5] {
        [
            self.begun,
            self.answered,
            self.named,
            self.broken_off,
            self.lost,
        ]
    }
}

/// The number of open connections, and how many have ended for each reason.
#[derive(Debug)]
pub(crate) struct Ledger {
    open: AtomicUsize,
    accepted: AtomicU64,
    ended: [AtomicU64; CloseReason::ALL.len()],
    /// The sums of [`Requests::as_array`] of the connections that have ended.
    requests: [AtomicU64; 5],
    /// The nanoseconds in which clients waited to be accepted for want of room.
    paused: AtomicU64,
    unanswered: Mutex<Vec<UnansweredRequest>>,
    cut_connections: Mutex<Vec<CutConnection>>,
    /// The unanswered requests for which there was no room in the list.
    unlisted: AtomicU64,
    faults: Mutex<Vec<String>>,
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
            requests: std::array::from_fn(|_| AtomicU64::new(0)),
            paused: AtomicU64::new(0),
            unanswered: Mutex::default(),
            cut_connections: Mutex::default(),
            unlisted: AtomicU64::new(0),
            faults: Mutex::default(),
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
            reason: CloseReason::Lost,
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
        } else {
            self.unlisted.fetch_add(1, Relaxed);
        }
    }

    /// Returns how many unanswered requests were recorded and not kept, because there were too
    /// many.
    pub(crate) fn unlisted(&self) -> u64 {
        self.unlisted.load(Relaxed)
    }

    /// Adds what became of the requests of a connection.
    pub(crate) fn enter_requests(&self, requests: Requests) {
        for (sum, n) in self.requests.iter().zip(requests.as_array()) {
            if n > 0 {
                sum.fetch_add(n, Relaxed);
            }
        }
    }

    /// Returns what became of the requests of all connections that have ended.
    pub(crate) fn requests(&self) -> Requests {
        let [begun, answered, named, broken_off, lost] =
            std::array::from_fn(|i| self.requests[i].load(Relaxed));
        Requests {
            begun,
            answered,
            named,
            broken_off,
            lost,
        }
    }

    /// Records a connection that the stop cuts before a request on it is complete.
    fn name_cut(&self, connection: CutConnection) {
        let mut all = lock(&self.cut_connections);
        if all.len() < MAX_UNANSWERED {
            all.push(connection);
        }
    }

    /// Takes the connections that were recorded as cut.
    pub(crate) fn take_cut_connections(&self) -> Vec<CutConnection> {
        std::mem::take(&mut lock(&self.cut_connections))
    }

    /// Records a fault of the server itself.
    pub(crate) fn name_fault(&self, fault: String) {
        let mut all = lock(&self.faults);
        if all.len() < MAX_FAULTS {
            all.push(fault);
        }
    }

    /// Takes the faults that were recorded.
    pub(crate) fn take_faults(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.faults))
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

/// The most unanswered requests, and the most cut connections, that a report names. A client can send as many as it likes after
/// the server's FIN.
const MAX_UNANSWERED: usize = 10_000;

/// The most faults of the server that a report names.
const MAX_FAULTS: usize = 100;

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
    /// Sets why the connection is about to end. Without this call it counts as lost.
    pub(crate) fn because(&mut self, reason: CloseReason) {
        self.reason = reason;
    }

    /// Returns why the connection ends, as far as is known now.
    pub(crate) fn reason(&self) -> CloseReason {
        self.reason
    }

    /// Adds what became of the requests of this connection.
    pub(crate) fn enter_requests(&self, requests: Requests) {
        self.ledger.enter_requests(requests);
    }

    /// Records a request that came on this connection and will not be answered.
    pub(crate) fn name_unanswered(&self, request: UnansweredRequest) {
        self.ledger.name_unanswered(request);
    }

    /// Records that the stop cuts this connection before a request on it is complete.
    pub(crate) fn name_cut(&self, connection: CutConnection) {
        self.ledger.name_cut(connection);
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
