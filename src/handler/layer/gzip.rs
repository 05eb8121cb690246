//! Responses compressed with gzip.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::conn::body::{Body, Kind};
use crate::conn::message::{Request, Response};
use crate::handler::layer::{Layer, Next};
use crate::lifecycle::context::Context;

/// Returns a layer that compresses responses with gzip, if the request's `Accept-Encoding` allows
/// it.
///
/// It compresses bodies of 1 KiB or more, and of unknown length, of a type that compresses well:
/// `text/*`, JSON, JavaScript, XML, SVG, WebAssembly, and types that end in `+json` or `+xml`. The
/// response is chunked and compressed piece by piece while the client takes it; of a body whose
/// length is not known each piece is sent as it comes, so that lines which are made one at a time
/// are not held back. The response to HEAD has the fields of the response to GET.
///
/// It leaves these responses alone: 204, 205 and 206; those with a `Content-Encoding`, a
/// `Content-Range` or `Cache-Control: no-transform`; `text/event-stream`; and bodies that a closure
/// writes or that come straight from a client.
///
/// A response of such a type gets `Vary: Accept-Encoding`, compressed or not. What a compressed
/// response says of the original bytes changes: a strong `ETag` becomes a weak one, and
/// `Accept-Ranges`, `Content-MD5` and digests are left out. A 304 has the `ETag` and `Vary` that
/// the response to GET would have (RFC 9110 section 15.4.5).
///
/// Do not compress a secret together with text that an attacker can choose: the length of the
/// response gives the secret away.
///
/// # Examples
///
/// ```
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Handler, Request};
///
/// let text = |_request, _context| "a line that repeats\n".repeat(100);
/// let app = text.layer(layers::gzip());
/// let mut request = Request::default();
/// request.headers_mut().insert("accept-encoding", "gzip, br".parse().unwrap());
/// let response = app.handle(request, Context::root());
/// assert_eq!(response.headers()["content-encoding"], "gzip");
/// assert!(response.into_body().into_bytes(100).is_ok());
/// ```
#[must_use]
pub fn gzip() -> impl Layer {
    |request: Request, context: Context, next: Next<'_>| {
        let accepted = accepts_gzip(request.headers());
        let asks_weakly = words(request.headers(), IF_NONE_MATCH).any(|tag| tag.starts_with("W/"));
        let mut response = next.run(request, context);
        if response.status() == StatusCode::NOT_MODIFIED {
            not_modified(response.headers_mut(), accepted && asks_weakly);
            return response;
        }
        if !is_compressible(&response) {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        parts
            .headers
            .append(VARY, HeaderValue::from_name(ACCEPT_ENCODING));
        if !accepted || !can_be_read(&body) {
            return Response::from_parts(parts, body);
        }
        parts
            .headers
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        parts.headers.remove(CONTENT_LENGTH);
        for of_other_bytes in OF_THE_BYTES {
            parts.headers.remove(of_other_bytes);
        }
        weaken_etag(&mut parts.headers);
        Response::from_parts(parts, Body::reader(Compressing::new(body)))
    }
}

/// The fields that describe the bytes of a body, which are others when it is compressed.
const OF_THE_BYTES: [HeaderName; 5] = [
    ACCEPT_RANGES,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
];

/// A body, compressed while it is read.
struct Compressing {
    body: Body,
    /// Whether what has come is passed on before more comes.
    flushes: bool,
    /// What has come and what was made of it. `None`: the body has ended.
    encoder: Option<GzEncoder<Vec<u8>>>,
    piece: Vec<u8>,
    /// What was made and is not read yet, from `read` on.
    made: Vec<u8>,
    read: usize,
}

/// The most bytes of a body that are compressed at a time.
const PIECE_BYTES: usize = 16 << 10;

impl Compressing {
    fn new(body: Body) -> Self {
        Self {
            flushes: body.len().is_none(),
            body,
            encoder: Some(GzEncoder::new(Vec::new(), Compression::new(LEVEL))),
            piece: vec![0; PIECE_BYTES],
            made: Vec::new(),
            read: 0,
        }
    }

    /// Compresses a piece of the body, or ends the compressed body.
    fn go_on(&mut self) -> io::Result<()> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(());
        };
        let n = self.body.read(&mut self.piece)?;
        (self.made, self.read) = (Vec::new(), 0);
        if n == 0 {
            let encoder = self.encoder.take().expect("it was there a moment ago");
            self.made = encoder.finish()?;
            return Ok(());
        }
        encoder.write_all(&self.piece[..n])?;
        if self.flushes {
            encoder.flush()?;
        }
        std::mem::swap(encoder.get_mut(), &mut self.made);
        Ok(())
    }
}

impl Read for Compressing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.made.len() && self.encoder.is_some() {
            self.go_on()?;
        }
        let n = (&self.made[self.read..]).read(buffer)?;
        self.read += n;
        Ok(n)
    }
}

/// Gives a 304 the fields that the complete response would have. `weakly`: the client has asked with
/// the weak tag of a compressed one.
fn not_modified(headers: &mut HeaderMap, weakly: bool) {
    if headers.get(CONTENT_TYPE).is_none_or(compresses_well) {
        headers.append(VARY, HeaderValue::from_name(ACCEPT_ENCODING));
        if weakly {
            weaken_etag(headers);
        }
    }
}

/// The length of the shortest body that is compressed. Shorter ones fit into a packet anyway.
const BYTES_MIN: u64 = 1 << 10;

/// The compression level, of 9. It saves three quarters of what the highest level saves, in a
/// fraction of the time.
const LEVEL: u32 = 5;

fn is_compressible(response: &Response) -> bool {
    let headers = response.headers();
    let has_body = !matches!(
        response.status(),
        StatusCode::NO_CONTENT
            | StatusCode::RESET_CONTENT
            | StatusCode::PARTIAL_CONTENT
            | StatusCode::NOT_MODIFIED
    );
    let must_not_change = headers.contains_key(CONTENT_ENCODING)
        || headers.contains_key(CONTENT_RANGE)
        || words(headers, CACHE_CONTROL).any(|word| word.eq_ignore_ascii_case("no-transform"));
    has_body && !must_not_change && headers.get(CONTENT_TYPE).is_some_and(compresses_well)
}

fn can_be_read(body: &Body) -> bool {
    matches!(body.kind, Kind::Bytes(_) | Kind::Read(_))
        && body.len().is_none_or(|len| len >= BYTES_MIN)
}

fn compresses_well(content_type: &HeaderValue) -> bool {
    let essence = content_type
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    // Each event has to leave at once, and an encoder would hold it back.
    let is_text = essence.starts_with("text/") && essence != "text/event-stream";
    is_text
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || COMPRESSIBLE.contains(&essence.as_str())
}

const COMPRESSIBLE: [&str; 6] = [
    "application/json",
    "application/javascript",
    "application/xml",
    "application/wasm",
    "application/manifest+json",
    "application/x-ndjson",
];

/// Returns whether the client accepts gzip: `gzip`, or else `*`, has a weight above zero (RFC 9110
/// section 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut any = false;
    for word in words(headers, ACCEPT_ENCODING) {
        let mut parts = word.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight =
            parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let wanted =
            weight.is_none_or(|weight| weight.parse().is_ok_and(|weight: f32| weight > 0.0));
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            return wanted;
        }
        any |= coding == "*" && wanted;
    }
    any
}

fn weaken_etag(headers: &mut HeaderMap) {
    if let Some(etag) = headers.get_mut(ETAG)
        && !etag.as_bytes().starts_with(b"W/")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat())
    {
        *etag = weak;
    }
}

/// What a field that is a list has, in all its lines.
fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept_encoding: &str, expected: bool) {
        let value = HeaderValue::from_str(accept_encoding).unwrap();
        assert_eq!(
            accepts_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, value)])),
            expected,
            "{accept_encoding}"
        );
    }

    #[test]
    fn gzip_is_accepted_where_its_weight_is_not_zero() {
        assert!(!accepts_gzip(&HeaderMap::new()));
        check("gzip", true);
        check("br, GZIP;q=0.5", true);
        check("x-gzip", true);
        check("*", true);
        check("gzip;q=0, *", false);
        check("*, gzip; q=0.0", false);
        check("gzip;q=none", false);
        check("br, deflate", false);
        check("*;q=0", false);
        check("", false);
    }

    #[test]
    fn only_types_that_compress_well_are_compressed() {
        let compresses = |content_type| compresses_well(&HeaderValue::from_static(content_type));
        for yes in [
            "text/html; charset=utf-8",
            "Application/JSON",
            "image/svg+xml",
            "application/problem+json",
        ] {
            assert!(compresses(yes), "{yes}");
        }
        for no in [
            "image/png",
            "application/octet-stream",
            "text/event-stream",
            "application/gzip",
            "",
        ] {
            assert!(!compresses(no), "{no}");
        }
    }
}
