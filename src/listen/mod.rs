//! Sockets that are listened on: accepting from them, and closing them without losing their
//! backlogs.

pub(crate) mod acceptor;
pub(crate) mod closing;
pub(crate) mod eviction;
pub(crate) mod listener;
