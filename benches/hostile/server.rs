//! The server under attack, in a process of its own, and what the kernel tells about it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use lameduck::{Body, BodyWriter, Context, IntoResponse, Request, Response};

/// Workers of each server: the fewer there are, the more a client that holds one shows.
const WORKERS: usize = 4;
/// What a slow reader asks for.
const LARGE: usize = 20 << 20;

/// How patient the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    Default,
    /// So that something is seen of them within a second or two.
    Short,
}

impl Times {
    pub(crate) fn parse(word: &str) -> Self {
        if word == "short" { Self::Short } else { Self::Default }
    }
}

/// Serves until stdin ends, then says how connections have ended.
pub(crate) fn serve(times: &Times) {
    super::raise_descriptor_limit();
    let mut description = lameduck::Server::builder().workers(WORKERS);
    if *times == Times::Short {
        let short = Duration::from_secs(1);
        description = description.head_timeout(short).idle_timeout(short).body_timeout(short).write_timeout(short);
        description = description.queue_timeout(short);
    }
    let running = description.bind("127.0.0.1:0").unwrap().spawn(handle).unwrap();
    println!("{}", running.addr());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let report = running.handle().close();
    for (reason, n) in &report.closed {
        println!("{reason:?} {n}");
    }
}

fn handle(mut request: Request, _: Context) -> Response {
    match request.uri().path() {
        "/pulled" => Body::sized_reader(std::io::repeat(b'x'), LARGE as u64).into_response(),
        "/pushed" => {
            Body::writer(|out: &mut BodyWriter<'_>| (0..LARGE / 4096).try_for_each(|_| out.write_all(&[b'x'; 4096])))
                .into_response()
        }
        "/upload" => {
            let mut buffer = [0; 4096];
            let mut body = std::mem::take(request.body_mut());
            let n = std::iter::from_fn(|| body.read(&mut buffer).ok().filter(|n| *n > 0)).sum::<usize>();
            format!("{n} bytes").into_response()
        }
        _ => "hello".into_response(),
    }
}

/// Bytes in the buffers of all TCP sockets of the machine, of both ends of each connection.
pub(crate) fn kernel_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    line.rsplit(' ').next().and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) << 12
}

/// A server in a child process.
pub(crate) struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub(crate) addr: SocketAddr,
}

impl Server {
    pub(crate) fn start(times: &Times) -> Self {
        let times = if *times == Times::Short { "short" } else { "default" };
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command.args(["serve", times]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        Self { child, stdin, stdout, addr: line.trim().parse().unwrap() }
    }

    pub(crate) fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }

    /// Resident bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Stops it: how its connections have ended.
    pub(crate) fn stop(mut self) -> Vec<(String, u64)> {
        drop(self.stdin.take());
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(by, n)| (by.to_owned(), n.parse().unwrap()))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
