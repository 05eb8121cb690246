//! The access log: one line for each request.

use std::time::SystemTime;

use http::header::{REFERER, USER_AGENT};
use http::{HeaderMap, HeaderName, Method, Uri, Version};

use crate::conn::message::Request;
use crate::conn::response::is_panic;
use crate::handler::layer::{Layer, Next};
use crate::lifecycle::context::Context;
use crate::sys::clock::Clock;
use crate::sys::panics;
use crate::wire::framing::{Framing, response_framing};

/// Returns a layer that logs each request at *info*, with the target `lameduck::access`.
///
/// Nothing else in this crate logs at *info* for each request.
///
/// The message is a line in the Combined Log Format of web servers, with the peer's address first.
/// The record's key-values say the same, for loggers that write JSON: `peer`, `method`, `uri`,
/// `version`, `status`, `bytes`, `duration_us`, `referer`, `user_agent` and `request_id`. A value
/// that is not known is `-` in the line and null among the key-values; the request id is not in the
/// line.
///
/// The line is written when the handler returns. `bytes` is the length of the response's body if it
/// is known by then, whether or not the client takes it, and 0 where the client gets no body, as in
/// the response to HEAD. `duration_us` is the time that the handler
/// has taken, in microseconds. A handler that panics is logged with 500.
///
/// Bytes of the request that could break a line or a quotation are written as `\xNN`.
///
/// # Examples
///
/// ```
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Request};
///
/// fn hello(_request: Request, _context: Context) -> &'static str {
///     "hello\n"
/// }
///
/// let app = hello.layer(layers::access_log()).layer(layers::request_id());
/// # let _ = app;
/// // 127.0.0.1 - - [21/Nov/2026:10:31:07 +0000] "GET / HTTP/1.1" 200 6 "-" "-"
/// ```
#[must_use]
pub fn access_log() -> impl Layer {
    |request: Request, context: Context, next: Next<'_>| {
        if !log::log_enabled!(target: TARGET, log::Level::Info) {
            return next.run(request, context);
        }
        let logged = Logged {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            referer: text_of(request.headers(), REFERER),
            user_agent: text_of(request.headers(), USER_AGENT),
        };
        let clock = Clock::System;
        let began = clock.now();
        let response = next.run(request, context.clone());
        let micros = u64::try_from(clock.now().saturating_duration_since(began).as_micros())
            .unwrap_or(u64::MAX);
        // What stands for a panic is no body of the handler's.
        let len = response.body().len().filter(|_| !is_panic(&response));
        let framing = response_framing(&logged.method, logged.version, response.status(), len);
        let bytes = match framing {
            Framing::Empty => Some(0),
            Framing::Length(len) => Some(len),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let status = response.status().as_u16();
        // A logger that panics costs its line, and not the response.
        let _ = panics::catch(|| logged.log(&context, status, bytes, micros, clock.wall()));
        response
    }
}

const TARGET: &str = "lameduck::access";

/// The parts of a request that the log shows.
struct Logged {
    method: Method,
    uri: Uri,
    version: Version,
    referer: Option<String>,
    user_agent: Option<String>,
}

impl Logged {
    fn log(
        &self,
        context: &Context,
        status: u16,
        bytes: Option<u64>,
        micros: u64,
        now: SystemTime,
    ) {
        let Self {
            method,
            uri,
            version,
            referer,
            user_agent,
        } = self;
        let (uri, version) = (uri.to_string(), format!("{version:?}"));
        let peer = context.peer_addr().map(|peer| peer.ip().to_string());
        let line = format_args!(
            r#"{} - - [{}] "{method} {uri} {version}" {status} {} "{}" "{}""#,
            peer.as_deref().unwrap_or("-"),
            time(now),
            bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
            referer.as_deref().unwrap_or("-"),
            user_agent.as_deref().unwrap_or("-"),
        );
        log::info!(
            target: TARGET,
            peer = peer.as_deref(),
            method = method.as_str(),
            uri = uri,
            version = version,
            status = status,
            bytes = bytes,
            duration_us = micros,
            referer = referer.as_deref(),
            user_agent = user_agent.as_deref(),
            request_id = context.request_id();
            "{line}"
        );
    }
}

/// Returns a field's value, which may be any bytes, as text without a quotation mark or line break.
fn text_of(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let value = headers.get(name)?.as_bytes();
    let mut text = String::with_capacity(value.len());
    for &byte in value {
        if matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    Some(text)
}

/// Returns the time as web servers log it: `21/Nov/2026:10:31:07 +0000`.
fn time(now: SystemTime) -> String {
    // The parts of `Sat, 21 Nov 2026 10:31:07 GMT` have fixed places (RFC 9110 section 5.6.7).
    let date = httpdate::fmt_http_date(now);
    format!(
        "{}/{}/{}:{} +0000",
        &date[5..7],
        &date[8..11],
        &date[12..16],
        &date[17..25]
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;
    use http::header::USER_AGENT;

    use super::*;

    #[test]
    fn the_time_is_as_web_servers_write_it() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(time(at), "06/Nov/1994:08:49:37 +0000");
    }

    #[test]
    fn no_value_ends_a_quotation_or_a_line() {
        let value = HeaderValue::from_bytes(b"a\"b\\c\td\xff").unwrap();
        let headers = HeaderMap::from_iter([(USER_AGENT, value)]);
        assert_eq!(
            text_of(&headers, USER_AGENT).unwrap(),
            r"a\x22b\x5cc\x09d\xff"
        );
    }
}
