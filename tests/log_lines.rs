//! What the log says: where a server listens, what its connections do, and which request a failure
//! is about.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use lameduck::layers::{self, HandlerExt};
use lameduck::{Body, Context, IntoResponse, Request, Response};
use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

use support::{Client, LIMIT, TestServer, builder, hello};

/// The logger of this process, which all tests share.
struct Recorder;

impl Log for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args().to_string();
        for (part, to) in &*RECORDED.lock().unwrap() {
            if line.contains(part) {
                let mut pairs = Pairs::new();
                record.key_values().visit(&mut Collect(&mut pairs)).unwrap();
                let _ = to.send((record.level(), line.clone(), pairs));
            }
        }
    }

    fn flush(&self) {}
}

type Pairs = BTreeMap<String, String>;

type Line = (Level, String, Pairs);

/// The parts of lines that tests wait for, and the tests.
static RECORDED: Mutex<Vec<(String, Sender<Line>)>> = Mutex::new(Vec::new());

/// Returns the lines from now on that have `part` in them.
fn lines_with(part: impl ToString) -> Receiver<Line> {
    let _ = log::set_logger(&Recorder);
    log::set_max_level(LevelFilter::Debug);
    let (to, lines) = channel();
    RECORDED.lock().unwrap().push((part.to_string(), to));
    lines
}

struct Collect<'p>(&'p mut Pairs);

impl<'kvs> VisitSource<'kvs> for Collect<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.insert(key.to_string(), value.to_string());
        Ok(())
    }
}

#[test]
fn a_line_about_a_failure_names_its_request() {
    let lines = lines_with("on purpose");
    let app = |request: Request, _: Context| -> Response {
        let fails = || io::Error::other("on purpose");
        match request.uri().path() {
            "/panic" => panic!("on purpose"),
            "/error" => Err::<(), _>(fails()).into_response(),
            "/writer" => Response::new(Body::writer(move |out| {
                io::Write::write_all(out, &[0; 100_000])?;
                Err(fails())
            })),
            "/writer-panic" => Response::new(Body::writer(|_| panic!("on purpose"))),
            _ => "fine".into_response(),
        }
    };
    let server = TestServer::start(app.layer(layers::request_id()));
    for (method, path, what) in [
        ("GET", "/panic", "a handler panicked: on purpose"),
        ("POST", "/error", "a handler failed: on purpose"),
        ("GET", "/writer", "on purpose"),
        (
            "GET",
            "/writer-panic",
            "a response's body panicked: on purpose",
        ),
    ] {
        let mut client = Client::connect(server.local_addr());
        let peer = client.local_addr().to_string();
        // The line of an earlier request on the connection is not this one's.
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: other\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
        let head =
            format!("{method} {path}?secret HTTP/1.1\r\nHost: a\r\nX-Request-Id: r7\r\n\r\n");
        client.send(head);
        let (_, line, pairs) = lines.recv_timeout(LIMIT).unwrap();
        assert!(line.contains(what), "{line}");
        let named = format!(", in {method} {path}, peer {peer}, request id r7");
        assert!(line.ends_with(&named), "{line}");
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(key, value)| (&**key, &**value))
            .collect();
        let expected = [
            ("method", method),
            ("path", path),
            ("peer", &peer),
            ("request_id", "r7"),
        ];
        assert_eq!(pairs, expected, "{line}");
    }
    let _ = server.stop();
}

#[test]
fn it_says_where_it_listens_at_info_and_what_connections_do_at_debug() {
    let bound = builder().bind("127.0.0.1:0").unwrap();
    let addr = bound.local_addr();
    let lines = lines_with(addr);
    let next = |lines: &Receiver<Line>| {
        let (level, line, _) = lines.recv_timeout(LIMIT).unwrap();
        (level, line)
    };
    let running = bound.spawn(hello).unwrap();
    let listens = format!("listening on http://{addr}");
    assert_eq!(next(&lines), (Level::Info, listens));
    let mut client = Client::connect(addr);
    let peer = client.local_addr();
    let accepted = format!("accepted on {addr}, peer {peer}");
    assert_eq!(next(&lines), (Level::Debug, accepted));
    let lines = lines_with(peer);
    for _ in 0..2 {
        assert_eq!(client.get("/a?b").status, 200);
        let answered = format!("answered with 200, in GET /a, peer {peer}");
        assert_eq!(next(&lines), (Level::Debug, answered));
    }
    drop(client);
    let closed = format!("closed: PeerClosed, peer {peer}");
    assert_eq!(next(&lines), (Level::Debug, closed));
    let _ = running.handle().shutdown();
}
