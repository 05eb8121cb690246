//! Many clients that behave badly, or are only slow, on one thread.

#![allow(dead_code, reason = "each program uses its own part")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};

/// The behaviour of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There is no client.
    Nobody,
    /// The client connects and sends nothing.
    Silent,
    /// The client asks once and keeps the connection.
    Idle,
    /// The client sends a head byte by byte.
    SlowHead,
    /// The client sends a body byte by byte, which the server collects.
    SlowBody,
    /// The client sends a large body, a piece at once and the rest byte by byte. The handler reads
    /// it.
    Upload,
    /// The client asks for 20 MB that the server pulls, and takes next to nothing of them.
    SlowReader,
    /// The client asks for 20 MB that a closure writes, and takes next to nothing of them.
    Download,
    /// The clients are of all the kinds above, in equal parts.
    Mixed,
    /// The client takes 20 kB/s, as one with a slow network does.
    HonestReader,
    /// The client takes 20 MB after 20 MB as fast as they come.
    Greedy,
    /// The client sends bytes that are no request.
    Garbage,
    /// The client asks for a panic.
    Panic,
}

impl Kind {
    pub(crate) const ALL: [Self; 11] = [
        Self::Nobody,
        Self::Silent,
        Self::Idle,
        Self::SlowHead,
        Self::SlowBody,
        Self::Upload,
        Self::SlowReader,
        Self::Download,
        Self::Mixed,
        Self::HonestReader,
        Self::Greedy,
    ];
    /// The kinds of clients in a soak: those that can be replaced within seconds.
    pub(crate) const SOAK: [Self; 10] = [
        Self::Silent,
        Self::Idle,
        Self::SlowHead,
        Self::SlowBody,
        Self::Upload,
        Self::SlowReader,
        Self::Download,
        Self::HonestReader,
        Self::Garbage,
        Self::Panic,
    ];
    const MIXED: [Self; 7] = [
        Self::Silent,
        Self::Idle,
        Self::SlowHead,
        Self::SlowBody,
        Self::Upload,
        Self::SlowReader,
        Self::Download,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::SlowHead => "head",
            Self::SlowBody => "body",
            Self::Upload => "upload",
            Self::SlowReader => "reader",
            Self::Download => "download",
            Self::Mixed => "mixed",
            Self::HonestReader => "honest",
            Self::Greedy => "greedy",
            Self::Garbage => "garbage",
            Self::Panic => "panic",
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Silent => "silent",
            Self::Idle => "idle after one request",
            Self::SlowHead => "head, 1 byte / 2 s",
            Self::SlowBody => "body, 1 byte / 2 s",
            Self::Upload => "streamed upload, 64 KiB, then 1 byte / 2 s",
            Self::SlowReader => "20 MB read at 200 B/s",
            Self::Download => "streamed download read at 200 B/s",
            Self::Mixed => "all of these mixed",
            Self::HonestReader => "honest, 20 MB read at 20 kB/s",
            Self::Greedy => "20 MB after 20 MB at full speed",
            Self::Garbage => "what is no request",
            Self::Panic => "a panic in its handler",
        }
    }

    /// Returns the bytes that are sent at once.
    fn opening(self) -> Vec<u8> {
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
        let post = |path: &str, len: usize| {
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n")
        };
        match self {
            Self::Idle => get("/"),
            Self::SlowHead => b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec(),
            Self::SlowBody => post("/", 60_000).into_bytes(),
            Self::Upload => [post("/upload", 10 << 20).into_bytes(), vec![b'x'; 64 << 10]].concat(),
            Self::SlowReader | Self::HonestReader => get("/pulled"),
            Self::Download => get("/pushed"),
            Self::Greedy => get("/pulled").repeat(100),
            Self::Garbage => b"\x16\x03\x01 is no request\r\n\r\n".to_vec(),
            Self::Panic => get("/panic"),
            Self::Nobody | Self::Silent | Self::Mixed => Vec::new(),
        }
    }

    /// Returns whether the client reads a little now and then, and not all that is there.
    fn reads_slowly(self) -> bool {
        matches!(self, Self::SlowReader | Self::Download | Self::HonestReader)
    }
}

/// The time after which a client that was sent away comes back, so that clients which are sent away
/// at once do not make a flood.
const COMES_BACK_AFTER: Duration = Duration::from_millis(250);

/// Clients of one kind.
pub(crate) struct Crowd {
    epoll: rustix::fd::OwnedFd,
    events: Vec<epoll::Event>,
    clients: Vec<Client>,
    n: usize,
    open: usize,
    quick: bool,
    addr: SocketAddr,
    /// The number of connections made so far.
    connections: u64,
    /// The instant until which a client is replaced that has ended, or has been there for long
    /// enough.
    replaced_until: Option<Instant>,
}

struct Client {
    /// `None` when the connection has ended.
    stream: Option<TcpStream>,
    kind: Kind,
    unsent: Vec<u8>,
    next_at: Instant,
    came: Instant,
}

impl Crowd {
    pub(crate) fn connect(addr: SocketAddr, kind: Kind, n: usize, quick: bool) -> Self {
        let mut crowd = Self::empty(addr, n, quick);
        for i in 0..n {
            crowd.add(
                i,
                if kind == Kind::Mixed {
                    Kind::MIXED[i % Kind::MIXED.len()]
                } else {
                    kind
                },
            );
        }
        crowd
    }

    /// Makes a crowd of all kinds of clients, `n` at a time, that come and go until `until`.
    pub(crate) fn soak(addr: SocketAddr, n: usize, until: Instant) -> Self {
        let mut crowd = Self::empty(addr, n, true);
        crowd.replaced_until = Some(until);
        (0..n).for_each(|i| crowd.add(i, Kind::SOAK[i % Kind::SOAK.len()]));
        crowd
    }

    fn empty(addr: SocketAddr, n: usize, quick: bool) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let none = epoll::Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let (events, clients) = (vec![none; 256], Vec::new());
        Self {
            epoll,
            events,
            clients,
            n,
            open: n,
            quick,
            addr,
            connections: 0,
            replaced_until: None,
        }
    }

    /// Connects a client in place of the one that is there, if one is.
    fn add(&mut self, i: usize, kind: Kind) {
        let mut client = Client::connect(self.addr, kind, i);
        self.connections += 1;
        client.send();
        // The events are level-triggered, so bytes that are not read now are reported again. Broken
        // connections are reported in any case.
        let flags = if kind.reads_slowly() {
            EventFlags::RDHUP
        } else {
            EventFlags::IN | EventFlags::RDHUP
        };
        let stream = client.stream.as_ref().expect("it has just connected");
        epoll::add(&self.epoll, stream, EventData::new_u64(i as u64), flags).unwrap();
        if i < self.clients.len() {
            self.clients[i] = client;
        } else {
            self.clients.push(client);
        }
        if self.connections.is_multiple_of(100) {
            self.go_round(Duration::ZERO);
        }
    }

    /// Replaces the clients that have gone, and ends those that have been there for some seconds,
    /// one with FIN and the next with RST.
    fn replace(&mut self, now: Instant) {
        if self.replaced_until.is_none_or(|until| until <= now) {
            return;
        }
        for i in 0..self.clients.len() {
            let Client {
                stream, kind, came, ..
            } = &mut self.clients[i];
            if now - *came < COMES_BACK_AFTER {
                continue;
            }
            if let Some(stream) = stream {
                let stays =
                    Duration::from_millis(500 + (i as u64 * 7919 + self.connections * 31) % 4000);
                if now - *came < stays {
                    continue;
                }
                if i % 2 == 0 {
                    sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
                }
            }
            let kind = *kind;
            self.add(i, kind);
        }
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections
    }

    pub(crate) fn open(&self) -> usize {
        self.open
    }

    pub(crate) fn let_go(&self) -> usize {
        self.n - self.open
    }

    /// Has each client do what is due, and waits for at most `timeout` for the server.
    pub(crate) fn go_round(&mut self, timeout: Duration) {
        let timeout = Timespec::try_from(timeout).unwrap();
        let ready = epoll::wait(&self.epoll, &mut self.events[..], Some(&timeout)).unwrap_or(0);
        for event in &self.events[..ready] {
            let (flags, place) = (event.flags, event.data.u64() as usize);
            let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
            let client = &mut self.clients[place];
            if broken || client.kind.reads_slowly() || !client.receive(1 << 20) {
                client.stream = None;
            }
        }
        let now = Instant::now();
        for client in &mut self.clients {
            if client.stream.is_some() && client.next_at <= now {
                client.go_on(self.quick);
            }
        }
        if self.clients.len() == self.n {
            self.replace(now);
        }
        self.open = self.n.min(
            self.clients
                .iter()
                .filter(|client| client.stream.is_some())
                .count(),
        );
    }
}

impl Client {
    fn connect(addr: SocketAddr, kind: Kind, i: usize) -> Self {
        let stream = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        if matches!(kind, Kind::SlowReader | Kind::Download) {
            // The buffer in which the kernel takes bytes in the client's place is soon full.
            sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
        }
        connect(&stream, &addr).unwrap();
        let stream = TcpStream::from(stream);
        stream.set_nonblocking(true).unwrap();
        // The clients do not all move at the same moment.
        let came = Instant::now();
        let next_at = came + Duration::from_millis((i * 37 % 2000) as u64);
        Self {
            stream: Some(stream),
            kind,
            unsent: kind.opening(),
            next_at,
            came,
        }
    }

    /// Does what the client does every now and then.
    fn go_on(&mut self, quick: bool) {
        let now = Instant::now();
        let pause = if quick {
            Duration::from_millis(200)
        } else {
            Duration::from_secs(2)
        };
        self.next_at = now + pause;
        match self.kind {
            Kind::SlowHead | Kind::SlowBody | Kind::Upload => {
                if self.unsent.is_empty() {
                    self.unsent.push(b'x');
                }
                self.send();
            }
            Kind::SlowReader | Kind::Download => drop(self.receive(400)),
            Kind::HonestReader => {
                self.next_at = now + Duration::from_millis(100);
                self.receive(2000);
            }
            _ => self.send(),
        }
    }

    fn send(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        while !self.unsent.is_empty() {
            match stream.write(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                // The end of the connection is seen when it is read.
                Err(_) => return,
            }
        }
    }

    /// Reads at most `most` bytes. False: the connection has ended.
    fn receive(&mut self, most: usize) -> bool {
        let Some(stream) = &mut self.stream else {
            return true;
        };
        let mut buffer = vec![0; most.min(64 << 10)];
        match stream.read(&mut buffer) {
            Ok(n) => n > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}
