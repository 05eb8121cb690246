//! The plan of one stop: how the server is started, which clients it has, and when the signal is
//! sent. All of it follows from the seed and the number of the stop.

use std::fmt;
use std::time::Duration;

/// The plan of one stop.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// The seed of the choices that the clients make.
    pub(super) seed: u64,
    pub(super) workers: usize,
    pub(super) lame_duck: Duration,
    /// The time from the first connection to the signal.
    pub(super) load: Duration,
    pub(super) clients: Vec<Kind>,
}

impl Plan {
    /// Makes a plan for a network with this round trip time.
    pub(super) fn new(seed: u64, stop: u32, round_trip: Duration) -> Self {
        let mut random = Random::new(seed, u64::from(stop));
        let mut clients = Vec::new();
        for kind in Kind::ALL {
            let usual = kind.habit().clients;
            let count = random.between((usual / 2, usual * 3 / 2));
            clients.extend((0..count).map(|_| kind));
        }
        Self {
            seed: random.next(),
            workers: *random.pick(&[8, 8, 8, 4, 2, 1]),
            lame_duck: millis(*random.pick(&[0, 0, 0, 100])),
            load: millis(random.between((200, 1000))) + round_trip * LOAD_ROUND_TRIPS,
            clients,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            workers,
            lame_duck,
            load,
            ..
        } = self;
        write!(
            f,
            "{workers} workers, lame duck {lame_duck:?}, load {load:.1?}"
        )
    }
}

/// A kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fresh,
    KeepAlive,
    Thinking,
    Pipelined,
    SlowReader,
    SlowReaderMore,
    SlowUpload,
    Sleep,
    SleepMore,
    SpeaksLate,
    HalfHead,
    IdleFresh,
    IdleUsed,
    Burst,
}

/// What a client of one kind does. The kinds go through the same loop with different numbers:
/// connect, write requests, read the responses, wait, and again.
#[derive(Debug)]
pub(super) struct Habit {
    /// The usual number of such clients. A plan has half of it more or less.
    clients: u64,
    /// When the client first connects.
    pub(super) connects: Moment,
    /// When the client writes its first request. `None` is never.
    pub(super) speaks: Option<Moment>,
    /// The requests that the client writes before it waits for their responses. Each is chosen from
    /// several routes.
    pub(super) asks: &'static [&'static [Route]],
    pub(super) writes: Pieces,
    /// Whether the client reads so slowly that the server has to wait for it.
    pub(super) reads_slowly: bool,
    /// Whether the client uses its connection again. If not, every second request says
    /// `Connection: close`, and after the others the client closes the connection.
    pub(super) keeps: bool,
    /// The time between the responses and the next request.
    pub(super) thinks: Millis,
    /// What the client does after the responses.
    pub(super) then: Then,
}

/// A span from the first number of milliseconds to the second.
pub(super) type Millis = (u64, u64);

/// When something is done for the first time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Moment {
    /// As soon as possible.
    AtOnce,
    /// At a random moment before the signal.
    UnderLoad,
    /// In the span from `before` ms before the signal to `after` ms after it.
    AroundSignal { before: u64, after: u64 },
}

/// How a client writes its requests.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pieces {
    /// In one piece.
    One,
    /// A part of the first request's head at once, and the rest around the time of the signal.
    HalfAfterSignal,
    /// In many small pieces, spread over this span.
    Trickle(Millis),
    /// One request after another, with this span between them.
    Apart(Millis),
}

/// What a client does after the responses to its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It goes on with the next requests.
    Repeats,
    /// It writes nothing more and waits until the server closes the connection.
    Idles,
    /// It closes the connection and ends.
    Ends,
}

/// A route of the server, and how much it is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Route {
    Plaintext,
    Bytes,
    Echo,
    Sleep,
    ManyBytes,
    LongEcho,
}

/// By how many round trips the signal is later than on loopback, so that clients have handshakes and
/// several requests behind them.
const LOAD_ROUND_TRIPS: u32 = 8;

/// How long a connection has to be silent before a stopping server may close it.
pub(super) const IDLE_GRACE: Duration = millis(1000);

const SMALL: &[Route] = &[
    Route::Plaintext,
    Route::Plaintext,
    Route::Bytes,
    Route::Echo,
];
const SLEEP: &[Route] = &[Route::Sleep];
const MANY: &[Route] = &[Route::ManyBytes];

const TALKATIVE: Habit = Habit {
    clients: 32,
    connects: Moment::UnderLoad,
    speaks: Some(Moment::AtOnce),
    asks: &[SMALL],
    writes: Pieces::One,
    reads_slowly: false,
    keeps: true,
    thinks: (0, 0),
    then: Then::Repeats,
};

impl Kind {
    pub(super) const ALL: [Self; 14] = [
        Self::Fresh,
        Self::KeepAlive,
        Self::Thinking,
        Self::Pipelined,
        Self::SlowReader,
        Self::SlowReaderMore,
        Self::SlowUpload,
        Self::Sleep,
        Self::SleepMore,
        Self::SpeaksLate,
        Self::HalfHead,
        Self::IdleFresh,
        Self::IdleUsed,
        Self::Burst,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fresh => "a connection each",
            Self::KeepAlive => "keep-alive",
            Self::Thinking => "keep-alive, thinking",
            Self::Pipelined => "8 pipelined",
            Self::SlowReader => "slow reader of 4 MiB",
            Self::SlowReaderMore => "the same, one more",
            Self::SlowUpload => "slow upload",
            Self::Sleep => "slow handler",
            Self::SleepMore => "the same, one more",
            Self::SpeaksLate => "silent, speaks late",
            Self::HalfHead => "half a head, then all",
            Self::IdleFresh => "never speaks",
            Self::IdleUsed => "idle",
            Self::Burst => "burst at the signal",
        }
    }

    pub(super) fn habit(self) -> Habit {
        match self {
            Self::Fresh => Habit {
                clients: 24,
                keeps: false,
                thinks: (1, 20),
                ..TALKATIVE
            },
            Self::KeepAlive => TALKATIVE,
            // The pauses are far below the idle grace, because a busy machine delays clients and
            // server as well.
            Self::Thinking => Habit {
                clients: 64,
                thinks: (1, 150),
                ..TALKATIVE
            },
            Self::Pipelined => Habit {
                clients: 16,
                asks: &[SMALL; 8],
                thinks: (0, 5),
                ..TALKATIVE
            },
            Self::SlowReader => Habit {
                clients: 6,
                asks: &[MANY],
                reads_slowly: true,
                ..TALKATIVE
            },
            Self::SlowReaderMore => Habit {
                clients: 6,
                asks: &[MANY, SMALL],
                reads_slowly: true,
                ..TALKATIVE
            },
            Self::SlowUpload => Habit {
                clients: 12,
                asks: &[&[Route::LongEcho]],
                writes: Pieces::Trickle((200, 700)),
                ..TALKATIVE
            },
            Self::Sleep => Habit {
                clients: 8,
                asks: &[SLEEP],
                thinks: (1, 100),
                ..TALKATIVE
            },
            Self::SleepMore => {
                let writes = Pieces::Apart((0, 60));
                Habit {
                    clients: 8,
                    asks: &[SLEEP, SMALL],
                    writes,
                    thinks: (1, 100),
                    ..TALKATIVE
                }
            }
            Self::SpeaksLate => Habit {
                connects: Moment::AroundSignal {
                    before: 400,
                    after: 0,
                },
                speaks: Some(Moment::AroundSignal {
                    before: 5,
                    after: 350,
                }),
                ..TALKATIVE
            },
            Self::HalfHead => Habit {
                writes: Pieces::HalfAfterSignal,
                then: Then::Ends,
                ..TALKATIVE
            },
            Self::IdleFresh => Habit {
                speaks: None,
                ..TALKATIVE
            },
            Self::IdleUsed => Habit {
                then: Then::Idles,
                ..TALKATIVE
            },
            Self::Burst => Habit {
                clients: 128,
                connects: Moment::AroundSignal {
                    before: 8,
                    after: 8,
                },
                keeps: false,
                then: Then::Ends,
                ..TALKATIVE
            },
        }
    }
}

/// Pseudo-random numbers that are the same each time: Marsaglia's xorshift64*.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// Returns one of the streams of numbers that belong to a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        // Neighbouring seeds yield similar first numbers, so these are skipped. Zero would yield
        // zeros only.
        let mut random = Self((seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1));
        for _ in 0..8 {
            random.next();
        }
        random
    }

    /// Returns another stream, which depends on the state of this one.
    pub(super) fn split(&mut self) -> Self {
        Self::new(self.next(), 0)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number from `from` to `to`, including both.
    pub(super) fn between(&mut self, (from, to): (u64, u64)) -> u64 {
        from + (self.next() >> 16) % (to - from + 1)
    }

    /// Returns a number from 0 to 1, without 1 itself.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn duration(&mut self, span: Millis) -> Duration {
        Duration::from_micros(self.between((span.0 * 1000, span.1 * 1000)))
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let last = u64::try_from(from.len()).expect("a length fits") - 1;
        &from[usize::try_from(self.between((0, last))).expect("it is below a length")]
    }
}

pub(super) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_seed_and_stop() {
        let plan = |seed, stop| Plan::new(seed, stop, Duration::ZERO);
        assert_eq!(plan(7, 3), plan(7, 3));
        assert_ne!(plan(7, 3), plan(7, 4));
        assert_ne!(plan(7, 3), plan(8, 3));
    }

    #[test]
    fn every_kind_takes_part_in_every_stop() {
        for stop in 0..100 {
            let plan = Plan::new(1, stop, Duration::ZERO);
            assert!(
                Kind::ALL.iter().all(|kind| plan.clients.contains(kind)),
                "{plan:?}"
            );
            assert!(
                (200..700).contains(&plan.clients.len()),
                "{} clients",
                plan.clients.len()
            );
        }
    }

    #[test]
    fn random_numbers_keep_to_their_bounds() {
        let mut random = Random::new(0, 0);
        let mut seen = [false; 4];
        for _ in 0..1000 {
            seen[usize::try_from(random.between((1, 4))).unwrap() - 1] = true;
        }
        assert_eq!((seen, random.between((5, 5))), ([true; 4], 5));
        assert!((0..1000).all(|_| (0.0..1.0).contains(&random.fraction())));
    }
}
