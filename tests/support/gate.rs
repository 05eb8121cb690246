//! A gate inside a handler: the handler waits there for the test.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::LIMIT;

/// A gate at which handlers wait until the test releases them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<Passages>, Condvar)>);

#[derive(Debug, Default)]
struct Passages {
    entered: usize,
    released: usize,
    passed: usize,
    open: bool,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Called by a handler: tells the test that the handler is here, and waits until the test
    /// releases it.
    pub(crate) fn pass(&self) {
        let mut state = self.lock();
        state.entered += 1;
        self.0.1.notify_all();
        // Longer than the tests' own limit, so that a test that waits for the handler fails first.
        let (mut state, _) = self.wait(state, LIMIT * 3, |state| {
            !state.open && state.passed >= state.released
        });
        state.passed += 1;
    }

    /// Waits until `handlers` handlers have come to the gate, in all.
    #[track_caller]
    pub(crate) fn wait_entered(&self, handlers: usize) {
        let (state, timed_out) = self.wait(self.lock(), LIMIT, |state| state.entered < handlers);
        assert!(
            !timed_out,
            "{} of {handlers} handlers came to the gate within {LIMIT:?}",
            state.entered
        );
    }

    /// Called by a handler that does not wait: tells the test that the handler is here.
    pub(crate) fn note_entered(&self) {
        self.lock().entered += 1;
        self.0.1.notify_all();
    }

    /// Whether all handlers may pass.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().open
    }

    pub(crate) fn entered(&self) -> usize {
        self.lock().entered
    }

    /// Lets one handler pass.
    pub(crate) fn release(&self) {
        self.lock().released += 1;
        self.0.1.notify_all();
    }

    /// Lets all handlers pass, now and later.
    pub(crate) fn open(&self) {
        self.lock().open = true;
        self.0.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Passages> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, Passages>,
        limit: Duration,
        still: impl FnMut(&mut Passages) -> bool,
    ) -> (MutexGuard<'a, Passages>, bool) {
        let (state, result) = self
            .0
            .1
            .wait_timeout_while(state, limit, still)
            .unwrap_or_else(PoisonError::into_inner);
        (state, result.timed_out())
    }
}
