//! A server that serves good and bad clients for a long time, and then stops. In the end nothing
//! may have grown, and nothing may be lost.
//!
//! The server has its own process, so that its memory can be told from that of its clients. The bad
//! clients are those of `benches/hostile`; they come and go. The good clients ask on connections
//! that they keep, and on a hundred new ones a second.

#![allow(dead_code, reason = "each program uses its own part")]

#[path = "../../benches/hostile/crowd.rs"]
mod crowd;
#[path = "../support/response.rs"]
mod response;
#[path = "../../benches/hostile/server.rs"]
pub(crate) mod server;
#[path = "../../benches/hostile/visitors.rs"]
mod visitors;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crowd::Crowd;
use response::Reader;
use server::{Server, Times};
use visitors::Visitors;

/// The number of bad clients at a time.
const BAD: usize = 300;
/// The number of connections that good clients keep.
const KEPT: usize = 16;
/// The longest time for which a good client waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most by which the process may grow from the second fifth of the time to the last one. Its
/// allocator takes a while to have as many pieces of each size as it needs. In five minutes that is
/// 50 bytes for each connection there was.
const GROWTH_MAX: u64 = 6 << 20;
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// The result of a soak.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) connections: u64,
    pub(crate) answers: u64,
    pub(crate) p99: Duration,
    /// The mean of the process's resident bytes in each fifth of the time.
    pub(crate) memory: Vec<u64>,
    pub(crate) closed: Vec<(String, u64)>,
    /// The checks that failed.
    pub(crate) wrong: Vec<String>,
}

/// Soaks a server for `time`.
pub(crate) fn run(time: Duration) -> Outcome {
    server::raise_descriptor_limit();
    let server = Server::start(Times::Short);
    let began = Instant::now();
    let until = began + time;
    let (threads, descriptors) = (server.threads(), server.descriptors());
    let addr = server.addr;
    let good = std::thread::spawn(move || ask_until(addr, until));
    let visitors = Visitors::start(addr);
    let mut crowd = Crowd::soak(addr, BAD, until);
    let (mut samples, mut most_threads) = (Vec::new(), 0);
    while Instant::now() < until {
        crowd.go_round(Duration::from_millis(20));
        if began.elapsed() < SAMPLE_EVERY * samples.len() as u32 {
            continue;
        }
        samples.push(server.memory());
        most_threads = most_threads.max(server.threads());
    }
    let (good, visits) = (
        good.join()
            .unwrap_or_else(|_| Err("a good client failed".to_owned())),
        visitors.stop(),
    );
    let fifths = samples.chunks_exact((samples.len() / 5).max(1)).take(5);
    let memory: Vec<_> = fifths
        .map(|fifth| fifth.iter().sum::<u64>() / fifth.len() as u64)
        .collect();
    // The bad clients leave, and what they held is given back before the server stops.
    let connections =
        crowd.connections() + KEPT as u64 + (visits.took.len() + visits.failed) as u64;
    drop(crowd);
    let gone_by = Instant::now() + ANSWER_TIMEOUT;
    while server.descriptors() > descriptors && Instant::now() < gone_by {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let left = server.descriptors().saturating_sub(descriptors);
    let ended = server.stop();
    let closed: u64 = ended.closed.iter().map(|(_, n)| n).sum();
    let kept = good.as_ref().copied().unwrap_or(0);
    let answers = kept + visits.took.len() as u64;
    let checks = [
        (good.is_err(), format!("{good:?}")),
        (
            visits.failed > 0,
            format!("{} of the new connections were not answered", visits.failed),
        ),
        (
            // An upload or a response that is written has a dedicated thread while it lasts.
            most_threads > threads + BAD,
            format!("{most_threads} threads, {threads} before"),
        ),
        (
            left > 0,
            format!("{left} descriptors were left before the stop"),
        ),
        (
            ended.count("accepted") != connections,
            format!("{} of {connections} accepted", ended.count("accepted")),
        ),
        (
            closed != connections,
            format!("{closed} of {connections} connections have ended"),
        ),
        (
            ended.count("answered") < answers,
            format!("{} of {answers} answered", ended.count("answered")),
        ),
        (
            ended.count("threads") + ended.count("stuck") > 0,
            "a thread was left after the stop".to_owned(),
        ),
        (
            ended.count("descriptors") > 0,
            "descriptors were left after the stop".to_owned(),
        ),
        (
            memory[4] > memory[1] + GROWTH_MAX,
            format!("memory grew: {memory:?} bytes"),
        ),
    ];
    let wrong = checks
        .into_iter()
        .filter(|(is, _)| *is)
        .map(|(_, what)| what)
        .collect();
    Outcome {
        connections,
        answers,
        p99: visits.quantile(0.99),
        memory,
        closed: ended.closed,
        wrong,
    }
}

/// Has good clients ask, one after the other, each on its connection. Returns how many answers they
/// got.
fn ask_until(addr: SocketAddr, until: Instant) -> Result<u64, String> {
    let failed = |error: std::io::Error| format!("a good client was not answered: {error}");
    let mut clients = Vec::new();
    for _ in 0..KEPT {
        let client = TcpStream::connect(addr).map_err(failed)?;
        client
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .map_err(failed)?;
        clients.push(Reader::over(client));
    }
    let body = [b'x'; 10_000];
    let post = [
        &b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n"[..],
        &body,
    ]
    .concat();
    let mut answers = 0;
    while Instant::now() < until {
        for (i, client) in clients.iter_mut().enumerate() {
            let (request, expected) = if i % 2 == 0 {
                (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "hello")
            } else {
                (&post[..], "10000 bytes")
            };
            client.stream_mut().write_all(request).map_err(failed)?;
            let answer = client.try_read(false).map_err(|incomplete| {
                format!("a good client's connection ended: {incomplete:?}")
            })?;
            if answer.text() != expected {
                return Err(format!("a good client was not answered: {answer:?}"));
            }
            answers += 1;
        }
        // The clients do not ask as fast as they can.
        std::thread::park_timeout(Duration::from_millis(2));
    }
    Ok(answers)
}
