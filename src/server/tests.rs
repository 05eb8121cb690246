//! What needs a clock that stands still, or a thread held at a point: see
//! [`crate::sys::test_points`].

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use rustix::io::Errno;

use super::*;
use crate::conn::body::Body;
use crate::conn::response::Response;
use crate::conn::stages::Request;
use crate::conn::upgraded::accept;
use crate::lifecycle::context::Context;
use crate::sys::clock::ManualClock;
use crate::sys::test_points::{Held, Point, TestPoints};

/// Only ever a failure.
const LIMIT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// A server on a manual clock. `GET /gate` waits until the test opens it; `/big`, `/pulled` and
/// `/pushed` have 32 MiB; `/read` says how reading its body went; `/upgrade` says "bye" at a stop
/// and `/stream` has a thread of its own; everything else is answered with its path.
struct Fixture {
    running: Running,
    clock: Arc<ManualClock>,
    test_points: TestPoints,
    entered: Receiver<()>,
    open: Sender<()>,
    /// What stopped the closure of `/pushed`.
    stalled: Receiver<Option<ErrorKind>>,
}

impl Fixture {
    fn new(build: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
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

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.running.local_addr()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client(stream)
    }

    /// A client whose `bytes` the server has read, and which is about to be parked.
    fn about_to_park(&self, bytes: &[u8]) -> (Client, Held) {
        // The bytes are there before anybody looks for them, so this is the first time it is
        // parked.
        let (accepted, put) = (
            self.test_points.hold(Point::Accepted),
            self.test_points.hold(Point::Put),
        );
        let mut client = self.connect();
        accepted.wait();
        client.send(bytes);
        accepted.release();
        put.wait();
        (client, put)
    }

    /// The same, and it is parked, or will be in a moment.
    fn parked(&self, bytes: &[u8]) -> Client {
        self.about_to_park(bytes).0
    }

    /// Waits until so many connections are parked with nothing under way.
    fn wait_silent(&self, n: usize) {
        let pool = self
            .running
            .handle()
            .0
            .pool
            .get()
            .and_then(Weak::upgrade)
            .unwrap();
        let silent = || {
            pool.table
                .keys()
                .filter(|key| pool.table.slot(*key).silent_since().is_some())
                .count()
        };
        wait_until(|| silent() == n);
    }

    /// Waits until accept(2) has failed, with so many failures left, and the acceptor has looked at
    /// the clock.
    fn wait_paused(&self, left: usize) {
        wait_until(|| {
            self.test_points.accept_errors_left() == left
                && self.running.handle().0.ledger.waits_for_any_end()
        });
    }

    fn enter_gate(&self) -> Client {
        self.enter("/gate")
    }

    fn enter(&self, path: &str) -> Client {
        let mut client = self.connect();
        client.send(&get(path));
        self.entered.recv_timeout(LIMIT).unwrap();
        client
    }

    /// Blocks every worker, each in a route of its own: of one route that was found to be slow, one
    /// worker less is blocked.
    fn block_all(&self, workers: usize) -> Vec<Client> {
        (0..workers)
            .map(|i| self.enter(&format!("/gate-{i}")))
            .collect()
    }

    /// Stops, and lets time pass until it has.
    fn stop(self) -> Report {
        self.running.handle().begin_shutdown();
        while self
            .running
            .stopped()
            .recv_timeout(Duration::from_millis(20))
            == Err(RecvTimeoutError::Timeout)
        {
            // Then threads are joined, which takes the time it takes: one that was slow would count
            // as stuck.
            if self.running.handle().phase() < Phase::Stopped {
                self.clock.advance(SECOND);
            }
        }
        self.running.join()
    }
}

type Build = fn(ServerBuilder) -> ServerBuilder;

struct Client(TcpStream);

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Reads one response with a Content-Length: its status line and its body.
    fn response(&mut self) -> (String, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(
                self.0.read(&mut byte).unwrap(),
                1,
                "closed after {:?}",
                String::from_utf8_lossy(&head)
            );
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
    fn expect_body(&mut self, expected: &str) {
        let (head, body) = self.response();
        assert_eq!(body, expected, "{head}");
    }

    #[track_caller]
    fn expect_status(&mut self, status: &str) -> String {
        let (head, _) = self.response();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        head
    }

    /// Reads the response to `/stream`.
    #[track_caller]
    fn expect_stream(&mut self) {
        self.expect_status("200");
        let mut body = [0; b"9\r\nall of it\r\n0\r\n\r\n".len()];
        self.0.read_exact(&mut body).unwrap();
        assert_eq!(&body, b"9\r\nall of it\r\n0\r\n\r\n");
    }

    #[track_caller]
    fn expect_end(&mut self) {
        match self.0.read(&mut [0; 64]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("not the end: {other:?}"),
        }
    }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

// Deadlines.

#[test]
fn a_client_that_never_speaks_is_closed_without_a_byte() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"");
    server.clock.advance(10 * SECOND);
    client.expect_end();
    assert_eq!(server.stop().closed_because(CloseReason::Silent), 1);
}

#[test]
fn half_a_head_is_answered_with_408() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"GET / HTT");
    server.clock.advance(10 * SECOND);
    let head = client.expect_status("408");
    assert!(head.contains("Connection: close"), "{head}");
    client.expect_end();
}

#[test]
fn a_head_that_trickles_does_not_get_more_time() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"GET / HTT");
    server.clock.advance(9 * SECOND);
    let held = server.test_points.hold(Point::Put);
    client.send(b"P");
    held.wait();
    held.release();
    server.clock.advance(SECOND);
    client.expect_status("408");
}

#[test]
fn an_idle_connection_is_closed_after_its_timeout_and_not_before() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(&get("/a"));
    client.expect_body("/a");
    server.clock.advance(59 * SECOND);
    client.send(&get("/b"));
    client.expect_body("/b");
    server.clock.advance(61 * SECOND);
    client.expect_end();
    assert_eq!(server.stop().closed_because(CloseReason::Idle), 1);
}

#[test]
fn a_body_that_stops_coming_is_answered_with_408() {
    let server = Fixture::new(|builder| builder.min_rate(0));
    let mut client =
        server.parked(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    server.clock.advance(29 * SECOND);
    server.clock.advance(SECOND);
    client.expect_status("408");
}

#[test]
fn a_body_below_the_least_rate_is_answered_with_408() {
    let server = Fixture::new(|builder| builder);
    let mut client =
        server.parked(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n12345");
    server.clock.advance(10 * SECOND);
    client.expect_status("408");
}

#[test]
fn a_peer_that_takes_nothing_is_reset_after_the_write_timeout() {
    let server = Fixture::new(|builder| builder.min_rate(0));
    let mut client = server.parked(&get("/big"));
    // What the kernel still passes on to the peer's buffer is progress.
    while server.running.handle().stats().open > 0 {
        server.clock.advance(30 * SECOND);
        let _ = server
            .running
            .stopped()
            .recv_timeout(Duration::from_millis(20));
    }
    // Bytes that were under way may still be read, or be destroyed by the RST.
    let mut taken = 0;
    let mut buffer = vec![0; 1 << 20];
    let ended = loop {
        match client.0.read(&mut buffer) {
            Ok(0) => break false,
            Ok(n) => taken += n,
            Err(error) => break error.kind() == ErrorKind::ConnectionReset,
        }
    };
    assert!(ended && taken < 32 << 20, "{taken} bytes, reset: {ended}");
    let report = server.stop();
    assert_eq!(report.closed_because(CloseReason::Stalled), 1, "{report}");
}

#[test]
fn a_peer_that_takes_less_than_the_least_rate_is_reset_however_long_it_may_be_silent() {
    for path in ["/big", "/pulled"] {
        let server = Fixture::new(|builder| builder.write_timeout(Duration::MAX));
        let mut client = server.parked(&get(path));
        let mut some = [0; 1000];
        // A hundred bytes a second of time, which the kernel's buffers make less even, are not
        // enough.
        wait_until(|| {
            server.clock.advance(10 * SECOND);
            let _ = client.0.read(&mut some);
            server.running.handle().stats().open == 0
        });
        assert_eq!(
            server.stop().closed_because(CloseReason::Stalled),
            1,
            "{path}"
        );
    }
}

#[test]
fn a_closure_whose_peer_takes_too_little_gets_an_error() {
    // By silence, and by the rate.
    let builders: [Build; 2] = [
        |builder| builder.min_rate(0),
        |builder| builder.write_timeout(Duration::MAX),
    ];
    for build in builders {
        let server = Fixture::new(build);
        let mut client = server.connect();
        client.send(&get("/pushed"));
        wait_until(|| {
            server.clock.advance(10 * SECOND);
            !server.stalled.is_empty()
        });
        assert_eq!(
            server.stalled.recv_timeout(LIMIT).unwrap(),
            Some(ErrorKind::TimedOut)
        );
        assert_eq!(server.stop().closed_because(CloseReason::Failed), 1);
    }
}

#[test]
fn a_handler_whose_body_comes_too_slowly_gets_an_error() {
    let head = b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n12345";
    let builders: [(Build, u32); 2] = [
        (|builder| builder.min_rate(0), 30),
        (|builder| builder.body_timeout(Duration::MAX), 10),
    ];
    for (build, seconds) in builders {
        let server = Fixture::new(|builder| build(builder.collect_bytes(0)));
        let mut client = server.connect();
        client.send(head);
        server.entered.recv_timeout(LIMIT).unwrap();
        // A second before its time, it still waits.
        for _ in 1..seconds {
            server.clock.advance(SECOND);
            let _ = server
                .running
                .stopped()
                .recv_timeout(Duration::from_millis(3));
        }
        client.0.set_nonblocking(true).unwrap();
        assert_eq!(
            client.0.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        client.0.set_nonblocking(false).unwrap();
        wait_until(|| {
            server.clock.advance(SECOND);
            client.0.peek(&mut [0]).is_ok()
        });
        client.expect_body(&ErrorKind::TimedOut.to_string());
    }
}

#[test]
fn a_body_nobody_reads_is_waited_for_for_a_second() {
    let server = Fixture::new(|builder| builder.collect_bytes(0));
    let mut client =
        server.parked(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    client.expect_body("/unread");
    server.clock.advance(SECOND);
    client.expect_end();
    drop(client);
    assert_eq!(server.stop().closed_because(CloseReason::Refused), 1);
}

#[test]
fn who_talks_on_after_the_last_response_is_listened_to_for_a_megabyte() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.expect_body("/last");
    // The clock stands still: it is the bytes that are too many.
    let piece = [b'x'; 10_000];
    let mut sent = 0;
    while client.0.write_all(&piece).is_ok() {
        sent += piece.len();
    }
    assert!(sent >= 1 << 20, "after {sent} bytes");
    assert_eq!(server.stop().closed_because(CloseReason::Asked), 1);
}

#[test]
#[cfg(target_os = "linux")]
fn who_has_acknowledged_everything_and_is_silent_is_waited_for_for_a_quarter_of_a_second() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.expect_body("/last");
    client.expect_end();
    // Its kernel acknowledges our end within 40 ms that this clock does not see; seven quarters are
    // less than two seconds.
    let is_closed = (0..7).any(|_| {
        server.clock.advance(SECOND / 4);
        let _ = server
            .running
            .stopped()
            .recv_timeout(Duration::from_millis(50));
        server.running.handle().stats().open == 0
    });
    assert!(is_closed);
}

#[test]
fn connections_on_their_way_to_a_worker_are_counted_and_the_rest_wait_in_the_backlog() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.maximum.is_some_and(|limit| limit < 4096) {
        return;
    }
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let server = Fixture::new(|builder| builder.workers(1));
    server.parked(&get("/a")).expect_body("/a");
    // The only worker has an event in its hand, and takes nothing out of the channel.
    let mut first = server.parked(&get("/b"));
    first.expect_body("/b");
    let held = server.test_points.hold(Point::Event);
    first.send(&get("/c"));
    held.wait();
    let stats = || server.running.handle().stats();
    let before = stats().accepted;
    let mut clients: Vec<_> = (0..MAX_ACCEPTED + 100).map(|_| server.connect()).collect();
    wait_until(|| stats().accepted - before >= MAX_ACCEPTED as u64);
    let _ = server
        .running
        .stopped()
        .recv_timeout(Duration::from_millis(50));
    assert_eq!(stats().accepted - before, MAX_ACCEPTED as u64);
    held.release();
    for client in &mut clients {
        client.send(&get("/d"));
    }
    clients
        .iter_mut()
        .for_each(|client| client.expect_body("/d"));
}

#[test]
fn a_request_that_finds_no_worker_is_answered_with_503() {
    for workers in [1, 4] {
        let server = Fixture::new(|builder| builder.workers(workers));
        let gates = server.block_all(workers);
        // Only the monitor can park it now.
        let held = server.test_points.hold(Point::Queued);
        let mut waiting = server.connect();
        waiting.send(&get("/waits"));
        held.wait();
        held.release();
        server.clock.advance(10 * SECOND);
        let head = waiting.expect_status("503");
        assert!(head.contains("retry-after: "), "{head}");
        gates.iter().for_each(|_| server.open.send(()).unwrap());
        for mut gate in gates {
            gate.expect_status("200");
        }
        assert!(server.stop().is_clean());
    }
}

#[test]
fn a_response_that_waits_for_a_place_is_given_up_in_time() {
    // One of two workers may wait for a client.
    let server = Fixture::new(|builder| {
        builder
            .workers(2)
            .collect_bytes(0)
            .write_timeout(Duration::MAX)
            .min_rate(0)
    });
    let mut echo = server.connect();
    echo.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    let mut writer = echo.0.try_clone().unwrap();
    let writing = std::thread::spawn(move || while writer.write_all(&[b'x'; 64 << 10]).is_ok() {});
    server.entered.recv_timeout(LIMIT).unwrap();
    // Its client takes nothing back, or it has had its turn: it leaves its place to another one,
    // and finds none again.
    let mut holds = server.enter("/hold");
    let mut some = vec![0; 64 << 10];
    let reading = std::thread::spawn(move || while echo.0.read(&mut some).is_ok_and(|n| n > 0) {});
    wait_until(|| {
        server.clock.advance(10 * SECOND);
        server.running.handle().stats().overloaded == 1
    });
    writing.join().unwrap();
    reading.join().unwrap();
    server.open.send(()).unwrap();
    holds.expect_status("200");
}

#[test]
fn with_all_workers_blocked_heads_are_read_and_deadlines_kept() {
    for workers in [1, 4] {
        let server = Fixture::new(|builder| builder.workers(workers));
        let gates = server.block_all(workers);
        let mut silent = server.parked(b"");
        let mut half = server.parked(b"GET / HT");
        server.clock.advance(10 * SECOND);
        half.expect_status("408");
        silent.expect_end();
        gates.iter().for_each(|_| server.open.send(()).unwrap());
        for mut gate in gates {
            gate.expect_status("200");
        }
    }
}

#[test]
fn a_client_that_does_not_close_after_our_end_is_given_up() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.expect_body("/last");
    client.expect_end();
    assert_eq!(server.running.handle().stats().open, 1, "it lingers");
    server.clock.advance(2 * SECOND);
    assert_eq!(server.stop().closed_because(CloseReason::Asked), 1);
}

#[test]
fn a_refused_client_may_pause_before_it_sends_the_rest_of_its_body() {
    let server = Fixture::new(|builder| builder.head_timeout(SECOND));
    let mut refused =
        server.parked(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\nContent-Length: 5\r\n\r\n");
    refused.expect_status("417");
    refused.expect_end();
    // Else its kernel acknowledges our end 40 ms later.
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_quickack(&refused.0, true).unwrap();
    let mut half = server.parked(b"GET / HTT");
    server.clock.advance(SECOND);
    // The sweeper has looked at all whose time had come, and at this one last.
    half.expect_status("408");
    assert_eq!(server.running.handle().stats().open, 2, "both linger");
    refused.send(b"he");
    refused.send(b"llo");
    assert_eq!(server.stop().closed_because(CloseReason::Refused), 2);
}

#[test]
fn a_draining_server_gives_idle_connections_their_grace_and_not_more() {
    let server = Fixture::new(|builder| builder);
    let mut idle = server.parked(&get("/a"));
    idle.expect_body("/a");
    let closed = server.test_points.hold(Point::Closed);
    server.running.handle().begin_shutdown();
    closed.wait();
    closed.release();
    idle.send(&get("/b"));
    let (head, body) = idle.response();
    assert!(body == "/b" && head.contains("Connection: close"), "{head}");
    idle.expect_end();
    drop(idle);
    assert!(server.stop().is_clean());
}

#[test]
fn silent_and_idle_connections_end_at_idle_grace_and_not_at_the_deadline() {
    let server = Fixture::new(|builder| builder);
    let mut silent = server.parked(b"");
    let mut idle = server.parked(&get("/a"));
    idle.expect_body("/a");
    let closed = server.test_points.hold(Point::Closed);
    server.running.handle().begin_shutdown();
    closed.wait();
    closed.release();
    server.clock.advance(SECOND);
    silent.expect_end();
    idle.expect_end();
    let report = server.stop();
    assert_eq!(
        report.closed_because(CloseReason::IdleStopping),
        2,
        "{report}"
    );
}

// Room.

/// Idle connections, each of which was used a second after the one before; then the clock goes on
/// by `then`.
fn idle_clients(server: &Fixture, n: usize, then: Duration) -> Vec<Client> {
    let clients = (0..n).map(|i| {
        let mut client = server.parked(&get(&format!("/{i}")));
        client.expect_body(&format!("/{i}"));
        server.wait_silent(i + 1);
        server.clock.advance(SECOND);
        client
    });
    let clients = clients.collect();
    server.clock.advance(then);
    clients
}

#[track_caller]
fn assert_served(server: &Fixture) -> Client {
    let mut client = server.connect();
    client.send(&get("/new"));
    client.expect_body("/new");
    client
}

#[test]
fn a_full_server_closes_who_has_been_idle_longest() {
    let server = Fixture::new(|builder| builder.max_connections(3));
    let mut idle = idle_clients(&server, 3, SECOND);
    let mut new = Vec::new();
    for left in (0..3).rev() {
        new.push(assert_served(&server));
        idle.remove(0).expect_end();
        for client in &mut idle {
            client.0.set_nonblocking(true).unwrap();
            assert_eq!(
                client.0.read(&mut [0]).unwrap_err().kind(),
                ErrorKind::WouldBlock,
                "{left} are left"
            );
            client.0.set_nonblocking(false).unwrap();
        }
    }
    assert_eq!(server.running.handle().stats().evicted, 3);
    let report = server.stop();
    assert_eq!(
        (report.closed_because(CloseReason::Evicted), report.accepted),
        (3, 6),
        "{report}"
    );
}

#[test]
fn a_full_server_closes_nobody_while_nobody_waits() {
    let server = Fixture::new(|builder| builder.max_connections(2));
    let mut idle = idle_clients(&server, 2, 30 * SECOND);
    for (i, client) in idle.iter_mut().enumerate() {
        client.send(&get(&format!("/{i}")));
        client.expect_body(&format!("/{i}"));
    }
    assert_eq!(server.stop().closed_because(CloseReason::Evicted), 0);
}

#[test]
fn a_new_connection_waits_until_somebody_has_been_idle_for_long_enough() {
    let server = Fixture::new(|builder| builder.max_connections(1));
    let mut idle = server.parked(&get("/a"));
    idle.expect_body("/a");
    let mut new = server.connect();
    new.send(&get("/new"));
    server.clock.advance(SECOND / 2);
    idle.send(&get("/b"));
    idle.expect_body("/b");
    server.clock.advance(SECOND / 2);
    idle.send(&get("/c"));
    idle.expect_body("/c");
    // Its kernel may take its time to acknowledge the last answer, and the clock stands still
    // meanwhile.
    wait_until(|| {
        server.clock.advance(SECOND);
        server.running.handle().stats().evicted == 1
    });
    idle.expect_end();
    new.expect_body("/new");
    assert!(server.stop().paused >= SECOND, "it was not let in at once");
}

#[test]
fn a_full_server_lets_one_in_when_another_one_ends() {
    let server = Fixture::new(|builder| builder.max_connections(1));
    let gate = server.enter_gate();
    let mut new = server.connect();
    new.send(&get("/new"));
    server.open.send(()).unwrap();
    drop(gate);
    new.expect_body("/new");
}

#[test]
fn without_descriptors_the_end_of_a_connection_is_enough() {
    let server = Fixture::new(|builder| builder);
    let gate = server.enter_gate();
    server.test_points.fail_accept(Errno::MFILE, 1);
    let mut new = server.connect();
    new.send(&get("/new"));
    server.wait_paused(0);
    // The clock stands still: nothing else can wake the acceptor.
    server.open.send(()).unwrap();
    drop(gate);
    new.expect_body("/new");
}

#[test]
fn who_has_sent_a_request_is_served_and_the_next_one_makes_room() {
    let server = Fixture::new(|builder| builder.max_connections(2));
    let mut idle = idle_clients(&server, 2, SECOND);
    // The worker that has the event has not claimed its connection.
    let held = server.test_points.hold(Point::Event);
    idle[0].send(&get("/late"));
    held.wait();
    let _new = assert_served(&server);
    idle[0].expect_body("/late");
    idle[1].expect_end();
    held.release();
    assert_eq!(server.stop().closed_because(CloseReason::Evicted), 1);
}

#[test]
fn a_silent_connection_makes_room_once_it_has_had_its_time() {
    let server = Fixture::new(|builder| builder.max_connections(1));
    let mut silent = server.parked(b"");
    server.wait_silent(1);
    let mut new = server.connect();
    new.send(&get("/new"));
    server.clock.advance(SECOND);
    silent.expect_end();
    new.expect_body("/new");
    assert_eq!(server.stop().closed_because(CloseReason::Evicted), 1);
}

#[test]
fn without_descriptors_the_longest_idle_one_makes_room_however_short_that_is() {
    for error in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
        let server = Fixture::new(|builder| builder);
        let mut idle = idle_clients(&server, 2, Duration::ZERO);
        server.test_points.fail_accept(error, 1);
        let _new = assert_served(&server);
        idle[0].expect_end();
        idle[1].send(&get("/b"));
        idle[1].expect_body("/b");
        assert_eq!(
            server.stop().closed_because(CloseReason::Evicted),
            1,
            "{error}"
        );
    }
}

#[test]
fn a_descriptor_that_somebody_else_has_taken_costs_one_connection_and_not_all() {
    let server = Fixture::new(|builder| builder);
    let _idle = idle_clients(&server, 3, Duration::ZERO);
    server.test_points.fail_accept(Errno::MFILE, 2);
    let mut new = server.connect();
    new.send(&get("/new"));
    server.wait_paused(0);
    server.clock.advance(SECOND);
    new.expect_body("/new");
    assert_eq!(server.stop().closed_because(CloseReason::Evicted), 1);
}

#[test]
fn without_descriptors_and_idle_connections_the_server_waits_and_does_not_spin() {
    let server = Fixture::new(|builder| builder);
    server.test_points.fail_accept(Errno::MFILE, 3);
    let mut new = server.connect();
    new.send(&get("/new"));
    // One attempt each time, and none in between: the clock stands still.
    for left in (0..3).rev() {
        server.wait_paused(left);
        let _ = server
            .running
            .stopped()
            .recv_timeout(Duration::from_millis(20));
        assert_eq!(server.test_points.accept_errors_left(), left);
        server.clock.advance(SECOND / 10);
    }
    new.expect_body("/new");
    let report = server.stop();
    assert_eq!(report.paused, 3 * SECOND / 10, "{report}");
}

#[test]
fn a_connection_that_is_gone_before_it_is_accepted_holds_up_nobody() {
    let errors = [Errno::CONNABORTED, Errno::PROTO, Errno::INTR];
    #[cfg(target_os = "linux")]
    let errors = [
        &errors[..],
        &[Errno::PERM, Errno::HOSTUNREACH, Errno::NETDOWN],
    ]
    .concat();
    for error in errors {
        let server = Fixture::new(|builder| builder);
        let mut idle = server.parked(&get("/a"));
        idle.expect_body("/a");
        server.wait_silent(1);
        server.test_points.fail_accept(error, 100);
        let _new = assert_served(&server);
        let report = server.stop();
        assert_eq!(
            (report.closed_because(CloseReason::Evicted), report.paused),
            (0, Duration::ZERO),
            "{error}"
        );
    }
}

#[test]
fn a_listener_that_always_fails_does_not_make_the_acceptor_spin() {
    for (error, times) in [(Errno::CONNABORTED, 1025), (Errno::INVAL, 1)] {
        // Another one each time: the end of a connection would have the acceptor try at once.
        let server = Fixture::new(|builder| builder);
        server.test_points.fail_accept(error, 2 * times);
        let mut new = server.connect();
        new.send(&get("/new"));
        for left in [times, 0] {
            server.wait_paused(left);
            server.clock.advance(SECOND / 10);
        }
        new.expect_body("/new");
    }
}

/// Waits for what nobody tells of.
#[track_caller]
fn wait_until(mut is_so: impl FnMut() -> bool) {
    let (_never, never) = bounded::<()>(0);
    for _ in 0..LIMIT.as_millis() {
        if is_so() {
            return;
        }
        let _ = never.recv_timeout(Duration::from_millis(1));
    }
    panic!("not within {LIMIT:?}");
}

// TestPoints.

#[test]
fn bytes_that_come_between_put_and_park_are_not_missed() {
    let server = Fixture::new(|builder| builder);
    let (mut client, held) = server.about_to_park(&get("/a"));
    client.expect_body("/a");
    client.send(&get("/b"));
    held.release();
    client.expect_body("/b");
}

#[test]
fn an_end_that_comes_between_put_and_park_with_bytes_before_it_is_not_missed() {
    // Two workers: one is held, so the other one is who sees the events.
    let server = Fixture::new(|builder| builder.workers(2));
    let (mut client, held) = server.about_to_park(&get("/a"));
    client.expect_body("/a");
    let bytes = server.test_points.hold(Point::Event);
    client.send(&get("/b"));
    bytes.wait();
    client.0.shutdown(Shutdown::Write).unwrap();
    let end = server.test_points.hold(Point::Event);
    bytes.release();
    end.wait();
    let marked = server.test_points.hold(Point::Asleep);
    end.release();
    marked.wait();
    marked.release();
    held.release();
    client.expect_body("/b");
    // No further event tells of the end: without its own mark the connection would stay open.
    client.expect_end();
}

#[test]
fn a_poller_about_to_sleep_sees_the_connection_that_comes() {
    let server = Fixture::new(|builder| builder.workers(1));
    server.parked(&get("/a")).expect_body("/a");
    let held = server.test_points.hold(Point::Asleep);
    // Any event makes it go round.
    let mut first = server.connect();
    first.send(&get("/b"));
    held.wait();
    let mut second = server.connect();
    second.send(&get("/c"));
    held.release();
    first.expect_body("/b");
    second.expect_body("/c");
}

#[test]
fn an_event_for_a_connection_that_was_given_up_meanwhile_is_harmless() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(b"GET / HT");
    let held = server.test_points.hold(Point::Event);
    client.send(b"T");
    held.wait();
    server.clock.advance(10 * SECOND);
    client.expect_status("408");
    held.release();
    let mut other = server.connect();
    other.send(&get("/other"));
    other.expect_body("/other");
}

#[test]
fn a_request_that_comes_with_its_deadline_is_served() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(&get("/a"));
    client.expect_body("/a");
    let held = server.test_points.hold(Point::Overdue);
    server.clock.advance(60 * SECOND);
    held.wait();
    client.send(&get("/b"));
    client.expect_body("/b");
    held.release();
    client.send(&get("/c"));
    client.expect_body("/c");
}

#[test]
fn a_handler_that_returns_while_its_permit_is_revoked_keeps_the_count() {
    for _ in 0..20 {
        let server = Fixture::new(|builder| builder.workers(2));
        let revoking = server.test_points.hold(Point::Revoking);
        let mut client = server.enter_gate();
        revoking.wait();
        let returned = server.test_points.hold(Point::Returned);
        server.open.send(()).unwrap();
        returned.wait();
        returned.release();
        client.expect_body("/gate");
        revoking.release();
        for _ in 0..10 {
            let mut client = server.connect();
            client.send(&get("/a"));
            client.expect_body("/a");
        }
        // With a permit lost or gained one of these two would hang or be refused.
        let gates: Vec<_> = (0..2).map(|_| server.connect()).collect();
        for mut gate in gates {
            gate.send(&get("/gate"));
            server.entered.recv_timeout(LIMIT).unwrap();
            server.open.send(()).unwrap();
            gate.expect_body("/gate");
        }
    }
}

#[test]
fn a_permit_on_its_way_holds_nobody_up_for_good() {
    let server = Fixture::new(|builder| builder.workers(2));
    let giving = server.test_points.hold(Point::Giving);
    let mut gate = server.enter_gate();
    giving.wait();
    let mut other = server.connect();
    other.send(&get("/a"));
    giving.release();
    other.expect_body("/a");
    server.open.send(()).unwrap();
    gate.expect_body("/gate");
}

#[test]
fn a_place_that_comes_free_while_a_call_goes_to_wait_is_not_missed() {
    let server = Fixture::new(|builder| builder.workers(2));
    // One is found to be slow, so a second one needs a place, and there is one.
    let revoked = server.test_points.hold(Point::Giving);
    let mut first = server.enter_gate();
    revoked.wait();
    revoked.release();
    let held = server.test_points.hold(Point::LaneFull);
    let mut second = server.connect();
    second.send(&get("/gate"));
    held.wait();
    server.open.send(()).unwrap();
    first.expect_body("/gate");
    held.release();
    server.entered.recv_timeout(LIMIT).unwrap();
    server.open.send(()).unwrap();
    second.expect_body("/gate");
}

#[test]
fn a_connection_in_the_acceptors_hand_at_the_stop_is_served() {
    let server = Fixture::new(|builder| builder);
    let held = server.test_points.hold(Point::Accepted);
    let mut client = server.connect();
    client.send(&get("/a"));
    held.wait();
    server.running.handle().begin_shutdown();
    held.release();
    client.expect_body("/a");
    drop(client);
    assert!(server.stop().is_clean());
}

#[test]
fn a_connection_that_comes_before_the_listener_closes_is_served() {
    let server = Fixture::new(|builder| builder);
    let held = server.test_points.hold(Point::Draining);
    server.running.handle().begin_shutdown();
    held.wait();
    let mut client = server.connect();
    client.send(&get("/a"));
    held.release();
    client.expect_body("/a");
    drop(client);
    let report = server.stop();
    assert_eq!(report.backlog, 1, "{report}");
    assert!(report.is_clean());
}

#[test]
#[cfg(target_os = "linux")]
fn the_gate_keeps_new_connections_out_and_those_in_the_backlog_in() {
    let server = Fixture::new(|builder| builder);
    let (draining, gated) = (
        server.test_points.hold(Point::Draining),
        server.test_points.hold(Point::Gated),
    );
    server.running.handle().begin_shutdown();
    draining.wait();
    let mut client = server.connect();
    client.send(&get("/a"));
    draining.release();
    gated.wait();
    let late = TcpStream::connect_timeout(&server.running.local_addr(), Duration::from_millis(200));
    assert_eq!(
        late.unwrap_err().kind(),
        ErrorKind::TimedOut,
        "its SYN was dropped, neither answered nor refused"
    );
    gated.release();
    client.expect_body("/a");
    drop(client);
    let report = server.stop();
    assert_eq!(
        (report.backlog, report.backlog_left, report.ungated),
        (1, 0, 0),
        "{report}"
    );
}

#[test]
fn a_request_whose_event_is_late_is_found_by_the_last_look() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(&get("/a"));
    client.expect_body("/a");
    let held = server.test_points.hold(Point::Event);
    client.send(&get("/b"));
    held.wait();
    server.clock.advance(60 * SECOND);
    client.expect_body("/b");
    held.release();
}

#[test]
fn a_request_that_crosses_our_end_of_an_idle_connection_is_reported() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(&get("/a"));
    client.expect_body("/a");
    let closed = server.test_points.hold(Point::Closed);
    server.running.handle().begin_shutdown();
    closed.wait();
    closed.release();
    server.clock.advance(SECOND);
    client.expect_end();
    client.send(&get("/late?x=1"));
    client.0.shutdown(Shutdown::Write).unwrap();
    let report = server.stop();
    assert_eq!(report.raced.len(), 1, "{report}");
    assert_eq!(report.raced[0].target, "/late?x=1");
    assert!(!report.raced[0].told && !report.is_clean(), "{report}");
}

#[test]
fn a_handler_that_returns_just_before_the_cut_is_answered() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.enter_gate();
    let held = server.test_points.hold(Point::Cutting);
    server
        .running
        .handle()
        .begin_shutdown_within(Duration::ZERO);
    held.wait();
    server.open.send(()).unwrap();
    client.expect_body("/gate");
    held.release();
    drop(client);
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_handler_that_returns_after_the_cut_writes_nothing() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.enter_gate();
    let stopping = server.running.handle();
    stopping.begin_shutdown_within(Duration::ZERO);
    client.expect_status("503");
    server.open.send(()).unwrap();
    client.expect_end();
    drop(client);
    let report = server.stop();
    assert_eq!(report.cut.len(), 1, "{report}");
    assert!(
        report.cut[0].answered_503 && report.cut[0].started,
        "{report}"
    );
}

#[test]
fn a_request_that_is_read_while_the_cut_goes_by_is_answered_by_its_next_pass() {
    let server = Fixture::new(|builder| builder);
    let mut client = server.parked(&get("/a"));
    client.expect_body("/a");
    let held = server.test_points.hold(Point::Claimed);
    client.send(&get("/b"));
    held.wait();
    // In the table behind it: when this one has its 503, the cut has passed both.
    let mut other = server.enter_gate();
    server
        .running
        .handle()
        .begin_shutdown_within(Duration::ZERO);
    other.expect_status("503");
    held.release();
    let answer = std::thread::spawn(move || {
        client.expect_status("503");
        client.expect_end();
    });
    while !answer.is_finished() && server.running.handle().phase() < Phase::Stopped {
        server.clock.advance(Duration::from_millis(20));
        let _ = server
            .running
            .stopped()
            .recv_timeout(Duration::from_millis(1));
    }
    server.open.send(()).unwrap();
    drop(other);
    answer.join().unwrap();
    let report = server.stop();
    assert_eq!(
        (report.cut.len(), report.never_started.len()),
        (1, 1),
        "{report}"
    );
}

// Threads that belong to one connection.

const UPGRADE: &[u8] =
    b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n";

#[track_caller]
fn assert_each_is_counted_once(report: &Report) {
    let closed: u64 = report.closed.iter().map(|(_, n)| n).sum();
    assert_eq!(closed, report.accepted, "{report:?}");
}

#[test]
fn an_upgrade_let_through_just_before_the_drain_is_told_and_waited_for() {
    for point in [Point::Detaching, Point::DedicatedBegun] {
        let server = Fixture::new(|builder| builder);
        let held = server.test_points.hold(point);
        let mut client = server.connect();
        client.send(UPGRADE);
        held.wait();
        let closed = server.test_points.hold(Point::Closed);
        server.running.handle().begin_shutdown();
        closed.wait();
        closed.release();
        held.release();
        client.expect_status("101");
        let mut bye = [0; 3];
        client.0.read_exact(&mut bye).unwrap();
        assert_eq!(&bye, b"bye");
        assert!(
            server
                .running
                .stopped()
                .try_recv()
                .is_err_and(|error| error.is_empty()),
            "it is waited for"
        );
        client.0.shutdown(Shutdown::Write).unwrap();
        client.expect_end();
        let report = server.stop();
        assert_eq!(
            (
                report.upgraded.told,
                report.upgraded.finished,
                report.upgraded.cut
            ),
            (1, 1, 0),
            "{report}"
        );
        assert_each_is_counted_once(&report);
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn who_is_cut_before_its_thread_has_begun_gets_503_and_not_a_byte_more() {
    let stream = &get("/stream")[..];
    for (point, request) in [
        (Point::Detaching, UPGRADE),
        (Point::Detaching, stream),
        (Point::DedicatedBegun, UPGRADE),
        (Point::DedicatedBegun, stream),
    ] {
        let server = Fixture::new(|builder| builder);
        let held = server.test_points.hold(point);
        let mut client = server.connect();
        client.send(request);
        held.wait();
        server
            .running
            .handle()
            .begin_shutdown_within(Duration::ZERO);
        client.expect_status("503");
        // It comes back to the pool, which waits for the client's end: an RST could destroy the 503
        // on its way.
        let put = server.test_points.hold(Point::Put);
        held.release();
        put.wait();
        put.release();
        assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
        drop(client);
        let report = server.stop();
        assert_eq!((report.cut.len(), report.upgraded.told), (1, 0), "{report}");
        assert!(
            report.cut[0].answered_503 && report.cut[0].started && !report.cut[0].upgraded,
            "{report}"
        );
        assert_each_is_counted_once(&report);
    }
}

#[test]
fn a_connection_whose_thread_ends_while_the_stop_cuts_is_closed_and_counted_once() {
    // Before the cut; and when even the grace behind it is over, and nobody goes by any more.
    for late in [false, true] {
        let server = Fixture::new(|builder| builder);
        let ended = server.test_points.hold(Point::DedicatedEnded);
        let (cutting, joining) = (
            server.test_points.hold(Point::Cutting),
            server.test_points.hold(Point::Joining),
        );
        let mut client = server.connect();
        client.send(&get("/stream"));
        ended.wait();
        server
            .running
            .handle()
            .begin_shutdown_within(Duration::ZERO);
        cutting.wait();
        let put = server.test_points.hold(Point::Put);
        if late {
            cutting.release();
            server.clock.advance(10 * SECOND);
            joining.wait();
            ended.release();
            put.wait();
            put.release();
        } else {
            ended.release();
            put.wait();
            put.release();
            cutting.release();
        }
        drop(joining);
        client.expect_stream();
        let report = server.stop();
        assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
        assert_each_is_counted_once(&report);
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn a_peer_that_is_gone_before_its_thread_begins_is_counted_once() {
    for point in [Point::Detaching, Point::DedicatedBegun] {
        let server = Fixture::new(|builder| builder);
        let held = server.test_points.hold(point);
        let mut client = server.connect();
        client.send(UPGRADE);
        held.wait();
        rustix::net::sockopt::set_socket_linger(&client.0, Some(Duration::ZERO)).unwrap();
        drop(client);
        let closed = server.test_points.hold(Point::Closed);
        server.running.handle().begin_shutdown();
        closed.wait();
        closed.release();
        held.release();
        let report = server.stop();
        assert_each_is_counted_once(&report);
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn a_deadline_that_passes_while_a_thread_has_the_connection_does_not_end_it_and_the_next_one_does()
{
    let server = Fixture::new(|builder| builder);
    // Parked once, so that there is a deadline.
    let mut client = server.parked(&get("/a"));
    client.expect_body("/a");
    server.wait_silent(1);
    let begun = server.test_points.hold(Point::DedicatedBegun);
    client.send(&get("/stream"));
    begun.wait();
    let overdue = server.test_points.hold(Point::Overdue);
    server.clock.advance(61 * SECOND);
    overdue.wait();
    begun.release();
    client.expect_stream();
    overdue.release();
    client.send(&get("/b"));
    client.expect_body("/b");
    server.wait_silent(1);
    server.clock.advance(61 * SECOND);
    client.expect_end();
    assert_eq!(server.stop().closed_because(CloseReason::Idle), 1);
}
