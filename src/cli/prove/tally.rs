//! The clients' ledger: what became of every request, by kind of client.

use std::fmt;
use std::time::{Duration, Instant};

use crate::cli::prove::plan::{IDLE_GRACE, Kind};
use crate::cli::prove::report::ServerReport;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered in full: the status and every byte of the body are right.
    Answered,
    /// The server did not accept the connection. Nothing was sent, any client may try elsewhere.
    Refused,
    /// It stood behind a request whose answer said `Connection: close`: the client knows, RFC 9112,
    /// 9.6.
    AfterClose,
    /// It was answered with 503 and `Retry-After`.
    Unavailable,
    /// It crossed the end of a connection that had been silent for long, and the server's report
    /// names it.
    Raced,
    Lost,
}

/// In which way a request was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Written completely, and no byte came back.
    Unanswered,
    /// The connection ended while the request was being written.
    Interrupted,
    /// The answer ended too early.
    Truncated,
    /// Not the answer to this request, or an answer to none.
    Wrong,
    /// Nothing happened any more.
    Stuck,
}

/// A request that was lost, unless the server's report says why.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    pub(super) kind: Kind,
    /// The client's port, with which the packets can be found in a trace.
    pub(super) port: u16,
    /// Method and target.
    pub(super) request: String,
    pub(super) way: Way,
    /// How long the connection was silent around it.
    pub(super) silence: Silence,
    pub(super) detail: String,
    pub(super) after_signal: AfterSignal,
}

/// The time without a byte on a connection, as far as its client knows.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Silence {
    /// Until the client wrote the request, or the last piece of it.
    pub(super) before: Duration,
    /// From then, or from the last byte that came, until the client knew of the loss.
    pub(super) after: Duration,
}

impl Silence {
    pub(super) fn before(before: Duration) -> Self {
        Self {
            before,
            after: Duration::ZERO,
        }
    }
}

/// What happened to the clients, of one stop or of many.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: [Counts; Kind::ALL.len()],
    /// On which a request was sent.
    pub(super) connections: u64,
    pub(super) losses: Vec<Loss>,
    /// How many of the raced requests were late because of the network: their connections were idle
    /// for the server, but not for their clients.
    delayed: u64,
    /// The requests that were answered with 503.
    pub(super) unavailable: Vec<String>,
}

/// How often there was each outcome.
#[derive(Debug, Default, Clone, Copy)]
struct Counts([u64; OUTCOMES.len()]);

/// Milliseconds from the signal to something. Negative is before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct AfterSignal(f64);

impl AfterSignal {
    pub(super) fn now(signal: Instant) -> Self {
        let seconds = signal.elapsed().as_secs_f64()
            - signal
                .saturating_duration_since(Instant::now())
                .as_secs_f64();
        Self(seconds * 1e3)
    }
}

const OUTCOMES: [(Outcome, &str); 6] = [
    (Outcome::Answered, "answered"),
    (Outcome::Refused, "refused"),
    (Outcome::AfterClose, "after close"),
    (Outcome::Unavailable, "503"),
    (Outcome::Raced, "raced"),
    (Outcome::Lost, "lost"),
];

const WAYS: [(Way, &str); 5] = [
    (Way::Unanswered, "sent, and no byte came back"),
    (Way::Interrupted, "cut off while it was being sent"),
    (Way::Truncated, "answered in part"),
    (Way::Wrong, "answered wrongly"),
    (Way::Stuck, "stuck"),
];

impl Tally {
    pub(super) fn count(&mut self, kind: Kind, outcome: Outcome) {
        self.counts[kind as usize].0[outcome as usize] += 1;
    }

    /// Counts a request as lost, for the time being.
    pub(super) fn lose(&mut self, loss: Loss) {
        self.count(loss.kind, Outcome::Lost);
        self.losses.push(loss);
    }

    pub(super) fn add(&mut self, other: Self) {
        for (sum, counts) in self.counts.iter_mut().zip(other.counts) {
            sum.0
                .iter_mut()
                .zip(counts.0)
                .for_each(|(sum, n)| *sum += n);
        }
        self.connections += other.connections;
        self.delayed += other.delayed;
        self.losses.extend(other.losses);
        self.unavailable.extend(other.unavailable);
    }

    /// Holds the server's report beside what is lost: who sent on a connection that had been silent
    /// for long, and finds its request named there, has lost a race and knows it. Half of the idle
    /// grace is long enough: the server's silence began before the client's, and each thread of
    /// either may have had to wait for a processor.
    ///
    /// On a link the request, or bytes before it, may come long after they were sent. There the
    /// silence counts until the end of the connection.
    pub(super) fn settle(&mut self, report: &ServerReport, is_link: bool) {
        let losses = std::mem::take(&mut self.losses);
        for mut loss in losses {
            let is_race = loss.way == Way::Unanswered && report.raced.contains(&loss.request);
            let Silence { before, after } = loss.silence;
            let silence = if is_link { before + after } else { before };
            if is_race && silence >= IDLE_GRACE / 2 {
                let counts = &mut self.counts[loss.kind as usize].0;
                counts[Outcome::Lost as usize] -= 1;
                counts[Outcome::Raced as usize] += 1;
                self.delayed += u64::from(before < IDLE_GRACE / 2);
                continue;
            }
            let named = if is_race {
                "raced, according to the report, although its connection was not idle"
            } else if report.named.contains(&loss.request) {
                "named in the report"
            } else {
                "not named in the report"
            };
            loss.detail = format!("{}; {named}", loss.detail);
            self.losses.push(loss);
        }
    }

    pub(super) fn requests(&self) -> u64 {
        self.counts.iter().flat_map(|counts| counts.0).sum()
    }

    pub(super) fn total(&self, outcome: Outcome) -> u64 {
        self.counts
            .iter()
            .map(|counts| counts.0[outcome as usize])
            .sum()
    }

    pub(super) fn lost_by(&self, way: Way) -> u64 {
        self.losses.iter().filter(|loss| loss.way == way).count() as u64
    }
}

impl fmt::Display for Tally {
    /// The table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<21} {:>10}", "client", "requests")?;
        OUTCOMES
            .iter()
            .try_for_each(|(_, name)| write!(f, " {name:>9}"))?;
        let sums = OUTCOMES.map(|(outcome, _)| self.total(outcome));
        let rows = Kind::ALL
            .iter()
            .map(|kind| (kind.name(), self.counts[*kind as usize].0));
        for (name, counts) in rows.chain([("in all", sums)]) {
            write!(f, "\n{name:<21} {:>10}", counts.iter().sum::<u64>())?;
            counts.iter().zip(OUTCOMES).try_for_each(|(n, (_, name))| {
                write!(f, " {n:>width$}", width = name.len().max(9))
            })?;
        }
        writeln!(f)?;
        let ways = WAYS
            .iter()
            .map(|(way, name)| (self.lost_by(*way), name))
            .filter(|(n, _)| *n > 0);
        ways.into_iter()
            .try_for_each(|(n, name)| writeln!(f, "{n:>10} {name}"))?;
        if self.delayed > 0 {
            let delayed = self.delayed;
            writeln!(f, "{delayed:>10} raced because the network delayed them")?;
        }
        Ok(())
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = WAYS
            .iter()
            .find(|(way, _)| *way == self.way)
            .map_or("lost", |(_, name)| name);
        write!(
            f,
            "{}, port {}: {}: {way}: {}; ",
            self.kind.name(),
            self.port,
            self.request,
            self.detail
        )?;
        write!(f, "{:+.1} ms from the signal, ", self.after_signal.0)?;
        write!(
            f,
            "silent for {:.1} ms before and {:.1} ms after",
            self.silence.before.as_secs_f64() * 1e3,
            self.silence.after.as_secs_f64() * 1e3
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: &str = r#"{"unanswered":[{"method":"GET","target":"/","fate":"raced"}]}"#;
    const EMPTY: &str = "{}";

    /// Settles a request without a response, and returns whether it counts as lost.
    fn is_lost(before: u64, after: u64, report: &str, is_link: bool) -> bool {
        let mut tally = Tally::default();
        tally.lose(Loss {
            kind: Kind::Thinking,
            port: 1,
            request: "GET /".to_owned(),
            way: Way::Unanswered,
            silence: Silence {
                before: Duration::from_millis(before),
                after: Duration::from_millis(after),
            },
            detail: String::new(),
            after_signal: AfterSignal(0.0),
        });
        tally.settle(&ServerReport::find(report).unwrap(), is_link);
        let sum = tally.total(Outcome::Lost) + tally.total(Outcome::Raced);
        assert_eq!((sum, tally.requests()), (1, 1));
        tally.total(Outcome::Lost) == 1
    }

    #[test]
    fn a_request_is_raced_after_a_long_silence_that_the_report_names() {
        for is_link in [false, true] {
            assert!(!is_lost(900, 1, NAMED, is_link));
            assert!(is_lost(900, 1, EMPTY, is_link));
            assert!(is_lost(10, 10, NAMED, is_link));
        }
    }

    #[test]
    fn on_a_link_the_silence_may_come_after_the_request() {
        assert!(!is_lost(10, 900, NAMED, true));
        assert!(is_lost(10, 900, NAMED, false));
        assert!(is_lost(10, 900, EMPTY, true));
    }
}
