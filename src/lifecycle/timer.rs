//! What is to be done at a certain moment, unless it is taken back before: one thread for the
//! process, started when first needed and gone a while after the last.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::clock::Clock;

/// Something that is to be done. Dropping it takes it back.
#[derive(Debug)]
pub(crate) struct Alarm(Key);

/// By time; the number tells apart what is due at the same moment.
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

/// How long the thread waits for a next one before it ends.
const IDLE: Duration = Duration::from_secs(1);

/// Has `then` called at `at`, on the timer's thread: it must be short and not block.
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
                log::error!("cannot start a thread for timeouts, which do not come: {error}")
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
        // Not under the lock: what it owns may own an alarm.
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
