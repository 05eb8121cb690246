//! A logger that waits, or panics, holds up nothing but its own lines.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use lameduck::group::Group;
use lameduck::{Context, Request, Server};
use log::{LevelFilter, Log, Metadata, Record};

use support::{LIMIT, TestServer, builder, get, hello};

/// The logger of this process, which all tests share. It does what the line's text says.
struct Unkind {
    /// Tells of the line at which it waits.
    waits: Mutex<Option<Sender<()>>>,
    /// Lets it go on.
    go_on: Mutex<Option<Receiver<()>>>,
}

static LOGGER: Unkind = Unkind {
    waits: Mutex::new(None),
    go_on: Mutex::new(None),
};

impl Log for Unkind {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args().to_string();
        assert!(!line.contains("400 Bad Request"), "a logger that panics");
        assert!(!line.contains("stopped"), "a logger that panics");
        if line.contains("431") {
            let waits = self.waits.lock().unwrap().take();
            let go_on = self.go_on.lock().unwrap().take();
            if let (Some(waits), Some(go_on)) = (waits, go_on) {
                waits.send(()).unwrap();
                let _ = go_on.recv();
            }
        }
    }

    fn flush(&self) {}
}

fn install() {
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Trace);
}

#[test]
fn a_logger_that_panics_costs_nothing_but_its_line() {
    install();
    let server = TestServer::with(builder().workers(2), hello);
    for _ in 0..8 {
        let mut bad = server.client();
        bad.send("GET / HTTP/1.1\r\nno colon\r\n\r\n");
        assert_eq!(bad.read_response().status, 400);
    }
    assert_eq!(server.client().get("/").status, 200);
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_logger_that_panics_holds_no_group_up() {
    install();
    let group = Group::new();
    let web = Server::builder().bind("127.0.0.1:0").unwrap();
    group.serve("web", web, |_: Request, _: Context| "hello");
    let handle = group.handle();
    let report = support::within_limit("the group ends", move || handle.shutdown());
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_logger_that_waits_holds_up_no_request_and_no_stop() {
    install();
    let (waits, is_waiting) = channel();
    let (_go_on, may_go_on) = channel::<()>();
    *LOGGER.waits.lock().unwrap() = Some(waits);
    *LOGGER.go_on.lock().unwrap() = Some(may_go_on);
    let server = TestServer::with(builder().workers(2).max_head_bytes(1000), hello);
    let mut large = server.client();
    large.send(format!(
        "GET / HTTP/1.1\r\nHost: a\r\nlarge: {}\r\n\r\n",
        "x".repeat(2000)
    ));
    assert_eq!(large.read_response().status, 431);
    is_waiting.recv_timeout(LIMIT).unwrap();
    // Further lines wait behind it, and more than there is room for.
    let mut client = server.client();
    for _ in 0..2000 {
        client.send(get("/"));
        assert_eq!(client.read_response().status, 200);
        let mut bad = server.client();
        bad.send("no request\r\n\r\n");
        assert_eq!(bad.read_response().status, 400);
    }
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
}

#[cfg(feature = "cli")]
mod in_a_child {
    use std::io::Write;
    use std::process::Stdio;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use support::{Client, eventually};

    /// The bytes that a pipe holds by default.
    const PIPE: u64 = 65536;

    #[test]
    fn a_pipe_that_nobody_reads_keeps_no_signal_and_no_deadline_from_being_heeded() {
        let path = std::env::temp_dir().join(format!("lameduck-pipe-{}", std::process::id()));
        let listen = format!("unix:{}", path.display());
        let (reader, mut filler) = std::io::pipe().unwrap();
        let stderr = filler.try_clone().unwrap();
        let mut child = support::child::demo()
            .args(["--listen", &listen, "--grace-period", "300ms"])
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        eventually("it listens", || {
            std::os::unix::net::UnixStream::connect(&path).is_ok()
        });
        // Byte by byte, so that the kernel leaves no page of the pipe half empty.
        let filling = std::thread::spawn(move || while filler.write_all(b".").is_ok() {});
        eventually("the pipe is full", || {
            rustix::io::ioctl_fionread(&reader).unwrap() == PIPE
        });
        let mut waits = Client::connect_unix(&path);
        waits.send(get("/plaintext") + &get("/sleep?ms=3600000"));
        assert_eq!(waits.read_response().status, 200);
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(waits.read_response().status, 503);
        drop(waits);
        let mut stdout = child.stdout.take().unwrap();
        let report = support::within_limit("the program ends", move || {
            std::io::read_to_string(&mut stdout).unwrap()
        });
        assert!(report.contains("1 request cut"), "{report}");
        assert_eq!(child.wait().unwrap().code(), Some(1));
        drop(reader);
        filling.join().unwrap();
    }
}
