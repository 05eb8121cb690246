//! A transport that works as TLS does gets from the server what a plain socket gets.
//!
//! The transport here has all of TLS but its secrets: a handshake, records, bytes kept on both
//! sides, and a last word before the end. What the server does for it, it will do for TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;

use crate::conn::transport::{Look, Socket, Transport};
use crate::lifecycle::ledger::CloseReason;
use crate::sys::clock::{Clock, ManualClock};
use crate::sys::socket::TcpInfo;
use crate::{Body, Context, Report, Request, Running, Server};

const LIMIT: Duration = Duration::from_secs(10);

/// The client's part of the handshake, which it sends in two steps.
const HELLO: [&[u8]; 2] = [b"HEL", b"LO"];
/// The server's part of the handshake.
const WELCOME: &[u8] = b"WELCOME";
/// The most bytes in one record. A record is its length in two bytes, and then so many hidden
/// bytes. A record of no bytes is the last word, as TLS has `close_notify`.
const RECORD_MAX: usize = 5000;
/// The byte by which the bytes of a record are hidden, with xor.
const HIDDEN: u8 = 0x5a;
/// The most bytes that one read gives, so that most reads leave something in the transport.
const PIECE: usize = 100;

#[derive(Debug)]
struct Records {
    socket: Socket,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Bytes as they came from the socket.
    received: Vec<u8>,
    /// The contents of complete records, not yet read.
    plain: Vec<u8>,
    /// Records that the kernel has not taken.
    unsent: Vec<u8>,
    /// Whether the handshake is complete.
    is_welcome: bool,
    /// Whether the peer's last word came.
    end: bool,
    /// Whether the server's last word was sent.
    said: bool,
    /// Whether the kernel may hold more bytes to receive.
    more: bool,
}

impl Inside {
    /// Takes the handshake and complete records out of the received bytes.
    fn open(&mut self) {
        let hello = HELLO.concat();
        if !self.is_welcome && self.received.starts_with(&hello) {
            self.received.drain(..hello.len());
            self.unsent.extend_from_slice(WELCOME);
            self.is_welcome = true;
        }
        while self.is_welcome && self.received.len() >= 2 {
            let len = usize::from(u16::from_be_bytes([self.received[0], self.received[1]]));
            if self.received.len() < 2 + len {
                break;
            }
            self.end |= len == 0;
            self.plain
                .extend(self.received[2..2 + len].iter().map(|byte| byte ^ HIDDEN));
            self.received.drain(..2 + len);
        }
    }

    /// Sends the unsent records; false: the kernel has not taken all of them.
    fn flush(&mut self, socket: &Socket) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match socket.send(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Returns `bytes` as records.
fn seal(bytes: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    for piece in bytes.chunks(RECORD_MAX) {
        records.extend_from_slice(&(piece.len() as u16).to_be_bytes());
        records.extend(piece.iter().map(|byte| byte ^ HIDDEN));
    }
    records
}

impl Transport for Records {
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut inside = self.inside.lock().unwrap();
        loop {
            if !inside.plain.is_empty() {
                let n = inside.plain.len().min(buffer.len()).min(PIECE);
                buffer[..n].copy_from_slice(&inside.plain[..n]);
                inside.plain.drain(..n);
                return Ok(n);
            }
            if inside.end {
                return Ok(0);
            }
            let mut piece = [0; 4096];
            inside.more = false;
            let n = self.socket.recv(&mut piece)?;
            inside.more = n == piece.len();
            if n == 0 {
                // An end of stream without a last word is a cut.
                return Err(ErrorKind::UnexpectedEof.into());
            }
            inside.received.extend_from_slice(&piece[..n]);
            inside.open();
            inside.flush(&self.socket)?;
        }
    }

    fn look(&self) -> Look {
        if self.inside.lock().unwrap().plain.is_empty() {
            self.socket.look()
        } else {
            Look::Bytes
        }
    }

    fn has_unread(&self) -> bool {
        let inside = self.inside.lock().unwrap();
        !inside.plain.is_empty() || inside.more
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut inside = self.inside.lock().unwrap();
        if !inside.flush(&self.socket)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut taken = 0;
        for record in bytes.chunks(RECORD_MAX) {
            inside.unsent = seal(record);
            taken += record.len();
            if !inside.flush(&self.socket)? {
                break;
            }
        }
        Ok(taken)
    }

    fn flush(&self) -> io::Result<bool> {
        self.inside.lock().unwrap().flush(&self.socket)
    }

    fn has_unsent(&self) -> bool {
        !self.inside.lock().unwrap().unsent.is_empty()
    }

    fn last_word(&self) {
        let mut inside = self.inside.lock().unwrap();
        if inside.is_welcome && !std::mem::replace(&mut inside.said, true) {
            inside.unsent.extend_from_slice(&[0, 0]);
            let _ = inside.flush(&self.socket);
        }
    }

    fn finish(&self) {
        self.last_word();
        self.socket.finish();
    }

    fn reset(&self) {
        self.socket.reset();
    }

    fn info(&self) -> Option<TcpInfo> {
        self.socket.info()
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Starts a server with one worker that speaks through [`Records`].
fn start(clock: &std::sync::Arc<ManualClock>) -> Running {
    let builder = Server::builder()
        .workers(1)
        .clock(Clock::Manual(clock.clone()));
    let builder = builder.transport(|socket| {
        Box::new(Records {
            socket,
            inside: Mutex::default(),
        })
    });
    let handler = |request: Request, _context: Context| match request.uri().path() {
        "/large" => Body::from(vec![b'x'; 4_000_000]),
        "/echo" => request.into_body(),
        path => Body::from(path.to_owned()),
    };
    builder.bind("127.0.0.1:0").unwrap().spawn(handler).unwrap()
}

/// Lets time pass until a server that was told to stop has.
fn wait_stopped(server: Running, clock: &ManualClock) -> Report {
    while server.stopped().recv_timeout(Duration::from_millis(5)) == Err(RecvTimeoutError::Timeout)
    {
        clock.advance(Duration::from_millis(20));
    }
    server.join()
}

/// The client's end of a connection that speaks in records.
struct Client {
    stream: TcpStream,
    /// The contents of the records that came.
    plain: Vec<u8>,
}

/// How the server's side ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    LastWord,
    Cut,
}

impl Client {
    fn connect(server: &Running) -> Self {
        let stream = TcpStream::connect(server.local_addr()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self {
            stream,
            plain: Vec::new(),
        }
    }

    fn shake_hands(server: &Running) -> Self {
        let mut client = Self::connect(server);
        HELLO
            .iter()
            .for_each(|part| client.stream.write_all(part).unwrap());
        let mut welcome = [0; WELCOME.len()];
        client.stream.read_exact(&mut welcome).unwrap();
        assert_eq!(welcome, WELCOME);
        client
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(&seal(text.as_bytes())).unwrap();
    }

    /// Reads one more record; false: it was the last word.
    fn read_record(&mut self) -> Result<bool, End> {
        let mut len = [0; 2];
        if self.stream.read_exact(&mut len).is_err() {
            return Err(End::Cut);
        }
        let mut record = vec![0; usize::from(u16::from_be_bytes(len))];
        self.stream.read_exact(&mut record).map_err(|_| End::Cut)?;
        self.plain.extend(record.iter().map(|byte| byte ^ HIDDEN));
        Ok(!record.is_empty())
    }

    /// Reads records until what came is `done`.
    fn read_until(&mut self, done: impl Fn(&str) -> bool) -> String {
        while !done(&String::from_utf8_lossy(&self.plain)) {
            assert_eq!(
                self.read_record(),
                Ok(true),
                "{} bytes came",
                self.plain.len()
            );
        }
        String::from_utf8(std::mem::take(&mut self.plain)).unwrap()
    }

    fn read_end(&mut self) -> End {
        loop {
            match self.read_record() {
                Ok(true) => {}
                Ok(false) => return End::LastWord,
                Err(end) => return end,
            }
        }
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[test]
fn requests_in_one_record_are_all_answered_although_no_event_tells_of_the_later_ones() {
    let server = start(&ManualClock::new());
    let mut client = Client::shake_hands(&server);
    // All requests are in one record, far more than one read gives, and the socket is empty after
    // it.
    client.send(&(0..40).map(|n| get(&format!("/{n}."))).collect::<String>());
    let answers = client.read_until(|text| text.ends_with("/39."));
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 40);
    // One more request shows that the transport kept nothing.
    client.send(&get("/again"));
    client.read_until(|text| text.ends_with("/again"));
}

#[test]
fn a_body_that_the_transport_holds_is_read_to_its_end() {
    let server = start(&ManualClock::new());
    for len in [50, 4000, 150_000] {
        let mut client = Client::shake_hands(&server);
        let body = "0123456789".repeat(len / 10);
        client.send(&format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n{body}"
        ));
        client.read_until(|text| text.ends_with(&body));
    }
}

#[test]
fn what_the_transport_keeps_is_sent_when_there_is_room() {
    let server = start(&ManualClock::new());
    let mut slow = Client::shake_hands(&server);
    slow.send(&get("/large"));
    // The kernel's buffers are full, and meanwhile the only worker serves another client.
    let mut other = Client::shake_hands(&server);
    other.send(&get("/other"));
    other.read_until(|text| text.ends_with("/other"));
    while slow.plain.len() < 4_000_000
        || slow.plain.iter().filter(|byte| **byte == b'x').count() < 4_000_000
    {
        assert_eq!(
            slow.read_record(),
            Ok(true),
            "{} bytes came",
            slow.plain.len()
        );
    }
    assert!(slow.plain.starts_with(b"HTTP/1.1 200 OK"));
}

#[test]
fn a_handshake_holds_no_worker_and_has_the_time_of_a_head() {
    let clock = ManualClock::new();
    let server = start(&clock);
    let mut halves: Vec<_> = (0..20).map(|_| Client::connect(&server)).collect();
    halves
        .iter_mut()
        .for_each(|half| half.stream.write_all(HELLO[0]).unwrap());
    let mut other = Client::shake_hands(&server);
    other.send(&get("/other"));
    other.read_until(|text| text.ends_with("/other"));
    // One of the twenty completes its handshake late.
    let mut first = halves.remove(0);
    first.stream.write_all(HELLO[1]).unwrap();
    let mut welcome = [0; WELCOME.len()];
    first.stream.read_exact(&mut welcome).unwrap();
    first.send(&get("/late"));
    first.read_until(|text| text.ends_with("/late"));
    clock.advance(Duration::from_secs(10));
    for mut half in halves {
        let end = half.stream.read(&mut [0]);
        assert_eq!(end.unwrap_or(0), 0, "the connection is closed");
    }
    server.handle().begin_shutdown_within(Duration::ZERO);
    let report = wait_stopped(server, &clock);
    assert_eq!(report.closed_because(CloseReason::Silent), 19, "{report}");
}

#[test]
fn a_connection_that_closes_well_says_so() {
    let clock = ManualClock::new();
    let server = start(&clock);
    let mut asked = Client::shake_hands(&server);
    asked.send("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(asked.read_end(), End::LastWord);
    drop(asked);

    let mut idle = Client::shake_hands(&server);
    idle.send(&get("/idle"));
    idle.read_until(|text| text.ends_with("/idle"));
    server.handle().begin_shutdown_within(Duration::ZERO);
    let _ = wait_stopped(server, &clock);
    assert_eq!(idle.read_end(), End::LastWord);
}

// Only Linux limits the bytes that its send buffer holds unsent (TCP_NOTSENT_LOWAT). Elsewhere the
// kernel may take all of the response, and then nothing is left to be cut.
#[test]
#[cfg(target_os = "linux")]
fn a_connection_that_is_cut_does_not_say_that_it_closes_well() {
    let clock = ManualClock::new();
    let server = start(&clock);
    let mut cut = Client::shake_hands(&server);
    cut.send(&get("/large"));
    cut.read_until(|text| text.contains("xxx"));
    server.handle().begin_shutdown_within(Duration::ZERO);
    // The large response is under way, so it gets the second that a cut leaves to such responses.
    let _ = wait_stopped(server, &clock);
    assert_eq!(cut.read_end(), End::Cut);
}
