//! A hundred normal requests per second, each on its own connection, made by one thread.

#![allow(dead_code, reason = "each program uses its own part")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

/// The time between two requests.
const EVERY: Duration = Duration::from_millis(10);
/// The time after which a request without an answer has failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// The thread that makes the requests.
pub(crate) struct Visitors {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Visits>,
}

/// How the requests were served.
#[derive(Default)]
pub(crate) struct Visits {
    /// How long each answered request took, from the moment at which it was due.
    pub(crate) took: Vec<Duration>,
    pub(crate) failed: usize,
}

impl Visits {
    pub(crate) fn quantile(&self, at: f64) -> Duration {
        let last = self.took.len().saturating_sub(1);
        self.took
            .get((last as f64 * at).ceil() as usize)
            .copied()
            .unwrap_or_default()
    }
}

impl Visitors {
    pub(crate) fn start(addr: SocketAddr) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        Self {
            over,
            thread: std::thread::spawn(move || visit(addr, &is_over)),
        }
    }

    pub(crate) fn run_for(self, time: Duration) -> Visits {
        std::thread::park_timeout(time);
        self.stop()
    }

    /// Waits for the requests that are under way, and returns how all were served.
    pub(crate) fn stop(self) -> Visits {
        self.over.store(true, Relaxed);
        let mut visits = self.thread.join().unwrap();
        visits.took.sort_unstable();
        visits
    }
}

struct Visit {
    stream: TcpStream,
    due: Instant,
    asked: bool,
    answer: Vec<u8>,
}

fn visit(addr: SocketAddr, over: &AtomicBool) -> Visits {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let none = epoll::Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    };
    let (mut events, mut visits) = (vec![none; 64], Visits::default());
    let mut under_way: Vec<Option<Visit>> = Vec::new();
    let mut due = Instant::now();
    loop {
        let now = Instant::now();
        while due <= now && !over.load(Relaxed) {
            let place = under_way
                .iter()
                .position(Option::is_none)
                .unwrap_or_else(|| {
                    under_way.push(None);
                    under_way.len() - 1
                });
            under_way[place] = begin(addr, due);
            if let Some(visit) = &under_way[place] {
                epoll::add(
                    &epoll,
                    &visit.stream,
                    EventData::new_u64(place as u64),
                    EventFlags::OUT,
                )
                .unwrap();
            } else {
                visits.failed += 1;
            }
            due += EVERY;
        }
        if over.load(Relaxed) && under_way.iter().all(Option::is_none) {
            return visits;
        }
        let timeout = Timespec::try_from(
            due.saturating_duration_since(now)
                .clamp(Duration::from_micros(100), EVERY),
        );
        let ready = epoll::wait(&epoll, &mut events[..], Some(&timeout.unwrap())).unwrap_or(0);
        for event in &events[..ready] {
            let place = &mut under_way[event.data.u64() as usize];
            let Some(visit) = place else { continue };
            match visit.go_on() {
                Some(true) => visits.took.push(visit.due.elapsed()),
                Some(false) => visits.failed += 1,
                None => {
                    epoll::modify(&epoll, &visit.stream, event.data, EventFlags::IN).unwrap();
                    continue;
                }
            }
            *place = None;
        }
        for place in &mut under_way {
            if place
                .as_ref()
                .is_some_and(|visit| visit.due.elapsed() > ANSWER_TIMEOUT)
            {
                *place = None;
                visits.failed += 1;
            }
        }
    }
}

fn begin(addr: SocketAddr, due: Instant) -> Option<Visit> {
    let stream = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::NONBLOCK,
        None,
    )
    .ok()?;
    match connect(&stream, &addr) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(_) => return None,
    }
    Some(Visit {
        stream: stream.into(),
        due,
        asked: false,
        answer: Vec::new(),
    })
}

impl Visit {
    /// Goes on with the request. Returns whether it was answered; `None` while that is not known.
    fn go_on(&mut self) -> Option<bool> {
        if !self.asked {
            self.asked = true;
            return if self.stream.write(REQUEST).is_ok_and(|n| n == REQUEST.len()) {
                None
            } else {
                Some(false)
            };
        }
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Some(
                self.answer.starts_with(b"HTTP/1.1 200 ")
                    && self.answer.ends_with(b"\r\n\r\nhello"),
            ),
            Ok(n) => {
                self.answer.extend_from_slice(&buffer[..n]);
                None
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(false),
        }
    }
}
