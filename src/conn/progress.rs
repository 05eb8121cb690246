//! The progress limit: how long the server waits for a slow peer.
//!
//! Two rules hold in both directions: no silence is longer than a timeout, and after a while the
//! rate is not below a minimum. Only the time spent waiting for the peer counts, and only the bytes
//! that moved meanwhile.
//!
//! **Invariant:** this module never reads the clock.

use std::time::{Duration, Instant};

use crate::settings::RATE_AFTER;

/// The waits for one body, and what moved in them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    /// The length of all waits that have ended, and the bytes that moved in them.
    waited: Duration,
    counted: u64,
    /// When the current wait began, and the byte count at that moment.
    began_at: Instant,
    began_count: u64,
    /// When the count last grew in the current wait, and the count at that moment.
    moved_at: Instant,
    moved_count: u64,
    is_waiting: bool,
}

/// The progress that the server demands of a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProgressLimit {
    /// The longest silence of the peer.
    pub(crate) timeout: Duration,
    /// The least bytes per second, once the waits sum up to [`RATE_AFTER`].
    pub(crate) min_rate: u64,
}

impl Progress {
    /// Begins the first wait. `count` is whatever grows when the peer makes progress.
    pub(crate) fn new(now: Instant, count: u64) -> Self {
        Self {
            waited: Duration::ZERO,
            counted: 0,
            began_at: now,
            began_count: count,
            moved_at: now,
            moved_count: count,
            is_waiting: true,
        }
    }

    /// Begins a further wait, unless one is going on. The time since the last
    /// [`pause`](Self::pause) does not count.
    pub(crate) fn resume(&mut self, now: Instant, count: u64) {
        if !self.is_waiting {
            *self = Self {
                waited: self.waited,
                counted: self.counted,
                ..Self::new(now, count)
            };
        }
    }

    /// Ends the current wait, if there is one.
    pub(crate) fn pause(&mut self, now: Instant, count: u64) {
        if !std::mem::take(&mut self.is_waiting) {
            return;
        }
        self.waited += now.saturating_duration_since(self.began_at);
        self.counted += count.saturating_sub(self.began_count);
        (self.began_at, self.began_count) = (now, count);
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Returns when to check again while waiting, or `None` if the peer is too slow.
    pub(crate) fn check(
        &mut self,
        now: Instant,
        count: u64,
        progress_limit: ProgressLimit,
    ) -> Option<Instant> {
        if count > self.moved_count {
            (self.moved_at, self.moved_count) = (now, count);
        }
        if now.saturating_duration_since(self.moved_at) >= progress_limit.timeout {
            return None;
        }
        let waited = self.waited + now.saturating_duration_since(self.began_at);
        let counted = self.counted + count.saturating_sub(self.began_count);
        if waited >= RATE_AFTER
            && counted < progress_limit.min_rate.saturating_mul(waited.as_secs())
        {
            return None;
        }
        // The rate is checked when it begins to count, then once a second.
        let rate_again = now
            + RATE_AFTER
                .saturating_sub(waited)
                .max(Duration::from_secs(1));
        Some(
            self.moved_at
                .checked_add(progress_limit.timeout)
                .map_or(rate_again, |silence| silence.min(rate_again)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: ProgressLimit = ProgressLimit {
        timeout: Duration::from_secs(30),
        min_rate: 500,
    };

    #[allow(clippy::disallowed_methods, reason = "any moment will do")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn silence_is_over_at_its_timeout() {
        let now = start();
        let mut progress = Progress::new(now, 0);
        let second = Duration::from_secs(1);
        assert_eq!(progress.check(now, 0, LIMIT), Some(now + 10 * second));
        assert_eq!(
            progress.check(now + 9 * second, 90_000, LIMIT),
            Some(now + 10 * second)
        );
        assert_eq!(
            progress.check(now + 38 * second, 90_000, LIMIT),
            Some(now + 39 * second)
        );
        assert_eq!(progress.check(now + 39 * second, 90_000, LIMIT), None);
    }

    #[test]
    fn a_trickle_is_over_when_the_rate_begins_to_count() {
        let now = start();
        let mut progress = Progress::new(now, 0);
        assert!(
            progress
                .check(now + Duration::from_secs(9), 9, LIMIT)
                .is_some()
        );
        assert!(
            progress
                .check(now + Duration::from_secs(10), 10, LIMIT)
                .is_none()
        );
    }

    #[test]
    fn time_between_waits_does_not_count() {
        let now = start();
        let mut progress = Progress::new(now, 0);
        progress.pause(now + Duration::from_secs(1), 1000);
        progress.resume(now + Duration::from_secs(100), 1000);
        assert!(
            progress
                .check(now + Duration::from_secs(101), 1000, LIMIT)
                .is_some()
        );
    }
}
