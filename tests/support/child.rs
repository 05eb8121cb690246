//! A server in its own process, for tests of what belongs to a process: signals, limits, inherited
//! descriptors, an exit code.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, unbounded};
use rustix::process::{Pid, Signal, kill_process};

use super::{Client, LIMIT};

/// A child process, whose lines on stderr are read as they come.
pub(crate) struct Program {
    child: Mutex<Child>,
    pid: Pid,
    lines: Receiver<String>,
    output: Receiver<String>,
    addr: Option<SocketAddr>,
}

/// The end of a child: its exit code or the signal that killed it, and what it wrote to stdout.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) output: String,
}

impl Program {
    /// Starts `lameduck demo` on a free port.
    pub(crate) fn demo(options: &[&str]) -> Self {
        Self::serving(demo().args(["--listen", "127.0.0.1:0"]).args(options))
    }

    /// Starts `command` and waits until it says where it listens.
    pub(crate) fn serving(command: &mut Command) -> Self {
        let mut program = Self::start(command);
        let line = program.wait_for_line("listening on ");
        program.addr = line
            .rsplit_once("http://")
            .and_then(|(_, addr)| addr.parse().ok());
        program
    }

    /// Starts `command`, with its stderr to be read.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (to_lines, lines) = unbounded();
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            BufReader::new(stderr)
                .lines()
                .try_for_each(|line| to_lines.send(line.unwrap()))
        });
        let (to_output, output) = unbounded();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                to_output.send(std::io::read_to_string(stdout).unwrap_or_default())
            });
        } else {
            to_output.send(String::new()).unwrap();
        }
        let pid = Pid::from_child(&child);
        Self {
            child: Mutex::new(child),
            pid,
            lines,
            output,
            addr: None,
        }
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr.unwrap()
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.local_addr())
    }

    /// Waits for the next line on stderr that has `text`.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            let line = self
                .lines
                .recv_timeout(LIMIT)
                .unwrap_or_else(|_| panic!("no line has {text:?}: {seen:#?}"));
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
    }

    /// Returns the address at the end of the first line on stderr that has `text`, or all lines if
    /// the child ends without it.
    pub(crate) fn lines_until(&self, text: &str) -> Result<SocketAddr, Vec<String>> {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            if let Some((_, addr)) = line.split_once(text) {
                return Ok(addr.parse().unwrap());
            }
            seen.push(line);
        }
        Err(seen)
    }

    /// Waits until the child says where else it listens.
    #[track_caller]
    pub(crate) fn wait_for_next_addr(&self) -> SocketAddr {
        let line = self.wait_for_line("listening on http://");
        line.rsplit_once("http://").unwrap().1.parse().unwrap()
    }

    /// Returns the lines on stderr until the child closes it.
    pub(crate) fn rest_of_lines(&self) -> Vec<String> {
        std::iter::from_fn(|| self.lines.recv_timeout(LIMIT).ok()).collect()
    }

    /// Returns a number of bytes from the kernel's account of the child's memory, such as that of
    /// `VmRSS:`.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid.as_raw_nonzero());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Waits for the end of the child, which closes its stdout.
    #[track_caller]
    pub(crate) fn end(&self) -> Ended {
        let output = self.output.recv_timeout(LIMIT).expect("the program ends");
        let status = self.child.lock().unwrap().wait().unwrap();
        Ended {
            code: status.code(),
            signal: status.signal(),
            output,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Returns the command `lameduck demo`, without options.
pub(crate) fn demo() -> Command {
    let mut command = program();
    command.arg("demo");
    command
}

/// Returns the command `lameduck`, with a clean environment and its stdout to be read.
pub(crate) fn program() -> Command {
    quiet(Command::new(env!("CARGO_BIN_EXE_lameduck")))
}

/// Returns the command `sh -c script`. In the script, `"$0"` is the program.
pub(crate) fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_lameduck")]);
    quiet(command)
}

/// Returns a command that runs this test binary with the test `name` only, and with `mode` in the
/// environment.
pub(crate) fn this_program(name: &str, mode: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MODE, mode);
    quiet(command)
}

/// The variable in which [`this_program`] passes the mode.
pub(crate) const MODE: &str = "LAMEDUCK_TEST_MODE";

fn quiet(mut command: Command) -> Command {
    command
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    for variable in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(variable);
    }
    command
}

/// Runs `lameduck prove` to its end.
pub(crate) fn prove(options: &[&str]) -> Output {
    /// Lets one run at a time: clients that get no time to run look like clients that are silent.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(env!("CARGO_BIN_EXE_lameduck"));
    command.arg("prove").args(options).stdin(Stdio::null());
    command.output().unwrap()
}
