//! A short soak: see `benches/soak.rs` for the long one.

#![allow(
    clippy::disallowed_methods,
    reason = "the clients' clock is the real one"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(target_os = "linux")]

mod soak_engine;

use std::time::Duration;

/// No test: the server that the child of the test below runs.
#[test]
fn serve() {
    soak_engine::server::serve_if_asked();
}

#[test]
fn good_and_bad_clients_for_ten_seconds_leave_nothing_and_lose_nothing() {
    let outcome = soak_engine::run(Duration::from_secs(10));
    assert!(outcome.wrong.is_empty(), "{:#?}", outcome);
    assert!(
        outcome.connections > 1000 && outcome.answers > 1000,
        "hardly anything happened: {outcome:#?}"
    );
}
