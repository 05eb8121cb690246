//! A synchronous HTTP/1.1 server on a fixed thread pool, without an async runtime, that can be stopped at any moment so that
//! every request it was sent is answered, or refused before a byte was sent, or named in the [`Report`].
//!
//! ```
//! use lameduck::{Context, IntoResponse, Request, Server};
//!
//! fn hello(request: Request, _context: Context) -> impl IntoResponse {
//!     format!("you asked for {}\n", request.uri())
//! }
//!
//! // Port 0 is any free one. `run` instead of `spawn` would block until something stops the server.
//! let server = Server::builder().bind("127.0.0.1:0")?.spawn(hello)?;
//! println!("listening on {}", server.addr());
//!
//! let report = server.handle().shutdown();
//! assert!(report.is_clean(), "{report}");
//! # Ok::<(), lameduck::Error>(())
//! ```
//!
//! # Handlers
//!
//! A [`Handler`] is any function of a [`Request`] and a [`Context`] whose result is [`IntoResponse`]. It may block: it then
//! occupies one worker, of which there are [`workers`](Builder::workers). An error it returns is answered with 500, or with
//! what a [`Failure`] says. Bodies, of requests and of responses, are [`Body`]; short ones are read whole with
//! [`Body::into_text`] and its like.
//!
//! A `Router` (feature `router`) is a handler made of others, by path and method. What is done around handlers is a
//! [`Layer`]; there are [ready-made ones](layers).
//!
//! A panic in a handler is answered with 500 and costs its connection, nothing else; so does one in a body it returned, or
//! when something it returned is dropped, but for the answer, which has begun by then: the client sees that it is not whole.
//! This is done by unwinding. In a program that is compiled with `panic = "abort"` the first panic ends the process, like
//! anywhere else in it: every connection is reset, and no [`Report`] is made.
//!
//! What goes on for as long as its client stays has a thread of its own instead of a worker: an event stream is a
//! [`Body::stream`], and a WebSocket begins with [`upgrade`].
//!
//! # Stopping
//!
//! By a signal, if [`on_signals`](Builder::on_signals) asks for it; by a [`Handle`], from any thread; or by dropping
//! [`Running`]. The [`Phase`]s of a stop say what happens; [`Context::draining`] and [`Context::cancelled`] tell a handler.
//! However it ends, it ends with a [`Report`].
//!
//! # Several services
//!
//! A [`Group`] runs servers and other services together: the first that fails, or a signal, stops them all, and its error is
//! what comes out.
//!
//! # Tests
//!
//! [`testing`] has a server on a free port, which fails the test that cuts a request, and a client.
//!
//! # Logging
//!
//! Through the `log` crate: *error* when an operator must act, *warn* when a client or a handler misbehaves, *info* for the
//! phases of the stop, *debug* per connection. Nothing at *info* is per request, but the
//! [access log](layers::access_log) of who adds it.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `cli` | yes | the `lameduck` binary, with argument parsing and a logger |
//! | `router` | yes | `Router`: routes over handlers, with parameters |
//! | `json` | no | `Json` responses and `Body::into_json` |
//! | `gzip` | no | `layers::gzip` |
//!
//! # Coming from elsewhere
//!
//! From Go's `net/http` and `errgroup`: [`coming_from_go`]. From `tiny_http` and `rouille`: [`coming_from_tiny_http`].
//!
//! # How it is built
//!
//! See [`architecture`]; and [`conformance`] for what it makes of each requirement of HTTP/1.1.

#[cfg(not(unix))]
compile_error!("lameduck runs on Unix only: it is built on signals, poll(2) and descriptors");

// The floors of the architecture, from the bottom: a module uses those above it in this list. `tests/tidy.rs` sees to it.
mod error;
mod panics;
mod sync;
mod race;
mod sys;
mod waker;
mod poller;
mod clock;

mod wire;
mod settings;

mod lifecycle;
mod pace;

mod conn;

mod deadlines;
mod slots;
mod permits;
mod listener;
mod own_threads;
mod pool;
mod detach;
mod worker;
mod monitor;
mod hooks;
mod shed;
mod acceptor;

mod backlog;
mod shutdown;

mod respond;
mod layer;
#[cfg(feature = "router")]
mod router;
mod signals;
mod server;
mod group;
pub mod testing;

pub use http;

pub use conn::answer::Response;
pub use conn::body::{Body, BodyWriter};
pub use conn::exchange::Request;
pub use conn::upgraded::{Upgraded, upgrade};
pub use conn::whole::BodyError;
pub use error::{Error, Result};
pub use group::{Group, GroupBuilder, GroupCause, GroupHandle, GroupReport, MemberReport, Outcome};
pub use layer::{HandlerExt, Layer, Layered, Next};
pub use lifecycle::context::{Context, Readiness, Reason};
pub use lifecycle::ledger::{CloseReason, Raced};
pub use lifecycle::phase::{Cause, Phase};
pub use lifecycle::report::{CutRequest, HookOutcome, HookReport, Report, StuckWorker, UpgradedReport};
pub use listener::{Addr, Inherited, Listen, Unix, inherited, unix};
#[cfg(feature = "json")]
pub use respond::Json;
pub use respond::{Failure, Fields, Handler, HandlerResult, IntoResponse, OrAnswer};
#[cfg(feature = "router")]
pub use router::{Route, Router};
pub use server::{Bound, Builder, Handle, Running, Server, Stats};
pub use signals::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SignalGuard, notify};

/// Ready-made [`Layer`]s: functions and builders that return one.
pub mod layers {
    #[cfg(feature = "gzip")]
    pub use crate::layer::gzip;
    pub use crate::layer::{Cors, access_log, body_limit, concurrency_limit, ready_only, request_id, timeout};
}

#[cfg(all(test, loom))]
mod loom_models;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

#[doc = include_str!("docs/architecture.md")]
pub mod architecture {}

#[doc = include_str!("docs/conformance.md")]
pub mod conformance {}

// Its programs have routes.
#[cfg_attr(feature = "router", doc = include_str!("docs/coming_from_go.md"))]
#[cfg_attr(
    not(feature = "router"),
    doc = "For those who come from Go: in the documentation with the feature `router`."
)]
pub mod coming_from_go {}

#[doc = include_str!("docs/coming_from_tiny_http.md")]
pub mod coming_from_tiny_http {}

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
