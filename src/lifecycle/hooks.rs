//! The hooks that a program has its server run when it stops.

use std::fmt;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::lifecycle::phase::awaited;
use crate::lifecycle::report::{HookOutcome, HookReport};
use crate::sys::clock::Clock;
use crate::sys::panics;

/// A named closure of the program that runs once.
pub(crate) struct Hook {
    name: String,
    run: Box<dyn FnOnce() + Send>,
}

/// All hooks of one server.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    /// The hooks that run when draining starts, all at the same time.
    pub(crate) on_shutdown: Vec<Hook>,
    /// The hooks that run after the last request, one after another.
    pub(crate) on_stopped: Vec<Hook>,
}

/// Hooks that were started.
#[derive(Debug)]
pub(crate) struct Started {
    names: Vec<String>,
    /// Receives from each hook that has ended its place in `names`, how long it took and how it
    /// ended.
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

/// Starts each hook on its own thread.
pub(crate) fn start_all(hooks: Vec<Hook>, clock: &Clock) -> Started {
    start(hooks.into_iter().map(|hook| vec![hook]).collect(), clock)
}

/// Starts the hooks on one thread, one after another.
pub(crate) fn start_in_sequence(hooks: Vec<Hook>, clock: &Clock) -> Started {
    start(vec![hooks], clock)
}

/// Starts a thread for each of `sequences`.
fn start(sequences: Vec<Vec<Hook>>, clock: &Clock) -> Started {
    let (to, ended) = unbounded();
    let began = clock.now();
    let mut names = Vec::new();
    for hooks in sequences.into_iter().filter(|hooks| !hooks.is_empty()) {
        let first = names.len();
        names.extend(hooks.iter().map(|hook| hook.name.clone()));
        let (to, clock) = (to.clone(), clock.clone());
        let run_all = move || {
            for (hook, i) in hooks.into_iter().zip(first..) {
                run(i, hook, &clock, &to);
            }
        };
        let thread = std::thread::Builder::new().name("lameduck-hook".to_owned());
        if let Err(error) = thread.spawn(run_all) {
            log::error!("cannot start a thread for hooks, so they do not run: {error}");
        }
    }
    Started {
        names,
        ended,
        began,
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
    /// Waits for the hooks until `until`, or without a limit while that is `None`. Hooks that have
    /// not ended by then are left running and reported as late.
    pub(crate) fn wait(
        self,
        until: impl Fn() -> Option<Instant>,
        clock: &Clock,
    ) -> Vec<HookReport> {
        /// The time between two looks at the deadline, which may become earlier while we wait.
        const READ_DEADLINE_EVERY: Duration = Duration::from_millis(10);

        let mut outcomes = vec![None; self.names.len()];
        while outcomes.iter().any(Option::is_none) {
            match self.ended.recv_timeout(READ_DEADLINE_EVERY) {
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
