//! Layers: what is done around handlers.

mod access_log;
mod cors;
#[cfg(feature = "gzip")]
mod gzip;
mod limits;
mod request_id;

use std::fmt;
use std::sync::Arc;

use crate::conn::message::{Request, Response};
use crate::handler::Handler;
use crate::handler::into_response::IntoResponse;
use crate::lifecycle::context::Context;

pub use access_log::access_log;
pub use cors::Cors;
#[cfg(feature = "gzip")]
pub use gzip::gzip;
pub use limits::{body_limit, concurrency_limit, ready_only, timeout};
pub use request_id::request_id;

/// Something done around a handler: any `Fn(Request, Context, Next<'_>) -> impl IntoResponse`.
///
/// It may change the request or the context before it passes them to [`Next::run`], the response
/// after it, or answer by itself. Around a handler it is put with [`HandlerExt::layer`], around a
/// `Router` or one `Route` of it with their `layer`. The ready-made ones are in
/// [`layers`](crate::layers).
///
/// The one that was added last is the outermost: it sees the request first and the response last.
///
/// A panic passes through all layers; the server makes 500 of it.
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
/// fn authenticate(request: Request, context: Context, next: Next<'_>) -> Response {
///     match request.headers().get("x-user").and_then(|value| value.to_str().ok()).map(str::to_owned) {
///         Some(name) => next.run(request, context.with_value(User(name))),
///         None => StatusCode::FORBIDDEN.into_response(),
///     }
/// }
///
/// fn hello(_request: Request, context: Context) -> String {
///     format!("hello {}\n", context.value::<User>().map_or("nobody", |user| &user.0))
/// }
///
/// let app = hello.layer(authenticate);
/// assert_eq!(app.handle(Request::default(), Context::root()).status(), 403);
///
/// // A closure says the type of its last parameter.
/// let app = app.layer(|mut request: Request, context: Context, next: Next<'_>| {
///     request.headers_mut().insert("x-user", "anna".parse().unwrap());
///     next.run(request, context)
/// });
/// assert_eq!(app.handle(Request::default(), Context::root()).into_body().into_text(100)?, "hello anna\n");
/// # Ok::<(), lameduck::body::BodyError>(())
/// ```
pub trait Layer: Send + Sync + 'static {
    /// Answers a request, with or without what is inside.
    fn handle(&self, request: Request, context: Context, next: Next<'_>) -> Response;
}

impl<F, R> Layer for F
where
    F: Fn(Request, Context, Next<'_>) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    fn handle(&self, request: Request, context: Context, next: Next<'_>) -> Response {
        self(request, context, next).into_response()
    }
}

/// What is inside a [`Layer`]: the next one, or the handler.
#[must_use = "nobody answers the request unless it is run"]
pub struct Next<'a> {
    /// The innermost first.
    layers: &'a [Arc<dyn Layer>],
    last: &'a dyn Fn(Request, Context) -> Response,
}

impl<'a> Next<'a> {
    pub(crate) fn new(
        layers: &'a [Arc<dyn Layer>],
        last: &'a dyn Fn(Request, Context) -> Response,
    ) -> Self {
        Self { layers, last }
    }

    /// Has it answer the request.
    pub fn run(self, request: Request, context: Context) -> Response {
        match self.layers.split_last() {
            Some((layer, layers)) => layer.handle(request, context, Next { layers, ..self }),
            None => (self.last)(request, context),
        }
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
    /// The handler with `layer` around it.
    ///
    /// # Examples
    ///
    /// ```
    /// use lameduck::layers::{self, HandlerExt};
    /// use lameduck::Server;
    ///
    /// let app = (|_request, _context| "hello\n").layer(layers::body_limit(1 << 20)).layer(layers::access_log());
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
#[must_use = "it is a handler, and serves nobody unless it is given to a server"]
pub struct Layered<H, L> {
    handler: H,
    layer: L,
}

impl<H: Handler, L: Layer> Handler for Layered<H, L> {
    fn handle(&self, request: Request, context: Context) -> Response {
        let last = |request: Request, context: Context| self.handler.handle(request, context);
        self.layer.handle(request, context, Next::new(&[], &last))
    }
}

impl<H, L> fmt::Debug for Layered<H, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layered").finish_non_exhaustive()
    }
}
