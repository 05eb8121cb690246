//! `lameduck::testing`, the server and the client for the tests of programs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use lameduck::body::BodyWriter;
use lameduck::http::{Method, StatusCode};
use lameduck::report::Phase;
use lameduck::testing::TestServer;
use lameduck::{Body, Context, IntoResponse, Request, Response, Server, http};

use support::{Gate, LIMIT, within_limit};

fn app(request: Request, _: Context) -> Response {
    match request.uri().path() {
        "/echo" => request.into_body().into_response(),
        "/target" => request.uri().to_string().into_response(),
        "/field" => {
            format!("{:?} {:?}", request.headers()["x-duck"], request.method()).into_response()
        }
        "/chunked" => {
            let body = Body::writer(|out: &mut BodyWriter<'_>| {
                (0..3).try_for_each(|n| writeln!(out, "line {n}"))
            });
            body.into_response()
        }
        "/broken" => Body::writer(|out: &mut BodyWriter<'_>| {
            out.write_all(b"some")?;
            out.flush()?;
            Err(ErrorKind::Other.into())
        })
        .into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

#[test]
fn it_sends_requests_and_reads_complete_responses() {
    let server = TestServer::start(app);
    assert_eq!(server.url(), format!("http://{}", server.local_addr()));
    assert_eq!(server.get("/target?a=b").text(), "/target?a=b");
    let missing = server.get("/missing");
    assert_eq!(
        (missing.status, missing.header("content-type")),
        (StatusCode::NOT_FOUND, Some("text/plain; charset=utf-8"))
    );
    let large = vec![b'x'; 1 << 20];
    assert_eq!(server.post("/echo", &large).body, large);
    assert_eq!(server.post("/echo", "").body, b"");
    assert_eq!(server.get("/chunked").text(), "line 0\nline 1\nline 2\n");
    let request = http::Request::builder()
        .method(Method::DELETE)
        .uri("/field")
        .header("X-Duck", "quack")
        .body("");
    assert_eq!(server.request(request.unwrap()).text(), "\"quack\" DELETE");
    let request = http::Request::builder()
        .method(Method::HEAD)
        .uri("/chunked")
        .body("");
    assert_eq!(server.request(request.unwrap()).body, b"");
    let report = server.shutdown();
    assert!(
        report.is_clean() && report.answered_in(Phase::Running) == 7,
        "{report}"
    );
}

#[test]
fn a_part_of_a_response_is_an_error() {
    let server = TestServer::start(app);
    let error = server
        .try_request(http::Request::builder().uri("/broken").body("").unwrap())
        .unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
        ),
        "{error:?}"
    );
    let panicked = catch_unwind(AssertUnwindSafe(|| server.get("/broken"))).unwrap_err();
    let text = panicked.downcast_ref::<String>().unwrap();
    assert!(text.starts_with("GET /broken: "), "{text}");
}

/// Returns a stopping server with a request in flight that the stop has to cut, and the gate that
/// its handler waits at.
fn with_stuck_request() -> (TestServer, Gate) {
    let gate = Gate::new();
    let waits = gate.clone();
    let builder = Server::builder().workers(2).cut_grace(Duration::ZERO);
    let server = TestServer::with(builder, move |_: Request, _: Context| waits.pass());
    let mut client = support::Client::connect(server.local_addr());
    client.send(support::get("/stuck"));
    gate.wait_entered(1);
    // The client must not close its connection: the server is to give up the request.
    std::mem::forget(client);
    server.handle().begin_shutdown_within(Duration::ZERO);
    (server, gate)
}

#[test]
fn a_stop_that_is_not_clean_fails_the_test_with_the_report() {
    let (server, gate) = with_stuck_request();
    let panicked = within_limit("the drop", || {
        catch_unwind(AssertUnwindSafe(|| drop(server)))
    })
    .unwrap_err();
    let text = panicked.downcast_ref::<String>().unwrap();
    assert!(
        text.contains("1 request cut") && text.contains("GET /stuck"),
        "{text}"
    );
    gate.open();
}

#[test]
fn a_test_that_has_failed_already_fails_with_its_own_panic() {
    let (server, gate) = with_stuck_request();
    let panicked = within_limit("the panic", || {
        catch_unwind(AssertUnwindSafe(|| {
            let _server = server;
            panic!("mine");
        }))
    });
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"mine"));
    gate.open();
}

#[test]
fn shutdown_returns_the_report_of_a_stop_that_was_not_clean() {
    let (server, gate) = with_stuck_request();
    let report = within_limit("the stop", || server.shutdown());
    assert_eq!(report.exit_code(), 3, "{report}");
    gate.open();
}

#[test]
fn a_request_in_flight_when_the_server_stops_is_answered() {
    let gate = Gate::new();
    let waits = gate.clone();
    let server = TestServer::start(move |_: Request, context: Context| {
        waits.pass();
        context.draining().recv_timeout(LIMIT).unwrap_err();
        "answered"
    });
    let handle = server.handle();
    let asks = std::thread::spawn(move || server.get("/").text().to_owned());
    gate.wait_entered(1);
    handle.begin_shutdown();
    gate.open();
    assert_eq!(
        within_limit("the answer", || asks.join().unwrap()),
        "answered"
    );
}
