//! What a handler is, and what it may return.

use std::any::Any;
use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::{self, Display};
use std::fs::File;
use std::io;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::conn::body::Body;
use crate::conn::body_error::BodyError;
use crate::conn::message::Request;
use crate::conn::message::Response;
use crate::conn::stage;
use crate::lifecycle::context::{Context, Readiness};

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

/// What can be made a response of.
///
/// | from | the response |
/// |---|---|
/// | `&'static str`, `String`, `Cow<'static, str>` | 200, `text/plain; charset=utf-8` |
/// | `Bytes`, `Vec<u8>`, `&'static [u8]` | 200, `application/octet-stream` |
/// | [`Body`], `()` | 200, without a `Content-Type` |
/// | [`File`] | 200, `application/octet-stream`; 500 if its length cannot be read |
/// | `Json<T>` (feature `json`) | 200, `application/json`; 500 if it cannot be made JSON |
/// | [`StatusCode`] | that, with its reason as text |
/// | [`HeaderMap`] | 200, with these fields |
/// | [`http::Response`] | as it is |
/// | `(StatusCode, R)`, `(fields, R)`, `(StatusCode, fields, R)` | that of `R`, with another status and more fields: see [`Fields`] |
/// | `Option<R>` | that of `R`, or 404 |
/// | `Result<R, Failure>` | that of `R`, or the one the [`Failure`] has |
/// | `Result<R, StatusCode>` | that of `R`, or that status |
/// | `Result<R, E>` with any other `E: Display` | that of `R`, or 500 with the error in the log only |
///
/// # Errors as values
///
/// Whatever a handler fails with, the client is told 500 and nothing more, and the log its text;
/// with the causes, where the type lets them be found: of a [`Failure`], a `Box<dyn Error>`, and
/// what shows them with `{:#}`. Three kinds of errors are answered otherwise: a [`Failure`], which
/// has its own response; a [`StatusCode`]; and a [`BodyError`], which is the client's doing, as it
/// is or inside a `Box<dyn Error>` or an [`io::Error`].
///
/// # Examples
///
/// ```
/// use lameduck::http::{StatusCode, header::LOCATION};
/// use lameduck::IntoResponse;
///
/// let moved = (StatusCode::SEE_OTHER, [(LOCATION, format!("/jobs/{}", 7))], "see there\n").into_response();
/// assert_eq!((moved.status().as_u16(), &moved.headers()[LOCATION]), (303, &"/jobs/7".parse().unwrap()));
///
/// let failed = std::fs::read_to_string("/there/is/none").into_response();
/// assert_eq!(failed.status(), 500);
///
/// let nothing: Option<&str> = None;
/// assert_eq!(nothing.into_response().status(), 404);
/// ```
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

/// The whole file, read as the client takes it.
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

/// What cannot happen needs no response.
impl IntoResponse for Infallible {
    fn into_response(self) -> Response {
        match self {}
    }
}

/// None is 404.
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
        let mut response = self.2.into_response();
        *response.status_mut() = self.0;
        match self.1.add_to(response.headers_mut()) {
            Ok(()) => response,
            Err(reason) => internal_error(&reason),
        }
    }
}

/// Header fields beside what a handler returns: a [`HeaderMap`], or an array of names and values.
///
/// They replace fields of the same name; one that comes several times among them, as `Set-Cookie`
/// may, is sent as often. Values may be texts, which must be ones that a field can hold: with a
/// line break in one the response is 500 instead.
pub trait Fields: sealed::Sealed {
    /// Sets them, or says why one cannot be.
    #[doc(hidden)]
    fn add_to(self, headers: &mut HeaderMap) -> Result<(), String>;
}

impl Fields for HeaderMap {
    fn add_to(self, headers: &mut HeaderMap) -> Result<(), String> {
        headers.extend(self);
        Ok(())
    }
}

impl<V, const N: usize> Fields for [(HeaderName, V); N]
where
    V: TryInto<HeaderValue>,
    V::Error: Display,
{
    fn add_to(self, headers: &mut HeaderMap) -> Result<(), String> {
        let names: [HeaderName; N] = std::array::from_fn(|i| self[i].0.clone());
        for (i, (name, value)) in self.into_iter().enumerate() {
            let value = value
                .try_into()
                .map_err(|error| format!("a value of the field {name} cannot be sent: {error}"))?;
            if names[..i].contains(&name) {
                headers.append(name, value);
            } else {
                headers.insert(name, value);
            }
        }
        Ok(())
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for http::HeaderMap {}
    impl<V, const N: usize> Sealed for [(http::HeaderName, V); N] {}
}

/// What a handler returns that answers most errors with 500 and some otherwise.
pub type HandlerResult<R> = Result<R, Failure>;

/// Why a handler has no answer, and what the client is told instead.
///
/// Any error becomes one through `?`: the client then gets 500, and the log the error with all its
/// causes. For another response see [`new`](Self::new) and [`OrAnswer::or_answer`].
///
/// It is no [`Error`] itself and has no text: that is what lets it be made of every error.
///
/// # Examples
///
/// ```
/// use lameduck::http::StatusCode;
/// use lameduck::response::{Failure, HandlerResult, OrAnswer};
/// use lameduck::{Body, Context, IntoResponse, Request};
///
/// fn stock(request: Request, _context: Context) -> HandlerResult<impl IntoResponse> {
///     // Too long, not UTF-8, too slow: the client's doing, and answered so.
///     let text = request.into_body().into_text(100)?;
///     let item: u32 = text.parse().or_answer((StatusCode::BAD_REQUEST, "an item is a number\n"))?;
///     if item == 13 {
///         return Err(Failure::new(StatusCode::GONE));
///     }
///     let pieces = std::fs::read_to_string(format!("/nowhere/{item}"))?; // 500, and a line in the log
///     Ok(pieces)
/// }
///
/// let status = |body: &'static str| {
///     stock(Request::new(body.into()), Context::root()).into_response().status().as_u16()
/// };
/// assert_eq!((status("no number"), status("13"), status("7")), (400, 410, 500));
/// ```
pub struct Failure(Box<Response>);

impl Failure {
    /// One that is answered with `response`, of which the log says nothing.
    #[must_use]
    pub fn new(response: impl IntoResponse) -> Self {
        Self(Box::new(response.into_response()))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Failure").field(&self.0.status()).finish()
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        match body_error(&error) {
            Some(error) => Self::new(tell(error)),
            None => Self::new(internal_error(&with_causes(&error))),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        *self.0
    }
}

/// Says what a client is told in place of an error, or of nothing.
pub trait OrAnswer<T> {
    /// The value, or a [`Failure`] with `response`, for `?`. An error is logged at *debug*: that it
    /// can be answered means that it was expected.
    ///
    /// # Errors
    ///
    /// If there is no value.
    fn or_answer(self, response: impl IntoResponse) -> Result<T, Failure>;
}

impl<T> OrAnswer<T> for Option<T> {
    fn or_answer(self, response: impl IntoResponse) -> Result<T, Failure> {
        self.ok_or_else(|| Failure::new(response))
    }
}

impl<T, E: Display> OrAnswer<T> for Result<T, E> {
    fn or_answer(self, response: impl IntoResponse) -> Result<T, Failure> {
        self.map_err(|error| {
            let response = response.into_response();
            log::debug!(
                "a handler answers {} because of an error: {error}",
                response.status()
            );
            Failure::new(response)
        })
    }
}

/// A [`Failure`] has its own response.
impl<R: IntoResponse> IntoResponse for Result<R, Failure> {
    fn into_response(self) -> Response {
        self.map_or_else(IntoResponse::into_response, IntoResponse::into_response)
    }
}

/// An error is logged with all it says, and the client is told 500 and nothing else; but for a
/// [`StatusCode`], which is told as it is, and a [`BodyError`], which is the client's doing.
impl<R: IntoResponse, E: Display + 'static> IntoResponse for Result<R, E> {
    fn into_response(self) -> Response {
        let error = match self {
            Ok(response) => return response.into_response(),
            Err(error) => error,
        };
        match (&error as &dyn Any).downcast_ref::<StatusCode>() {
            Some(status) => status.into_response(),
            None => body_error(&error).map_or_else(|| internal_error(&all_of(&error)), tell),
        }
    }
}

/// Says what was wrong with the body: 413, 400, 408.
impl IntoResponse for BodyError {
    fn into_response(self) -> Response {
        tell(&self)
    }
}

/// A body that could not be read whole, whatever the error is in.
fn body_error(error: &dyn Any) -> Option<&BodyError> {
    fn of_io(error: &io::Error) -> Option<&BodyError> {
        error.get_ref()?.downcast_ref()
    }
    if let Some(boxed) = error.downcast_ref::<Box<dyn Error + Send + Sync>>() {
        boxed
            .downcast_ref()
            .or_else(|| boxed.downcast_ref().and_then(of_io))
    } else if let Some(boxed) = error.downcast_ref::<Box<dyn Error>>() {
        boxed
            .downcast_ref()
            .or_else(|| boxed.downcast_ref().and_then(of_io))
    } else {
        error
            .downcast_ref()
            .or_else(|| error.downcast_ref().and_then(of_io))
    }
}

/// An error's text, with the causes of one that is in a box. Types that hold others show those in
/// the alternate form.
fn all_of<E: Display + 'static>(error: &E) -> String {
    let any: &dyn Any = error;
    if let Some(boxed) = any.downcast_ref::<Box<dyn Error + Send + Sync>>() {
        with_causes(&**boxed)
    } else if let Some(boxed) = any.downcast_ref::<Box<dyn Error>>() {
        with_causes(&**boxed)
    } else {
        format!("{error:#}")
    }
}

fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn tell(error: &BodyError) -> Response {
    let status = match error {
        BodyError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
        BodyError::Malformed { .. } | BodyError::Broken(_) | BodyError::Gone(_) => {
            StatusCode::BAD_REQUEST
        }
        BodyError::Failed(source) => return internal_error(&format_args!("{error}: {source}")),
    };
    let detail = match error {
        BodyError::Malformed { source, .. } => format!(": {source}"),
        BodyError::Broken(source) => format!(": {source}"),
        _ => String::new(),
    };
    explain(status, &format_args!("{error}{detail}"))
}

/// A response that says why, in a line.
pub(crate) fn explain(status: StatusCode, why: &dyn Display) -> Response {
    let reason = status.canonical_reason().unwrap_or_default();
    (status, format!("{} {reason}: {why}\n", status.as_str())).into_response()
}

/// 503 for a moment, and when to come again.
pub(crate) fn unavailable(why: &dyn Display) -> Response {
    let mut response = explain(StatusCode::SERVICE_UNAVAILABLE, why);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static(stage::RETRY_AFTER));
    response
}

fn internal_error(error: &dyn Display) -> Response {
    log::error!("a handler failed: {error}");
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

/// A value as JSON: `application/json`. Reading one is [`Body::into_json`].
///
/// ```
/// use lameduck::response::Json;
/// use lameduck::{Body, IntoResponse};
///
/// let response = Json([1, 2]).into_response();
/// assert_eq!(response.headers()["content-type"], "application/json");
/// assert_eq!(response.into_body().into_text(Body::MAX_BYTES)?, "[1,2]");
/// # Ok::<(), lameduck::body::BodyError>(())
/// ```
#[cfg(feature = "json")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    clippy::exhaustive_structs,
    reason = "it is its value, and is made by writing it"
)]
pub struct Json<T>(pub T);

#[cfg(feature = "json")]
impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => with_type(bytes.into(), "application/json"),
            Err(error) => internal_error(&error),
        }
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
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_gets_an_error_with_its_causes() {
        let error = || BodyError::Failed(io::Error::other("the disk is gone"));
        let text = "cannot read a body: the disk is gone";
        assert_eq!(with_causes(&error()), text);
        assert_eq!(all_of::<Box<dyn Error>>(&error().into()), text);
        assert_eq!(
            all_of::<Box<dyn Error + Send + Sync>>(&error().into()),
            text
        );
        assert_eq!(all_of(&"only a text"), "only a text");
    }
}
