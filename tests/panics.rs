//! A panic in user code, wherever it comes, costs its connection and nothing else: no worker, no
//! count, no descriptor.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(all(feature = "cli", target_os = "linux"))]

mod support;

use std::io::{self, Read, Write};
use std::panic::panic_any;

use bytes::Bytes;

use lameduck::http::StatusCode;
use lameduck::report::CloseReason;
use lameduck::{Body, Context, IntoResponse, Request, Response};
use rustix::process::Signal;

use support::child::{MODE, Program, this_program};
use support::{
    Client, Delimited, Gate, LIMIT, TestServer, builder, eventually, get, millis, now,
    server_threads,
};

/// A value that panics when it is dropped. As a reader it has some bytes and an end.
#[derive(Clone)]
struct Bomb(usize);

impl Bomb {
    /// Called in closures, so that they capture the value and not its field.
    fn len(&self) -> usize {
        self.0
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        // A second panic at the same time would end the process.
        if !std::thread::panicking() {
            panic!("on purpose, when dropped");
        }
    }
}

impl Read for Bomb {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.min(buffer.len());
        buffer[..n].fill(b'x');
        self.0 -= n;
        Ok(n)
    }
}

/// A reader that panics when it is read for the second time.
struct Panicking(bool);

impl Read for Panicking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(
            !std::mem::replace(&mut self.0, true),
            "on purpose, when read"
        );
        buffer[0] = b'x';
        Ok(1)
    }
}

/// Every place in which user code can panic, by its path.
const PLACES: [&str; 12] = [
    "/handler",
    "/handler-value",
    "/handler-bomb",
    "/reader",
    "/reader-bomb",
    "/reader-drop",
    "/reader-drop-unread",
    "/writer",
    "/writer-bomb",
    "/writer-drop",
    "/writer-drop-unwritten",
    "/extension",
];

fn handle(request: Request, _: Context) -> Response {
    match request.uri().path() {
        "/handler" => panic!("on purpose, in a handler"),
        "/handler-value" => panic_any(42),
        // The value that the handler panics with panics when it is dropped.
        "/handler-bomb" => panic_any(Bomb(0)),
        "/reader" => Body::reader(Panicking(false)).into_response(),
        "/reader-bomb" => Body::reader(BombReader).into_response(),
        "/reader-drop" => Body::reader(Bomb(100_000)).into_response(),
        "/reader-drop-unread" => (StatusCode::NO_CONTENT, Body::reader(Bomb(10))).into_response(),
        "/writer" => Body::writer(|out| {
            out.write_all(b"begun")?;
            panic!("on purpose, when written")
        })
        .into_response(),
        "/writer-bomb" => Body::writer(|_| panic_any(Bomb(0))).into_response(),
        "/writer-drop" => {
            let bomb = Bomb(0);
            Body::writer(move |out| out.write_all(&vec![b'x'; bomb.len() + 10])).into_response()
        }
        "/writer-drop-unwritten" => {
            let bomb = Bomb(0);
            let body = Body::writer(move |out| out.write_all(&vec![b'x'; bomb.len() + 10]));
            (StatusCode::NO_CONTENT, body).into_response()
        }
        "/extension" => {
            let mut response = "fine".into_response();
            response.extensions_mut().insert(Bomb(0));
            response
        }
        _ => "fine".into_response(),
    }
}

struct BombReader;

impl Read for BombReader {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        panic_any(Bomb(0))
    }
}

/// Keeps the panics of this file, which are on purpose, from filling the screen.
fn silence() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic
            .payload()
            .downcast_ref::<&str>()
            .is_some_and(|text| !text.starts_with("on purpose"));
        let formatted = panic
            .payload()
            .downcast_ref::<String>()
            .is_some_and(|text| !text.starts_with("on purpose"));
        if text || formatted {
            eprintln!("{panic}");
        }
    }));
}

/// Asks for the panic of `place`, and checks that no answer looks complete that is not.
#[track_caller]
fn ask(mut client: Client, place: &str) {
    client.send_get(place);
    match client.try_read(false) {
        Ok(answer) if place.starts_with("/handler") => {
            assert!(answer.status == 500 && answer.closes(), "{answer:?}")
        }
        // A panic that comes when all is sent may cost the connection, but the answer is right.
        Ok(answer) => {
            assert!(
                place.contains("drop") || place == "/extension",
                "{place}: {answer:?}"
            );
            let len = match place {
                "/reader-drop" => 100_000,
                "/writer-drop" => 10,
                "/extension" => 4,
                _ => 0,
            };
            assert_eq!(answer.body.len(), len, "{place}");
        }
        Err(incomplete) => {
            assert!(!place.starts_with("/handler"), "{place}: {incomplete:?}");
            let framed = incomplete.answer.map(|answer| answer.delimited);
            assert!(
                framed.is_none_or(|framed| framed == Delimited::Chunked),
                "{place}: {framed:?}"
            );
        }
    }
}

#[test]
fn a_panic_anywhere_in_user_code_costs_its_connection_and_nothing_else() {
    silence();
    for workers in [1, 4] {
        let server = TestServer::with(builder().workers(workers), handle);
        let mut other = server.used_client("/");
        for place in PLACES {
            for _ in 0..2 * workers {
                ask(server.client(), place);
            }
            assert_eq!(other.get("/").text(), "fine", "after {place}");
            assert_eq!(server.client().get("/").text(), "fine", "after {place}");
        }
        drop(other);
        eventually("every connection has ended", || {
            server.handle().stats().open == 0
        });
        let report = server.stop();
        assert!(report.is_clean(), "{report}");
        assert_eq!(
            report.closed.iter().map(|(_, n)| n).sum::<u64>(),
            report.accepted,
            "{report}"
        );
        assert!(
            report.closed_because(CloseReason::Failed) >= 8 * 2 * workers as u64,
            "{report}"
        );
    }
}

#[test]
fn a_writer_that_panics_when_it_is_dropped_waiting_for_a_worker_is_no_harm() {
    silence();
    let gate = Gate::new();
    let waits = gate.clone();
    // Without dedicated threads, one of the two workers may write, and the first closure has it. The
    // other closure is dropped when its connection gets 503.
    let description = builder()
        .workers(2)
        .max_dedicated_threads(0)
        .queue_timeout(support::millis(50));
    let server = TestServer::with(
        description,
        move |request: Request, _: Context| match request.uri().path() {
            "/holds" => {
                let waits = waits.clone();
                Body::writer(move |_| {
                    waits.pass();
                    Ok(())
                })
            }
            "/bomb" => {
                let bomb = Bomb(0);
                Body::writer(move |out| out.write_all(&vec![b'x'; bomb.len()]))
            }
            _ => Body::from("fine"),
        },
    );
    let mut holds = server.block(&gate, "/holds");
    for _ in 0..10 {
        assert_eq!(server.client().get("/bomb").status, 503);
        assert_eq!(server.client().get("/").text(), "fine");
    }
    gate.open();
    assert_eq!(holds.read_response().status, 200);
    drop(holds);
    let report = server.stop();
    assert_eq!(
        report.closed_because(CloseReason::Overloaded),
        10,
        "{report}"
    );
}

#[test]
fn a_handler_that_panics_when_it_is_dropped_spoils_no_report() {
    silence();
    for _ in 0..20 {
        let bomb = Bomb(2);
        let server = TestServer::with(builder().workers(2), move |_: Request, _: Context| {
            "x".repeat(bomb.len())
        });
        assert_eq!(server.client().get("/").text(), "xx");
        let report = server.stop();
        assert!(report.is_clean() && report.accepted == 1, "{report}");
    }
}

/// No test: the program that the child of the test below runs.
#[test]
fn the_program() {
    if std::env::var(MODE).is_err() {
        return;
    }
    silence();
    let gate = Gate::new();
    let handler = move |request: Request, context: Context| {
        if request.uri().path().starts_with("/block") {
            gate.pass();
        }
        if request.uri().path() == "/release" {
            gate.release();
        }
        handle(request, context)
    };
    let server = builder().workers(WORKERS).on_signals([libc::SIGTERM]);
    let bound = server.bind("127.0.0.1:0").unwrap();
    eprintln!("listening on http://{}", bound.local_addr());
    let report = bound.run(handler).unwrap();
    let ended: u64 = report.closed.iter().map(|(_, n)| n).sum();
    eprintln!(
        "accepted {}, ended {ended}, clean {}",
        report.accepted,
        report.is_clean()
    );
    eventually("the thread that made the report is gone too", || {
        server_threads().is_empty()
    });
    eprintln!("threads left 0");
}

const WORKERS: usize = 4;

#[test]
fn ten_thousand_panics_leave_the_process_as_it_was() {
    const PANICS: usize = 10_000;
    const AT_A_TIME: usize = 50;
    let program = Program::serving(&mut this_program("the_program", "server"));
    let count = |what| {
        std::fs::read_dir(format!("/proc/{}/{what}", program.pid().as_raw_nonzero()))
            .unwrap()
            .count()
    };
    let mut known = program.client();
    assert_eq!(known.get("/").text(), "fine");
    let before = (count("fd"), count("task"));
    let began = now();
    for batch in 0..PANICS / AT_A_TIME {
        let clients: Vec<_> = (0..AT_A_TIME).map(|_| program.client()).collect();
        for (i, client) in clients.into_iter().enumerate() {
            ask(client, PLACES[(batch + i) % PLACES.len()]);
        }
    }
    println!("{PANICS} panics in {:?}", now() - began);
    eventually("descriptors and threads are as before", || {
        (count("fd"), count("task")) == before
    });
    // Each worker is there: as many handlers run at the same time, each with its own route.
    let mut blocked: Vec<_> = (0..WORKERS - 1).map(|_| program.client()).collect();
    blocked
        .iter_mut()
        .enumerate()
        .for_each(|(i, client)| client.send(get(&format!("/block-{i}"))));
    for _ in 1..WORKERS {
        assert_eq!(known.get("/release").text(), "fine");
    }
    blocked
        .iter_mut()
        .for_each(|client| assert_eq!(client.read_response().text(), "fine"));
    drop((blocked, known));
    program.signal(Signal::TERM);
    let accepted = PANICS + WORKERS;
    program.wait_for_line(&format!(
        "accepted {accepted}, ended {accepted}, clean true"
    ));
    program.wait_for_line("threads left 0");
    assert!(now() - began < 6 * LIMIT);
}

/// Bytes of the program's own whose drop does what a test says.
struct Owned<F: Fn()>(Vec<u8>, F);

impl<F: Fn()> AsRef<[u8]> for Owned<F> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<F: Fn()> Drop for Owned<F> {
    fn drop(&mut self) {
        (self.1)();
    }
}

fn owned(len: usize, when_dropped: impl Fn() + Send + 'static) -> Body {
    Body::from(Bytes::from_owner(Owned(vec![b'x'; len], when_dropped)))
}

#[test]
fn a_body_that_panics_when_it_is_dropped_costs_no_worker() {
    const WORKERS: usize = 2;
    let server = TestServer::with(
        builder().workers(WORKERS),
        |request: Request, _: Context| match request.uri().path() {
            "/large" => owned(1 << 20, || panic!("a large body, on purpose")),
            "/small" => owned(10, || panic!("a small body, on purpose")),
            _ => Body::from("hello"),
        },
    );
    for _ in 0..WORKERS * 4 {
        // The whole response is there before the body is dropped.
        assert_eq!(server.client().get("/large").body.len(), 1 << 20);
        // A client that leaves early has the rest dropped by whoever finds out.
        let mut leaves = server.client();
        leaves.send_get("/large");
        leaves.read_head();
        drop(leaves);
        let mut small = server.client();
        small.send_get("/small");
        let _ = small.drain();
    }
    assert_eq!(server.client().get("/").text(), "hello");
    let report = server.stop();
    assert!(
        report.stuck.is_empty() && report.faults.is_empty(),
        "{report}"
    );
}

#[test]
fn a_body_whose_drop_blocks_holds_no_other_connection_up() {
    let gate = Gate::new();
    let waits = gate.clone();
    let server = TestServer::with(builder().workers(2), move |request: Request, _: Context| {
        let waits = waits.clone();
        match request.uri().path() {
            "/large" => owned(1 << 20, move || waits.pass()),
            _ => Body::from("hello"),
        }
    });
    let mut large = server.client();
    large.send_get("/large");
    assert_eq!(large.read_response().body.len(), 1 << 20);
    gate.wait_entered(1);
    let mut other = server.client();
    for _ in 0..100 {
        assert_eq!(other.get("/").text(), "hello");
    }
    gate.open();
    drop((large, other));
    server.stop_cleanly();
}

/// The body of a response that the stop cuts is dropped by no thread that the stop needs.
#[test]
fn a_body_whose_drop_blocks_does_not_draw_the_stop_out() {
    let gate = Gate::new();
    let waits = gate.clone();
    let server = TestServer::with(
        builder().workers(2).cut_grace(millis(50)),
        move |_: Request, _: Context| {
            let waits = waits.clone();
            owned(64 << 20, move || waits.pass())
        },
    );
    let mut deaf = server.client();
    deaf.send_get("/large");
    deaf.read_head();
    let began = now();
    let report = server.handle().close();
    assert!(now() - began < LIMIT / 2, "{report}");
    assert_eq!(
        (support::cut(&report).len(), report.exit_code()),
        (1, 3),
        "{report}"
    );
    assert_eq!(report.stuck[0].thread, "lameduck-leftovers", "{report}");
    gate.open();
}
