//! Calls that are due at a certain instant, unless they are taken back before.
//!
//! One thread makes them for the whole process. It is started with the first alarm, and ends a
//! while after the last one.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::clock::Clock;
use crate::sys::logging;

/// A call that is due later. Dropping it takes the call back.
#[derive(Debug)]
pub(crate) struct Alarm(Key);

/// Orders the alarms by time. The number keeps apart those that are due at the same instant.
type Key = (Instant, u64);

struct Alarms {
    due: BTreeMap<Key, Box<dyn FnOnce() + Send>>,
    next: u64,
    is_running: bool,
}

static ALARMS: Mutex<Alarms> = Mutex::new(Alarms {
    due: BTreeMap::new(),
    next: 0,
    is_running: false,
});
static CHANGED: Condvar = Condvar::new();

/// How long the thread waits for another alarm before it ends.
const IDLE: Duration = Duration::from_secs(1);

/// Calls `then` at the instant `at`, on the timer's thread: it must be short and must not block.
pub(crate) fn at(at: Instant, then: impl FnOnce() + Send + 'static) -> Alarm {
    let mut alarms = ALARMS.lock().unwrap_or_else(PoisonError::into_inner);
    alarms.next += 1;
    let key = (at, alarms.next);
    alarms.due.insert(key, Box::new(then));
    if !alarms.is_running {
        match std::thread::Builder::new()
            .name("lameduck-timer".to_owned())
            .spawn(run)
        {
            Ok(_) => alarms.is_running = true,
            Err(error) => {
                logging::error!(
                    "cannot start a thread for timeouts, so deadlines have no effect: {error}"
                )
            }
        }
    } else if alarms
        .due
        .first_key_value()
        .is_some_and(|(first, _)| *first == key)
    {
        CHANGED.notify_one();
    }
    Alarm(key)
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let then = ALARMS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .due
            .remove(&self.0);
        // Dropped after the lock is released: the call may own another alarm.
        drop(then);
    }
}

fn run() {
    let mut alarms = ALARMS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let now = Clock::System.now();
        let wait = match alarms.due.first_entry() {
            Some(first) if first.key().0 <= now => {
                let then = first.remove();
                drop(alarms);
                then();
                alarms = ALARMS.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            Some(first) => first.key().0 - now,
            None => IDLE,
        };
        let (woken, timeout) = CHANGED
            .wait_timeout(alarms, wait)
            .unwrap_or_else(PoisonError::into_inner);
        alarms = woken;
        if timeout.timed_out() && alarms.due.is_empty() {
            alarms.is_running = false;
            return;
        }
    }
}
