//! The state of the server's life: its phase, who is open, what happened, and what a handler can
//! know of it.

pub(crate) mod context;
pub(crate) mod hooks;
pub(crate) mod ledger;
pub(crate) mod phase;
pub(crate) mod report;
pub(crate) mod scope;
pub(crate) mod timer;
pub(crate) mod unanswered;

mod json;
