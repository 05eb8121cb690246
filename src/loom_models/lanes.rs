//! Lanes: no more calls are inside than the limit allows, and no connection waits while there is
//! room.

use std::sync::atomic::Ordering::Relaxed;

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::{Queues, check, join};
use crate::pool::permits::Semaphore;
use crate::pool::shared::Lane;

/// Catches: a connection that begins to wait while the last worker leaves, and is seen by neither
/// of the two; also when the leaving worker comes back for an entry that the sweeper has made
/// stale, and leaves again.
#[test]
fn no_connection_waits_while_there_is_room() {
    for stale in [false, true] {
        check(None, move || {
            let waiting = Waiting::new();
            assert!(waiting.lane.semaphore.acquire());
            if stale {
                waiting.queues.enqueue(1, &waiting.lane.waiting);
                assert!(waiting.queues.table.slot(1).word.claim_queued());
            }
            let comer = {
                let waiting = waiting.clone();
                thread::spawn(move || {
                    if waiting.enter_or_wait(0) {
                        waiting.serve_all();
                    }
                })
            };
            waiting.serve_all();
            comer.join().unwrap();
            waiting.assert_none_waits();
        });
    }
}

/// Catches: a connection that begins to wait because the monitor counts a slow handler in, and is
/// forgotten when the monitor finds that the handler has just ended and counts it out.
#[test]
fn the_monitor_makes_room_like_a_worker() {
    check(None, || {
        let waiting = Waiting::new();
        let monitor = {
            let waiting = waiting.clone();
            thread::spawn(move || {
                waiting.lane.semaphore.force_acquire();
                waiting.lane.semaphore.release();
                waiting.requeue_claimed(waiting.lane.claim_if_room(&waiting.queues.table));
            })
        };
        if waiting.enter_or_wait(0) {
            waiting.serve_all();
        }
        monitor.join().unwrap();
        waiting.assert_none_waits();
    });
}

/// Catches: two threads that both take the last room.
#[test]
fn no_more_calls_are_inside_than_the_limit() {
    check(None, || {
        let semaphore = Arc::new(Semaphore::new(1));
        let inside = Arc::new(AtomicUsize::new(0));
        let work = |semaphore: &Semaphore, inside: &AtomicUsize| {
            if semaphore.acquire() {
                assert_eq!(inside.fetch_add(1, Relaxed), 0);
                inside.fetch_sub(1, Relaxed);
                semaphore.release();
            }
        };
        let others = [(); 2].map(|()| {
            let (semaphore, inside) = (semaphore.clone(), inside.clone());
            thread::spawn(move || work(&semaphore, &inside))
        });
        work(&semaphore, &inside);
        join(others);
        assert!(semaphore.acquire());
    });
}

/// A lane with room for one call, and connections that wait for it.
struct Waiting {
    queues: Queues,
    lane: Lane,
}

impl Waiting {
    fn new() -> Arc<Self> {
        let queues = Queues::new();
        let lane = Lane::new(1);
        // Stored once beforehand, for loom: see [`super`].
        lane.waiting.drop_stale(&queues.table);
        lane.semaphore.force_acquire();
        lane.semaphore.release();
        Arc::new(Self { queues, lane })
    }

    /// A worker whose connection needs room gets it, or has the connection wait. True: it got room.
    fn enter_or_wait(&self, key: u32) -> bool {
        if self.lane.semaphore.acquire() {
            return true;
        }
        self.queues.table.slot(key).word.park_queued();
        self.requeue_claimed(self.lane.wait(key, &self.queues.table));
        false
    }

    /// Has a worker look at a connection that was claimed while it waited.
    fn requeue_claimed(&self, claimed: Option<u32>) {
        if let Some(key) = claimed {
            self.queues.enqueue(key, &self.queues.ready);
        }
    }

    fn serve_all(&self) {
        while self.lane.release_or_next(&self.queues.table).is_some() {}
    }

    fn assert_none_waits(&self) {
        assert!(self.lane.semaphore.has_room());
        assert!(
            self.lane.waiting.claim(&self.queues.table).is_none(),
            "a connection waits while there is room"
        );
    }
}
