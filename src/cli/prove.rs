//! `lameduck prove`: stops servers under load, and counts what becomes of every request.
//!
//! From top to bottom: all stops, one stop, one thread of clients. `plan` says which clients a stop
//! has, `client` what a client does and how it judges the responses, and `tally` counts the result.
//! `report` reads the server's own report, which the tally is compared with. `link` makes a network
//! that is slower than loopback and loses packets.

#![allow(
    clippy::disallowed_methods,
    reason = "prove sees servers from outside, and has no part in their clock"
)]

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cli::args::ProveOptions;
use crate::cli::prove::child::{Server, pause};
use crate::cli::prove::client::{Client, Conditions};
use crate::cli::prove::link::Network;
use crate::cli::prove::plan::{Plan, Random};
use crate::cli::prove::report::ServerReport;
use crate::cli::prove::tally::{Outcome, Tally};

mod answer;
pub(super) mod child;
mod client;
mod exchange;
mod link;
mod plan;
mod report;
mod request;
mod tally;

/// The result of all stops.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    pub(crate) text: String,
    pub(crate) holds: bool,
}

/// The result of one stop.
#[derive(Debug)]
struct StopResult {
    clients: Tally,
    /// What else is wrong, beside lost requests.
    problems: Vec<String>,
    /// The time from the signal to the end of the process.
    took: Duration,
    /// Whether the server printed a report, which was compared with what the clients know.
    is_compared: bool,
}

/// Stops as many servers as the options say.
pub(crate) fn run(options: &ProveOptions) -> io::Result<Proof> {
    let seed = options
        .seed
        .unwrap_or_else(|| u64::from(std::process::id()));
    let network = match options.link {
        Some(link) => Network::open(link, seed)?,
        None => Network::loopback(),
    };
    let mut progress = Progress::new(options.stops);
    progress.print(&format!(
        "{}, seed {seed}",
        count(u64::from(options.stops), "stop")
    ));
    let mut all = Tally::default();
    let (mut holds, mut compared, mut took) = (true, 0, Vec::new());
    for stop in 1..=options.stops {
        let plan = Plan::new(seed, stop, network.round_trip());
        let result = stop_once(options, &network, &plan)?;
        network.check()?;
        let losses = result.clients.losses.iter().map(ToString::to_string);
        let found: Vec<_> = result.problems.into_iter().chain(losses).collect();
        if !found.is_empty() {
            progress.print(&format!("stop {stop}, {plan}:"));
            found
                .iter()
                .take(LINES_MAX)
                .for_each(|line| progress.print(&format!("  {line}")));
        }
        if found.len() > LINES_MAX {
            progress.print(&format!("  and {} more", found.len() - LINES_MAX));
        }
        holds &= found.is_empty();
        compared += u32::from(result.is_compared);
        took.push(result.took);
        all.add(result.clients);
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
         from the signal to the end of the server: median {median:.1?}, longest {longest:.1?}\n\
         {compared} compared with what the clients know\n\
         {network}"
    );
    Ok(Proof { text, holds })
}

/// Starts a server and its clients, signals the server, and waits until all of them have ended.
fn stop_once(options: &ProveOptions, network: &Network, plan: &Plan) -> io::Result<StopResult> {
    let server = Server::start(options, network, plan)?;
    let start = Instant::now();
    let signal = start + plan.load;
    let limit = signal + STOP_LIMIT + network.patience();
    let conditions = Conditions {
        server: network.seen_by_clients(server.addr),
        start,
        signal,
        rtt: options.rtt,
        is_link: network.is_link(),
        round_trip: network.round_trip(),
        long_response: network.long_response(MANY_BYTES),
    };
    let mut random = Random::new(plan.seed, 0);
    let clients = plan.clients.iter().enumerate();
    let clients = clients
        .map(|(i, kind)| Client::new(&conditions, *kind, i, random.split()))
        .collect::<Vec<_>>();
    let mut shares: Vec<Vec<_>> = (0..THREADS).map(|_| Vec::new()).collect();
    clients
        .into_iter()
        .enumerate()
        .for_each(|(i, client)| shares[i % THREADS].push(client));
    let mut clients = thread::scope(|scope| {
        let threads: Vec<_> = shares
            .into_iter()
            .map(|share| scope.spawn(move || drive(share, limit)))
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
        clients.settle(report, network.is_link());
        problems.extend(report.contradictions(&clients));
    }
    // Another server may end with any exit code, as long as it ends.
    let is_right_exit_code = options.target.is_some()
        || report
            .as_ref()
            .is_some_and(|report| end.exit_code() == Some(report.exit_code));
    if !is_right_exit_code || !end.is_over() {
        problems.push(end.to_string());
    }
    Ok(StopResult {
        clients,
        problems,
        took: end.at.saturating_duration_since(signal),
        is_compared: report.is_some(),
    })
}

/// Drives some of the clients until all of them have ended.
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

/// Waits until a client can go on. Returns for each client whether its socket may have something
/// new.
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
        // A client that waits for nothing at its socket is left out: poll(2) reports a broken
        // connection even then, and would return at once each time.
        if let Some(socket) = client.socket().filter(|_| !wait.events.is_empty()) {
            fds.push(PollFd::new(socket, wait.events));
            whose.push(i);
        }
    }
    let timeout =
        Timespec::try_from(until.saturating_duration_since(now)).expect("the limit is near");
    // An interrupted wait is no error: it ends early, and is begun again.
    let _ = poll(&mut fds, Some(&timeout));
    for (fd, i) in fds.iter().zip(whose) {
        ready[i] = fd.revents() != PollFlags::empty();
    }
    ready
}

/// Shows the progress on stderr: a bar on a terminal, elsewhere a line every few seconds.
struct Progress {
    began: Instant,
    stops: u32,
    last_line: Instant,
    is_terminal: bool,
}

impl Progress {
    fn new(stops: u32) -> Self {
        let began = Instant::now();
        Self {
            began,
            stops,
            last_line: began,
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
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            self.print(&so_far);
        }
    }

    /// Prints a line that stays.
    fn print(&self, line: &str) {
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

/// Writes to stderr. It is no error if nobody reads it.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// The number of threads that drive clients.
const THREADS: usize = 2;
/// The time after the signal when a request or a server that is left counts as stuck: far more than
/// any request of the plan takes.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// The number of bytes of the longest responses, more than the buffers between server and client hold.
const MANY_BYTES: u64 = 4 << 20;
/// The largest number of problems that are printed for one stop.
const LINES_MAX: usize = 10;

/// The width of the bar, in characters.
const BAR: u64 = 24;
/// Moves to the beginning of a terminal's line and clears it.
const CLEAR: &str = "\r\x1b[K";
/// The time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
