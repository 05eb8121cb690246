//! One connection: how bytes come and go, what a body is, and what is done with the requests on it.

pub(crate) mod advance;
pub(crate) mod body;
pub(crate) mod body_error;
pub(crate) mod body_writer;
pub(crate) mod collect;
pub(crate) mod egress;
pub(crate) mod latency;
pub(crate) mod linger;
pub(crate) mod message;
pub(crate) mod park_deadlines;
pub(crate) mod progress;
pub(crate) mod receive_buffer;
pub(crate) mod request_body;
pub(crate) mod response;
pub(crate) mod serve_context;
pub(crate) mod stage;
pub(crate) mod transport;
pub(crate) mod upgrade;
pub(crate) mod upgraded;
