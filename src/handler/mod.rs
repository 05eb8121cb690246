//! The floor of the application: what a handler is, what it may return, and what is made of several
//! handlers.
//!
//! The [`Handler`] itself is here. Read on in `into_response.rs`, for what a handler may return,
//! and `failure.rs`, for the response to an error; `fields.rs` and `json.rs` belong to these two.
//! Then `layer/mod.rs`: a layer is code that runs around a handler, and the ready-made layers are
//! the files beside it. Last `router/mod.rs`: a router is a handler that chooses another one by
//! path and method, and `router/route.rs` is what it finds.
//!
//! This floor uses the types of a request and a response (`conn`), the context (`lifecycle`) and
//! the clock (`sys`). The floors below know none of its types: the server passes them one closure
//! that calls the handler.

pub(crate) mod failure;
pub(crate) mod fields;
pub(crate) mod into_response;
#[cfg(feature = "json")]
pub(crate) mod json;
pub(crate) mod layer;
#[cfg(feature = "router")]
pub(crate) mod router;

use http::{Method, StatusCode};

use crate::conn::message::{Request, Response};
use crate::handler::into_response::IntoResponse;
use crate::lifecycle::context::{Context, Current};
use crate::wire::reply::declared_length;

/// Answers requests. Every `Fn(Request, Context) -> impl IntoResponse` that can be called from
/// several threads at once is a handler.
///
/// # Examples
///
/// ```
/// use lameduck::{Context, Handler, IntoResponse, Request};
///
/// fn hello(request: Request, _context: Context) -> impl IntoResponse + use<> {
///     format!("you asked for {}\n", request.uri())
/// }
///
/// let response = hello.handle(Request::default(), Context::root());
/// assert_eq!(response.into_body().into_text(100)?, "you asked for /\n");
/// # Ok::<(), lameduck::body::BodyError>(())
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. It may block: it holds one worker for so long, and other requests do
    /// not wait for it.
    fn handle(&self, request: Request, context: Context) -> Response;

    /// Returns a number that stands for the route at a path, by which the server learns how long calls
    /// take. `None`: the handler does not tell its routes apart, and the path does.
    #[doc(hidden)]
    fn route_id(&self, _path: &str) -> Option<u64> {
        None
    }
}

impl<F, R> Handler for F
where
    F: Fn(Request, Context) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    fn handle(&self, request: Request, context: Context) -> Response {
        let _current = Current::enter(&context);
        with_declared_length(request, |request| self(request, context).into_response())
    }
}

/// Calls `answer`, and returns its response, whose body then keeps the length that its
/// `Content-Length` declares, for every layer that reads it.
fn with_declared_length(request: Request, answer: impl FnOnce(Request) -> Response) -> Response {
    let is_head = request.method() == Method::HEAD;
    let mut response = answer(request);
    // In response to HEAD, and with 304, the length may be that of a body that is not there (RFC
    // 9110 section 8.6).
    let may_be_left_out = is_head || response.status() == StatusCode::NOT_MODIFIED;
    if let Ok(Some(len)) = declared_length(response.headers())
        && !(may_be_left_out && response.body().is_empty())
    {
        response.body_mut().declare(len);
    }
    response
}
