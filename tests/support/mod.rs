//! What the tests share: a server on a free port, a client that shows every byte, a gate inside a
//! handler, and counts of this process's threads and descriptors.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(feature = "cli")]
pub(crate) mod child;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use lameduck::{Handler, Report, Running, Server, ServerBuilder, ServerHandle};

/// How long a test waits for anything. Only ever a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// A server on a free port of the loopback interface.
pub(crate) struct TestServer {
    running: Running,
}

impl TestServer {
    /// A server with two workers.
    pub(crate) fn start(handler: impl Handler) -> Self {
        Self::with(builder().workers(2), handler)
    }

    pub(crate) fn with(builder: ServerBuilder, handler: impl Handler) -> Self {
        raise_descriptor_limit();
        Self {
            running: builder.bind("127.0.0.1:0").unwrap().spawn(handler).unwrap(),
        }
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.running.local_addr()
    }

    pub(crate) fn handle(&self) -> ServerHandle {
        self.running.handle()
    }

    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.local_addr())
    }

    /// A connection that has already been used for one request.
    pub(crate) fn used_client(&self, target: &str) -> Client {
        let mut client = self.client();
        assert_eq!(client.get(target).status, 200);
        client
    }

    pub(crate) fn stop(&self) -> Report {
        self.handle().shutdown()
    }

    /// Stops the server and asserts that it had nothing to cut.
    #[track_caller]
    pub(crate) fn stop_cleanly(&self) {
        let report = self.stop();
        assert!(report.is_clean(), "{report}");
    }
}

/// A server description whose idle connections do not make a stop last, and whose requests are
/// never too long in a queue for a test to notice.
pub(crate) fn builder() -> ServerBuilder {
    Server::builder()
        .idle_grace(Duration::ZERO)
        .queue_timeout(LIMIT * 3)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[allow(clippy::disallowed_methods, reason = "a test measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until `is_so`, for what nobody tells of.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = now() + LIMIT;
    while !is_so() {
        assert!(now() < until, "not within {LIMIT:?}: {what}");
        pass_time(millis(1));
    }
}

/// Lets time pass, for a measurement of what happens in it or a handler that takes it.
pub(crate) fn pass_time(duration: Duration) {
    let (_sender, receiver) = crossbeam_channel::bounded::<()>(0);
    let _ = receiver.recv_timeout(duration);
}

/// Runs `action` on a thread and waits for its value.
#[track_caller]
pub(crate) fn within_limit<T: Send + 'static>(
    what: &str,
    action: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || sender.send(action()));
    receiver
        .recv_timeout(LIMIT)
        .unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Where a handler waits for the test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<Passages>, Condvar)>);

#[derive(Debug, Default)]
struct Passages {
    entered: usize,
    released: usize,
    passed: usize,
    open: bool,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// For the handler: says that it is here, and waits until it is released.
    pub(crate) fn pass(&self) {
        let mut state = self.lock();
        state.entered += 1;
        self.0.1.notify_all();
        // Beyond the tests' own limit: who waits for the handler is to fail first.
        let (mut state, _) = self.wait(state, LIMIT * 3, |state| {
            !state.open && state.passed >= state.released
        });
        state.passed += 1;
    }

    /// Waits until `handlers` have come to the gate, in all.
    #[track_caller]
    pub(crate) fn wait_entered(&self, handlers: usize) {
        let (state, timed_out) = self.wait(self.lock(), LIMIT, |state| state.entered < handlers);
        assert!(
            !timed_out,
            "{} of {handlers} handlers came to the gate within {LIMIT:?}",
            state.entered
        );
    }

    pub(crate) fn entered(&self) -> usize {
        self.lock().entered
    }

    /// Lets one handler pass.
    pub(crate) fn release(&self) {
        self.lock().released += 1;
        self.0.1.notify_all();
    }

    /// Lets all handlers pass, now and later.
    pub(crate) fn open(&self) {
        self.lock().open = true;
        self.0.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Passages> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, Passages>,
        limit: Duration,
        still: impl FnMut(&mut Passages) -> bool,
    ) -> (MutexGuard<'a, Passages>, bool) {
        let (state, result) = self
            .0
            .1
            .wait_timeout_while(state, limit, still)
            .unwrap_or_else(PoisonError::into_inner);
        (state, result.timed_out())
    }
}

/// The client's end of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    /// Received and not yet looked at.
    received: Vec<u8>,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Eof,
    Reset,
}

/// What a client has read of one response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) version: String,
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) delimited: Delimited,
}

/// How the end of a response's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delimited {
    NoBody,
    Length,
    Chunked,
    ByClose,
}

/// The connection ended before the response did.
#[derive(Debug)]
pub(crate) struct Incomplete {
    pub(crate) end: End,
    /// If the head was complete: what came.
    pub(crate) answer: Option<Answer>,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&addr, LIMIT).unwrap())
    }

    /// Over a connection that was made elsewhere.
    pub(crate) fn of(stream: TcpStream) -> Self {
        Self::over(stream)
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// A connection whose kernel takes little before the client reads.
    pub(crate) fn connect_narrow(addr: SocketAddr) -> Self {
        Self::connect_with_buffer(addr, 32 << 10)
    }

    /// A connection whose kernel takes about so many bytes before the client reads.
    pub(crate) fn connect_with_buffer(addr: SocketAddr, bytes: usize) -> Self {
        use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, bytes).unwrap();
        connect(&socket, &addr).unwrap();
        Self::over(socket.into())
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// The same for who does not care whether the server still listens.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    #[track_caller]
    pub(crate) fn send_get(&mut self, target: &str) {
        self.send(get(target));
    }

    #[track_caller]
    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.send_get(target);
        self.read_response()
    }

    #[track_caller]
    pub(crate) fn head(&mut self, target: &str) -> Answer {
        self.send(format!("HEAD {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.read_response_to_head()
    }

    /// Reads a whole response.
    #[track_caller]
    pub(crate) fn read_response(&mut self) -> Answer {
        self.try_read(false)
            .unwrap_or_else(|incomplete| panic!("a response did not come whole: {incomplete:?}"))
    }

    #[track_caller]
    pub(crate) fn read_response_to_head(&mut self) -> Answer {
        self.try_read(true)
            .unwrap_or_else(|incomplete| panic!("a response did not come whole: {incomplete:?}"))
    }

    /// Reads a response that is not to come whole.
    #[track_caller]
    pub(crate) fn expect_incomplete(&mut self) -> Incomplete {
        match self.try_read(false) {
            Ok(answer) => panic!(
                "a response came whole: {} {:?} with {} bytes",
                answer.status,
                answer.delimited,
                answer.body.len()
            ),
            Err(incomplete) => incomplete,
        }
    }

    #[track_caller]
    pub(crate) fn try_read(&mut self, to_head: bool) -> Result<Answer, Incomplete> {
        let head = self
            .read_through(b"\r\n\r\n")
            .map_err(|end| Incomplete { end, answer: None })?;
        let mut answer = Answer::of_head(&String::from_utf8(head).unwrap());
        answer.delimited = answer.delimitation(to_head);
        let read = match answer.delimited {
            Delimited::NoBody => Ok(()),
            Delimited::Length => {
                let len = answer.field("content-length").unwrap().parse().unwrap();
                self.read_bytes(len, &mut answer.body)
            }
            Delimited::Chunked => self.read_chunks(&mut answer.body),
            Delimited::ByClose => match self.read_to_end(&mut answer.body) {
                End::Eof => Ok(()),
                End::Reset => Err(End::Reset),
            },
        };
        match read {
            Ok(()) => Ok(answer),
            Err(end) => Err(Incomplete {
                end,
                answer: Some(answer),
            }),
        }
    }

    #[track_caller]
    fn read_chunks(&mut self, body: &mut Vec<u8>) -> Result<(), End> {
        loop {
            let line = String::from_utf8(self.read_through(b"\r\n")?).unwrap();
            let size = usize::from_str_radix(line.trim_end(), 16)
                .unwrap_or_else(|_| panic!("chunk size {line:?}"));
            self.read_bytes(size, body)?;
            let mut end = Vec::new();
            self.read_bytes(2, &mut end)?;
            assert_eq!(end, b"\r\n", "the end of a chunk");
            if size == 0 {
                return Ok(());
            }
        }
    }

    #[track_caller]
    fn read_through(&mut self, delimiter: &[u8]) -> Result<Vec<u8>, End> {
        let mut searched = 0;
        loop {
            let found = self.received[searched..]
                .windows(delimiter.len())
                .position(|window| window == delimiter);
            if let Some(at) = found {
                let rest = self.received.split_off(searched + at + delimiter.len());
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            searched = self.received.len().saturating_sub(delimiter.len() - 1);
            self.receive()?;
        }
    }

    #[track_caller]
    fn read_bytes(&mut self, len: usize, to: &mut Vec<u8>) -> Result<(), End> {
        let mut missing = len;
        loop {
            let n = missing.min(self.received.len());
            to.extend_from_slice(&self.received[..n]);
            self.received.drain(..n);
            missing -= n;
            if missing == 0 {
                return Ok(());
            }
            self.receive()?;
        }
    }

    #[track_caller]
    fn read_to_end(&mut self, to: &mut Vec<u8>) -> End {
        loop {
            to.append(&mut self.received);
            if let Err(end) = self.receive() {
                return end;
            }
        }
    }

    /// Reads once.
    #[track_caller]
    fn receive(&mut self) -> Result<(), End> {
        let old = self.received.len();
        self.received.resize(old + (64 << 10), 0);
        let read = self.stream.read(&mut self.received[old..]);
        self.received.truncate(old + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(End::Eof),
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Err(End::Reset),
                _ => panic!(
                    "nothing came within {LIMIT:?} ({error}); unread so far: {}",
                    excerpt(&self.received)
                ),
            },
        }
    }

    /// Reads raw bytes, as many as `len`.
    #[track_caller]
    pub(crate) fn read_raw(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read_bytes(len, &mut bytes)
            .unwrap_or_else(|end| panic!("{end:?} after {}", excerpt(&bytes)));
        bytes
    }

    /// Waits for the end of the connection, however it comes, and returns what came before it.
    #[track_caller]
    pub(crate) fn drain(&mut self) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        let end = self.read_to_end(&mut bytes);
        (bytes, end)
    }

    /// The same for more than is good to keep: the number of bytes.
    #[track_caller]
    pub(crate) fn drain_count(&mut self) -> (usize, End) {
        let mut bytes = 0;
        loop {
            bytes += self.received.len();
            self.received.clear();
            if let Err(end) = self.receive() {
                return (bytes, end);
            }
        }
    }

    /// The server closes, in order, and sends nothing before it does.
    #[track_caller]
    pub(crate) fn expect_eof(&mut self) {
        let (bytes, end) = self.drain();
        assert_eq!((excerpt(&bytes), end), (String::new(), End::Eof));
    }

    /// Whether something has come that was not read: bytes, or the end.
    pub(crate) fn is_readable(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0; 1]);
        self.stream.set_nonblocking(false).unwrap();
        !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Nothing has come so far. What a server on the same machine has sent has come.
    #[track_caller]
    pub(crate) fn expect_nothing_yet(&mut self) {
        assert_eq!(excerpt(&self.received), "");
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0; 16]);
        self.stream.set_nonblocking(false).unwrap();
        match peeked {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => panic!("something came: {other:?}"),
        }
    }

    /// The same connection, for reading on another thread.
    pub(crate) fn second(&self) -> Self {
        assert!(self.received.is_empty());
        Self {
            stream: self.stream.try_clone().unwrap(),
            received: Vec::new(),
        }
    }

    /// Finishes the client's side; it can still read.
    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The same for who does not care whether the server is still there.
    pub(crate) fn try_half_close(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }
}

impl Answer {
    fn of_head(head: &str) -> Self {
        let mut lines = head.strip_suffix("\r\n\r\n").unwrap().split("\r\n");
        let status_line = lines.next().unwrap();
        let (version, rest) = status_line.split_once(' ').unwrap();
        let (status, _reason) = rest
            .split_once(' ')
            .unwrap_or_else(|| panic!("status line {status_line:?}"));
        assert_eq!(status.len(), 3, "status line {status_line:?}");
        let fields = lines.map(|line| {
            let (name, value) = line
                .split_once(": ")
                .unwrap_or_else(|| panic!("field {line:?}"));
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Self {
            version: version.to_owned(),
            status: status.parse().unwrap(),
            fields: fields.collect(),
            body: Vec::new(),
            delimited: Delimited::NoBody,
        }
    }

    fn delimitation(&self, to_head: bool) -> Delimited {
        let (chunked, length) = (
            self.field("transfer-encoding"),
            self.field("content-length"),
        );
        assert!(
            chunked.is_none() || length.is_none(),
            "two framings: {self:?}"
        );
        if to_head || self.status < 200 || self.status == 204 || self.status == 304 {
            Delimited::NoBody
        } else if let Some(coding) = chunked {
            assert_eq!(coding, "chunked");
            Delimited::Chunked
        } else if length.is_some() {
            Delimited::Length
        } else {
            Delimited::ByClose
        }
    }

    /// The value of a field that is there at most once.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self
            .fields
            .iter()
            .filter(|(of, _)| of == name)
            .map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "a second {name}");
        value
    }

    /// It says that the connection closes.
    pub(crate) fn closes(&self) -> bool {
        self.field("connection")
            .is_some_and(|value| value.split(',').any(|option| option.trim() == "close"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// A request with a body of a declared length.
pub(crate) fn post(target: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// A request with a chunked body of these chunks.
pub(crate) fn post_chunked(target: &str, chunks: &[&[u8]]) -> Vec<u8> {
    let mut request =
        format!("POST {target} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

/// Bytes that differ from each other, so that a lost or repeated piece shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i % 251) as u8 ^ (i / 251 % 256) as u8)
        .collect()
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

/// The ids of this process's threads that belong to servers.
pub(crate) fn server_threads() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| {
            let task = task.ok()?;
            // One that ends meanwhile has no name any more.
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
            name.starts_with("lameduck-")
                .then(|| task.file_name().to_string_lossy().parse().unwrap())
        });
    tasks.collect()
}

/// This process's open descriptors, as what they lead to.
pub(crate) fn descriptors() -> Vec<String> {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let fds = fds.filter_map(|fd| {
        Some(
            std::fs::read_link(fd.ok()?.path())
                .ok()?
                .display()
                .to_string(),
        )
    });
    // The one that lists them.
    let mut fds: Vec<_> = fds.filter(|fd| !fd.starts_with("/proc/")).collect();
    fds.sort();
    fds
}

/// As often as these threads have been given a core.
pub(crate) fn context_switches(threads: &[u32]) -> u64 {
    let of = |thread: &u32| {
        let status =
            std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap_or_default();
        let switches = status.lines().filter(|line| line.contains("ctxt_switches"));
        switches
            .map(|line| {
                line.rsplit(['\t', ' '])
                    .next()
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
            })
            .sum::<u64>()
    };
    threads.iter().map(of).sum()
}

/// A thousand connections are two thousand descriptors here.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let wanted = maximum.map_or(16_384, |maximum| maximum.min(16_384));
        if current.is_some_and(|current| current < wanted) {
            setrlimit(
                Resource::Nofile,
                Rlimit {
                    current: Some(wanted),
                    maximum,
                },
            )
            .unwrap();
        }
    });
}
