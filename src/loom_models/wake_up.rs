//! Wake-ups: no poller sleeps beside work, and the monitor does not sleep beside a busy worker.

use std::os::fd::AsFd;
use std::time::Duration;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::{Queues, check, join};
use crate::pool::permits::{PollerWake, WorkerWord};
use crate::pool::shared::MonitorWake;
use crate::sys::waker::{Waker, wait_for};

/// Catches: a poller that sleeps beside queued work because it looked for work before it said that
/// it sleeps, because a fence is missing, or because it noticed the ring only after it had looked.
/// Loom calls that a deadlock.
#[test]
fn nobody_sleeps_beside_work() {
    check(3, || {
        let hall = Hall::new();
        let bringers = [0, 1].map(|key| {
            let hall = hall.clone();
            thread::spawn(move || hall.bring(key))
        });
        hall.poll(2);
        join(bringers);
    });
}

/// Catches: a monitor that takes the ring meant for a worker that has fallen asleep meanwhile, and
/// does not pass it on.
#[test]
fn a_bell_the_monitor_takes_is_passed_on() {
    check(3, || {
        let hall = Hall::new();
        let bringer = {
            let hall = hall.clone();
            thread::spawn(move || hall.bring(0))
        };
        let monitor = {
            let hall = hall.clone();
            thread::spawn(move || hall.take_care())
        };
        hall.poll(1);
        bringer.join().unwrap();
        monitor.join().unwrap();
    });
}

/// Catches: a handler that runs with a permit while the monitor sleeps and no thread wakes it.
#[test]
fn the_monitor_does_not_sleep_beside_a_busy_worker() {
    check(None, || {
        let bell = MonitorWake::new(std::sync::Arc::new(Waker::new().unwrap()));
        let shared = Arc::new((WorkerWord::new(), bell));
        let (word, bell) = &*shared;
        // Stored once beforehand, for loom: see [`super`].
        word.end_out();
        bell.wake_up();
        let monitor = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (word, bell) = &*shared;
                bell.fall_asleep();
                !word.look().is_in_user_code()
            })
        };
        word.begin_busy(1);
        bell.wake();
        let sleeps = monitor.join().unwrap();
        assert!(!sleeps || wait_for(&[bell.waker.as_fd()], Some(Duration::ZERO)));
    });
}

/// Workers that wait for work, and threads that bring it.
struct Hall {
    queues: Queues,
    poller_wake: PollerWake,
    eventfd: Eventfd,
    word: WorkerWord,
}

impl Hall {
    fn new() -> Arc<Self> {
        let queues = Queues::new();
        Arc::new(Self {
            queues,
            poller_wake: PollerWake::new(),
            eventfd: Eventfd::default(),
            word: WorkerWord::new(),
        })
    }

    fn wake_poller(&self) {
        if self.poller_wake.is_needed([&self.word].into_iter()) {
            self.eventfd.wake_poller();
        }
    }

    fn bring(&self, key: u32) {
        self.queues.enqueue(key, &self.queues.ready);
        self.wake_poller();
    }

    /// A worker with a permit, until it has served `n` connections.
    fn poll(&self, n: usize) {
        let mut served = 0;
        loop {
            while self.queues.serve_next() {
                served += 1;
            }
            if served == n {
                return;
            }
            self.word.fall_asleep();
            let rang = self.eventfd.wait(self.queues.ready.is_empty());
            self.word.wake_up();
            if rang {
                self.poller_wake.acknowledge();
            }
        }
    }

    /// The monitor, which has just seen that all workers run user code, takes an event. The ring
    /// may have been for another thread: work that the monitor cannot do, or that came after it
    /// looked, is for a worker that sleeps again by now.
    fn take_care(&self) {
        if self.eventfd.wait(false) {
            self.poller_wake.acknowledge();
            if !self.queues.ready.is_empty() {
                self.wake_poller();
            }
        }
    }
}

/// The poller as far as the bell goes: a ring wakes one worker that waits, or the next one that
/// will.
#[derive(Default)]
struct Eventfd {
    rings: Mutex<usize>,
    rung: Condvar,
}

impl Eventfd {
    fn wake_poller(&self) {
        *self.rings.lock().unwrap() = 1;
        self.rung.notify_one();
    }

    /// Takes the ring, for which it waits if it may block; true: there was one.
    fn wait(&self, block: bool) -> bool {
        let mut rings = self.rings.lock().unwrap();
        while block && *rings == 0 {
            rings = self.rung.wait(rings).unwrap();
        }
        std::mem::take(&mut *rings) > 0
    }
}
