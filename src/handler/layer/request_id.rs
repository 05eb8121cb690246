//! An id for each request, by which it is found in logs.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderName, HeaderValue};

use crate::conn::message::Request;
use crate::conn::request_line;
use crate::handler::layer::{Layer, Next};
use crate::lifecycle::context::Context;

/// Returns a layer that gives each request an id.
///
/// The id is the request's own `X-Request-Id`, if that is 1 to 128 letters, digits and `-_.:/+=@`,
/// and otherwise a new one of 32 hexadecimal digits.
///
/// Handlers read the id with [`Context::request_id`], and an access log inside this layer writes
/// it, as do the lines about a handler that fails or panics. The response carries it in
/// `X-Request-Id`, unless the handler has set that field.
///
/// An id that the client has sent is only as unique as the client makes it.
///
/// # Examples
///
/// ```
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Handler, Request};
///
/// let show = |_request, context: Context| context.request_id().map(str::to_owned);
/// let app = show.layer(layers::request_id());
/// let response = app.handle(Request::default(), Context::root());
/// let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
/// assert_eq!(response.into_body().into_text(100)?, id);
/// # Ok::<(), lameduck::body::BodyError>(())
/// ```
#[must_use]
pub fn request_id() -> impl Layer {
    // The keys are random numbers from the system, so that the ids of two processes differ.
    let (keys, count) = ([RandomState::new(), RandomState::new()], AtomicU64::new(0));
    move |request: Request, context: Context, next: Next<'_>| {
        let given = request
            .headers()
            .get(X_REQUEST_ID)
            .filter(|value| is_valid(value.as_bytes()));
        let id = given.cloned().unwrap_or_else(|| {
            let count = count.fetch_add(1, Relaxed);
            let [high, low] = keys.each_ref().map(|key| key.hash_one(count));
            HeaderValue::try_from(format!("{high:016x}{low:016x}"))
                .expect("hexadecimal digits are a value")
        });
        if let Ok(id) = id.to_str() {
            request_line::set_request_id(id);
        }
        let context = context.with_value(RequestId(id.clone()));
        let mut response = next.run(request, context);
        response.headers_mut().entry(X_REQUEST_ID).or_insert(id);
        response
    }
}

impl Context {
    /// Returns the request's id. `None` without the layer
    /// [`layers::request_id`](crate::layers::request_id), which sets it.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.value::<RequestId>().and_then(|id| id.0.to_str().ok())
    }
}

#[derive(Debug)]
struct RequestId(HeaderValue);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Returns whether the id can stand in any log: it has no byte that a log's format could give a
/// meaning to.
fn is_valid(id: &[u8]) -> bool {
    matches!(id.len(), 1..=128)
        && id
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte))
}
