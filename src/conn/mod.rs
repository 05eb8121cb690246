//! One connection: how bytes come and go, what a body is, and what is done with the requests on it.

pub(crate) mod body;
pub(crate) mod collect;
pub(crate) mod egress;
pub(crate) mod latency;
pub(crate) mod linger;
pub(crate) mod park_deadlines;
pub(crate) mod progress;
pub(crate) mod receive_buffer;
pub(crate) mod response;
pub(crate) mod serve_context;
pub(crate) mod stages;
pub(crate) mod transport;
pub(crate) mod upgraded;
