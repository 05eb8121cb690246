//! Models of the core's protocols: loom tries the orders in which their threads can run and the
//! values that they can read.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib loom` runs them. Each model says which bug it
//! would catch. What the crate takes from crossbeam and from the kernel is outside the models: the
//! poller's wake-up is a flag under a lock, and the bytes of a socket are relaxed stores, so that a
//! thread is certain to read them only if the protocol orders them before.
//!
//! Loom knows `SeqCst` fences, but of `SeqCst` accesses only this: a load does not miss a store if
//! the older value that it would read was stored with `SeqCst` too. Where a protocol rests on such
//! accesses, its model therefore stores the first value with `SeqCst` beforehand.

mod claim;
mod deadlines;
mod lanes;
mod ledger;
mod permit;
mod phase;
mod take_over;
mod wake_up;

use std::sync::atomic::Ordering::Relaxed;

use loom::sync::atomic::AtomicUsize;
use loom::thread;

use self::take_over::SlowTransport;
use crate::conn::egress::Egress;
use crate::pool::slots::{KeyQueue, Table};

/// Tries every order of the threads in `model`, or those in which threads are preempted at most
/// `preemptions` times: without the bound a model of retries never ends, and a large one takes too
/// long.
fn check(preemptions: impl Into<Option<usize>>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions.into();
    builder.check(model);
}

/// Waits for the end of all `threads`.
fn join<T>(threads: impl IntoIterator<Item = thread::JoinHandle<T>>) {
    threads
        .into_iter()
        .for_each(|thread| drop(thread.join().unwrap()));
}

/// Connections that wait for a thread, in two queues.
struct Queues {
    table: Table,
    calls: KeyQueue,
    ready: KeyQueue,
    served: AtomicUsize,
}

impl Queues {
    /// Makes two connections with the keys 0 and 1, owned by the caller.
    fn new() -> Self {
        let table = Table::new(2);
        for _ in 0..2 {
            table
                .allocate(std::sync::Arc::new(Egress::new(
                    Box::new(SlowTransport::default()),
                    None,
                )))
                .expect("a free slot");
        }
        let (calls, ready) = (KeyQueue::default(), KeyQueue::default());
        Self {
            table,
            calls,
            ready,
            served: AtomicUsize::new(0),
        }
    }

    fn enqueue(&self, key: u32, queue: &KeyQueue) {
        self.table.slot(key).word.park_queued();
        queue.push(key);
    }

    /// Serves one of the waiting connections, which then is gone. False: none waits.
    fn serve_next(&self) -> bool {
        let key = self
            .calls
            .claim(&self.table)
            .or_else(|| self.ready.claim(&self.table));
        if key.is_some() {
            self.served.fetch_add(1, Relaxed);
        }
        key.is_some()
    }
}
