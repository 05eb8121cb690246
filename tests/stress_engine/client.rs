//! The clients: many non-blocking connections on a few threads, each with a plan, and a check of
//! every byte that comes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lameduck::ServerHandle;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::plan::{Ending, Kind, Plan, Rng};

/// The time after which a connection hangs: it has made no progress, and the client has nothing
/// left to do.
pub(crate) const HANG: Duration = Duration::from_secs(10);

/// The state that the client threads share.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) addr: SocketAddr,
    pub(crate) seed: u64,
    /// The instant from which on each connection that is opened is the last one of its place.
    pub(crate) until: Instant,
    pub(crate) failed: AtomicBool,
    pub(crate) handle: ServerHandle,
}

impl Arena {
    /// Has all client threads stop. Returns `error` with a description of the server, as it is
    /// while its connections are still open, or an empty text if another thread has failed before.
    fn fail(&self, error: &str) -> String {
        let others = self.failed.swap(true, Relaxed);
        if others {
            String::new()
        } else {
            format!(
                "{error}  {:?}\n{}",
                self.handle.stats(),
                super::proc::threads()
            )
        }
    }
}

/// The clients' counts, to be compared with the server's.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) connections: u64,
    /// The answers that were read and checked.
    pub(crate) answers: u64,
    pub(crate) panics: u64,
    pub(crate) resets: u64,
    /// The connections that a client has closed before all was answered.
    pub(crate) cut_short: u64,
    /// The longest time without progress in which a client waited for the server.
    pub(crate) longest_wait: Duration,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.answers += other.answers;
        self.panics += other.panics;
        self.resets += other.resets;
        self.cut_short += other.cut_short;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
    }
}

/// Drives the connections of some places, until each place has had its last one. The last ones stay
/// open, and are returned.
pub(crate) fn drive(
    arena: &Arena,
    places: Range<usize>,
) -> Result<(Tally, Vec<TcpStream>), String> {
    let mut tally = Tally::default();
    let mut clients = Vec::new();
    for place in places {
        clients.push(
            Client::open(arena, place, 0, Instant::now()).map_err(|error| arena.fail(&error))?,
        );
    }
    let mut buffer = vec![0; 64 << 10];
    while clients.iter().any(|client| client.state != State::Resting) {
        if arena.failed.load(Relaxed) {
            return Err(String::new());
        }
        let now = Instant::now();
        let ready = wait(&clients, now);
        let now = if ready.is_empty() {
            now
        } else {
            Instant::now()
        };
        for (client, ready) in clients.iter_mut().zip(ready) {
            client
                .advance(ready, now, &mut buffer, &mut tally)
                .map_err(|error| arena.fail(&error))?;
            if client.state == State::Over {
                *client = Client::open(arena, client.place, client.nth + 1, now)
                    .map_err(|error| arena.fail(&error))?;
            }
        }
    }
    tally.connections = clients.iter().map(|client| client.nth + 1).sum();
    Ok((
        tally,
        clients.into_iter().map(|client| client.stream).collect(),
    ))
}

/// Waits until a connection can go on. A client that pauses sits out some of these rounds, and does
/// not sleep.
fn wait(clients: &[Client], now: Instant) -> Vec<bool> {
    let mut fds: Vec<_> = clients
        .iter()
        .map(|client| PollFd::new(&client.stream, client.interest()))
        .collect();
    let nanos = if clients
        .iter()
        .any(|client| client.state == State::Busy && client.pause > 0)
    {
        0
    } else if clients.iter().any(|client| client.is_held(now)) {
        1_000_000
    } else {
        100_000_000
    };
    let _ = poll(
        &mut fds,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: nanos,
        }),
    );
    fds.iter().map(|fd| !fd.revents().is_empty()).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The client sends requests and reads answers.
    Busy,
    /// All is answered, and the server has to close.
    AwaitsEnd,
    /// The connection has ended as planned.
    Over,
    /// All is answered, and the connection stays open.
    Resting,
}

/// One connection.
struct Client {
    place: usize,
    /// The number of connections that this place has had before.
    nth: u64,
    seed: u64,
    rng: Rng,
    plan: Plan,
    stream: TcpStream,
    state: State,
    out: Vec<u8>,
    sent: usize,
    finished: bool,
    inbox: Vec<u8>,
    answered: usize,
    /// The number of rounds before the next write.
    pause: usize,
    /// The instant before which nothing is read.
    held_until: Option<Instant>,
    progress_at: Instant,
}

impl Client {
    fn open(arena: &Arena, place: usize, nth: u64, now: Instant) -> Result<Self, String> {
        let seed = arena.seed;
        let mut rng = Rng::new(seed.wrapping_mul(1 << 40) ^ ((place as u64) << 24) ^ nth);
        let (plan, out) = Plan::random(&mut rng, now >= arena.until);
        let stream = connect(arena.addr, plan.receive_buffer)
            .map_err(|error| format!("cannot connect: {error}\n"))?;
        Ok(Self {
            place,
            nth,
            seed,
            rng,
            plan,
            stream,
            state: State::Busy,
            out,
            sent: 0,
            finished: false,
            inbox: Vec::new(),
            answered: 0,
            pause: 0,
            held_until: None,
            progress_at: now,
        })
    }

    /// Goes on as far as possible now.
    fn advance(
        &mut self,
        ready: bool,
        now: Instant,
        buffer: &mut [u8],
        tally: &mut Tally,
    ) -> Result<(), String> {
        if self.held_until.is_some_and(|until| until <= now) {
            (self.held_until, self.progress_at) = (None, now);
        }
        if self.state != State::Busy && self.state != State::AwaitsEnd || self.break_off(tally)? {
            return Ok(());
        }
        self.pause = self.pause.saturating_sub(1);
        if self.pause == 0 {
            self.send(now)?;
        }
        if ready && self.held_until.is_none() && self.state != State::Over {
            self.receive(now, buffer, tally)?;
        }
        self.conclude();
        if self.held_until.is_none() && now.saturating_duration_since(self.progress_at) > HANG {
            return self.fail(&format!("no progress for {HANG:?}"));
        }
        Ok(())
    }

    /// Closes or resets where the plan says so.
    fn break_off(&mut self, tally: &mut Tally) -> Result<bool, String> {
        let Ending::Broken {
            reset,
            sent,
            answers,
        } = self.plan.ending
        else {
            return Ok(false);
        };
        if self.sent < sent || self.answered < answers {
            return Ok(false);
        }
        if reset {
            let set = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
            set.map_err(|error| format!("cannot set SO_LINGER: {error}"))?;
        }
        tally.resets += u64::from(reset);
        tally.cut_short += u64::from(!reset);
        self.state = State::Over;
        Ok(true)
    }

    /// Writes a piece of what the plan allows to be written now.
    fn send(&mut self, now: Instant) -> Result<(), String> {
        let end = self.send_limit();
        while self.sent < end && self.pause == 0 && self.state == State::Busy {
            let piece = 1 + self.rng.below(self.plan.piece_max.min(end - self.sent));
            match self.stream.write(&self.out[self.sent..self.sent + piece]) {
                Ok(n) => {
                    (self.sent, self.progress_at) = (self.sent + n, now);
                    self.pause = self.rng.below(4);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) if self.was_too_slow() => self.state = State::Over,
                Err(error) => return self.fail(&format!("cannot write: {error}")),
            }
        }
        if self.sent == self.out.len() && self.plan.ending == Ending::HalfClose && !self.finished {
            self.finished = true;
            let shut = self.stream.shutdown(Shutdown::Write);
            return shut.or_else(|error| self.fail(&format!("cannot finish: {error}")));
        }
        Ok(())
    }

    fn receive(
        &mut self,
        now: Instant,
        buffer: &mut [u8],
        tally: &mut Tally,
    ) -> Result<(), String> {
        let most = if self.plan.receive_buffer.is_some() {
            1 + self.rng.below(4096)
        } else {
            buffer.len()
        };
        match self.stream.read(&mut buffer[..most]) {
            Ok(0) if self.state == State::AwaitsEnd || self.was_too_slow() => {
                self.state = State::Over
            }
            Ok(0) => return self.fail("the connection ended"),
            Ok(n) => {
                self.inbox.extend_from_slice(&buffer[..n]);
                tally.longest_wait = tally
                    .longest_wait
                    .max(now.saturating_duration_since(self.progress_at));
                self.progress_at = now;
                self.take_answers(tally)?;
                if self.plan.holds > 0 && self.rng.one_in(4) {
                    self.plan.holds -= 1;
                    self.held_until =
                        Some(now + Duration::from_millis(1 + self.rng.below(40) as u64));
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return self.fail(&format!("cannot read: {error}")),
        }
        Ok(())
    }

    /// Checks each answer that is complete.
    fn take_answers(&mut self, tally: &mut Tally) -> Result<(), String> {
        let mut at = 0;
        while let Some(ask) = self.plan.asks.get(self.answered) {
            let answer = Answer::parse(&self.inbox[at..], ask.kind == Kind::Head);
            let Some(answer) = answer.or_else(|error| self.fail(&error).map(|()| None))? else {
                break;
            };
            ask.check(&answer).or_else(|error| self.fail(&error))?;
            at += answer.size;
            self.answered += 1;
            tally.answers += 1;
            tally.panics += u64::from(ask.kind == Kind::Panic);
        }
        self.inbox.drain(..at);
        if self.answered == self.plan.asks.len() && !self.inbox.is_empty() {
            return self.fail("bytes came behind the last answer");
        }
        Ok(())
    }

    /// Moves to the next state when all is answered. The last answer may have come before all of
    /// its request was sent.
    fn conclude(&mut self) {
        if self.state != State::Busy
            || self.answered < self.plan.asks.len()
            || self.sent < self.out.len()
        {
            return;
        }
        self.state = match self.plan.ending {
            Ending::HalfClose | Ending::Asked | Ending::Panic => State::AwaitsEnd,
            Ending::Stay => State::Resting,
            Ending::Close | Ending::Broken { .. } => State::Over,
        };
    }

    /// Returns whether the server may close now: the last answer was to a request whose body it
    /// does not read, and of which the client has not sent all. After a second the server gives up.
    fn was_too_slow(&self) -> bool {
        let last = self.answered.checked_sub(1);
        last.is_some_and(|last| {
            self.plan.asks[last].kind == Kind::Ignore && self.sent < self.plan.ends[last]
        })
    }

    fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, self.held_until.is_none());
        interest.set(
            PollFlags::OUT,
            self.sent < self.send_limit() && self.pause == 0,
        );
        interest
    }

    /// Returns how far the plan allows the client to write now.
    fn send_limit(&self) -> usize {
        let gate = self
            .plan
            .gates
            .iter()
            .find(|(_, answers)| *answers > self.answered);
        gate.map_or(self.out.len(), |(at, _)| *at)
    }

    fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| until > now)
    }

    /// Fails with all that is known about the connection.
    fn fail(&self, what: &str) -> Result<(), String> {
        let Self {
            place,
            nth,
            seed,
            plan,
            sent,
            answered,
            ..
        } = self;
        let (asks, total, inbox) = (plan.asks.len(), self.out.len(), self.inbox.len());
        let next: Vec<_> = plan.asks.iter().skip(*answered).take(4).collect();
        let port = self.stream.local_addr().map_or(0, |addr| addr.port());
        Err(format!(
            "{what}\n  seed {seed}, place {place}, connection {nth} from port {port}, {:?}\n  \
             {answered} of {asks} answers read and {inbox} bytes of the next; {sent} of {total} bytes sent, \
             finished: {}, pause {}, held: {}\n  outstanding: {next:?}{}\n  {:?}, pieces up to {}, gates {:?}, receive \
             buffer {:?}\n  next bytes: {:?}\n{}",
            self.state,
            self.finished,
            self.pause,
            self.held_until.is_some(),
            if asks - answered > 4 { " .." } else { "" },
            plan.ending,
            plan.piece_max,
            plan.gates,
            plan.receive_buffer,
            String::from_utf8_lossy(&self.inbox[..inbox.min(200)]),
            super::proc::sockets(port),
        ))
    }
}

fn connect(addr: SocketAddr, receive_buffer: Option<usize>) -> std::io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    if let Some(bytes) = receive_buffer {
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    rustix::net::connect(&socket, &addr)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// An answer as it came.
///
/// It is not read by `tests/support/response.rs`, because these clients never block: the bytes of
/// an answer come in pieces, and a wrong answer is reported with the seed and the plan of its
/// client.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Whether the answer says `Connection: close`.
    pub(crate) closes: bool,
    /// The `Content-Length` of the answer.
    pub(crate) length: Option<usize>,
    pub(crate) body: Vec<u8>,
    /// The number of bytes of head and body.
    size: usize,
}

impl Answer {
    /// Returns the answer that `bytes` begin with, if all of it is there.
    pub(crate) fn parse(bytes: &[u8], bodyless: bool) -> Result<Option<Self>, String> {
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(size) = head
            .parse(bytes)
            .map_err(|error| format!("no head: {error}"))?
        else {
            return Ok(None);
        };
        let status = head.code.unwrap_or_default();
        let (mut closes, mut length, mut chunked) = (false, None, false);
        for field in &*head.headers {
            let value = String::from_utf8_lossy(field.value);
            match field.name.to_ascii_lowercase().as_str() {
                "connection" => closes = value == "close",
                "transfer-encoding" => chunked = value == "chunked",
                "content-length" => {
                    length = Some(value.parse().map_err(|_| format!("a length of {value}"))?)
                }
                _ => {}
            }
        }
        let answer = Self {
            status,
            closes,
            length,
            body: Vec::new(),
            size,
        };
        match length {
            _ if bodyless => Ok(Some(answer)),
            Some(length) if !chunked => Ok(bytes.get(size..size + length).map(|body| Self {
                body: body.to_vec(),
                size: size + length,
                ..answer
            })),
            None if chunked => answer.with_chunks(bytes),
            _ => Err("an answer with both lengths, or none".to_owned()),
        }
    }

    fn with_chunks(mut self, bytes: &[u8]) -> Result<Option<Self>, String> {
        loop {
            let rest = &bytes[self.size..];
            let parsed =
                httparse::parse_chunk_size(rest).map_err(|_| "no chunk size".to_owned())?;
            let httparse::Status::Complete((line, len)) = parsed else {
                return Ok(None);
            };
            let (from, to) = (line, line + len as usize);
            let Some(end) = rest.get(to..to + 2) else {
                return Ok(None);
            };
            if end != b"\r\n" {
                return Err("a chunk longer than it says".to_owned());
            }
            self.body.extend_from_slice(&rest[from..to]);
            self.size += to + 2;
            if len == 0 {
                return Ok(Some(self));
            }
        }
    }
}
