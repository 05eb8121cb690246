//! One client: a state machine around a non-blocking socket, and the judge of what it gets for its
//! requests.
//!
//! ```text
//! Away ──> Connecting ──> Quiet ──> Decided ──> Talking ──> Quiet (kept) | Away (closed) | Ended
//!             │ refused     │ FIN or RST seen: back to Away, nothing was sent
//!             └──> Ended    └ it looks before it decides to use the connection, as a connection pool does;
//!                             what comes between the decision and the bytes, it could not see
//! ```

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::cli::prove::answer::{Answer, Reader};
use crate::cli::prove::plan::{Habit, Kind, Moment, Pieces, Random, Then, millis};
use crate::cli::prove::request::Request;
use crate::cli::prove::tally::{AfterSignal, Loss, Outcome, Tally, Way};

/// What all clients of a stop know.
#[derive(Debug)]
pub(super) struct World {
    pub(super) server: SocketAddr,
    pub(super) begins: Instant,
    /// When the signal is to be sent.
    pub(super) signal: Instant,
    /// Between the decision to use a connection and its first byte there.
    pub(super) rtt: Duration,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client<'a> {
    world: &'a World,
    kind: Kind,
    habit: Habit,
    random: Random,
    doing: Doing,
    /// What it wants to ask, while it has not.
    next: Option<Flight>,
    /// Numbers the requests of all clients.
    requests: u64,
    has_spoken: bool,
}

/// What it is doing.
#[derive(Debug)]
enum Doing {
    /// Has no connection and will open one.
    Away { until: Instant },
    /// Waits for the handshake.
    Connecting { socket: TcpStream },
    /// Has a connection and nothing to say on it: until then, or ever.
    Quiet { line: Line, until: Option<Instant> },
    /// Has decided to speak; the bytes are under way.
    Decided { line: Line, until: Instant },
    /// Writes requests, reads answers.
    Talking { line: Line, flight: Flight },
    /// Will do nothing more.
    Ended,
}

/// A connection.
#[derive(Debug)]
struct Line {
    socket: TcpStream,
    /// When it last carried a byte, as far as the client knows.
    last_byte: Instant,
    is_used: bool,
}

/// Requests written together, and what has come back.
#[derive(Debug)]
struct Flight {
    /// Not answered yet, with where each begins and ends in `bytes`.
    requests: VecDeque<(Request, usize, usize)>,
    bytes: Vec<u8>,
    written: usize,
    /// From which moment on bytes up to where may be written. Never empty.
    releases: Vec<(Instant, usize)>,
    /// Writing has failed: what can be read, still is.
    cannot_write: Option<Errno>,
    reader: Reader,
    read_at: Option<Instant>,
    /// An answer said that it was the last one.
    told: bool,
    /// How long the connection had been silent before what was written last.
    silence: Duration,
}

/// What a step of the state machine leads to.
enum Step {
    Go(Doing),
    Wait(Doing),
}

/// What a client waits for.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) until: Option<Instant>,
    pub(super) events: PollFlags,
}

/// Why an exchange is over.
enum End {
    /// The server's FIN.
    Fin,
    Broken(Errno),
    /// The client's patience.
    Progress,
}

impl<'a> Client<'a> {
    pub(super) fn new(world: &'a World, kind: Kind, number: usize, mut random: Random) -> Self {
        let habit = kind.habit();
        let until = moment(habit.connects, world, world.begins, &mut random);
        let requests = (number as u64) << 32;
        let doing = Doing::Away { until };
        Self {
            world,
            kind,
            habit,
            random,
            doing,
            next: None,
            requests,
            has_spoken: false,
        }
    }

    /// Does what can be done now. `ready`: its socket may have something new.
    pub(super) fn advance(&mut self, ready: bool, now: Instant, tally: &mut Tally) {
        loop {
            let step = match mem::replace(&mut self.doing, Doing::Ended) {
                Doing::Away { until } if now >= until => self.connect(now, tally),
                Doing::Connecting { socket } if ready => self.finish_connect(socket, now, tally),
                Doing::Quiet { line, until: None } => self.wait_for_end(line, tally),
                Doing::Quiet {
                    line,
                    until: Some(until),
                } if now >= until => self.decide(line, now, tally),
                // Who was kept waiting has not seen the round trip of a network but a busy machine,
                // and looks again.
                Doing::Decided { line, until } if now >= until + BUSY => Step::Go(Doing::Quiet {
                    line,
                    until: Some(now),
                }),
                Doing::Decided { line, until } if now >= until => self.speak(line, now, tally),
                Doing::Talking { line, flight } => self.talk(line, flight, now, tally),
                waiting => Step::Wait(waiting),
            };
            match step {
                Step::Go(doing) => self.doing = doing,
                Step::Wait(doing) => return self.doing = doing,
            }
        }
    }

    pub(super) fn is_there(&self) -> bool {
        !matches!(self.doing, Doing::Ended)
    }

    /// What it waits for.
    pub(super) fn wait(&self, now: Instant) -> Wait {
        match &self.doing {
            Doing::Away { until }
            | Doing::Quiet {
                until: Some(until), ..
            }
            | Doing::Decided { until, .. } => Wait {
                until: Some(*until),
                events: PollFlags::empty(),
            },
            Doing::Connecting { .. } => Wait {
                until: None,
                events: PollFlags::OUT,
            },
            Doing::Quiet { until: None, .. } => Wait {
                until: None,
                events: PollFlags::IN,
            },
            Doing::Talking { flight, .. } => flight.wait(now),
            Doing::Ended => Wait {
                until: None,
                events: PollFlags::empty(),
            },
        }
    }

    /// Its socket, if there is one to wait for.
    pub(super) fn socket(&self) -> Option<&TcpStream> {
        match &self.doing {
            Doing::Connecting { socket } => Some(socket),
            Doing::Quiet { line, .. }
            | Doing::Decided { line, .. }
            | Doing::Talking { line, .. } => Some(&line.socket),
            Doing::Away { .. } | Doing::Ended => None,
        }
    }

    /// Gives up: what has not been answered by now never will be.
    pub(super) fn give_up(&mut self, tally: &mut Tally) {
        match mem::replace(&mut self.doing, Doing::Ended) {
            Doing::Talking { line, flight } => self.judge(&line, flight, &End::Progress, tally),
            Doing::Connecting { .. } => {
                self.lose("connect", Way::Stuck, Duration::ZERO, "no handshake", tally)
            }
            Doing::Quiet { line, until: None } => {
                let silence = line.last_byte.elapsed();
                self.lose(
                    "no request",
                    Way::Stuck,
                    silence,
                    "an idle connection was never closed",
                    tally,
                );
            }
            Doing::Away { .. } | Doing::Quiet { .. } | Doing::Decided { .. } | Doing::Ended => {}
        }
    }

    fn connect(&mut self, now: Instant, tally: &mut Tally) -> Step {
        match self.start_connect() {
            Ok(socket) => Step::Wait(Doing::Connecting { socket }),
            Err(error) => self.not_connected(&error, now, tally),
        }
    }

    fn start_connect(&self) -> io::Result<TcpStream> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        let socket = TcpStream::from(socket);
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        if self.habit.reads_slowly {
            sockopt::set_socket_recv_buffer_size(&socket, SLOW_BUFFER)?;
        }
        match rustix::net::connect(&socket, &self.world.server) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error.into()),
        }
    }

    fn finish_connect(&mut self, socket: TcpStream, now: Instant, tally: &mut Tally) -> Step {
        if let Ok(Some(error)) | Err(error) = socket.take_error() {
            return self.not_connected(&error, now, tally);
        }
        if socket
            .local_addr()
            .is_ok_and(|addr| addr == self.world.server)
        {
            // The port is free and was the kernel's choice for our end as well: TCP allows a socket
            // to reach itself.
            return self.refused(tally);
        }
        let first = if self.has_spoken {
            Some(Moment::AtOnce)
        } else {
            self.habit.speaks
        };
        let until = first.map(|first| moment(first, self.world, now, &mut self.random));
        Step::Go(Doing::Quiet {
            line: Line {
                socket,
                last_byte: now,
                is_used: false,
            },
            until,
        })
    }

    fn not_connected(&mut self, error: &io::Error, now: Instant, tally: &mut Tally) -> Step {
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::TimedOut => {
                self.refused(tally)
            }
            // Out of local ports or descriptors: not the server's doing.
            _ => Step::Wait(Doing::Away {
                until: now + millis(5),
            }),
        }
    }

    fn refused(&self, tally: &mut Tally) -> Step {
        tally.count(self.kind, Outcome::Refused);
        Step::Wait(Doing::Ended)
    }

    /// Nothing is expected but the end of the connection.
    fn wait_for_end(&self, line: Line, tally: &mut Tally) -> Step {
        match peek(&line.socket) {
            Seen::Nothing => Step::Wait(Doing::Quiet { line, until: None }),
            Seen::End => Step::Wait(Doing::Ended),
            Seen::Bytes => {
                let silence = line.last_byte.elapsed();
                self.lose(
                    "no request",
                    Way::Wrong,
                    silence,
                    "an answer to nothing",
                    tally,
                );
                Step::Wait(Doing::Ended)
            }
        }
    }

    /// Looks whether the connection is still good, and if so decides to use it.
    fn decide(&mut self, line: Line, now: Instant, tally: &mut Tally) -> Step {
        if self.next.is_none() {
            // Before the look: between that and the bytes nothing should take time.
            self.next = Some(self.prepare());
        }
        match peek(&line.socket) {
            Seen::Nothing => Step::Go(Doing::Decided {
                line,
                until: now + self.world.rtt,
            }),
            Seen::End => Step::Wait(Doing::Away { until: now }),
            Seen::Bytes => {
                self.lose(
                    "no request",
                    Way::Wrong,
                    line.last_byte.elapsed(),
                    "an answer to nothing",
                    tally,
                );
                Step::Wait(Doing::Away { until: now })
            }
        }
    }

    fn speak(&mut self, line: Line, now: Instant, tally: &mut Tally) -> Step {
        let mut flight = self.next.take().expect("it has decided what to say");
        flight.releases = self.releases(&flight, now);
        flight.silence = now.saturating_duration_since(line.last_byte);
        self.has_spoken = true;
        // What is written is on its way; without a round trip, though, an error at once means that
        // nothing was.
        flight.write(&line.socket, now);
        if flight.written == 0 && flight.cannot_write.is_some() && self.world.rtt.is_zero() {
            self.next = Some(flight);
            return Step::Wait(Doing::Away { until: now });
        }
        if !line.is_used {
            tally.connections += 1;
        }
        self.talk(
            Line {
                is_used: true,
                last_byte: now,
                ..line
            },
            flight,
            now,
            tally,
        )
    }

    /// Thinks up what to ask next.
    fn prepare(&mut self) -> Flight {
        let mut flight = Flight::new();
        for choice in self.habit.asks {
            let route = *self.random.pick(choice);
            self.requests += 1;
            let request = Request::new(route, self.requests, &mut self.random);
            let begin = flight.bytes.len();
            let closes = !self.habit.keeps && self.requests.is_multiple_of(2);
            request.write(closes, &mut flight.bytes);
            flight
                .requests
                .push_back((request, begin, flight.bytes.len()));
        }
        flight
    }

    /// When which bytes may go.
    fn releases(&mut self, flight: &Flight, now: Instant) -> Vec<(Instant, usize)> {
        let all = flight.bytes.len();
        match self.habit.writes {
            Pieces::Whole => vec![(now, all)],
            Pieces::HalfAfterSignal => {
                let rest = moment(
                    Moment::AroundSignal {
                        before: 5,
                        after: 400,
                    },
                    self.world,
                    now,
                    &mut self.random,
                );
                let half = self.random.between((1, 50)) as usize;
                vec![(now, half), (rest, all)]
            }
            Pieces::Trickle(span) => {
                let took = self.random.duration(span);
                let piece = |i: u32| {
                    (
                        now + took * i / TRICKLE,
                        all * (i as usize + 1) / TRICKLE as usize,
                    )
                };
                (0..TRICKLE).map(piece).collect()
            }
            Pieces::Apart(span) => {
                let ends = flight.requests.iter().map(|(_, _, end)| *end).enumerate();
                let mut at = now;
                let later = |(i, end)| {
                    at += if i == 0 {
                        Duration::ZERO
                    } else {
                        self.random.duration(span)
                    };
                    (at, end)
                };
                ends.map(later).collect()
            }
        }
    }

    fn talk(
        &mut self,
        mut line: Line,
        mut flight: Flight,
        now: Instant,
        tally: &mut Tally,
    ) -> Step {
        if flight.write(&line.socket, now) {
            flight.silence = now.saturating_duration_since(line.last_byte);
            line.last_byte = now;
        }
        match self.listen(&mut line, &mut flight, now, tally) {
            Some(end) => {
                self.judge(&line, flight, &end, tally);
                self.after(None, now)
            }
            None if flight.requests.is_empty() && (flight.is_written() || flight.told) => {
                let keeps = self.habit.keeps && !flight.told;
                self.after(keeps.then_some(line), now)
            }
            None => Step::Wait(Doing::Talking { line, flight }),
        }
    }

    /// Reads what there is. `Some`: that was all there will be.
    fn listen(
        &mut self,
        line: &mut Line,
        flight: &mut Flight,
        now: Instant,
        tally: &mut Tally,
    ) -> Option<End> {
        let mut buffer = [0; READ_BYTES];
        while flight.read_at.is_none_or(|at| at <= now) {
            let mut bytes = match (&line.socket).read(&mut buffer) {
                Ok(0) => return Some(flight.cannot_write.map_or(End::Fin, End::Broken)),
                Ok(n) => &buffer[..n],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    flight.read_at = None;
                    return None;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Some(End::Broken(
                        Errno::from_io_error(&error).unwrap_or(Errno::IO),
                    ));
                }
            };
            line.last_byte = now;
            while !bytes.is_empty() {
                let Some((request, ..)) = flight.requests.front() else {
                    self.lose(
                        "no request",
                        Way::Wrong,
                        flight.silence,
                        "an answer to nothing",
                        tally,
                    );
                    return Some(End::Fin);
                };
                match flight.reader.read(&mut bytes, request.expected()) {
                    Ok(None) => {}
                    Ok(Some(answer)) => self.take(answer, flight, tally),
                    Err(wrong) => {
                        self.lose(
                            &request.to_string(),
                            Way::Wrong,
                            flight.silence,
                            &wrong,
                            tally,
                        );
                        flight.requests.pop_front();
                        flight.reader = Reader::default();
                        // Where the next answer would begin is anybody's guess.
                        return Some(End::Fin);
                    }
                }
            }
            if flight.requests.is_empty() {
                return None;
            }
            if self.habit.reads_slowly {
                flight.read_at = Some(now + SLOW_PAUSE);
            }
        }
        None
    }

    fn take(&self, answer: Answer, flight: &mut Flight, tally: &mut Tally) {
        let (request, ..) = flight
            .requests
            .pop_front()
            .expect("an answer is read for a request");
        flight.told |= answer.closes;
        if answer.is_ok {
            tally.count(self.kind, Outcome::Answered);
        } else {
            tally.count(self.kind, Outcome::Unavailable);
            tally.unavailable.push(request.to_string());
        }
    }

    /// Says what became of the requests that were not answered. Those that were not sent at all can
    /// be sent elsewhere.
    fn judge(&self, line: &Line, mut flight: Flight, end: &End, tally: &mut Tally) {
        if !matches!(end, End::Progress)
            && let Some(answer) = flight.reader.end()
        {
            self.take(answer, &mut flight, tally);
        }
        // Once decided, the bytes are under way, even if in truth they were not written before the
        // reset was seen.
        let decided = if flight.written == 0 {
            flight.releases[0].1
        } else {
            flight.written
        };
        let is_sent = |begin: usize| begin < decided;
        let how = match end {
            End::Fin => "end of stream".to_owned(),
            End::Broken(error) => io::Error::from(*error).to_string(),
            End::Progress => format!(
                "nothing for {:.1} s",
                line.last_byte.elapsed().as_secs_f64()
            ),
        };
        for (i, (request, begin, request_end)) in flight.requests.iter().enumerate() {
            if !is_sent(*begin) {
                break;
            }
            let (way, detail) = match end {
                End::Progress => (Way::Stuck, how.clone()),
                _ if i == 0 && flight.reader.bytes > 0 => (
                    Way::Truncated,
                    format!("{how} after {} bytes", flight.reader.bytes),
                ),
                _ if flight.told => {
                    tally.count(self.kind, Outcome::AfterClose);
                    continue;
                }
                _ if decided < *request_end => (
                    Way::Interrupted,
                    format!(
                        "{how} after {} of {} bytes",
                        decided - begin,
                        request_end - begin
                    ),
                ),
                _ => (Way::Unanswered, how.clone()),
            };
            self.lose(&request.to_string(), way, flight.silence, &detail, tally);
        }
    }

    fn lose(&self, request: &str, way: Way, silence: Duration, detail: &str, tally: &mut Tally) {
        tally.lose(Loss {
            kind: self.kind,
            request: request.to_owned(),
            way,
            silence,
            detail: detail.to_owned(),
            after_signal: AfterSignal::now(self.world.signal),
        });
    }

    /// Goes on after an exchange, on the connection if it was kept.
    fn after(&mut self, line: Option<Line>, now: Instant) -> Step {
        let until = now + self.random.duration(self.habit.thinks);
        match (self.habit.then, line) {
            (Then::Ends, _) => Step::Wait(Doing::Ended),
            (Then::Idles, Some(line)) => Step::Go(Doing::Quiet { line, until: None }),
            (Then::Idles, None) => Step::Wait(Doing::Ended),
            (Then::Repeats, Some(line)) => Step::Go(Doing::Quiet {
                line,
                until: Some(until),
            }),
            (Then::Repeats, None) => Step::Go(Doing::Away { until }),
        }
    }
}

impl Flight {
    fn new() -> Self {
        Self {
            requests: VecDeque::new(),
            bytes: Vec::new(),
            written: 0,
            releases: Vec::new(),
            cannot_write: None,
            reader: Reader::default(),
            read_at: None,
            told: false,
            silence: Duration::ZERO,
        }
    }

    fn is_written(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Bytes that may have been written by `now`.
    fn released(&self, now: Instant) -> usize {
        self.releases
            .iter()
            .rev()
            .find(|(at, _)| *at <= now)
            .map_or(0, |(_, end)| *end)
    }

    /// Writes what may and can be. Whether anything was.
    fn write(&mut self, mut socket: &TcpStream, now: Instant) -> bool {
        let (before, released) = (self.written, self.released(now));
        while self.written < released && self.cannot_write.is_none() && !self.told {
            match socket.write(&self.bytes[self.written..released]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.cannot_write = Some(Errno::from_io_error(&error).unwrap_or(Errno::IO))
                }
            }
        }
        self.written > before
    }

    fn wait(&self, now: Instant) -> Wait {
        let mut events = if self.read_at.is_none() {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let mut until = self.read_at;
        let next = self.releases.iter().find(|(_, end)| *end > self.written);
        match next.filter(|_| self.cannot_write.is_none() && !self.told) {
            Some((at, _)) if *at > now => until = Some(until.map_or(*at, |until| until.min(*at))),
            Some(_) => events |= PollFlags::OUT,
            None => {}
        }
        Wait { until, events }
    }
}

/// What a look at a silent connection shows.
enum Seen {
    Nothing,
    Bytes,
    /// The server's FIN or RST.
    End,
}

fn peek(socket: &TcpStream) -> Seen {
    match socket.peek(&mut [0]) {
        Ok(0) => Seen::End,
        Ok(_) => Seen::Bytes,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Seen::Nothing
        }
        Err(_) => Seen::End,
    }
}

/// When something is to be done, but not before `now`.
fn moment(moment: Moment, world: &World, now: Instant, random: &mut Random) -> Instant {
    match moment {
        Moment::AtOnce => now,
        Moment::UnderLoad => {
            let load = world.signal.saturating_duration_since(world.begins);
            now + load.mul_f64(random.between((0, 900)) as f64 / 1000.0)
        }
        Moment::AroundSignal { before, after } => {
            let from = world
                .signal
                .checked_sub(millis(before))
                .unwrap_or(world.begins);
            (from + random.duration((0, before + after))).max(now)
        }
    }
}

/// By so much a client may be late for its own write. A server reads on for 50 ms after its FIN.
const BUSY: Duration = millis(10);

/// Read at once.
const READ_BYTES: usize = 32 * 1024;
/// Of a slow reader, for whom 4 MiB last half a second.
const SLOW_BUFFER: usize = 64 * 1024;
const SLOW_PAUSE: Duration = millis(4);

/// Pieces of a slow upload.
const TRICKLE: u32 = 12;
