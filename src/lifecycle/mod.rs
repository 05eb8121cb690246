//! The state of the server's life: its phase, which connections are open, how they ended, and what
//! a handler can learn of it.
//!
//! This floor makes nothing happen by itself. The floors above write into it and read from it: the
//! server moves the phase on, connections record how they end, and handlers ask through their
//! context. Of the floors below it uses only `sys`, and it knows no connection and no pool.
//!
//! Read `phase.rs` first: the phases and the plan of a stop. Then `ledger.rs`, which counts the
//! connections, and `unanswered.rs`, the requests that got no complete response. `report.rs` is
//! what a stop says at its end, and `json.rs` the same for machines. `scope.rs` says when a context
//! ends, `context.rs` is the context as a handler sees it, and `timer.rs` keeps its deadlines.
//! `hooks.rs` runs the program's hooks.

pub(crate) mod context;
pub(crate) mod hooks;
pub(crate) mod ledger;
pub(crate) mod phase;
pub(crate) mod report;
pub(crate) mod scope;
pub(crate) mod timer;
pub(crate) mod unanswered;

mod json;
