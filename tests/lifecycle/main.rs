//! From start to stop: no request is lost, nothing is left behind, and the report says what
//! happened.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod cut;
mod drain;
mod leaks;
#[path = "../support/mod.rs"]
mod support;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use support::{eventually, server_threads};

/// Each test that starts a server holds this lock; a test that counts what servers leave in the
/// process holds it alone.
static PROCESS: RwLock<()> = RwLock::new(());

fn shared() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    let guard = PROCESS.write().unwrap_or_else(PoisonError::into_inner);
    eventually("other tests' servers are gone", || {
        server_threads().is_empty()
    });
    guard
}
