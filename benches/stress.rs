//! The stress program: servers of several sizes under clients that do everything clients do.
//!
//! ```text
//! cargo bench --bench stress -- [--seconds S] [--seed N] [--workers N] [--connections C]
//! ```
//!
//! The configurations share S seconds (30, or 5 if the program is run as a test), or the one with N
//! workers gets them all. A seed (1) makes the same plans for the clients again, though not the
//! same order of events. The program exits with 1 after a failure, and says all that is known about
//! it.

#![allow(
    clippy::disallowed_methods,
    reason = "the clients' clock is the real one"
)]

#[path = "../tests/stress_engine/mod.rs"]
mod stress_engine;

use std::process::ExitCode;
use std::time::Duration;

use stress_engine::{Setup, run};

/// The options of the command line.
struct Options {
    seconds: Option<f64>,
    /// Whether the program is run by `cargo bench`.
    is_bench: bool,
    seed: u64,
    workers: Option<usize>,
    connections: usize,
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("stress: {error}");
            return ExitCode::from(2);
        }
    };
    let default = 64 << 10;
    let mut servers = vec![
        (1, default),
        (2, default),
        (4, default),
        (16, default),
        (4, 0),
    ];
    if let Some(only) = options.workers {
        servers = vec![(only, default)];
    }
    let seconds = options
        .seconds
        .unwrap_or(if options.is_bench { 30.0 } else { 5.0 });
    let time = Duration::from_secs_f64(seconds / servers.len() as f64);
    println!(
        "seed {}, {} connections at a time, {time:.1?} each",
        options.seed, options.connections
    );
    println!("workers  collect  connections   requests   resets  longest wait  verdict");
    let mut exit = ExitCode::SUCCESS;
    for (workers, collect_bytes) in servers {
        let setup = Setup {
            workers,
            connections: options.connections,
            collect_bytes,
            seed: options.seed,
            time,
        };
        let outcome = run(&setup);
        let tally = &outcome.tally;
        let wait = format!("{:.1?}", tally.longest_wait);
        let verdict = if outcome.failure.is_none() {
            "ok"
        } else {
            "FAILED"
        };
        println!(
            "{workers:>7}  {collect_bytes:>7}  {:>11}  {:>9}  {:>7}  {wait:>12}  {verdict}",
            tally.connections, tally.answers, tally.resets
        );
        if let Some(failure) = outcome.failure {
            eprintln!("{failure}");
            exit = ExitCode::FAILURE;
        }
    }
    exit
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            seconds: None,
            is_bench: false,
            seed: 1,
            workers: None,
            connections: 256,
        };
        while let Some(name) = args.next() {
            if name == "--bench" {
                options.is_bench = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let wrong = |_| format!("{name} cannot be {value}");
            match name.as_str() {
                "--seconds" => {
                    options.seconds = Some(
                        value
                            .parse()
                            .map_err(|_| format!("{name} cannot be {value}"))?,
                    )
                }
                "--seed" => options.seed = value.parse().map_err(wrong)?,
                "--workers" => options.workers = Some(value.parse().map_err(wrong)?),
                "--connections" => options.connections = value.parse().map_err(wrong)?,
                _ => return Err(format!("{name} is not known")),
            }
        }
        Ok(options)
    }
}
