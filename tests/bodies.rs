//! Bodies of requests and of responses arrive whole, or visibly not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use lameduck::body::BodyWriter;
use lameduck::http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use lameduck::report::CloseReason;
use lameduck::{Body, Context, IntoResponse, Request, Response};

use support::{
    Answer, Client, Delimited, End, Gate, LIMIT, TestServer, builder, eventually, get, now,
    pattern, post, post_chunked,
};

const BIG: usize = 10 << 20;
/// Still more than a few pulls and reads.
const SMALLER: usize = 300_000;

fn big() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| pattern(BIG))
}

/// Says how much of its body it was given, and a sum that depends on each byte's place.
fn digest(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    format!("{} {sum:x}", bytes.len())
}

fn read_all(request: Request, _: Context) -> io::Result<String> {
    let mut body = Vec::new();
    let declared = request.body().len();
    request.into_body().read_to_end(&mut body)?;
    assert!(
        declared.is_none_or(|len| len == body.len() as u64),
        "{declared:?}"
    );
    Ok(digest(&body))
}

#[test]
fn request_bodies_arrive_whole_however_they_are_framed_and_collected() {
    for collect in [0, 1, 100, 64 << 10, 4 << 20] {
        let server = TestServer::with(builder().workers(2).collect_bytes(collect), read_all);
        let mut client = server.client();
        for len in [
            0,
            1,
            99,
            100,
            101,
            16 << 10,
            64 << 10,
            (64 << 10) + 1,
            1 << 20,
        ] {
            let body = pattern(len);
            client.send(post("/", &body));
            assert_eq!(
                client.read_response().text(),
                digest(&body),
                "{len} bytes, collecting {collect}"
            );
            let chunks: Vec<_> = body.chunks(7777).collect();
            client.send(post_chunked("/", &chunks));
            assert_eq!(
                client.read_response().text(),
                digest(&body),
                "{len} bytes chunked, collecting {collect}"
            );
        }
        let tiny: Vec<_> = big()[..3000].chunks(1).collect();
        client.send(post_chunked("/", &tiny));
        assert_eq!(
            client.read_response().text(),
            digest(&big()[..3000]),
            "in tiny chunks, collecting {collect}"
        );
        server.stop_cleanly();
    }
}

#[test]
fn a_body_of_ten_megabytes_arrives_while_it_is_sent() {
    let server = TestServer::start(read_all);
    let mut client = server.client();
    client.send(post("/", big()));
    assert_eq!(client.read_response().text(), digest(big()));
    let chunks: Vec<_> = big().chunks(100_000).collect();
    client.send(post_chunked("/", &chunks));
    assert_eq!(client.read_response().text(), digest(big()));
}

#[test]
fn a_small_body_is_collected_before_the_handler_is_called() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let server = TestServer::start(move |request: Request, cx: Context| {
        if request.uri().path() == "/upload" {
            at_gate.pass();
        }
        read_all(request, cx)
    });
    let mut client = server.client();
    client.send("POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345");
    // A request on another connection, sent later, is answered: the first one's head was read by
    // then.
    for _ in 0..10 {
        assert_eq!(server.client().get("/").status, 200);
    }
    assert_eq!(gate.entered(), 0);
    client.send("67890");
    gate.wait_entered(1);
    gate.open();
    assert_eq!(client.read_response().text(), digest(b"1234567890"));
}

#[test]
fn with_collecting_off_the_handler_is_called_before_the_body_comes() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let server = TestServer::with(
        builder().workers(2).collect_bytes(0),
        move |request: Request, cx: Context| {
            at_gate.pass();
            read_all(request, cx)
        },
    );
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    gate.wait_entered(1);
    gate.open();
    client.send("5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(client.read_response().text(), digest(b"hello"));
}

#[test]
fn the_body_of_a_get_does_not_become_the_next_request() {
    let server = TestServer::start(read_all);
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 33\r\n\r\nGET /2 HTTP/1.1\r\nHost: other\r\n\r\n!");
    client.send(get("/3"));
    assert_eq!(
        client.read_response().text(),
        digest(b"GET /2 HTTP/1.1\r\nHost: other\r\n\r\n!")
    );
    assert_eq!(client.read_response().text(), digest(b""));
    // Counted when the answers are sent.
    eventually("two requests are counted", || {
        server.handle().stats().answered == 2
    });
}

#[test]
fn a_connection_stays_usable_after_a_small_body_that_nobody_read() {
    for collect in [0, 64 << 10] {
        let server = TestServer::with(
            builder().workers(2).collect_bytes(collect),
            |_: Request, _: Context| "unread",
        );
        let mut client = server.client();
        for len in [1, 1000, 100_000, 250_000] {
            client.send(post("/", &pattern(len)));
            let answer = client.read_response();
            assert_eq!(answer.text(), "unread", "{len} bytes, collecting {collect}");
            assert!(!answer.closes(), "{len} bytes, collecting {collect}");
            client.send(post_chunked("/", &[&pattern(len)]));
            assert_eq!(
                client.read_response().text(),
                "unread",
                "{len} bytes chunked, collecting {collect}"
            );
            assert_eq!(client.get("/").text(), "unread");
        }
    }
}

#[test]
fn the_response_to_a_large_body_that_nobody_read_can_be_read() {
    let server = TestServer::start(|_: Request, _: Context| "unread");
    for chunked in [false, true] {
        let mut client = server.client();
        let request = if chunked {
            post_chunked("/", &[big()])
        } else {
            post("/", big())
        };
        // Without a reader on the other side it may not all be taken.
        let sent = client.try_send(&request);
        let answer = client.read_response();
        assert_eq!(
            answer.text(),
            "unread",
            "chunked: {chunked}, sent: {sent:?}"
        );
        assert!(
            chunked || answer.closes(),
            "the server knows that it will close: {answer:?}"
        );
        client.drain();
    }
    let mut client = server.client();
    let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n";
    client.send([head.as_bytes(), &pattern(70_000)].concat());
    let answer = client.read_response();
    assert_eq!(answer.text(), "unread");
    assert!(answer.closes());
    client.expect_eof();
    let report = server.stop();
    assert_eq!(report.closed_because(CloseReason::Refused), 3, "{report}");
}

#[test]
fn a_body_whose_client_leaves_is_an_error_for_its_reader() {
    for collect in [0, 100] {
        let (sender, errors) = crossbeam_channel::unbounded();
        let server = TestServer::with(
            builder().workers(2).collect_bytes(collect),
            move |request: Request, _: Context| {
                let error = request
                    .into_body()
                    .read_to_end(&mut Vec::new())
                    .unwrap_err();
                sender.send(error.kind()).unwrap();
                "incomplete"
            },
        );
        for half in [true, false] {
            for request in [
                post("/", &pattern(10_000)),
                post_chunked("/", &[&pattern(10_000)]),
            ] {
                let mut client = server.client();
                client.send(&request[..5000]);
                if half {
                    client.half_close();
                    let answer = client.read_response();
                    assert!(answer.closes(), "{answer:?}");
                    client.expect_eof();
                } else {
                    client.reset();
                }
                let error = errors.recv_timeout(LIMIT).unwrap();
                assert!(
                    matches!(
                        error,
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                    ),
                    "collecting {collect}: {error:?}"
                );
            }
        }
    }
    // Collected: the handler is never called.
    let server = TestServer::start(|_: Request, _: Context| -> &str {
        panic!("the request is not complete")
    });
    let mut client = server.client();
    client.send(&post("/", b"hello")[..50]);
    client.half_close();
    assert_eq!(client.read_response().status, 400);
    client.expect_eof();
}

#[test]
fn broken_chunks_are_refused() {
    for (collect, len) in [(64 << 10, 0), (0, 0), (10, 100)] {
        let server = TestServer::with(builder().workers(2).collect_bytes(collect), read_all);
        let mut client = server.client();
        let request = post_chunked("/", &[&pattern(len + 1)]);
        let whole = request.strip_suffix(b"0\r\n\r\n").unwrap();
        client.send([whole, b"x\r\n", get("/smuggled").as_bytes()].concat());
        let answer = client.read_response();
        let status = if collect > 10 { 400 } else { 500 };
        assert_eq!(answer.status, status, "collecting {collect}");
        assert!(answer.closes());
        client.expect_eof();
    }
}

#[test]
fn trailers_of_a_request_are_there_after_its_body() {
    for collect in [64 << 10, 0, 3] {
        let server = TestServer::with(
            builder().workers(2).collect_bytes(collect),
            |request: Request, _: Context| {
                let mut body = request.into_body();
                let mut text = String::new();
                body.read_to_string(&mut text).unwrap();
                let trailers = body.take_trailers();
                assert!(!trailers.contains_key("content-length"));
                format!("{text} {}", trailers["checksum"].to_str().unwrap())
            },
        );
        let mut client = server.client();
        let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: Checksum\r\n\r\n";
        let body = "5\r\nhello\r\n0\r\nChecksum: abc\r\nContent-Length: 3\r\n\r\n";
        client.send([head, body, &get("/")].concat());
        assert_eq!(
            client.read_response().text(),
            "hello abc",
            "collecting {collect}"
        );
    }
}

#[test]
fn a_client_that_expects_continue_is_told_when_the_handler_reads() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let server = TestServer::start(move |request: Request, cx: Context| {
        at_gate.pass();
        read_all(request, cx)
    });
    let mut client = server.client();
    for _ in 0..2 {
        let entered = gate.entered();
        client.send(
            "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        );
        gate.wait_entered(entered + 1);
        client.expect_nothing_yet();
        gate.release();
        assert_eq!(client.read_raw(25), b"HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello");
        let answer = client.read_response();
        assert_eq!((answer.status, answer.text()), (200, &*digest(b"hello")));
        assert!(!answer.closes());
    }
}

#[test]
fn a_client_that_expects_continue_gets_a_refusal_without_it() {
    let server = TestServer::start(|_: Request, _: Context| lameduck::http::StatusCode::FORBIDDEN);
    let mut client = server.client();
    client
        .send("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let answer = client.read_response();
    assert_eq!(answer.status, 403);
    if answer.closes() {
        client.expect_eof();
    } else {
        // RFC 9110 section 10.1.1: the client may still send the body, and then it has to be read.
        client.send("hello");
        assert_eq!(client.get("/").status, 403);
    }
}

#[test]
fn who_sends_the_body_without_waiting_gets_an_answer_all_the_same() {
    let server = TestServer::start(read_all);
    let mut client = server.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    );
    let mut answer = client.read_response();
    if answer.status == 100 {
        answer = client.read_response();
    }
    assert_eq!(answer.text(), digest(b"hello"));
    assert_eq!(client.get("/").text(), digest(b""));
    // HTTP/1.0 knows no 100.
    let mut old = server.client();
    old.send("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(old.read_response().text(), digest(b"hello"));
}

/// The file that is sent, made once.
fn big_file() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let path = std::env::temp_dir().join("lameduck-test-bodies");
        let own = path.with_extension(std::process::id().to_string());
        std::fs::write(&own, big()).unwrap();
        std::fs::rename(own, &path).unwrap();
        path
    });
    path.clone()
}

/// Answers with `big`, or a smaller piece of it if asked for, made in the way that the path names.
fn of_each_kind(request: Request, _: Context) -> Response {
    let big = if request.uri().query() == Some("smaller") {
        &big()[..SMALLER]
    } else {
        big()
    };
    match request.uri().path() {
        "/empty" => ().into_response(),
        "/str" => "text".into_response(),
        "/string" => String::from("text").into_response(),
        "/slice" => b"text".as_slice().into_response(),
        "/vec" => big.to_vec().into_response(),
        "/bytes" => bytes::Bytes::from_static(big).into_response(),
        "/reader" => Body::reader(Cursor::new(big)).into_response(),
        "/sized" => Body::sized_reader(Cursor::new(big), big.len() as u64).into_response(),
        "/longer" => Body::sized_reader(io::repeat(b'x'), 4).into_response(),
        "/nothing" => Body::reader(io::empty()).into_response(),
        "/unwritten" => Body::writer(|_| Ok(())).into_response(),
        "/writer" => Body::writer(move |out| out.write_all(big)).into_response(),
        "/pieces" => {
            Body::writer(move |out| big.chunks(9999).try_for_each(|piece| out.write_all(piece)))
                .into_response()
        }
        "/flushed" => Body::writer(|out: &mut BodyWriter<'_>| {
            out.flush()?;
            out.write_all(b"te")?;
            out.flush()?;
            out.flush()?;
            out.write_all(b"")?;
            out.write_all(b"xt")
        })
        .into_response(),
        "/file" => Body::try_from(File::open(big_file()).unwrap())
            .unwrap()
            .into_response(),
        other => panic!("{other}"),
    }
}

const KINDS: [(&str, bool, usize); 15] = [
    ("/empty", true, 0),
    ("/str", true, 4),
    ("/string", true, 4),
    ("/slice", true, 4),
    ("/vec", true, BIG),
    ("/bytes", true, BIG),
    ("/reader", false, BIG),
    ("/sized", true, BIG),
    ("/longer", true, 4),
    ("/nothing", false, 0),
    ("/unwritten", false, 0),
    ("/writer", false, BIG),
    ("/pieces", false, BIG),
    ("/flushed", false, 4),
    ("/file", true, BIG),
];

#[track_caller]
fn assert_body(answer: &Answer, path: &str, len: usize) {
    assert_eq!(answer.status, 200, "{path}");
    let expected: &[u8] = match (path, len) {
        ("/longer", _) => b"xxxx",
        (_, 4) => b"text",
        _ => &big()[..len],
    };
    assert!(
        answer.body == expected,
        "{path}: {} of {len} bytes",
        answer.body.len()
    );
}

#[test]
fn a_response_of_each_kind_arrives_whole() {
    let server = TestServer::start(of_each_kind);
    let mut client = server.client();
    for (path, is_sized, len) in KINDS {
        let answer = client.get(path);
        assert_body(&answer, path, len);
        assert_eq!(
            answer.delimited,
            if is_sized {
                Delimited::Length
            } else {
                Delimited::Chunked
            },
            "{path}"
        );
        assert!(!answer.closes(), "{path}");
        assert!(answer.field("date").is_some(), "{path}");
    }
    // One after the other, without waiting.
    let smaller = KINDS.iter().filter(|(path, ..)| *path != "/file");
    client.send(
        smaller
            .clone()
            .map(|(path, ..)| get(&format!("{path}?smaller")))
            .collect::<String>(),
    );
    for (path, _, len) in smaller {
        assert_body(&client.read_response(), path, (*len).min(SMALLER));
    }
    server.stop_cleanly();
}

#[test]
fn head_of_each_kind_has_no_body_and_the_length_that_get_would_have() {
    let server = TestServer::start(of_each_kind);
    let mut client = server.client();
    for (path, is_sized, len) in KINDS {
        let answer = client.head(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.closes(), "{path}");
        if let Some(declared) = answer.field("content-length") {
            assert!(is_sized, "{path}");
            assert_eq!(declared, len.to_string(), "{path}");
        }
        assert!(
            !is_sized || len == 0 || answer.field("content-length").is_some(),
            "{path}"
        );
    }
    assert_body(&client.get("/str"), "/str", 4);
    server.stop_cleanly();
}

#[test]
fn http_1_0_gets_each_kind_without_chunks() {
    let server = TestServer::start(of_each_kind);
    for (path, is_sized, len) in KINDS {
        for keep in [false, true] {
            let mut client = server.client();
            let asks = if keep {
                "Connection: keep-alive\r\n"
            } else {
                ""
            };
            client.send(format!("GET {path}?smaller HTTP/1.0\r\n{asks}\r\n"));
            let answer = client.read_response();
            assert_body(
                &answer,
                path,
                if path == "/file" {
                    len
                } else {
                    len.min(SMALLER)
                },
            );
            assert_eq!(
                answer.delimited,
                if is_sized {
                    Delimited::Length
                } else {
                    Delimited::ByClose
                },
                "{path}"
            );
            if keep && is_sized {
                assert_eq!(answer.field("connection"), Some("keep-alive"), "{path}");
                client.send("GET /str HTTP/1.0\r\n\r\n");
                assert_body(&client.read_response(), "/str", 4);
            }
            client.expect_eof();
        }
    }
    server.stop_cleanly();
}

#[test]
fn http_1_0_head_of_each_kind_has_no_body() {
    let server = TestServer::start(of_each_kind);
    for (path, ..) in KINDS {
        let mut client = server.client();
        client.send(format!("HEAD {path} HTTP/1.0\r\n\r\n"));
        assert_eq!(client.read_response_to_head().status, 200, "{path}");
        client.expect_eof();
    }
}

/// A reader that has some bytes and then fails in the given way.
struct Failing(usize, fn() -> io::Result<usize>);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return (self.1)();
        }
        let n = buffer.len().min(self.0);
        buffer[..n].fill(b'x');
        self.0 -= n;
        Ok(n)
    }
}

/// Responses that cannot be made whole.
fn failing(request: Request, _: Context) -> Response {
    let error = || Err(io::Error::other("the disk is gone"));
    let mut parts = request.uri().path().split('/').skip(1);
    let (kind, some) = (
        parts.next().unwrap(),
        parts.next().unwrap().parse::<usize>().unwrap(),
    );
    match kind {
        "reader" => Body::reader(Failing(some, error)).into_response(),
        "sized" => Body::sized_reader(Failing(some, error), some as u64 + 1).into_response(),
        "short" => Body::sized_reader(Failing(some, || Ok(0)), some as u64 + 1).into_response(),
        "reader-panic" => Body::reader(Failing(some, || panic!("on purpose"))).into_response(),
        "sized-panic" => {
            Body::sized_reader(Failing(some, || panic!("on purpose")), some as u64 + 1)
                .into_response()
        }
        "writer" => Body::writer(move |out| {
            out.write_all(&vec![b'x'; some])?;
            Err(io::Error::other("the disk is gone"))
        })
        .into_response(),
        "writer-panic" => Body::writer(move |out| {
            out.write_all(&vec![b'x'; some])?;
            panic!("on purpose")
        })
        .into_response(),
        "declared-short" => {
            let fields = [(CONTENT_LENGTH, HeaderValue::from(some + 1))];
            (fields, Body::reader(Failing(some, || Ok(0)))).into_response()
        }
        _ => "fine".into_response(),
    }
}

#[test]
fn a_response_that_fails_midway_does_not_look_complete() {
    let server = TestServer::start(failing);
    let kinds = [
        "reader",
        "sized",
        "short",
        "reader-panic",
        "sized-panic",
        "writer",
        "writer-panic",
        "declared-short",
    ];
    for kind in kinds {
        for some in [0, 1, 10_000, 1_000_000] {
            for version in ["1.1", "1.0"] {
                let mut client = server.client();
                client.send(format!(
                    "GET /{kind}/{some} HTTP/{version}\r\nHost: test\r\n\r\n"
                ));
                // Before the first byte it could also be told: 500.
                match client.try_read(false) {
                    Ok(answer) => assert_eq!(
                        answer.status, 500,
                        "/{kind}/{some} of HTTP/{version} came whole"
                    ),
                    Err(incomplete) => {
                        let framed = incomplete.answer.as_ref().map(|answer| answer.delimited);
                        let by_close = framed.is_none_or(|framed| framed == Delimited::ByClose);
                        assert!(
                            !by_close || incomplete.end == End::Reset,
                            "/{kind}/{some}: {incomplete:?}"
                        );
                    }
                }
            }
        }
        assert_eq!(
            server.client().get("/fine/0").text(),
            "fine",
            "after {kind}"
        );
    }
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        report.closed_because(CloseReason::Failed),
        8 * 4 * 2,
        "{report}"
    );
}

#[test]
fn a_panic_in_a_handler_costs_its_connection_and_nothing_else() {
    let server = TestServer::with(
        builder().workers(1),
        |request: Request, _: Context| -> &str {
            match request.uri().path() {
                "/text" => panic!("on purpose"),
                "/value" => std::panic::panic_any(42),
                _ => "fine",
            }
        },
    );
    let mut other = server.used_client("/");
    for path in ["/text", "/value"] {
        for _ in 0..10 {
            let mut client = server.client();
            client.send([get("/"), get(path), get("/")].concat());
            assert_eq!(client.read_response().text(), "fine");
            let answer = client.read_response();
            assert_eq!(answer.status, 500);
            assert!(answer.closes());
            assert!(
                !answer.text().contains("on purpose"),
                "the client is told nothing"
            );
            client.expect_eof();
        }
    }
    assert_eq!(other.get("/").text(), "fine");
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.accepted, 21);
    assert_eq!(
        report.answered.iter().map(|(_, n)| n).sum::<u64>(),
        42,
        "{report}"
    );
}

#[test]
fn slow_readers_hold_no_worker() {
    let server = TestServer::start(of_each_kind);
    let mut slow = Vec::new();
    for path in [
        "/vec", "/bytes", "/reader", "/sized", "/file", "/reader", "/file", "/bytes",
    ] {
        let mut client = Client::connect_narrow(server.local_addr());
        client.send_get(path);
        assert_eq!(client.read_raw(17), b"HTTP/1.1 200 OK\r\n");
        slow.push(client);
    }
    let began = now();
    let mut normal = server.client();
    for _ in 0..100 {
        assert_body(&normal.get("/str"), "/str", 4);
        assert_body(&server.client().get("/str"), "/str", 4);
    }
    assert!(now() - began < LIMIT / 5);
    // All of it comes, although nobody was waiting for it.
    drain_together(slow);
    server.stop_cleanly();
}

#[test]
fn writers_with_slow_readers_hold_half_of_the_workers() {
    let server = TestServer::start(of_each_kind);
    let mut slow: Vec<_> = (0..8)
        .map(|_| Client::connect_narrow(server.local_addr()))
        .collect();
    // The first one has the only place; the others wait for it.
    slow[0].send_get("/writer");
    assert_eq!(slow[0].read_raw(17), b"HTTP/1.1 200 OK\r\n");
    for client in &mut slow[1..] {
        client.send_get("/writer");
    }
    let mut normal = server.client();
    for _ in 0..100 {
        assert_body(&normal.get("/str"), "/str", 4);
        assert_body(&server.client().get("/str"), "/str", 4);
    }
    drain_together(slow);
}

/// Each gets the rest of its response.
fn drain_together(clients: Vec<Client>) {
    let drain = |mut client: Client| {
        std::thread::spawn(move || {
            client.half_close();
            let (rest, end) = client.drain();
            assert_eq!(end, End::Eof);
            assert!(rest.len() > BIG, "{}", rest.len());
        })
    };
    let threads: Vec<_> = clients.into_iter().map(drain).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn uploads_that_trickle_hold_no_worker_before_they_are_large() {
    let server = TestServer::start(read_all);
    let mut trickling: Vec<_> = (0..20).map(|_| server.client()).collect();
    for client in &mut trickling {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n");
        client.send(&pattern(100_000)[..50_000]);
    }
    // These do, one at a time.
    let mut large: Vec<_> = (0..4).map(|_| server.client()).collect();
    for client in &mut large {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n");
        client.send(&pattern(100_000)[..90_000]);
    }
    server.wait_accepted(24);
    let mut normal = server.client();
    for _ in 0..100 {
        assert_eq!(normal.get("/").text(), digest(b""));
    }
    for client in trickling.iter_mut().rev() {
        client.send(&pattern(100_000)[50_000..]);
    }
    for client in large.iter_mut().rev() {
        client.send(&pattern(100_000)[90_000..]);
    }
    for client in trickling.iter_mut().chain(&mut large) {
        assert_eq!(client.read_response().text(), digest(&pattern(100_000)));
    }
    server.stop_cleanly();
}

#[test]
fn a_wrong_length_of_the_handler_becomes_500() {
    let server = TestServer::start(|request: Request, _: Context| {
        let value = HeaderValue::from_str(request.uri().query().unwrap_or("5")).unwrap();
        ([(CONTENT_LENGTH, value)], "hello")
    });
    let mut client = server.client();
    for query in ["4", "6", "0", "x", "-5", "+5", "18446744073709551621"] {
        let answer = client.get(&format!("/?{query}"));
        assert_eq!(answer.status, 500, "{query}");
        if answer.closes() {
            client.expect_eof();
            client = server.client();
        }
        assert_eq!(client.get("/?5").text(), "hello");
    }
}

#[test]
fn framing_fields_of_the_handler_are_not_sent() {
    let server = TestServer::start(|_: Request, _: Context| {
        let field = |name, value| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        let fields = [
            field("transfer-encoding", "chunked"),
            field("connection", "keep-alive, x-hop"),
            field("keep-alive", "timeout=5"),
            field("date", "never"),
            field("x-own", "kept"),
        ];
        (fields, "hello")
    });
    let mut client = server.client();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!(
            (answer.text(), answer.delimited),
            ("hello", Delimited::Length)
        );
        assert_eq!(
            (answer.field("x-own"), answer.field("keep-alive")),
            (Some("kept"), None)
        );
        assert_ne!(answer.field("date"), Some("never"));
    }
}

#[test]
fn a_request_body_can_be_the_response_body() {
    for collect in [64 << 10, 0] {
        let server = TestServer::with(
            builder().workers(2).collect_bytes(collect),
            |request: Request, _: Context| request.into_body(),
        );
        let mut client = server.client();
        for len in [0, 5, 100_000] {
            let body = pattern(len);
            client.send(post("/", &body));
            let answer = client.read_response();
            assert!(
                answer.body == body,
                "{len} bytes, collecting {collect}: {} {}",
                answer.status,
                answer.body.len()
            );
            client.send(post_chunked("/", &[&body]));
            assert!(
                client.read_response().body == body,
                "{len} bytes chunked, collecting {collect}"
            );
        }
        // More than fits between the two: the client has to read while it writes.
        let addr = server.local_addr();
        let mut echo = Client::connect(addr);
        let (mut reader, writer) = (
            echo.second(),
            std::thread::spawn(move || echo.send(post("/", big()))),
        );
        assert!(reader.read_response().body == big());
        writer.join().unwrap();
        let mut continued = server.client();
        continued.send(
            "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        );
        assert_eq!(continued.read_response().status, 100);
        continued.send("hello");
        assert_eq!(continued.read_response().text(), "hello");
        server.stop_cleanly();
    }
}

#[test]
fn a_body_that_is_passed_on_to_another_thread_ends_with_its_response() {
    let (sender, bodies) = crossbeam_channel::unbounded();
    let server = TestServer::with(
        builder().workers(2).collect_bytes(0),
        move |request: Request, _: Context| {
            sender.send(request.into_body()).unwrap();
            "answered"
        },
    );
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.read_response().text(), "answered");
    let mut body = bodies.recv_timeout(LIMIT).unwrap();
    let error = support::within_limit("a read of an abandoned body", move || {
        body.read(&mut [0; 16])
    });
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    client.send("hello");
    assert_eq!(client.get("/").text(), "answered");
}
