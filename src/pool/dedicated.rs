//! Dedicated threads, which belong to one connection each: upgraded ones, long streams, and code that
//! may have to wait for its client. They hold no worker, are limited in number, and a stop waits for
//! them as it does for the pool. A thread whose connection has gone back to the pool waits a while
//! for the next one.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::sys::clock::Clock;
use crate::sys::logging;

/// All dedicated threads of a server.
#[derive(Debug)]
pub(crate) struct DedicatedThreads {
    max: usize,
    threads: Mutex<Threads>,
    ended: Condvar,
    /// The number of connections that are upgraded, or about to be.
    upgraded: AtomicUsize,
    /// The number of upgraded connections that have ended by themselves since the server drains.
    finished: AtomicUsize,
}

#[derive(Debug, Default)]
struct Threads {
    live: BTreeMap<u64, Thread>,
    /// The threads that wait for their next connection, the one that has waited longest first.
    idle: Vec<(u64, Sender<Task>)>,
    /// Threads that have ended and are not joined yet.
    ended: Vec<JoinHandle<()>>,
    next: u64,
    /// Whether the server stops, so that no thread waits for a next connection.
    closed: bool,
}

/// What a thread does for one connection. It sets the flag while it is in user code.
type Task = Box<dyn FnOnce(&AtomicBool) + Send>;

#[derive(Debug)]
struct Thread {
    /// The key of the connection's slot.
    key: u32,
    handle: JoinHandle<()>,
    in_user_code: Arc<AtomicBool>,
}

/// Removes the thread from the list when it is dropped, however the thread ends.
struct Ended<'a>(&'a DedicatedThreads, u64);

/// The most threads that wait for a next connection. To start a thread costs some ten times as much
/// as to wake one.
const MAX_IDLE: usize = 32;
/// The time for which a thread waits for its next connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Counts a connection as upgraded until it is dropped.
pub(crate) struct Upgrading(Arc<DedicatedThreads>);

impl Threads {
    /// Puts a thread on the list of the idle ones. `None`: it is not needed any more.
    fn wait_for_next(&mut self, number: u64) -> Option<Receiver<Task>> {
        if self.closed || self.idle.len() >= MAX_IDLE {
            return None;
        }
        let (sender, tasks) = bounded(1);
        self.idle.push((number, sender));
        Some(tasks)
    }

    /// Takes a thread from the list of the idle ones. False: it is not there any more.
    fn stop_waiting(&mut self, number: u64) -> bool {
        let at = self.idle.iter().position(|(idle, _)| *idle == number);
        at.map(|at| self.idle.remove(at)).is_some()
    }
}

impl DedicatedThreads {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            threads: Mutex::default(),
            ended: Condvar::new(),
            upgraded: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a thread run `run` with `what`; `run` sets its flag while it is in user code. `Err`: there
    /// is no room for another thread, and `what` is returned.
    pub(crate) fn start<T: Send + 'static>(
        this: &Arc<Self>,
        key: u32,
        what: T,
        run: impl FnOnce(T, &AtomicBool) + Send + 'static,
    ) -> Result<(), T> {
        let mut threads = this.lock();
        // These threads have ended, so joining them does not block.
        threads
            .ended
            .drain(..)
            .for_each(|handle| drop(handle.join()));
        if threads.live.len() - threads.idle.len() >= this.max {
            return Err(what);
        }
        let (number, sender) = match threads.idle.pop() {
            Some(idle) => idle,
            None => match Self::spawn(this, &mut threads) {
                Ok(new) => new,
                Err(error) => {
                    drop(threads);
                    logging::error!("cannot start a thread for a connection: {error}");
                    return Err(what);
                }
            },
        };
        if let Some(thread) = threads.live.get_mut(&number) {
            thread.key = key;
        }
        drop(threads);
        // The thread takes it, because it is not in the list of the idle ones any more.
        let _ = sender.send(Box::new(move |in_user_code| run(what, in_user_code)));
        Ok(())
    }

    /// Starts a thread that waits for its first task.
    fn spawn(this: &Arc<Self>, threads: &mut Threads) -> std::io::Result<(u64, Sender<Task>)> {
        let number = threads.next;
        let (sender, first) = bounded(1);
        let (threads_of_server, in_user_code) = (this.clone(), Arc::new(AtomicBool::new(false)));
        let inside = in_user_code.clone();
        let handle = std::thread::Builder::new()
            .name(format!("lameduck-dedicated-{number}"))
            .spawn(move || threads_of_server.work(number, first, &inside))?;
        threads.next += 1;
        let thread = Thread {
            key: u32::MAX,
            handle,
            in_user_code,
        };
        threads.live.insert(number, thread);
        Ok((number, sender))
    }

    /// Runs on a dedicated thread: one task after the other, until none has come for a while.
    fn work(&self, number: u64, first: Receiver<Task>, in_user_code: &AtomicBool) {
        let _ended = Ended(self, number);
        let mut tasks = first;
        loop {
            let task = match tasks.recv_timeout(IDLE_TIMEOUT) {
                Ok(task) => task,
                Err(_) if self.lock().stop_waiting(number) => return,
                // It was taken from the list in this moment: the task is on its way, or the server
                // stops.
                Err(_) => match tasks.recv() {
                    Ok(task) => task,
                    Err(_) => return,
                },
            };
            task(in_user_code);
            let next = self.lock().wait_for_next(number);
            let Some(next) = next else { return };
            tasks = next;
        }
    }
    /// Counts one more connection as upgraded, until the returned guard is dropped.
    pub(crate) fn upgrading(this: &Arc<Self>) -> Upgrading {
        this.upgraded.fetch_add(1, SeqCst);
        Upgrading(this.clone())
    }

    /// Returns the number of upgraded connections.
    pub(crate) fn upgraded(&self) -> usize {
        self.upgraded.load(SeqCst)
    }

    /// Counts an upgraded connection that has ended by itself while the server drains.
    pub(crate) fn count_finished(&self) {
        self.finished.fetch_add(1, SeqCst);
    }

    pub(crate) fn finished(&self) -> usize {
        self.finished.load(SeqCst)
    }

    /// Waits until all threads have ended, except those that are still in user code after
    /// `stuck_after`, and returns the names and keys of these. A thread that is not in user code
    /// gets `at_most`; only a machine that stands still needs that.
    pub(crate) fn join(&self, stuck_after: Duration, at_most: Duration) -> Vec<(String, u32)> {
        let began = Clock::System.now();
        let mut threads = self.lock();
        threads.closed = true;
        threads.idle.clear();
        while !threads.live.is_empty() {
            let waited = Clock::System.now().saturating_duration_since(began);
            let only_stuck = threads
                .live
                .values()
                .all(|thread| thread.in_user_code.load(SeqCst));
            if waited >= at_most || only_stuck && waited >= stuck_after {
                break;
            }
            // A thread that comes out of user code tells nobody before it ends.
            let (woken, _) = self
                .ended
                .wait_timeout(threads, stuck_after)
                .unwrap_or_else(PoisonError::into_inner);
            threads = woken;
        }
        threads
            .ended
            .drain(..)
            .for_each(|handle| drop(handle.join()));
        let name = |thread: &Thread| thread.handle.thread().name().unwrap_or_default().to_owned();
        threads
            .live
            .values()
            .map(|thread| (name(thread), thread.key))
            .collect()
    }
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut threads = self.0.lock();
        if let Some(Thread { handle, .. }) = threads.live.remove(&self.1) {
            threads.ended.push(handle);
        }
        self.0.ended.notify_all();
    }
}

impl Drop for Upgrading {
    fn drop(&mut self) {
        self.0.upgraded.fetch_sub(1, SeqCst);
    }
}
