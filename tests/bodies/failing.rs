//! A response that fails midway does not look complete, and costs no other connection anything.

use std::io::{self, Read, Write};

use lameduck::body::BodyWriter;
use lameduck::http::header::{CONTENT_LENGTH, HeaderValue};
use lameduck::report::CloseReason;
use lameduck::{Body, Context, IntoResponse, Request, Response};

use super::support::{Delimited, End, TestServer, builder, get};

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
        "writer-short",
        "writer-long",
        "stream-short",
    ];
    for kind in kinds {
        for some in [0, 1, 10_000, 1_000_000] {
            for version in ["1.1", "1.0"] {
                let mut client = server.client();
                client.send(format!(
                    "GET /{kind}/{some} HTTP/{version}\r\nHost: test\r\n\r\n"
                ));
                // A failure before the first byte may also be answered with 500.
                match client.try_read(false) {
                    Ok(answer) => assert_eq!(
                        answer.status, 500,
                        "/{kind}/{some} of HTTP/{version} looks complete"
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
        11 * 4 * 2,
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

/// Answers with a body that fails before its end. The path names its kind, and how many bytes come
/// first.
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
        "writer-short" | "writer-long" => {
            let fields = [(CONTENT_LENGTH, HeaderValue::from(some + 1))];
            let len = if kind == "writer-short" {
                some
            } else {
                some + 2
            };
            // The closure itself does not look at errors.
            let write = move |out: &mut BodyWriter<'_>| {
                let _ = out.write_all(&vec![b'x'; len]);
                Ok(())
            };
            (fields, Body::writer(write)).into_response()
        }
        "stream-short" => {
            let fields = [(CONTENT_LENGTH, HeaderValue::from(some + 1))];
            let write = move |out: &mut BodyWriter<'_>| out.write_all(&vec![b'x'; some]);
            (fields, Body::stream(write)).into_response()
        }
        _ => "fine".into_response(),
    }
}

/// A reader that fails in the given way after so many bytes.
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
