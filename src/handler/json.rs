//! A value as a JSON response.

use crate::conn::message::Response;
use crate::handler::into_response::{IntoResponse, internal_error, with_type};

/// A response that is a value as JSON, with the `Content-Type` `application/json`. Its opposite is
/// [`Body::into_json`](crate::Body::into_json), which reads one.
///
/// The client gets 500 if the value cannot be made JSON.
///
/// # Examples
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    clippy::exhaustive_structs,
    reason = "it is its value, and is made by writing it"
)]
pub struct Json<T>(pub T);

impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => with_type(bytes.into(), "application/json"),
            Err(error) => internal_error(&error),
        }
    }
}
