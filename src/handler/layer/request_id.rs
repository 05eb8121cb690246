//! A name for each request, to find it again in logs.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderName, HeaderValue};

use crate::conn::message::Request;
use crate::handler::layer::{Layer, Next};
use crate::lifecycle::context::Context;

/// Gives each request an id: the one in its `X-Request-Id`, if that is 1 to 128 letters, digits and
/// `-_.:/+=@`, else a new one of 32 hexadecimal digits. Handlers have it from
/// [`Context::request_id`], the access log writes it if this layer is outside of it, and the
/// response carries it, unless it has one of its own.
///
/// What a client sends is only as unique as the client likes.
///
/// # Examples
///
/// ```
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Handler, Request};
///
/// let show = |_request, context: Context| context.request_id().map(str::to_owned);
/// let response = show.layer(layers::request_id()).handle(Request::default(), Context::root());
/// let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
/// assert_eq!(response.into_body().into_text(100)?, id);
/// # Ok::<(), lameduck::body::BodyError>(())
/// ```
#[must_use]
pub fn request_id() -> impl Layer {
    // Keyed with what the system gives at random, so that the ids of two processes differ.
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
        let context = context.with_value(RequestId(id.clone()));
        let mut response = next.run(request, context);
        response.headers_mut().entry(X_REQUEST_ID).or_insert(id);
        response
    }
}

impl Context {
    /// The request's id. `None` without the layer that gives it,
    /// [`layers::request_id`](crate::layers::request_id).
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.value::<RequestId>().and_then(|id| id.0.to_str().ok())
    }
}

#[derive(Debug)]
struct RequestId(HeaderValue);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Nothing that could mean something else in a log.
fn is_valid(id: &[u8]) -> bool {
    matches!(id.len(), 1..=128)
        && id
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte))
}
