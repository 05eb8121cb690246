//! The program `lameduck`: the server at work, from the command line.
//!
//! A complete server, with routes, signals and a report at the end, is in `cli/demo.rs`.

use std::io::Write;
use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::run(lexopt::Parser::from_env()).unwrap_or_else(|failure| {
        // Where stderr is closed there is nobody to tell, but the exit code still does.
        let _ = writeln!(std::io::stderr(), "lameduck: {failure}");
        ExitCode::from(cli::EXIT_FAILURE)
    })
}
