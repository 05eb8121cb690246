//! The programs of `docs/coming_from_go.md`, run as a person would run them: each in its own
//! process, with real signals. Only their addresses and times differ from the text. The tests check
//! the order of what the programs say.

#![cfg(all(feature = "cli", feature = "router"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use lameduck::http::StatusCode;
use rustix::process::Signal;

use support::child::{Ended, MODE, Program, this_program};
use support::{Client, get};

/// Waits for Ctrl+C, and then stops within 5 s.
mod interrupt {
    use std::time::Duration;

    use lameduck::{Context, Report, Request, SIGINT, Server};

    pub(super) fn main() -> lameduck::Result<()> {
        let (interrupted, _guard) = lameduck::signal::notify([SIGINT])?;
        let server = Server::builder().bind("127.0.0.1:0")?.spawn(hello)?;
        eprintln!("listening on http://{}", server.local_addr());

        let _ = interrupted.cancelled().recv();
        eprintln!("shutting down");
        let report = server.handle().shutdown_within(Duration::from_secs(5));
        eprint!("{report}");
        report.into_result().map(drop)
    }

    /// The shortest program that does the same.
    pub(super) fn short() -> lameduck::Result<Report> {
        let bound = Server::builder()
            .grace_period(Duration::from_secs(5))
            .on_signals([SIGINT])
            .bind("127.0.0.1:0")?;
        eprintln!("listening on http://{}", bound.local_addr());
        bound.run(|_request, _context| "hello\n")
    }

    fn hello(_request: Request, _context: Context) -> &'static str {
        "hello\n"
    }
}

/// Heeds SIGTERM too, has a deadline, and lets a second signal force the stop.
mod forced {
    use std::time::Duration;

    use lameduck::{Context, Request, SIGINT, SIGTERM, Server};

    const SIGKILL: i32 = 9;

    pub(super) fn main(within: Duration) -> lameduck::Result<()> {
        if let Err(error) = lameduck::signal::notify([SIGTERM, SIGINT, SIGKILL]) {
            eprintln!("{error}");
        }
        let (signalled, guard) = lameduck::signal::notify([SIGTERM, SIGINT])?;
        let server = Server::builder().bind("127.0.0.1:0")?.spawn(hello)?;
        eprintln!("listening on http://{}", server.local_addr());

        let _ = signalled.cancelled().recv();
        if let Some(reason) = signalled.reason() {
            eprintln!("stopping, as {reason}");
        }
        drop(guard);
        eprintln!("the next signal ends the process");
        let report = server.handle().shutdown_within(within);
        eprint!("{report}");
        report.into_result().map(drop)
    }

    /// A handler that does not end by itself for `/long`, so that there is something to force.
    fn hello(request: Request, context: Context) -> &'static str {
        if request.uri().path() == "/long" {
            eprintln!("hello: begins");
            let _ = context.cancelled().recv();
        }
        "hello\n"
    }
}

/// Serves a long request, in the middle of which Ctrl+C comes.
mod in_the_middle {
    use std::time::Duration;

    use crossbeam_channel::bounded;
    use lameduck::{Context, Request, SIGINT, Server};

    pub(super) fn main() -> lameduck::Result<()> {
        let (interrupted, _guard) = lameduck::signal::notify([SIGINT])?;
        let bound = Server::builder()
            .grace_period(Duration::from_secs(30))
            .bind("127.0.0.1:0")?;
        eprintln!("listening on http://{}", bound.local_addr());

        let (closed, idle_connections_closed) = bounded::<()>(0);
        let handle = bound.handle();
        let stopper = std::thread::spawn(move || {
            let _ = interrupted.cancelled().recv();
            eprintln!("interrupted: shutting down");
            let report = handle.shutdown();
            eprintln!("all connections are closed");
            drop(closed);
            report
        });

        let report = bound.run(hello)?;
        let _ = idle_connections_closed.recv();
        eprintln!("the server has stopped");
        assert_eq!(
            stopper.join().ok(),
            Some(report),
            "who waits for a stop gets the same report"
        );

        let again = Server::builder().bind("127.0.0.1:0")?;
        let _report = again.handle().shutdown();
        if let Err(error) = again.run(hello) {
            eprintln!("{error}");
        }
        Ok(())
    }

    fn hello(_request: Request, context: Context) -> &'static str {
        eprintln!("hello: begins");
        // The handler waits until the signal has come, so that it comes in the middle, and then for
        // a while more.
        let _ = context.draining().recv();
        let _interrupted = context.sleep(Duration::from_millis(300));
        eprintln!("hello: ends");
        "hello\n"
    }
}

/// A server as a struct, with resources.
mod framework {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::time::Duration;

    use lameduck::http::StatusCode;
    use lameduck::{Context, IntoResponse, Report, Request, Response, SIGINT, SIGTERM, Server};

    use super::support::{Gate, LIMIT};

    struct App {
        takes_work: AtomicBool,
        database: Database,
        /// The gate at which the export waits until a job was refused.
        refused: Gate,
    }

    struct Database;

    impl Database {
        fn close(&self) {
            eprintln!("the database is closed");
        }
    }

    impl App {
        fn handle(&self, request: &Request, context: &Context) -> Response {
            match request.uri().path() {
                "/jobs" => self.job(),
                "/export" => self.export(context),
                "/ready" => context.readiness().into_response(),
                _ => StatusCode::NOT_FOUND.into_response(),
            }
        }

        fn job(&self) -> Response {
            if !self.takes_work.load(SeqCst) {
                eprintln!("a job is refused");
                self.refused.open();
                return (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "no new jobs: this server is stopping\n",
                )
                    .into_response();
            }
            (StatusCode::ACCEPTED, "the job is taken\n").into_response()
        }

        fn export(&self, context: &Context) -> Response {
            eprintln!("export: begins");
            let mut rows = 0;
            while !context.is_draining() && rows < 3600 {
                let _ = context.draining().recv_timeout(Duration::from_secs(1));
                rows += 1;
            }
            self.refused.pass();
            eprintln!("export: ends, told of the stop: {}", context.is_draining());
            format!("{rows} rows\n").into_response()
        }
    }

    fn run(app: &Arc<App>) -> lameduck::Result<Report> {
        let (handles, refuses, closes) = (app.clone(), app.clone(), app.clone());
        let bound = Server::builder()
            .grace_period(Duration::from_secs(25))
            // The test's connection must still be open when the test sends its second job.
            .idle_grace(LIMIT)
            .on_signals([SIGINT, SIGTERM])
            .on_shutdown("refuse jobs", move || {
                refuses.takes_work.store(false, SeqCst);
                eprintln!("no new jobs from here on");
            })
            .on_stopped("close the database", move || closes.database.close())
            .bind("127.0.0.1:0")?;
        eprintln!("listening on http://{}", bound.local_addr());
        bound.run(move |request: Request, context: Context| handles.handle(&request, &context))
    }

    pub(super) fn main() -> lameduck::Result<Report> {
        let app = Arc::new(App {
            takes_work: AtomicBool::new(true),
            database: Database,
            refused: Gate::new(),
        });
        let report = run(&app)?;
        eprintln!("exit");
        Ok(report)
    }
}

/// A group in place of Go's errgroup, and the same with a `select!`.
mod errgroup {
    use std::time::Duration;

    use crossbeam_channel::{bounded, select};
    use lameduck::group::{Group, GroupReport};
    use lameduck::{Context, Request, Router, SIGINT, SIGTERM, Server};

    pub(super) fn main(fails_after: Duration) -> lameduck::Result<GroupReport> {
        let app = Router::new()
            .get("/hello", hello)
            .get("/hello/{name}", hello);
        let web = Server::builder().bind("127.0.0.1:0")?;
        eprintln!("listening on http://{}", web.local_addr());
        let group = Group::builder()
            .on_signals([SIGINT, SIGTERM])
            .stop_timeout(Duration::from_secs(10))
            .start()?;
        group.spawn("timer", move |context| timer(context, fails_after));
        group.serve("web", web, app);

        let report = group.join();
        eprint!("{report}");
        for (name, error) in report.errors() {
            eprintln!("{name}: {error}");
        }
        Ok(report)
    }

    fn timer(context: Context, fails_after: Duration) -> Result<(), &'static str> {
        if context.sleep(fails_after).is_ok() {
            return Err("the time is over");
        }
        eprintln!("timer: told to stop");
        Ok(())
    }

    fn hello(_request: Request, context: Context) -> String {
        format!("hello {}\n", context.param("name").unwrap_or("world"))
    }

    pub(super) fn by_hand(fails_after: Duration) -> lameduck::Result<()> {
        let (program, _guard) = lameduck::signal::notify([SIGINT])?;
        let server = Server::builder()
            .bind("127.0.0.1:0")?
            .spawn(|_request, _context| "hello\n")?;
        eprintln!("listening on http://{}", server.local_addr());
        let (ended, end_of_timer) = bounded(1);
        let context = program.clone();
        std::thread::spawn(move || ended.send(timer(context, fails_after)));

        let mut errors = Vec::new();
        select! {
            recv(server.stopped()) -> _ => eprintln!("the server has stopped by itself"),
            recv(end_of_timer) -> end => errors.extend(end.ok().and_then(Result::err)),
            recv(program.cancelled()) -> _ => {}
        }
        if let Some(reason) = program.reason() {
            eprintln!("stopping, as {reason}");
        }
        program.cancel();
        let report = server.handle().shutdown_within(Duration::from_secs(10));
        errors.extend(
            end_of_timer
                .recv_timeout(Duration::from_secs(10))
                .ok()
                .and_then(Result::err),
        );
        eprintln!("{}", report.summary());
        eprintln!("errors: {errors:?}");
        report.into_result().map(drop)
    }
}

/// No test: the program that the children of the tests below run.
#[test]
fn the_program() {
    use std::process::{ExitCode, Termination};
    use std::time::Duration;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(60);

    let Ok(mode) = std::env::var(MODE) else {
        return;
    };
    let code = match mode.as_str() {
        "interrupt" => interrupt::main().report(),
        "interrupt, in short" => interrupt::short().report(),
        "forced by a signal" => forced::main(LONG).report(),
        "forced by the deadline" => forced::main(SHORT).report(),
        "in the middle" => in_the_middle::main().report(),
        "framework" => framework::main().report(),
        "errgroup" => errgroup::main(SHORT).report(),
        "errgroup, interrupted" => errgroup::main(LONG).report(),
        "by hand" => errgroup::by_hand(SHORT).report(),
        "by hand, interrupted" => errgroup::by_hand(LONG).report(),
        mode => panic!("{mode:?} is no mode"),
    };
    // The process exits as a `main` would, and not as a test.
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

fn program(mode: &str) -> Program {
    Program::serving(&mut this_program("the_program", mode))
}

/// Checks that the lines of the child have these texts, in this order, and waits for its end.
#[track_caller]
fn expect(child: &Program, lines: &[&str]) -> Ended {
    for line in lines {
        child.wait_for_line(line);
    }
    child.end()
}

#[test]
fn it_serves_until_ctrl_c_and_stops() {
    let child = program("interrupt");
    let mut client = child.client();
    assert_eq!(client.get("/").body, b"hello\n");
    child.signal(Signal::INT);
    client.expect_eof();
    let ended = expect(
        &child,
        &[
            "shutting down",
            "stopped cleanly by a call of its handle",
            "1 connection, 1 response",
        ],
    );
    assert_eq!(ended.code, Some(0));
}

#[test]
fn the_shortest_program_does_the_same() {
    let child = program("interrupt, in short");
    assert_eq!(child.client().get("/").body, b"hello\n");
    child.signal(Signal::INT);
    assert_eq!(child.end().code, Some(0));
}

/// Starts a program, which is refused to catch SIGKILL, and waits until a request is in flight.
#[track_caller]
fn with_a_request_in_flight(mode: &str) -> (Program, Client) {
    let child = Program::start(&mut this_program("the_program", mode));
    child.wait_for_line("cannot catch SIGKILL: no process is ever allowed to");
    let addr = child
        .wait_for_line("listening on ")
        .rsplit_once("http://")
        .unwrap()
        .1
        .parse()
        .unwrap();
    let mut client = Client::connect(addr);
    client.send(get("/long"));
    child.wait_for_line("hello: begins");
    child.signal(Signal::TERM);
    child.wait_for_line("stopping, as the process got SIGTERM");
    child.wait_for_line("the next signal ends the process");
    (child, client)
}

#[test]
fn after_the_first_signal_nothing_is_caught_and_the_second_one_ends_the_process() {
    let (child, _client) = with_a_request_in_flight("forced by a signal");
    child.signal(Signal::INT);
    let ended = child.end();
    assert_eq!(
        (ended.signal, ended.code),
        (Some(Signal::INT.as_raw()), None)
    );
}

#[test]
fn without_a_second_signal_the_deadline_forces_the_stop_and_says_what_was_cut() {
    let (child, mut client) = with_a_request_in_flight("forced by the deadline");
    assert_eq!(client.read_response().status, 503);
    drop(client);
    let ended = expect(&child, &["stopped with 1 request cut", "cut: GET /long"]);
    assert_eq!(ended.code, Some(1));
}

#[test]
fn a_request_that_is_interrupted_is_answered_before_the_server_has_stopped() {
    let child = program("in the middle");
    let mut client = child.client();
    client.send(get("/hello"));
    child.wait_for_line("hello: begins");
    child.signal(Signal::INT);
    let answer = client.read_response();
    assert_eq!(
        (answer.status, answer.body.as_slice()),
        (200, b"hello\n".as_slice())
    );
    client.expect_eof();
    let order = [
        "interrupted: shutting down",
        "hello: ends",
        "all connections are closed",
        "the server has stopped",
        "cannot run a server that was already stopped",
    ];
    assert_eq!(expect(&child, &order).code, Some(0));
}

#[test]
fn a_framework_refuses_new_work_finishes_what_is_begun_and_then_closes_its_resources() {
    let child = program("framework");
    let (mut exports, mut works) = (child.client(), child.client());
    assert_eq!(works.get("/jobs").status, StatusCode::ACCEPTED.as_u16());
    assert_eq!(works.get("/ready").status, 200);
    exports.send(get("/export"));
    child.wait_for_line("export: begins");
    child.signal(Signal::TERM);
    child.wait_for_line("no new jobs from here on");
    assert_eq!(
        works.get("/jobs").status,
        StatusCode::SERVICE_UNAVAILABLE.as_u16()
    );
    works.expect_eof();
    assert!(exports.read_response().body.ends_with(b" rows\n"));
    exports.expect_eof();
    let order = [
        "a job is refused",
        "export: ends, told of the stop: true",
        "the database is closed",
        "exit",
    ];
    assert_eq!(expect(&child, &order).code, Some(0));
}

#[test]
fn in_a_group_the_timer_that_fails_stops_the_web_server() {
    let child = program("errgroup");
    let order = [
        "the group has stopped: timer has failed",
        "timer failed after ",
        "web stopped cleanly",
        "timer: the time is over",
    ];
    assert_eq!(expect(&child, &order).code, Some(1));
}

#[test]
fn in_a_group_a_signal_stops_both() {
    let child = program("errgroup, interrupted");
    assert_eq!(child.client().get("/hello/duck").body, b"hello duck\n");
    child.signal(Signal::INT);
    let ended = expect(
        &child,
        &[
            "timer: told to stop",
            "the group has stopped: SIGINT",
            "timer ended after ",
        ],
    );
    assert_eq!(ended.code, Some(0));
}

#[test]
fn in_a_select_the_error_of_a_service_is_received_and_the_server_stopped() {
    let child = program("by hand");
    let ended = expect(
        &child,
        &[
            "stopped cleanly by a call of its handle",
            "errors: [\"the time is over\"]",
        ],
    );
    assert_eq!(ended.code, Some(0));
}

#[test]
fn in_a_select_a_signal_is_received_and_both_are_stopped() {
    let child = program("by hand, interrupted");
    assert_eq!(child.client().get("/").body, b"hello\n");
    child.signal(Signal::INT);
    let ended = expect(
        &child,
        &[
            "stopping, as the process got SIGINT",
            "stopped cleanly by a call of its handle",
            "errors: []",
        ],
    );
    assert_eq!(ended.code, Some(0));
}
