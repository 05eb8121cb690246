//! What a handler is, and what it may return.

use std::fmt::Display;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::conn::answer::Response;
use crate::conn::body::Body;
use crate::conn::exchange::Request;
use crate::lifecycle::context::{Context, Readiness};

/// Answers requests: any `Fn(Request, Context) -> impl IntoResponse` that can be called from several threads at once.
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

/// What can be made a response of.
pub trait IntoResponse {
    /// Makes the response.
    fn into_response(self) -> Response;
}

impl<B: Into<Body>> IntoResponse for http::Response<B> {
    fn into_response(self) -> Response {
        self.map(Into::into)
    }
}

impl IntoResponse for Body {
    fn into_response(self) -> Response {
        Response::new(self)
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Response {
        Response::new(Body::empty())
    }
}

/// What a readiness probe gets: 200, or 503 once the server is stopping.
impl IntoResponse for Readiness {
    fn into_response(self) -> Response {
        match self {
            Self::Ready => "ready\n".into_response(),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
        }
    }
}

/// A status alone says its reason in the body, unless it may not have one.
impl IntoResponse for StatusCode {
    fn into_response(self) -> Response {
        if matches!(self, Self::NO_CONTENT | Self::NOT_MODIFIED) {
            return (self, ()).into_response();
        }
        let reason = self.canonical_reason().unwrap_or("unknown status");
        let mut response = format!("{} {reason}\n", self.as_str()).into_response();
        *response.status_mut() = self;
        response
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Response {
        text(self.into())
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        text(self.into())
    }
}

impl IntoResponse for &'static [u8] {
    fn into_response(self) -> Response {
        octets(self.into())
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response {
        octets(self.into())
    }
}

impl IntoResponse for Bytes {
    fn into_response(self) -> Response {
        octets(self.into())
    }
}

impl<R: IntoResponse> IntoResponse for (StatusCode, R) {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        *response.status_mut() = self.0;
        response
    }
}

impl<R: IntoResponse> IntoResponse for (HeaderMap, R) {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        response.headers_mut().extend(self.0);
        response
    }
}

impl<R: IntoResponse> IntoResponse for (StatusCode, HeaderMap, R) {
    fn into_response(self) -> Response {
        let mut response = (self.1, self.2).into_response();
        *response.status_mut() = self.0;
        response
    }
}

impl<R: IntoResponse, const N: usize> IntoResponse for ([(HeaderName, HeaderValue); N], R) {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        for (name, value) in self.0 {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// An error is logged with all it says, and the client is told 500 and nothing else.
impl<R: IntoResponse, E: Display> IntoResponse for Result<R, E> {
    fn into_response(self) -> Response {
        self.map_or_else(
            |error| {
                log::error!("a handler failed: {error}");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            },
            IntoResponse::into_response,
        )
    }
}

fn text(body: Body) -> Response {
    with_type(body, "text/plain; charset=utf-8")
}

fn octets(body: Body) -> Response {
    with_type(body, "application/octet-stream")
}

fn with_type(body: Body, content_type: &'static str) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
