//! Layers: the order in which they run, and what the ready-made ones do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::sync::{Mutex, Once};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use lameduck::http::header::{AUTHORIZATION, ETAG};
use lameduck::http::{Method, StatusCode};
use lameduck::layers::{self, HandlerExt, Layer, Next};
use lameduck::{Body, Context, Handler, IntoResponse, Request, Response};
use support::{Client, Gate, LIMIT, TestServer, builder, get};

/// Returns a layer that adds `name` to the field `x-in` of requests and `x-out` of responses.
fn note(name: &'static str) -> impl Layer {
    move |mut request: Request, context: Context, next: Next<'_>| {
        request.headers_mut().append("x-in", name.parse().unwrap());
        let mut response = next.run(request, context);
        response
            .headers_mut()
            .append("x-out", name.parse().unwrap());
        response
    }
}

fn layers_passed(request: &Request) -> Vec<&str> {
    request
        .headers()
        .get_all("x-in")
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect()
}

#[track_caller]
fn send(client: &mut Client, request: &str, fields: &str) -> support::Answer {
    client.send(format!("{request} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.read_response()
}

#[track_caller]
fn check_unavailable(answer: &support::Answer) {
    assert_eq!(
        (answer.status, answer.field("retry-after")),
        (503, Some("1"))
    );
}

#[test]
fn the_layer_that_was_added_last_is_the_outermost() {
    let app = |request: Request, _context: Context| layers_passed(&request).join(",");
    let server = TestServer::start(app.layer(note("inner")).layer(note("outer")));
    let answer = server.client().get("/");
    assert_eq!(answer.text(), "outer,inner");
    let out: Vec<_> = answer
        .fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-out"))
        .collect();
    assert_eq!(
        out.iter()
            .map(|(_, value)| value.as_str())
            .collect::<Vec<_>>(),
        ["inner", "outer"]
    );
    server.stop_cleanly();
}

#[test]
fn a_layer_may_answer_by_itself_and_return_what_a_handler_may() {
    fn authorized(
        request: Request,
        context: Context,
        next: Next<'_>,
    ) -> Result<Response, StatusCode> {
        request
            .headers()
            .get(AUTHORIZATION)
            .ok_or(StatusCode::UNAUTHORIZED)?;
        Ok(next.run(request, context))
    }
    let server = TestServer::start((|_: Request, _: Context| "secret").layer(authorized));
    let mut client = server.client();
    assert_eq!(client.get("/").status, 401);
    assert_eq!(
        send(&mut client, "GET /", "Authorization: Basic YTpi\r\n").text(),
        "secret"
    );
    server.stop_cleanly();
}

#[test]
fn a_handler_that_is_too_slow_is_answered_503_unless_it_returns_an_error() {
    let app = |request: Request, context: Context| {
        let ended_early = context.sleep(LIMIT).is_err();
        assert!(ended_early && context.reason() == Some(lameduck::context::CancelReason::Deadline));
        match request.uri().path() {
            "/knows" => (StatusCode::GATEWAY_TIMEOUT, "the database sleeps").into_response(),
            _ => "late".into_response(),
        }
    };
    let fast = TestServer::start((|_: Request, _: Context| "fast").layer(layers::timeout(LIMIT)));
    assert_eq!(fast.client().get("/").text(), "fast");
    fast.stop_cleanly();
    let server = TestServer::start(app.layer(layers::timeout(Duration::from_millis(5))));
    let mut client = server.client();
    let late = client.get("/late");
    check_unavailable(&late);
    assert_eq!(
        late.text(),
        "503 Service Unavailable: the handler took too long\n"
    );
    assert_eq!(client.get("/knows").text(), "the database sleeps");
    server.stop_cleanly();
}

#[test]
fn a_body_beyond_the_limit_is_413_before_the_handler_or_when_it_reads() {
    let app = |request: Request, _: Context| request.into_body().into_text(1 << 20);
    let settings = builder().workers(2).collect_bytes(0);
    let server = TestServer::with(settings, app.layer(layers::body_limit(8)));
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.read_response();
    assert_eq!(
        (answer.status, answer.field("connection")),
        (413, Some("close"))
    );
    drop(client);
    let mut client = server.client();
    client.send(support::post_chunked("/", &[b"1234", b"5678"]));
    assert_eq!(client.read_response().text(), "12345678");
    client.send(support::post_chunked("/", &[b"1234", b"56789"]));
    let answer = client.read_response();
    assert_eq!(
        answer.text(),
        "413 Payload Too Large: the request body is longer than 8 bytes\n"
    );
    assert_eq!(client.get("/").status, 200);
    server.stop_cleanly();
}

#[test]
fn an_echo_of_a_body_beyond_the_limit_does_not_look_complete() {
    let app = |request: Request, _: Context| request.into_body();
    let server = TestServer::with(
        builder().workers(2).collect_bytes(0),
        app.layer(layers::body_limit(8)),
    );
    let mut client = server.client();
    client.send(support::post_chunked("/", &[b"1234", b"56789"]));
    let _ = client.expect_incomplete();
    let _ = server.stop();
}

#[test]
fn a_body_that_a_layer_has_replaced_is_limited_too() {
    let unpack = |request: Request, context: Context, next: Next<'_>| {
        let (parts, _) = request.into_parts();
        next.run(
            Request::from_parts(parts, Body::reader(std::io::repeat(b'a'))),
            context,
        )
    };
    let app = (|request: Request, _: Context| request.into_body().into_text(1 << 20))
        .layer(layers::body_limit(9))
        .layer(unpack);
    let response = app.handle(Request::default(), Context::root());
    assert_eq!(response.status(), 413);
    let text = "413 Payload Too Large: the request body is longer than 9 bytes\n";
    assert_eq!(response.into_body().into_text(100).unwrap(), text);
}

#[test]
fn concurrency_limit_refuses_the_requests_beyond_it() {
    let gate = Gate::new();
    let inside = gate.clone();
    let app = move |request: Request, _: Context| {
        assert_ne!(request.uri().path(), "/panic");
        inside.pass();
        "served"
    };
    let server = TestServer::with(
        builder().workers(4),
        app.layer(layers::concurrency_limit(2)),
    );
    let mut clients = [server.client(), server.client()];
    clients.iter_mut().for_each(|client| client.send_get("/"));
    gate.wait_entered(2);
    let mut third = server.client();
    let refused = third.get("/");
    check_unavailable(&refused);
    gate.open();
    clients
        .iter_mut()
        .for_each(|client| assert_eq!(client.read_response().text(), "served"));
    // A request does not count any more when its handler has panicked.
    for _ in 0..3 {
        assert_eq!(server.client().get("/panic").status, 500);
    }
    assert_eq!(third.get("/").text(), "served");
    server.stop_cleanly();
}

#[test]
fn ready_only_refuses_requests_from_the_lame_duck_phase_on() {
    let app = (|_: Request, _: Context| "begun").layer(layers::ready_only());
    let server = TestServer::with(builder().workers(2).lame_duck(LIMIT), app);
    let mut client = server.used_client("/");
    server.handle().begin_shutdown();
    let refused = client.get("/");
    check_unavailable(&refused);
    assert!(refused.closes());
    drop(client);
    let report = server.handle().shutdown_within(LIMIT);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_request_has_the_id_it_came_with_if_that_is_harmless_and_else_a_new_one() {
    let app = |_: Request, context: Context| context.request_id().map(str::to_owned);
    let server = TestServer::start(app.layer(layers::request_id()));
    let mut client = server.client();
    let answer = send(&mut client, "GET /", "X-Request-Id: a-1_b.c\r\n");
    assert_eq!(
        (answer.text(), answer.field("x-request-id")),
        ("a-1_b.c", Some("a-1_b.c"))
    );
    let mut seen: Vec<String> = Vec::new();
    for bad in [
        "",
        "X-Request-Id:\r\n",
        "X-Request-Id: a b\r\n",
        "X-Request-Id: \"\r\n",
    ] {
        let answer = send(&mut client, "GET /", bad);
        assert_eq!(answer.field("x-request-id"), Some(answer.text()));
        assert!(
            answer.text().len() == 32 && seen.iter().all(|id| id != answer.text()),
            "{bad:?}: {}",
            answer.text()
        );
        seen.push(answer.text().to_owned());
    }
    let long = format!("X-Request-Id: {}\r\n", "a".repeat(129));
    assert_eq!(send(&mut client, "GET /", &long).text().len(), 32);
    server.stop_cleanly();
}

fn cors() -> layers::Cors {
    layers::Cors::new()
        .origin("https://shop.example")
        .methods([Method::GET, Method::PUT])
        .headers([lameduck::http::header::CONTENT_TYPE])
        .expose([ETAG])
        .max_age(Duration::from_secs(600))
        .credentials()
}

#[test]
fn a_named_origin_may_read_and_another_may_not() {
    let server = TestServer::start((|_: Request, _: Context| "stock").layer(cors()));
    let mut client = server.client();
    let answer = send(&mut client, "GET /", "Origin: https://shop.example\r\n");
    assert_eq!(
        answer.field("access-control-allow-origin"),
        Some("https://shop.example")
    );
    assert_eq!(
        answer.field("access-control-allow-credentials"),
        Some("true")
    );
    assert_eq!(answer.field("access-control-expose-headers"), Some("etag"));
    assert_eq!(
        (answer.field("vary"), answer.field("access-control-max-age")),
        (Some("origin"), None)
    );
    for other in [
        "Origin: https://shop.example.evil\r\n",
        "Origin: null\r\n",
        "",
    ] {
        let answer = send(&mut client, "GET /", other);
        assert_eq!(
            (answer.text(), answer.field("vary")),
            ("stock", Some("origin"))
        );
        assert_eq!(answer.field("access-control-allow-origin"), None, "{other}");
    }
    server.stop_cleanly();
}

#[test]
fn a_preflight_is_answered_in_place_of_the_handler() {
    let app = |request: Request, _: Context| request.method().to_string();
    let server = TestServer::start(app.layer(cors()));
    let mut client = server.client();
    let preflight = "Origin: https://shop.example\r\nAccess-Control-Request-Method: PUT\r\n";
    let answer = send(&mut client, "OPTIONS /", preflight);
    assert_eq!(
        (answer.status, answer.field("access-control-allow-methods")),
        (204, Some("GET, PUT"))
    );
    assert_eq!(
        answer.field("access-control-allow-headers"),
        Some("content-type")
    );
    assert_eq!(answer.field("access-control-max-age"), Some("600"));
    let answer = send(&mut client, "OPTIONS /", &preflight.replace("shop", "evil"));
    assert_eq!(
        (answer.status, answer.field("access-control-allow-origin")),
        (204, None)
    );
    assert_eq!(answer.field("access-control-allow-methods"), None);
    assert_eq!(
        send(&mut client, "OPTIONS /", "Origin: https://shop.example\r\n").text(),
        "OPTIONS"
    );
    server.stop_cleanly();
}

#[test]
fn any_origin_is_a_star_and_excludes_credentials() {
    let app = (|_: Request, _: Context| "open").layer(layers::Cors::new().any_origin());
    let mut request = Request::default();
    request
        .headers_mut()
        .insert("origin", "https://a".parse().unwrap());
    let response = app.handle(request, Context::root());
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert!(!response.headers().contains_key("vary"));
    assert!(std::panic::catch_unwind(|| layers::Cors::new().any_origin().credentials()).is_err());
    assert!(std::panic::catch_unwind(|| cors().any_origin()).is_err());
}

/// A logger that sends each access record to the test whose user agent it names.
struct Recorder(Mutex<BTreeMap<String, Sender<AccessRecord>>>);

/// The line and the key-values of one record.
type AccessRecord = (String, BTreeMap<String, String>);

static RECORDER: Recorder = Recorder(Mutex::new(BTreeMap::new()));

impl log::Log for Recorder {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "lameduck::access"
    }

    fn log(&self, record: &log::Record<'_>) {
        struct Pairs(BTreeMap<String, String>);
        impl<'kvs> log::kv::VisitSource<'kvs> for Pairs {
            fn visit_pair(
                &mut self,
                key: log::kv::Key<'kvs>,
                value: log::kv::Value<'kvs>,
            ) -> Result<(), log::kv::Error> {
                self.0.insert(key.to_string(), value.to_string());
                Ok(())
            }
        }
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut pairs = Pairs(BTreeMap::new());
        record.key_values().visit(&mut pairs).unwrap();
        let to = self.0.lock().unwrap().get(&pairs.0["user_agent"]).cloned();
        if let Some(to) = to {
            to.send((record.args().to_string(), pairs.0)).unwrap();
        }
    }

    fn flush(&self) {}
}

fn access_records_of(user_agent: &str) -> Receiver<AccessRecord> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&RECORDER).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
    let (sender, records) = unbounded();
    RECORDER
        .0
        .lock()
        .unwrap()
        .insert(user_agent.to_owned(), sender);
    records
}

#[test]
fn each_request_is_logged_in_the_combined_format_and_as_key_values() {
    let records = access_records_of("duck/1");
    let app = (|_: Request, _: Context| (StatusCode::CREATED, "made\n"))
        .layer(layers::access_log())
        .layer(layers::request_id());
    let server = TestServer::start(app);
    let fields = "User-Agent: duck/1\r\nReferer: http://a/\"b\r\nX-Request-Id: r7\r\n";
    assert_eq!(send(&mut server.client(), "GET /x?y=1", fields).status, 201);
    let (line, pairs) = records.recv_timeout(LIMIT).unwrap();
    let (start, rest) = line.split_once(" [").unwrap();
    let (time, rest) = rest.split_once("] ").unwrap();
    assert_eq!((start, time.len()), ("127.0.0.1 - -", 26), "{line}");
    assert_eq!(
        rest,
        r#""GET /x?y=1 HTTP/1.1" 201 5 "http://a/\x22b" "duck/1""#
    );
    assert!(pairs["duration_us"].parse::<u64>().is_ok());
    let of = |key: &str| pairs[key].as_str();
    assert_eq!(
        (of("peer"), of("method"), of("uri")),
        ("127.0.0.1", "GET", "/x?y=1")
    );
    assert_eq!(
        (of("status"), of("bytes"), of("request_id")),
        ("201", "5", "r7")
    );
    server.stop_cleanly();
}

#[test]
fn a_handler_that_panics_is_logged_with_500() {
    let records = access_records_of("duck/2");
    let app = |_: Request, _: Context| -> &'static str { panic!("on purpose") };
    let server = TestServer::start(app.layer(layers::access_log()));
    assert_eq!(
        send(&mut server.client(), "GET /", "User-Agent: duck/2\r\n").status,
        500
    );
    let (line, _) = records.recv_timeout(LIMIT).unwrap();
    assert!(
        line.contains(r#""GET / HTTP/1.1" 500 - "-" "duck/2""#),
        "{line}"
    );
    let _ = server.stop();
}

#[test]
fn a_response_without_a_body_is_logged_with_no_bytes() {
    let records = access_records_of("duck/3");
    let app = |request: Request, _: Context| match request.uri().path() {
        "/unmodified" => (StatusCode::NOT_MODIFIED, "not sent"),
        _ => (StatusCode::OK, "not sent to HEAD"),
    };
    let server = TestServer::start(app.layer(layers::access_log()));
    for (start, expected) in [
        ("HEAD /", r#""HEAD / HTTP/1.1" 200 0 "-""#),
        ("GET /unmodified", r#""GET /unmodified HTTP/1.1" 304 0 "-""#),
    ] {
        let mut client = server.client();
        client.send(format!(
            "{start} HTTP/1.1\r\nHost: a\r\nUser-Agent: duck/3\r\n\r\n"
        ));
        let (line, pairs) = records.recv_timeout(LIMIT).unwrap();
        assert!(line.contains(expected), "{line}");
        assert_eq!(pairs["bytes"], "0");
    }
    server.stop_cleanly();
}

#[test]
fn layers_work_on_a_pipelined_connection() {
    let server = TestServer::start(
        (|request: Request, _: Context| request.uri().to_string()).layer(note("a")),
    );
    let mut client = server.client();
    client.send([get("/1"), get("/2")].concat());
    assert_eq!(
        (client.read_response().text(), client.read_response().text()),
        ("/1", "/2")
    );
    server.stop_cleanly();
}

#[cfg(feature = "gzip")]
mod gzip {
    use std::io::Read;

    use super::*;

    fn page(request: Request, _: Context) -> Response {
        let lines = "a line that repeats\n".repeat(1000);
        match request.uri().path() {
            "/short" => "short".into_response(),
            "/image" => ([("content-type".parse().unwrap(), "image/png")], lines).into_response(),
            "/part" => (StatusCode::PARTIAL_CONTENT, lines).into_response(),
            "/encoded" => ([("content-encoding".parse().unwrap(), "br")], lines).into_response(),
            "/exact" => (
                [("cache-control".parse().unwrap(), "public, no-transform")],
                lines,
            )
                .into_response(),
            "/reader" => {
                let body = Body::reader(std::io::Cursor::new(lines));
                ([("content-type".parse().unwrap(), "text/plain")], body).into_response()
            }
            "/length" => ([("content-length".parse().unwrap(), "20000")], lines).into_response(),
            _ => ([(ETAG, "\"1\"")], lines).into_response(),
        }
    }

    fn unpack(body: &[u8]) -> String {
        let mut text = String::new();
        flate2::read::GzDecoder::new(body)
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    #[test]
    fn a_response_is_compressed_for_clients_that_accept_gzip_and_has_vary() {
        let server = TestServer::start(page.layer(layers::gzip()));
        let mut client = server.client();
        for target in ["/", "/reader", "/length"] {
            let answer = send(
                &mut client,
                &format!("GET {target}"),
                "Accept-Encoding: br, gzip;q=0.1\r\n",
            );
            assert_eq!(
                (answer.field("content-encoding"), answer.field("vary")),
                (Some("gzip"), Some("accept-encoding"))
            );
            assert!(answer.body.len() < 1000);
            assert_eq!(
                unpack(&answer.body),
                "a line that repeats\n".repeat(1000),
                "{target}"
            );
        }
        let answer = send(&mut client, "GET /", "Accept-Encoding: gzip\r\n");
        assert_eq!(
            (answer.field("etag"), answer.field("content-length")),
            (Some("W/\"1\""), None)
        );
        let plain = send(&mut client, "GET /", "Accept-Encoding: gzip;q=0\r\n");
        assert_eq!(
            (plain.field("content-encoding"), plain.field("vary")),
            (None, Some("accept-encoding"))
        );
        assert_eq!(
            (plain.body.len(), plain.field("etag")),
            (20_000, Some("\"1\""))
        );
        server.stop_cleanly();
    }

    #[test]
    fn head_gets_the_fields_that_get_would_get() {
        let server = TestServer::start(page.layer(layers::gzip()));
        let mut client = server.client();
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
        let head = client.read_response_to_head();
        assert_eq!(
            (head.field("content-encoding"), head.field("content-length")),
            (Some("gzip"), None)
        );
        assert_eq!(client.get("/short").text(), "short");
        server.stop_cleanly();
    }

    /// Answers `request` for a client that accepts gzip.
    fn compressed(
        app: impl lameduck::Handler,
        fields: &[(&'static str, &'static str)],
    ) -> Response {
        let mut request = Request::default();
        for (name, value) in [("accept-encoding", "gzip")].iter().chain(fields) {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        app.layer(layers::gzip()).handle(request, Context::root())
    }

    #[test]
    fn what_describes_the_original_bytes_is_left_out() {
        let names = [
            "accept-ranges",
            "content-md5",
            "digest",
            "content-digest",
            "repr-digest",
        ];
        let app = move |_: Request, _: Context| {
            let mut response = "a line that repeats\n".repeat(1000).into_response();
            for name in names {
                response.headers_mut().insert(name, "x".parse().unwrap());
            }
            response
        };
        let response = compressed(app, &[]);
        assert_eq!(response.headers()["content-encoding"], "gzip");
        for name in names {
            assert!(!response.headers().contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_304_has_the_tag_and_vary_that_the_complete_response_has() {
        let app = |_: Request, _: Context| ([(ETAG, "\"1\"")], StatusCode::NOT_MODIFIED);
        for (asked, tag) in [("W/\"1\"", "W/\"1\""), ("\"1\"", "\"1\"")] {
            let response = compressed(app, &[("if-none-match", asked)]);
            assert_eq!(response.status(), 304);
            assert_eq!(response.headers()["etag"], tag);
            assert_eq!(response.headers()["vary"], "accept-encoding");
        }
    }

    #[test]
    fn lines_that_are_made_one_at_a_time_are_not_held_back() {
        let (to, lines) = crossbeam_channel::unbounded::<String>();
        struct Lines(crossbeam_channel::Receiver<String>);
        impl Read for Lines {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                let line = self.0.recv().unwrap_or_default();
                buffer[..line.len()].copy_from_slice(line.as_bytes());
                Ok(line.len())
            }
        }
        let app = move |_: Request, _: Context| {
            let ndjson = [("content-type".parse().unwrap(), "application/x-ndjson")];
            (ndjson, Body::reader(Lines(lines.clone())))
        };
        let mut unpacked = None;
        for i in 0..3 {
            let line = format!("{{\"line\":{i}}}\n");
            to.send(line.clone()).unwrap();
            // The decoder reads the head when it is made.
            let unpacked = unpacked.get_or_insert_with(|| {
                flate2::read::GzDecoder::new(compressed(app.clone(), &[]).into_body())
            });
            // It would wait for ever if the encoder held the line back.
            let mut read = vec![0; line.len()];
            unpacked.read_exact(&mut read).unwrap();
            assert_eq!(String::from_utf8(read).unwrap(), line);
        }
        drop(to);
        assert_eq!(unpacked.unwrap().read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn responses_that_gain_nothing_or_must_not_change_are_left_alone() {
        let server = TestServer::start(page.layer(layers::gzip()));
        let mut client = server.client();
        for target in ["/short", "/image", "/part", "/encoded", "/exact"] {
            let answer = send(
                &mut client,
                &format!("GET {target}"),
                "Accept-Encoding: gzip\r\n",
            );
            assert_ne!(answer.field("content-encoding"), Some("gzip"), "{target}");
            assert!(answer.field("content-length").is_some(), "{target}");
        }
        server.stop_cleanly();
    }
}

#[test]
fn any_origin_is_said_to_a_request_without_one_too() {
    let app = (|_: Request, _: Context| "open").layer(layers::Cors::new().any_origin());
    let response = app.handle(Request::default(), Context::root());
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert!(!response.headers().contains_key("vary"));
}

#[test]
fn a_default_cors_allows_no_origin() {
    let app = (|_: Request, _: Context| "closed").layer(layers::Cors::default());
    let mut request = Request::default();
    let origin = "https://shop.example".parse().unwrap();
    request.headers_mut().insert("origin", origin);
    let response = app.handle(request, Context::root());
    assert!(
        !response
            .headers()
            .contains_key("access-control-allow-origin")
    );
}

#[test]
fn an_origin_that_no_browser_sends_is_refused_with_what_to_write() {
    for (origin, write) in [
        ("*", "any_origin()"),
        ("https://shop.example/", "\"https://shop.example\""),
        ("https://shop.example/path", "\"https://shop.example\""),
        ("HTTPS://shop.example", "\"https://shop.example\""),
        ("https://Shop.example:8443", "\"https://shop.example:8443\""),
        ("shop.example", "\"https://shop.example\""),
    ] {
        let refused = std::panic::catch_unwind(|| layers::Cors::new().origin(origin));
        let message = refused.unwrap_err().downcast::<String>().map_or_else(
            |other| (*other.downcast::<&str>().unwrap()).to_owned(),
            |text| *text,
        );
        assert!(message.contains(write), "{origin}: {message}");
    }
    let any = || layers::Cors::new().any_origin().origin("https://a.example");
    assert!(std::panic::catch_unwind(any).is_err());
    let named = || layers::Cors::new().origin("https://a.example").any_origin();
    assert!(std::panic::catch_unwind(named).is_err());
    let _ = layers::Cors::new()
        .origin("null")
        .origin("http://[::1]:8080");
}

#[test]
fn any_headers_allows_those_that_a_preflight_asks_for() {
    let app = (|_: Request, _: Context| "open").layer(cors().any_headers());
    let mut request = Request::default();
    *request.method_mut() = Method::OPTIONS;
    for (name, value) in [
        ("origin", "https://shop.example"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "authorization, x-own"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = app.handle(request, Context::root());
    assert_eq!(
        response.headers()["access-control-allow-headers"],
        "authorization, x-own"
    );
    let vary: Vec<_> = response.headers().get_all("vary").iter().collect();
    assert_eq!(vary, ["access-control-request-headers", "origin"]);
}

#[test]
fn an_inner_body_limit_does_not_lift_the_outer_one() {
    let read = |request: Request, _: Context| request.into_body().into_bytes(1 << 20);
    for (inner, outer) in [(1000, 10), (10, 1000), (10, 10)] {
        let app = read
            .layer(layers::body_limit(inner))
            .layer(layers::body_limit(outer));
        // A body of unknown length is limited while it is read.
        let body = Body::reader(std::io::Cursor::new([b'x'; 11]));
        let response = app.handle(Request::new(body), Context::root());
        assert_eq!(response.status(), 413, "{inner} in {outer}");
        let body = Body::reader(std::io::Cursor::new([b'x'; 10]));
        assert_eq!(
            app.handle(Request::new(body), Context::root()).status(),
            200
        );
    }
}

#[test]
fn layers_see_a_response_where_a_handler_or_an_inner_layer_panics() {
    let inner = |request: Request, context: Context, next: Next<'_>| {
        assert!(request.uri().path() != "/layer", "on purpose");
        next.run(request, context)
    };
    let app = |request: Request, _: Context| -> &'static str {
        assert!(request.uri().path() == "/", "on purpose");
        "fine"
    };
    let server = TestServer::start(
        app.layer(inner)
            .layer(layers::request_id())
            .layer(layers::Cors::new().any_origin()),
    );
    for (path, status) in [("/", 200), ("/handler", 500), ("/layer", 500)] {
        let mut client = server.client();
        let answer = client.get(path);
        assert_eq!(
            (answer.status, answer.closes()),
            (status, status == 500),
            "{path}"
        );
        assert_eq!(
            answer.field("access-control-allow-origin"),
            Some("*"),
            "{path}"
        );
        assert!(answer.field("x-request-id").is_some(), "{path}: {answer:?}");
    }
    server.stop_cleanly();
}
