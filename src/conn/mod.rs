//! One connection: its socket, its buffers, the stages it goes through and the bodies that handlers
//! read and write.
//!
//! This floor turns bytes from a socket into calls of handlers, and their responses into bytes. It
//! uses `error`, `settings`, `sys`, `wire` and `lifecycle`. It knows nothing of slots, permits or
//! queues: a thread of the pool claims a connection and calls [`advance`], and the returned `Next`
//! says what the connection needs.
//!
//! Read `stage` (the data and its diagram), `advance` (the steps), `response` and `linger` (what
//! follows a request), then `park_deadlines`. Under them lie `transport`, `receive_buffer` and
//! `egress` (the socket and both directions), `request_line` (what is logged of a request), and `progress` and `latency` (slow peers, slow
//! handlers). Handlers see `message`, `body`, `upgrade` and `upgraded`.

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
pub(crate) mod request_line;
pub(crate) mod request_scan;
pub(crate) mod response;
pub(crate) mod serve_context;
pub(crate) mod stage;
pub(crate) mod transport;
pub(crate) mod upgrade;
pub(crate) mod upgraded;
