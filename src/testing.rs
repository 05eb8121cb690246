//! A server and a client for tests of programs that use this crate. The server listens on a free
//! port, and fails the test if it does not stop cleanly.
//!
//! # Examples
//!
//! ```
//! use lameduck::testing::TestServer;
//! use lameduck::{Context, IntoResponse, Request};
//!
//! fn echo(request: Request, _context: Context) -> impl IntoResponse {
//!     request.into_body()
//! }
//!
//! let server = TestServer::start(echo);
//! let response = server.post("/", "quack");
//! assert_eq!(response.status, 200);
//! assert_eq!(response.text(), "quack");
//! // The server is dropped here. That stops it, and panics if a request was cut.
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};

use crate::handler::Handler;
use crate::lifecycle::report::Report;
use crate::server::{Running, Server, ServerBuilder, ServerHandle};
use crate::sys::clock::Clock;

/// A server on a free port of the loopback interface, for one test.
///
/// Dropping it stops the server within 10 s, and panics with the report if the stop was not clean:
/// if a request was cut, or a handler is stuck. In a test that is panicking already, dropping only
/// begins the stop.
#[derive(Debug)]
#[must_use = "dropping it stops the server"]
pub struct TestServer {
    /// `None` once the server was stopped.
    running: Option<Running>,
    addr: SocketAddr,
}

impl TestServer {
    /// Starts a server with four workers, which closes idle connections at once when it stops.
    ///
    /// # Panics
    ///
    /// If the server cannot start.
    #[track_caller]
    pub fn start(handler: impl Handler) -> Self {
        Self::with(
            Server::builder().workers(4).idle_grace(Duration::ZERO),
            handler,
        )
    }

    /// Starts a server with the settings of `builder`.
    ///
    /// # Panics
    ///
    /// If the server cannot start.
    #[track_caller]
    pub fn with(builder: ServerBuilder, handler: impl Handler) -> Self {
        let running = builder
            .bind("127.0.0.1:0")
            .and_then(|bound| bound.spawn(handler));
        let running = running
            .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        Self {
            addr: running.local_addr(),
            running: Some(running),
        }
    }

    /// Returns the address that the server listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the server's URL, without a slash at the end: `http://127.0.0.1:41234`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns a handle, for example to stop the server while a request is in flight.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.running
            .as_ref()
            .expect("only `shutdown`, which consumes it, takes it")
            .handle()
    }

    /// Sends GET for `path`, which may have a query, and waits for the response.
    ///
    /// # Panics
    ///
    /// In the cases in which [`request`](Self::request) does.
    #[allow(
        clippy::must_use_candidate,
        reason = "a test may need no more than the request"
    )]
    #[track_caller]
    pub fn get(&self, path: &str) -> TestResponse {
        self.request(request_of(Method::GET, path, &[]))
    }

    /// Sends POST with `body` to `path`, and waits for the response.
    ///
    /// # Panics
    ///
    /// In the cases in which [`request`](Self::request) does.
    #[track_caller]
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> TestResponse {
        self.request(request_of(Method::POST, path, body.as_ref()))
    }

    /// Sends a request, whose URI is a path, and waits for the complete response, for at most 10 s.
    ///
    /// Each request has a connection of its own. The client adds `Host`, `Content-Length` and
    /// `Connection: close`.
    ///
    /// # Panics
    ///
    /// If no response comes, or only a part of one.
    #[track_caller]
    pub fn request(&self, request: Request<impl AsRef<[u8]>>) -> TestResponse {
        let name = format!("{} {}", request.method(), request.uri());
        self.try_request(request)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Sends a request as [`request`](Self::request) does, but returns an error where that panics:
    /// for tests that expect one, because the server stops.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::TimedOut`] if the response is not complete after 10 s.
    /// * [`ErrorKind::UnexpectedEof`] if only a part of a response comes.
    /// * [`ErrorKind::InvalidData`] if the bytes that come are not a response.
    /// * The connection's own errors.
    pub fn try_request(&self, request: Request<impl AsRef<[u8]>>) -> io::Result<TestResponse> {
        exchange(self.addr, request)
    }

    /// Stops the server with the times set in its builder, waits for the end, and returns the
    /// report, also if the stop was not clean.
    pub fn shutdown(mut self) -> Report {
        let running = self
            .running
            .take()
            .expect("it is taken only here, and when it is dropped");
        running.handle().shutdown()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // A second panic would hide the reason for the first one. Dropping `Running` begins the
        // stop.
        let Some(running) = self.running.take().filter(|_| !std::thread::panicking()) else {
            return;
        };
        let report = running.handle().shutdown_within(LIMIT);
        assert!(report.is_clean(), "{report}");
    }
}

/// A complete response.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TestResponse {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl TestResponse {
    /// Returns the body as text.
    ///
    /// # Panics
    ///
    /// If the body is not UTF-8.
    #[must_use]
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// Returns the value of the first field with this name; case does not matter. `None` if there
    /// is no such field, or if its value is not visible ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The longest time for one exchange, and for the stop. Only a failure takes so long.
const LIMIT: Duration = Duration::from_secs(10);
/// The largest number of header fields in a response.
const MAX_FIELDS: usize = 256;

#[track_caller]
fn request_of<'a>(method: Method, path: &str, body: &'a [u8]) -> Request<&'a [u8]> {
    let request = Request::builder().method(method).uri(path).body(body);
    request.unwrap_or_else(|error| panic!("{path:?} is not a path: {error}"))
}

fn exchange(addr: SocketAddr, request: Request<impl AsRef<[u8]>>) -> io::Result<TestResponse> {
    let until = Clock::System.now() + LIMIT;
    let mut stream = TcpStream::connect_timeout(&addr, LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(LIMIT))?;
    let is_head = request.method() == Method::HEAD;
    let sent = stream.write_all(&encode(addr, request)?);
    // A server may answer, and close, before it has read the complete request.
    let received = read_to_end(&mut stream, until);
    match (sent, received) {
        (Err(error), (received, _)) if received.is_empty() => Err(error),
        (_, (_, Err(error))) => Err(error),
        (_, (received, Ok(()))) => decode(&received, is_head),
    }
}

fn encode(addr: SocketAddr, request: Request<impl AsRef<[u8]>>) -> io::Result<Vec<u8>> {
    let (mut parts, body) = request.into_parts();
    let body = body.as_ref();
    let fields = &mut parts.headers;
    let value = |text: String| HeaderValue::try_from(text).map_err(io::Error::other);
    fields.entry(HOST).or_insert(value(addr.to_string())?);
    fields.insert(CONNECTION, HeaderValue::from_static("close"));
    if !fields.contains_key(TRANSFER_ENCODING) && (!body.is_empty() || parts.method == Method::POST)
    {
        fields
            .entry(CONTENT_LENGTH)
            .or_insert(value(body.len().to_string())?);
    }
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let mut bytes = format!("{} {target} HTTP/1.1\r\n", parts.method).into_bytes();
    for (name, value) in fields {
        for part in [name.as_ref(), b": ".as_slice(), value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    Ok(bytes)
}

/// Returns the bytes that came until the connection ended, and how it ended.
fn read_to_end(stream: &mut TcpStream, until: Instant) -> (Vec<u8>, io::Result<()>) {
    let mut received = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        let left = until.saturating_duration_since(Clock::System.now());
        if left.is_zero() {
            return (received, Err(ErrorKind::TimedOut.into()));
        }
        match stream
            .set_read_timeout(Some(left))
            .and_then(|()| stream.read(&mut piece))
        {
            Ok(0) => return (received, Ok(())),
            Ok(n) => received.extend_from_slice(&piece[..n]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return (received, Err(error)),
        }
    }
}

/// Makes a response of all bytes that came on a connection.
fn decode(mut bytes: &[u8], is_head: bool) -> io::Result<TestResponse> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = head.parse(bytes).map_err(invalid)? else {
            return Err(incomplete("its head"));
        };
        bytes = &bytes[length..];
        let status = StatusCode::from_u16(head.code.unwrap_or_default()).map_err(invalid)?;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        let mut headers = HeaderMap::new();
        for field in &*head.headers {
            let name = HeaderName::try_from(field.name).map_err(invalid)?;
            headers.append(name, HeaderValue::from_bytes(field.value).map_err(invalid)?);
        }
        let bodyless =
            is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = if bodyless {
            Vec::new()
        } else {
            decode_body(bytes, &headers)?
        };
        return Ok(TestResponse {
            status,
            headers,
            body,
        });
    }
}

fn decode_body(bytes: &[u8], headers: &HeaderMap) -> io::Result<Vec<u8>> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return decode_chunked(bytes);
    }
    let Some(length) = headers.get(CONTENT_LENGTH) else {
        return Ok(bytes.to_vec());
    };
    let length: usize = length.to_str().map_err(invalid)?.parse().map_err(invalid)?;
    bytes
        .get(..length)
        .map(<[u8]>::to_vec)
        .ok_or_else(|| incomplete("its body"))
}

fn decode_chunked(mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size =
            httparse::parse_chunk_size(bytes).map_err(|_| invalid("a chunk without a size"))?;
        let httparse::Status::Complete((start, size)) = size else {
            return Err(incomplete("its body"));
        };
        if size == 0 {
            return Ok(body);
        }
        let end = usize::try_from(size)
            .ok()
            .and_then(|size| start.checked_add(size))
            .ok_or_else(|| invalid("a size"))?;
        // The data of a chunk is followed by a line break.
        if bytes.len() < end.saturating_add(2) {
            return Err(incomplete("its body"));
        }
        body.extend_from_slice(&bytes[start..end]);
        bytes = &bytes[end + 2..];
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

fn incomplete(what: &str) -> io::Error {
    io::Error::new(
        ErrorKind::UnexpectedEof,
        format!("the connection ended before the response did, in {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_response_is_never_taken_for_a_complete_one() {
        for complete in [
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nquack",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nqua\r\n2;x=y\r\nck\r\n0\r\n\r\n",
        ] {
            assert_eq!(
                decode(complete.as_bytes(), false).unwrap().text(),
                "quack",
                "{complete}"
            );
            let last = complete.len()
                - if complete.contains("chunked") {
                    "\r\n\r\n".len()
                } else {
                    0
                };
            for end in 0..last {
                let error = decode(&complete.as_bytes()[..end], false).unwrap_err();
                assert_eq!(
                    error.kind(),
                    ErrorKind::UnexpectedEof,
                    "{:?}: {error}",
                    &complete[..end]
                );
            }
        }
    }

    #[test]
    fn a_response_without_a_body_has_none_whatever_it_declares() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(decode(head, true).unwrap().body, b"");
        assert_eq!(
            decode(
                b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
                false
            )
            .unwrap()
            .body,
            b""
        );
        assert_eq!(
            decode(b"HTTP/1.0 200 OK\r\n\r\nto the end", false)
                .unwrap()
                .text(),
            "to the end"
        );
        assert_eq!(
            decode(b"quack\r\n\r\n", false).unwrap_err().kind(),
            ErrorKind::InvalidData
        );
    }
}
