//! The values that handlers return, and the responses that clients get for them; and request bodies
//! that are read to their end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::borrow::Cow;
use std::error::Error;
use std::io::{Read, Write};

use lameduck::body::BodyError;
use lameduck::http::header::{CONTENT_TYPE, LOCATION, SET_COOKIE};
use lameduck::http::{HeaderMap, HeaderValue, StatusCode};
use lameduck::response::{Failure, HandlerResult, OrAnswer};
use lameduck::{Body, Context, IntoResponse, Request, Response};
use support::{TestServer, builder};

/// Returns the status, the content type and the text of a response.
fn parts_of(response: impl IntoResponse) -> (u16, Option<String>, String) {
    let response = response.into_response();
    let content_type = response
        .headers()
        .get(CONTENT_TYPE)
        .map(|value| value.to_str().unwrap().to_owned());
    (
        response.status().as_u16(),
        content_type,
        response.into_body().into_text(Body::MAX_BYTES).unwrap(),
    )
}

#[track_caller]
fn check(response: impl IntoResponse, status: u16, content_type: &str, text: &str) {
    let content_type = (!content_type.is_empty()).then(|| content_type.to_owned());
    assert_eq!(parts_of(response), (status, content_type, text.to_owned()));
}

const TEXT: &str = "text/plain; charset=utf-8";
const OCTETS: &str = "application/octet-stream";

#[test]
fn strings_bytes_statuses_and_options_are_responses() {
    check("a", 200, TEXT, "a");
    check("a".to_owned(), 200, TEXT, "a");
    check(Cow::Borrowed("a"), 200, TEXT, "a");
    check(b"a".as_slice(), 200, OCTETS, "a");
    check(b"a".to_vec(), 200, OCTETS, "a");
    check(Body::from("a"), 200, "", "a");
    check((), 200, "", "");
    check(StatusCode::IM_A_TEAPOT, 418, TEXT, "418 I'm a teapot\n");
    check(StatusCode::NO_CONTENT, 204, "", "");
    check((StatusCode::ACCEPTED, "a"), 202, TEXT, "a");
    check(Some("a"), 200, TEXT, "a");
    check(None::<&str>, 404, TEXT, "404 Not Found\n");
    check(lameduck::http::Response::new("a"), 200, "", "a");
    check(HeaderMap::new(), 200, "", "");
}

#[test]
fn a_file_is_a_response_with_its_length() {
    let path = std::env::temp_dir().join(format!("lameduck-test-responses-{}", std::process::id()));
    std::fs::File::create(&path)
        .unwrap()
        .write_all(b"the file")
        .unwrap();
    let open = path.clone();
    let server =
        TestServer::start(move |_request: Request, _context: Context| std::fs::File::open(&open));
    let answer = server.client().get("/");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        (answer.text(), answer.field("content-length")),
        ("the file", Some("8"))
    );
    let gone = server.client().get("/");
    assert_eq!(
        (gone.status, gone.text()),
        (500, "500 Internal Server Error\n")
    );
    server.stop_cleanly();
}

/// Returns the bytes of a response that is made of the file at `path`.
fn file_bytes(path: &str) -> Vec<u8> {
    let path = path.to_owned();
    let server =
        TestServer::start(move |_request: Request, _context: Context| std::fs::File::open(&path));
    let answer = server.client().get("/");
    assert_eq!(answer.status, 200);
    server.stop_cleanly();
    answer.body
}

#[test]
fn a_file_is_sent_from_its_start_wherever_its_cursor_is() {
    let path = std::env::temp_dir().join(format!("lameduck-test-cursor-{}", std::process::id()));
    let text = "0123456789".repeat(20_000);
    std::fs::write(&path, &text).unwrap();
    let mut file = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    // Clones of a file share its cursor, so one response must not move that of another.
    let mut body = Body::try_from(file.try_clone().unwrap()).unwrap();
    let mut start = [0; 4];
    file.read_exact(&mut start).unwrap();
    assert_eq!(body.len(), Some(200_000));
    let mut sent = String::new();
    body.read_to_string(&mut sent).unwrap();
    assert!(sent == text, "{} bytes", sent.len());
    file.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"4567", "its cursor is where it was");
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_does_not_know_its_length_is_sent_whole() {
    for path in [
        "/proc/self/limits",
        "/proc/kallsyms",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ] {
        let Ok(expected) = std::fs::read(path) else {
            println!("not tested: {path} is not there");
            continue;
        };
        assert!(file_bytes(path) == expected, "{path}");
    }
}

#[test]
fn what_is_no_regular_file_is_no_body() {
    let (pipe, _other) = std::io::pipe().unwrap();
    let pipe = std::os::fd::OwnedFd::from(pipe);
    for file in [
        std::fs::File::open("/").unwrap(),
        std::fs::File::open("/dev/zero").unwrap(),
        pipe.into(),
    ] {
        assert!(Body::try_from(file).is_err());
    }
    let server = TestServer::start(|_: Request, _: Context| std::fs::File::open("/"));
    let answer = server.client().get("/");
    assert_eq!(answer.status, 500);
    server.stop_cleanly();
}

#[test]
fn fields_beside_a_body_replace_its_own_and_may_come_twice() {
    let response = (
        StatusCode::CREATED,
        [
            (CONTENT_TYPE, "text/html"),
            (SET_COOKIE, "a=1"),
            (SET_COOKIE, "b=2"),
        ],
        (
            HeaderMap::from_iter([(LOCATION, HeaderValue::from_static("/there"))]),
            "page",
        ),
    );
    let response = response.into_response();
    assert_eq!(
        (response.status().as_u16(), response.headers().len()),
        (201, 4)
    );
    assert_eq!(response.headers()[CONTENT_TYPE], "text/html");
    assert_eq!(
        response
            .headers()
            .get_all(SET_COOKIE)
            .iter()
            .collect::<Vec<_>>(),
        ["a=1", "b=2"]
    );
    assert_eq!(response.headers()[LOCATION], "/there");
}

#[test]
fn a_field_that_cannot_be_sent_is_500_and_nothing_of_it() {
    let response = ([(LOCATION, "/a\r\nSet-Cookie: stolen".to_owned())], "moved").into_response();
    assert_eq!(response.status(), 500);
    assert!(response.headers().get(LOCATION).is_none());
}

#[test]
fn an_error_is_500_whatever_it_is_and_its_text_is_not_sent() {
    const INTERNAL: &str = "500 Internal Server Error\n";
    check(Err::<(), _>("a secret"), 500, TEXT, INTERNAL);
    check(Err::<(), _>("a secret".to_owned()), 500, TEXT, INTERNAL);
    check(
        Err::<(), Box<dyn Error>>("a secret".into()),
        500,
        TEXT,
        INTERNAL,
    );
    check(
        Err::<(), _>(std::io::Error::other("a secret")),
        500,
        TEXT,
        INTERNAL,
    );
    check(
        Err::<(), _>(Failure::from(std::io::Error::other("a secret"))),
        500,
        TEXT,
        INTERNAL,
    );
    check(Err::<(), _>(StatusCode::GONE), 410, TEXT, "410 Gone\n");
}

#[test]
fn a_failure_answers_as_it_says() {
    fn handler(ok: bool) -> HandlerResult<&'static str> {
        "7".parse::<u8>().or_answer(StatusCode::BAD_REQUEST)?;
        let found = ok
            .then_some("found")
            .or_answer((StatusCode::NOT_FOUND, "not here\n"))?;
        "x".parse::<u8>()
            .or_answer((StatusCode::BAD_REQUEST, "no number\n"))?;
        Ok(found)
    }
    check(handler(false), 404, TEXT, "not here\n");
    check(handler(true), 400, TEXT, "no number\n");
}

#[test]
fn an_error_of_the_request_body_has_its_own_status_however_it_is_passed_on() {
    let too_long = || BodyError::TooLong { max: 3 };
    let text = "413 Payload Too Large: the request body is longer than 3 bytes\n";
    check(too_long(), 413, TEXT, text);
    check(Err::<(), _>(too_long()), 413, TEXT, text);
    check(Err::<(), _>(Failure::from(too_long())), 413, TEXT, text);
    check(
        Err::<(), Box<dyn Error>>(too_long().into()),
        413,
        TEXT,
        text,
    );
    check(
        Err::<(), Box<dyn Error + Send + Sync>>(too_long().into()),
        413,
        TEXT,
        text,
    );
    check(
        Err::<(), _>(std::io::Error::other(too_long())),
        413,
        TEXT,
        text,
    );
    check(
        Err::<(), Box<dyn Error>>(std::io::Error::other(too_long()).into()),
        413,
        TEXT,
        text,
    );
}

fn read(request: Request, _context: Context) -> Result<Response, Box<dyn Error>> {
    let text = request.into_body().into_text(8)?;
    Ok(format!("{} bytes", text.len()).into_response())
}

#[test]
fn a_body_that_is_declared_too_long_is_refused_before_it_is_asked_for() {
    let server = TestServer::start(read);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.read_response();
    assert_eq!(
        (answer.status, answer.field("connection")),
        (413, Some("close"))
    );
    drop(client);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.read_response().status, 100);
    client.send("12345678");
    assert_eq!(client.read_response().text(), "8 bytes");
    server.stop_cleanly();
}

#[test]
fn a_chunked_body_is_refused_when_it_turns_out_too_long_and_the_connection_goes_on() {
    for collected in [0, 1 << 10] {
        let server = TestServer::with(builder().workers(2).collect_bytes(collected), read);
        let mut client = server.client();
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n4\r\n6789\r\n0\r\n\r\n",
        );
        assert_eq!(client.read_response().status, 413, "collected {collected}");
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n3\r\n678\r\n0\r\n\r\n",
        );
        assert_eq!(client.read_response().text(), "8 bytes");
        server.stop_cleanly();
    }
}

#[test]
fn a_body_that_is_no_text_is_400_and_says_so() {
    let server = TestServer::start(read);
    let mut client = server.client();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n\xff\xff");
    let answer = client.read_response();
    assert_eq!(answer.status, 400);
    assert!(
        answer
            .text()
            .starts_with("400 Bad Request: the request body is not UTF-8 text: "),
        "{}",
        answer.text()
    );
    server.stop_cleanly();
}

#[test]
fn a_client_that_stops_sending_is_told_408_when_the_handler_reads() {
    let settings = builder()
        .workers(2)
        .collect_bytes(0)
        .body_timeout(support::millis(20));
    let server = TestServer::with(settings, read);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n1234");
    let answer = client.read_response();
    assert_eq!(
        (answer.status, answer.field("connection")),
        (408, Some("close"))
    );
    assert_eq!(
        answer.text(),
        "408 Request Timeout: the request body came too slowly\n"
    );
    drop(client);
    let _ = server.stop();
}

#[test]
fn a_client_that_ends_early_is_told_400_if_it_still_listens() {
    let server = TestServer::with(builder().workers(2).collect_bytes(0), read);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n1234");
    client.half_close();
    assert_eq!(client.read_response().status, 400);
    drop(client);
    let _ = server.stop();
}

#[cfg(feature = "json")]
#[test]
fn json_comes_in_and_goes_out() {
    use lameduck::response::Json;
    use std::collections::BTreeMap;

    let server = TestServer::start(|request: Request, _context: Context| {
        let numbers: BTreeMap<String, u32> = request.into_body().into_json(100)?;
        Ok::<_, BodyError>(Json(numbers.into_values().sum::<u32>()))
    });
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\n{\"a\":1,\"b\":2}");
    let answer = client.read_response();
    assert_eq!(
        (answer.text(), answer.field("content-type")),
        ("3", Some("application/json"))
    );
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n[1]");
    assert_eq!(client.read_response().status, 400);
    // A map whose keys are not texts cannot be JSON.
    assert_eq!(
        Json(BTreeMap::from([(vec![1], 2)]))
            .into_response()
            .status(),
        500
    );
    server.stop_cleanly();
}

#[test]
fn fields_that_may_repeat_are_added_and_others_replaced() {
    use lameduck::http::header::{CACHE_CONTROL, SET_COOKIE, VARY};
    let inner = ([(SET_COOKIE, "a=1"), (CACHE_CONTROL, "no-store")], "text");
    let mut map = lameduck::http::HeaderMap::new();
    map.append(SET_COOKIE, "c=3".parse().unwrap());
    map.append(SET_COOKIE, "d=4".parse().unwrap());
    map.append(CACHE_CONTROL, "no-cache".parse().unwrap());
    let middle = ([(SET_COOKIE, "b=2"), (VARY, "cookie")], inner);
    let response = (map, middle).into_response();
    let all = |name| response.headers().get_all(name).iter().collect::<Vec<_>>();
    assert_eq!(all(SET_COOKIE), ["a=1", "b=2", "c=3", "d=4"]);
    assert_eq!(all(CACHE_CONTROL), ["no-cache"]);
    assert_eq!(all(VARY), ["cookie"]);
}

#[test]
fn field_names_are_in_title_case_for_clients_that_need_it() {
    for (title_case, expected) in [
        (false, ["x-request-id: 1", "etag: 2", "x--a-: 3"]),
        (true, ["X-Request-Id: 1", "Etag: 2", "X--A-: 3"]),
    ] {
        let description = builder().workers(1).title_case_fields(title_case);
        let server = TestServer::with(description, |_: Request, _: Context| {
            let mut response = "hello".into_response();
            for (name, value) in [("x-request-id", "1"), ("etag", "2"), ("x--a-", "3")] {
                let value = HeaderValue::from_static(value);
                response.headers_mut().insert(name, value);
            }
            response
        });
        let mut client = server.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        std::io::Read::read_to_string(client.stream_mut(), &mut answer).unwrap();
        let lines: Vec<_> = answer.split("\r\n").collect();
        for line in expected
            .iter()
            .chain(&["Content-Length: 5", "Connection: close"])
        {
            assert!(lines.contains(line), "{line}: {answer}");
        }
    }
}
