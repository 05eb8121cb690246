//! Layers that answer in place of a handler: when there is too much, or it is too late.

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

/// Gives handlers `timeout` to answer.
///
/// A handler cannot be stopped from outside: it is told, by a context that is
/// [cancelled](Context::cancelled) with [`CancelReason::Deadline`] and whose [`wait`](Context::sleep) ends
/// then. The client waits until it returns. If that is too late, and the response is not already an
/// error (4xx, 5xx), it is dropped and the client gets 503 with `Retry-After`: what a client is
/// told succeeded, it was told in time. What the handler has done stays done.
///
/// The time ends when the handler returns; a body that is read or written behind that is not
/// limited. A [`Duration::MAX`] is no limit.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Handler, Request};
///
/// let slow = |_request, context: Context| if context.sleep(Duration::from_secs(1000)).is_ok() { "rested" } else { "woken" };
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
            return unavailable(&"it takes too long");
        }
        response
    }
}

/// Lets no request body be longer than `max` bytes.
///
/// One that says that it is longer is answered with 413 at once; a client that waits for
/// `100 Continue` does not send it. Where the length is not declared, reading ends beyond `max`
/// with an error, which [`into_bytes`](crate::Body::into_bytes) and the others make 413 of.
///
/// # Examples
///
/// ```
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Handler, Request};
///
/// let app = (|_request, _context| "taken").layer(layers::body_limit(4));
/// assert_eq!(app.handle(Request::new("1234".into()), Context::root()).status(), 200);
/// assert_eq!(app.handle(Request::new("12345".into()), Context::root()).status(), 413);
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

/// Lets at most `n` requests at a time into what is inside; others get 503 with `Retry-After` at
/// once. For what must not take all workers.
///
/// A request is inside until its handler returns; sending a response's body does not count.
///
/// # Examples
///
/// ```
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Handler, Request};
///
/// let app = (|_request, _context| "served").layer(layers::concurrency_limit(0));
/// let response = app.handle(Request::default(), Context::root());
/// assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"1".parse().unwrap()));
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
        // Left also when the handler panics.
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

/// Answers 503 with `Retry-After` once the server is stopping ([`Context::readiness`]): for routes
/// that begin what should not begin now, because another server can take it.
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
