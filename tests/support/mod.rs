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

use lameduck::{Builder, Handle, Handler, Report, Running, Server};

#[allow(unused_imports, reason = "each test binary uses its own part")]
pub(crate) use self::{
    client::Client,
    gate::Gate,
    process::{context_switches, descriptors, raise_descriptor_limit, server_threads},
    response::{Answer, Delimited, End, Incomplete, Reader},
};

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

    pub(crate) fn with(builder: Builder, handler: impl Handler) -> Self {
        raise_descriptor_limit();
        Self {
            running: builder.bind("127.0.0.1:0").unwrap().spawn(handler).unwrap(),
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.running.addr()
    }

    pub(crate) fn handle(&self) -> Handle {
        self.running.handle()
    }

    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.addr())
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
pub(crate) fn builder() -> Builder {
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

/// Waits until `is_so`, for a state that no event tells of.
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

pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// A request that is the last one on its connection.
pub(crate) fn get_last(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
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
