//! The hooks that a program has its server run when it stops.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::lifecycle::phase::awaited;
use crate::lifecycle::report::{HookOutcome, HookReport};
use crate::sys::clock::Clock;
use crate::sys::logging;
use crate::sys::panics;
use crate::sys::test_points::TestPoints;

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

/// All hooks of a server that runs, and the thread that waits to run them.
///
/// The thread is started with the server, because at the stop it may be that no thread can be
/// started any more, and a hook such as "close the database" has to run all the same.
#[derive(Debug)]
pub(crate) struct ReadyHooks {
    hooks: Hooks,
    /// `None`: there are no hooks.
    thread: Option<Sender<Sequence>>,
    test_points: TestPoints,
}

/// Hooks that run one after another.
struct Sequence {
    /// The hooks, each with its place in the report.
    hooks: Vec<(usize, Hook)>,
    clock: Clock,
    to: Sender<Ended>,
}

/// A hook that has ended: its place in the report, how long it took and how it ended.
type Ended = (usize, Duration, HookOutcome);

/// Hooks that were started.
#[derive(Debug)]
pub(crate) struct Started {
    names: Vec<String>,
    ended: Receiver<Ended>,
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

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.hooks).finish()
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Hooks {
    /// Starts the thread that waits for the hooks to be due, if there are any.
    pub(crate) fn ready(self, test_points: &TestPoints) -> io::Result<ReadyHooks> {
        let is_needed = !(self.on_shutdown.is_empty() && self.on_stopped.is_empty());
        Ok(ReadyHooks {
            hooks: self,
            thread: if is_needed {
                Some(start_thread(test_points)?)
            } else {
                None
            },
            test_points: test_points.clone(),
        })
    }
}

impl ReadyHooks {
    /// Starts the hooks for the beginning of draining, each on a thread of its own.
    pub(crate) fn start_on_shutdown(&mut self, clock: &Clock) -> Started {
        let hooks = std::mem::take(&mut self.hooks.on_shutdown);
        let (started, to) = Started::new(&hooks, clock);
        for (i, hook) in hooks.into_iter().enumerate() {
            let sequence = Sequence {
                hooks: vec![(i, hook)],
                clock: clock.clone(),
                to: to.clone(),
            };
            match start_thread(&self.test_points) {
                Ok(thread) => drop(thread.send(sequence)),
                Err(error) => {
                    logging::error!(
                        "a hook waits for others, as no thread can be started: {error}"
                    );
                    self.run(sequence);
                }
            }
        }
        started
    }

    /// Starts the hooks for the end of the last request, one after another.
    pub(crate) fn start_on_stopped(mut self, clock: &Clock) -> Started {
        let hooks = std::mem::take(&mut self.hooks.on_stopped);
        let (started, to) = Started::new(&hooks, clock);
        self.run(Sequence {
            hooks: (0..).zip(hooks).collect(),
            clock: clock.clone(),
            to,
        });
        started
    }

    /// Has the waiting thread run hooks after those that it was given before.
    fn run(&self, sequence: Sequence) {
        if let Some(thread) = &self.thread {
            let _ = thread.send(sequence);
        }
    }
}

/// Starts a thread that runs the hooks it is sent.
fn start_thread(test_points: &TestPoints) -> io::Result<Sender<Sequence>> {
    test_points.spawn_error()?;
    let (to, sequences) = unbounded::<Sequence>();
    let thread = std::thread::Builder::new().name("lameduck-hook".to_owned());
    thread.spawn(move || {
        for Sequence { hooks, clock, to } in sequences {
            for (i, hook) in hooks {
                let _ = to.send(run(i, hook, &clock));
            }
        }
    })?;
    Ok(to)
}

fn run(i: usize, hook: Hook, clock: &Clock) -> Ended {
    let began = clock.now();
    let Hook { name, run } = hook;
    let outcome = match panics::catch(|| awaited(run)) {
        Ok(()) => HookOutcome::Done,
        Err(panic) => {
            logging::error!("the hook {name:?} panicked: {panic}");
            HookOutcome::Panicked
        }
    };
    (i, clock.now().saturating_duration_since(began), outcome)
}

impl Started {
    /// Also returns where the hooks send how they have ended.
    fn new(hooks: &[Hook], clock: &Clock) -> (Self, Sender<Ended>) {
        let (to, ended) = unbounded();
        let started = Self {
            names: hooks.iter().map(|hook| hook.name.clone()).collect(),
            ended,
            began: clock.now(),
        };
        (started, to)
    }

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
