//! Dedicated threads, which belong to one connection each: upgraded ones and long streams. They
//! hold no worker, are limited in number, and a stop waits for them as it does for the pool.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::bounded;

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
    running: BTreeMap<u64, Thread>,
    /// Threads that have ended and are not joined yet.
    ended: Vec<JoinHandle<()>>,
    next: u64,
}

#[derive(Debug)]
struct Thread {
    /// The key of the connection's slot.
    key: u32,
    handle: JoinHandle<()>,
    in_user_code: Arc<AtomicBool>,
}

/// Removes the thread from the list when it is dropped, however the thread ends.
struct Ended<'a>(&'a DedicatedThreads, u64);

/// Counts a connection as upgraded until it is dropped.
pub(crate) struct Upgrading(Arc<DedicatedThreads>);

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

    /// Starts a thread that runs `run` with `task`; `run` sets its flag while it is in user code.
    /// `Err`: there is no room for another thread, and the task is returned.
    pub(crate) fn start<T: Send + 'static>(
        this: &Arc<Self>,
        key: u32,
        task: T,
        run: impl FnOnce(T, &AtomicBool) + Send + 'static,
    ) -> Result<(), T> {
        let mut threads = this.lock();
        // These threads have ended, so joining them does not block.
        threads
            .ended
            .drain(..)
            .for_each(|handle| drop(handle.join()));
        if threads.running.len() >= this.max {
            return Err(task);
        }
        let number = threads.next;
        threads.next += 1;
        // The task is sent after the thread has started, so that it is not lost if the thread
        // cannot be started.
        let (sender, receiver) = bounded(1);
        let (threads_of_server, in_user_code) = (this.clone(), Arc::new(AtomicBool::new(false)));
        let inside = in_user_code.clone();
        let body = move || {
            let _ended = Ended(&threads_of_server, number);
            if let Ok(task) = receiver.recv() {
                run(task, &inside);
            }
        };
        match std::thread::Builder::new()
            .name(format!("lameduck-dedicated-{number}"))
            .spawn(body)
        {
            Ok(handle) => {
                threads.running.insert(
                    number,
                    Thread {
                        key,
                        handle,
                        in_user_code,
                    },
                );
                drop(threads);
                let _ = sender.send(task);
                Ok(())
            }
            Err(error) => {
                logging::error!("cannot start a thread for a connection: {error}");
                Err(task)
            }
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
        while !threads.running.is_empty() {
            let waited = Clock::System.now().saturating_duration_since(began);
            let only_stuck = threads
                .running
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
            .running
            .values()
            .map(|thread| (name(thread), thread.key))
            .collect()
    }
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut threads = self.0.lock();
        if let Some(Thread { handle, .. }) = threads.running.remove(&self.1) {
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
