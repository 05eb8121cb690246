//! The server under attack, in its own process, and the kernel's account of it.

#![allow(dead_code, reason = "each program uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use lameduck::body::BodyWriter;
use lameduck::{Body, Context, IntoResponse, Request, Response};

/// The number of workers of each server. With few workers, a client that holds one shows.
const WORKERS: usize = 4;
/// The size of the response that a slow reader asks for.
const LARGE: usize = 20 << 20;

/// The variable that tells the child which server to be.
const SERVE: &str = "LAMEDUCK_HOSTILE_SERVE";

/// The server's timeouts, or another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    Default,
    /// The timeouts are so short that they take effect within a second or two.
    Short,
    /// Another server: as many threads as ours has workers, each of which serves one connection
    /// after the other.
    PeerPool,
    /// Another server: a thread for each connection.
    PeerThreads,
}

impl Times {
    fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Short => "short",
            Self::PeerPool => "pool",
            Self::PeerThreads => "threads",
        }
    }
}

/// Serves until stdin ends and then prints the counts, if this process is a child for that.
pub(crate) fn serve_if_asked() -> bool {
    let Ok(times) = std::env::var(SERVE) else {
        return false;
    };
    raise_descriptor_limit();
    if times == "pool" || times == "threads" {
        peer(times == "threads");
        return true;
    }
    // Some of the requests ask for a panic, whose messages would fill the screen.
    std::panic::set_hook(Box::new(|_| {}));
    let descriptors = count("/proc/self/fd");
    let mut description = lameduck::Server::builder().workers(WORKERS);
    if times == "short" {
        let short = Duration::from_secs(1);
        description = description
            .head_timeout(short)
            .idle_timeout(short)
            .body_timeout(short)
            .write_timeout(short);
        description = description.queue_timeout(short);
    }
    let running = description
        .bind("127.0.0.1:0")
        .unwrap()
        .spawn(handle)
        .unwrap();
    println!("addr {}", running.local_addr());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let report = running.handle().shutdown_within(Duration::from_secs(2));
    for (reason, n) in &report.closed {
        println!("closed {reason:?} {n}");
    }
    drop(running);
    // The thread that has made the report may still be on its way out.
    let gone_by = Instant::now() + Duration::from_secs(1);
    while threads_of_servers() > 0 && Instant::now() < gone_by {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let (accepted, answered) = (
        report.accepted,
        report.answered.iter().map(|(_, n)| n).sum(),
    );
    let counts: [(&str, u64); 5] = [
        ("accepted", accepted),
        ("answered", answered),
        ("stuck", report.stuck.len() as u64),
        ("threads", threads_of_servers()),
        (
            "descriptors",
            count("/proc/self/fd").saturating_sub(descriptors) as u64,
        ),
    ];
    counts
        .iter()
        .for_each(|(what, n)| println!("count {what} {n}"));
    true
}

/// Runs a server as one writes it with the standard library in an hour: it blocks, and has no
/// timeouts.
fn peer(thread_for_each: bool) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // The standard library asks for a backlog of 128, with which clients would wait in connect(2).
    rustix::net::listen(&listener, 4096).unwrap();
    println!("addr {}", listener.local_addr().unwrap());
    let serve = move |listener: std::net::TcpListener| {
        for stream in listener.incoming().flatten() {
            if thread_for_each {
                let thread = std::thread::Builder::new();
                let _ = thread.spawn(move || serve_peer(stream));
            } else {
                let _ = serve_peer(stream);
            }
        }
    };
    for _ in 0..if thread_for_each { 1 } else { WORKERS } {
        let listener = listener.try_clone().unwrap();
        std::thread::spawn(move || serve(listener));
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn serve_peer(stream: std::net::TcpStream) -> std::io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap_or(0);
            }
            head.push_str(&line);
            if line == "\r\n" {
                break;
            }
        }
        std::io::copy(&mut (&mut input).take(length), &mut std::io::sink())?;
        let large = head.starts_with("GET /pu");
        let length = if large { LARGE } else { 5 };
        write!(
            &stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        )?;
        if large {
            (0..LARGE / 4096).try_for_each(|_| (&stream).write_all(&[b'x'; 4096]))?;
        } else {
            (&stream).write_all(b"hello")?;
        }
        if head.contains("Connection: close") {
            return Ok(());
        }
    }
}

fn threads_of_servers() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("lameduck-")).count() as u64
}

fn count(dir: &str) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Raises the limit on descriptors. Ten thousand connections are as many descriptors, here and in
/// the server.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .unwrap();
}

fn handle(mut request: Request, _: Context) -> Response {
    match request.uri().path() {
        "/pulled" => Body::sized_reader(std::io::repeat(b'x'), LARGE as u64).into_response(),
        "/pushed" => Body::writer(|out: &mut BodyWriter<'_>| {
            (0..LARGE / 4096).try_for_each(|_| out.write_all(&[b'x'; 4096]))
        })
        .into_response(),
        "/upload" => {
            let mut buffer = [0; 4096];
            let mut body = std::mem::take(request.body_mut());
            let n = std::iter::from_fn(|| body.read(&mut buffer).ok().filter(|n| *n > 0))
                .sum::<usize>();
            format!("{n} bytes").into_response()
        }
        "/panic" => panic!("on purpose"),
        _ => "hello".into_response(),
    }
}

/// Returns the bytes in the buffers of all TCP sockets of the machine, which are those of both ends
/// of each connection.
pub(crate) fn kernel_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .unwrap_or_default();
    line.rsplit(' ')
        .next()
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or(0)
        << 12
}

/// A server in a child process.
pub(crate) struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub(crate) addr: SocketAddr,
}

impl Server {
    /// Starts this program again, as a server. A test binary has to have a test `serve` for that.
    pub(crate) fn start(times: Times) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "serve", "--nocapture"]);
        command.env(SERVE, times.name());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let addr = loop {
            line.clear();
            assert!(
                stdout.read_line(&mut line).unwrap() > 0,
                "the server does not start"
            );
            // The name of a test may stand before the address.
            if let Some((_, addr)) = line.split_once("addr ") {
                break addr.trim().parse().unwrap();
            }
        };
        Self {
            child,
            stdin,
            stdout,
            addr,
        }
    }

    pub(crate) fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id()))
            .unwrap()
            .count()
    }

    /// Returns the resident bytes of the process.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Returns how many descriptors the process has open.
    pub(crate) fn descriptors(&self) -> usize {
        count(&format!("/proc/{}/fd", self.child.id()))
    }

    /// Stops the server.
    pub(crate) fn stop(mut self) -> Ended {
        drop(self.stdin.take());
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        let lines = |start: &str| -> Vec<(String, u64)> {
            let lines = text
                .lines()
                .filter_map(|line| line.strip_prefix(start)?.trim().split_once(' '));
            lines
                .map(|(what, n)| (what.to_owned(), n.parse().unwrap()))
                .collect()
        };
        Ended {
            closed: lines("closed "),
            counts: lines("count "),
        }
    }
}

/// The counts that a server prints at its end.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How the connections have ended.
    pub(crate) closed: Vec<(String, u64)>,
    counts: Vec<(String, u64)>,
}

impl Ended {
    pub(crate) fn count(&self, what: &str) -> u64 {
        self.counts
            .iter()
            .find(|(of, _)| of == what)
            .unwrap_or_else(|| panic!("no {what} in {self:?}"))
            .1
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
