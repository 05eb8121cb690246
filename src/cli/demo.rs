//! `lameduck demo`: a complete server, to try the library with and to read as an example.
//!
//! From top to bottom: the server, its routes, the handlers of the routes.

use std::io::{self, Read, Write};
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use lameduck::http::header::{
    ALLOW, CONTENT_RANGE, CONTENT_TYPE, PROXY_AUTHENTICATE, UPGRADE, WWW_AUTHENTICATE,
};
use lameduck::http::{HeaderName, HeaderValue, Method, StatusCode};
use lameduck::upgrade::Upgraded;
use lameduck::{Body, Context, IntoResponse, Report, Request, Response, SIGINT, SIGTERM, Server};

use crate::cli::args::DemoOptions;
use crate::cli::query::{Invalid, Query};

/// Serves until a signal stops the server, and returns the report.
pub(crate) fn run(options: DemoOptions) -> lameduck::Result<Report> {
    let mut server = Server::builder()
        .lame_duck(options.lame_duck)
        .grace_period(options.grace_period)
        .idle_grace(options.idle_grace)
        .max_body_bytes(MAX_BODY_BYTES)
        .on_signals([SIGINT, SIGTERM]);
    if let Some(workers) = options.workers {
        server = server.workers(workers);
    }
    server.bind(options.listen)?.run(app)
}

/// The longest body that a request may have: 1 GiB.
const MAX_BODY_BYTES: u64 = 1 << 30;

/// Answers one request.
fn app(request: Request, context: Context) -> Response {
    // HEAD is handled as GET: the server sends the head and leaves out the body.
    let method = if request.method() == Method::HEAD {
        &Method::GET
    } else {
        request.method()
    };
    let query = Query::of(request.uri());
    match (method, request.uri().path()) {
        (_, "/status") => status(query).unwrap_or_else(bad_request("/status?code=418")),
        (method, _) if !is_known(method) => not_implemented(),
        (&Method::GET, "/") => of_type("text/html; charset=utf-8", PAGE),
        (&Method::GET, "/plaintext") => "Hello, World!".into_response(),
        (&Method::GET, "/sleep") => {
            sleep(query, &context).unwrap_or_else(bad_request("/sleep?ms=500"))
        }
        (&Method::GET, "/bytes") => bytes(query).unwrap_or_else(bad_request("/bytes?n=1000000")),
        (&Method::GET, "/chunked") => chunked(context),
        (&Method::GET, "/events") => events(context),
        (&Method::GET, "/shout") => lameduck::upgrade::accept(&request, "shout", shout),
        (&Method::GET, "/headers") => headers(&request),
        (&Method::GET, "/readyz") => context.readiness().into_response(),
        (&Method::GET, "/setheader") => {
            set_header(query).unwrap_or_else(bad_request("/setheader?name=x-duck&value=quack"))
        }
        (&Method::POST | &Method::PUT, "/echo") | (&Method::POST, "/") => echo(request),

        (
            _,
            "/plaintext" | "/sleep" | "/bytes" | "/chunked" | "/events" | "/shout" | "/headers"
            | "/readyz" | "/setheader",
        ) => other_method(method, "GET, HEAD, OPTIONS"),
        (_, "/") => other_method(method, "GET, HEAD, POST, OPTIONS"),
        (_, "/echo") => other_method(method, "POST, PUT, OPTIONS"),
        // The methods of the server itself, not of a route.
        (&Method::OPTIONS, "*") => other_method(method, "GET, HEAD, POST, PUT, OPTIONS"),
        _ => (
            StatusCode::NOT_FOUND,
            "404 Not Found: GET / lists the routes\n",
        )
            .into_response(),
    }
}

/// Holds a worker for a while. It returns at the stop's deadline, when the server has answered 503
/// in its place.
fn sleep(query: Query<'_>, context: &Context) -> Result<Response, Invalid> {
    let duration = Duration::from_millis(query.number("ms", 0..=SLEEP_MILLIS_MAX)?);
    Ok(if context.sleep(duration).is_ok() {
        "slept\n".into_response()
    } else {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    })
}

/// Returns bytes that are made while they are sent, so that no more of them are in memory than the
/// client is about to take.
fn bytes(query: Query<'_>) -> Result<Response, Invalid> {
    let n = query.number("n", 0..=u64::MAX)?;
    Ok(of_type(
        "application/octet-stream",
        Body::sized_reader(Counting { next: 0 }, n),
    ))
}

/// Returns lines with pauses between them. A stop waits for all of them. At its deadline the
/// remaining lines are written without pauses, so that they are still sent in time.
fn chunked(context: Context) -> Response {
    let write_lines = move |client: &mut lameduck::body::BodyWriter<'_>| {
        for line in 1..=LINES {
            writeln!(client, "line {line} of {LINES}")?;
            client.flush()?;
            if line < LINES {
                let _ = context.sleep(LINE_EVERY);
            }
        }
        Ok(())
    };
    of_type("text/plain; charset=utf-8", Body::writer(write_lines))
}

/// Returns a server-sent event each second, for as long as the client stays. The stream has a
/// dedicated thread, and ends when the server starts to drain.
fn events(context: Context) -> Response {
    let write_events = move |client: &mut lameduck::body::BodyWriter<'_>| {
        for n in 1_u64.. {
            write!(client, "data: {n}\n\n")?;
            client.flush()?;
            if context.draining().recv_timeout(EVENT_EVERY) != Err(RecvTimeoutError::Timeout) {
                write!(client, "event: end\ndata: the server stops\n\n")?;
                break;
            }
        }
        Ok(())
    };
    of_type("text/event-stream", Body::stream(write_events))
}

/// Serves an upgraded connection: it sends back the bytes it gets in upper case. A stop makes it
/// send a last line.
fn shout(mut io: Upgraded, _context: Context) {
    io.on_shutdown(|io| {
        let _ = io.write_all(b"GOODBYE\n");
        io.finish();
    });
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = io.read(&mut bytes) {
        bytes[..n].make_ascii_uppercase();
        if io.write_all(&bytes[..n]).is_err() {
            return;
        }
    }
}

/// Returns the fields of the request. The values are sent byte for byte, as they may be in any
/// encoding.
fn headers(request: &Request) -> Response {
    let mut lines = Vec::new();
    for (name, value) in request.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"] {
            lines.extend_from_slice(part);
        }
    }
    of_type("text/plain", lines)
}

/// Returns a response with one more field. The types of `http` allow no line break in it, so it can
/// not become two fields or two responses.
fn set_header(query: Query<'_>) -> Result<Response, Invalid> {
    let name = HeaderName::from_bytes(&query.value("name")?)
        .map_err(|_| Invalid::parameter("name", "is not a field name, as in `x-duck`"))?;
    let value = HeaderValue::from_bytes(&query.value("value")?).map_err(|_| {
        Invalid::parameter(
            "value",
            "is not a field value: it holds a control character",
        )
    })?;
    let mut response = "the field is set\n".into_response();
    response.headers_mut().insert(name, value);
    Ok(response)
}

/// Returns the request's body, which is sent while it still comes in.
fn echo(request: Request) -> Response {
    // A server must not take a partial body for a complete one (RFC 9110 section 14.5).
    if request.headers().contains_key(CONTENT_RANGE) {
        let text =
            "400 Bad Request: a partial body, as Content-Range declares it, is not accepted\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    let mut response = Response::new(request.into_body());
    let content_type = content_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Returns the status in the query, with the field that this status requires.
fn status(query: Query<'_>) -> Result<Response, Invalid> {
    let code = query.number("code", 200..=599)?;
    let status = StatusCode::from_u16(code).expect("200 to 599 are status codes");
    let mut response = status.into_response();
    let field = match status {
        StatusCode::UNAUTHORIZED => Some((WWW_AUTHENTICATE, "Basic realm=\"demo\"")),
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Some((PROXY_AUTHENTICATE, "Basic realm=\"demo\""))
        }
        StatusCode::METHOD_NOT_ALLOWED => Some((ALLOW, "")),
        StatusCode::UPGRADE_REQUIRED => Some((UPGRADE, "HTTP/2.0")),
        _ => None,
    };
    response
        .headers_mut()
        .extend(field.map(|(name, value)| (name, HeaderValue::from_static(value))));
    Ok(response)
}

/// Returns whether the method is one that servers know. Names of methods are case-sensitive.
fn is_known(method: &Method) -> bool {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
        Method::TRACE,
    ];
    known.contains(method)
}

/// Returns the response to a method that no route knows.
fn not_implemented() -> Response {
    (
        StatusCode::NOT_IMPLEMENTED,
        "501 Not Implemented: this server does not know the method\n",
    )
        .into_response()
}

/// Returns a function that makes the response to a wrong query. It shows `example`, which is right.
fn bad_request(example: &'static str) -> impl FnOnce(Invalid) -> Response {
    move |invalid| {
        (
            StatusCode::BAD_REQUEST,
            format!("400 Bad Request: {invalid}; try {example}\n"),
        )
            .into_response()
    }
}

/// Returns the response to OPTIONS, which asks for the allowed methods, and to a method that is not
/// allowed.
fn other_method(method: &Method, allowed: &'static str) -> Response {
    let allow = [(ALLOW, HeaderValue::from_static(allowed))];
    if method == Method::OPTIONS {
        return (allow, ()).into_response();
    }
    let text = format!("405 Method Not Allowed: this route is for {allowed}\n");
    (StatusCode::METHOD_NOT_ALLOWED, (allow, text)).into_response()
}

fn of_type(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Bytes that count from 0 to 250, over and over. The period is prime: a piece that is lost or
/// repeated is likely to be a power of two long, and so always shows.
#[derive(Debug)]
struct Counting {
    next: u8,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for byte in &mut *buffer {
            *byte = self.next;
            self.next = if self.next == 250 { 0 } else { self.next + 1 };
        }
        Ok(buffer.len())
    }
}

const PAGE: &str = include_str!("demo.html");

/// The longest sleep: an hour, which no client waits for on purpose.
const SLEEP_MILLIS_MAX: u64 = 60 * 60 * 1000;

const LINES: u32 = 5;
const LINE_EVERY: Duration = Duration::from_millis(200);
/// The time between two events.
const EVENT_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_on_across_reads() {
        let mut counting = Counting { next: 0 };
        let mut bytes = [0; 600];
        let (first, rest) = bytes.split_at_mut(100);
        assert_eq!(counting.read(first).unwrap(), 100);
        assert_eq!(counting.read(rest).unwrap(), 500);
        assert!(
            bytes
                .iter()
                .zip(0_usize..)
                .all(|(byte, at)| usize::from(*byte) == at % 251)
        );
    }
}
