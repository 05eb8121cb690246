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
        let model = Model::new();
        let producers = [0, 1].map(|key| {
            let model = model.clone();
            thread::spawn(move || model.add_work(key))
        });
        model.poll(2);
        join(producers);
    });
}

/// Catches: a monitor that takes the ring meant for a worker that has fallen asleep meanwhile, and
/// does not pass it on.
#[test]
fn a_bell_the_monitor_takes_is_passed_on() {
    check(3, || {
        let model = Model::new();
        let producer = {
            let model = model.clone();
            thread::spawn(move || model.add_work(0))
        };
        let monitor = {
            let model = model.clone();
            thread::spawn(move || model.poll_as_caretaker())
        };
        model.poll(1);
        producer.join().unwrap();
        monitor.join().unwrap();
    });
}

/// Catches: a handler that runs with a permit while the monitor sleeps and no thread wakes it.
#[test]
fn the_monitor_does_not_sleep_beside_a_busy_worker() {
    check(None, || {
        let monitor_wake = MonitorWake::new(std::sync::Arc::new(Waker::new().unwrap()));
        let shared = Arc::new((WorkerWord::new(), monitor_wake));
        let (word, monitor_wake) = &*shared;
        // Stored once beforehand, for loom: see [`super`].
        word.end_call_without_permit();
        monitor_wake.wake_up();
        let monitor = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (word, monitor_wake) = &*shared;
                monitor_wake.fall_asleep();
                !word.look().is_in_call()
            })
        };
        word.begin_call(1);
        monitor_wake.wake();
        let sleeps = monitor.join().unwrap();
        assert!(!sleeps || wait_for(&[monitor_wake.waker.as_fd()], Some(Duration::ZERO)));
    });
}

/// Workers that wait for work, and threads that add_work it.
struct Model {
    queues: Queues,
    poller_wake: PollerWake,
    eventfd: Eventfd,
    word: WorkerWord,
}

impl Model {
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

    fn add_work(&self, key: u32) {
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
            let was_woken = self.eventfd.wait(self.queues.ready.is_empty());
            self.word.wake_up();
            if was_woken {
                self.poller_wake.acknowledge();
            }
        }
    }

    /// The monitor, which has just seen that all workers run user code, takes an event. The ring
    /// may have been for another thread: work that the monitor cannot do, or that came after it
    /// looked, is for a worker that sleeps again by now.
    fn poll_as_caretaker(&self) {
        if self.eventfd.wait(false) {
            self.poller_wake.acknowledge();
            if !self.queues.ready.is_empty() {
                self.wake_poller();
            }
        }
    }
}

/// The poller as far as the monitor_wake goes: a ring wakes one worker that waits, or the next one that
/// will.
#[derive(Default)]
struct Eventfd {
    is_readable: Mutex<usize>,
    became_readable: Condvar,
}

impl Eventfd {
    fn wake_poller(&self) {
        *self.is_readable.lock().unwrap() = 1;
        self.became_readable.notify_one();
    }

    /// Takes the ring, for which it waits if it may block; true: there was one.
    fn wait(&self, block: bool) -> bool {
        let mut is_readable = self.is_readable.lock().unwrap();
        while block && *is_readable == 0 {
            is_readable = self.became_readable.wait(is_readable).unwrap();
        }
        std::mem::take(&mut *is_readable) > 0
    }
}
