//! What a program wants done when its server stops.

use std::fmt;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::lifecycle::phase::awaited;
use crate::lifecycle::report::{HookOutcome, HookReport};
use crate::sys::clock::Clock;
use crate::sys::panics;

/// A named piece of user code that runs once.
pub(crate) struct Hook {
    name: String,
    run: Box<dyn FnOnce() + Send>,
}

/// All hooks of a server.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    /// Run when draining starts, beside each other.
    pub(crate) on_shutdown: Vec<Hook>,
    /// Run after the last request, one after the other.
    pub(crate) on_stopped: Vec<Hook>,
}

/// Hooks that were started, each known by its place.
#[derive(Debug)]
pub(crate) struct Started {
    names: Vec<String>,
    ended: Receiver<(usize, Duration, HookOutcome)>,
    began: Instant,
}

impl Hook {
    pub(crate) fn new(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Starts each hook on a thread of its own.
pub(crate) fn start_all(hooks: Vec<Hook>, clock: &Clock) -> Started {
    let (to, ended) = unbounded();
    let names = hooks.iter().map(|hook| hook.name.clone()).collect();
    let began = clock.now();
    for (i, hook) in hooks.into_iter().enumerate() {
        let (to, clock) = (to.clone(), clock.clone());
        start(move || run(i, hook, &clock, &to));
    }
    Started {
        names,
        ended,
        began,
    }
}

/// Starts the hooks on one thread, one after the other.
pub(crate) fn start_in_sequence(hooks: Vec<Hook>, clock: &Clock) -> Started {
    let (to, ended) = unbounded();
    let names = hooks.iter().map(|hook| hook.name.clone()).collect();
    let began = clock.now();
    if !hooks.is_empty() {
        let clock = clock.clone();
        start(move || {
            hooks
                .into_iter()
                .enumerate()
                .for_each(|(i, hook)| run(i, hook, &clock, &to))
        });
    }
    Started {
        names,
        ended,
        began,
    }
}

fn start(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("lameduck-hook".to_owned());
    if let Err(error) = thread.spawn(run) {
        log::error!("cannot start a thread for hooks, which do not run: {error}");
    }
}

fn run(i: usize, hook: Hook, clock: &Clock, to: &Sender<(usize, Duration, HookOutcome)>) {
    let began = clock.now();
    let outcome = match panics::catch(|| awaited(hook.run)) {
        Ok(()) => HookOutcome::Done,
        Err(_) => HookOutcome::Panicked,
    };
    let _ = to.send((i, clock.now().saturating_duration_since(began), outcome));
}

impl Started {
    /// Waits for the hooks, but not beyond `until` (`None`: for ever). Those that are not done by
    /// then are left behind.
    pub(crate) fn wait(
        self,
        until: impl Fn() -> Option<Instant>,
        clock: &Clock,
    ) -> Vec<HookReport> {
        /// Between two looks at the deadline, which may become earlier meanwhile.
        const LOOK: Duration = Duration::from_millis(10);

        let mut outcomes = vec![None; self.names.len()];
        while outcomes.iter().any(Option::is_none) {
            match self.ended.recv_timeout(LOOK) {
                Ok((i, took, outcome)) => outcomes[i] = Some((took, outcome)),
                Err(error) => {
                    let is_over = until().is_some_and(|at| at <= clock.now());
                    if is_over || error.is_disconnected() {
                        break;
                    }
                }
            }
        }
        let now = clock.now();
        let reports = self.names.into_iter().zip(outcomes).map(|(name, outcome)| {
            let late = || (now.saturating_duration_since(self.began), HookOutcome::Late);
            let (took, outcome) = outcome.unwrap_or_else(late);
            HookReport {
                name,
                took,
                outcome,
            }
        });
        reports.collect()
    }
}
