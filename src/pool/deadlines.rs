//! The deadlines of parked connections: when each of them has to be looked at.
//!
//! At most one entry per connection is queued. Parking again with a later deadline, as every
//! answered request does, only stores the new one in the slot; an entry that comes up too early is
//! queued again for the deadline in the slot. Parking with an earlier deadline than the queued one
//! moves the entry. So a busy keep-alive connection costs one store per request, and a closed
//! connection leaves no entry that would wake an idle server.
//!
//! **Invariant:** this module never reads the clock. The caller gives each moment, in nanoseconds
//! since the server's start.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use crate::sys::sync::{AtomicU64, Mutex, lock};

/// The value for "no deadline" and "not queued".
const NEVER: u64 = u64::MAX;
/// The value for an entry that was just taken out of the queue, perhaps to be put back. A thread
/// that relies on either takes the lock.
const MOVING: u64 = u64::MAX - 1;

/// A slot's part: its deadline, and the moment for which its entry is queued.
#[derive(Debug)]
pub(crate) struct DeadlineCell {
    at: AtomicU64,
    queued: AtomicU64,
}

impl Default for DeadlineCell {
    fn default() -> Self {
        Self {
            at: AtomicU64::new(NEVER),
            queued: AtomicU64::new(NEVER),
        }
    }
}

/// The queue of all entries, each a moment and a key.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(Mutex<BTreeSet<(u64, u32)>>);

impl Deadlines {
    /// Sets the deadline of a connection that its owner is about to park. True: it is now the first
    /// of all, so a thread that sleeps until the first one has to be woken.
    #[must_use]
    pub(crate) fn set(&self, cell: &DeadlineCell, key: u32, at: u64) -> bool {
        // The order is first `at`, then `queued`, and the other way round in `pop`. So either this
        // thread sees that the entry is gone and queues a new one, or `pop` sees the new moment and
        // puts the entry back: no connection is parked without an entry.
        cell.at.store(at, SeqCst);
        if cell.queued.load(SeqCst) <= at {
            return false;
        }
        let mut queue = lock(&self.0);
        let queued = cell.queued.load(Relaxed); // written under the lock only
        if queued <= at {
            return false;
        }
        queue.remove(&(queued, key));
        queue.insert((at, key));
        cell.queued.store(at, SeqCst);
        queue.first() == Some(&(at, key))
    }

    /// Removes the deadline of a connection that is over. Only its owner calls this, before the
    /// slot is free.
    pub(crate) fn remove(&self, cell: &DeadlineCell, key: u32) {
        cell.at.store(NEVER, Relaxed);
        if cell.queued.load(Relaxed) == NEVER {
            return;
        }
        let mut queue = lock(&self.0);
        let queued = cell.queued.swap(NEVER, Relaxed);
        queue.remove(&(queued, key));
    }

    /// Takes out a connection whose deadline is over at `now`. `Err`: the moment to ask again
    /// (`None`: when a deadline is set).
    ///
    /// An overdue connection is no longer queued. If it is being served, its owner sets the next
    /// deadline.
    pub(crate) fn pop<'a>(
        &self,
        now: u64,
        cell: impl Fn(u32) -> &'a DeadlineCell,
    ) -> Result<u32, Option<u64>> {
        let mut queue = lock(&self.0);
        loop {
            let Some(&(queued, key)) = queue.first() else {
                return Err(None);
            };
            if queued > now {
                return Err(Some(queued));
            }
            queue.remove(&(queued, key));
            let cell = cell(key);
            cell.queued.store(MOVING, SeqCst);
            let at = cell.at.load(SeqCst);
            if now < at && at < NEVER {
                cell.queued.store(at, SeqCst);
                queue.insert((at, key));
                continue;
            }
            cell.queued.store(NEVER, SeqCst);
            if at <= now {
                return Ok(key);
            }
        }
    }

    /// Returns the first moment at which a connection has to be looked at.
    pub(crate) fn first(&self) -> Option<u64> {
        lock(&self.0).first().map(|&(at, _)| at)
    }

    /// Whether the deadline of a connection that the caller has claimed is still over. It may have
    /// been parked anew since.
    pub(crate) fn is_over(cell: &DeadlineCell, now: u64) -> bool {
        cell.at.load(Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_follows_its_slot_and_there_is_one() {
        let (deadlines, a, b) = (
            Deadlines::default(),
            DeadlineCell::default(),
            DeadlineCell::default(),
        );
        let cell = |key| if key == 1 { &a } else { &b };
        assert!(deadlines.set(&a, 1, 10), "the first is first");
        assert!(!deadlines.set(&a, 1, 30), "a later one only is stored");
        assert!(!deadlines.set(&b, 2, 20));
        assert_eq!(deadlines.pop(9, cell), Err(Some(10)));
        // It came up too early, and is queued again for 30.
        assert_eq!(deadlines.pop(10, cell), Err(Some(20)));
        assert!(
            deadlines.set(&a, 1, 15),
            "an earlier one is moved to the front"
        );
        assert_eq!(deadlines.pop(15, cell), Ok(1));
        assert_eq!(deadlines.pop(15, cell), Err(Some(20)));
        deadlines.remove(&b, 2);
        assert_eq!(deadlines.pop(u64::MAX - 2, cell), Err(None));
    }

    #[test]
    fn what_never_ends_has_no_entry() {
        let (deadlines, cell) = (Deadlines::default(), DeadlineCell::default());
        assert!(!deadlines.set(&cell, 1, u64::MAX));
        assert_eq!(deadlines.first(), None);
        assert!(!Deadlines::is_over(&cell, u64::MAX - 1));
    }
}
