//! The ledger: a waiting acceptor is woken by the end of a connection, and a drain that has seen
//! the last end has every count.

use std::os::fd::AsFd;
use std::time::Duration;

use http::{Method, Uri};
use loom::thread;

use super::{check, join};
use crate::lifecycle::ledger::{CloseReason, Entry, Ledger, WakeAt};
use crate::lifecycle::unanswered::{Fate, UnansweredRequest};
use crate::sys::waker::{Waker, wait_for};

/// Catches: an end that the acceptor misses, because the connection looks for a waiting acceptor
/// before the acceptor says that it waits, and counts itself out after the acceptor has looked; and
/// two connections that each take the other one for the last.
#[test]
fn a_thread_that_waits_for_an_end_is_woken() {
    for any in [true, false] {
        check(None, move || {
            let (ledger, waker, entries) = ledger();
            let ends = entries.map(|entry| thread::spawn(move || drop(entry)));
            let waits = if any {
                ledger.is_full(2)
            } else {
                ledger.wake(WakeAt::LastEnd);
                ledger.len() > 0
            };
            join(ends);
            assert_eq!(ledger.len(), 0);
            assert!(!waits || is_woken(&waker), "the acceptor waits forever");
        });
    }
}

/// Catches: a server that stays full because a connection ended while the acceptor was saying that
/// it does not wait.
#[test]
fn a_full_server_goes_on_accepting() {
    check(None, || {
        let (ledger, waker, [first, second]) = ledger();
        let worker = thread::spawn(move || drop(first));
        let mut second = Some(second);
        for _ in 0..2 {
            while ledger.is_full(2) {
                wait_until_woken(&waker);
                // The second connection ends for the second round.
                drop(second.take());
            }
            drop(Ledger::open(&ledger));
        }
        worker.join().unwrap();
        drop(second);
        let ended = CloseReason::ALL
            .iter()
            .map(|reason| ledger.ended(*reason))
            .sum::<u64>();
        assert_eq!((ledger.len(), ledger.accepted(), ended), (0, 4, 4));
    });
}

/// Catches: a drain that the last end does not wake; and a drain that has seen the last end and
/// misses how a connection ended, or the request that came too late on it.
#[test]
fn a_drain_that_has_seen_the_last_end_has_every_count() {
    check(None, || {
        let (ledger, waker, entries) = ledger();
        let ends = entries.map(|entry| {
            thread::spawn(move || {
                let (method, target) = (Method::GET, Uri::from_static("/late"));
                entry.name_unanswered(UnansweredRequest {
                    peer: None,
                    method,
                    target,
                    age: Duration::ZERO,
                    fate: Fate::AfterClose,
                });
                drop(entry);
            })
        });
        ledger.wake(WakeAt::LastEnd);
        while ledger.len() > 0 {
            wait_until_woken(&waker);
        }
        assert_eq!(
            (
                ledger.ended(CloseReason::Asked),
                ledger.ended(CloseReason::PeerClosed)
            ),
            (1, 1)
        );
        assert_eq!((ledger.accepted(), ledger.take_unanswered().len()), (2, 2));
        join(ends);
    });
}

/// A ledger with two connections, and the waker of its acceptor.
fn ledger() -> (std::sync::Arc<Ledger>, std::sync::Arc<Waker>, [Entry; 2]) {
    let waker = std::sync::Arc::new(Waker::new().unwrap());
    let ledger = Ledger::new(std::sync::Arc::downgrade(&waker));
    // Stored once beforehand, for loom: see [`super`].
    ledger.wake(WakeAt::Never);
    let mut entries = [(); 2].map(|()| Ledger::open(&ledger));
    entries[0].because(CloseReason::Asked);
    entries[1].because(CloseReason::PeerClosed);
    (ledger, waker, entries)
}

fn is_woken(waker: &Waker) -> bool {
    wait_for(&[waker.as_fd()], Some(Duration::ZERO))
}

/// Waits as the acceptor does in poll(2). Loom fails a model in which no thread ever wakes it.
fn wait_until_woken(waker: &Waker) {
    while !is_woken(waker) {
        thread::yield_now();
    }
    waker.reset();
}
