//! A synchronous HTTP/1.1 server on a fixed thread pool that can be stopped at any moment without losing a request.

#[cfg(not(unix))]
compile_error!("lameduck runs on Unix only: it is built on signals, poll(2) and descriptors");

mod clock;
mod error;
mod settings;
mod sync;
mod sys;

mod wire;

mod lifecycle;
mod listener;
mod pace;
mod poller;

mod conn;

mod deadlines;
mod permits;
mod slots;

mod acceptor;
mod monitor;
mod pool;
mod worker;

mod backlog;
mod shutdown;

mod respond;
mod server;
mod signals;

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
