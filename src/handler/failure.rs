//! What the client is told in place of a handler's error.

use std::any::Any;
use std::error::Error;
use std::fmt::{self, Display};
use std::io;

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};

use crate::conn::body_error::BodyError;
use crate::conn::message::Response;
use crate::conn::stage;
use crate::handler::into_response::{IntoResponse, internal_error};

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
