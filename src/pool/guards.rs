//! What a thread holds while it serves, as values that give it back when they are dropped: the
//! permit, room among the slow ones, and the slot. So nothing is lost to a panic, wherever it
//! comes from.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use crate::conn::egress::PeerWait;
use crate::pool::permits::Permit;
use crate::pool::shared::Pool;

/// A permit in the hands of a thread. Dropping it passes the permit on.
pub(super) struct HeldPermit<'p> {
    pool: &'p Pool,
    /// `None` once the monitor has revoked it.
    permit: Option<Permit>,
}

impl<'p> HeldPermit<'p> {
    pub(super) fn new(pool: &'p Pool, permit: Permit) -> Self {
        Self {
            pool,
            permit: Some(permit),
        }
    }

    /// Gives up a permit that the monitor has revoked, and passed on itself.
    pub(super) fn was_revoked(mut self) {
        self.permit = None;
    }
}

impl Drop for HeldPermit<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.pool.pass_permit_on(permit);
        }
    }
}

/// Room in the slow lane. Dropping it makes room for another call.
pub(super) struct Room<'p>(&'p Pool);

impl<'p> Room<'p> {
    /// Takes room if there is some, counting `others` that are about to take it.
    pub(super) fn enter(pool: &'p Pool, others: usize) -> Option<Self> {
        pool.slow
            .semaphore
            .acquire_counting(others)
            .then(|| Self(pool))
    }

    /// Takes room whether there is some or not.
    pub(super) fn force(pool: &'p Pool) -> Self {
        pool.slow.semaphore.force_acquire();
        Self(pool)
    }

    /// Returns the room that the monitor has taken for a worker whose permit it has revoked.
    pub(super) fn taken_by_monitor(pool: &'p Pool) -> Self {
        Self(pool)
    }

    /// Has the monitor's room count for a worker, which will call
    /// [`taken_by_monitor`](Self::taken_by_monitor).
    pub(super) fn leave_to_worker(self) {
        std::mem::forget(self);
    }

    /// Hands the room to the next call that waits for it: returns both, the key claimed. `None`: no
    /// call waits, or there are more calls inside than the limit, and the room is left.
    pub(super) fn next(self) -> Option<(Self, u32)> {
        let pool = self.0;
        std::mem::forget(self);
        let key = pool.slow.release_or_next(&pool.table)?;
        Some((Self(pool), key))
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.slow.semaphore.release();
        self.0.admit_waiting(&self.0.slow);
    }
}

/// Room in the lane of code that may wait for its client. While it does wait, another connection
/// has the room; when the wait ends, the code goes on in any case.
#[derive(Debug)]
pub(super) struct StreamRoom {
    pool: Arc<Pool>,
    is_inside: AtomicBool,
}

impl StreamRoom {
    /// Takes room if there is some, or if the caller may not wait for it.
    pub(super) fn enter(pool: &Arc<Pool>, force: bool) -> Option<Arc<Self>> {
        if force {
            pool.streams.semaphore.force_acquire();
        } else if !pool.streams.semaphore.acquire() {
            return None;
        }
        Some(Arc::new(Self {
            pool: pool.clone(),
            is_inside: AtomicBool::new(true),
        }))
    }

    fn leave(&self) {
        if self.is_inside.swap(false, SeqCst) {
            self.pool.streams.semaphore.release();
            self.pool.admit_waiting(&self.pool.streams);
        }
    }
}

impl PeerWait for StreamRoom {
    fn begin(&self) {
        self.leave();
    }

    fn end(&self) {
        if !self.is_inside.swap(true, SeqCst) {
            self.pool.streams.semaphore.force_acquire();
        }
    }
}

impl Drop for StreamRoom {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A slot whose connection the thread serves. If a panic ends that, the connection is reset and the
/// slot is free again.
pub(super) struct ServedSlot<'p> {
    pub(super) pool: &'p Pool,
    pub(super) key: u32,
}

impl Drop for ServedSlot<'_> {
    fn drop(&mut self) {
        // Otherwise the slot has been let go, and may be another thread's by now.
        if std::thread::panicking() {
            self.pool.abandon(self.key);
        }
    }
}
