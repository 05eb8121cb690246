//! What is left of responses that were not sent to their end, and is dropped by a thread of its own.
//!
//! To drop a response's body is user code: it may block, and it may panic. A worker does so where
//! the monitor sees it; every other thread leaves it to the thread `lameduck-leftovers`, which is
//! started when there is such a body, and ends when there was none for a while. Nothing waits for it
//! but the end of the stop, which names it as stuck if it does not end.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::conn::stage::Leftover;
use crate::sys::logging;
use crate::sys::panics;
use crate::sys::sync::{Mutex, lock};

/// The name of the thread.
const NAME: &str = "lameduck-leftovers";

/// The time without leftovers after which the thread ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The thread that drops leftovers, while there are any.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Arc<Mutex<Option<Running>>>);

#[derive(Debug)]
struct Running {
    to: Sender<Leftover>,
    thread: JoinHandle<()>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Leftovers {
    /// Has the thread drop these.
    pub(crate) fn drop_elsewhere(&self, leftovers: Vec<Leftover>) {
        if leftovers.is_empty() {
            return;
        }
        let mut running = lock(&self.0);
        if running.is_none() {
            *running = self.start();
        }
        for leftover in leftovers {
            match &*running {
                Some(running) => drop(running.to.send(leftover)),
                // No thread can be started, and to keep it would be worse than to wait for it.
                None => drop_one(leftover),
            }
        }
    }

    /// Waits until all leftovers are dropped, for at most `within`. Returns the name of the thread
    /// if it has not ended by then.
    pub(crate) fn join(&self, within: Duration) -> Option<String> {
        let Running { to, thread, ended } = lock(&self.0).take()?;
        drop(to);
        if ended
            .recv_timeout(within)
            .is_err_and(|error| error.is_timeout())
        {
            return Some(NAME.to_owned());
        }
        let _ = thread.join();
        None
    }

    fn start(&self) -> Option<Running> {
        let (to, leftovers) = unbounded();
        let (ending, ended) = bounded::<()>(0);
        let running = self.0.clone();
        let run = move || {
            let _ending = ending;
            run(&running, &leftovers);
        };
        let thread = std::thread::Builder::new().name(NAME.to_owned()).spawn(run);
        let thread = thread.inspect_err(|error| {
            logging::error!("cannot start the thread {NAME}: {error}");
        });
        let thread = thread.ok()?;
        Some(Running { to, thread, ended })
    }
}

/// Drops what comes until there was nothing for a while, or the server has ended.
fn run(running: &Mutex<Option<Running>>, leftovers: &Receiver<Leftover>) {
    loop {
        match leftovers.recv_timeout(IDLE_TIMEOUT) {
            Ok(leftover) => drop_one(leftover),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                // Nothing is sent while this thread holds the lock.
                let mut running = lock(running);
                if leftovers.is_empty() {
                    *running = None;
                    return;
                }
            }
        }
    }
}

/// Drops what is left of a response, which is user code.
pub(crate) fn drop_one(leftover: Leftover) {
    if let Err(panic) = panics::catch(|| drop(leftover)) {
        logging::error!("a response's body panicked when it was dropped: {panic}");
    }
}
