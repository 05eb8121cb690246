//! One client: a state machine around a non-blocking socket, which also judges the responses.
//!
//! ```text
//! Away -> Connecting -> Quiet -> Decided -> Exchanging -> Quiet, Away or Ended
//!             |           |
//!             |           +-> Away: a FIN or RST was seen, nothing was sent
//!             +-> Ended: the connection was refused
//! ```
//!
//! Like a connection pool, a client looks at its connection before it decides to use it. It cannot
//! see what comes between this decision and its first byte.

use std::io::{self, ErrorKind, Read};
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::cli::prove::answer::{Answer, Reader};
use crate::cli::prove::exchange::{Exchange, Wait};
use crate::cli::prove::link::keep_alive;
use crate::cli::prove::plan::{Habit, Kind, Moment, Pieces, Random, Then, millis};
use crate::cli::prove::request::Request;
use crate::cli::prove::tally::{AfterSignal, Loss, Outcome, Silence, Tally, Way};

/// What all clients of one stop share.
#[derive(Debug)]
pub(super) struct Conditions {
    pub(super) server: SocketAddr,
    pub(super) start: Instant,
    /// When the signal is to be sent.
    pub(super) signal: Instant,
    /// The time between a client's decision to use a connection and its first byte there.
    pub(super) rtt: Duration,
    /// Whether the network may lose packets.
    pub(super) is_link: bool,
    /// The round trip time of the network.
    pub(super) round_trip: Duration,
    /// How many bytes a response has that takes long.
    pub(super) long_response: u64,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client<'a> {
    conditions: &'a Conditions,
    kind: Kind,
    habit: Habit,
    random: Random,
    state: State,
    /// The requests that are ready to be written next.
    next: Option<Exchange>,
    /// The number of the last request. It is unique among all clients.
    requests: u64,
    /// Whether the client has written a request on any connection.
    has_spoken: bool,
    /// The port of its last connection.
    port: u16,
}

/// What a client is doing.
#[derive(Debug)]
enum State {
    /// It has no connection, and opens one at `until`.
    Away { until: Instant },
    /// It waits for the TCP handshake.
    Connecting { socket: TcpStream },
    /// It has a connection and writes nothing on it until `until`; with `None` it never does.
    Quiet {
        connection: Connection,
        until: Option<Instant>,
    },
    /// It has decided to write. At `until` the bytes reach the server.
    Decided {
        connection: Connection,
        until: Instant,
    },
    /// It writes requests and reads responses.
    Exchanging {
        connection: Connection,
        exchange: Exchange,
    },
    /// It does nothing more.
    Ended,
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    /// When the connection last carried a byte, as far as the client knows.
    last_byte: Instant,
    /// Whether a request was written on it.
    is_used: bool,
}

/// The result of one step of the state machine.
enum Step {
    /// Take the next step, from this state, at once.
    Next(State),
    /// Wait in this state.
    Wait(State),
}

/// Why an exchange is over.
enum End {
    /// The server has sent FIN.
    Fin,
    Broken(Errno),
    /// The client does not wait any longer.
    GaveUp,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        conditions: &'a Conditions,
        kind: Kind,
        number: usize,
        mut random: Random,
    ) -> Self {
        let habit = kind.habit();
        let until = moment(habit.connects, conditions, conditions.start, &mut random);
        let requests = (number as u64) << 32;
        let state = State::Away { until };
        Self {
            conditions,
            kind,
            habit,
            random,
            state,
            next: None,
            requests,
            has_spoken: false,
            port: 0,
        }
    }

    /// Takes all steps that are possible now. `ready` says that the socket may have something new.
    pub(super) fn advance(&mut self, ready: bool, now: Instant, tally: &mut Tally) {
        loop {
            let step = match mem::replace(&mut self.state, State::Ended) {
                State::Away { until } if now >= until => self.connect(now, tally),
                State::Connecting { socket } if ready => self.finish_connect(socket, now, tally),
                State::Quiet {
                    connection,
                    until: None,
                } => self.wait_for_end(connection, tally),
                State::Quiet {
                    connection,
                    until: Some(until),
                } if now >= until => self.decide(connection, now, tally),
                // A client that is late by more than `BUSY` was delayed by a busy machine and not
                // by the round trip of a network, so it looks at its connection again.
                State::Decided { connection, until } if now >= until + BUSY => {
                    Step::Next(State::Quiet {
                        connection,
                        until: Some(now),
                    })
                }
                State::Decided { connection, until } if now >= until => {
                    self.start_exchange(connection, now, tally)
                }
                State::Exchanging {
                    connection,
                    exchange,
                } => self.go_on(connection, exchange, now, tally),
                waiting => Step::Wait(waiting),
            };
            match step {
                Step::Next(state) => self.state = state,
                Step::Wait(state) => return self.state = state,
            }
        }
    }

    pub(super) fn is_there(&self) -> bool {
        !matches!(self.state, State::Ended)
    }

    /// Returns what the client waits for.
    pub(super) fn wait(&self, now: Instant) -> Wait {
        match &self.state {
            State::Away { until }
            | State::Quiet {
                until: Some(until), ..
            }
            | State::Decided { until, .. } => Wait {
                until: Some(*until),
                events: PollFlags::empty(),
            },
            State::Connecting { .. } => Wait {
                until: None,
                events: PollFlags::OUT,
            },
            State::Quiet { until: None, .. } => Wait {
                until: None,
                events: PollFlags::IN,
            },
            State::Exchanging { exchange, .. } => exchange.wait(now),
            State::Ended => Wait {
                until: None,
                events: PollFlags::empty(),
            },
        }
    }

    /// Returns the socket, if the client has one.
    pub(super) fn socket(&self) -> Option<&TcpStream> {
        match &self.state {
            State::Connecting { socket } => Some(socket),
            State::Quiet { connection, .. }
            | State::Decided { connection, .. }
            | State::Exchanging { connection, .. } => Some(&connection.socket),
            State::Away { .. } | State::Ended => None,
        }
    }

    /// Ends the client. Requests without a response count as lost.
    pub(super) fn give_up(&mut self, tally: &mut Tally) {
        match mem::replace(&mut self.state, State::Ended) {
            State::Exchanging {
                connection,
                exchange,
            } => self.judge_unanswered(&connection, exchange, &End::GaveUp, tally),
            State::Connecting { .. } => {
                let silence = Silence::default();
                self.lose("connect", Way::Stuck, silence, "no handshake", tally)
            }
            State::Quiet {
                connection,
                until: None,
            } => {
                let silence = Silence::before(connection.last_byte.elapsed());
                self.lose(
                    "no request",
                    Way::Stuck,
                    silence,
                    "an idle connection was never closed",
                    tally,
                );
            }
            State::Away { .. } | State::Quiet { .. } | State::Decided { .. } | State::Ended => {}
        }
    }

    fn connect(&mut self, now: Instant, tally: &mut Tally) -> Step {
        match self.start_connect() {
            Ok(socket) => Step::Wait(State::Connecting { socket }),
            Err(error) => self.not_connected(&error, now, tally),
        }
    }

    fn start_connect(&self) -> io::Result<TcpStream> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        let socket = TcpStream::from(socket);
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        if self.conditions.is_link {
            keep_alive(&socket)?;
        }
        if self.habit.reads_slowly {
            sockopt::set_socket_recv_buffer_size(&socket, SLOW_BUFFER)?;
        }
        match rustix::net::connect(&socket, &self.conditions.server) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error.into()),
        }
    }

    fn finish_connect(&mut self, socket: TcpStream, now: Instant, tally: &mut Tally) -> Step {
        if let Ok(Some(error)) | Err(error) = socket.take_error() {
            return self.not_connected(&error, now, tally);
        }
        self.port = socket.local_addr().map_or(0, |addr| addr.port());
        if self.port == self.conditions.server.port() {
            // The server's port is free, and the kernel has also chosen it for our end: with TCP a
            // socket can connect to itself.
            return self.refused(tally);
        }
        let first = if self.has_spoken {
            Some(Moment::AtOnce)
        } else {
            self.habit.speaks
        };
        let until = first.map(|first| moment(first, self.conditions, now, &mut self.random));
        Step::Next(State::Quiet {
            connection: Connection {
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
            // There are no local ports or descriptors left, which is not the server's fault.
            _ => Step::Wait(State::Away {
                until: now + millis(5),
            }),
        }
    }

    fn refused(&self, tally: &mut Tally) -> Step {
        tally.count(self.kind, Outcome::Refused);
        Step::Wait(State::Ended)
    }

    /// Waits for the end of a connection on which nothing else may come.
    fn wait_for_end(&self, connection: Connection, tally: &mut Tally) -> Step {
        match peek(&connection.socket) {
            Seen::Nothing => Step::Wait(State::Quiet {
                connection,
                until: None,
            }),
            Seen::End => Step::Wait(State::Ended),
            Seen::Bytes => {
                self.count_stray_bytes(connection.last_byte.elapsed(), tally);
                Step::Wait(State::Ended)
            }
        }
    }

    /// Looks whether the connection is still open, and if it is decides to use it.
    fn decide(&mut self, connection: Connection, now: Instant, tally: &mut Tally) -> Step {
        if self.next.is_none() {
            // Prepared before the look: between that and the bytes nothing should take time.
            self.next = Some(self.prepare());
        }
        match peek(&connection.socket) {
            Seen::Nothing => Step::Next(State::Decided {
                connection,
                until: now + self.conditions.rtt,
            }),
            Seen::End => Step::Wait(State::Away { until: now }),
            Seen::Bytes => {
                self.count_stray_bytes(connection.last_byte.elapsed(), tally);
                Step::Wait(State::Away { until: now })
            }
        }
    }

    fn start_exchange(&mut self, connection: Connection, now: Instant, tally: &mut Tally) -> Step {
        let mut exchange = self
            .next
            .take()
            .expect("the requests were prepared before the decision");
        exchange.releases = self.releases(&exchange, now);
        exchange.silence = now.saturating_duration_since(connection.last_byte);
        self.has_spoken = true;
        // What is written counts as sent. But if there is no round trip, an error of the first
        // write shows that nothing was sent.
        exchange.write(&connection.socket, now);
        if exchange.written == 0 && exchange.cannot_write.is_some() && self.conditions.rtt.is_zero()
        {
            self.next = Some(exchange);
            return Step::Wait(State::Away { until: now });
        }
        if !connection.is_used {
            tally.connections += 1;
        }
        self.go_on(
            Connection {
                is_used: true,
                last_byte: now,
                ..connection
            },
            exchange,
            now,
            tally,
        )
    }

    /// Prepares the next requests.
    fn prepare(&mut self) -> Exchange {
        let mut exchange = Exchange::new();
        for choice in self.habit.asks {
            let route = *self.random.pick(choice);
            self.requests += 1;
            let long = self.conditions.long_response;
            let request = Request::new(route, self.requests, long, &mut self.random);
            let begin = exchange.bytes.len();
            let closes = !self.habit.keeps && self.requests.is_multiple_of(2);
            request.write(closes, &mut exchange.bytes);
            exchange
                .requests
                .push_back((request, begin, exchange.bytes.len()));
        }
        exchange
    }

    /// Returns from which instants on which bytes may be written.
    fn releases(&mut self, exchange: &Exchange, now: Instant) -> Vec<(Instant, usize)> {
        let all = exchange.bytes.len();
        match self.habit.writes {
            Pieces::One => vec![(now, all)],
            Pieces::HalfAfterSignal => {
                let rest = moment(
                    Moment::AroundSignal {
                        before: 5,
                        after: 400,
                    },
                    self.conditions,
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
                let ends = exchange.requests.iter().map(|(_, _, end)| *end).enumerate();
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

    /// Writes and reads as much as is possible now.
    fn go_on(
        &mut self,
        mut connection: Connection,
        mut exchange: Exchange,
        now: Instant,
        tally: &mut Tally,
    ) -> Step {
        if exchange.write(&connection.socket, now) {
            exchange.silence = now.saturating_duration_since(connection.last_byte);
            connection.last_byte = now;
        }
        match self.read_responses(&mut connection, &mut exchange, now, tally) {
            Some(end) => {
                self.judge_unanswered(&connection, exchange, &end, tally);
                self.after_exchange(None, now)
            }
            None if exchange.requests.is_empty()
                && (exchange.is_written() || exchange.server_closes) =>
            {
                let keeps = self.habit.keeps && !exchange.server_closes;
                self.after_exchange(keeps.then_some(connection), now)
            }
            None => Step::Wait(State::Exchanging {
                connection,
                exchange,
            }),
        }
    }

    /// Reads what has come. `Some` if nothing more will come.
    fn read_responses(
        &mut self,
        connection: &mut Connection,
        exchange: &mut Exchange,
        now: Instant,
        tally: &mut Tally,
    ) -> Option<End> {
        let mut buffer = [0; READ_BYTES];
        while exchange.read_at.is_none_or(|at| at <= now) {
            let mut bytes = match (&connection.socket).read(&mut buffer) {
                Ok(0) => return Some(exchange.cannot_write.map_or(End::Fin, End::Broken)),
                Ok(n) => &buffer[..n],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    exchange.read_at = None;
                    return None;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Some(End::Broken(
                        Errno::from_io_error(&error).unwrap_or(Errno::IO),
                    ));
                }
            };
            connection.last_byte = now;
            while !bytes.is_empty() {
                let Some((request, ..)) = exchange.requests.front() else {
                    self.count_stray_bytes(exchange.silence, tally);
                    return Some(End::Fin);
                };
                match exchange.reader.read(&mut bytes, request.expected()) {
                    Ok(None) => {}
                    Ok(Some(answer)) => self.count_response(answer, exchange, tally),
                    Err(wrong) => {
                        self.lose(
                            &request.to_string(),
                            Way::Wrong,
                            Silence::before(exchange.silence),
                            &wrong,
                            tally,
                        );
                        exchange.requests.pop_front();
                        exchange.reader = Reader::default();
                        // Where the next response begins is not known.
                        return Some(End::Fin);
                    }
                }
            }
            if exchange.requests.is_empty() {
                return None;
            }
            if self.habit.reads_slowly {
                exchange.read_at = Some(now + SLOW_PAUSE);
            }
        }
        None
    }

    fn count_response(&self, answer: Answer, exchange: &mut Exchange, tally: &mut Tally) {
        let (request, ..) = exchange
            .requests
            .pop_front()
            .expect("a response is read for a request");
        exchange.server_closes |= answer.closes;
        if answer.is_ok {
            tally.count(self.kind, Outcome::Answered);
        } else {
            tally.count(self.kind, Outcome::Unavailable);
            tally.unavailable.push(request.to_string());
        }
    }

    /// Counts what became of the requests without a response. Those that were not sent do not
    /// count: a client can send them elsewhere.
    fn judge_unanswered(
        &self,
        connection: &Connection,
        mut exchange: Exchange,
        end: &End,
        tally: &mut Tally,
    ) {
        if !matches!(end, End::GaveUp)
            && let Some(answer) = exchange.reader.end()
        {
            self.count_response(answer, &mut exchange, tally);
        }
        // After the decision the bytes count as sent, even if a reset was seen before they could be
        // written.
        let decided = if exchange.written == 0 {
            exchange.releases[0].1
        } else {
            exchange.written
        };
        let is_sent = |begin: usize| begin < decided;
        let silence = Silence {
            before: exchange.silence,
            after: connection.last_byte.elapsed(),
        };
        let how = match end {
            End::Fin => "end of stream".to_owned(),
            End::Broken(error) => io::Error::from(*error).to_string(),
            End::GaveUp => format!("nothing for {:.1} s", silence.after.as_secs_f64()),
        };
        for (i, (request, begin, request_end)) in exchange.requests.iter().enumerate() {
            if !is_sent(*begin) {
                break;
            }
            let (way, detail) = match end {
                End::GaveUp => (Way::Stuck, how.clone()),
                _ if i == 0 && exchange.reader.bytes > 0 => (
                    Way::Truncated,
                    format!("{how} after {} bytes", exchange.reader.bytes),
                ),
                _ if exchange.server_closes => {
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
            self.lose(&request.to_string(), way, silence, &detail, tally);
        }
    }

    /// Counts bytes that came although the client waits for no response.
    fn count_stray_bytes(&self, silence: Duration, tally: &mut Tally) {
        self.lose(
            "no request",
            Way::Wrong,
            Silence::before(silence),
            "a response without a request",
            tally,
        );
    }

    fn lose(&self, request: &str, way: Way, silence: Silence, detail: &str, tally: &mut Tally) {
        tally.lose(Loss {
            kind: self.kind,
            port: self.port,
            request: request.to_owned(),
            way,
            silence,
            detail: detail.to_owned(),
            after_signal: AfterSignal::now(self.conditions.signal),
        });
    }

    /// Returns the step after an exchange. `connection` is there if it was kept.
    fn after_exchange(&mut self, connection: Option<Connection>, now: Instant) -> Step {
        let until = now + self.random.duration(self.habit.thinks);
        match (self.habit.then, connection) {
            (Then::Ends, _) => Step::Wait(State::Ended),
            (Then::Idles, Some(connection)) => Step::Next(State::Quiet {
                connection,
                until: None,
            }),
            (Then::Idles, None) => Step::Wait(State::Ended),
            (Then::Repeats, Some(connection)) => Step::Next(State::Quiet {
                connection,
                until: Some(until),
            }),
            (Then::Repeats, None) => Step::Next(State::Away { until }),
        }
    }
}

/// What a look at a silent connection shows.
enum Seen {
    Nothing,
    Bytes,
    /// The server has sent FIN or RST.
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

/// Chooses an instant within the span that `moment` describes, but not before `now`.
fn moment(moment: Moment, conditions: &Conditions, now: Instant, random: &mut Random) -> Instant {
    match moment {
        Moment::AtOnce => now,
        Moment::UnderLoad => {
            let load = conditions
                .signal
                .saturating_duration_since(conditions.start);
            now + load.mul_f64(random.between((0, 900)) as f64 / 1000.0)
        }
        Moment::AroundSignal { before, after } => {
            // What a client writes after its handshake arrives one and a half round trips later.
            let before = millis(before) + conditions.round_trip * 3 / 2;
            let from = conditions
                .signal
                .checked_sub(before)
                .unwrap_or(conditions.start);
            let span = before + millis(after);
            (from + span.mul_f64(random.fraction())).max(now)
        }
    }
}

/// How late a client may be for its own write. A server reads on for 50 ms after its FIN.
const BUSY: Duration = millis(10);

/// The most that is read at once.
const READ_BYTES: usize = 32 * 1024;
/// The receive buffer of a slow reader, which takes half a second for 4 MiB.
const SLOW_BUFFER: usize = 64 * 1024;
/// The time between two reads of a slow reader.
const SLOW_PAUSE: Duration = millis(4);

/// The number of pieces of a slow upload.
const TRICKLE: u32 = 12;
