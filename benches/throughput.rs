//! What one request costs: `GET /plaintext`, answered with 13 bytes, by several servers side by
//! side.
//!
//! ```text
//! cargo bench --bench throughput -- [--seconds S] [--rounds R] [--connections C,...] [--only NAME,...]
//! ```
//!
//! The figure that matters is the **CPU time of the server process per request**, user and system:
//! with the load generator on the same cores, requests per second say how the two shared them as
//! much as how fast the server is. Waits are voluntary context switches: a thread ran out of work,
//! and whoever brings it more pays for waking it. Ratios are to the first server named; trust
//! these, taken in one run, and not figures of different runs. At one connection they mostly tell
//! whether the kernel put both ends on the same core, which can change a figure threefold from
//! round to round: take many short ones.
//!
//! - `bare`: epoll loops that know no HTTP, a thread and a poller per core. The limit the others
//!   are measured against.
//! - `bare1`: the same with one loop. Where one core is enough it costs less than `bare`, as it is
//!   seldom put to sleep.
//! - `hyper`: hyper's HTTP/1 server on tokio's multi-threaded runtime, in its default configuration
//!   (no head timeout, which would need a timer).
//! - `lameduck`: this crate in its default configuration, every limit on.
//!
//! A round measures each server once, in its own process, which is this program with the arguments
//! `serve NAME`. The server serves until its standard input closes, so none outlives the bench. One
//! thread loads it over loopback with keep-alive connections, each with one request outstanding,
//! and checks every response. A window begins and ends with no request outstanding, so that the CPU
//! time read at both ends belongs to exactly the responses counted. Start-up and warm-up come
//! before it.
//!
//! Linux only (epoll, `/proc`). Run by `cargo test`, without cargo's `--bench`, it is one short
//! round: a smoke test.

#![allow(
    clippy::disallowed_methods,
    reason = "a bench measures the real clock; no server of the crate is asked"
)]

#[path = "../tests/support/response.rs"]
mod response;

use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use response::{Delimited, Reader};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let done = match args.as_slice() {
        [serve, name] if serve == "serve" => server(name).and_then(|server| (server.serve)()),
        _ => Options::parse(args).and_then(|options| compare(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("throughput: {error}");
            ExitCode::FAILURE
        }
    }
}

// ---- The comparison -----------------------------------------------------------------------------

struct Options {
    window: Duration,
    rounds: usize,
    connections: Vec<usize>,
    servers: Vec<&'static Server>,
}

impl Options {
    fn parse(args: Vec<String>) -> io::Result<Self> {
        let (window, rounds) = match args.iter().any(|arg| arg == "--bench") {
            true => (Duration::from_secs(2), 5),
            false => (Duration::from_millis(50), 1),
        };
        let mut options = Self {
            window,
            rounds,
            connections: vec![64],
            servers: SERVERS.iter().collect(),
        };
        let mut args = args.into_iter().filter(|arg| arg != "--bench");
        while let Some(flag) = args.next() {
            let value = args
                .next()
                .ok_or_else(|| io::Error::other(format!("{flag} needs a value; {USAGE}")))?;
            match flag.as_str() {
                "--seconds" => options.window = seconds(&value)?,
                "--rounds" => options.rounds = number(&value)?,
                "--connections" => {
                    options.connections = value.split(',').map(number).collect::<io::Result<_>>()?
                }
                "--only" => {
                    options.servers = value.split(',').map(server).collect::<io::Result<_>>()?
                }
                _ => return Err(io::Error::other(format!("unknown flag {flag}; {USAGE}"))),
            }
        }
        if options.rounds == 0
            || options
                .connections
                .iter()
                .any(|n| !(1..=CONNECTIONS_MAX).contains(n))
        {
            return Err(io::Error::other(format!(
                "at least one round, and 1 to {CONNECTIONS_MAX} connections"
            )));
        }
        Ok(options)
    }
}

fn seconds(text: &str) -> io::Result<Duration> {
    Duration::try_from_secs_f64(number(text)?).map_err(io::Error::other)
}

fn number<T: FromStr>(text: &str) -> io::Result<T> {
    text.parse()
        .map_err(|_| io::Error::other(format!("not a number: {text}")))
}

/// Measures in interleaved rounds, so that the machine's other work slows all servers alike, and
/// prints a table for each number of connections.
fn compare(options: &Options) -> io::Result<()> {
    for &connections in &options.connections {
        let mut samples = vec![Vec::with_capacity(options.rounds); options.servers.len()];
        for round in 0..options.rounds {
            for turn in 0..options.servers.len() {
                // A different server goes first each time: the first may find the machine in
                // another state.
                let i = (round + turn) % options.servers.len();
                let server = options.servers[i];
                let failed = |error| io::Error::other(format!("{}: {error}", server.name));
                samples[i].push(measure(server, connections, options.window).map_err(failed)?);
            }
        }
        print_table(options, connections, &samples);
    }
    Ok(())
}

/// The figures of one server in one round, per request or per second.
#[derive(Clone)]
struct Sample {
    cpu_micros: f64,
    rate: f64,
    waits: f64,
}

fn measure(server: &Server, connections: usize, window: Duration) -> io::Result<Sample> {
    // These two are dropped in reverse order: the connections close first, so that no server has to
    // wait for them when it stops.
    let process = ServerProcess::start(server.name)?;
    let mut load = Load::connect(process.addr, connections)?;
    load.run(WARM_UP.min(window))?;

    let before = process.usage()?;
    let tally = load.run(window)?;
    let after = process.usage()?;

    let requests = tally.responses as f64;
    Ok(Sample {
        cpu_micros: after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / requests,
        rate: requests / tally.elapsed.as_secs_f64(),
        waits: after.waits.saturating_sub(before.waits) as f64 * 1000.0 / requests,
    })
}

fn print_table(options: &Options, connections: usize, samples: &[Vec<Sample>]) {
    let rounds = |i: usize, figure: Figure| samples[i].iter().map(figure).collect::<Vec<_>>();
    // Each round is compared with the same round of the first server, so that what slowed both
    // cancels out.
    let ratio = |i: usize, figure: Figure| {
        let ratios: Vec<f64> = rounds(i, figure)
            .iter()
            .zip(rounds(0, figure))
            .map(|(this, first)| this / first)
            .collect();
        let (least, most) = ratios.iter().fold((f64::MAX, 0.0), |(least, most), &x| {
            (x.min(least), x.max(most))
        });
        format!("{:.2} [{least:.2}-{most:.2}]", median(ratios))
    };
    let (n_rounds, seconds) = (options.rounds, options.window.as_secs_f64());
    println!(
        "\n{connections} connections, {n_rounds} rounds of {seconds} s, {} cores; medians [least-most]",
        cores()
    );
    println!(
        "server      CPU µs/request               ratio   requests/s               ratio   waits/1000 requests"
    );
    for (i, server) in options.servers.iter().enumerate() {
        println!(
            "{:<10}{:>16.2}{:>20}{:>13.0}{:>20}{:>22.1}",
            server.name,
            median(rounds(i, |sample| sample.cpu_micros)),
            ratio(i, |sample| sample.cpu_micros),
            median(rounds(i, |sample| sample.rate)),
            ratio(i, |sample| sample.rate),
            median(rounds(i, |sample| sample.waits)),
        );
    }
}

type Figure = fn(&Sample) -> f64;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

// ---- The load -----------------------------------------------------------------------------------

/// Keep-alive connections to one server, each with at most one request outstanding.
struct Load {
    epoll: OwnedFd,
    peers: Vec<Peer>,
}

struct Peer {
    stream: TcpStream,
    /// Room for a complete response and one byte more, so that a longer response shows.
    response: Vec<u8>,
    received: usize,
}

struct Tally {
    responses: u64,
    elapsed: Duration,
}

impl Load {
    fn connect(addr: SocketAddr, connections: usize) -> io::Result<Self> {
        let response_bytes = response_bytes(addr)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut peers = Vec::with_capacity(connections);
        for key in 0..connections {
            let stream = TcpStream::connect(addr)?;
            stream.set_nodelay(true)?;
            register(&epoll, &stream, key)?;
            peers.push(Peer {
                stream,
                response: vec![0; response_bytes + 1],
                received: 0,
            });
        }
        Ok(Self { epoll, peers })
    }

    /// Keeps one request outstanding on every connection for as long as `window`, then waits for
    /// the last responses.
    fn run(&mut self, window: Duration) -> io::Result<Tally> {
        let started = Instant::now();
        for peer in &mut self.peers {
            peer.send()?;
        }
        let mut outstanding = self.peers.len();
        let mut responses = 0;
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while outstanding > 0 {
            events.clear();
            retry_on_intr(|| {
                epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&TIMEOUT))
            })?;
            if events.is_empty() {
                return Err(io::Error::other(format!(
                    "{outstanding} requests without a response"
                )));
            }
            let over = started.elapsed() >= window;
            for event in &events {
                let peer = &mut self.peers[event.data.u64() as usize];
                if !peer.receive()? {
                    continue;
                }
                responses += 1;
                if over {
                    outstanding -= 1;
                } else {
                    peer.send()?;
                }
            }
        }
        Ok(Tally {
            responses,
            elapsed: started.elapsed(),
        })
    }
}

impl Peer {
    fn send(&mut self) -> io::Result<()> {
        // A socket that holds nothing unsent takes all of a request.
        self.stream.write_all(REQUEST)
    }

    /// Reads what there is, and returns whether that completed the response.
    ///
    /// The length is that of the server's first response, since every Date has the same length. The
    /// status, the end of the head and the body are compared each time.
    fn receive(&mut self) -> io::Result<bool> {
        match self.stream.read(&mut self.response[self.received..]) {
            Ok(0) => return Err(io::Error::other("the server closed a connection")),
            Ok(n) => self.received += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        if self.received < self.response.len() - 1 {
            return Ok(false);
        }
        let response = &self.response[..self.received];
        let is_whole = self.received < self.response.len()
            && response.starts_with(OK)
            && response.ends_with(END);
        if !is_whole {
            return Err(io::Error::other(format!(
                "not the response expected: {}",
                response.escape_ascii()
            )));
        }
        self.received = 0;
        Ok(true)
    }
}

/// Returns the length of a response with its head, by reading one as a client has to.
fn response_bytes(addr: SocketAddr) -> io::Result<usize> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(TIMEOUT.tv_sec as u64)))?;
    stream.write_all(REQUEST)?;
    let mut reader = Reader::over(stream);
    let answer = reader
        .try_read(false)
        .map_err(|cut| io::Error::other(format!("the first response did not come: {cut:?}")))?;
    let is_expected = answer.status == 200
        && answer.delimited == Delimited::Length
        && answer.body == BODY.as_bytes();
    if !is_expected {
        return Err(io::Error::other(format!(
            "not the response expected: {answer:?}"
        )));
    }
    Ok(reader.taken())
}

// ---- A server's process -------------------------------------------------------------------------

/// A server in its own process. Dropping it ends the process.
struct ServerProcess {
    child: Child,
    stdout: ChildStdout,
    addr: SocketAddr,
}

impl ServerProcess {
    fn start(name: &str) -> io::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["serve", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut process = Self {
            child,
            stdout,
            addr: unknown,
        };

        let mut line = String::new();
        wait_until_readable(&process.stdout)?;
        BufReader::new(&mut process.stdout).read_line(&mut line)?;
        process.addr = line
            .trim()
            .parse()
            .map_err(|_| io::Error::other("the server did not tell its address"))?;
        Ok(process)
    }

    /// Returns what the threads of the process that still run have used so far. No server here ends
    /// a thread under load.
    fn usage(&self) -> io::Result<Usage> {
        let process = format!("/proc/{}", self.child.id());
        let (mut cpu_nanos, mut waits) = (0, 0);
        for task in fs::read_dir(format!("{process}/task"))? {
            let task = task?.path();
            let read = |file| fs::read_to_string(task.join(file)).unwrap_or_default();
            // The three numbers of `schedstat` are the time on a CPU in nanoseconds, the time of
            // waiting for one, and how often the thread was given one.
            cpu_nanos += first_number(&read("schedstat"));
            waits += read("status")
                .lines()
                .find_map(|line| line.strip_prefix(VOLUNTARY))
                .map_or(0, first_number);
        }
        if cpu_nanos == 0 {
            // A kernel without CONFIG_SCHED_INFO has only `utime` and `stime`, in ticks of 10 ms.
            // They are the 12th and 13th field after the name in parentheses.
            let stat = fs::read_to_string(format!("{process}/stat"))?;
            let fields = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            cpu_nanos = fields.skip(11).take(2).map(first_number).sum::<u64>() * 10_000_000;
        }
        Ok(Usage {
            cpu: Duration::from_nanos(cpu_nanos),
            waits,
        })
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // A pidfd becomes readable when its process ends.
        let ended = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty());
        if let Err(error) = ended.map_err(io::Error::from).and_then(wait_until_readable) {
            eprintln!("throughput: the server does not stop and is killed: {error}");
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn wait_until_readable(fd: impl AsFd) -> io::Result<()> {
    match retry_on_intr(|| poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&TIMEOUT)))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// What a process has used since it started.
struct Usage {
    cpu: Duration,
    waits: u64,
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

// ---- The servers --------------------------------------------------------------------------------

struct Server {
    name: &'static str,
    /// Serves until standard input closes.
    serve: fn() -> io::Result<()>,
}

const SERVERS: &[Server] = &[
    Server {
        name: "bare",
        serve: || serve_bare(cores()),
    },
    Server {
        name: "bare1",
        serve: || serve_bare(1),
    },
    Server {
        name: "hyper",
        serve: serve_hyper,
    },
    Server {
        name: "lameduck",
        serve: serve_lameduck,
    },
];

fn server(name: &str) -> io::Result<&'static Server> {
    SERVERS
        .iter()
        .find(|server| server.name == name)
        .ok_or_else(|| io::Error::other(format!("no server is called {name}")))
}

fn serve_lameduck() -> io::Result<()> {
    let bound = lameduck::Server::builder()
        .bind(ANY_PORT)
        .map_err(io::Error::other)?;
    let addr = bound.local_addr();
    let running = bound
        .spawn(|_request: lameduck::Request, _cx: lameduck::Context| BODY)
        .map_err(io::Error::other)?;
    announce_and_wait(addr)?;
    let _report = running.handle().shutdown();
    Ok(())
}

fn serve_hyper() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_io()
        .build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(ANY_PORT))?;
    let addr = listener.local_addr()?;
    runtime.spawn(accept_for_hyper(listener));
    announce_and_wait(addr)
}

async fn accept_for_hyper(listener: tokio::net::TcpListener) -> io::Result<Infallible> {
    let hello = service_fn(|_request| async {
        let mut response = hyper::Response::new(Full::new(Bytes::from_static(BODY.as_bytes())));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok::<_, Infallible>(response)
    });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), hello));
    }
}

/// One accepting thread deals the connections out to loops, each with its own thread and poller.
fn serve_bare(loops: usize) -> io::Result<()> {
    let listener = TcpListener::bind(ANY_PORT)?;
    let addr = listener.local_addr()?;
    let mut pollers = Vec::new();
    for _ in 0..loops {
        let poller = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        pollers.push(Arc::clone(&poller));
        thread::spawn(move || bare_loop(&poller));
    }
    thread::spawn(move || -> io::Result<()> {
        for (key, connection) in BARE_CONNECTIONS.iter().enumerate() {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            register(
                &pollers[key % pollers.len()],
                connection.get_or_init(|| stream),
                key,
            )?;
        }
        Ok(())
    });
    announce_and_wait(addr)
}

/// Answers what looks like the end of a request head, with one read and one write per event.
///
/// That is enough for the load here, whose requests come in one piece and are much smaller than the
/// buffer. A connection that ends makes one last event, and is kept until the process ends.
fn bare_loop(poller: &OwnedFd) -> io::Result<()> {
    let mut request = [0; 4096];
    let responses = BARE_RESPONSE.repeat(request.len() / HEAD_END.len());
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        events.clear();
        retry_on_intr(|| epoll::wait(poller, spare_capacity(&mut events), None))?;
        for event in &events {
            let connection = &BARE_CONNECTIONS[event.data.u64() as usize];
            let mut stream = connection
                .get()
                .expect("a connection is stored before it is registered");
            let Ok(received) = stream.read(&mut request) else {
                continue;
            };
            let requests = request[..received]
                .windows(HEAD_END.len())
                .filter(|bytes| bytes == HEAD_END)
                .count();
            // The load notices an error, because it misses the response.
            let _ = stream.write_all(&responses[..requests * BARE_RESPONSE.len()]);
        }
    }
}

/// Tells the parent process where this one listens, and then waits until the parent closes stdin.
fn announce_and_wait(addr: SocketAddr) -> io::Result<()> {
    println!("{addr}");
    io::copy(&mut io::stdin(), &mut io::sink()).map(drop)
}

/// Makes a socket non-blocking, and has the poller report it as `key` each time bytes arrive.
fn register(poller: &OwnedFd, stream: &TcpStream, key: usize) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let interest = epoll::EventFlags::IN | epoll::EventFlags::ET;
    Ok(epoll::add(
        poller,
        stream,
        epoll::EventData::new_u64(key as u64),
        interest,
    )?)
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The connections of a bare server. Each is used once, because the process lives for one
/// measurement.
static BARE_CONNECTIONS: [OnceLock<TcpStream>; CONNECTIONS_MAX + 1] =
    [const { OnceLock::new() }; CONNECTIONS_MAX + 1];

/// The response of a bare server, which is as long as those of the real ones.
const BARE_RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\
    date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nHello, World!";

/// The request, as curl sends it.
const REQUEST: &[u8] =
    b"GET /plaintext HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n\r\n";
const HEAD_END: &[u8; 4] = b"\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 ";
const BODY: &str = "Hello, World!";
const END: &[u8] = b"\r\n\r\nHello, World!";

/// The name of voluntary context switches in `/proc/PID/task/TID/status`.
const VOLUNTARY: &str = "voluntary_ctxt_switches:";

const ANY_PORT: &str = "127.0.0.1:0";
const EVENTS_MAX: usize = 256;
/// The most connections: 80 % of the usual soft limit of 1024 descriptors, which is lameduck's
/// default.
const CONNECTIONS_MAX: usize = 800;
const WARM_UP: Duration = Duration::from_millis(300);
/// The time after which the bench gives up on a response, a start or a stop.
const TIMEOUT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};
const USAGE: &str = "flags: --seconds S, --rounds R, --connections C,..., --only NAME,...";
