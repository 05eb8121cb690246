//! A server on a manual clock, and a client of it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::conn::body::Body;
use crate::conn::message::{Request, Response};
use crate::conn::transport::{Look, Socket, Transport};
use crate::conn::upgrade::accept;
use crate::lifecycle::context::Context;
use crate::lifecycle::phase::Phase;
use crate::lifecycle::report::Report;
use crate::lifecycle::unanswered::Fate;
use crate::server::{Running, Server, ServerBuilder};
use crate::sys::clock::{Clock, ManualClock};
use crate::sys::socket::TcpInfo;
use crate::sys::test_points::{HeldThread, Point, TestPoints};

/// The longest time for which a test waits for anything in real time. A test that reaches it has
/// failed.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// A server on a manual clock.
///
/// - `/gate…` waits until the test opens it; `/hold` does so in a closure that writes its body.
/// - `/big`, `/pulled` and `/pushed` have 32 MiB: in memory, from a reader, from a closure.
/// - `/echo` returns its request's body, `/read` says how reading it went.
/// - `/upgrade` says "bye" at a stop; `/stream` has a dedicated thread.
///
/// The response to every other path is the path.
pub(super) struct Fixture {
    pub(super) running: Running,
    pub(super) clock: Arc<ManualClock>,
    pub(super) test_points: TestPoints,
    /// Receives when a handler that a test waits for has begun.
    pub(super) entered: Receiver<()>,
    /// Lets one handler or closure through the gate.
    pub(super) open: Sender<()>,
    /// Receives how the closure of `/pushed` ended: with an error of this kind, or with none.
    pub(super) stalled: Receiver<Option<ErrorKind>>,
}

impl Fixture {
    pub(super) fn new(build: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let (clock, test_points) = (ManualClock::new(), TestPoints::default());
        let (entered_in, entered) = unbounded();
        let (open, opened) = bounded::<()>(64);
        let (stalled_in, stalled) = unbounded();
        let plain = move |mut request: Request| {
            if request.uri().path().starts_with("/gate") {
                entered_in.send(()).unwrap();
                opened.recv_timeout(LIMIT).unwrap();
            }
            match request.uri().path() {
                "/big" => return Body::from(vec![b'x'; 32 << 20]),
                "/pulled" => return Body::reader(std::io::repeat(b'x').take(32 << 20)),
                "/pushed" => {
                    let stalled = stalled_in.clone();
                    return Body::writer(move |out| {
                        let written = (0..512).try_for_each(|_| out.write_all(&[b'x'; 64 << 10]));
                        stalled
                            .send(written.as_ref().map_err(std::io::Error::kind).err())
                            .unwrap();
                        written
                    });
                }
                "/echo" => {
                    entered_in.send(()).unwrap();
                    return request.into_body();
                }
                "/hold" => {
                    let (entered, opened) = (entered_in.clone(), opened.clone());
                    return Body::writer(move |_| {
                        entered.send(()).unwrap();
                        opened.recv_timeout(LIMIT).unwrap();
                        Ok(())
                    });
                }
                "/stream" => {
                    return Body::stream(|out| out.write_all(b"all of it"));
                }
                "/read" => {
                    entered_in.send(()).unwrap();
                    let read = std::io::copy(request.body_mut(), &mut std::io::sink());
                    return Body::from(
                        read.map_or_else(
                            |error| error.kind().to_string(),
                            |n| format!("{n} bytes"),
                        ),
                    );
                }
                _ => {}
            }
            Body::from(request.uri().path().to_owned())
        };
        let handler = move |request: Request, _: Context| match request.uri().path() {
            "/upgrade" => accept(&request, "shout", |mut io, _| {
                io.on_shutdown(|io| io.write_all(b"bye").unwrap());
                let _ = io.read_to_end(&mut Vec::new());
            }),
            _ => Response::new(plain(request)),
        };
        let builder = Server::builder()
            .workers(4)
            .clock(Clock::Manual(clock.clone()))
            .test_points(&test_points);
        let running = build(builder)
            .bind("127.0.0.1:0")
            .unwrap()
            .spawn(handler)
            .unwrap();
        Self {
            running,
            clock,
            test_points,
            entered,
            open,
            stalled,
        }
    }

    pub(super) fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.running.local_addr()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client(stream)
    }

    /// Returns a client that has sent `bytes`, and the thread that has served them and is held
    /// before it parks the connection.
    pub(super) fn about_to_park(&self, bytes: &[u8]) -> (Client, HeldThread) {
        // The bytes are there before a worker looks for them, so the connection is parked for the
        // first time when the worker is held.
        let (accepted, put) = (
            self.test_points.hold(Point::AcceptedBeforeSent),
            self.test_points.hold(Point::InSlotBeforeParked),
        );
        let mut client = self.connect();
        accepted.wait();
        client.send(bytes);
        accepted.release();
        put.wait();
        (client, put)
    }

    /// Returns a client that has sent `bytes`, which the server has served. The connection is
    /// parked, or will be in a moment.
    pub(super) fn parked(&self, bytes: &[u8]) -> Client {
        self.about_to_park(bytes).0
    }

    /// Returns a client whose connection was used for one request, and is parked or will be in a
    /// moment.
    pub(super) fn used(&self, path: &str) -> Client {
        let mut client = self.parked(&get(path));
        client.expect_body(path);
        client
    }

    /// Returns a client that has sent `bytes`, and the thread that serves them and is held at
    /// `point`.
    pub(super) fn held_at(&self, point: Point, bytes: &[u8]) -> (Client, HeldThread) {
        let held = self.test_points.hold(point);
        let mut client = self.connect();
        client.send(bytes);
        held.wait();
        (client, held)
    }

    /// Waits until `n` connections are parked and silent: no request and no response is under way.
    pub(super) fn wait_silent(&self, n: usize) {
        let pool = self.running.handle().pool().unwrap();
        let silent = || {
            pool.table
                .keys()
                .filter(|key| pool.table.slot(*key).silent_since().is_some())
                .count()
        };
        wait_until(|| silent() == n);
    }

    /// Waits until accept(2) has failed, `left` failures are still to come, and the acceptor has
    /// looked at the clock and waits.
    pub(super) fn wait_paused(&self, left: usize) {
        wait_until(|| {
            self.test_points.accept_errors_left() == left
                && self.running.handle().ledger().waits_for_any_end()
        });
    }

    /// Returns a client whose request has a handler at the gate.
    pub(super) fn enter_gate(&self) -> Client {
        self.enter("/gate")
    }

    /// Returns a client whose request to `path` has a handler that has reported to `entered`.
    pub(super) fn enter(&self, path: &str) -> Client {
        let mut client = self.connect();
        client.send(&get(path));
        self.entered.recv_timeout(LIMIT).unwrap();
        client
    }

    /// Blocks every worker, each with its own route: once a route was found to be slow, one worker
    /// is kept free of it.
    pub(super) fn block_all(&self, workers: usize) -> Vec<Client> {
        (0..workers)
            .map(|i| self.enter(&format!("/gate-{i}")))
            .collect()
    }

    /// Begins the stop, and waits until the listeners are closed.
    pub(super) fn begin_draining(&self) {
        let closed = self.test_points.hold(Point::ListenersClosedBeforeIdle);
        self.running.handle().begin_shutdown();
        closed.wait();
        closed.release();
    }

    /// Stops the server, and lets time pass until it has stopped.
    pub(super) fn stop(self) -> Report {
        self.running.handle().begin_shutdown();
        while self
            .running
            .stopped()
            .recv_timeout(Duration::from_millis(20))
            == Err(RecvTimeoutError::Timeout)
        {
            // Once the server has stopped, its threads are joined in real time. If the clock went
            // on, a thread that takes a while to end would count as stuck.
            if self.running.handle().phase() < Phase::Stopped {
                self.clock.advance(SECOND);
            }
        }
        self.running.join()
    }
}

/// A socket whose reading panics once the peer has sent [`FAULT`].
#[derive(Debug)]
pub(super) struct Faulty(Socket);

/// The bytes that find a fault of the server.
pub(super) const FAULT: &[u8] = b"a fault of the server";

impl Faulty {
    pub(super) fn transport(socket: Socket) -> Box<dyn Transport> {
        Box::new(Self(socket))
    }
}

impl Transport for Faulty {
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.recv(buffer)?;
        assert!(!buffer[..n].starts_with(FAULT), "on purpose");
        Ok(n)
    }

    fn look(&self) -> Look {
        self.0.look()
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)
    }

    fn finish(&self) {
        self.0.finish();
    }

    fn reset(&self) {
        self.0.reset();
    }

    fn info(&self) -> Option<TcpInfo> {
        self.0.info()
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) type Build = fn(ServerBuilder) -> ServerBuilder;

pub(super) struct Client(pub(super) TcpStream);

impl Client {
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Reads one response with a Content-Length: its head and its body.
    ///
    /// It reads the head byte by byte, so that whatever follows the response is left in the stream,
    /// where a test reads it as it is.
    pub(super) fn response(&mut self) -> (String, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&head))
            });
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let len = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    #[track_caller]
    pub(super) fn expect_body(&mut self, expected: &str) {
        let (head, body) = self.response();
        assert_eq!(body, expected, "{head}");
    }

    #[track_caller]
    pub(super) fn expect_status(&mut self, status: &str) -> String {
        let (head, _) = self.response();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        head
    }

    /// Reads the response to `/stream`.
    #[track_caller]
    pub(super) fn expect_stream(&mut self) {
        self.expect_status("200");
        let mut body = [0; b"9\r\nall of it\r\n0\r\n\r\n".len()];
        self.0.read_exact(&mut body).unwrap();
        assert_eq!(&body, b"9\r\nall of it\r\n0\r\n\r\n");
    }

    #[track_caller]
    pub(super) fn expect_end(&mut self) {
        match self.0.read_exact(&mut [0]) {
            Err(error)
                if [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset]
                    .contains(&error.kind()) => {}
            other => panic!("not the end: {other:?}"),
        }
    }
}

pub(super) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

/// Waits until `is_so`, for a state that comes without an event.
#[track_caller]
pub(super) fn wait_until(mut is_so: impl FnMut() -> bool) {
    let (_never, never) = bounded::<()>(0);
    for _ in 0..LIMIT.as_millis() {
        if is_so() {
            return;
        }
        let _ = never.recv_timeout(Duration::from_millis(1));
    }
    panic!("not within {LIMIT:?}");
}

/// Returns what became of each request that was not answered, in the order of the report.
pub(super) fn fates(report: &Report) -> Vec<Fate> {
    report
        .unanswered
        .iter()
        .map(|request| request.fate)
        .collect()
}
