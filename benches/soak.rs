//! The soak: a server serves good and bad clients for a long time, and then stops.
//!
//! ```text
//! cargo bench --bench soak -- [--seconds S]
//! ```
//!
//! For S seconds (300) 300 bad clients of ten kinds come and go. Beside them there are 16 kept
//! connections and 100 new ones a second, on which every request has to be answered. Then the
//! counts of both sides have to agree, the memory has to be what it was after the first fifth, and
//! no thread and no descriptor may be left. The program exits with 1 if that is not so.

#![allow(
    clippy::disallowed_methods,
    reason = "the clients' clock is the real one"
)]
#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends")]

#[path = "../tests/soak_engine/mod.rs"]
mod soak_engine;

use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    if soak_engine::server::serve_if_asked() {
        return ExitCode::SUCCESS;
    }
    let mut seconds = 300;
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(name) = args.next() {
        match (
            name.as_str(),
            args.next().and_then(|value| value.parse().ok()),
        ) {
            ("--seconds", Some(value)) => seconds = value,
            _ => {
                eprintln!("soak: {name} is not known, or its value is not a number");
                return ExitCode::from(2);
            }
        }
    }
    let outcome = soak_engine::run(Duration::from_secs(seconds));
    let mib = |bytes: &u64| format!("{:.2}", *bytes as f64 / f64::from(1 << 20));
    println!(
        "{seconds} s: {} connections, {} answers to good clients",
        outcome.connections, outcome.answers
    );
    println!(
        "p99 of new connections {:.1} ms",
        outcome.p99.as_secs_f64() * 1e3
    );
    let memory: Vec<_> = outcome.memory.iter().map(mib).collect();
    println!(
        "resident, in the mean of each fifth of the time: {} MiB",
        memory.join(", ")
    );
    let closed: Vec<_> = outcome
        .closed
        .iter()
        .map(|(reason, n)| format!("{reason} {n}"))
        .collect();
    println!("closed: {}", closed.join(", "));
    if outcome.wrong.is_empty() {
        println!("counts agree, nothing is left");
        return ExitCode::SUCCESS;
    }
    outcome
        .wrong
        .iter()
        .for_each(|wrong| eprintln!("wrong: {wrong}"));
    ExitCode::FAILURE
}
