//! The phase: it only moves forward, and a thread that sees the stop finds its plan.

use std::sync::Weak;
use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use super::{check, join};
use crate::lifecycle::phase::{Lifecycle, Phase, PhaseWord, StopCause};
use crate::sys::clock::Clock;

/// Catches: a phase that is gone back to, and two threads that both think that they have brought a
/// phase about.
#[test]
fn phases_move_forward() {
    check(None, || {
        let word = Arc::new(PhaseWord::new());
        let advance = |phase| {
            let word = word.clone();
            thread::spawn(move || word.advance(phase))
        };
        let first = advance(Phase::Draining);
        let second = advance(Phase::Cutting);
        let (before, after) = (word.get(), word.get());
        assert!(before <= after);
        let third = word.advance(Phase::Draining);
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        assert!(second, "no other thread moves to the last phase");
        assert!(!(first && third), "at most one of the two moves the phase");
        assert_eq!(word.get(), Phase::Cutting);
    });
}

/// Catches: a thread that sees the stop and finds no plan for it.
#[test]
fn a_thread_that_sees_the_stop_finds_the_plan() {
    check(None, || {
        let lifecycle = Lifecycle::new(Clock::System, Duration::ZERO, Duration::ZERO, Weak::new());
        let lifecycle = Arc::new(lifecycle);
        let handles = [StopCause::Handle, StopCause::Dropped].map(|cause| {
            let lifecycle = lifecycle.clone();
            thread::spawn(move || lifecycle.begin_stop(cause))
        });
        if lifecycle.is_stopping() {
            assert!(lifecycle.plan().is_some());
        }
        join(handles);
        assert_eq!(lifecycle.phase(), Phase::LameDuck);
    });
}
