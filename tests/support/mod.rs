//! What the tests share: a server on a free port, a client that shows every byte, a gate inside a
//! handler, counts of this process's threads and descriptors, and a server in a child process.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(feature = "cli")]
pub(crate) mod child;
mod client;
mod gate;
mod process;
mod response;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lameduck::net::Listen;
use lameduck::report::{CloseReason, Fate, Phase, UnansweredRequest};
use lameduck::{
    Context, Handler, IntoResponse, Report, Request, Response, Running, Server, ServerBuilder,
    ServerHandle,
};

#[allow(unused_imports, reason = "each test binary uses its own part")]
pub(crate) use self::{
    client::Client,
    gate::Gate,
    process::{
        context_switches, context_switches_of, descriptors, raise_descriptor_limit, server_threads,
    },
    response::{Answer, Delimited, End, Incomplete, Reader},
};

/// The longest time for which a test waits for anything. A test that reaches it has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// A server on a free port of the loopback interface.
pub(crate) struct TestServer {
    running: Running,
}

impl TestServer {
    /// Starts a server with two workers.
    pub(crate) fn start(handler: impl Handler) -> Self {
        Self::with(builder().workers(2), handler)
    }

    pub(crate) fn with(builder: ServerBuilder, handler: impl Handler) -> Self {
        raise_descriptor_limit();
        Self {
            running: serve(builder, "127.0.0.1:0", handler),
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

    /// Returns a client whose connection was already used for one request.
    pub(crate) fn used_client(&self, target: &str) -> Client {
        let mut client = self.client();
        assert_eq!(client.get(target).status, 200);
        client
    }

    /// Returns a client whose request to `target` has come to the gate.
    #[track_caller]
    pub(crate) fn block(&self, gate: &Gate, target: &str) -> Client {
        let before = gate.entered();
        let mut client = self.client();
        client.send_get(target);
        gate.wait_entered(before + 1);
        client
    }

    /// Blocks every worker: returns a client for each, whose request has come to the gate. Each
    /// request has its own route, because not all workers take calls that are expected to be slow.
    #[track_caller]
    pub(crate) fn block_all(&self, gate: &Gate, workers: usize) -> Vec<Client> {
        (0..workers)
            .map(|i| self.block(gate, &format!("/{i}/block")))
            .collect()
    }

    #[track_caller]
    pub(crate) fn wait_accepted(&self, connections: u64) {
        eventually("all are accepted", || {
            self.handle().stats().accepted == connections
        });
    }

    #[track_caller]
    pub(crate) fn wait_for_phase(&self, phase: Phase) {
        eventually("the phase is reached", || self.handle().phase() >= phase);
    }

    #[track_caller]
    pub(crate) fn begin_draining(&self) {
        self.handle().begin_shutdown();
        self.wait_for_phase(Phase::Draining);
    }

    /// Stops the server, and asserts that the books of the stop balance.
    #[track_caller]
    pub(crate) fn stop(&self) -> Report {
        let handle = self.handle();
        let report = within_limit("the stop ends", move || handle.shutdown());
        assert_balanced(&report);
        report
    }

    /// Stops the server and asserts that it had nothing to cut.
    #[track_caller]
    pub(crate) fn stop_cleanly(&self) {
        let report = self.stop();
        assert!(report.is_clean(), "{report}");
    }
}

/// Asserts that a report has no fault of the server in it, and that its sums come out.
#[track_caller]
pub(crate) fn assert_balanced(report: &Report) {
    assert!(report.faults.is_empty(), "{report}");
    let requests = report.requests;
    let ends = requests.answered + requests.named + requests.broken_off;
    assert_eq!((requests.begun, requests.lost), (ends, 0), "{report}");
    assert!(
        !report.is_clean() || report.closed_because(CloseReason::Cut) == 0,
        "{report}"
    );
}

/// Starts a server on `local_addr`.
#[track_caller]
pub(crate) fn serve(builder: ServerBuilder, addr: impl Listen, handler: impl Handler) -> Running {
    builder.bind(addr).unwrap().spawn(handler).unwrap()
}

/// Answers every request with "hello".
pub(crate) fn hello(_: Request, _: Context) -> &'static str {
    "hello"
}

/// Returns a handler that answers with the path. It waits at the gate for a path that ends in
/// `block`, and for 5 ms for one that ends in `slow`.
pub(crate) fn gated(gate: &Gate) -> impl Handler + use<> {
    let gate = gate.clone();
    move |request: Request, _: Context| -> Response {
        let path = request.uri().path();
        if path.ends_with("block") {
            gate.pass();
        } else if path.ends_with("slow") {
            pass_time(millis(5));
        }
        path.to_owned().into_response()
    }
}

/// Describes a server whose stop does not wait for idle connections, and whose requests may wait
/// for a worker longer than any test does.
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

/// Waits until `is_so`, for a state that comes without an event.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = now() + LIMIT;
    while !is_so() {
        assert!(now() < until, "not within {LIMIT:?}: {what}");
        pass_time(millis(1));
    }
}

/// Lets time pass, for a measurement of what happens meanwhile, or for a handler that is slow.
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

pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// Returns a request that is the last one on its connection.
pub(crate) fn get_last(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
}

/// Returns a request with a body of a declared length.
pub(crate) fn post(target: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// Returns a request with a chunked body of these chunks.
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

/// Returns bytes that differ from each other, so that a lost or repeated piece shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i % 251) as u8 ^ (i / 251 % 256) as u8)
        .collect()
}

/// Returns the requests whose responses the stop's deadline took away.
pub(crate) fn cut(report: &Report) -> Vec<&UnansweredRequest> {
    unanswered(report, Fate::is_cut)
}

/// Returns the requests that no handler was given, though their connections were served.
pub(crate) fn never_started(report: &Report) -> Vec<&UnansweredRequest> {
    let is_so = |fate| matches!(fate, Fate::NeverStarted | Fate::Unread);
    unanswered(report, is_so)
}

/// Returns the requests that came after the server had ended their connections.
pub(crate) fn raced(report: &Report) -> Vec<&UnansweredRequest> {
    let is_so = |fate| matches!(fate, Fate::Raced | Fate::AfterClose);
    unanswered(report, is_so)
}

fn unanswered(report: &Report, is_so: impl Fn(Fate) -> bool) -> Vec<&UnansweredRequest> {
    let requests = report.unanswered.iter();
    requests.filter(|request| is_so(request.fate)).collect()
}
