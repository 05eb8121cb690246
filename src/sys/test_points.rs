//! Points in the code at which the crate's own tests hold threads. They cost nothing outside tests.
//!
//! Some faults need two threads that pass two places in one certain order. No test can bring that
//! order about from outside, so the code names these places: `test_points.at(Point::X)`. In a unit
//! test that has called `TestPoints::hold` for this point, the next thread that comes there waits
//! until the test lets it go, while other threads go first. A test can also have accept(2) fail
//! with an error of its choice: see `TestPoints::fail_accept`.
//!
//! In all other builds `TestPoints` has no data and `at` is an empty inline function, so nothing of
//! a point is left in the machine code.

/// A place in the code where the order of two threads matters.
///
/// A name says what has happened, and what has not happened yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The acceptor has accepted a connection and has not sent it to the pool.
    AcceptedBeforeSent,
    /// A worker has marked itself asleep in the poller and has not checked the queues after that.
    AsleepBeforeQueuesChecked,
    /// A worker has received an event and has not claimed its connection.
    EventBeforeClaim,
    /// A worker has claimed a connection and has not looked at it.
    ClaimedBeforeServed,
    /// A connection is in its slot again and is not parked.
    InSlotBeforeParked,
    /// A slot is in the state QUEUED and its key is not in the queue.
    QueuedBeforePushed,
    /// A worker has found a lane full and has not queued its connection.
    LaneFullBeforeQueued,
    /// User code has returned and the worker has not checked whether it still has its permit.
    ReturnedBeforePermitChecked,
    /// The monitor has counted a worker as slow and has not revoked its permit.
    SlowBeforeRevoked,
    /// A permit was given back or revoked and is not passed on.
    PermitFreeBeforePassedOn,
    /// The deadline of a connection is over and the connection is not claimed.
    OverdueBeforeClaim,
    /// A connection was not refused a dedicated thread and has none yet.
    DedicatedBeforeThread,
    /// A connection is on its dedicated thread and its user code has not run.
    DedicatedBeforeRun,
    /// The user code on a dedicated thread has ended and the connection is not given back.
    DedicatedBeforeGivenBack,
    /// Draining has started and the listeners are open, without a SYN gate.
    DrainingBeforeGated,
    /// The SYN gate keeps new connections out and the accept backlogs are not emptied.
    GatedBeforeEmptied,
    /// The listeners are closed and the drain has not looked at the idle connections.
    ListenersClosedBeforeIdle,
    /// Cutting has started and no connection is taken over.
    CuttingBeforeTakeOver,
    /// All of the stop's time is over and the threads are not joined.
    TimeOverBeforeJoin,
}

#[cfg(test)]
pub(crate) use imp::HeldThread;
pub(crate) use imp::TestPoints;

#[cfg(not(test))]
mod imp {
    use rustix::io::Errno;

    use super::Point;

    /// An empty type: see the [module](super).
    #[derive(Debug, Clone, Default)]
    pub(crate) struct TestPoints(());

    impl TestPoints {
        /// Does nothing.
        #[inline(always)]
        #[allow(clippy::unused_self, reason = "it holds the thread in tests")]
        pub(crate) fn at(&self, _point: Point) {}

        /// Does nothing.
        #[inline(always)]
        #[allow(clippy::unused_self, reason = "it fails in tests")]
        #[allow(clippy::unnecessary_wraps, reason = "it fails in tests")]
        pub(crate) fn spawn_error(&self) -> std::io::Result<()> {
            Ok(())
        }

        /// Returns `None`: accept(2) is called.
        #[inline(always)]
        #[allow(clippy::unused_self, reason = "it returns a test's errors in tests")]
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

    /// The points at which a test holds the next thread, and the errors with which it has accept(2)
    /// fail.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct TestPoints {
        armed: Arc<Mutex<Vec<Armed>>>,
        accept_errors: Arc<Mutex<VecDeque<Errno>>>,
        /// How many threads can still be started. `None`: as many as the system allows.
        spawns_left: Arc<Mutex<Option<usize>>>,
    }

    type Armed = (Point, Arc<Gate>);

    /// What a test and the thread that it holds wait for.
    #[derive(Debug, Default)]
    struct Gate {
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
    enum State {
        /// No thread has come to the point yet.
        #[default]
        Armed,
        /// A thread is held at the point.
        Reached,
        /// The thread may go on.
        Released,
    }

    /// A thread that is held at a point, or the next one that comes there. Dropping this lets the
    /// thread go on.
    #[derive(Debug)]
    pub(crate) struct HeldThread(Arc<Gate>);

    /// The longest wait at a point. It is never reached unless a test fails.
    const LIMIT: Duration = Duration::from_secs(10);

    impl TestPoints {
        /// Holds the calling thread, if a test has asked for that.
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

        /// Has the next thread that comes to `point` held there.
        pub(crate) fn hold(&self, point: Point) -> HeldThread {
            let gate = Arc::new(Gate::default());
            self.armed.lock().unwrap().push((point, gate.clone()));
            HeldThread(gate)
        }

        /// Has each start of a thread fail after `spawns` more.
        pub(crate) fn fail_spawn_after(&self, spawns: usize) {
            *self.spawns_left.lock().unwrap() = Some(spawns);
        }

        /// Fails if a test has asked for the next start of a thread to fail.
        pub(crate) fn spawn_error(&self) -> std::io::Result<()> {
            match &mut *self.spawns_left.lock().unwrap() {
                Some(0) => Err(Errno::AGAIN.into()),
                Some(left) => {
                    *left -= 1;
                    Ok(())
                }
                None => Ok(()),
            }
        }

        /// Has the next `times` calls of accept(2) fail with `error`.
        pub(crate) fn fail_accept(&self, error: Errno, times: usize) {
            self.accept_errors
                .lock()
                .unwrap()
                .extend(std::iter::repeat_n(error, times));
        }

        /// Returns the error with which a call of accept(2) fails instead of being made.
        pub(crate) fn accept_error(&self) -> Option<Errno> {
            self.accept_errors.lock().unwrap().pop_front()
        }

        /// Returns how many of the failures asked for are still to come.
        pub(crate) fn accept_errors_left(&self) -> usize {
            self.accept_errors.lock().unwrap().len()
        }
    }

    impl HeldThread {
        /// Waits until a thread is held at the point.
        pub(crate) fn wait(&self) {
            self.0.wait(State::Reached);
        }

        /// Lets the thread go on.
        pub(crate) fn release(self) {}
    }

    impl Drop for HeldThread {
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
            assert!(
                !timeout.timed_out(),
                "no thread came to this point, or the test did not let it go"
            );
        }
    }
}
