//! Catching signals, and turning them into a stop.
//!
//! No signal handler is installed unless the program asks for it, and a program can stop catching.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use signal_hook::consts::{self, FORBIDDEN};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::scope::CancelReason;
use crate::settings::SIGNAL_REPEAT;
use crate::sys::clock::Clock;
use crate::sys::logging::{self, LogThread};
use crate::sys::signal_mask;
use crate::sys::signal_name::signal_name;
use crate::sys::test_points::TestPoints;

/// The signal of a terminal that was closed. By custom it asks a daemon to read its configuration
/// again.
pub const SIGHUP: i32 = consts::SIGHUP;
/// The signal of Ctrl+C in a terminal.
pub const SIGINT: i32 = consts::SIGINT;
/// The signal of Ctrl+\\ in a terminal. By default it ends the process with a core dump.
pub const SIGQUIT: i32 = consts::SIGQUIT;
/// The signal with which a supervisor asks a program to end: `kill`, `docker stop`, Kubernetes,
/// systemd.
pub const SIGTERM: i32 = consts::SIGTERM;

/// Catches `signals` for a program, and returns a context that the first one cancels.
///
/// The first signal cancels the context, which begins the stop of each server that was
/// [built with it](crate::ServerBuilder::context). A second one cuts what these servers still wait
/// for. A third one does what it does to a program that catches no signals, which is to end it. The
/// same signal again within 300 ms does not count. Dropping the guard stops catching. This call
/// does not block.
///
/// A signal arrives even if the process was started with it blocked: the thread that takes the
/// signals unblocks them for itself.
///
/// # Errors
///
/// [`Error::SignalForbidden`] for SIGKILL, SIGSTOP and the few others that no program may catch;
/// [`Error::Signal`] if the system refuses to have another one caught; [`Error::Start`] if the
/// thread that takes the signals cannot be made.
///
/// # Examples
///
/// ```
/// use lameduck::{SIGINT, SIGTERM};
///
/// let (context, guard) = lameduck::signal::notify([SIGINT, SIGTERM])?;
/// let server = lameduck::Server::builder()
///     .context(&context)
///     .bind("127.0.0.1:0")?
///     .spawn(|_request, _context| "hello\n")?;
///
/// context.cancel(); // or SIGTERM
/// assert!(server.join().is_clean());
/// drop(guard);
/// # Ok::<(), lameduck::Error>(())
/// ```
pub fn notify(signals: impl IntoIterator<Item = i32>) -> Result<(Context, SignalGuard)> {
    let context = Context::root();
    let caught = Caught::install(signals.into_iter().collect())?;
    let (first, second) = (context.clone(), context.clone());
    let thread = caught
        .listen(
            &TestPoints::default(),
            move |signal| first.cancel_because(CancelReason::Signal(signal)),
            move |_| second.force(),
        )
        .map_err(|source| Error::Start {
            what: "signal thread",
            source,
        })?;
    Ok((context, SignalGuard(thread)))
}

/// Keeps signals caught until it is dropped: see [`notify`].
#[derive(Debug)]
#[must_use = "dropping it stops catching"]
pub struct SignalGuard(
    #[allow(dead_code, reason = "it is there to be dropped")] Option<SignalThread>,
);

/// Signals that are caught, and wait until a thread takes them. Dropping it stops catching.
#[derive(Debug)]
pub(crate) struct Caught {
    numbers: Vec<i32>,
    signals: Option<Signals>,
}

/// The thread that takes caught signals. Dropping it ends the thread and stops catching.
#[derive(Debug)]
pub(crate) struct SignalThread {
    handle: signal_hook::iterator::Handle,
    thread: Option<JoinHandle<()>>,
    _caught: Caught,
}

impl Caught {
    /// Installs handlers for the signals, which do not end the process from here on.
    pub(crate) fn install(numbers: Vec<i32>) -> Result<Self> {
        // Signals that can never be caught are refused first: to ask `signal_hook` for one of them
        // would abort the process.
        if let Some(&signal) = numbers.iter().find(|signal| FORBIDDEN.contains(signal)) {
            return Err(Error::SignalForbidden { signal });
        }
        let mut caught = Self {
            numbers: Vec::new(),
            signals: None,
        };
        let Some(&first) = numbers.first() else {
            return Ok(caught);
        };
        if let Some(&signal) = numbers
            .iter()
            .find(|&&signal| !(1..SIGNALS as i32).contains(&signal))
        {
            return Err(Error::Signal {
                signal,
                source: io::Error::new(io::ErrorKind::InvalidInput, "there is no such signal"),
            });
        }
        let signals = Signals::new([0_i32; 0]).map_err(|source| Error::Signal {
            signal: first,
            source,
        })?;
        // The signals are added one at a time, so that the error names the one that is at fault.
        // The handlers that were installed before it are released when `caught` is dropped.
        for signal in numbers {
            let failed = |source| Error::Signal { signal, source };
            hold_default(signal).map_err(failed)?;
            caught.numbers.push(signal);
            signals.add_signal(signal).map_err(failed)?;
        }
        caught.signals = Some(signals);
        Ok(caught)
    }

    /// Starts the thread that takes the signals. It calls `stop` for the first one and `cut` for
    /// the second one. A third one does what it does to a process that catches no signals. A repeat
    /// within [`SIGNAL_REPEAT`] does not count.
    pub(crate) fn listen(
        mut self,
        test_points: &TestPoints,
        stop: impl Fn(i32) + Send + 'static,
        cut: impl Fn(i32) + Send + 'static,
    ) -> io::Result<Option<SignalThread>> {
        let Some(mut signals) = self.signals.take() else {
            return Ok(None);
        };
        test_points.spawn_error()?;
        let handle = signals.handle();
        let logs = LogThread::new();
        let numbers = self.numbers.clone();
        let pass_on = move || {
            let _logs = logs;
            // A parent may have started the program with these signals blocked. It is enough that
            // one thread takes them, and the program's own threads keep their masks.
            signal_mask::unblock(&numbers);
            let mut counted = 0;
            let mut last: Option<(i32, Instant)> = None;
            for signal in signals.forever() {
                let now = Clock::System.now();
                let is_repeat = |(before, at): (i32, Instant)| {
                    before == signal && now.saturating_duration_since(at) < SIGNAL_REPEAT
                };
                if last.is_some_and(is_repeat) {
                    logging::debug!("got {} again at once: it counts once", signal_name(signal));
                    continue;
                }
                last = Some((signal, now));
                counted += 1;
                let what = match counted {
                    1 => {
                        stop(signal);
                        "stopping"
                    }
                    2 => {
                        cut(signal);
                        "cutting what is left"
                    }
                    _ => end_process(signal),
                };
                logging::info!("got {}: {what}", signal_name(signal));
            }
        };
        let thread = std::thread::Builder::new()
            .name("lameduck-signals".to_owned())
            .spawn(pass_on)?;
        Ok(Some(SignalThread {
            handle,
            thread: Some(thread),
            _caught: self,
        }))
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        self.numbers
            .iter()
            .for_each(|signal| release_default(*signal));
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One more than the largest signal.
const SIGNALS: usize = 65;

/// Says for each signal that was once caught whether it does again what it does to a program that
/// catches no signals.
static DEFAULT: [AtomicBool; SIGNALS] = [const { AtomicBool::new(false) }; SIGNALS];

/// The number of [`Caught`] that catch each signal, and whether its default action is prepared.
static CATCHERS: Mutex<[(u32, bool); SIGNALS]> = Mutex::new([(0, false); SIGNALS]);

/// Counts one more that catches `signal`, and turns the signal's default action off.
///
/// `signal_hook` leaves its handler installed when nothing catches the signal any more, and that
/// handler would swallow the signal. So before a signal is caught for the first time, it gets an
/// action that does what the system would, and that is off while anything catches the signal.
fn hold_default(signal: i32) -> io::Result<()> {
    let index = usize::try_from(signal).expect("its number was looked at");
    let mut catchers = CATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
    let (count, prepared) = &mut catchers[index];
    if !*prepared {
        if is_first_process() {
            signal_hook::flag::register_conditional_shutdown(
                signal,
                128 + signal,
                &DEFAULT[index],
            )?;
        } else {
            signal_hook::flag::register_conditional_default(signal, &DEFAULT[index])?;
        }
        *prepared = true;
    }
    *count += 1;
    DEFAULT[index].store(false, SeqCst);
    Ok(())
}

/// Counts one less that catches `signal`. After the last one, the signal's default action is on.
fn release_default(signal: i32) {
    let index = usize::try_from(signal).expect("it was held, so it is a signal");
    let mut catchers = CATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
    catchers[index].0 -= 1;
    DEFAULT[index].store(catchers[index].0 == 0, SeqCst);
}

/// Does what the signal does to a process that does not catch it. If that does not end the process,
/// returns the text for the log.
fn end_process(signal: i32) -> &'static str {
    if is_first_process() {
        low_level::exit(128 + signal);
    }
    let _ = low_level::emulate_default_handler(signal);
    "ending at once"
}

/// Returns whether this is the first process of its container. The kernel gives that process no
/// default action for signals, so we end it ourselves.
fn is_first_process() -> bool {
    std::process::id() == 1
}
