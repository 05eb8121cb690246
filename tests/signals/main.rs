//! Signals: the first one drains, the second one cuts and the third one kills. A signal that the
//! program has not asked for keeps its effect.
//!
//! Most tests have a process of their own, because a signal belongs to a process and may kill it.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod programs;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use lameduck::context::CancelReason;
use lameduck::report::{Phase, StopCause};
use lameduck::{Context, Error, Report, Request, Server, ServerHandle};
use rustix::process::{Pid, Signal, kill_process};

use support::child::{MODE, Program, demo, this_program};
use support::{Client, Gate, LIMIT, TestServer, builder, eventually, get, hello, millis};

const TERM: i32 = libc::SIGTERM;
const INT: i32 = libc::SIGINT;

/// Starts one of the [`programs`] in its own process, which is this binary with the mode `mode`.
fn program(mode: &str) -> Program {
    Program::start(&mut this_program("the_program", mode))
}

/// No test: in the children of the tests below it runs one of the [`programs`].
#[test]
fn the_program() {
    let Ok(mode) = std::env::var(MODE) else {
        return;
    };
    programs::run(&mode);
}

#[track_caller]
fn expect_killed(mode: &str, signal: Signal) {
    let child = program(mode);
    child.wait_for_line("ready");
    child.signal(signal);
    assert_eq!(child.end().signal, Some(signal.as_raw()), "{mode}");
}

#[test]
fn without_being_asked_it_catches_nothing() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let child = Program::serving(&mut this_program("the_program", "nothing asked"));
        assert_eq!(child.client().get("/").status, 200);
        child.signal(signal);
        assert_eq!(child.end().signal, Some(signal.as_raw()));
    }
}

/// Lets the time pass in which a repeat of the same signal counts once: 300 ms.
fn later_than_a_repeat() {
    support::pass_time(support::millis(350));
}

#[test]
fn the_first_signal_drains_the_second_cuts_and_the_third_kills() {
    for (first, second, third) in [
        (Signal::TERM, Signal::TERM, Signal::TERM),
        (Signal::INT, Signal::INT, Signal::INT),
        (Signal::INT, Signal::TERM, Signal::INT),
    ] {
        let child = Program::serving(&mut this_program("the_program", "asked"));
        let mut client = child.client();
        client.send(get("/"));
        assert_eq!(client.read_raw(8), b"HTTP/1.1");
        let mut silent = child.client();
        silent.send(get("/silent"));
        let mut idle = child.client();
        child.signal(first);
        idle.expect_eof();
        let refused = std::net::TcpStream::connect(child.local_addr());
        assert!(refused.is_err(), "the first one closes the listener");
        silent.expect_nothing_yet();
        later_than_a_repeat();
        child.signal(second);
        assert_eq!(silent.read_response().status, 503);
        later_than_a_repeat();
        // The response that has begun has a minute left, for which the third signal does not wait.
        child.signal(third);
        let ended = child.end();
        assert_eq!(
            (ended.signal, ended.code),
            (Some(third.as_raw()), None),
            "{first:?} {second:?} {third:?}"
        );
    }
}

#[test]
fn the_demo_drains_and_cuts_and_is_killed_by_the_third_signal() {
    let child = Program::demo(&["--idle-grace", "0", "--grace-period", "1h"]);
    let mut client = Client::connect_narrow(child.local_addr());
    client.send(get("/bytes?n=1000000000"));
    assert_eq!(client.read_raw(8), b"HTTP/1.1");
    child.signal(Signal::TERM);
    child.wait_for_line("got SIGTERM: stopping");
    child.signal(Signal::INT);
    child.wait_for_line("got SIGINT: cutting");
    child.signal(Signal::TERM);
    assert_eq!(child.end().signal, Some(TERM));
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_the_parent_has_blocked_arrives_all_the_same() {
    let blocked = |command: std::process::Command| {
        let mut outer = std::process::Command::new("env");
        outer.arg("--block-signal=TERM,INT");
        outer.args(["-u", "RUST_LOG"]).arg(command.get_program());
        outer.args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                outer.env(name, value);
            }
        }
        outer.stdin(std::process::Stdio::null());
        outer.stdout(std::process::Stdio::piped());
        outer
    };
    let mut probe = blocked(std::process::Command::new("true"));
    if !probe.status().is_ok_and(|status| status.success()) {
        println!("not tested: this `env` has no --block-signal");
        return;
    }
    // The signals of a server, the second and the third one too.
    let child = Program::serving(&mut blocked(this_program("the_program", "asked")));
    let mut client = child.client();
    client.send(get("/"));
    assert_eq!(client.read_raw(8), b"HTTP/1.1");
    let mut silent = child.client();
    silent.send(get("/silent"));
    silent.expect_nothing_yet();
    let mut idle = child.client();
    child.signal(Signal::TERM);
    idle.expect_eof();
    child.signal(Signal::INT);
    assert_eq!(silent.read_response().status, 503);
    child.signal(Signal::TERM);
    assert_eq!(child.end().signal, Some(TERM));
    // The signals of a context, of which one comes before the thread that takes them runs.
    let child = Program::start(&mut blocked(this_program("the_program", "before it runs")));
    child.wait_for_line("done");
    assert_eq!(child.end().code, Some(0));
}

#[test]
fn when_its_guard_is_dropped_a_signal_kills_again() {
    expect_killed("guard dropped", Signal::TERM);
}

#[test]
fn a_signal_is_caught_until_the_last_guard_is_dropped() {
    for signal in [Signal::TERM, Signal::INT] {
        let child = program("guard kept by another");
        child.wait_for_line("ready");
        child.signal(signal);
        child.wait_for_line(&format!("Some(Signal({}))", signal.as_raw()));
        assert_eq!(child.end().code, Some(0));
    }
}

#[test]
fn a_signal_can_be_caught_again_after_its_guard_was_dropped() {
    expect_killed("caught again", Signal::TERM);
}

#[test]
fn a_refusal_leaves_nothing_installed() {
    expect_killed("one refused", Signal::TERM);
}

#[test]
fn a_server_that_is_dropped_before_it_runs_catches_nothing_any_more() {
    expect_killed("bound and dropped", Signal::TERM);
}

#[test]
fn a_server_that_has_stopped_catches_nothing_any_more() {
    expect_killed("stopped", Signal::TERM);
}

#[test]
fn a_signal_between_bind_and_run_is_not_lost() {
    let child = program("before it runs");
    child.wait_for_line("done");
    assert_eq!(child.end().code, Some(0));
}

#[test]
fn a_signal_and_a_stop_at_the_same_moment_are_one_stop() {
    let child = program("stops that race");
    child.wait_for_line("done");
    assert_eq!(child.end().code, Some(0));
}

#[test]
fn one_signal_stops_each_server_of_a_context_and_a_second_one_cuts_them() {
    let mut command = this_program("the_program", "context");
    let child = Program::serving(&mut command);
    let second = child.wait_for_next_addr();
    let mut clients = [child.client(), Client::connect(second)];
    for client in &mut clients {
        client.send(get("/"));
        assert_eq!(client.read_raw(8), b"HTTP/1.1");
    }
    let mut idle = [child.client(), Client::connect(second)];
    child.signal(Signal::INT);
    idle.iter_mut().for_each(Client::expect_eof);
    child.signal(Signal::TERM);
    for _ in 0..2 {
        child.wait_for_line("report: Context, 1 cut");
    }
    assert_eq!(child.end().code, Some(7));
}

#[test]
fn a_context_that_is_cancelled_stops_its_servers() {
    let context = Context::root();
    let description = || builder().workers(2).context(&context);
    let servers = [0, 1].map(|_| TestServer::with(description(), hello));
    let other = TestServer::start(hello);
    let mut idle = servers.each_ref().map(|server| server.used_client("/"));
    assert!(!context.is_cancelled() && context.reason().is_none());
    let from_elsewhere = context.clone();
    std::thread::spawn(move || from_elsewhere.cancel())
        .join()
        .unwrap();
    context.cancel();
    idle.iter_mut().for_each(Client::expect_eof);
    for server in &servers {
        server.running().stopped().recv_timeout(LIMIT).unwrap_err();
        let report = server.stop();
        assert_eq!(report.cause, StopCause::Context, "{report}");
        assert!(report.is_clean(), "{report}");
    }
    assert_eq!(context.reason(), Some(CancelReason::Cancelled));
    assert_eq!(other.client().get("/").status, 200);
    // A server that is given the context now has stopped at once.
    let bound = description().bind("127.0.0.1:0").unwrap();
    assert_eq!(bound.handle().phase(), Phase::Stopped);
    assert!(matches!(bound.run(hello), Err(Error::Stopped)));
}

#[test]
fn a_context_does_not_keep_its_servers_alive() {
    let context = Context::root();
    let reports: Vec<Report> = (0..3)
        .map(|_| TestServer::with(builder().workers(1).context(&context), hello).stop())
        .collect();
    assert!(
        reports
            .iter()
            .all(|report| report.cause == StopCause::Handle)
    );
    eventually("their threads are gone", || {
        support::server_threads().len() <= 3 * 4
    });
    context.cancel();
}

#[test]
fn signals_that_no_program_may_catch_are_refused_by_name() {
    for (signal, name) in [
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGSTOP, "SIGSTOP"),
        (libc::SIGSEGV, "SIGSEGV"),
    ] {
        let error = lameduck::signal::notify([libc::SIGUSR2, signal]).unwrap_err();
        assert!(
            matches!(error, Error::SignalForbidden { signal: which } if which == signal),
            "{error:?}"
        );
        assert!(error.to_string().contains(name), "{error}");
    }
    for number in [0, -1, 65, 4711, i32::MIN] {
        let error = lameduck::signal::notify([number]).unwrap_err();
        assert!(
            matches!(error, Error::Signal { signal, .. } if signal == number),
            "{error:?}"
        );
    }
}

#[test]
fn to_catch_no_signal_is_a_context_like_any_other() {
    let (context, guard) = lameduck::signal::notify([]).unwrap();
    let server = TestServer::with(Server::builder().workers(1).context(&context), hello);
    drop(guard);
    assert!(!context.is_cancelled());
    context.cancel();
    server.running().stopped().recv_timeout(LIMIT).unwrap_err();
    assert_eq!(context.reason(), Some(CancelReason::Cancelled));
}

// The demo as the first process of a container.

/// Starts the demo as the first process of a new namespace, and returns it with its process id
/// outside. `None`: a namespace is not permitted here.
#[cfg(target_os = "linux")]
fn first_process(options: &[&str]) -> Option<(Program, Pid)> {
    let allowed = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "true"])
        .output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        println!("not tested: `unshare --pid` is not permitted here");
        return None;
    }
    let mut command = demo();
    let mut outer = std::process::Command::new("unshare");
    outer
        .args(["--pid", "--fork", "--kill-child"])
        .arg(command.get_program())
        .args(command.get_args());
    outer.args(["--listen", "127.0.0.1:0"]).args(options);
    outer
        .env_remove("RUST_LOG")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped());
    command = outer;
    let program = Program::serving(&mut command);
    let parent = program.pid().as_raw_nonzero();
    let children =
        std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let pid = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let ids = status
        .lines()
        .find(|line| line.starts_with("NSpid:"))
        .unwrap();
    assert!(ids.ends_with("\t1"), "{ids}");
    Some((program, pid))
}

#[cfg(target_os = "linux")]
#[test]
fn as_the_first_process_it_drains_at_the_first_signal() {
    let Some((program, pid)) = first_process(&["--idle-grace", "0"]) else {
        return;
    };
    let mut client = program.client();
    client.send(get("/plaintext") + &get("/sleep?ms=200"));
    assert_eq!(client.read_response().status, 200);
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(client.read_response().text(), "slept\n");
    let ended = program.end();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
}

#[cfg(target_os = "linux")]
#[test]
fn as_the_first_process_it_ends_at_the_third_signal() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let Some((program, pid)) = first_process(&["--idle-grace", "0", "--grace-period", "1h"])
        else {
            return;
        };
        let mut client = Client::connect_narrow(program.local_addr());
        client.send(get("/bytes?n=1000000000"));
        assert_eq!(client.read_raw(8), b"HTTP/1.1");
        kill_process(pid, signal).unwrap();
        program.wait_for_line("stopping");
        later_than_a_repeat();
        kill_process(pid, signal).unwrap();
        program.wait_for_line("cutting");
        later_than_a_repeat();
        kill_process(pid, signal).unwrap();
        let ended = program.end();
        assert_eq!(
            (ended.code, ended.signal),
            (Some(code), None),
            "{}",
            ended.output
        );
    }
}

#[test]
fn handles_and_signals_do_not_undo_each_other() {
    // The context begins a stop with much time; then comes a call with less, then one with more.
    let gate = Gate::new();
    let waits = gate.clone();
    let context = Context::root();
    let description = builder()
        .workers(2)
        .context(&context)
        .grace_period(LIMIT * 6)
        .cut_grace(millis(100));
    let server = TestServer::with(description, move |_: Request, _: Context| waits.pass());
    let mut client = server.client();
    client.send(get("/block"));
    gate.wait_entered(1);
    context.cancel();
    let stops: [fn(&ServerHandle); 2] = [
        |handle| handle.begin_shutdown_within(millis(50)),
        |handle| handle.begin_shutdown_within(Duration::MAX),
    ];
    stops.iter().for_each(|stop| stop(&server.handle()));
    assert_eq!(client.read_response().status, 503);
    gate.open();
    let report = server.stop();
    assert_eq!(
        (report.cause, crate::support::cut(&report).len()),
        (StopCause::Context, 1),
        "{report}"
    );
}
