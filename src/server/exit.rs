//! The exit code of a program whose main thing is a server or a group.

use std::error::Error as StdError;
use std::io::Write;
use std::process::{ExitCode, Termination};

use crate::error::{Causes, Error};
use crate::server::group::GroupFailed;

/// The exit code of a program that could not start.
const NOT_STARTED: u8 = 2;

/// Turns how a program has ended into its exit code, and says on stderr what was wrong.
///
/// A report's exit code is its [own](crate::Report::exit_code): 0 if the stop was clean, 1 if
/// something was cut, 3 if a handler never came back. A report that is not clean is written to
/// stderr. Any other error means that the program could not start or serve: its text and its causes
/// are written to stderr, and the exit code is 2. A `main` that returns the `Result` itself prints
/// the same, but std gives an error the exit code 1, so it cannot be told from a stop that cut
/// something.
///
/// # Examples
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use lameduck::{Report, Server};
///
/// fn main() -> ExitCode {
///     lameduck::exit_code(serve())
/// }
///
/// fn serve() -> lameduck::Result<Report> {
///     let bound = Server::builder().bind("127.0.0.1:8080")?;
///     bound.run(|_request, _context| "hello\n")
/// }
/// ```
pub fn exit_code<T, E>(ended: Result<T, E>) -> ExitCode
where
    T: Termination,
    E: Into<Box<dyn StdError>>,
{
    let error = match ended {
        Ok(ended) => return ended.report(),
        Err(error) => error.into(),
    };
    let error = match error.downcast::<Error>() {
        Ok(error) => match *error {
            Error::Unclean(report) => return report.report(),
            error => error.into(),
        },
        Err(error) => error,
    };
    let error = match error.downcast::<GroupFailed>() {
        Ok(failed) => return failed.into_report().report(),
        Err(error) => error,
    };
    // Where stderr is closed there is nobody to tell, but the exit code still does.
    let _ = writeln!(std::io::stderr(), "Error: {}", Causes(&*error));
    NOT_STARTED.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::phase::StopCause;
    use crate::lifecycle::report::Report;

    #[track_caller]
    fn check(ended: Result<Report, impl Into<Box<dyn StdError>>>, expected: u8) {
        assert_eq!(exit_code(ended), ExitCode::from(expected));
    }

    #[test]
    fn a_report_has_its_own_code_and_an_error_has_2() {
        let clean = || Report::new(StopCause::Handle);
        let mut cut = clean();
        cut.listeners.backlog_reset = 1;
        check(Ok::<_, Error>(clean()), 0);
        check(Ok::<_, Error>(cut.clone()), 1);
        check(cut.clone().into_result(), 1);
        check(cut.into_result().map_err(Box::<dyn StdError>::from), 1);
        check(Err(Error::Stopped), 2);
        check(Err("a text"), 2);
    }
}
