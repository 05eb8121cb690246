//! A body that is not as long as was declared is an error for everyone who reads it.

use std::fs::File;
use std::io::{self, Cursor, Read, Write};

use lameduck::body::{BodyError, BodyWriter};
use lameduck::http::HeaderValue;
use lameduck::http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use lameduck::layers::{self, HandlerExt, Next};
use lameduck::{Body, Context, Handler, IntoResponse, Request, Response, Router};

use super::support::{LIMIT, TestServer, builder, pattern};

/// The declared length, which is long enough to be compressed.
const LEN: usize = 2000;

/// How many bytes come of it: at every so many, and at each one that is next to an end.
fn cuts() -> impl Iterator<Item = usize> {
    (0..=3)
        .chain((10..LEN).step_by(37))
        .chain(LEN - 3..=LEN + 3)
        .chain([LEN + 70_000])
}

/// Gives its bytes one at a time.
struct Trickle(Cursor<Vec<u8>>);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(1);
        self.0.read(&mut buffer[..most])
    }
}

/// Returns a response that declares `LEN` bytes and has `cut`. `None`: this kind has no such body.
fn response(kind: &str, cut: usize) -> Option<Response> {
    let bytes = pattern(cut);
    let declared = |body: Body| ([(CONTENT_LENGTH, HeaderValue::from(LEN))], body).into_response();
    let write = move |out: &mut BodyWriter<'_>| out.write_all(&pattern(cut));
    let mut response = match kind {
        "sized" => Body::sized_reader(Cursor::new(bytes), LEN as u64).into_response(),
        // It is not asked for a further byte after its last one.
        "trickle" if cut <= LEN => {
            Body::sized_reader(Trickle(Cursor::new(bytes)), LEN as u64).into_response()
        }
        // It was longer when its length was asked for; what is appended to a file is left out.
        "file" if cut <= LEN => {
            let path = std::env::temp_dir().join(format!(
                "lameduck-test-shrunk-{}-{cut}-{:?}",
                std::process::id(),
                std::thread::current().id()
            ));
            std::fs::write(&path, pattern(LEN)).unwrap();
            let body = Body::try_from(File::open(&path).unwrap()).unwrap();
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(cut as u64)
                .unwrap();
            std::fs::remove_file(&path).unwrap();
            body.into_response()
        }
        "declared" => declared(Body::reader(Cursor::new(bytes))),
        "bytes" => declared(Body::from(bytes)),
        "known" => declared(Body::sized_reader(Cursor::new(bytes), cut as u64)),
        "writer" => declared(Body::writer(write)),
        "stream" => declared(Body::stream(write)),
        _ => return None,
    };
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Some(response)
}

const LAYERS: [&str; 11] = [
    "none",
    "gzip",
    "body limit",
    "timeout",
    "access log",
    "request id",
    "concurrency",
    "ready",
    "cors",
    "wraps the body",
    "collects the body",
];

/// Answers with [`response`] through one of the [`LAYERS`]. The query names kind and cut.
fn app(layer: &str) -> Router {
    let router = Router::new().get("/", |request: Request, _: Context| {
        let (kind, cut) = request.uri().query().unwrap().split_once('=').unwrap();
        response(kind, cut.parse().unwrap())
    });
    match layer {
        "none" => router,
        #[cfg(feature = "gzip")]
        "gzip" => router.layer(layers::gzip()),
        #[cfg(not(feature = "gzip"))]
        "gzip" => router,
        "body limit" => router.layer(layers::body_limit(5)),
        "timeout" => router.layer(layers::timeout(LIMIT)),
        "access log" => router.layer(layers::access_log()),
        "request id" => router.layer(layers::request_id()),
        "concurrency" => router.layer(layers::concurrency_limit(5)),
        "ready" => router.layer(layers::ready_only()),
        "cors" => router.layer(layers::Cors::new().any_origin()),
        "wraps the body" => router.layer(|request: Request, context: Context, next: Next<'_>| {
            // Its own body declares nothing any more, so it has to see the error of the inner one.
            let mut response = next.run(request, context).map(Body::reader);
            response.headers_mut().remove(CONTENT_LENGTH);
            response
        }),
        "collects the body" => {
            router.layer(|request: Request, context: Context, next: Next<'_>| {
                let (parts, body) = next.run(request, context).into_parts();
                body.into_bytes(1 << 20)
                    .map(|bytes| Response::from_parts(parts, bytes.into()))
            })
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_layer_that_reads_a_body_of_another_length_gets_an_error() {
    for layer in LAYERS {
        let app = app(layer);
        for kind in ["sized", "trickle", "file", "declared", "bytes", "known"] {
            for cut in cuts() {
                let mut request = Request::default();
                *request.uri_mut() = format!("/?{kind}={cut}").parse().unwrap();
                request
                    .headers_mut()
                    .insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
                let response = app.handle(request, Context::root());
                if response.status() == 404 {
                    continue;
                }
                let is_error = response.status() == 500;
                let read = response.into_body().into_bytes(1 << 20);
                assert_eq!(
                    is_error || read.is_err(),
                    cut != LEN,
                    "{layer}, {kind}: {cut} of {LEN} bytes"
                );
            }
        }
    }
}

#[test]
fn no_client_takes_a_part_for_the_whole_through_any_layer() {
    for layer in LAYERS {
        let server = TestServer::with(builder().workers(4), app(layer));
        for kind in [
            "sized", "trickle", "file", "declared", "bytes", "known", "writer", "stream",
        ] {
            // A body that is written cannot be read by a layer.
            let reads = layer.ends_with("the body");
            if reads && matches!(kind, "writer" | "stream") {
                continue;
            }
            for cut in [0, 1, LEN / 2, LEN - 1, LEN, LEN + 1, LEN + 70_000] {
                let mut client = server.client();
                client.send(format!(
                    "GET /?{kind}={cut} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"
                ));
                let complete = client.try_read(false).is_ok_and(|answer| {
                    let is_refused = matches!(answer.status, 404 | 500);
                    assert!(!is_refused || cut != LEN, "{layer}, {kind}: {cut}");
                    !is_refused
                });
                // The server itself sends what was declared, and reads no further.
                let is_read = reads || layer == "gzip" && cfg!(feature = "gzip");
                let is_sent = cut > LEN && !is_read && matches!(kind, "sized" | "declared");
                assert_eq!(
                    complete,
                    cut == LEN || is_sent,
                    "{layer}, {kind}: {cut} of {LEN} bytes"
                );
            }
        }
        let _ = server.stop();
    }
}

#[test]
fn the_error_of_a_wrong_length_stays_and_is_the_programs() {
    for bytes in [10, 30] {
        let mut body = Body::sized_reader(Cursor::new(pattern(bytes)), 20);
        let mut read = Vec::new();
        for _ in 0..3 {
            let error = body.read_to_end(&mut read).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert!(read.len() < 20);
        let error = Body::sized_reader(Cursor::new(pattern(bytes)), 20).into_bytes(100);
        assert!(matches!(error, Err(BodyError::Failed(_))), "{error:?}");
    }
}

#[test]
fn a_reader_that_stays_open_is_not_asked_for_more_than_was_declared() {
    struct Socket(usize);
    impl Read for Socket {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(self.0 > 0, "it would block for ever");
            let n = buffer.len().min(self.0);
            buffer[..n].fill(b'x');
            self.0 -= n;
            Ok(n)
        }
    }
    for len in [0, 1, 2, 100, 16 << 10, 64 << 10, (64 << 10) + 1] {
        let body = Body::sized_reader(Socket(len), len as u64);
        assert_eq!(body.into_bytes(1 << 20).unwrap().len(), len);
    }
}

#[test]
fn a_file_is_sent_from_its_start_and_without_what_is_appended_to_it() {
    let path = std::env::temp_dir().join(format!("lameduck-test-grown-{}", std::process::id()));
    std::fs::write(&path, "12345").unwrap();
    let mut file = File::open(&path).unwrap();
    file.read_exact(&mut [0; 2]).unwrap();
    let body = Body::try_from(file).unwrap();
    let mut appending = File::options().append(true).open(&path).unwrap();
    appending.write_all(b"678").unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(body.into_bytes(100).unwrap(), "12345");
}

#[test]
fn a_length_that_a_layer_declares_holds_for_whoever_calls_the_handler() {
    let declares = |request: Request, context: Context, next: Next<'_>| {
        let mut response = next.run(request, context);
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(LEN));
        response
    };
    let app = (|_: Request, _: Context| Body::reader(Cursor::new(pattern(10)))).layer(declares);
    let response = app.handle(Request::default(), Context::root());
    assert!(response.into_body().into_bytes(1 << 20).is_err());
}

#[test]
fn the_length_of_a_body_that_is_left_out_is_no_error() {
    use lameduck::http::{Method, StatusCode};
    for (method, status) in [
        (Method::HEAD, StatusCode::OK),
        (Method::GET, StatusCode::NOT_MODIFIED),
    ] {
        let app = move |_: Request, _: Context| {
            (status, [(CONTENT_LENGTH, HeaderValue::from(LEN))], ()).into_response()
        };
        let mut request = Request::default();
        *request.method_mut() = method;
        let response = app.handle(request, Context::root());
        assert_eq!(response.into_body().into_bytes(10).unwrap(), "");
    }
}
