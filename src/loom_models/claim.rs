//! The claim: a connection has one owner at a time, each owner sees what the last one did, and no
//! event is lost.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex as StdMutex, MutexGuard};

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::{Queues, check, join};
use crate::pool::slots::{ClaimWord, Claimed};

/// Catches: an event that leaves no mark; a mark that loses a hang-up, or that `park` overlooks; a
/// claim or a park that does not pass on what was written before it.
#[test]
fn events_meet_an_owner() {
    check(3, || {
        let conn = Connection::owned();
        let events = [(0, false), (1, true)].map(|(i, hup)| {
            let conn = conn.clone();
            thread::spawn(move || conn.event(i, hup))
        });
        conn.read_as_owner(false);
        conn.let_go();
        join(events);
        conn.assert_all_read([1, 1], true);
    });
}

/// Catches: a sweeper that takes a connection from its owner, or drops an event that comes while
/// the sweeper only looks.
#[test]
fn the_sweeper_meets_an_event_and_an_owner() {
    for overdue in [true, false] {
        check(None, move || {
            let conn = Connection::owned();
            let event = {
                let conn = conn.clone();
                thread::spawn(move || conn.event(0, true))
            };
            let sweeper = {
                let conn = conn.clone();
                thread::spawn(move || {
                    let claimed = if overdue {
                        conn.word.claim_overdue()
                    } else {
                        conn.word.claim_parked()
                    };
                    if claimed.is_some() {
                        conn.pass_through();
                        conn.let_go();
                    }
                })
            };
            conn.read_as_owner(false);
            conn.let_go();
            event.join().unwrap();
            sweeper.join().unwrap();
            conn.assert_all_read([1, 0], true);
        });
    }
}

/// Catches: an entry that is taken twice; an entry that is dropped as stale and was not; a
/// connection that the sweeper has queued anew, served once for each of its entries.
#[test]
fn one_of_many_gets_a_queued_connection() {
    check(3, || {
        let queues = Arc::new(Queues::new());
        let taker = {
            let queues = queues.clone();
            thread::spawn(move || queues.serve_next())
        };
        let sweeper = {
            let queues = queues.clone();
            thread::spawn(move || {
                let word = &queues.table.slot(0).word;
                if let Some(claimed) = word.claim_parked() {
                    assert_eq!(claimed, Claimed::Queued);
                    queues.ready.drop_stale(&queues.table);
                    queues.enqueue(0, &queues.calls);
                }
            })
        };
        queues.enqueue(0, &queues.ready);
        queues.serve_next();
        taker.join().unwrap();
        sweeper.join().unwrap();
        while queues.serve_next() {}
        assert_eq!(queues.served.load(Relaxed), 1);
    });
}

/// A connection under its claim, and a peer that has sent at most one byte to each of two events.
struct Connection {
    word: ClaimWord,
    came: [AtomicUsize; 2],
    /// How many owners the connection has had. Each owner has to see what the last one stored; one
    /// that does not has claimed the connection without its last owner's work.
    owners: AtomicUsize,
    /// What the owners did. The lock is never contended: there is one owner at a time.
    done: StdMutex<Done>,
}

#[derive(Default)]
struct Done {
    owners: usize,
    read: [usize; 2],
    hup: bool,
}

impl Connection {
    /// A connection that the caller owns.
    fn owned() -> Arc<Self> {
        let word = ClaimWord::new();
        word.park_queued();
        assert!(word.claim_queued());
        let came = [AtomicUsize::new(0), AtomicUsize::new(0)];
        Arc::new(Self {
            word,
            came,
            owners: AtomicUsize::new(0),
            done: StdMutex::default(),
        })
    }

    /// What an owner does that reads all bytes that came.
    fn read_as_owner(&self, hup: bool) {
        let mut done = self.begin_ownership();
        done.hup |= hup;
        done.read = [self.came[0].load(Relaxed), self.came[1].load(Relaxed)];
    }

    /// What an owner does that reads nothing: it only checks that it is the owner.
    fn pass_through(&self) {
        drop(self.begin_ownership());
    }

    fn begin_ownership(&self) -> MutexGuard<'_, Done> {
        let mut done = self.done.try_lock().expect("one owner at a time");
        assert_eq!(
            self.owners.load(Relaxed),
            done.owners,
            "an owner sees what the last one did"
        );
        done.owners += 1;
        self.owners.store(done.owners, Relaxed);
        done
    }

    /// Parks the connection, and serves it again for each mark that an event has left.
    fn let_go(&self) {
        while let Err(mark) = self.word.park() {
            self.read_as_owner(mark.hup);
        }
    }

    /// The peer sends a byte, which with `hup` is its last, and a poller gets the event.
    fn event(&self, i: usize, hup: bool) {
        self.came[i].store(1, Relaxed);
        if self.word.claim_by_event(hup) {
            self.read_as_owner(hup);
            self.let_go();
        }
    }

    /// What has to hold once all threads have ended.
    fn assert_all_read(&self, read: [usize; 2], hup: bool) {
        assert!(self.word.claim_by_event(false), "the connection is parked");
        self.pass_through();
        let done = self.done.lock().unwrap();
        assert_eq!((done.read, done.hup), (read, hup));
    }
}
