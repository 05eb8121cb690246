//! Wake-ups: no poller sleeps while work is queued, and the monitor does not sleep while no worker
//! polls.

use std::os::fd::AsFd;
use std::time::Duration;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::{Queues, check, join};
use crate::pool::permits::{PollerWake, WorkerWord, is_nobody_polling};
use crate::pool::shared::MonitorWake;
use crate::sys::waker::{Waker, wait_for};

/// Catches: a poller that sleeps while work is queued because it looked for work before it said
/// that it sleeps, because a fence is missing, or because it acknowledged the wake-up only after it
/// had looked. Loom calls that a deadlock.
#[test]
fn no_poller_sleeps_while_work_is_queued() {
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

/// Catches: a monitor that takes the wake-up meant for a worker that has fallen asleep meanwhile,
/// and does not pass it on.
#[test]
fn a_wake_up_that_the_monitor_takes_is_passed_on() {
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

/// Catches: a monitor that sleeps while all workers are in calls, because each of two workers that
/// begin a call at the same time takes the other for one that polls, or because the monitor looked
/// at them before it said that it sleeps.
#[test]
fn the_monitor_does_not_sleep_while_nobody_polls() {
    check(3, || {
        let monitor_wake = MonitorWake::new(std::sync::Arc::new(Waker::new().unwrap()));
        let words = [WorkerWord::new(), WorkerWord::new()];
        let shared = Arc::new((words, monitor_wake));
        let (words, monitor_wake) = &*shared;
        // Stored once beforehand, for loom: see [`super`].
        words.iter().for_each(WorkerWord::end_call_without_permit);
        monitor_wake.wake_up();
        let monitor = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (words, monitor_wake) = &*shared;
                monitor_wake.fall_asleep();
                !is_nobody_polling(words.iter(), 2)
            })
        };
        let begin = |shared: &([WorkerWord; 2], MonitorWake), me: usize| {
            let (words, monitor_wake) = shared;
            words[me].begin_call(1);
            if monitor_wake.is_asleep() && is_nobody_polling(words.iter(), 2) {
                monitor_wake.wake();
            }
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || begin(&shared, 1))
        };
        begin(&shared, 0);
        other.join().unwrap();
        let sleeps = monitor.join().unwrap();
        assert!(!sleeps || wait_for(&[monitor_wake.waker.as_fd()], Some(Duration::ZERO)));
    });
}

/// A worker that waits for work, and threads that add work.
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

    /// The monitor, which has just seen that all workers run user code, takes an event. The wake-up
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

/// The poller as far as its wake-up goes: one wake-up ends the wait of one worker that waits, or of
/// the next one that will.
#[derive(Default)]
struct Eventfd {
    is_readable: Mutex<bool>,
    became_readable: Condvar,
}

impl Eventfd {
    fn wake_poller(&self) {
        *self.is_readable.lock().unwrap() = true;
        self.became_readable.notify_one();
    }

    /// Takes the wake-up, and waits for it if it may block. True: there was one.
    fn wait(&self, block: bool) -> bool {
        let mut is_readable = self.is_readable.lock().unwrap();
        while block && !*is_readable {
            is_readable = self.became_readable.wait(is_readable).unwrap();
        }
        std::mem::take(&mut *is_readable)
    }
}
