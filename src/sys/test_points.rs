//! Points where a test can hold one thread, to have another go first, or have the kernel fail.
//! Nothing at all outside the crate's own tests.

/// A place in the code where the order of two threads matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The acceptor has a connection and has not sent it.
    Accepted,
    /// A poller has marked itself asleep and has not looked at the queues.
    Asleep,
    /// A poller has an event and has not claimed its connection.
    Event,
    /// A worker has claimed a connection and has not looked at it.
    Claimed,
    /// A connection is put back and not parked.
    Put,
    /// A connection is queued under its state and not in the queue.
    Queued,
    /// A worker has found no place and has not queued its connection.
    LaneFull,
    /// The handler has returned and the worker has not looked whether it still has its permit.
    Returned,
    /// The monitor is about to revoke a permit.
    Revoking,
    /// A permit was revoked or given back and not passed on.
    Giving,
    /// A deadline is over and its connection not claimed.
    Overdue,
    /// An upgrade was not refused for the stop, and has no thread.
    Detaching,
    /// A thread of a connection's own has it and has written nothing.
    DedicatedBegun,
    /// It has done its work and has not given the connection back.
    DedicatedEnded,
    /// Draining has started and the listeners are open.
    Draining,
    /// New connections are kept out and the backlogs not emptied.
    Gated,
    /// The listeners are closed and the idle connections untouched.
    Closed,
    /// Cutting has started and nothing is taken over.
    Cutting,
    /// Whatever time there was is over, and the threads are not joined.
    Joining,
}

#[cfg(test)]
pub(crate) use imp::Held;
pub(crate) use imp::TestPoints;

#[cfg(not(test))]
mod imp {
    use rustix::io::Errno;

    use super::Point;

    /// Nothing.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct TestPoints(());

    impl TestPoints {
        #[inline(always)]
        #[allow(clippy::unused_self, reason = "it does something in tests")]
        pub(crate) fn at(&self, _point: Point) {}

        /// What accept(2) is to fail with instead of being called.
        #[inline(always)]
        #[allow(clippy::unused_self, reason = "it does something in tests")]
        pub(crate) fn accept_error(&self) -> Option<Errno> {
            None
        }
    }
}

#[cfg(test)]
mod imp {
    use std::collections::VecDeque;
    use std::sync::{Arc, Condvar, Mutex};
    use std::time::Duration;

    use rustix::io::Errno;

    use super::Point;

    /// The points at which a test holds the next thread that comes, and what it has accept(2) fail
    /// with.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct TestPoints {
        armed: Arc<Mutex<Vec<Armed>>>,
        accept_errors: Arc<Mutex<VecDeque<Errno>>>,
    }

    type Armed = (Point, Arc<Gate>);

    #[derive(Debug, Default)]
    struct Gate {
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
    enum State {
        #[default]
        Armed,
        Reached,
        Released,
    }

    /// One thread that is held, or will be. Dropping it lets the thread go.
    #[derive(Debug)]
    pub(crate) struct Held(Arc<Gate>);

    /// Only ever a failure.
    const LIMIT: Duration = Duration::from_secs(10);

    impl TestPoints {
        pub(crate) fn at(&self, point: Point) {
            let gate = {
                let mut armed = self.armed.lock().unwrap();
                let Some(i) = armed.iter().position(|(at, _)| *at == point) else {
                    return;
                };
                armed.remove(i).1
            };
            gate.set(State::Reached);
            gate.wait(State::Released);
        }

        /// Holds the next thread that comes to `point`.
        pub(crate) fn hold(&self, point: Point) -> Held {
            let gate = Arc::new(Gate::default());
            self.armed.lock().unwrap().push((point, gate.clone()));
            Held(gate)
        }

        /// Has the next calls of accept(2) fail, `times` times.
        pub(crate) fn fail_accept(&self, error: Errno, times: usize) {
            self.accept_errors
                .lock()
                .unwrap()
                .extend(std::iter::repeat_n(error, times));
        }

        pub(crate) fn accept_error(&self) -> Option<Errno> {
            self.accept_errors.lock().unwrap().pop_front()
        }

        /// Failures that are still to come.
        pub(crate) fn accept_errors_left(&self) -> usize {
            self.accept_errors.lock().unwrap().len()
        }
    }

    impl Held {
        /// Waits until a thread is held.
        pub(crate) fn wait(&self) {
            self.0.wait(State::Reached);
        }

        /// Lets it go.
        pub(crate) fn release(self) {}
    }

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.set(State::Released);
        }
    }

    impl Gate {
        fn set(&self, to: State) {
            let mut state = self.state.lock().unwrap();
            if *state != State::Released {
                *state = to;
            }
            self.changed.notify_all();
        }

        fn wait(&self, until: State) {
            let state = self.state.lock().unwrap();
            let waiting = |state: &mut State| *state != until && *state != State::Released;
            let (state, timeout) = self
                .changed
                .wait_timeout_while(state, LIMIT, waiting)
                .unwrap();
            drop(state);
            assert!(!timeout.timed_out(), "no thread came to this point");
        }
    }
}
