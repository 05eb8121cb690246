//! From a signal to a handle. Nothing is installed unless it was asked for.

use std::io;
use std::thread::JoinHandle;

use signal_hook::consts::FORBIDDEN;
use signal_hook::iterator::Signals;

use crate::error::{Error, Result};
use crate::lifecycle::phase::Cause;
use crate::sys::signal_name;

/// Signals that are caught from now on, and wait for a thread to take them.
#[derive(Debug)]
pub(crate) struct Caught(Option<Signals>);

/// The thread that takes them.
#[derive(Debug)]
pub(crate) struct SignalThread {
    handle: signal_hook::iterator::Handle,
    thread: JoinHandle<()>,
}

impl Caught {
    /// Installs handlers. From here on these signals do not end the process.
    pub(crate) fn install(signals: &[i32]) -> Result<Self> {
        // First the ones that can never be caught: asking for one of them would abort the process.
        if let Some(&signal) = signals.iter().find(|signal| FORBIDDEN.contains(signal)) {
            return Err(Error::SignalForbidden { signal });
        }
        if signals.is_empty() {
            return Ok(Self(None));
        }
        // One at a time, so that the error names the one that is at fault.
        let caught = Signals::new([0_i32; 0]).map_err(|source| Error::Signal { signal: signals[0], source })?;
        for &signal in signals {
            caught.add_signal(signal).map_err(|source| Error::Signal { signal, source })?;
        }
        Ok(Self(Some(caught)))
    }

    /// Starts the thread that passes them on. The first one is for `begin`, the second one for `cut`, and the third one does
    /// what it would have done to a process that catches nothing.
    pub(crate) fn listen(
        self,
        begin: impl Fn(Cause) + Send + 'static,
        cut: impl Fn(Cause) + Send + 'static,
    ) -> io::Result<Option<SignalThread>> {
        let Some(mut signals) = self.0 else { return Ok(None) };
        let handle = signals.handle();
        let pass_on = move || {
            for (before, signal) in signals.forever().enumerate() {
                log::info!(
                    "got {}: {}",
                    signal_name(signal),
                    ["stopping", "cutting what is left", "ending at once"][before.min(2)]
                );
                match before {
                    0 => begin(Cause::Signal(signal)),
                    1 => cut(Cause::Signal(signal)),
                    _ => end_process(signal),
                }
            }
        };
        let thread = std::thread::Builder::new().name("lameduck-signals".to_owned()).spawn(pass_on)?;
        Ok(Some(SignalThread { handle, thread }))
    }
}

impl SignalThread {
    /// Ends the thread. The signals stay caught, and do nothing any more.
    pub(crate) fn end(self) {
        self.handle.close();
        let _ = self.thread.join();
    }
}

/// What a signal does to a process that does not catch it.
fn end_process(signal: i32) {
    let _ = signal_hook::low_level::emulate_default_handler(signal);
    // The first process of a container has no default action, so we are still here.
    signal_hook::low_level::exit(128 + signal);
}
