//! Threads that belong to one connection each: upgraded ones and long streams. They hold no worker,
//! are limited in number, and the stop waits for them as it does for the pool.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::bounded;

/// All such threads of a server.
#[derive(Debug)]
pub(crate) struct DedicatedThreads {
    max: usize,
    threads: Mutex<Threads>,
    ended: Condvar,
    /// Connections that are upgraded, or about to be.
    upgraded: AtomicUsize,
    /// Of these, those that have come to their own end since the server drains.
    finished: AtomicUsize,
}

#[derive(Debug, Default)]
struct Threads {
    running: BTreeMap<u64, Thread>,
    /// Done, and not joined yet.
    ended: Vec<JoinHandle<()>>,
    next: u64,
}

#[derive(Debug)]
struct Thread {
    /// Of the connection's slot.
    key: u32,
    handle: JoinHandle<()>,
    in_user_code: Arc<AtomicBool>,
}

/// Takes the thread off the list, however it ends.
struct Ended<'a>(&'a DedicatedThreads, u64);

/// Counts a connection among the upgraded.
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

    /// Starts a thread that runs `run` with `what`, which says when it is in user code. `Err`:
    /// there is no room for another one, and here is `what`.
    pub(crate) fn start<T: Send + 'static>(
        this: &Arc<Self>,
        key: u32,
        what: T,
        run: impl FnOnce(T, &AtomicBool) + Send + 'static,
    ) -> Result<(), T> {
        let mut threads = this.lock();
        // They have nothing left to do.
        threads
            .ended
            .drain(..)
            .for_each(|handle| drop(handle.join()));
        if threads.running.len() >= this.max {
            return Err(what);
        }
        let number = threads.next;
        threads.next += 1;
        // What it runs with comes behind it, so that nothing is lost if it cannot be started.
        let (sender, receiver) = bounded(1);
        let (own, in_user_code) = (this.clone(), Arc::new(AtomicBool::new(false)));
        let inside = in_user_code.clone();
        let body = move || {
            let _ended = Ended(&own, number);
            if let Ok(what) = receiver.recv() {
                run(what, &inside);
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
                let _ = sender.send(what);
                Ok(())
            }
            Err(error) => {
                log::error!("cannot start a thread for a connection: {error}");
                Err(what)
            }
        }
    }

    /// Counts one more as upgraded, until what is returned is dropped.
    pub(crate) fn upgrading(this: &Arc<Self>) -> Upgrading {
        this.upgraded.fetch_add(1, SeqCst);
        Upgrading(this.clone())
    }

    /// Connections that are upgraded.
    pub(crate) fn upgraded(&self) -> usize {
        self.upgraded.load(SeqCst)
    }

    /// One that was told of the stop has come to its end.
    pub(crate) fn count_finished(&self) {
        self.finished.fetch_add(1, SeqCst);
    }

    pub(crate) fn finished(&self) -> usize {
        self.finished.load(SeqCst)
    }

    /// Waits until all have ended, but for those in user code of which none ends within `patience`:
    /// their names and keys. One that has nothing left to do has `rounds` times as long; only a
    /// machine that stands still needs it.
    pub(crate) fn join(&self, patience: Duration, rounds: u32) -> Vec<(String, u32)> {
        let (mut threads, mut waited) = (self.lock(), 0);
        while !threads.running.is_empty() {
            let only_stuck = threads
                .running
                .values()
                .all(|thread| thread.in_user_code.load(SeqCst));
            if waited >= rounds || only_stuck && waited > 0 {
                break;
            }
            let before = threads.running.len();
            let (woken, wait) = self
                .ended
                .wait_timeout(threads, patience)
                .unwrap_or_else(PoisonError::into_inner);
            threads = woken;
            waited += u32::from(wait.timed_out() && threads.running.len() == before);
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
