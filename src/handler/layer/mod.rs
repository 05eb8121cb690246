//! Layers: code that runs around handlers, and the chain that calls one after another.

mod access_log;
mod cors;
#[cfg(feature = "gzip")]
mod gzip;
mod limits;
mod request_id;

use std::fmt;
use std::sync::Arc;

use log::Level;

use crate::conn::message::{Request, Response};
use crate::conn::request_line;
use crate::conn::response::panicked;
use crate::handler::into_response::IntoResponse;
use crate::handler::{Handler, with_declared_length};
use crate::lifecycle::context::{Context, Current};
use crate::sys::panics;

pub use access_log::access_log;
pub use cors::Cors;
#[cfg(feature = "gzip")]
pub use gzip::gzip;
pub use limits::{body_limit, concurrency_limit, ready_only, timeout};
pub use request_id::request_id;

/// Code that runs around a handler: any `Fn(Request, Context, Next<'_>) -> impl IntoResponse`.
///
/// A layer may change the request or the context before it passes them to [`Next::run`], change the
/// response after it, or answer by itself. [`HandlerExt::layer`] puts a layer around a handler, and
/// the `layer` methods of `Router` and `Route` put it around what these answer. The ready-made
/// layers are in [`layers`](crate::layers).
///
/// The layer that was added last is the outermost: it sees the request first and the response last.
///
/// A panic of the handler, or of a layer inside, becomes a response with 500 where it happens. So the
/// layers around it see a response, and add to it what they add to any other. After it is sent, the
/// connection closes.
///
/// # Examples
///
/// ```
/// use lameduck::http::StatusCode;
/// use lameduck::layers::{HandlerExt, Next};
/// use lameduck::{Context, Handler, IntoResponse, Request, Response};
///
/// struct User(String);
///
/// fn login(request: Request, context: Context, next: Next<'_>) -> Response {
///     let name = request.headers().get("x-user").map(|name| name.to_str());
///     let Some(Ok(name)) = name else {
///         return StatusCode::FORBIDDEN.into_response();
///     };
///     let context = context.with_value(User(name.to_owned()));
///     next.run(request, context)
/// }
///
/// fn hello(_request: Request, context: Context) -> String {
///     let user = context.value::<User>().map_or("nobody", |user| &user.0);
///     format!("hello {user}\n")
/// }
///
/// let app = hello.layer(login);
/// assert_eq!(app.handle(Request::default(), Context::root()).status(), 403);
///
/// // In a closure the type of the last parameter has to be written.
/// let app = app.layer(|mut request: Request, context: Context, next: Next<'_>| {
///     request.headers_mut().insert("x-user", "anna".parse().unwrap());
///     next.run(request, context)
/// });
/// let response = app.handle(Request::default(), Context::root());
/// assert_eq!(response.into_body().into_text(100)?, "hello anna\n");
/// # Ok::<(), lameduck::body::BodyError>(())
/// ```
pub trait Layer: Send + Sync + 'static {
    /// Answers a request, with or without the help of `next`.
    fn handle(&self, request: Request, context: Context, next: Next<'_>) -> Response;
}

impl<F, R> Layer for F
where
    F: Fn(Request, Context, Next<'_>) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    fn handle(&self, request: Request, context: Context, next: Next<'_>) -> Response {
        let _current = Current::enter(&context);
        self(request, context, next).into_response()
    }
}

/// What is inside a [`Layer`]: the next layer, or the handler.
#[must_use = "the request gets no response from here unless `run` is called"]
pub struct Next<'a> {
    /// The layers that are left to call, the innermost first.
    layers: &'a [Arc<dyn Layer>],
    /// Called after the last of them.
    last: &'a dyn Fn(Request, Context) -> Response,
}

impl<'a> Next<'a> {
    pub(crate) fn new(
        layers: &'a [Arc<dyn Layer>],
        last: &'a dyn Fn(Request, Context) -> Response,
    ) -> Self {
        Self { layers, last }
    }

    /// Calls the next layer, or the handler, and returns the response.
    pub fn run(self, request: Request, context: Context) -> Response {
        with_declared_length(request, |request| {
            let response = panics::catch(|| match self.layers.split_last() {
                Some((layer, layers)) => layer.handle(request, context, Next { layers, ..self }),
                None => (self.last)(request, context),
            });
            response.unwrap_or_else(|panic| {
                request_line::log_here(Level::Error, format_args!("a handler panicked: {panic}"));
                panicked()
            })
        })
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next")
            .field("layers", &self.layers.len())
            .finish()
    }
}

/// Puts layers around any handler.
pub trait HandlerExt: Handler + Sized {
    /// Returns this handler with `layer` around it.
    ///
    /// # Examples
    ///
    /// ```
    /// use lameduck::layers::{self, HandlerExt};
    /// use lameduck::Server;
    ///
    /// let app = (|_request, _context| "hello\n")
    ///     .layer(layers::body_limit(1 << 20))
    ///     .layer(layers::access_log());
    /// let server = Server::builder().bind("127.0.0.1:0")?.spawn(app)?;
    /// # let _ = server.handle().shutdown();
    /// # Ok::<(), lameduck::Error>(())
    /// ```
    fn layer<L: Layer>(self, layer: L) -> Layered<Self, L> {
        Layered {
            handler: self,
            layer,
        }
    }
}

impl<H: Handler> HandlerExt for H {}

/// A handler with a layer around it, made by [`HandlerExt::layer`].
#[derive(Clone, Copy)]
#[must_use = "a handler does nothing until a server calls it"]
pub struct Layered<H, L> {
    handler: H,
    layer: L,
}

impl<H: Handler, L: Layer> Handler for Layered<H, L> {
    fn handle(&self, request: Request, context: Context) -> Response {
        let last = |request: Request, context: Context| self.handler.handle(request, context);
        with_declared_length(request, |request| {
            self.layer.handle(request, context, Next::new(&[], &last))
        })
    }

    fn route_id(&self, path: &str) -> Option<u64> {
        self.handler.route_id(path)
    }
}

impl<H, L> fmt::Debug for Layered<H, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layered").finish_non_exhaustive()
    }
}
