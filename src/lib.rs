//! A synchronous HTTP/1.1 server on a fixed thread pool that can be stopped at any moment without losing a request.

#[cfg(not(unix))]
compile_error!("lameduck runs on Unix only: it is built on signals, poll(2) and descriptors");

// The floors of the architecture, from the bottom: a module uses those above it in this list. `tests/tidy.rs` sees to it.
mod error;
mod sync;
mod sys;
mod waker;
mod clock;

mod wire;
mod settings;

mod lifecycle;
mod pace;

mod conn;

mod poller;
mod deadlines;
mod slots;
mod permits;
mod listener;
mod pool;
mod worker;
mod monitor;
mod acceptor;

mod backlog;
mod shutdown;

mod respond;
mod signals;
mod server;

pub use http;

pub use conn::answer::Response;
pub use conn::body::{Body, BodyWriter};
pub use conn::exchange::Request;
pub use error::{Error, Result};
pub use lifecycle::context::Context;
pub use lifecycle::ledger::CloseReason;
pub use lifecycle::phase::{Cause, Phase};
pub use lifecycle::report::{CutRequest, Report, StuckWorker};
pub use listener::{Addr, Listen};
pub use respond::{Handler, IntoResponse};
pub use server::{Bound, Builder, Handle, Running, Server, Stats};
