//! A server in a process of its own, which does not outlive this process.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, kill_process, kill_process_group, setrlimit,
};

use crate::cli::args::ProveOptions;
use crate::cli::prove::link::Network;
use crate::cli::prove::plan::{IDLE_GRACE, Plan, millis};

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// Where it listens.
    pub(super) addr: SocketAddr,
    stdout: Option<JoinHandle<(String, Instant)>>,
    stderr: Receiver<String>,
}

/// How a server ended.
#[derive(Debug)]
pub(super) struct End {
    /// `None` if the server had to be killed.
    status: Option<ExitStatus>,
    /// When its stdout was closed, which the kernel does as the process exits.
    pub(super) at: Instant,
    pub(super) stdout: String,
    /// The last lines that the server has logged.
    pub(super) log: Vec<String>,
}

impl Server {
    /// Starts the server of `plan`, or that of the option `--target`, and waits until it listens.
    pub(super) fn start(
        options: &ProveOptions,
        network: &Network,
        plan: &Plan,
    ) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(&program);
        command.args(["prove", TETHERED, &std::process::id().to_string()]);
        let free = SocketAddr::from((network.servers(), 0));
        let addr = match &options.target {
            Some(target) => {
                let addr = TcpListener::bind(free)?.local_addr()?;
                let target = target.replace("{port}", &addr.port().to_string());
                // With `exec` the process that is signalled is the server's and not a shell's.
                command.args(["sh", "-c", &format!("exec {target}")]);
                Some(addr)
            }
            None => {
                command.arg(program).args([
                    "demo",
                    "--listen",
                    &free.to_string(),
                    "--workers",
                    &plan.workers.to_string(),
                ]);
                command.args(["--idle-grace", &format!("{}ms", IDLE_GRACE.as_millis())]);
                command.args(["--lame-duck", &format!("{}ms", plan.lame_duck.as_millis())]);
                // At this level the line that says where the server listens is logged.
                command.arg("--json").env("RUST_LOG", "info");
                None
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (to_lines, lines) = unbounded();
        thread::spawn(move || {
            let lines = BufReader::new(stderr.expect("it is piped"))
                .split(b'\n')
                .map_while(Result::ok);
            lines
                .map(|line| String::from_utf8_lossy(&line).into_owned())
                .try_for_each(|line| to_lines.send(line))
        });
        let stdout = thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.expect("it is piped").read_to_end(&mut bytes);
            (String::from_utf8_lossy(&bytes).into_owned(), Instant::now())
        });
        let mut server = Self {
            child,
            addr: free,
            stdout: Some(stdout),
            stderr: lines,
        };
        server.addr = match addr {
            Some(addr) => server.wait_until_accepting(addr)?,
            None => server.wait_for_logged_address()?,
        };
        Ok(server)
    }

    fn wait_for_logged_address(&self) -> io::Result<SocketAddr> {
        let mut last_line = String::from("none");
        loop {
            let line = self.stderr.recv_timeout(START_TIMEOUT).map_err(|_| {
                io::Error::other(format!(
                    "the server did not say where it listens; its last line: {last_line}"
                ))
            })?;
            if let Some((_, addr)) = line.split_once("listening on http://") {
                return addr.trim().parse().map_err(io::Error::other);
            }
            last_line = line;
        }
    }

    fn wait_until_accepting(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut last_line = String::from("none");
        while TcpStream::connect(addr).is_err() {
            match self.stderr.recv_timeout(millis(10)) {
                Ok(line) => last_line = line,
                Err(RecvTimeoutError::Timeout)
                    if Instant::now() < deadline && self.child.try_wait()?.is_none() => {}
                Err(_) => {
                    return Err(io::Error::other(format!(
                        "the server does not listen on {addr}; its last line: {last_line}"
                    )));
                }
            }
        }
        Ok(addr)
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits until the server has ended, and kills it at `deadline`.
    pub(super) fn wait(mut self, deadline: Instant) -> io::Result<End> {
        let status = loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() >= deadline {
                break status;
            }
            pause(millis(2));
        };
        if status.is_none() {
            self.kill();
        }
        let stdout = self.stdout.take().expect("it is taken here");
        let (stdout, at) = stdout.join().expect("reading does not panic");
        let log: Vec<_> = self.stderr.iter().collect();
        let log = log[log.len().saturating_sub(LOG_LINES)..].to_vec();
        Ok(End {
            status,
            at,
            stdout,
            log,
        })
    }

    fn kill(&mut self) {
        // The process leads its group. It was not waited for yet, so its number is not reused.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.kill();
        }
    }
}

impl End {
    /// `None` if the server was killed, by us or by a signal.
    pub(super) fn exit_code(&self) -> Option<i32> {
        self.status?.code()
    }

    pub(super) fn is_over(&self) -> bool {
        self.status.is_some()
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "the server ended with {status}"),
            None => f.write_str("the server did not stop and had to be killed"),
        }?;
        self.log
            .iter()
            .try_for_each(|line| write!(f, "\n    its log: {line}"))
    }
}

/// Becomes `command`, which gets SIGTERM when the process `parent` is gone: the parent-death signal
/// survives exec(2). It is sent when the *thread* ends that has started this process, so that has
/// to be a thread that lives as long as its process.
pub(in crate::cli) fn become_tethered(parent: i32, command: &[OsString]) -> io::Error {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        return error.into();
    }
    // The parent may have been gone before the call.
    if getppid()
        .map(Pid::as_raw_nonzero)
        .map(std::num::NonZero::get)
        != Some(parent)
    {
        return io::Error::other("the process that has started this one is gone");
    }
    // A server that is killed by a signal such as SIGQUIT should leave no core file.
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    let Some((program, arguments)) = command.split_first() else {
        return io::Error::other("there is no command");
    };
    Command::new(program).args(arguments).exec()
}

/// Blocks for `duration`.
pub(super) fn pause(duration: Duration) {
    let _ = crossbeam_channel::never::<()>().recv_timeout(duration);
}

/// The option with which `prove` becomes another command.
pub(in crate::cli) const TETHERED: &str = "--tethered";

/// How long a server may take until it accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How many of the last lines of a server's log are shown.
const LOG_LINES: usize = 8;
