//! Many clients that behave badly, or are only slow, on one thread.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There is no client.
    Nobody,
    /// Connects and says nothing.
    Silent,
    /// Asks once and keeps the connection.
    Idle,
    /// Sends a head byte by byte.
    SlowHead,
    /// Sends a body that the server collects byte by byte.
    SlowBody,
    /// Sends a large body, of which its handler reads a piece at once and the rest byte by byte.
    Upload,
    /// Asks for 20 MB that the server pulls, and takes next to nothing of it.
    SlowReader,
    /// The same where a closure pushes them.
    Download,
    /// All of those above in equal parts.
    Mixed,
    /// Takes 20 kB/s, as who has a bad line does.
    HonestReader,
    /// Takes 20 MB after 20 MB as fast as they come.
    Greedy,
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
    const MIXED: [Self; 7] =
        [Self::Silent, Self::Idle, Self::SlowHead, Self::SlowBody, Self::Upload, Self::SlowReader, Self::Download];

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
        }
    }

    /// What is sent at once.
    fn opening(self) -> Vec<u8> {
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
        let post = |path: &str, len: usize| format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n");
        match self {
            Self::Idle => get("/"),
            Self::SlowHead => b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec(),
            Self::SlowBody => post("/", 60_000).into_bytes(),
            Self::Upload => [post("/upload", 10 << 20).into_bytes(), vec![b'x'; 64 << 10]].concat(),
            Self::SlowReader | Self::HonestReader => get("/pulled"),
            Self::Download => get("/pushed"),
            Self::Greedy => get("/pulled").repeat(100),
            Self::Nobody | Self::Silent | Self::Mixed => Vec::new(),
        }
    }

    /// Reads a little now and then, and not what there is.
    fn reads_slowly(self) -> bool {
        matches!(self, Self::SlowReader | Self::Download | Self::HonestReader)
    }
}

/// Clients of one kind.
pub(crate) struct Crowd {
    epoll: rustix::fd::OwnedFd,
    events: Vec<epoll::Event>,
    clients: Vec<Client>,
    n: usize,
    open: usize,
    quick: bool,
}

struct Client {
    /// `None`: it has ended.
    stream: Option<TcpStream>,
    kind: Kind,
    unsent: Vec<u8>,
    next_at: Instant,
}

impl Crowd {
    pub(crate) fn connect(addr: SocketAddr, kind: Kind, n: usize, quick: bool) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let none = epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut crowd = Self { epoll, events: vec![none; 256], clients: Vec::new(), n, open: n, quick };
        for i in 0..n {
            let kind = if kind == Kind::Mixed { Kind::MIXED[i % Kind::MIXED.len()] } else { kind };
            crowd.clients.push(Client::connect(addr, kind, i));
            let client = &mut crowd.clients[i];
            client.send();
            let Some(stream) = &client.stream else { continue };
            // Level-triggered: what cannot be read now is told again. Broken connections are told in any case.
            let flags = if kind.reads_slowly() { EventFlags::RDHUP } else { EventFlags::IN | EventFlags::RDHUP };
            epoll::add(&crowd.epoll, stream, EventData::new_u64(i as u64), flags).unwrap();
            if i % 100 == 99 {
                crowd.turn(Duration::ZERO);
            }
        }
        crowd
    }

    pub(crate) fn open(&self) -> usize {
        self.open
    }

    pub(crate) fn let_go(&self) -> usize {
        self.n - self.open
    }

    /// Does what is to be done, and waits for at most `timeout` for the server.
    pub(crate) fn turn(&mut self, timeout: Duration) {
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
        self.open = self.n.min(self.clients.iter().filter(|client| client.stream.is_some()).count());
    }
}

impl Client {
    fn connect(addr: SocketAddr, kind: Kind, i: usize) -> Self {
        let stream = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        if matches!(kind, Kind::SlowReader | Kind::Download) {
            // What its kernel takes in its place is soon full.
            sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
        }
        connect(&stream, &addr).unwrap();
        let stream = TcpStream::from(stream);
        stream.set_nonblocking(true).unwrap();
        // They do not all move at the same moment.
        let next_at = Instant::now() + Duration::from_millis((i * 37 % 2000) as u64);
        Self { stream: Some(stream), kind, unsent: kind.opening(), next_at }
    }

    /// What it does every now and then.
    fn go_on(&mut self, quick: bool) {
        let now = Instant::now();
        let pause = if quick { Duration::from_millis(200) } else { Duration::from_secs(2) };
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
        let Some(stream) = &mut self.stream else { return };
        while !self.unsent.is_empty() {
            match stream.write(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                // Its end is seen when it is read.
                Err(_) => return,
            }
        }
    }

    /// Reads at most so much. False: the connection has ended.
    fn receive(&mut self, most: usize) -> bool {
        let Some(stream) = &mut self.stream else { return true };
        let mut buffer = vec![0; most.min(64 << 10)];
        match stream.read(&mut buffer) {
            Ok(n) => n > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}
