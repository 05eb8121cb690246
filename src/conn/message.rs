//! Requests and responses as handlers see them.

use crate::conn::body::Body;
#[cfg(doc)]
use crate::lifecycle::context::Context;

/// The request that a handler is given: a method, a target, fields as the client sent them, and a
/// [`Body`].
///
/// It has passed the rules of RFC 9112: in HTTP/1.1 there is one valid `Host`, its framing cannot
/// be read in two ways, and it is within the server's limits. The [`Context`] says which client has
/// sent it.
pub type Request = http::Request<Body>;

/// The response that a handler returns: a status, fields and a [`Body`]. Most are made by
/// [`IntoResponse`](crate::IntoResponse).
///
/// The server writes the fields that concern the connection: `Date`, `Connection`,
/// `Transfer-Encoding`, `Content-Length`. It honours a handler's `Connection: close`. If a handler
/// sets a `Content-Length` that is not its body's length, the client gets 500, or sees a response
/// that has begun cut off. In response to HEAD, and with 204 and 304, no body is sent (RFC 9112
/// section 6.3).
pub type Response = http::Response<Body>;
