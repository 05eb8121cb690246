//! Layers that limit time, body length and concurrency, and answer in place of the handler.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::conn::body_error::BodyError;
use crate::conn::message::Request;
use crate::handler::failure::unavailable;
use crate::handler::into_response::IntoResponse;
use crate::handler::layer::{Layer, Next};
use crate::lifecycle::context::{Context, Readiness};
use crate::lifecycle::scope::CancelReason;

/// Returns a layer that gives the handler `timeout` to return.
///
/// With [`Duration::MAX`] there is no limit. The handler is not stopped. After `timeout` its
/// context [ends](Context::cancelled), with [`CancelReason::Deadline`], which also ends its
/// [`sleep`](Context::sleep). The client waits until the handler returns. A response that comes too
/// late is dropped, and the client gets 503 with `Retry-After`, unless the response is an error
/// (4xx, 5xx) already. So no client is told late that its request has succeeded; what the handler
/// has done stays done.
///
/// The time does not include reading or writing a body after the handler has returned.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Handler, Request};
///
/// let slow = |_request, context: Context| {
///     // The sleep ends early, but the handler does not say so.
///     let _ = context.sleep(Duration::from_secs(1000));
///     "done"
/// };
/// let app = slow.layer(layers::timeout(Duration::from_millis(5)));
/// assert_eq!(app.handle(Request::default(), Context::root()).status(), 503);
/// ```
#[must_use]
pub fn timeout(timeout: Duration) -> impl Layer {
    move |request: Request, context: Context, next: Next<'_>| {
        let limited = context.with_timeout(timeout);
        let response = next.run(request, limited.clone());
        let status = response.status();
        let is_late = limited.reason() == Some(CancelReason::Deadline) && !context.is_cancelled();
        if is_late && !status.is_client_error() && !status.is_server_error() {
            return unavailable(&"the handler took too long");
        }
        response
    }
}

/// Returns a layer that limits request bodies to `max` bytes.
///
/// A request that declares a longer body is answered with 413 at once, and a client that waits for
/// `100 Continue` does not send the body. If the length is not declared, reading beyond `max` fails
/// with a [`BodyError`], which becomes a 413 if the handler returns it.
///
/// # Examples
///
/// ```
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Handler, Request};
///
/// let app = (|_request, _context| "taken").layer(layers::body_limit(4));
/// let status = |body: &'static str| {
///     app.handle(Request::new(body.into()), Context::root()).status()
/// };
/// assert_eq!(status("1234"), 200);
/// assert_eq!(status("12345"), 413);
/// ```
#[must_use]
pub fn body_limit(max: u64) -> impl Layer {
    move |mut request: Request, context: Context, next: Next<'_>| {
        if request.body().len().is_some_and(|len| len > max) {
            return BodyError::TooLong { max }.into_response();
        }
        request.body_mut().limit(max);
        next.run(request, context)
    }
}

/// Returns a layer that passes on at most `n` requests at a time.
///
/// Other requests get 503 with `Retry-After` at once. This is for handlers that must not take all
/// workers.
///
/// A request counts until its handler returns; sending the response's body does not count.
///
/// # Examples
///
/// ```
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Handler, Request};
///
/// let app = (|_request, _context| "served").layer(layers::concurrency_limit(0));
/// let response = app.handle(Request::default(), Context::root());
/// assert_eq!(response.status(), 503);
/// assert_eq!(response.headers()["retry-after"], "1");
/// ```
#[must_use]
pub fn concurrency_limit(n: usize) -> impl Layer {
    let inside = AtomicUsize::new(0);
    move |request: Request, context: Context, next: Next<'_>| {
        let entered = inside.fetch_update(Relaxed, Relaxed, |inside| {
            (inside < n).then_some(inside + 1)
        });
        if entered.is_err() {
            return unavailable(&"too many requests of this kind are being served");
        }
        // Dropped when the handler panics, too.
        let _inside = Inside(&inside);
        next.run(request, context)
    }
}

struct Inside<'a>(&'a AtomicUsize);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Returns a layer that answers 503 with `Retry-After` once the server is stopping.
///
/// It asks [`Context::readiness`], and is for routes that begin work which another server had
/// better take.
///
/// # Examples
///
/// ```
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Handler, Request};
///
/// let app = (|_request, _context| "begun").layer(layers::ready_only());
/// let program = Context::root();
/// assert_eq!(app.handle(Request::default(), program.clone()).status(), 200);
/// program.cancel();
/// assert_eq!(app.handle(Request::default(), program).status(), 503);
/// ```
#[must_use]
pub fn ready_only() -> impl Layer {
    |request: Request, context: Context, next: Next<'_>| match context.readiness() {
        Readiness::Ready => next.run(request, context),
        Readiness::Stopping => unavailable(&"this server is stopping"),
    }
}
