//! `lameduck prove`: tortures servers that are told to stop, and counts what became of every
//! request.
//!
//! Top to bottom: all stops, one stop, one thread of clients. What a stop consists of is in `plan`,
//! what a client does and how it judges in `client`, and what comes of it in `tally`.

#![allow(
    clippy::disallowed_methods,
    reason = "it measures a server from outside, whose clock it has no part in"
)]

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cli::args::ProveOptions;
use crate::cli::prove::child::{Server, pause};
use crate::cli::prove::client::{Client, World};
use crate::cli::prove::plan::{Plan, Random};
use crate::cli::prove::report::ServerReport;
use crate::cli::prove::tally::{Outcome, Tally};

mod answer;
pub(super) mod child;
mod client;
mod plan;
mod report;
mod request;
mod tally;

/// What came of all stops.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    pub(crate) text: String,
    pub(crate) holds: bool,
}

/// What came of one stop.
#[derive(Debug)]
struct Outcomes {
    clients: Tally,
    /// What is wrong, apart from losses.
    problems: Vec<String>,
    /// From the signal to the end of the process.
    took: Duration,
    /// Its report was held beside what the clients know.
    compared: bool,
}

/// Stops servers, as many as asked for.
pub(crate) fn run(options: &ProveOptions) -> io::Result<Proof> {
    let seed = options
        .seed
        .unwrap_or_else(|| u64::from(std::process::id()));
    let mut progress = Progress::new(options.stops);
    progress.say(&format!(
        "{}, seed {seed}",
        count(u64::from(options.stops), "stop")
    ));
    let mut all = Tally::default();
    let (mut holds, mut compared, mut took) = (true, 0, Vec::new());
    for stop in 1..=options.stops {
        let plan = Plan::new(seed, stop);
        let outcomes = stop_once(options, &plan)?;
        let losses = outcomes.clients.losses.iter().map(ToString::to_string);
        let found: Vec<_> = outcomes.problems.into_iter().chain(losses).collect();
        if !found.is_empty() {
            progress.say(&format!("stop {stop}, {plan}:"));
            found
                .iter()
                .take(LINES_MAX)
                .for_each(|line| progress.say(&format!("  {line}")));
        }
        if found.len() > LINES_MAX {
            progress.say(&format!("  and {} more", found.len() - LINES_MAX));
        }
        holds &= found.is_empty();
        compared += u32::from(outcomes.compared);
        took.push(outcomes.took);
        all.add(outcomes.clients);
        progress.show(stop, &all);
    }
    progress.end();
    took.sort_unstable();
    let stops = count(u64::from(options.stops), "stop");
    let (requests, connections) = (
        count(all.requests(), "request"),
        count(all.connections, "connection"),
    );
    let (elapsed, rtt) = (progress.began.elapsed(), options.rtt);
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    let longest = took.last().copied().unwrap_or_default();
    let compared = count(u64::from(compared), "report");
    let text = format!(
        "{all}\n\
         {stops} in {elapsed:.1?}: {requests} on {connections}; seed {seed}, round trip {rtt:?}\n\
         from the signal to the end of the server: {median:.1?} as a rule, {longest:.1?} at most\n\
         {compared} held beside what the clients know\n"
    );
    Ok(Proof { text, holds })
}

/// Starts a server, lets clients at it, tells it to stop, and waits for the end of all.
fn stop_once(options: &ProveOptions, plan: &Plan) -> io::Result<Outcomes> {
    let server = Server::start(options, plan)?;
    let begins = Instant::now();
    let signal = begins + plan.load;
    let limit = signal + STOP_LIMIT;
    let world = World {
        server: server.addr,
        begins,
        signal,
        rtt: options.rtt,
    };
    let mut random = Random::new(plan.seed, 0);
    let clients = plan.clients.iter().enumerate();
    let clients = clients
        .map(|(i, kind)| Client::new(&world, *kind, i, random.split()))
        .collect::<Vec<_>>();
    let mut crowds: Vec<Vec<_>> = (0..THREADS).map(|_| Vec::new()).collect();
    clients
        .into_iter()
        .enumerate()
        .for_each(|(i, client)| crowds[i % THREADS].push(client));
    let mut clients = thread::scope(|scope| {
        let threads: Vec<_> = crowds
            .into_iter()
            .map(|crowd| scope.spawn(move || drive(crowd, limit)))
            .collect();
        pause(signal.saturating_duration_since(Instant::now()));
        let signalled = server.signal(options.signal);
        let tallies = threads
            .into_iter()
            .map(|thread| thread.join().expect("a client does not panic"));
        let mut sum = Tally::default();
        tallies.for_each(|tally| sum.add(tally));
        signalled.map(|()| sum)
    })?;
    let end = server.wait(limit)?;
    let report = ServerReport::find(&end.stdout);
    let mut problems = Vec::new();
    if let Some(report) = &report {
        clients.settle(report);
        problems.extend(report.contradictions(&clients));
    }
    // How another server ends is its own affair, as long as it does.
    let is_as_reported = options.target.is_some()
        || report
            .as_ref()
            .is_some_and(|report| end.exit_code() == Some(report.exit_code));
    if !is_as_reported || !end.is_over() {
        problems.push(end.to_string());
    }
    Ok(Outcomes {
        clients,
        problems,
        took: end.at.saturating_duration_since(signal),
        compared: report.is_some(),
    })
}

/// Lets some clients do what they want to, until all have ended.
fn drive(mut clients: Vec<Client<'_>>, limit: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut ready = vec![true; clients.len()];
    loop {
        for (client, ready) in clients.iter_mut().zip(&ready) {
            client.advance(*ready, Instant::now(), &mut tally);
        }
        let now = Instant::now();
        if now >= limit {
            clients
                .iter_mut()
                .for_each(|client| client.give_up(&mut tally));
        }
        clients.retain(Client::is_there);
        if clients.is_empty() {
            return tally;
        }
        ready = wait(&clients, now, limit);
    }
}

/// Waits until a client can go on. Which of them may find something new at its socket.
fn wait(clients: &[Client<'_>], now: Instant, limit: Instant) -> Vec<bool> {
    let mut ready = vec![false; clients.len()];
    let mut until = limit;
    let (mut fds, mut whose) = (
        Vec::with_capacity(clients.len()),
        Vec::with_capacity(clients.len()),
    );
    for (i, client) in clients.iter().enumerate() {
        let wait = client.wait(now);
        until = until.min(wait.until.unwrap_or(limit));
        // One that wants nothing is left out: poll(2) tells of broken connections unasked, again
        // and again.
        if let Some(socket) = client.socket().filter(|_| !wait.events.is_empty()) {
            fds.push(PollFd::new(socket, wait.events));
            whose.push(i);
        }
    }
    let timeout =
        Timespec::try_from(until.saturating_duration_since(now)).expect("the limit is near");
    // An interrupted wait is a short one.
    let _ = poll(&mut fds, Some(&timeout));
    for (fd, i) in fds.iter().zip(whose) {
        ready[i] = fd.revents() != PollFlags::empty();
    }
    ready
}

/// Tells how far it is: a bar that moves on a terminal, now and then a line elsewhere.
struct Progress {
    began: Instant,
    stops: u32,
    told: Instant,
    is_terminal: bool,
}

impl Progress {
    fn new(stops: u32) -> Self {
        let began = Instant::now();
        Self {
            began,
            stops,
            told: began,
            is_terminal: io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, stop: u32, all: &Tally) {
        let so_far = format!(
            "{stop} of {} stops, {} requests, {} lost",
            self.stops,
            all.requests(),
            all.total(Outcome::Lost)
        );
        if self.is_terminal {
            let filled = usize::try_from(u64::from(stop) * BAR / u64::from(self.stops))
                .expect("it is at most the bar");
            let left = self.began.elapsed() * (self.stops - stop) / stop;
            let bar = "#".repeat(filled)
                + &"-".repeat(usize::try_from(BAR).expect("a bar is short") - filled);
            write(&format!(
                "{CLEAR}[{bar}] {so_far}, {} s left",
                left.as_secs()
            ));
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            self.say(&so_far);
        }
    }

    /// Says something that stays.
    fn say(&self, line: &str) {
        write(&format!(
            "{}{line}\n",
            if self.is_terminal { CLEAR } else { "" }
        ));
    }

    fn end(&self) {
        if self.is_terminal {
            write(CLEAR);
        }
    }
}

/// To stderr. If nobody reads it, nothing is wrong.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Threads that drive clients.
const THREADS: usize = 2;
/// From the signal to when whatever is left counts as stuck: far more than any request of the plan
/// takes.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Losses that are told one by one, for each stop.
const LINES_MAX: usize = 10;

const BAR: u64 = 24;
/// Back to the beginning of a terminal's line, and clears it.
const CLEAR: &str = "\r\x1b[K";
const LINE_EVERY: Duration = Duration::from_secs(10);
