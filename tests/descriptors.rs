//! A process with few descriptors keeps serving: the connections that have been idle longest make
//! room, and the process does not spin.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "cli")]

mod support;

use std::time::Duration;

use lameduck::report::CloseReason;
use lameduck::{Context, Request, Server};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};

use support::child::{MODE, Program, demo, shell, this_program};
use support::{
    Client, End, LIMIT, context_switches_of, eventually, millis, now, pass_time,
    raise_descriptor_limit,
};

/// The number of descriptors that the child may have. Its threads, sockets and standard streams
/// take some of them.
const DESCRIPTORS: u64 = 64;

/// No test: the program that the children of the tests below run. It is a server that may have more
/// connections than descriptors, or at most 40 connections.
#[test]
fn the_program() {
    let Ok(mode) = std::env::var(MODE) else {
        return;
    };
    let limit = Some(DESCRIPTORS);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )
    .unwrap();
    let max = if mode == "descriptors" { 10_000 } else { 40 };
    let gate = support::Gate::new();
    let handler = move |request: Request, _: Context| {
        if request.uri().path() == "/block" {
            gate.pass();
        }
        "hello"
    };
    // The idle grace is over at once, or lasts for longer than the test.
    let grace = if mode == "nobody idle" {
        LIMIT * 6
    } else {
        Duration::ZERO
    };
    let server = Server::builder()
        .workers(4)
        .max_connections(max)
        .idle_grace(grace)
        .on_signals([libc::SIGTERM]);
    let bound = server.bind("127.0.0.1:0").unwrap();
    eprintln!("listening on http://{}", bound.local_addr());
    let report = bound.run(handler).unwrap();
    eprintln!("shed {}", report.closed_because(CloseReason::Evicted));
    eprintln!("paused {}", report.listeners.accept_paused.as_millis());
    eprintln!("accepted {}", report.accepted);
}

fn server(mode: &str) -> Program {
    raise_descriptor_limit();
    Program::serving(&mut this_program("the_program", mode))
}

/// Returns how many descriptors the process has.
fn descriptors(program: &Program) -> usize {
    std::fs::read_dir(proc_path(program, "fd")).unwrap().count()
}

fn proc_path(program: &Program, what: &str) -> String {
    format!("/proc/{}/{what}", program.pid().as_raw_nonzero())
}

/// Stops the child, and returns what it says about itself.
#[track_caller]
fn stop(program: &Program) -> [u64; 3] {
    program.signal(Signal::TERM);
    ["shed ", "paused ", "accepted "].map(|what| {
        let line = program.wait_for_line(what);
        line.strip_prefix(what).unwrap().parse().unwrap()
    })
}

/// Returns whether the server has closed a connection, without waiting for it.
fn is_closed(client: &Client) -> bool {
    client.is_readable()
}

#[test]
fn a_process_out_of_descriptors_keeps_serving_and_closes_the_longest_idle_first() {
    const CLIENTS: usize = 200;
    let program = server("descriptors");
    let mut clients: Vec<_> = Vec::new();
    for i in 0..CLIENTS {
        let mut client = program.client();
        assert_eq!(client.get("/").text(), "hello", "connection {i}");
        clients.push(client);
        // The connections that are closed are the oldest ones, in their order.
        let open = clients
            .iter()
            .position(|client| !is_closed(client))
            .unwrap();
        assert!(
            clients[open..].iter().all(|client| !is_closed(client)),
            "{i}: not the longest idle one was closed"
        );
        // A connection is closed only when there are no descriptors left.
        assert!(
            open == 0 || descriptors(&program) as u64 >= DESCRIPTORS - 1,
            "{i}: {}",
            descriptors(&program)
        );
    }
    let closed = clients.iter().filter(|client| is_closed(client)).count();
    // The server recovers: when descriptors are free again, no connection is closed any more.
    clients.truncate(CLIENTS - 20);
    eventually("descriptors are free", || {
        (descriptors(&program) as u64) < DESCRIPTORS - 10
    });
    let mut last: Vec<_> = (0..8).map(|_| program.client()).collect();
    last.iter_mut()
        .for_each(|client| assert_eq!(client.get("/").text(), "hello"));
    assert_eq!(
        clients.iter().filter(|client| is_closed(client)).count(),
        closed
    );
    let [shed, _, accepted] = stop(&program);
    assert_eq!((shed, accepted), (closed as u64, CLIENTS as u64 + 8));
}

#[test]
fn a_process_out_of_descriptors_whose_clients_are_all_busy_neither_spins_nor_stays_so() {
    let program = server("nobody idle");
    // These connections are young and have had no answer yet, so none of them has to make room.
    let fill: Vec<_> = (0..80).map(|_| program.client()).collect();
    eventually("it is full", || descriptors(&program) as u64 >= 40);
    let mut waiting = program.client();
    waiting.send_get("/");
    pass_time(millis(200));
    let (before, began) = (context_switches_of(program.pid()), now());
    pass_time(Duration::from_secs(2));
    let (runs, took) = (context_switches_of(program.pid()) - before, now() - began);
    assert!(runs < 200, "{runs} context switches in {took:?}");
    waiting.expect_nothing_yet();
    drop(fill);
    assert_eq!(waiting.read_response().text(), "hello");
    drop(waiting);
    let [shed, paused, _] = stop(&program);
    assert_eq!(shed, 0);
    assert!(paused >= 2000, "{paused} ms");
}

#[test]
fn a_server_with_as_many_connections_as_it_may_have_serves_new_ones_in_place_of_idle_ones() {
    const CLIENTS: usize = 150;
    let program = server("connections");
    let mut clients: Vec<_> = Vec::new();
    for i in 0..CLIENTS {
        let mut client = program.client();
        assert_eq!(client.get("/").text(), "hello", "connection {i}");
        clients.push(client);
    }
    let open = clients.iter().filter(|client| !is_closed(client)).count();
    assert_eq!(open, 40, "and no more are closed than have to be");
    assert!(
        clients[..CLIENTS - 40].iter().all(is_closed),
        "the longest idle ones"
    );
    for client in &mut clients[..CLIENTS - 40] {
        assert_eq!(client.drain(), (Vec::new(), End::Eof), "in order");
    }
    let [shed, ..] = stop(&program);
    assert_eq!(shed, CLIENTS as u64 - 40);
}

#[test]
fn without_a_descriptor_for_a_client_it_does_not_start() {
    let mut started = 0;
    for limit in 8..20 {
        let script = format!("ulimit -n {limit}; exec \"$0\" demo --listen 127.0.0.1:0");
        let child = Program::start(&mut shell(&script));
        let lines = child.lines_until("listening on http://");
        if let Ok(addr) = lines {
            started += 1;
            assert_eq!(Client::connect(addr).get("/").status, 200, "{limit}");
            continue;
        }
        let lines = lines.unwrap_err();
        assert!(
            lines.iter().any(|line| line.contains("cannot start")),
            "{lines:#?}"
        );
        assert_eq!(child.end().code, Some(2), "{limit}");
    }
    assert!((1..12).contains(&started), "{started} have started");
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_poller_it_does_not_start() {
    let mut command = std::process::Command::new("strace");
    command.args([
        "-f",
        "-qqq",
        "-e",
        "trace=epoll_wait,epoll_pwait,epoll_pwait2",
    ]);
    command.args([
        "-e",
        "inject=epoll_wait,epoll_pwait,epoll_pwait2:error=EPERM",
        "-o",
        "/dev/null",
    ]);
    let inner = demo();
    let is_there =
        |command: &mut std::process::Command| command.status().is_ok_and(|status| status.success());
    if !is_there(std::process::Command::new("strace").args(["-qqq", "-o", "/dev/null", "true"])) {
        println!("not tested: there is no strace, or it may trace nothing");
        return;
    }
    command.arg(inner.get_program()).args(inner.get_args());
    command
        .args(["--listen", "127.0.0.1:0"])
        .env_remove("RUST_LOG");
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped());
    let child = Program::start(&mut command);
    let lines = child.lines_until("listening on http://").unwrap_err();
    let reason = "cannot start the server's poller: Operation not permitted";
    assert!(lines.iter().any(|line| line.contains(reason)), "{lines:#?}");
    assert_eq!(child.end().code, Some(2));
}
