//! A server under good and bad clients for as long as one likes, and then a stop: nothing may have
//! grown, nothing be lost.
//!
//! The server is in a process of its own, so that its memory can be told from its clients'. The bad
//! ones are those of `benches/hostile`; they come and go. The good ones ask on connections that
//! they keep, and on a hundred new ones a second.

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

/// Bad clients at a time, and connections that good ones keep.
const BAD: usize = 300;
const KEPT: usize = 16;
/// What a good one waits for an answer, before it is a failure.
const PATIENCE: Duration = Duration::from_secs(10);
/// The process may grow by so much from the second fifth of the time to the last one: its
/// allocator's pieces are not all of one size, and it is slow to have as many as it needs. In five
/// minutes that is 50 bytes for each connection there was.
const GROWTH_MAX: u64 = 6 << 20;
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct MemberOutcome {
    pub(crate) connections: u64,
    pub(crate) answers: u64,
    pub(crate) p99: Duration,
    /// Resident bytes, in the mean of each fifth of the time.
    pub(crate) memory: Vec<u64>,
    pub(crate) closed: Vec<(String, u64)>,
    /// What was not as it should be.
    pub(crate) wrong: Vec<String>,
}

/// Soaks a server for that time.
pub(crate) fn run(time: Duration) -> MemberOutcome {
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
        crowd.turn(Duration::from_millis(20));
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
    // The bad ones leave, and what they held is given back before anybody stops.
    let connections =
        crowd.connections() + KEPT as u64 + (visits.took.len() + visits.failed) as u64;
    drop(crowd);
    let gone_by = Instant::now() + PATIENCE;
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
            most_threads > threads,
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
    MemberOutcome {
        connections,
        answers,
        p99: visits.quantile(0.99),
        memory,
        closed: ended.closed,
        wrong,
    }
}

/// Good clients, one after the other, each on its connection: how many answers they got.
fn ask_until(addr: SocketAddr, until: Instant) -> Result<u64, String> {
    let failed = |error: std::io::Error| format!("a good client was not answered: {error}");
    let mut clients = Vec::new();
    for _ in 0..KEPT {
        let client = TcpStream::connect(addr).map_err(failed)?;
        client.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
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
        // As often as a person would, and not as fast as they can.
        std::thread::park_timeout(Duration::from_millis(2));
    }
    Ok(answers)
}
