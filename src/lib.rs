//! A synchronous HTTP/1.1 server on a fixed thread pool, without an async runtime, that can be
//! stopped at any moment so that every request it was sent is answered, or refused before a byte
//! was sent, or named in the [`Report`].
//!
//! ```
//! use lameduck::{Context, IntoResponse, Request, Server};
//!
//! fn hello(request: Request, _context: Context) -> impl IntoResponse {
//!     format!("you asked for {}\n", request.uri())
//! }
//!
//! // Port 0 is any free one. `run` instead of `spawn` blocks until a stop.
//! let server = Server::builder().bind("127.0.0.1:0")?.spawn(hello)?;
//! println!("listening on {}", server.local_addr());
//!
//! let report = server.handle().shutdown();
//! assert!(report.is_clean(), "{report}");
//! # Ok::<(), lameduck::Error>(())
//! ```
//!
//! This page goes through the crate in the order in which a program needs it. Its examples use
//! [`testing::TestServer`], which is the same server on a free port, with a client beside it.
//!
//! # Handlers
//!
//! A [`Handler`] is any function of a [`Request`] and a [`Context`] whose result is
//! [`IntoResponse`]: text, bytes, a status, a tuple of status, fields and body, an `Option`, a
//! `Result`, a [`Response`]. It may block. It then holds one worker, of which there are
//! [`workers`](ServerBuilder::workers). Clients that are idle or slow hold none: what reads or
//! writes a long body while they do has a dedicated thread (see [below](#bodies)).
//!
//! An error that a handler returns is answered with 500, and its text goes to the log, not to the
//! client. A [`Failure`](response::Failure) is an error with a response of its own; any error
//! becomes one through `?`.
//!
//! ```
//! use lameduck::http::StatusCode;
//! use lameduck::response::{HandlerResult, OrAnswer};
//! use lameduck::testing::TestServer;
//! use lameduck::{Context, IntoResponse, Request};
//!
//! fn square(request: Request, _: Context) -> HandlerResult<impl IntoResponse> {
//!     let query = request.uri().query().unwrap_or("");
//!     let number: u32 = query
//!         .parse()
//!         .or_answer((StatusCode::BAD_REQUEST, "no number\n"))?;
//!     let square = number
//!         .checked_mul(number)
//!         .ok_or(std::io::Error::other("it does not fit"))?; // 500
//!     Ok(format!("{square}\n"))
//! }
//!
//! let server = TestServer::start(square);
//! assert_eq!(server.get("/?12").text(), "144\n");
//! assert_eq!(server.get("/?twelve").text(), "no number\n");
//! assert_eq!(server.get("/?4000000000").status, 500);
//! ```
//!
//! A panic in a handler is answered with 500, which the layers around it see, and costs its connection,
//! nothing else. A panic in a
//! body that the handler returned, or when something that it returned is dropped, costs the
//! connection too; the response has begun by then, so the client sees that it is not complete. All
//! this is done by unwinding. In a program that is compiled with `panic = "abort"` the first panic
//! ends the process, as it does anywhere else in such a program: every connection is reset, and no
//! [`Report`] is made.
//!
//! # Routes
//!
//! A [`Router`](struct.Router.html) (feature `router`) is a handler made of others, by path and
//! method. It answers HEAD, OPTIONS, 404 and 405 by itself. Two routes that cannot be told apart
//! are a panic when the router is built, which names both.
//!
//! ```
//! # #[cfg(feature = "router")] {
//! use lameduck::testing::TestServer;
//! use lameduck::{Context, Request, Router};
//!
//! fn hello(_request: Request, context: Context) -> String {
//!     format!("hello {}\n", context.param("name").unwrap_or("world"))
//! }
//!
//! let api = Router::new().post("/jobs", |_request, _context| "taken\n");
//! let app = Router::new().get("/hello/{name}", hello).nest("/api", api);
//!
//! let server = TestServer::start(app);
//! assert_eq!(server.get("/hello/J%C3%B6rg").text(), "hello Jörg\n");
//! assert_eq!(server.post("/api/jobs", "").text(), "taken\n");
//! let refused = server.get("/api/jobs");
//! assert_eq!(refused.header("allow"), Some("POST, OPTIONS"));
//! # }
//! ```
//!
//! # Bodies
//!
//! A request's [`Body`] is [`Read`](std::io::Read). One of up to
//! [`collect_bytes`](ServerBuilder::collect_bytes) (64 KiB) is there when the handler is called; a
//! longer one comes while the handler reads it. A short one is read to its end, with a limit, by
//! [`into_text`](Body::into_text), [`into_bytes`](Body::into_bytes) or, with the feature `json`,
//! `into_json`. Their error is a response too: 413, 408 or 400.
//!
//! A response's body is made from what there is:
//!
//! | what there is | the body | the client gets |
//! |---|---|---|
//! | bytes, text | [`From`] them, as with `"hello".into()` | a `Content-Length` |
//! | a file | [`TryFrom`] it | a `Content-Length` |
//! | a reader of known length | [`Body::sized_reader`] | a `Content-Length` |
//! | a reader | [`Body::reader`] | chunks |
//! | code that writes, and then is done | [`Body::writer`] | chunks |
//! | code that writes for as long as the client stays | [`Body::stream`] | chunks, each when it is flushed |
//! | a request's body | that, moved | whatever it has |
//!
//! None holds a worker while a slow client takes it: code that writes has a dedicated thread. A
//! body that fails in its middle cuts the connection, so no client takes a part for the complete
//! body.
//!
//! ```
//! use std::io::{Read, Write};
//!
//! use lameduck::body::BodyError;
//! use lameduck::testing::TestServer;
//! use lameduck::{Body, Context, IntoResponse, Request, Response};
//!
//! fn app(request: Request, _context: Context) -> Response {
//!     match request.uri().path() {
//!         "/shout" => shout(request).into_response(),
//!         "/count" => count(request).into_response(),
//!         _ => Response::new(Body::writer(|out| {
//!             (0..3).try_for_each(|n| writeln!(out, "line {n}"))
//!         })),
//!     }
//! }
//!
//! /// Reads the body into memory, up to 100 bytes.
//! fn shout(request: Request) -> Result<String, BodyError> {
//!     Ok(request.into_body().into_text(100)?.to_uppercase())
//! }
//!
//! /// Reads the body a piece at a time, whatever its length.
//! fn count(request: Request) -> std::io::Result<String> {
//!     let n = std::io::copy(&mut request.into_body(), &mut std::io::sink())?;
//!     Ok(n.to_string())
//! }
//!
//! let server = TestServer::start(app);
//! assert_eq!(server.post("/shout", "quack").text(), "QUACK");
//! assert_eq!(server.post("/shout", [b'a'; 101]).status, 413);
//! assert_eq!(server.post("/count", vec![0; 1 << 20]).text(), "1048576");
//! assert_eq!(server.get("/").text(), "line 0\nline 1\nline 2\n");
//! ```
//!
//! # The context
//!
//! The second argument knows where the request comes from and whether the server is stopping. Two
//! moments are kept apart:
//!
//! * [`draining`](Context::draining) fires when the stop begins to wait for what is in flight. It
//!   is for work without an end: event streams, long polls. Every other handler goes on and is
//!   waited for.
//! * [`cancelled`](Context::cancelled) fires at the stop's deadline, when the client has got 503 in
//!   the handler's place. Nobody will receive what is still done then.
//!
//! Both are channels for `crossbeam_channel::select!`; [`is_draining`](Context::is_draining) and
//! [`is_cancelled`](Context::is_cancelled) only ask, and [`sleep`](Context::sleep) is a sleep that
//! ends early.
//!
//! From a context others are derived, which are over when it is, or before: after a time
//! ([`with_timeout`](Context::with_timeout)), when the client resets its connection
//! ([`while_connected`](Context::while_connected)), when the program says so
//! ([`with_cancel`](Context::with_cancel)). [`reason`](Context::reason) tells which it was. A
//! context kills nothing: the work has to look at it.
//!
//! ```
//! use std::time::Duration;
//!
//! use lameduck::context::CancelReason;
//! use lameduck::testing::TestServer;
//! use lameduck::{Context, Request};
//!
//! fn search(_request: Request, context: Context) -> &'static str {
//!     let limit = Duration::from_millis(20);
//!     let query = context.while_connected().with_timeout(limit);
//!     // Instead of work that looks at `query.is_cancelled()` now and then.
//!     if query.sleep(Duration::from_secs(60)).is_ok() {
//!         return "all results\n";
//!     }
//!     match query.reason() {
//!         Some(CancelReason::Deadline) => "the first results\n",
//!         _ => "nobody will read this\n",
//!     }
//! }
//!
//! let server = TestServer::start(search);
//! assert_eq!(server.get("/").text(), "the first results\n");
//! ```
//!
//! [`with_value`](Context::with_value) passes a value on to the handlers that ask for its type:
//! that is how a layer tells them which user has logged in.
//!
//! # Layers
//!
//! A [`Layer`](layers::Layer) is what is done around a handler: a function of a request, a context
//! and the [`Next`](layers::Next) one. [`HandlerExt::layer`](layers::HandlerExt::layer) puts it
//! around any handler, `Router::layer` and `Route::layer` around what they answer. The last added
//! is the outermost. The [ready-made ones](layers): access log, request id, timeout, limits of
//! bodies and of requests at a time, a gate that closes when the stop begins, CORS, gzip.
//!
//! ```
//! use lameduck::http::StatusCode;
//! use lameduck::layers::{self, HandlerExt, Next};
//! use lameduck::testing::TestServer;
//! use lameduck::{Context, IntoResponse, Request, Response};
//!
//! struct User(String);
//!
//! fn authenticate(
//!     request: Request,
//!     context: Context,
//!     next: Next<'_>,
//! ) -> Response {
//!     match request.uri().query().map(str::to_owned) {
//!         Some(name) => next.run(request, context.with_value(User(name))),
//!         None => StatusCode::FORBIDDEN.into_response(),
//!     }
//! }
//!
//! fn hello(_request: Request, context: Context) -> Option<String> {
//!     Some(format!("hello {}\n", context.value::<User>()?.0))
//! }
//!
//! let app = hello
//!     .layer(authenticate)
//!     .layer(layers::body_limit(1 << 20))
//!     .layer(layers::access_log());
//! let server = TestServer::start(app);
//! assert_eq!(server.get("/?anna").text(), "hello anna\n");
//! assert_eq!(server.get("/").status, 403);
//! ```
//!
//! # The stop
//!
//! It begins with a signal, if [`on_signals`](ServerBuilder::on_signals) asks for it; with a
//! [`ServerHandle`], from any thread; with the [context](ServerBuilder::context) that the server
//! was built with; or when [`Running`] is dropped. Then each [`Phase`](report::Phase) follows the
//! one before:
//!
//! 1. **Lame duck**, for [`lame_duck`](ServerBuilder::lame_duck) (none by default): the server
//!    still accepts, while [`readiness`](Context::readiness) says no and each response says
//!    `Connection: close`.
//! 2. **Draining**, for at most [`grace_period`](ServerBuilder::grace_period) (25 s): the
//!    connections in the kernel's accept backlog are taken and served, the listeners close, idle
//!    connections close once they were silent for [`idle_grace`](ServerBuilder::idle_grace),
//!    requests in flight are finished.
//! 3. **Cutting**, for at most [`cut_grace`](ServerBuilder::cut_grace) (1 s): 503 in place of each
//!    response that has not begun, a reset for each that has.
//! 4. **Stopped**: threads have ended, descriptors are closed, the report is there.
//!
//! Of signals the first begins the stop, the second cuts what is left, the third ends the process; a
//! repeat of the same one within 300 ms counts once.
//!
//! [`on_shutdown`](ServerBuilder::on_shutdown) hooks run when draining starts, beside the last
//! requests. [`on_stopped`](ServerBuilder::on_stopped) hooks run after the last one: the place to
//! close the database. The stop waits for both, and the report says how they ended.
//!
//! ```
//! use std::time::Duration;
//!
//! use crossbeam_channel::unbounded;
//! use lameduck::testing::TestServer;
//! use lameduck::{Context, Request, Server};
//!
//! let (say, said) = unbounded();
//! let (first, last, handler) = (say.clone(), say.clone(), say);
//! let builder = Server::builder()
//!     .idle_grace(Duration::ZERO)
//!     .on_shutdown("tell the cluster", move || first.send("begins").unwrap())
//!     .on_stopped("close the database", move || last.send("is over").unwrap());
//! let app = move |_request: Request, context: Context| {
//!     handler.send("in flight").unwrap();
//!     let _ = context.draining().recv(); // disconnects when the server drains
//!     "answered all the same\n"
//! };
//!
//! let server = TestServer::with(builder, app);
//! let handle = server.handle();
//! std::thread::scope(|scope| {
//!     let client = scope.spawn(|| server.get("/"));
//!     assert_eq!(said.recv(), Ok("in flight"));
//!     assert!(handle.shutdown().is_clean());
//!     assert_eq!(client.join().unwrap().text(), "answered all the same\n");
//! });
//! assert_eq!(said.try_iter().collect::<Vec<_>>(), ["begins", "is over"]);
//! ```
//!
//! # The report
//!
//! However a stop ends, it ends with a [`Report`], the same for every caller that waits. It says
//! how long each phase took, how each connection ended, and names each request that [was not
//! answered](Report::unanswered), with its [fate](report::Fate), and each worker that is
//! [stuck](Report::stuck) in a handler. Its books balance: each connection that was accepted has
//! ended, and each request that was begun is [answered, broken off or named](report::Requests); if
//! a sum does not come out, that is a [fault](Report::faults), and the stop is not clean.
//!
//! From `main` it is the exit code: 0 if the stop was clean, 1 if something was cut, 3 if a handler
//! never came back; [`exit_code`] adds 2 for a program that could not start. A report that is not
//! clean writes itself to stderr, and each loss is logged. It prints as a few lines for people;
//! [`summary`](Report::summary) is one line, and [`to_json`](Report::to_json) is for machines.
//!
//! ```
//! use std::time::Duration;
//!
//! use lameduck::testing::TestServer;
//! use lameduck::{Context, Request, Server};
//!
//! let (say, said) = crossbeam_channel::bounded(1);
//! let builder = Server::builder().cut_grace(Duration::from_millis(200));
//! let app = move |_request: Request, context: Context| {
//!     say.send("in flight").unwrap();
//!     let _ = context.cancelled().recv();
//!     "too late\n"
//! };
//!
//! let server = TestServer::with(builder, app);
//! let handle = server.handle();
//! let report = std::thread::scope(|scope| {
//!     let client = scope.spawn(|| server.get("/report"));
//!     assert_eq!(said.recv(), Ok("in flight"));
//!     let too_short = Duration::from_millis(10);
//!     let report = handle.shutdown_within(too_short);
//!     assert_eq!(client.join().unwrap().status, 503);
//!     report
//! });
//! assert_eq!(report.exit_code(), 1);
//! assert_eq!(report.unanswered[0].target.path(), "/report");
//! assert_eq!(server.shutdown(), report); // instead of the panic of its drop
//! ```
//!
//! # Several services
//!
//! A [`Group`](group::Group) runs servers and other services together: the first that fails or
//! panics, or a signal, stops them all, and its error is what comes out, with a report for each. A
//! service that ends well stops none of the others. [`notify`](signal::notify) is for programs that
//! want a context which a signal cancels, and nothing else.
//!
//! ```
//! use lameduck::group::Group;
//! use lameduck::{Context, Request, Server};
//!
//! let ready = |_request: Request, context: Context| context.readiness();
//! let web = Server::builder().bind("127.0.0.1:0")?;
//! let admin = Server::builder().bind("127.0.0.1:0")?;
//!
//! let group = Group::new();
//! group.serve("web", web, |_request, _context| "hello\n");
//! group.serve("admin", admin, ready);
//! group.spawn("import", |_context| std::fs::read("/there/is/none").map(drop));
//!
//! let report = group.join();
//! assert!(report.first_error().unwrap().is::<std::io::Error>());
//! assert!(report.server("web").unwrap().is_clean());
//! assert!(report.server("admin").unwrap().is_clean());
//! # Ok::<(), lameduck::Error>(())
//! ```
//!
//! # Upgraded connections
//!
//! [`upgrade::accept`] answers 101 and gives the connection to a closure on a dedicated thread, as
//! something to read and write: for WebSocket, with a crate that speaks it, or any protocol that
//! begins as HTTP. A stop tells the closure through its context and through
//! [`Upgraded::on_shutdown`](upgrade::Upgraded::on_shutdown), waits for it, resets the connection
//! at the deadline, and counts all three. An example is at [`upgrade::accept`].
//!
//! # Tests
//!
//! [`testing::TestServer`] is what the examples here use: it listens on a free port, sends
//! requests, and is stopped when it is dropped, which fails the test if that cut anything. A
//! handler can also be called without a server:
//!
//! ```
//! use lameduck::{Context, Handler, Request};
//!
//! let answer = |_request: Request, context: Context| context.readiness();
//! let program = Context::root();
//! let ask = || answer.handle(Request::default(), program.clone());
//! assert_eq!(ask().status(), 200);
//! program.cancel();
//! assert_eq!(ask().status(), 503);
//! ```
//!
//! # Deploying
//!
//! Whatever stops the program waits for a while and then kills it.
//! `lame_duck + grace_period + cut_grace` and half a second, the
//! [longest](ServerHandle::shutdown) that a stop takes, has to be below that, with
//! a second or two for the program's own end.
//!
//! | where | waits by default | what to set |
//! |---|---|---|
//! | systemd | 90 s, `TimeoutStopSec` | [`on_signals`](ServerBuilder::on_signals)`([SIGTERM, SIGINT])`, nothing else |
//! | Kubernetes | 30 s, `terminationGracePeriodSeconds` | the same, `lame_duck(5 s)` and `grace_period(20 s)` |
//! | Docker | 10 s, `docker stop -t` | the same, and `grace_period(8 s)` |
//!
//! * **systemd**, with a `.socket` unit: `.bind("inherited")`, or [`inherited`](net::inherited)
//!   with a name, takes the sockets that systemd has made. They stay open when the service stops,
//!   so a restart refuses no client: a client that connects meanwhile waits in the backlog for the
//!   next generation. The unit is `Type=exec`, and a restart is `systemctl restart`.
//! * **Kubernetes**: SIGTERM and the removal from the service's endpoints happen side by side, so
//!   new connections come for some seconds after the signal. `lame_duck` is for these seconds. The
//!   readiness probe asks a route that returns [`Context::readiness`]; there is no need for a
//!   `preStop` hook that sleeps.
//! * **A container's first process** gets no default action for signals from the kernel: one that
//!   catches nothing is not ended by SIGTERM. `on_signals` is all it takes, and the third signal
//!   ends it too. Start it without a shell in between (`CMD ["app"]`), as a shell passes no signals
//!   on.
//! * **Behind a proxy**, which brings TLS and HTTP/2: its idle timeout for connections to this
//!   server should be below [`idle_timeout`](ServerBuilder::idle_timeout) (75 s), so that it is the
//!   proxy that closes, and no request meets our close. [`Context::peer_addr`] is the proxy then;
//!   the address of its client is in a field that the proxy sets, which is worth as much as the
//!   proxy is trusted. On the same machine, `unix:/run/app.sock` saves the ports.
//!
//! How many workers, which timeouts, what a connection costs: [`choosing`](docs::choosing).
//!
//! # Addresses
//!
//! [`bind`](ServerBuilder::bind) takes what is [`Listen`](net::Listen): a text such as
//! `127.0.0.1:8080`, `[::]:8080` or `unix:/run/app.sock`, a `SocketAddr`, a listener made
//! elsewhere, or several of a kind. It fails early, for all addresses or none, and the kernel
//! queues clients from then on, before the server runs.
//!
//! ```
//! use lameduck::net::Addr;
//! use lameduck::{Error, Server};
//!
//! let name = format!("lameduck-{}.sock", std::process::id());
//! let path = std::env::temp_dir().join(name);
//! let addrs = ["127.0.0.1:0".to_owned(), format!("unix:{}", path.display())];
//! let bound = Server::builder().bind(addrs)?;
//! assert_ne!(bound.local_addr().port(), 0);
//! assert_eq!(bound.local_addrs()[1], Addr::Unix(path));
//!
//! let taken = Server::builder().bind(bound.local_addr());
//! assert!(matches!(taken, Err(Error::Listen { .. })));
//! # Ok::<(), lameduck::Error>(())
//! ```
//!
//! # Logging
//!
//! Through the `log` crate: *error* when an operator must act, *warn* when a client or a handler
//! misbehaves, *info* for the addresses that a server listens on and for the phases of its stop,
//! *debug* for each connection, accepted and closed, and each response. Nothing at *info* is per
//! request, except the [access log](layers::access_log), if the program adds it. A line about a
//! handler or a body that failed names the request: method and path, peer, and the id that
//! [`layers::request_id`] has given it; so do its key-values `method`, `path`, `peer` and
//! `request_id`. A stop that was
//! not clean has a line at *warn* for each request that was cut, each connection and each stuck
//! worker, at most 30.
//!
//! The server's own lines are given to the logger by a thread of their own, so a logger that waits
//! for a full pipe, or panics, holds up nothing. Up to 1,024 lines wait for it; further ones are
//! dropped, and a line says how many. The end of the last server waits up to 200 ms for its lines.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `cli` | yes | the `lameduck` binary, with argument parsing and a logger |
//! | `router` | yes | `Router` and `Route`: routes over handlers, with parameters |
//! | `json` | no | `Json` responses and `Body::into_json` |
//! | `gzip` | no | `layers::gzip` |
//!
//! Without any there are 16 crates on Linux, this one included. A feature adds; none changes how
//! the rest behaves.
//!
//! # What is not promised
//!
//! * A handler's thread cannot be killed. One that never returns is left behind and named.
//! * A panic is contained by unwinding. With `panic = "abort"` it ends the process and every
//!   connection.
//! * TLS and HTTP/2 are not there; put a proxy in front. Nor are Windows, static files, forms and
//!   sessions.
//! * A request that a client sends in the very moment in which its idle connection is closed is not
//!   answered, as with every HTTP/1.1 server. [`idle_grace`](ServerBuilder::idle_grace) makes that
//!   moment rare, the client may repeat the request, and the report names it as
//!   [raced](report::Fate::Raced).
//! * On Linux new connections are kept out while a listener closes. Elsewhere, behind SYN cookies,
//!   and on a listener that was made outside of this crate, one that arrives in the very moment of
//!   the close may be reset before anything was read of it.
//! * Limits are per connection and in all, not per client address.
//!
//! # Coming from elsewhere
//!
//! From Go's `net/http` and `errgroup`: [`coming_from_go`](docs::coming_from_go). From `tiny_http`
//! and `rouille`: [`coming_from_tiny_http`](docs::coming_from_tiny_http).
//!
//! # How it is built
//!
//! [`one_get`](docs::one_get) follows one request through the source, for those who know the last
//! project of the Rust book. [`architecture`](docs::architecture) has the two journeys, of a
//! connection and of a stop, the invariants and the modules. [`conformance`](docs::conformance)
//! says what the server makes of each requirement of HTTP/1.1, and which test shows it.
//! [`measurements`](docs::measurements) has what was measured, [`changelog`](docs::changelog) what
//! is new.

#[cfg(not(unix))]
compile_error!("lameduck runs on Unix only: it is built on signals, poll(2) and descriptors");

// The floors of the architecture, from the bottom: a module uses its own floor and those before it
// in this list. `tests/tidy` sees to it. The line `mod error` is not first because
// `Error::Unclean` carries the report of `lifecycle`.

mod settings;

mod sys;

mod wire;

mod lifecycle;

mod error;

mod conn;

mod pool;

mod listen;

mod handler;

mod server;

pub mod testing;

pub use http;

pub use conn::body::Body;
pub use conn::message::{Request, Response};
pub use error::{Error, Result};
pub use handler::Handler;
pub use handler::into_response::IntoResponse;
#[cfg(feature = "router")]
pub use handler::router::Router;
pub use lifecycle::context::Context;
pub use lifecycle::report::Report;
pub use server::signals::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
pub use server::{Bound, Running, Server, ServerBuilder, ServerHandle, exit_code};

/// The parts of a [`Body`] that have names of their own.
///
/// [`BodyWriter`](body::BodyWriter) is what the closure of [`Body::writer`] and [`Body::stream`]
/// writes to; a program names it to write such a closure as a function.
/// [`BodyError`](body::BodyError) is why a request's body could not be read, and a response too: a
/// handler can return it.
pub mod body {
    pub use crate::conn::body_error::BodyError;
    pub use crate::conn::body_writer::BodyWriter;
}

/// What a [`Context`] answers.
///
/// [`CancelReason`](context::CancelReason) is what [`Context::reason`] returns once a context is
/// over, and [`Readiness`](context::Readiness) the response of [`Context::readiness`]. A program
/// needs these names to tell the reasons apart, and for the type of a function that returns one.
pub mod context {
    pub use crate::lifecycle::context::Readiness;
    pub use crate::lifecycle::scope::CancelReason;
}

/// Several services that stop as one: servers, and functions that run beside them.
///
/// For programs with more than one server, or with a server and other long-running work. A
/// [`Group`](group::Group) starts its members and waits for them; the other types are its builder,
/// its handle and its report.
pub mod group {
    pub use crate::server::group::{
        Group, GroupBuilder, GroupCause, GroupFailed, GroupHandle, GroupReport, MemberOutcome,
        MemberReport,
    };
}

/// Layers: what is done around a handler, and the ready-made ones.
///
/// [`HandlerExt`](layers::HandlerExt) has to be imported to call `.layer(..)` on a handler.
/// [`Next`](layers::Next) is the third argument of a layer that a program writes itself.
pub mod layers {
    #[cfg(feature = "gzip")]
    pub use crate::handler::layer::gzip;
    pub use crate::handler::layer::{
        Cors, access_log, body_limit, concurrency_limit, ready_only, request_id, timeout,
    };
    pub use crate::handler::layer::{HandlerExt, Layer, Layered, Next};
}

/// Addresses and sockets to listen on.
///
/// A text or a `SocketAddr` needs nothing of this. [`unix`](net::unix) is for a unix socket with
/// permissions of its own, [`inherited`](net::inherited) for sockets that systemd passes, and
/// [`Addr`](net::Addr) is what a server says that it listens on.
pub mod net {
    pub use crate::listen::addresses::{Inherited, Listen, Unix, inherited, unix};
    pub use crate::listen::listener::Addr;
}

/// What a [`Report`] is made of.
///
/// For programs that do more with a report than print it: why the stop began, its phases, how
/// connections ended, and what became of the requests that were not answered. Also
/// [`Stats`](report::Stats), the counts of a server that still runs.
pub mod report {
    pub use crate::lifecycle::ledger::{CloseReason, Requests};
    pub use crate::lifecycle::phase::{Phase, StopCause};
    pub use crate::lifecycle::report::{
        HookOutcome, HookReport, ListenersReport, StuckWorker, UpgradedReport,
    };
    pub use crate::lifecycle::unanswered::{CutConnection, Fate, UnansweredRequest};
    pub use crate::server::Stats;
}

/// What makes a [`Response`], beside [`IntoResponse`].
///
/// [`HandlerResult`](response::HandlerResult), [`Failure`](response::Failure) and
/// [`OrAnswer`](response::OrAnswer) are for handlers that use `?`: errors with a response of their
/// own. [`Fields`](response::Fields) are header fields in a handler's tuple, and `Json`, with the
/// feature `json`, is a value as a JSON response.
pub mod response {
    pub use crate::handler::failure::{Failure, HandlerResult, OrAnswer};
    pub use crate::handler::fields::Fields;
    #[cfg(feature = "json")]
    pub use crate::handler::json::Json;
}

/// What a [`Router`] is made of.
///
/// [`Route`](routing::Route) is for a path whose methods have different handlers, or layers of
/// their own; `Router::get` and its like need nothing of this.
#[cfg(feature = "router")]
pub mod routing {
    pub use crate::handler::router::Route;
}

/// Signals caught for a program and not for one server.
///
/// A single server asks for its signals with [`ServerBuilder::on_signals`] and needs nothing of
/// this. [`notify`](signal::notify) is for programs with several servers or none: it gives a
/// context that the first signal cancels, and a guard that stops catching.
pub mod signal {
    pub use crate::server::signals::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SignalGuard, notify};
}

/// Connections that are no longer HTTP: WebSocket, and whatever else begins as HTTP.
///
/// [`accept`](upgrade::accept) makes the response with which a handler agrees to the upgrade, and
/// [`Upgraded`](upgrade::Upgraded) is the connection that its closure gets.
pub mod upgrade {
    pub use crate::conn::{upgrade::accept, upgraded::Upgraded};
}

#[cfg(all(test, loom))]
mod loom_models;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

/// Pages to read: how to choose the numbers, how to come to the crate from elsewhere, how it is
/// built, and what was measured.
pub mod docs {
    #[doc = include_str!("docs/choosing.md")]
    pub mod choosing {}

    // Its programs have routes.
    #[cfg_attr(feature = "router", doc = include_str!("docs/coming_from_go.md"))]
    #[cfg_attr(
        not(feature = "router"),
        doc = "For those who come from Go: in the documentation with the feature `router`."
    )]
    pub mod coming_from_go {}

    #[doc = include_str!("docs/coming_from_tiny_http.md")]
    pub mod coming_from_tiny_http {}

    #[doc = include_str!("docs/one_get.md")]
    pub mod one_get {}

    #[doc = include_str!("docs/architecture.md")]
    pub mod architecture {}

    // The names of tests are long: they may be broken anywhere, so that the tables fit the page.
    #[doc = include_str!("docs/conformance.md")]
    #[doc = "<style>td:last-child code { overflow-wrap: anywhere }</style>"]
    pub mod conformance {}

    #[doc = include_str!("docs/measurements.md")]
    pub mod measurements {}

    #[doc = include_str!("docs/changelog.md")]
    pub mod changelog {}
}

/// Compiles the README's program.
#[cfg(all(doctest, feature = "router"))]
#[doc = include_str!("../README.md")]
struct Readme;
