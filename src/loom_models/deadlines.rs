//! Deadlines: a parked connection always has an entry in time, and a forgotten one has none.

use loom::sync::Arc;
use loom::thread;

use super::check;
use crate::pool::deadlines::{DeadlineCell, Deadlines};
use crate::pool::slots::{ClaimWord, Claimed};

/// Catches: an entry that was taken out for a deadline which has just moved, and that neither side
/// puts back.
#[test]
fn a_deadline_that_moves_keeps_its_entry() {
    check(None, || {
        let timed = Timed::owned();
        let sweeper = {
            let timed = timed.clone();
            thread::spawn(move || timed.pop())
        };
        let _ = timed.set(20);
        sweeper.join().unwrap();
        assert!(timed.deadlines.first().is_some_and(|at| at <= 20));
    });
}

/// Catches: a connection that is parked, or queued, without an entry: its deadline was set, and was
/// over, so the sweeper dropped the entry while the connection was being served.
#[test]
fn a_parked_connection_has_an_entry() {
    for park in [Timed::park, Timed::park_queued] {
        check(3, move || {
            let timed = Timed::owned();
            let sweeper = {
                let timed = timed.clone();
                thread::spawn(move || timed.sweep())
            };
            // This deadline is over already.
            park(&timed, 2);
            sweeper.join().unwrap();
            assert!(timed.deadlines.first().is_some());
        });
    }
}

/// Catches: an entry that is put back for a connection which is being forgotten.
#[test]
fn a_forgotten_connection_has_none() {
    check(None, || {
        let timed = Timed::owned();
        // The entry is still for the moment 1, so it comes up too early.
        let _ = timed.set(20);
        let sweeper = {
            let timed = timed.clone();
            thread::spawn(move || timed.pop())
        };
        timed.deadlines.remove(&timed.cell, 0);
        sweeper.join().unwrap();
        assert_eq!(timed.deadlines.first(), None);
    });
}

/// A connection with its deadline. The sweeper always runs at the moment 10.
struct Timed {
    word: ClaimWord,
    cell: DeadlineCell,
    deadlines: Deadlines,
}

impl Timed {
    /// A connection that the caller owns, with an entry for the moment 1.
    fn owned() -> Arc<Self> {
        let timed = Self {
            word: ClaimWord::new(),
            cell: DeadlineCell::default(),
            deadlines: Deadlines::default(),
        };
        timed.word.park_queued();
        assert!(timed.word.claim_queued());
        assert!(timed.set(1));
        Arc::new(timed)
    }

    fn set(&self, at: u64) -> bool {
        self.deadlines.set(&self.cell, 0, at)
    }

    fn pop(&self) -> bool {
        self.deadlines.pop(10, |_| &self.cell).is_ok()
    }

    /// The monitor's sweep: a connection that is overdue gets a later deadline.
    fn sweep(&self) {
        while self.pop() {
            match self.word.claim_overdue() {
                Some(Claimed::Idle) => self.park(20),
                Some(Claimed::Queued) => self.park_queued(20),
                None => {}
            }
        }
    }

    fn park(&self, at: u64) {
        loop {
            let _ = self.set(at);
            if self.word.park().is_ok() {
                return;
            }
        }
    }

    fn park_queued(&self, at: u64) {
        let _ = self.set(at);
        if self.word.park_queued() {
            let _ = self.set(at);
        }
    }
}
