//! The server as a program holds it: made by a builder, bound, run, stopped.
//!
//! The highest floor: it may use every other one. Read `builder.rs`, then `bound.rs`, which starts
//! the threads, then `handle.rs`, which every way to stop goes through, and `shutdown.rs`, the stop
//! itself. `signals.rs` turns signals into stops; `group/` makes several services stop as one.

mod bound;
mod builder;
pub(crate) mod group;
mod handle;
mod shutdown;
pub(crate) mod signals;

pub use bound::{Bound, Running};
pub use builder::{Server, ServerBuilder};
pub use handle::{ServerHandle, Stats};

#[cfg(test)]
mod tests;
