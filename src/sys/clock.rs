//! The only module of the library that reads the time, so that a test can set it.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

#[cfg(test)]
pub(crate) use manual::ManualClock;

/// Where the server's threads get the time from.
#[derive(Debug, Clone)]
pub(crate) enum Clock {
    /// The system's monotonic clock.
    System,
    /// A clock that stands still until a test moves it.
    #[cfg(test)]
    Manual(std::sync::Arc<ManualClock>),
}

impl Clock {
    /// Returns the current time.
    #[inline]
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one call that the lint leaves"
    )]
    pub(crate) fn now(&self) -> Instant {
        match self {
            Self::System => Instant::now(),
            #[cfg(test)]
            Self::Manual(clock) => clock.now(),
        }
    }

    /// Returns whether the kernel's own times can be compared with this clock's.
    pub(crate) fn is_the_kernels(&self) -> bool {
        match self {
            Self::System => true,
            #[cfg(test)]
            Self::Manual(_) => false,
        }
    }

    /// Returns the wall clock's time. It is for the `Date` field only: nothing is timed by it.
    pub(crate) fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    /// Returns how long a thread may block until `deadline`. `None` means for ever.
    ///
    /// This is for a thread that has a waker. On a manual clock such a thread blocks until a test
    /// moves the clock, which wakes it.
    pub(crate) fn until(&self, deadline: Option<Instant>) -> Option<Duration> {
        match self {
            Self::System => deadline.map(|at| at.saturating_duration_since(self.now())),
            #[cfg(test)]
            Self::Manual(clock) => deadline
                .filter(|at| *at <= clock.now())
                .map(|_| Duration::ZERO),
        }
    }

    /// Returns how long a thread without a waker may block before it asks for the time again.
    pub(crate) fn slice(&self, deadline: Instant) -> Duration {
        match self {
            Self::System => deadline.saturating_duration_since(self.now()),
            #[cfg(test)]
            Self::Manual(_) => Duration::from_millis(1),
        }
    }

    /// Registers a waker that is woken whenever a test moves the clock.
    pub(crate) fn on_advance(&self, waker: &std::sync::Arc<crate::sys::waker::Waker>) {
        match self {
            Self::System => drop(waker.clone()),
            #[cfg(test)]
            Self::Manual(clock) => clock.on_advance(waker.clone()),
        }
    }
}

/// Returns `start + by`, or `None` if that is more than an `Instant` can express: `Duration::MAX`
/// means never.
pub(crate) fn after(start: Instant, by: Duration) -> Option<Instant> {
    start.checked_add(by)
}

/// Returns the earlier of two deadlines, where `None` means never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Returns the later of two deadlines, where `None` means never.
pub(crate) fn later(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    Some(a?.max(b?))
}

/// A duration as people say it: `4.1 ms`, `12.4 s`.
pub(crate) struct Short(pub(crate) Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds < 1.0 {
            write!(f, "{:.1} ms", seconds * 1e3)
        } else {
            write!(f, "{seconds:.1} s")
        }
    }
}

#[cfg(test)]
mod manual {
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use crate::sys::waker::Waker;

    /// A clock that stands still until [`advance`](Self::advance) moves it.
    #[derive(Debug)]
    pub(crate) struct ManualClock {
        now: Mutex<Instant>,
        wakers: Mutex<Vec<Arc<Waker>>>,
    }

    impl ManualClock {
        #[allow(
            clippy::disallowed_methods,
            reason = "the clock has to start somewhere; it stands still from then on"
        )]
        pub(crate) fn new() -> Arc<Self> {
            Arc::new(Self {
                now: Mutex::new(Instant::now()),
                wakers: Mutex::default(),
            })
        }

        pub(crate) fn now(&self) -> Instant {
            *self.now.lock().unwrap()
        }

        pub(crate) fn advance(&self, by: Duration) {
            *self.now.lock().unwrap() += by;
            self.wakers
                .lock()
                .unwrap()
                .iter()
                .for_each(|waker| waker.wake());
        }

        pub(super) fn on_advance(&self, waker: Arc<Waker>) {
            self.wakers.lock().unwrap().push(waker);
        }
    }
}
