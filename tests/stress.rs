//! A short run of the stress program: see `benches/stress.rs` for the long one.

#![allow(
    clippy::disallowed_methods,
    reason = "the clients' clock is the real one"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stress_engine;

use std::time::Duration;

use stress_engine::{Setup, run};

#[test]
fn every_connection_of_a_stressed_server_gets_its_answers_and_nothing_is_left() {
    let time = Duration::from_millis(400);
    for (seed, workers, collect_bytes) in [(1, 1, 64 << 10), (2, 4, 64 << 10), (3, 4, 0)] {
        let setup = Setup {
            workers,
            connections: 96,
            collect_bytes,
            seed,
            time,
        };
        let outcome = run(&setup);
        assert!(outcome.failure.is_none(), "{}", outcome.failure.unwrap());
        assert!(
            outcome.tally.answers > 96,
            "hardly anything was asked: {:?}",
            outcome.tally
        );
    }
}
