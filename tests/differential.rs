//! Sends the same bytes to this server and to one of hyper, and checks that the handlers of both
//! are given the same requests, or that lameduck is the stricter of the two.
//!
//! Request smuggling needs two readers that find different requests in the same bytes. Many other
//! servers are built on hyper. Where lameduck accepts what hyper refuses, there has to be a reason:
//! see [`without_lenience`].
//!
//! Each client sends all its bytes in one write and then finishes its side, so nothing depends on
//! time: both servers answer what is complete, and close. (hyper does so with `half_close` only;
//! without it, a client that has finished its side loses its responses.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/generators.rs"]
mod generators;
mod support;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lameduck::http::header::HOST;
use lameduck::http::request::Parts;
use lameduck::http::{HeaderMap, StatusCode};
use proptest::prelude::*;
use support::{Client, End, Reader, TestServer};

proptest! {
    #![proptest_config(generators::config(2000))]

    #[test]
    fn we_see_the_same_requests_as_hyper_or_refuse(bytes in generators::stream()) {
        compare(&bytes).map_err(TestCaseError::fail)?;
    }
}

/// Sends each of `requests` with another one after it, which would be smuggled or hidden if the end
/// of the first was found elsewhere, and expects the same verdict for all.
#[track_caller]
fn check(expected: Verdict, requests: &[&str]) {
    let differences: Vec<_> = requests
        .iter()
        .filter_map(|request| {
            let bytes = format!("{request}GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
            let found = compare(bytes.as_bytes());
            (found != Ok(expected)).then(|| match found {
                Ok(verdict) => format!("{verdict:?}: {request:?}"),
                Err(difference) => difference,
            })
        })
        .collect();
    assert!(
        differences.is_empty(),
        "not {expected:?}\n{}",
        differences.join("\n")
    );
}

/// A POST with these framing fields and this body.
macro_rules! post {
    ($fields:literal, $body:literal) => {
        concat!("POST / HTTP/1.1\r\nHost: a\r\n", $fields, "\r\n\r\n", $body)
    };
}

#[test]
fn what_is_valid_is_the_same_for_both() {
    check(
        Verdict::Equal,
        &[
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "GET http://b/c HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a[]={}|^ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \u{e9}\t\r\nX:\r\n\r\n",
            post!("Content-Length: 5", "hello"),
            post!("Content-Length: 005", "hello"),
            post!("Content-Length: 5\r\nExpect: 100-continue", "hello"),
            post!("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
            post!(
                "Transfer-Encoding: Chunked",
                "005;a=b\r\nhello\r\n00\r\n\r\n"
            ),
            post!(
                "Transfer-Encoding: chunked",
                "5\r\nhello\r\n0\r\nX: y\r\n\r\n"
            ),
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        ],
    );
}

#[test]
fn what_both_refuse_hides_nothing() {
    check(
        Verdict::Equal,
        &[
            post!("Content-Length: +5", "hello"),
            post!("Content-Length: -5", "hello"),
            post!("Content-Length: 0x5", "hello"),
            post!("Content-Length: 5,6", "hello"),
            post!("Content-Length: 5\r\nContent-Length: 6", "hello!"),
            post!("Content-Length : 5", "hello"),
            post!("Content-Length: 18446744073709551616", "hello"),
            post!("Transfer-Encoding: identity", "5\r\nhello\r\n0\r\n\r\n"),
            post!(
                "Transfer-Encoding: chunked, gzip",
                "5\r\nhello\r\n0\r\n\r\n"
            ),
            post!("Transfer-Encoding:\r\n chunked", "5\r\nhello\r\n0\r\n\r\n"),
            post!(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
                "5\r\nhello\r\n0\r\n\r\n"
            ),
            post!("Transfer-Encoding : chunked", "5\r\nhello\r\n0\r\n\r\n"),
            post!("Transfer-Encoding:\x0bchunked", "5\r\nhello\r\n0\r\n\r\n"),
            post!("Transfer-Encoding: xchunked", "5\r\nhello\r\n0\r\n\r\n"),
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            post!("Transfer-Encoding: chunked", "+5\r\nhello\r\n0\r\n\r\n"),
            post!("Transfer-Encoding: chunked", "0x5\r\nhello\r\n0\r\n\r\n"),
            post!("Transfer-Encoding: chunked", "5_0\r\nhello\r\n0\r\n\r\n"),
            post!("Transfer-Encoding: chunked", " 5\r\nhello\r\n0\r\n\r\n"),
            post!("Transfer-Encoding: chunked", "5\nhello\r\n0\r\n\r\n"),
            post!("Transfer-Encoding: chunked", "5\r\nhello0\r\n\r\n"),
            post!("Transfer-Encoding: chunked", "5\r\nhello!\r\n0\r\n\r\n"),
            post!("Transfer-Encoding: chunked", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
            post!(
                "Transfer-Encoding: chunked",
                "10000000000000005\r\nhello\r\n0\r\n\r\n"
            ),
            post!("Transfer-Encoding: chunked", "\r\nhello\r\n0\r\n\r\n"),
            post!(
                "Transfer-Encoding: chunked",
                "5\r\nhello\r\n0\r\na : b\r\n\r\n"
            ),
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET /\r\n",
            "GET / a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nA: b\rC: d\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n",
        ],
    );
}

#[test]
fn what_others_could_read_differently_is_refused_by_us_alone() {
    check(
        Verdict::Stricter,
        &[
            post!(
                "Content-Length: 5\r\nTransfer-Encoding: chunked",
                "5\r\nhello\r\n0\r\n\r\n"
            ),
            post!(
                "Transfer-Encoding: chunked\r\nContent-Length: 5",
                "5\r\nhello\r\n0\r\n\r\n"
            ),
            post!(
                "Transfer-Encoding: chunked\r\nContent-Length: x",
                "5\r\nhello\r\n0\r\n\r\n"
            ),
            post!("Content-Length: 5\r\nContent-Length: 5", "hello"),
            post!(
                "Transfer-Encoding: gzip, chunked",
                "5\r\nhello\r\n0\r\n\r\n"
            ),
            post!(
                "Transfer-Encoding: chunked, chunked",
                "5\r\nhello\r\n0\r\n\r\n"
            ),
            post!(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                "5\r\nhello\r\n0\r\n\r\n"
            ),
            post!("Transfer-Encoding: chunked", "5 ;\r\nhello\r\n0\r\n\r\n"),
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\\ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n",
        ],
    );
}

#[test]
fn close_among_options_that_are_not_ascii_is_heard_by_us_alone() {
    check(
        Verdict::Stricter,
        &["GET / HTTP/1.1\r\nHost: a\r\nConnection: \u{e9}, close\r\n\r\n"],
    );
}

#[test]
fn a_later_minor_version_is_taken_by_us_alone() {
    for minor in 2..=9 {
        check(
            Verdict::Lenient,
            &[&format!("GET / HTTP/1.{minor}\r\nHost: a\r\n\r\n")],
        );
    }
}

/// The result of a comparison that shows no fault of lameduck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Both gave their handlers the same requests, and both refused the rest or neither did.
    Equal,
    /// lameduck refused what hyper accepted.
    Stricter,
    /// lameduck accepted what hyper refused, and read it as [`without_lenience`] rewrites it.
    Lenient,
}

/// Rewrites what lameduck accepts and hyper refuses to what lameduck reads it as. There is one such
/// thing: a later minor version, which is compatible by definition (RFC 9110 section 2.5), while
/// hyper takes it for a malformed version.
///
/// Two more differences cannot be seen by a handler and do not count. To a head that the client's
/// end cuts off, hyper answers 400, while lameduck closes (RFC 9112 section 8: MAY). And hyper does
/// not tell its handler that the host of a URL replaces the `Host` field (see [`Seen::new`]).
fn without_lenience(bytes: &[u8]) -> Vec<u8> {
    let mut rewritten = bytes.to_vec();
    for at in 0..bytes.len() {
        if let [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            minor @ b'2'..=b'9',
            ..,
        ] = &mut rewritten[at..]
        {
            *minor = b'1';
        }
    }
    rewritten
}

/// Sends the bytes to both servers. Returns how lameduck differs, or an error if that is a fault.
fn compare(bytes: &[u8]) -> Result<Verdict, String> {
    let ours = OURS.outcome(bytes);
    let hypers = HYPER.outcome(bytes);
    let explain = |difference| {
        format!(
            "{difference}\n    bytes: {}\n lameduck: {ours}\n    hyper: {hypers}",
            bytes.escape_ascii()
        )
    };
    if ours.requests.len() <= hypers.requests.len() {
        return verdict(&ours, &hypers).map_err(explain);
    }
    let understood = without_lenience(bytes);
    if understood == bytes {
        return Err(explain("hyper refuses what we take"));
    }
    // Everything else that looks like a version is rewritten too, so what lameduck saw has to be.
    let requests = ours.requests.iter().map(Seen::without_lenience).collect();
    let rewritten = Outcome {
        requests,
        ..ours.clone()
    };
    verdict(&rewritten, &HYPER.outcome(&understood))
        .map(|_| Verdict::Lenient)
        .map_err(explain)
}

fn verdict(ours: &Outcome, hypers: &Outcome) -> Result<Verdict, &'static str> {
    if ours.end == End::Reset {
        return Err("we reset the connection");
    }
    if !hypers.requests.starts_with(&ours.requests) {
        return Err("our handler was given other requests, or more");
    }
    if ours.answers != ours.requests.len() {
        return Err("not every request of ours got its handler's answer");
    }
    if ours
        .refusal
        .is_some_and(|status| status < 400 || !ours.closes)
    {
        return Err("our refusal does not refuse, or does not say that the connection closes");
    }
    let fewer = ours.requests.len() < hypers.requests.len();
    match (ours.refusal, hypers.refusal) {
        // One case is `close` among options that are not ASCII, which hyper skips.
        _ if fewer && ours.closes => Ok(Verdict::Stricter),
        _ if fewer => {
            Err("a request that hyper answers gets no answer from us, and nothing says why")
        }
        (Some(_), None) => Ok(Verdict::Stricter),
        _ => Ok(Verdict::Equal),
    }
}

/// A request as its handler saw it, once its body was complete.
#[derive(Clone, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    version: String,
    /// The fields in the order of their names. The values of a name are in the order in which they
    /// came.
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Seen {
    fn new(parts: &Parts, body: Vec<u8>) -> Self {
        let mut fields = parts.headers.clone();
        // RFC 9112 section 3.2.2: the host of a URL replaces the field. hyper leaves that to its
        // handlers.
        if let Some(authority) = parts.uri.authority() {
            fields.insert(
                HOST,
                authority.as_str().parse().expect("a host is a field value"),
            );
        }
        Self {
            method: parts.method.to_string(),
            target: percent_encoded(&parts.uri.to_string()),
            version: format!("{:?}", parts.version),
            fields: sorted(&fields),
            body,
        }
    }

    fn without_lenience(&self) -> Self {
        let fields = self
            .fields
            .iter()
            .map(|(name, value)| (name.clone(), without_lenience(value)))
            .collect();
        let target = String::from_utf8(without_lenience(self.target.as_bytes())).unwrap();
        Self {
            target,
            fields,
            body: without_lenience(&self.body),
            ..self.clone()
        }
    }
}

/// Returns a target with its letters above ASCII percent-encoded, as our handlers see it. hyper hands
/// them over as they are.
fn percent_encoded(target: &str) -> String {
    let encoded = target.bytes().map(|byte| match byte {
        0x80.. => format!("%{byte:02X}"),
        _ => char::from(byte).to_string(),
    });
    encoded.collect()
}

fn sorted(fields: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut sorted: Vec<_> = fields
        .iter()
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    sorted.sort_by(|one, other| one.0.cmp(&other.0));
    sorted
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {{", self.method, self.target, self.version)?;
        for (name, value) in &self.fields {
            write!(f, " {name}: {};", value.escape_ascii())?;
        }
        write!(f, " }} \"{}\"", self.body.escape_ascii())
    }
}

/// What happened on a connection.
#[derive(Debug, Clone)]
struct Outcome {
    requests: Vec<Seen>,
    /// The number of responses of the handler to complete requests. Each is 204, so that none has a
    /// body.
    answers: usize,
    /// The status of the first response that is not 204 or 100. It is also the last response.
    refusal: Option<u16>,
    /// Whether the last response says that the connection closes.
    closes: bool,
    end: End,
}

impl Outcome {
    fn new(requests: Vec<Seen>, received: &[u8], end: End) -> Self {
        let mut outcome = Self {
            requests,
            answers: 0,
            refusal: None,
            closes: false,
            end,
        };
        let mut responses = Reader::over(received);
        while outcome.refusal.is_none() && responses.taken() < received.len() {
            // The body of a refusal is not looked at: it is the last response.
            let response = responses.read_head();
            outcome.closes = response.field("connection") == Some("close");
            match response.status {
                204 => outcome.answers += 1,
                100 => {}
                status => outcome.refusal = Some(status),
            }
        }
        outcome
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} answers, {:?}, {:?}",
            self.answers, self.refusal, self.end
        )?;
        self.requests
            .iter()
            .try_for_each(|request| write!(f, "\n           {request:?}"))
    }
}

/// The requests of each connection, by the address of the client.
type Log = Arc<Mutex<HashMap<SocketAddr, Vec<Seen>>>>;

/// A server under test, and what its handler saw.
struct Subject {
    addr: SocketAddr,
    log: Log,
}

impl Subject {
    /// Sends these bytes and then the client's end, and waits until the server closes.
    fn outcome(&self, bytes: &[u8]) -> Outcome {
        let mut client = Client::connect(self.addr);
        // A server that refuses the bytes may close before it has read all of them.
        let _ = client.try_send(bytes);
        let _ = client.try_half_close();
        let (received, end) = client.drain();
        let requests = self
            .log
            .lock()
            .unwrap()
            .remove(&client.local_addr())
            .unwrap_or_default();
        Outcome::new(requests, &received, end)
    }
}

static OURS: LazyLock<Subject> = LazyLock::new(|| {
    let log = Log::default();
    let seen = log.clone();
    let server = TestServer::start(
        move |request: lameduck::Request, context: lameduck::Context| {
            let (parts, mut body) = request.into_parts();
            let mut content = Vec::new();
            if body.read_to_end(&mut content).is_err() {
                return StatusCode::BAD_REQUEST;
            }
            let peer = context.peer_addr().expect("it is a TCP connection");
            seen.lock()
                .unwrap()
                .entry(peer)
                .or_default()
                .push(Seen::new(&parts, content));
            StatusCode::NO_CONTENT
        },
    );
    let addr = server.local_addr();
    // The server goes on until the process ends.
    std::mem::forget(server);
    Subject { addr, log }
});

static HYPER: LazyLock<Subject> = LazyLock::new(|| {
    let log = Log::default();
    let seen = log.clone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(serve_hyper(listener, seen));
    });
    Subject { addr, log }
});

async fn serve_hyper(listener: std::net::TcpListener, log: Log) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, peer) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let log = log.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let log = log.clone();
            async move {
                let (parts, body) = request.into_parts();
                let mut answer = hyper::Response::new(Empty::<Bytes>::new());
                *answer.status_mut() = StatusCode::BAD_REQUEST;
                if let Ok(content) = body.collect().await {
                    let content = content.to_bytes().to_vec();
                    log.lock()
                        .unwrap()
                        .entry(peer)
                        .or_default()
                        .push(Seen::new(&parts, content));
                    *answer.status_mut() = StatusCode::NO_CONTENT;
                }
                Ok::<_, Infallible>(answer)
            }
        });
        tokio::spawn(
            http1::Builder::new()
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}
