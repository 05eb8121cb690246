//! The response to a request for another protocol.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

use crate::conn::body::{Body, Kind};
use crate::conn::message::{Request, Response};
use crate::conn::upgraded::Upgraded;
use crate::lifecycle::context::{AddedItems, Context};
use crate::wire::syntax::members;

/// Returns a response that answers `101 Switching Protocols` and then runs `run` with the
/// connection, on a dedicated thread. It is for WebSocket and every other protocol that begins as
/// HTTP (RFC 9110 section 7.8).
///
/// The handler may add fields that the protocol needs, such as `Sec-WebSocket-Accept`. A client
/// that has not asked for `protocol` gets 426 with the `Upgrade` field; while the server drains, or
/// when [`max_dedicated_threads`](crate::ServerBuilder::max_dedicated_threads) are busy, the client
/// gets 503.
///
/// The context that `run` gets is the connection's, with the parameters and the values that the
/// context of the handler had that calls this. A deadline that a layer has set does not apply to it.
///
/// A body of the request that the handler has not read is read and dropped before the 101; if it is
/// longer than 256 KiB, the client gets 413.
///
/// A stopping server notifies the connection ([`Context::draining`], [`Upgraded::on_shutdown`]),
/// waits for it, and resets it at the deadline; the report counts all three. When `run` returns,
/// the connection closes like any other.
///
/// # Panics
///
/// Panics if `protocol` has bytes that no field value may have.
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
/// use lameduck::upgrade::Upgraded;
/// use lameduck::{Context, Request, Response, Server};
///
/// fn shout(request: Request, _context: Context) -> Response {
///     lameduck::upgrade::accept(&request, "shout", |mut io: Upgraded, _context| {
///         let mut bytes = [0; 1024];
///         while let Ok(n @ 1..) = io.read(&mut bytes) {
///             bytes[..n].make_ascii_uppercase();
///             if io.write_all(&bytes[..n]).is_err() {
///                 return;
///             }
///         }
///     })
/// }
///
/// let server = Server::builder().bind("127.0.0.1:0")?.spawn(shout)?;
/// let mut client = std::net::TcpStream::connect(server.local_addr()).unwrap();
/// let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n";
/// client.write_all(request.as_bytes()).unwrap();
/// client.write_all(b"hello").unwrap();
/// client.shutdown(std::net::Shutdown::Write).unwrap();
/// let mut answer = String::new();
/// client.read_to_string(&mut answer).unwrap();
/// assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
/// assert!(answer.ends_with("\r\n\r\nHELLO"), "{answer}");
/// # Ok::<(), lameduck::Error>(())
/// ```
#[must_use]
pub fn accept(
    request: &Request,
    protocol: &str,
    run: impl FnOnce(Upgraded, Context) + Send + 'static,
) -> Response {
    let value = HeaderValue::from_str(protocol).expect("a protocol's name is a field value");
    let asked = request.version() == Version::HTTP_11
        && names(request.headers(), &CONNECTION, "upgrade")
        && names(request.headers(), &UPGRADE, protocol);
    let mut response = if asked {
        let added = AddedItems::of_caller();
        let run = |io, context| run(io, added.add_to(context));
        Response::new(Body::of(Kind::Upgrade(Box::new(run))))
    } else {
        Response::new(Body::from(format!(
            "this resource is for clients that ask for {protocol}\n"
        )))
    };
    *response.status_mut() = if asked {
        StatusCode::SWITCHING_PROTOCOLS
    } else {
        StatusCode::UPGRADE_REQUIRED
    };
    response.headers_mut().insert(UPGRADE, value);
    response
}

/// Whether the list in a field has this name.
fn names(headers: &HeaderMap, field: &HeaderName, name: &str) -> bool {
    members(headers, field).any(|member| member.eq_ignore_ascii_case(name.as_bytes()))
}
