//! From a signal to a stop. Nothing is installed unless it was asked for, and catching can be
//! stopped again.

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
use crate::sys::signal_name::signal_name;

/// A terminal that was closed, and by custom the wish that a daemon read its configuration again.
pub const SIGHUP: i32 = consts::SIGHUP;
/// Ctrl+C in a terminal.
pub const SIGINT: i32 = consts::SIGINT;
/// Ctrl+\\, by custom with a core dump.
pub const SIGQUIT: i32 = consts::SIGQUIT;
/// The wish of a supervisor that the program end: `kill`, `docker stop`, Kubernetes, systemd.
pub const SIGTERM: i32 = consts::SIGTERM;

/// Catches `signals` for a program: the first one cancels the context, and with it begins the stop
/// of each server that was [built with it](crate::ServerBuilder::context); a second one cuts what these
/// still wait for; a third one does what it does to a program that catches nothing. Dropping the
/// guard stops catching.
///
/// # Errors
///
/// [`Error::SignalForbidden`] for SIGKILL, SIGSTOP and the few others that no program may catch;
/// [`Error::Signal`] if the system refuses another; [`Error::Start`] if no thread can be made.
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
            move |signal| first.cancel_because(CancelReason::Signal(signal)),
            move |_| second.force(),
        )
        .map_err(|source| Error::Start {
            what: "signal thread",
            source,
        })?;
    Ok((context, SignalGuard(thread)))
}

/// Catches signals as long as it lives: see [`notify`].
#[derive(Debug)]
#[must_use = "dropping it stops catching"]
pub struct SignalGuard(
    #[allow(dead_code, reason = "it is there to be dropped")] Option<SignalThread>,
);

/// Signals that are caught from now on, and wait for a thread to take them. Dropping it stops
/// catching.
#[derive(Debug)]
pub(crate) struct Caught {
    numbers: Vec<i32>,
    signals: Option<Signals>,
}

/// The thread that takes them. Dropping it ends the thread and stops catching.
#[derive(Debug)]
pub(crate) struct SignalThread {
    handle: signal_hook::iterator::Handle,
    thread: Option<JoinHandle<()>>,
    _caught: Caught,
}

impl Caught {
    /// Installs handlers. From here on these signals do not end the process.
    pub(crate) fn install(numbers: Vec<i32>) -> Result<Self> {
        // First the ones that can never be caught: asking for one of them would abort the process.
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
        // One at a time, so that the error names the one that is at fault; what was installed
        // before is dropped with us.
        for signal in numbers {
            let failed = |source| Error::Signal { signal, source };
            hold_default(signal).map_err(failed)?;
            caught.numbers.push(signal);
            signals.add_signal(signal).map_err(failed)?;
        }
        caught.signals = Some(signals);
        Ok(caught)
    }

    /// Starts the thread that passes them on: the first one to `stop`, the second one to `cut`. The
    /// third one does what it would have done to a process that catches nothing.
    pub(crate) fn listen(
        mut self,
        stop: impl Fn(i32) + Send + 'static,
        cut: impl Fn(i32) + Send + 'static,
    ) -> io::Result<Option<SignalThread>> {
        let Some(mut signals) = self.signals.take() else {
            return Ok(None);
        };
        let handle = signals.handle();
        let pass_on = move || {
            let mut counted = 0;
            let mut last: Option<(i32, Instant)> = None;
            for signal in signals.forever() {
                let now = Clock::System.now();
                let is_repeat = |(before, at): (i32, Instant)| {
                    before == signal && now.saturating_duration_since(at) < SIGNAL_REPEAT
                };
                if last.is_some_and(is_repeat) {
                    log::debug!("got {} again at once: it counts once", signal_name(signal));
                    continue;
                }
                last = Some((signal, now));
                counted += 1;
                // A logger may block. What the signal asks for comes first.
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
                log::info!("got {}: {what}", signal_name(signal));
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

/// Whether a signal that we once caught is to do again what it does to a program that catches
/// nothing.
static DEFAULT: [AtomicBool; SIGNALS] = [const { AtomicBool::new(false) }; SIGNALS];

/// How many catch each signal, and whether its default action is prepared.
static CATCHERS: Mutex<[(u32, bool); SIGNALS]> = Mutex::new([(0, false); SIGNALS]);

/// A signal's handler stays installed once it was: one that has nothing to do would swallow the
/// signal. So each first gets an action that does what the system would, and that is off while
/// anybody catches.
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

fn release_default(signal: i32) {
    let index = usize::try_from(signal).expect("it was held, so it is a signal");
    let mut catchers = CATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
    catchers[index].0 -= 1;
    DEFAULT[index].store(catchers[index].0 == 0, SeqCst);
}

/// What a signal does to a process that does not catch it.
fn end_process(signal: i32) -> &'static str {
    if is_first_process() {
        low_level::exit(128 + signal);
    }
    let _ = low_level::emulate_default_handler(signal);
    "ending at once"
}

/// The first process of a container has no default action for signals.
fn is_first_process() -> bool {
    std::process::id() == 1
}
