//! The command line program: its commands, and what they share (the help, the log, the limits of
//! the process, the text of failures).
//!
//! Read `args.rs` for the options, then `demo.rs`, a complete server, or `prove.rs`, which stops
//! such servers and judges them from outside. The program uses only the library's public API.

use std::error::Error;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::args::Command;

mod args;
mod demo;
mod prove;
mod query;

/// The exit code when nothing was served. A report's own exit codes are 0, 1 and 3.
pub(crate) const EXIT_FAILURE: u8 = 2;

/// Runs the command that the command line names.
pub(crate) fn run(arguments: lexopt::Parser) -> Result<ExitCode, Failure> {
    match args::parse(arguments)? {
        Command::Nothing => {
            let _ = std::io::stderr().write_all(args::HELP.as_bytes());
            Ok(ExitCode::from(EXIT_FAILURE))
        }
        Command::Print(text) => {
            print(text);
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo(options) => {
            start_log();
            raise_descriptor_limit();
            let json = options.json;
            let report = demo::run(options)?;
            let text = if json {
                report.to_json() + "\n"
            } else {
                report.to_string()
            };
            if let Err(error) = write_stdout(&text) {
                // The report is not lost: it goes where there is still room for it.
                let _ = write!(
                    std::io::stderr(),
                    "lameduck: cannot write the report to stdout: {error}\n{text}"
                );
            }
            Ok(report.exit_code().into())
        }
        Command::Prove(options) => {
            raise_descriptor_limit();
            let proof = prove::run(&options).map_err(Failure::Proof)?;
            print(&proof.text);
            Ok(if proof.holds {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Command::Tethered(parent, command) => Err(Failure::Proof(prove::child::become_tethered(
            parent, &command,
        ))),
    }
}

/// Why nothing was served.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong; the `--help` of `command` explains it.
    Usage {
        command: &'static str,
        problem: String,
    },
    /// The server could not be started or run.
    Server(lameduck::Error),
    /// `prove` could not start a server.
    Proof(std::io::Error),
}

impl fmt::Display for Failure {
    /// Writes one line, even if the user's arguments contain control characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self {
            Self::Usage { command, problem } => format!("{problem}; try '{command} --help'"),
            Self::Server(error) => with_causes(error),
            Self::Proof(error) => format!("cannot start a server to stop: {error}"),
        };
        f.write_str(&line.replace(char::is_control, "?"))
    }
}

impl From<lameduck::Error> for Failure {
    fn from(error: lameduck::Error) -> Self {
        match error {
            lameduck::Error::Address { .. } => Self::Usage {
                command: args::DEMO,
                problem: error.to_string(),
            },
            error => Self::Server(error),
        }
    }
}

/// Returns the text of an error and of its causes.
fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

/// Writes to stdout. It is no error if the reader is gone, as in `lameduck --help | head -1`.
fn print(text: &str) {
    let _ = write_stdout(text);
}

fn write_stdout(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Starts the log, which goes to stderr. Its level is *info*, or that of `RUST_LOG`.
fn start_log() {
    let filter = env_logger::Env::default().default_filter_or("info");
    env_logger::Builder::from_env(filter)
        .format_target(false)
        .init();
}

/// Raises the limit of open descriptors to the maximum, as each connection is a descriptor. The
/// soft limit is often 1024, for the sake of programs that call select(2).
fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        log::warn!("cannot raise the limit of open descriptors: {error}");
    }
}
