//! What a handler is, what it returns, and what is made of several.

pub(crate) mod failure;
pub(crate) mod fields;
pub(crate) mod into_response;
#[cfg(feature = "json")]
pub(crate) mod json;
pub(crate) mod layer;
#[cfg(feature = "router")]
pub(crate) mod router;

use crate::conn::message::{Request, Response};
use crate::handler::into_response::IntoResponse;
use crate::lifecycle::context::Context;

/// Answers requests: any `Fn(Request, Context) -> impl IntoResponse` that can be called from
/// several threads at once.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. It may block; it then holds one worker, and nobody else waits for it.
    fn handle(&self, request: Request, context: Context) -> Response;
}

impl<F, R> Handler for F
where
    F: Fn(Request, Context) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    fn handle(&self, request: Request, context: Context) -> Response {
        self(request, context).into_response()
    }
}
