//! The server as a program holds it: described by a builder, bound, run and stopped.
//!
//! This floor puts the parts of a server together, starts its threads, carries out its stop and
//! makes its report. It may use every floor below it; only `testing.rs` and the command line are
//! above it.
//!
//! Read `builder.rs`, then `bound.rs`, which starts the threads, then `handle.rs`, which every
//! request to stop goes through, then `shutdown.rs`, which is the stop itself. `signals.rs` turns
//! signals into stops. `exit.rs` is for `main`. `group/` makes several servers and services stop as one. The tests in
//! `tests/` need a clock that stands still, or a thread that is held at a certain point.

mod bound;
mod builder;
mod exit;
pub(crate) mod group;
mod handle;
mod shutdown;
pub(crate) mod signals;

pub use bound::{Bound, Running};
pub use builder::{Server, ServerBuilder};
pub use exit::exit_code;
pub use handle::{ServerHandle, Stats};

#[cfg(test)]
mod tests;
