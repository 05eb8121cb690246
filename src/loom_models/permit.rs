//! The worker's word: a permit is with the worker or was revoked from it, whenever its call ends.

use std::sync::atomic::Ordering::Relaxed;

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::check;
use crate::pool::permits::{Semaphore, WorkerWord};

/// Catches: a permit that two threads have, or none, after a call ended while the monitor revoked
/// it; and a permit revoked from a call other than the one that the monitor saw.
#[test]
fn a_permit_has_one_holder() {
    check(None, || {
        let word = Arc::new(WorkerWord::new());
        let call = Arc::new(AtomicUsize::new(0));
        let semaphore = Arc::new(Semaphore::new(1));
        let monitor = {
            let (word, call, semaphore) = (word.clone(), call.clone(), semaphore.clone());
            thread::spawn(move || {
                let mut revoked_in = None;
                for _ in 0..2 {
                    let seen = word.look();
                    if !seen.is_in_call_with_permit() {
                        continue;
                    }
                    let seen_in = call.load(Relaxed);
                    semaphore.force_acquire();
                    if word.revoke(seen).is_some() {
                        assert_eq!(
                            revoked_in.replace(seen_in),
                            None,
                            "one permit is revoked once"
                        );
                    } else {
                        semaphore.release();
                    }
                }
                revoked_in
            })
        };
        let mut lost_in = None;
        for generation in 1..=2 {
            call.store(generation, Relaxed);
            if lost_in.is_none() {
                word.begin_call(generation as u64);
                if !word.end_call(generation as u64) {
                    lost_in = Some(generation);
                    semaphore.release();
                }
            } else {
                word.begin_call_without_permit();
                word.end_call_without_permit();
            }
        }
        assert_eq!(monitor.join().unwrap(), lost_in);
        assert!(
            semaphore.acquire() && !semaphore.acquire(),
            "every call that was counted in has left"
        );
    });
}
