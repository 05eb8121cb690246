//! Who may poll: permits, the word in which each worker says what it does, and the bell that wakes
//! a sleeping poller.
//!
//! There are as many permits as cores, whatever the size of the pool: with more pollers each event
//! would wake another sleeper, with fewer a core would stand still. A worker without a permit does
//! not poll; it runs a handler, or blocks on the permits channel. A handler expected to be slow
//! gives its permit back before it runs; one that turns out to be slow has it revoked by the
//! monitor, which sees the same word twice and sends a fresh permit.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::sys::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, fence, lock};

/// The right to poll. Not `Clone`: it is passed on, dropped only at the end.
#[derive(Debug)]
pub(crate) struct Permit(());

/// The permits channel: what workers wait on when they have nothing else to do.
#[derive(Debug)]
pub(crate) struct Permits {
    sender: Mutex<Option<Sender<Permit>>>,
    receiver: Receiver<Permit>,
}

impl Permits {
    pub(crate) fn new(permits: usize) -> Self {
        // Unbounded, and never longer than `permits`: a permit is only given by who has it or has
        // revoked it.
        let (sender, receiver) = unbounded();
        for _ in 0..permits {
            sender
                .send(Permit(()))
                .expect("the receiver is in the same scope");
        }
        Self {
            sender: Mutex::new(Some(sender)),
            receiver,
        }
    }

    /// For `for permit in permits.take()`: ends when the pool does.
    pub(crate) fn take(&self) -> Receiver<Permit> {
        self.receiver.clone()
    }

    /// Passes a permit on. Dropped when the pool has ended.
    pub(crate) fn pass_on(&self, permit: Permit) {
        if let Some(sender) = &*lock(&self.sender) {
            let _ = sender.send(permit);
        }
    }

    /// The pool ends: nobody gets a permit any more, and who waits for one leaves.
    pub(crate) fn close(&self) {
        drop(lock(&self.sender).take());
        while self.receiver.try_recv().is_ok() {}
    }
}

/// In the pool's code, with a permit or waiting for one.
const AWAKE: u64 = 0;
/// Waiting in the poller.
const ASLEEP: u64 = 1;
/// In user code, with a permit. A generation in the bits above tells one call from the next.
const CALL_WITH_PERMIT: u64 = 2;
/// In user code, without a permit.
const CALL_WITHOUT_PERMIT: u64 = 3;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;
const STATE_BITS: u32 = 2;

/// A worker's word: what it does, for the monitor and for whoever wants a poller woken.
#[derive(Debug)]
pub(crate) struct WorkerWord(AtomicU64);

/// What the monitor saw of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkerSnapshot(u64);

impl WorkerWord {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(AWAKE))
    }

    /// Before a worker looks at the queues for the last time and waits in the poller.
    pub(crate) fn fall_asleep(&self) {
        self.0.store(ASLEEP, Relaxed);
        // Its pair is in `PollerWake::is_needed`.
        fence(SeqCst);
    }

    pub(crate) fn wake_up(&self) {
        self.0.store(AWAKE, Relaxed);
    }

    /// User code begins, with a permit that the monitor may revoke from now on.
    ///
    /// Sequentially consistent, because the worker looks next whether the monitor sleeps, and the
    /// monitor looks at this word after it has said that it does.
    pub(crate) fn begin_call(&self, generation: u64) {
        self.0
            .swap((generation << STATE_BITS) | CALL_WITH_PERMIT, SeqCst);
    }

    /// User code has ended. False: the permit was revoked meanwhile, and what the monitor did
    /// before that is seen.
    #[must_use]
    pub(crate) fn end_call(&self, generation: u64) -> bool {
        if self
            .0
            .compare_exchange(
                (generation << STATE_BITS) | CALL_WITH_PERMIT,
                AWAKE,
                AcqRel,
                Acquire,
            )
            .is_ok()
        {
            return true;
        }
        self.0.store(AWAKE, SeqCst);
        false
    }

    /// User code begins, without a permit.
    pub(crate) fn begin_call_without_permit(&self) {
        self.0.swap(CALL_WITHOUT_PERMIT, SeqCst);
    }

    pub(crate) fn end_call_without_permit(&self) {
        self.0.store(AWAKE, SeqCst);
    }

    pub(crate) fn look(&self) -> WorkerSnapshot {
        WorkerSnapshot(self.0.load(SeqCst))
    }

    /// Takes the permit away from a worker that is still in the same call. True: the caller has it
    /// now.
    #[must_use]
    pub(crate) fn revoke(&self, seen: WorkerSnapshot) -> Option<Permit> {
        (seen.is_in_call_with_permit()
            && self
                .0
                .compare_exchange(seen.0, CALL_WITHOUT_PERMIT, AcqRel, Relaxed)
                .is_ok())
        .then_some(Permit(()))
    }

    fn is_asleep(&self) -> bool {
        self.0.load(Relaxed) == ASLEEP
    }
}

impl WorkerSnapshot {
    /// What a worker that never ran user code shows.
    pub(crate) const INITIAL: Self = Self(AWAKE);

    pub(crate) fn is_in_call_with_permit(self) -> bool {
        self.0 & STATE_MASK == CALL_WITH_PERMIT
    }

    pub(crate) fn is_in_call_without_permit(self) -> bool {
        self.0 & STATE_MASK == CALL_WITHOUT_PERMIT
    }

    pub(crate) fn is_in_call(self) -> bool {
        self.is_in_call_with_permit() || self.is_in_call_without_permit()
    }
}

/// Whether a poller has been is_pending for and has not noticed yet.
#[derive(Debug)]
pub(crate) struct PollerWake {
    is_pending: AtomicBool,
}

impl PollerWake {
    pub(crate) fn new() -> Self {
        Self {
            is_pending: AtomicBool::new(false),
        }
    }

    /// After work was put into a queue. True: a poller sleeps that may not see it, and the caller
    /// has to wake one.
    ///
    /// A poller marks itself asleep, then looks at the queues, then sleeps; we put work into one,
    /// then look at the marks.
    #[must_use]
    pub(crate) fn is_needed<'a>(&self, mut words: impl Iterator<Item = &'a WorkerWord>) -> bool {
        fence(SeqCst);
        words.any(WorkerWord::is_asleep) && !self.is_pending.swap(true, SeqCst)
    }

    /// By the poller that was woken, before it looks at the queues. Never by the one who rang: the
    /// poller may be late, and a second ring would then be lost with the first.
    pub(crate) fn acknowledge(&self) {
        self.is_pending.swap(false, SeqCst);
    }
}

/// At most so many at a time; who finds it full waits in a queue of the caller's.
#[derive(Debug)]
pub(crate) struct Semaphore {
    max: usize,
    taken: AtomicUsize,
}

impl Semaphore {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            taken: AtomicUsize::new(0),
        }
    }

    #[must_use]
    pub(crate) fn acquire(&self) -> bool {
        self.acquire_counting(0)
    }

    /// The same as if `others` were inside too, who are about to be.
    #[must_use]
    pub(crate) fn acquire_counting(&self, others: usize) -> bool {
        let acquire = |taken| (taken + others < self.max).then_some(taken + 1);
        self.taken.fetch_update(SeqCst, SeqCst, acquire).is_ok()
    }

    /// For who is inside already without having asked, so that the others are counted right: may go
    /// beyond the maximum.
    pub(crate) fn force_acquire(&self) {
        self.taken.fetch_add(1, SeqCst);
    }

    pub(crate) fn release(&self) {
        self.taken.fetch_sub(1, SeqCst);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.taken.load(SeqCst) < self.max
    }
}
