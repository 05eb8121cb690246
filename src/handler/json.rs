//! JSON as a response.

use crate::conn::message::Response;
use crate::handler::into_response::{IntoResponse, internal_error, with_type};

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
