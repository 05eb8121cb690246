//! What a handler may return.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt::Display;
use std::fs::File;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use log::Level;

use crate::conn::body::Body;
use crate::conn::message::Response;
use crate::conn::request_line;
use crate::handler::fields::Fields;
use crate::lifecycle::context::Readiness;

/// Types that a handler may return, because a response can be made from them.
///
/// | type | the response |
/// |---|---|
/// | `&'static str`, `String`, `Cow<'static, str>` | 200, `text/plain; charset=utf-8` |
/// | `Bytes`, `Vec<u8>`, `&'static [u8]` | 200, `application/octet-stream` |
/// | [`Body`], `()` | 200, without a `Content-Type` |
/// | [`File`] | 200, `application/octet-stream`; 500 if its length cannot be read |
/// | `Json<T>` (feature `json`) | 200, `application/json`; 500 if the value cannot be made JSON |
/// | `StatusCode` | that status, with its reason as text |
/// | `HeaderMap` | 200, with these fields |
/// | `http::Response<B>`, any `B: Into<Body>` | unchanged |
/// | `(StatusCode, R)` | that of `R` with another status |
/// | `(fields, R)` | that of `R` with more fields, see [`Fields`] |
/// | `(StatusCode, fields, R)` | that of `R` with both |
/// | `Option<R>` | that of `R`, or 404 |
/// | `Result<R, Failure>` | that of `R`, or that of the [`Failure`] |
/// | `Result<R, StatusCode>` | that of `R`, or that status |
/// | `Result<R, E>`, any other `E: Display` | that of `R`, or 500 with the error in the log only |
///
/// # Errors as values
///
/// When a handler returns an error, the client gets 500 and nothing else, and the error's text goes
/// to the log. The causes are logged with it where its type allows to find them: those of a
/// [`Failure`] and of a `Box<dyn Error>`, and those that a type shows with `{:#}`.
///
/// Three kinds of errors have another response. A [`Failure`] has its own, and a `StatusCode` is
/// one. A [`BodyError`] usually blames the client, with 400, 408 or 413, also when it is inside a
/// `Box<dyn Error>` or an [`io::Error`].
///
/// # Examples
///
/// ```
/// use lameduck::http::{StatusCode, header::LOCATION};
/// use lameduck::IntoResponse;
///
/// let location = [(LOCATION, format!("/jobs/{}", 7))];
/// let moved = (StatusCode::SEE_OTHER, location, "see there\n").into_response();
/// assert_eq!(moved.status(), 303);
/// assert_eq!(moved.headers()["location"], "/jobs/7");
///
/// let failed = std::fs::read_to_string("/there/is/none").into_response();
/// assert_eq!(failed.status(), 500);
///
/// let nothing: Option<&str> = None;
/// assert_eq!(nothing.into_response().status(), 404);
/// ```
///
/// [`BodyError`]: crate::body::BodyError
/// [`Failure`]: crate::response::Failure
/// [`io::Error`]: std::io::Error
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

/// A readiness probe gets 200, or 503 once the server is stopping.
impl IntoResponse for Readiness {
    fn into_response(self) -> Response {
        match self {
            Self::Ready => "ready\n".into_response(),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
        }
    }
}

/// The body is the status and its reason, unless the status must not have a body.
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

impl IntoResponse for Cow<'static, str> {
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

/// The body is the complete file. It is read while the client takes it.
impl IntoResponse for File {
    fn into_response(self) -> Response {
        Body::try_from(self).map(octets).into_response()
    }
}

impl IntoResponse for HeaderMap {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}

/// For results that are never an error.
impl IntoResponse for Infallible {
    fn into_response(self) -> Response {
        match self {}
    }
}

/// `None` is answered with 404.
impl<R: IntoResponse> IntoResponse for Option<R> {
    fn into_response(self) -> Response {
        self.map_or_else(
            || StatusCode::NOT_FOUND.into_response(),
            IntoResponse::into_response,
        )
    }
}

impl<R: IntoResponse> IntoResponse for (StatusCode, R) {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        *response.status_mut() = self.0;
        response
    }
}

impl<F: Fields, R: IntoResponse> IntoResponse for (F, R) {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        match self.0.add_to(response.headers_mut()) {
            Ok(()) => response,
            Err(reason) => internal_error(&reason),
        }
    }
}

impl<F: Fields, R: IntoResponse> IntoResponse for (StatusCode, F, R) {
    fn into_response(self) -> Response {
        // In this order: where the fields cannot be sent, the status is 500 and not this one.
        (self.1, (self.0, self.2)).into_response()
    }
}

/// Returns a 500 without details, and logs the error.
pub(super) fn internal_error(error: &dyn Display) -> Response {
    request_line::log_here(Level::Error, format_args!("a handler failed: {error}"));
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

fn text(body: Body) -> Response {
    with_type(body, "text/plain; charset=utf-8")
}

fn octets(body: Body) -> Response {
    with_type(body, "application/octet-stream")
}

pub(super) fn with_type(body: Body, content_type: &'static str) -> Response {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
