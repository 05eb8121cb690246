//! The report of a stop: as text, as JSON, and as an exit code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::io::Write;

use lameduck::IntoResponse;
use lameduck::body::BodyWriter;
use lameduck::report::{CloseReason, Fate, Phase, Requests, StopCause};
use lameduck::{Body, Context, Error, Report, Request, Response, ServerBuilder};
use std::process::{ExitCode, Termination};

use support::{Client, Gate, LIMIT, TestServer, builder, eventually, millis, within_limit};

/// Starts a server whose handler waits at the gate for `/block`. For `/begun` it begins its
/// response and then waits.
fn server(builder: ServerBuilder, gate: &Gate) -> TestServer {
    let gate = gate.clone();
    TestServer::with(builder, move |request: Request, _: Context| -> Response {
        let gate = gate.clone();
        match request.uri().path() {
            "/block" => gate.pass(),
            "/begun" => {
                let write = move |out: &mut BodyWriter<'_>| {
                    out.write_all(b"first part")?;
                    out.flush()?;
                    gate.pass();
                    Ok(())
                };
                return Body::writer(write).into_response();
            }
            _ => {}
        }
        "hello".into_response()
    })
}

fn clean() -> Report {
    let gate = Gate::new();
    let server = server(builder().workers(2), &gate);
    for _ in 0..3 {
        assert_eq!(server.client().get("/").status, 200);
    }
    server.stop()
}

/// Returns the report of a stop that cut a request in its handler and a response that had begun,
/// and two requests that were never started.
fn unclean() -> Report {
    let gate = Gate::new();
    let description = builder()
        .workers(2)
        // A closure that writes holds a worker.
        .max_dedicated_threads(0)
        .grace_period(millis(100))
        // In this time the hook's panic has to be over, with the backtrace that it may print.
        .cut_grace(millis(1000))
        .on_shutdown("says \"done\"\n\tand \\ \u{1} \u{7f} é 🦆", || {})
        .on_stopped("panics", || panic!("on purpose"));
    let server = server(description, &gate);
    let _begun = server.block(&gate, "/begun");
    let mut in_handler = server.client();
    in_handler.send_get("/block?a='b'&c=%22");
    gate.wait_entered(2);
    let mut never: Vec<_> = (0..2).map(|_| server.client()).collect();
    never
        .iter_mut()
        .for_each(|client| client.send_get("/never"));
    server.wait_accepted(4);
    let report = server.stop();
    gate.open();
    for client in never.iter_mut().chain([&mut in_handler]) {
        assert_eq!(client.read_response().status, 503);
    }
    report
}

#[test]
fn a_clean_report_is_short_and_exits_with_0() {
    let report = clean();
    assert_eq!((report.is_clean(), report.exit_code()), (true, 0));
    assert_eq!(
        format!("{:?}", Termination::report(report.clone())),
        format!("{:?}", ExitCode::SUCCESS)
    );
    assert!(
        report
            .summary()
            .starts_with("stopped cleanly by a call of its handle, in "),
        "{}",
        report.summary()
    );
    assert!(!report.summary().contains('\n'));
    let text = report.to_string();
    assert!(
        text.starts_with(&format!("{}\n", report.summary())) && text.ends_with('\n'),
        "{text}"
    );
    assert!(text.contains("3 connections, 3 responses"), "{text}");
    for word in ["cut", "never started", "raced", "hook", "stuck", "error"] {
        assert!(!text.contains(&format!("{word}:")), "{text}");
    }
    assert_eq!(report.clone().into_result().unwrap(), report);
}

/// Requests that end in each way, and the numbers that the report gives for them.
#[test]
fn the_books_have_every_request_and_connection() {
    let gate = Gate::new();
    let description = builder().workers(4).grace_period(millis(100));
    let passes = gate.clone();
    let server = TestServer::with(
        description,
        move |request: Request, _: Context| -> Response {
            let gate = passes.clone();
            match request.uri().path() {
                "/block" => gate.pass(),
                "/large" => {
                    return Body::sized_reader(std::io::repeat(b'x'), 1 << 40).into_response();
                }
                "/fails" => {
                    let write = |out: &mut BodyWriter<'_>| {
                        out.write_all(&[b'x'; 1 << 17])?;
                        out.flush()?;
                        Err(std::io::Error::other("on purpose"))
                    };
                    return Body::writer(write).into_response();
                }
                _ => {}
            }
            "hello".into_response()
        },
    );
    // Two are answered. One is refused for its head, which begins no request.
    assert_eq!(server.used_client("/").get("/").status, 200);
    let mut bad = server.client();
    bad.send("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: none\r\n\r\n");
    assert_eq!(bad.read_response().status, 417);
    // Two are broken off: by a client that leaves, and by a handler that fails.
    let mut leaves = server.client();
    leaves.send_get("/large");
    leaves.read_head();
    drop(leaves);
    let mut fails = server.client();
    fails.send_get("/fails");
    let _ = fails.drain();
    eventually("they have ended", || server.handle().stats().closed == 4);
    // Two are cut: before and after their responses have begun.
    let mut begun = server.client();
    begun.send_get("/large");
    begun.read_head();
    let _blocked = server.block(&gate, "/block");
    // And a connection in the middle of a request.
    let mut half = server.client();
    half.send("GET /half HT");
    server.wait_accepted(7);
    let report = server.stop();
    gate.open();
    let Requests {
        begun,
        answered,
        named,
        broken_off,
        lost,
        ..
    } = report.requests;
    assert_eq!(
        (begun, answered, named, broken_off, lost),
        (6, 2, 2, 2, 0),
        "{report}"
    );
    assert_eq!(report.cut_connections.len(), 1, "{report}");
    let peer = report.cut_connections[0].peer;
    assert_eq!(peer, Some(half.local_addr()), "{report}");
    assert!(
        report
            .summary()
            .contains("2 requests cut, 1 connection cut"),
        "{report}"
    );
}

#[test]
fn an_unclean_report_names_what_was_cut() {
    let report = unclean();
    assert_eq!(
        (report.is_clean(), report.exit_code()),
        (false, 3),
        "{report}"
    );
    assert_eq!(
        (
            support::cut(&report).len(),
            support::never_started(&report).len(),
            report.stuck.len()
        ),
        (2, 2, 2),
        "{report}"
    );
    let summary = report.summary();
    for part in [
        "2 requests cut",
        "2 requests never started",
        "1 hook failed",
        "2 workers left behind",
    ] {
        assert!(summary.contains(part), "{part}: {summary}");
    }
    let text = report.to_string();
    for line in [
        "  cut: GET /begun of 127.0.0.1:",
        "  cut: GET /block?a='b'&c=%22 of 127.0.0.1:",
        "  never started: GET /never of 127.0.0.1:",
        "  hook: panics panicked after ",
        "  stuck: lameduck-worker-",
    ] {
        assert!(
            text.lines().any(|of| of.starts_with(line)),
            "{line:?} in {text}"
        );
    }
    assert!(text.contains("in its handler: answered with 503"), "{text}");
    assert!(text.contains("safe to repeat: answered with 503"), "{text}");
    assert!(text.contains("bytes of its response"), "{text}");
    let Err(Error::Unclean(same)) = report.clone().into_result() else {
        panic!("it is not clean")
    };
    assert_eq!(*same, report);
    assert!(Error::Unclean(same).to_string().contains("2 requests cut"));
}

#[test]
fn a_stop_that_cut_something_and_left_no_worker_stuck_exits_with_1() {
    let server = TestServer::with(
        builder().workers(2).cut_grace(LIMIT),
        |_: Request, context: Context| {
            let _ = context.sleep(LIMIT);
            "too late"
        },
    );
    let mut client = server.client();
    client.send_get("/heeds");
    server.wait_accepted(1);
    let report = server.handle().shutdown_within(millis(50));
    assert_eq!(client.read_response().status, 503);
    // The handler had begun or not. In both cases the request will not be answered.
    assert_eq!(
        support::cut(&report).len() + support::never_started(&report).len(),
        1,
        "{report}"
    );
    assert_eq!(
        (report.is_clean(), report.exit_code()),
        (false, 1),
        "{report}"
    );
}

#[test]
fn the_counts_agree_with_each_other() {
    for report in [clean(), unclean()] {
        let closed: u64 = report.closed.iter().map(|(_, n)| n).sum();
        // A connection whose worker is stuck has not ended.
        assert_eq!(
            closed + report.stuck.len() as u64,
            report.accepted,
            "{report}"
        );
        assert!(report.closed.iter().all(|(_, n)| *n > 0), "{report}");
        assert!(
            report
                .answered
                .iter()
                .all(|(phase, n)| *n > 0 && report.answered_in(*phase) == *n),
            "{report}"
        );
        assert_eq!(report.closed_because(CloseReason::NoSlot), 0);
        let phases: Vec<_> = report.phases.iter().map(|(phase, _)| *phase).collect();
        assert!(
            phases.is_sorted() && phases.starts_with(&[Phase::LameDuck, Phase::Draining]),
            "{phases:?}"
        );
        assert_eq!(
            phases.contains(&Phase::Cutting),
            !support::cut(&report).is_empty(),
            "{phases:?}"
        );
        let sum = report.phases.iter().map(|(_, took)| *took).sum();
        assert!(report.took >= sum, "{report}");
    }
}

#[test]
fn every_caller_that_waits_gets_an_equal_report() {
    let gate = Gate::new();
    let bound = builder().workers(2).bind("127.0.0.1:0").unwrap();
    let (addr, handle) = (bound.local_addr(), bound.handle());
    let waits = gate.clone();
    let running = std::thread::spawn(move || bound.run(move |_: Request, _: Context| waits.pass()));
    let mut client = Client::connect(addr);
    client.send_get("/");
    gate.wait_entered(1);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let handle = handle.clone();
            std::thread::spawn(move || handle.shutdown())
        })
        .collect();
    gate.open();
    assert_eq!(client.read_response().status, 200);
    drop(client);
    let report = within_limit("run", move || running.join().unwrap()).unwrap();
    for thread in waiting {
        assert_eq!(thread.join().unwrap(), report);
    }
    assert_eq!(handle.close(), report, "a later call changes nothing");
    assert_eq!(report.cause, StopCause::Handle);
}

#[test]
fn json_is_one_line_that_says_the_same() {
    for report in [clean(), unclean()] {
        let text = report.to_json();
        assert!(!text.contains('\n'), "{text}");
        let json = Json::parse(&text);
        assert_eq!(json.at("cause").text(), "a call of its handle");
        assert_eq!(json.at("accepted").number(), report.accepted as f64);
        assert_eq!(json.at("clean"), &Json::Bool(report.is_clean()));
        assert_eq!(json.at("exit_code").number(), f64::from(report.exit_code()));
        assert_eq!(
            json.at("listeners").at("backlog_served").number(),
            report.listeners.backlog_served as f64
        );
        assert_eq!(json.at("listeners").at("backlog_reset").number(), 0.0);
        let millis = json.at("took_ms").number();
        assert!(
            (millis - report.took.as_secs_f64() * 1e3).abs() < 0.01,
            "{millis} is {:?}",
            report.took
        );
        assert_eq!(json.at("phases").items().len(), report.phases.len());
        for (item, (phase, _)) in json.at("phases").items().iter().zip(&report.phases) {
            assert_eq!(item.at("phase").text(), phase.to_string());
            assert_eq!(
                item.at("answered").number(),
                report.answered_in(*phase) as f64
            );
        }
        let items = json.at("unanswered").items();
        assert_eq!(items.len(), report.unanswered.len());
        for (item, request) in items.iter().zip(&report.unanswered) {
            assert_eq!(item.at("peer").text(), request.peer.unwrap().to_string());
            assert_eq!(item.at("method").text(), request.method.as_str());
            assert_eq!(item.at("target").text(), request.target.to_string());
            match request.fate {
                Fate::Answered503 => assert_eq!(item.at("fate").text(), "answered_503"),
                Fate::NeverStarted => assert_eq!(item.at("fate").text(), "never_started"),
                Fate::Cut { bytes_sent } => {
                    assert_eq!(item.at("fate").text(), "cut");
                    assert_eq!(item.at("bytes_sent").number(), bytes_sent as f64);
                }
                other => panic!("{other:?}"),
            }
            assert!(item.at("age_ms").number() > 0.0);
        }
        assert_eq!(json.at("hooks").items().len(), report.hooks.len());
        for (item, hook) in json.at("hooks").items().iter().zip(&report.hooks) {
            assert_eq!(item.at("name").text(), hook.name);
            assert_eq!(
                item.at("outcome").text().to_lowercase(),
                format!("{:?}", hook.outcome).to_lowercase()
            );
        }
        for (item, stuck) in json.at("stuck").items().iter().zip(&report.stuck) {
            assert_eq!(item.at("thread").text(), stuck.thread);
            let (method, target, _) = stuck.request.as_ref().unwrap();
            assert_eq!(item.at("request").at("method").text(), method.as_str());
            assert_eq!(item.at("request").at("target").text(), target.to_string());
        }
        assert_eq!(json.at("stuck").items().len(), report.stuck.len());
        assert_eq!(
            json.at("listeners").at("errors").items().len(),
            report.listeners.errors.len()
        );
        let Json::Object(closed) = json.at("closed") else {
            panic!("{text}")
        };
        for (reason, n) in &report.closed {
            assert_eq!(closed[&format!("{reason:?}")].number(), *n as f64);
        }
        assert_eq!(closed.len(), report.closed.len());
    }
}

/// A JSON value, as RFC 8259 defines it and with nothing beyond.
#[derive(Debug, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Array(Vec<Self>),
    Object(BTreeMap<String, Self>),
}

impl Json {
    #[track_caller]
    fn parse(text: &str) -> Self {
        let mut rest = text;
        let value = Self::value(&mut rest);
        assert_eq!(rest.trim_start(), "", "after the value");
        value
    }

    #[track_caller]
    fn at(&self, name: &str) -> &Self {
        let Self::Object(members) = self else {
            panic!("no object: {self:?}")
        };
        members
            .get(name)
            .unwrap_or_else(|| panic!("no {name:?}: {self:?}"))
    }

    #[track_caller]
    fn items(&self) -> &[Self] {
        if let Self::Array(items) = self {
            items
        } else {
            panic!("no array: {self:?}")
        }
    }

    #[track_caller]
    fn text(&self) -> &str {
        if let Self::Text(text) = self {
            text
        } else {
            panic!("no text: {self:?}")
        }
    }

    #[track_caller]
    fn number(&self) -> f64 {
        if let Self::Number(number) = self {
            *number
        } else {
            panic!("no number: {self:?}")
        }
    }

    #[track_caller]
    fn value(rest: &mut &str) -> Self {
        skip(rest);
        for (word, value) in [
            ("null", Self::Null),
            ("true", Self::Bool(true)),
            ("false", Self::Bool(false)),
        ] {
            if take(rest, word) {
                return value;
            }
        }
        if rest.starts_with('"') {
            return Self::Text(string(rest));
        }
        if take(rest, "[") {
            let mut items = Vec::new();
            while !closes(rest, "]", items.is_empty()) {
                items.push(Self::value(rest));
            }
            return Self::Array(items);
        }
        if take(rest, "{") {
            let mut members = BTreeMap::new();
            while !closes(rest, "}", members.is_empty()) {
                skip(rest);
                let name = string(rest);
                skip(rest);
                assert!(take(rest, ":"), "no colon before {rest:?}");
                assert_eq!(
                    members.insert(name, Self::value(rest)),
                    None,
                    "a name twice"
                );
            }
            return Self::Object(members);
        }
        let len = rest
            .find(|char: char| !"+-.eE0123456789".contains(char))
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(len);
        *rest = after;
        let digits = number.trim_start_matches('-');
        assert!(
            digits.starts_with(|digit: char| digit.is_ascii_digit()) && !digits.ends_with('.'),
            "{number:?}"
        );
        assert!(
            !digits.starts_with('0') || digits.len() == 1 || digits.starts_with("0."),
            "{number:?}"
        );
        Self::Number(
            number
                .parse()
                .unwrap_or_else(|error| panic!("{number:?}: {error}")),
        )
    }
}

fn skip(rest: &mut &str) {
    *rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
}

fn take(rest: &mut &str, word: &str) -> bool {
    rest.strip_prefix(word).map(|after| *rest = after).is_some()
}

/// Reads the end of a list, or the comma before its next part, and returns whether it was the end.
#[track_caller]
fn closes(rest: &mut &str, end: &str, first: bool) -> bool {
    skip(rest);
    let ends = take(rest, end);
    assert!(
        ends || first || take(rest, ","),
        "neither {end:?} nor a comma: {rest:?}"
    );
    ends
}

#[track_caller]
fn string(rest: &mut &str) -> String {
    assert!(take(rest, "\""), "no string: {rest:?}");
    let mut text = String::new();
    loop {
        let char = rest.chars().next().expect("a string ends");
        *rest = &rest[char.len_utf8()..];
        match char {
            '"' => return text,
            '\\' => {
                let escape = rest.chars().next().expect("an escape ends");
                *rest = &rest[escape.len_utf8()..];
                text.push(match escape {
                    '"' | '\\' | '/' => escape,
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'u' => {
                        let (code, after) = rest.split_at(4);
                        *rest = after;
                        char::from_u32(u32::from_str_radix(code, 16).unwrap())
                            .expect("no surrogate is needed")
                    }
                    other => panic!("no escape: {other:?}"),
                });
            }
            char => {
                assert!(char >= ' ', "a control character is not escaped");
                text.push(char);
            }
        }
    }
}

#[cfg(feature = "cli")]
mod in_a_child {
    use super::*;
    use rustix::process::Signal;
    use support::child::Program;
    use support::get;

    #[test]
    fn while_draining_one_line_a_second_says_what_is_waited_for() {
        let demo = Program::demo(&["--idle-grace", "0", "--grace-period", "20s"]);
        let mut client = demo.client();
        client.send(get("/plaintext") + &get("/sleep?ms=2300"));
        assert_eq!(client.read_response().status, 200);
        demo.signal(Signal::TERM);
        let answer = client.read_response();
        assert_eq!((answer.text(), answer.closes()), ("slept\n", true));
        drop(client);
        let ended = demo.end();
        assert_eq!(ended.code, Some(0), "{}", ended.output);
        let lines = demo.rest_of_lines();
        let progress: Vec<_> = lines
            .iter()
            .filter(|line| line.contains("draining: "))
            .collect();
        assert_eq!(progress.len(), 2, "{lines:#?}");
        for (line, age, left) in [(progress[0], "1.", "19."), (progress[1], "2.", "18.")] {
            let (_, text) = line
                .split_once("draining: 1 in flight (oldest GET /sleep, ")
                .unwrap_or_else(|| panic!("{line}"));
            assert!(text.starts_with(age) || text.starts_with("3."), "{line}");
            assert!(
                text.contains(&format!(", {left}")) || text.contains(", 17."),
                "{line}"
            );
            assert!(text.ends_with(" s left"), "{line}");
        }
        let end = lines
            .iter()
            .filter(|line| line.contains("stopped cleanly by SIGTERM"))
            .count();
        assert_eq!(end, 1, "{lines:#?}");
    }

    #[test]
    fn a_stop_that_is_not_clean_warns_of_each_loss() {
        let demo = Program::demo(&["--workers", "2", "--grace-period", "1h"]);
        let mut waits: Vec<_> = (0..3)
            .map(|i| {
                let mut client = demo.client();
                client.send(get("/plaintext") + &get(&format!("/sleep?ms=360000{i}")));
                assert_eq!(client.read_response().status, 200);
                client
            })
            .collect();
        let mut half = demo.client();
        half.send("GET /half HT");
        for signal in [Signal::TERM, Signal::INT] {
            demo.signal(signal);
            demo.wait_for_line("got SIG");
        }
        for client in &mut waits {
            assert_eq!(client.read_response().status, 503);
        }
        drop(waits);
        let ended = demo.end();
        assert_eq!(ended.code, Some(1), "{}", ended.output);
        let lines = demo.rest_of_lines();
        let warnings = |text: &str| {
            let warnings = lines
                .iter()
                .filter(|line| line.contains("WARN") && line.contains(text));
            warnings.count()
        };
        // Whether a handler had begun with them depends on the moment.
        let requests = [
            "cut: GET /sleep?ms=360000",
            "never started: GET /sleep?ms=360000",
        ];
        assert_eq!(
            requests.map(warnings).iter().sum::<usize>(),
            3,
            "{lines:#?}"
        );
        assert_eq!(warnings(", 1 connection cut by SIGTERM"), 1, "{lines:#?}");
        assert_eq!(warnings("cut: a connection of 127.0.0.1:"), 1, "{lines:#?}");
    }

    #[test]
    fn a_report_that_cannot_be_written_is_said_to_be_so() {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut command = support::child::demo();
        let command = command.args(["--listen", "127.0.0.1:0"]).stdout(full);
        let demo = Program::serving(command);
        demo.signal(Signal::TERM);
        demo.wait_for_line("cannot write the report to stdout: No space left on device");
        demo.wait_for_line("stopped cleanly by SIGTERM");
        assert_eq!(demo.end().code, Some(0));
    }

    #[test]
    fn the_program_exits_with_what_its_report_says() {
        for (options, signals, code) in [
            (&["--grace-period", "10s"][..], &[Signal::TERM][..], 0),
            (&["--grace-period", "1h"], &[Signal::TERM, Signal::INT], 1),
        ] {
            let demo = Program::demo(options);
            let mut client = demo.client();
            let sleep = if code == 0 {
                "/sleep?ms=100"
            } else {
                "/sleep?ms=3600000"
            };
            client.send(get("/plaintext") + &get(sleep));
            assert_eq!(client.read_response().status, 200);
            for signal in signals {
                demo.signal(*signal);
                demo.wait_for_line("got SIG");
            }
            assert_eq!(
                client.read_response().status,
                if code == 0 { 200 } else { 503 }
            );
            drop(client);
            let ended = demo.end();
            assert_eq!(ended.code, Some(code), "{}", ended.output);
        }
    }

    #[test]
    fn the_program_writes_its_report_as_json_when_asked() {
        let demo = Program::demo(&["--json", "--idle-grace", "0"]);
        assert_eq!(demo.client().get("/plaintext").status, 200);
        demo.signal(Signal::INT);
        let ended = demo.end();
        let json = Json::parse(&ended.output);
        assert_eq!(
            (json.at("cause").text(), json.at("accepted").number()),
            ("SIGINT", 1.0)
        );
        assert_eq!(json.at("clean"), &Json::Bool(true));
    }
}
