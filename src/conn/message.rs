//! Requests and responses as handlers see them.

use crate::conn::body::Body;
#[cfg(doc)]
use crate::lifecycle::context::Context;

/// What a handler is given: a method, a target, fields as they were sent, and a [`Body`].
///
/// It has passed the rules of RFC 9112: there is one valid `Host` in HTTP/1.1, its framing cannot
/// be read in two ways, and it is within the server's limits. Who has sent it is in the
/// [`Context`].
pub type Request = http::Request<Body>;

/// What a handler gives: a status, fields and a [`Body`]. Most are made by
/// [`IntoResponse`](crate::IntoResponse).
///
/// What concerns the connection is the server's to write: `Date`, `Connection`,
/// `Transfer-Encoding`, `Content-Length`. A handler's `Connection: close` is heeded; a
/// `Content-Length` of its own that is not its body's length makes the response 500, or cuts one
/// that has begun. To HEAD, and with 204 and 304, no body is sent (RFC 9112 section 6.3).
pub type Response = http::Response<Body>;
