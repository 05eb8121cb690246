//! The phases between running and stopped, and the plan that says when each of them ends.
//!
//! **Invariant:** phases only move forward, and a deadline only becomes earlier.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Weak;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::sys::clock::{Clock, after, earlier};
use crate::sys::signal_name::signal_name;
use crate::sys::sync::{AtomicU8, Mutex, lock};
use crate::sys::waker::Waker;

/// A phase of a server's life. The phases follow each other in this order, and a server never goes
/// back to an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The server accepts connections and serves them.
    Running,
    /// The server still accepts connections and serves them, but asks to be taken out of rotation:
    /// it is not ready, and every response carries `Connection: close`.
    LameDuck,
    /// The server closes its listeners and finishes the requests that have come.
    Draining,
    /// The deadline has passed. Requests that are left are answered with 503 or cut.
    Cutting,
    /// The server has ended.
    Stopped,
}

impl Phase {
    pub(crate) const ALL: [Self; 5] = [
        Self::Running,
        Self::LameDuck,
        Self::Draining,
        Self::Cutting,
        Self::Stopped,
    ];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::LameDuck => "lame duck",
            Self::Draining => "draining",
            Self::Cutting => "cutting",
            Self::Stopped => "stopped",
        })
    }
}

/// The phase as one atomic word, which only moves forward.
#[derive(Debug)]
pub(crate) struct PhaseWord(AtomicU8);

impl PhaseWord {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(Phase::Running as u8))
    }

    #[inline]
    pub(crate) fn get(&self) -> Phase {
        Phase::ALL[usize::from(self.0.load(Acquire))]
    }

    /// Moves forward. False: the server was in this phase already, or in a later one.
    pub(crate) fn advance(&self, to: Phase) -> bool {
        self.0.fetch_max(to as u8, AcqRel) < to as u8
    }
}

/// Why a server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopCause {
    /// The process got this signal.
    Signal(i32),
    /// The program called a [`ServerHandle`](crate::ServerHandle).
    Handle,
    /// The [`Running`](crate::Running) was dropped.
    Dropped,
    /// The [`Context`](crate::Context) that the server was built with was cancelled.
    Context,
    /// The server could not be started: [`run`](crate::Bound::run) or
    /// [`spawn`](crate::Bound::spawn) has returned why.
    NotStarted,
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "{}", signal_name(*signal)),
            Self::Handle => f.write_str("a call of its handle"),
            Self::Dropped => f.write_str("the running server being dropped"),
            Self::NotStarted => f.write_str("a start that failed"),
            Self::Context => f.write_str("its context being cancelled"),
        }
    }
}

/// A stop that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) cause: StopCause,
    pub(crate) begun_at: Instant,
    /// The instant at which lame duck ends and draining starts; `None` is never.
    pub(crate) drain_at: Option<Instant>,
    /// The instant at which what is left is cut; `None` is never.
    pub(crate) cut_at: Option<Instant>,
}

/// A flag that is raised once, and that threads can wait for in a `select!`: its channel
/// disconnects.
pub(crate) struct Flag {
    /// `None` once the flag is raised.
    lowered: Mutex<Option<Lowered>>,
    receiver: Receiver<()>,
}

struct Lowered {
    _sender: Sender<()>,
    then: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
    next: u64,
}

impl Flag {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = bounded(0);
        Self {
            lowered: Mutex::new(Some(Lowered {
                _sender: sender,
                then: BTreeMap::new(),
                next: 0,
            })),
            receiver,
        }
    }

    /// Raises the flag and makes the calls that [`on_raise`](Self::on_raise) was given. A second
    /// call does nothing.
    pub(crate) fn raise(&self) {
        let lowered = lock(&self.lowered).take();
        if let Some(Lowered { then, .. }) = lowered {
            then.into_values().for_each(|then| then());
        }
    }

    pub(crate) fn is_raised(&self) -> bool {
        lock(&self.lowered).is_none()
    }

    /// Has `then` called by the thread that raises the flag, or calls it now if the flag is raised
    /// already. Returns the number by which [`forget`](Self::forget) takes the call back.
    pub(crate) fn on_raise(&self, then: impl FnOnce() + Send + 'static) -> Option<u64> {
        if let Some(lowered) = &mut *lock(&self.lowered) {
            lowered.next += 1;
            lowered.then.insert(lowered.next, Box::new(then));
            return Some(lowered.next);
        }
        then();
        None
    }

    /// Takes back a call that [`on_raise`](Self::on_raise) was given.
    pub(crate) fn forget(&self, then: u64) {
        let forgotten = lock(&self.lowered)
            .as_mut()
            .and_then(|lowered| lowered.then.remove(&then));
        // Dropped after the lock is released: the call may own something that locks this flag when
        // it is dropped.
        drop(forgotten);
    }

    #[cfg(test)]
    pub(crate) fn pending(&self) -> usize {
        lock(&self.lowered)
            .as_ref()
            .map_or(0, |lowered| lowered.then.len())
    }

    pub(crate) fn receiver(&self) -> &Receiver<()> {
        &self.receiver
    }
}

impl fmt::Debug for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flag")
            .field("is_raised", &self.is_raised())
            .finish()
    }
}

/// The phase of a server, its plan for a stop, and its flags. All its threads and handles share it.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    pub(crate) clock: Clock,
    word: PhaseWord,
    plan: Mutex<Option<Plan>>,
    lame_duck: Duration,
    grace_period: Duration,
    /// Wakes the acceptor, whose thread carries the phases out.
    waker: Weak<Waker>,
    /// The flag that is raised when draining starts.
    pub(crate) draining: Flag,
    /// The flag that is raised when cutting starts.
    pub(crate) cancelled: Flag,
    /// The flag that is raised when the report is there.
    pub(crate) stopped: Flag,
}

impl Lifecycle {
    pub(crate) fn new(
        clock: Clock,
        lame_duck: Duration,
        grace_period: Duration,
        waker: Weak<Waker>,
    ) -> Self {
        Self {
            clock,
            word: PhaseWord::new(),
            plan: Mutex::new(None),
            lame_duck,
            grace_period,
            waker,
            draining: Flag::new(),
            cancelled: Flag::new(),
            stopped: Flag::new(),
        }
    }

    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        self.word.get()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.phase() > Phase::Running
    }

    /// Enters a phase. Only the acceptor's thread calls it, which carries each phase out.
    pub(crate) fn enter(&self, phase: Phase) -> bool {
        self.word.advance(phase)
    }

    pub(crate) fn plan(&self) -> Option<Plan> {
        *lock(&self.plan)
    }

    /// Asks for a stop with the times the server was built with. A stop that was asked for already
    /// goes on unchanged.
    pub(crate) fn begin_stop(&self, cause: StopCause) {
        let now = self.clock.now();
        let drain_at = after(now, self.lame_duck);
        let cut_at = drain_at.and_then(|at| after(at, self.grace_period));
        self.shorten(Plan {
            cause,
            begun_at: now,
            drain_at,
            cut_at,
        });
    }

    /// Asks for a stop that skips lame duck and cuts after `within`. A stop that was asked for
    /// already can only become shorter.
    pub(crate) fn begin_stop_within(&self, cause: StopCause, within: Duration) {
        let now = self.clock.now();
        self.shorten(Plan {
            cause,
            begun_at: now,
            drain_at: Some(now),
            cut_at: after(now, within),
        });
    }

    fn shorten(&self, wanted: Plan) {
        let mut plan = lock(&self.plan);
        *plan = Some(match *plan {
            None => wanted,
            Some(plan) => Plan {
                drain_at: earlier(plan.drain_at, wanted.drain_at),
                cut_at: earlier(plan.cut_at, wanted.cut_at),
                ..plan
            },
        });
        // The phase moves under the lock, so that a thread that sees it finds the plan.
        self.word.advance(Phase::LameDuck);
        drop(plan);
        if let Some(waker) = self.waker.upgrade() {
            waker.wake();
        }
    }
}

thread_local! {
    /// Whether this thread runs code that the stop waits for.
    static AWAITED: Cell<bool> = const { Cell::new(false) };
}

/// Runs user code that the stop waits for: a handler, a body, a hook. Such code must not wait for
/// the stop, which would never end.
pub(crate) fn awaited<T>(code: impl FnOnce() -> T) -> T {
    /// Sets the mark back, also when the code panics.
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            AWAITED.set(self.0);
        }
    }
    let _reset = Reset(AWAITED.replace(true));
    code()
}

/// Returns whether the calling thread runs code that the stop waits for.
pub(crate) fn is_awaited() -> bool {
    AWAITED.get()
}
