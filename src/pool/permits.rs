//! Which threads may poll: the permits, the word in which each worker shows what it does, the
//! wake-up of a sleeping poller, and the semaphore of a lane.
//!
//! There are as many permits as cores, whatever the size of the pool: with more pollers each event
//! would wake another sleeper, with fewer a core would stand still. A worker without a permit does
//! not poll; it runs user code, or blocks on the permits channel. A handler that is expected to be
//! slow gives its permit back before it runs. If a handler turns out to be slow, the monitor, which
//! sees the same word twice, revokes its permit and sends a fresh one.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::sys::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, fence, lock};

/// The right to poll. It is not `Clone`: it is passed on, and dropped only at the end.
#[derive(Debug)]
pub(crate) struct Permit(());

/// The permits channel, on which workers wait when they have nothing else to do.
#[derive(Debug)]
pub(crate) struct Permits {
    count: usize,
    sender: Mutex<Option<Sender<Permit>>>,
    receiver: Receiver<Permit>,
}

impl Permits {
    pub(crate) fn new(permits: usize) -> Self {
        // The channel is unbounded, but never longer than `permits`: only a thread that holds a
        // permit or has revoked one sends it.
        let (sender, receiver) = unbounded();
        for _ in 0..permits {
            sender
                .send(Permit(()))
                .expect("the receiver is in the same scope");
        }
        Self {
            count: permits,
            sender: Mutex::new(Some(sender)),
            receiver,
        }
    }

    /// Returns how many permits there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns the receiver of permits, which ends when the pool does.
    pub(crate) fn take(&self) -> Receiver<Permit> {
        self.receiver.clone()
    }

    /// Passes a permit to a waiting worker, or drops it if the pool has ended.
    pub(crate) fn pass_on(&self, permit: Permit) {
        if let Some(sender) = &*lock(&self.sender) {
            let _ = sender.send(permit);
        }
    }

    /// Ends the pool: no worker gets a permit any more, and those that wait for one leave.
    pub(crate) fn close(&self) {
        drop(lock(&self.sender).take());
        while self.receiver.try_recv().is_ok() {}
    }
}

/// The state of a worker in the pool's code, with a permit or waiting for one.
const AWAKE: u64 = 0;
/// The state of a worker that waits in the poller.
const ASLEEP: u64 = 1;
/// The state of a worker in a call of user code, with a permit. The generation in the bits above
/// tells one call from the next.
const CALL_WITH_PERMIT: u64 = 2;
/// The state of a worker in a call of user code, without a permit.
const CALL_WITHOUT_PERMIT: u64 = 3;
/// The bits of the word that hold the state, below the generation.
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;
const STATE_BITS: u32 = 2;

/// A worker's word: what the worker does, for the monitor and for a thread that wants a poller
/// woken.
#[derive(Debug)]
pub(crate) struct WorkerWord(AtomicU64);

/// The value of a worker's word at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkerSnapshot(u64);

impl WorkerWord {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(AWAKE))
    }

    /// Marks the worker asleep, before it looks at the queues for the last time and waits in the
    /// poller.
    pub(crate) fn fall_asleep(&self) {
        self.0.store(ASLEEP, Relaxed);
        // The fence pairs with the one in `PollerWake::is_needed`.
        fence(SeqCst);
    }

    pub(crate) fn wake_up(&self) {
        self.0.store(AWAKE, Relaxed);
    }

    /// Begins a call of user code with a permit, which the monitor may revoke from now on.
    ///
    /// The swap is sequentially consistent, because the worker looks next whether the monitor
    /// sleeps, and the monitor looks at this word after it has said that it does.
    pub(crate) fn begin_call(&self, generation: u64) {
        self.0
            .swap((generation << STATE_BITS) | CALL_WITH_PERMIT, SeqCst);
    }

    /// Ends a call that began with a permit. False: the permit was revoked meanwhile, and this
    /// thread sees what the monitor did before that.
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

    /// Begins a call of user code without a permit.
    pub(crate) fn begin_call_without_permit(&self) {
        self.0.swap(CALL_WITHOUT_PERMIT, SeqCst);
    }

    pub(crate) fn end_call_without_permit(&self) {
        self.0.store(AWAKE, SeqCst);
    }

    pub(crate) fn look(&self) -> WorkerSnapshot {
        WorkerSnapshot(self.0.load(SeqCst))
    }

    /// Revokes the permit of a worker that is still in the same call. `Some`: the caller now holds
    /// the permit.
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
    /// What a worker shows that has never run user code.
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

/// Whether no worker polls or is about to, so that connections wait until a call of user code
/// returns or the monitor does something: each permit is with a worker in a call, or no worker is
/// left without a call.
pub(crate) fn is_nobody_polling<'a>(
    words: impl Iterator<Item = &'a WorkerWord>,
    permits: usize,
) -> bool {
    let (mut workers, mut with_permit, mut without) = (0, 0, 0);
    for word in words {
        let seen = word.look();
        workers += 1;
        with_permit += usize::from(seen.is_in_call_with_permit());
        without += usize::from(seen.is_in_call_without_permit());
    }
    with_permit == permits || with_permit + without == workers
}

/// The wake-up of one poller that sleeps, sent at most once until a poller acknowledges it.
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

    /// Returns whether a poller sleeps that may not see the work which the caller has just queued.
    /// True: the caller has to wake one.
    ///
    /// A poller marks itself asleep, then looks at the queues, then sleeps. The caller puts work
    /// into a queue, then looks at the marks.
    #[must_use]
    pub(crate) fn is_needed<'a>(&self, mut words: impl Iterator<Item = &'a WorkerWord>) -> bool {
        fence(SeqCst);
        words.any(WorkerWord::is_asleep) && !self.is_pending.swap(true, SeqCst)
    }

    /// Acknowledges the wake-up. The poller that was woken calls this before it looks at the
    /// queues. The thread that woke it never does: the poller may be late, and a second wake-up
    /// would then be lost with the first.
    pub(crate) fn acknowledge(&self) {
        self.is_pending.swap(false, SeqCst);
    }
}

/// A semaphore that lets a limited number of calls in, and blocks no thread: a connection that
/// finds it full waits in a queue of the caller's.
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

    /// Acquires as if `others` had acquired too, which are about to.
    #[must_use]
    pub(crate) fn acquire_counting(&self, others: usize) -> bool {
        let acquire = |taken| (taken + others < self.max).then_some(taken + 1);
        self.taken.fetch_update(SeqCst, SeqCst, acquire).is_ok()
    }

    /// Counts a call that is inside without having asked, so that the others are counted right.
    /// This may exceed the maximum.
    pub(crate) fn force_acquire(&self) {
        self.taken.fetch_add(1, SeqCst);
    }

    pub(crate) fn release(&self) {
        self.taken.fetch_sub(1, SeqCst);
    }

    /// Whether no call is inside.
    #[cfg(test)]
    pub(crate) fn is_free(&self) -> bool {
        self.taken.load(SeqCst) == 0
    }

    pub(crate) fn has_room(&self) -> bool {
        self.taken.load(SeqCst) < self.max
    }
}
