//! The response to a request whose handler has failed.
//!
//! An error's text goes to the log and not to the client, unless the program or the type of the
//! error says otherwise.

use std::any::Any;
use std::error::Error;
use std::fmt::{self, Display};
use std::io;

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use log::Level;

use crate::conn::body_error::BodyError;
use crate::conn::message::Response;
use crate::conn::request_line;
use crate::conn::stage;
use crate::handler::into_response::{IntoResponse, internal_error};

/// What a handler returns that answers most errors with 500 and some with another response.
pub type HandlerResult<R> = Result<R, Failure>;

/// An error together with the response that the client gets for it.
///
/// Every error becomes a failure through `?`. The client then gets 500, and the log gets the error
/// with all its causes. [`new`](Self::new) and [`OrAnswer::or_answer`] make a failure with another
/// response.
///
/// A failure is not an [`Error`] itself: that is what allows it to be made from every error.
///
/// # Examples
///
/// ```
/// use lameduck::http::StatusCode;
/// use lameduck::response::{Failure, HandlerResult, OrAnswer};
/// use lameduck::{Context, IntoResponse, Request};
///
/// fn stock(request: Request, _context: Context) -> HandlerResult<String> {
///     // A body that is too long, too slow or not UTF-8 is answered with 4xx.
///     let text = request.into_body().into_text(100)?;
///     let no_number = (StatusCode::BAD_REQUEST, "an item is a number\n");
///     let item: u32 = text.parse().or_answer(no_number)?;
///     if item == 13 {
///         return Err(Failure::new(StatusCode::GONE));
///     }
///     // A file that cannot be read is answered with 500, and the log says why.
///     Ok(std::fs::read_to_string(format!("/nowhere/{item}"))?)
/// }
///
/// let status = |body: &'static str| {
///     let request = Request::new(body.into());
///     stock(request, Context::root()).into_response().status().as_u16()
/// };
/// assert_eq!(status("no number"), 400);
/// assert_eq!(status("13"), 410);
/// assert_eq!(status("7"), 500);
/// ```
pub struct Failure(Box<Response>);

impl Failure {
    /// Returns a failure that is answered with `response` and not logged.
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
            Some(error) => Self::new(refusal(error)),
            None => Self::new(internal_error(&with_causes(&error))),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        *self.0
    }
}

/// Gives an error, or a missing value, a response of its own.
pub trait OrAnswer<T> {
    /// Returns the value, or a [`Failure`] with `response`, for `?`. The error is logged at *debug*
    /// only: the program has expected it.
    ///
    /// # Errors
    ///
    /// If `self` is an error or `None`.
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
            let status = response.status();
            let what = format_args!("a handler answers {status} because of an error: {error}");
            request_line::log_here(Level::Debug, what);
            Failure::new(response)
        })
    }
}

/// The response to an error is that of the [`Failure`].
impl<R: IntoResponse> IntoResponse for Result<R, Failure> {
    fn into_response(self) -> Response {
        self.map_or_else(IntoResponse::into_response, IntoResponse::into_response)
    }
}

/// The response to an error is 500, and the error is logged with its causes. Two types have another
/// response: a `StatusCode` is one, and a [`BodyError`] usually blames the client.
impl<R: IntoResponse, E: Display + 'static> IntoResponse for Result<R, E> {
    fn into_response(self) -> Response {
        let error = match self {
            Ok(response) => return response.into_response(),
            Err(error) => error,
        };
        match (&error as &dyn Any).downcast_ref::<StatusCode>() {
            Some(status) => status.into_response(),
            None => body_error(&error).map_or_else(|| internal_error(&full_text(&error)), refusal),
        }
    }
}

/// The response says what was wrong with the body: 400, 408 or 413, or 500 for a reader of the
/// program that failed.
impl IntoResponse for BodyError {
    fn into_response(self) -> Response {
        refusal(&self)
    }
}

/// Finds the error of a body that could not be read, in whatever it is wrapped.
fn body_error(error: &dyn Any) -> Option<&BodyError> {
    fn of_io(error: &io::Error) -> Option<&BodyError> {
        error.get_ref()?.downcast_ref()
    }
    match boxed(error) {
        Some(error) => error
            .downcast_ref()
            .or_else(|| error.downcast_ref().and_then(of_io)),
        None => error
            .downcast_ref()
            .or_else(|| error.downcast_ref().and_then(of_io)),
    }
}

/// Returns an error's text with its causes. An error of an unknown type is shown in the alternate
/// form, in which types that wrap others usually show those.
fn full_text<E: Display + 'static>(error: &E) -> String {
    boxed(error).map_or_else(|| format!("{error:#}"), with_causes)
}

/// Returns the error in a box, if `error` is a box.
fn boxed(error: &dyn Any) -> Option<&(dyn Error + 'static)> {
    if let Some(boxed) = error.downcast_ref::<Box<dyn Error + Send + Sync>>() {
        return Some(&**boxed);
    }
    error.downcast_ref::<Box<dyn Error>>().map(|boxed| &**boxed)
}

fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Returns the response to a request whose body could not be read.
fn refusal(error: &BodyError) -> Response {
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

/// Returns a response whose body is one line that says why.
pub(crate) fn explain(status: StatusCode, why: &dyn Display) -> Response {
    let reason = status.canonical_reason().unwrap_or_default();
    (status, format!("{} {reason}: {why}\n", status.as_str())).into_response()
}

/// Returns a 503 that says why, and with `Retry-After` when to try again.
pub(crate) fn unavailable(why: &dyn Display) -> Response {
    let mut response = explain(StatusCode::SERVICE_UNAVAILABLE, why);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static(stage::RETRY_AFTER));
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
        assert_eq!(full_text::<Box<dyn Error>>(&error().into()), text);
        assert_eq!(
            full_text::<Box<dyn Error + Send + Sync>>(&error().into()),
            text
        );
        assert_eq!(full_text(&"only a text"), "only a text");
    }
}
