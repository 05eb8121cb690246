//! The load program for hostile and unlucky clients: how normal clients are served while a thousand
//! of the others keep a small server busy.
//!
//! ```text
//! cargo bench --bench hostile -- [--quick] [--only NAME] [--clients N] [--peer pool|threads]
//! ```
//!
//! For each kind of client, the program starts a server with 4 workers in its own process, so that
//! its threads and its memory can be read from /proc. N clients (1000) of the kind connect. Beside
//! them 100 normal requests per second are made, each on its own connection, until the timeouts of
//! the server have ended all N. `--quick` shortens the timeouts, and measures for 1.2 s only.
//! `--peer` measures a server made with the standard library, without any timeout, to compare with.
//! Then the program holds 10,000 idle connections, and measures what they cost.
//!
//! The program exits with 1 if a goal was missed: 99 % of the normal requests are answered, 99 % of
//! those within 250 ms, no thread is added, and no honest client is cut.

#![allow(
    clippy::disallowed_methods,
    reason = "a measurement is about real time"
)]
#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends")]

mod crowd;
mod idle;
mod server;
mod visitors;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crowd::{Crowd, Kind};
use server::{Server, Times};
use visitors::Visitors;

/// The least percentage of the normal requests that must be answered.
const ANSWERED_MIN: f64 = 99.0;
const P99_MAX: Duration = Duration::from_millis(250);
/// The time by which the server must have ended the clients of each kind. The idle timeout is 75 s.
const LET_GO_BY: Duration = Duration::from_secs(80);
/// The time for which clients that read 20 kB/s are watched, which is longer than any timeout.
const HONEST_FOR: Duration = Duration::from_secs(45);
const QUICK_FOR: Duration = Duration::from_millis(1200);

/// The options of the command line.
struct Options {
    quick: bool,
    peer: Option<Times>,
    only: Option<String>,
    clients: usize,
}

fn main() -> ExitCode {
    if server::serve_if_asked() {
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(std::env::args().skip(1).filter(|arg| arg != "--bench")) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("hostile: {error}");
            return ExitCode::from(2);
        }
    };
    server::raise_descriptor_limit();
    let mut missed = Vec::new();
    println!(
        "| clients | n | normal requests | answered | p50 ms | p99 ms | max ms | threads | KiB each | kernel's | let go | by |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|");
    for kind in Kind::ALL {
        if options.only.as_ref().is_none_or(|only| only == kind.name()) {
            missed.extend(try_kind(kind, &options));
        }
    }
    if options.peer.is_none() && options.only.as_ref().is_none_or(|only| only == "cost") {
        println!();
        missed.extend(idle::measure(
            if options.quick { 1000 } else { 10_000 },
            options.quick,
        ));
    }
    for goal in &missed {
        eprintln!("missed: {goal}");
    }
    if missed.is_empty() || options.peer.is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints one line of the table, and returns the goals that were missed.
fn try_kind(kind: Kind, options: &Options) -> Vec<String> {
    let times = options.peer.unwrap_or(if options.quick {
        Times::Short
    } else {
        Times::Default
    });
    let server = Server::start(times);
    // After these requests the server has all that is made once.
    let warm = Visitors::start(server.addr).run_for(Duration::from_millis(200));
    assert!(
        warm.failed == 0,
        "a server that nobody attacks does not answer"
    );
    let (threads, memory, kernel) = (server.threads(), server.memory(), server::kernel_memory());
    // The line without any such client says what the machine itself takes.
    let n = match kind {
        Kind::Nobody => 0,
        Kind::HonestReader | Kind::Greedy => options.clients / 10,
        _ => options.clients,
    };
    let mut crowd = Crowd::connect(server.addr, kind, n, options.quick);
    let visitors = Visitors::start(server.addr);
    let (began, window) = (Instant::now(), window(kind, options));
    let (mut most_memory, mut most_threads, mut most_kernel) = (memory, threads, kernel);
    while began.elapsed() < window && (options.quick || n == 0 || crowd.open() > 0) {
        crowd.go_round(Duration::from_millis(50));
        most_memory = most_memory.max(server.memory());
        most_kernel = most_kernel.max(server::kernel_memory());
        most_threads = most_threads.max(server.threads());
    }
    let visits = visitors.stop();
    let let_go = crowd.let_go();
    // The clients that the server has not ended leave by themselves.
    drop(crowd);
    let ended = server.stop();
    let by: Vec<_> = ended
        .closed
        .iter()
        .filter(|(reason, _)| reason != "Asked")
        .map(|(by, n)| format!("{by} {n}"))
        .collect();
    let each =
        |most: u64, before: u64| most.saturating_sub(before) as f64 / 1024.0 / n.max(1) as f64;
    let (each, kernel) = (each(most_memory, memory), each(most_kernel, kernel));
    let answered =
        100.0 * visits.took.len() as f64 / (visits.took.len() + visits.failed).max(1) as f64;
    let ms = |at: f64| visits.quantile(at).as_secs_f64() * 1e3;
    println!(
        "| {} | {n} | {} | {answered:.2} % | {:.1} | {:.1} | {:.1} | {threads} -> {most_threads} | {each:.1} | {kernel:.1} | {let_go} | {} |",
        kind.label(),
        visits.took.len() + visits.failed,
        ms(0.5),
        ms(0.99),
        ms(1.0),
        by.join(", "),
    );
    let mut missed = Vec::new();
    let mut goal = |is_met: bool, what: &str| {
        if !is_met {
            missed.push(format!("{}: {what}", kind.name()));
        }
    };
    goal(
        answered >= ANSWERED_MIN,
        "too few normal requests were answered",
    );
    // A quick run only shows that the program works, also on a machine that is busy.
    goal(
        options.quick || visits.quantile(0.99) <= P99_MAX,
        "normal requests took too long",
    );
    // What waits for its client in user code has a dedicated thread, for each client.
    let dedicated = match kind {
        Kind::Upload | Kind::Download | Kind::Mixed => n as u64,
        _ => 0,
    };
    goal(
        most_threads as u64 <= threads as u64 + dedicated,
        "threads were made",
    );
    if matches!(kind, Kind::HonestReader | Kind::Greedy) {
        goal(let_go == 0, "who is honest was cut");
    } else {
        goal(options.quick || let_go == n, "not all were let go");
    }
    missed
}

fn window(kind: Kind, options: &Options) -> Duration {
    match kind {
        _ if options.quick => QUICK_FOR,
        Kind::Nobody | Kind::Greedy => HONEST_FOR / 4,
        Kind::HonestReader => HONEST_FOR,
        _ => LET_GO_BY,
    }
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            quick: false,
            peer: None,
            only: None,
            clients: 1000,
        };
        while let Some(name) = args.next() {
            if name == "--quick" {
                options.quick = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--peer" => {
                    options.quick = true;
                    options.peer = Some(if value == "pool" {
                        Times::PeerPool
                    } else {
                        Times::PeerThreads
                    });
                }
                "--only" => options.only = Some(value),
                "--clients" => {
                    options.clients = value
                        .parse()
                        .map_err(|_| format!("{name} cannot be {value}"))?
                }
                _ => return Err(format!("{name} is not known")),
            }
        }
        Ok(options)
    }
}
