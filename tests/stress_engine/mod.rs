//! A server and clients that do everything that clients do. In the end the counts of both sides
//! have to agree.
//!
//! Hundreds of connections send tagged requests in pipelines, cut at any byte. They half-close,
//! reset, vanish or stop reading when their plan says so. All bytes of each answer are checked, and
//! the order of the answers. An event that the server misses makes a connection hang, which is
//! reported with all that is known about the connection. In the end nothing may be left: no open
//! connection, no descriptor, no CPU time while idle; and the report says what the clients have
//! seen.

mod client;
mod plan;
mod proc;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Once;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use lameduck::report::{CloseReason, Phase};
use lameduck::{Report, Running, Server};

pub(crate) use client::Tally;
use rustix::net::sockopt;

use client::{Answer, Arena, HANG};

/// One run against one server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    /// The number of connections at the same time.
    pub(crate) connections: usize,
    /// The server's `collect_bytes`. With zero each request body is read by its handler as it
    /// comes.
    pub(crate) collect_bytes: usize,
    pub(crate) seed: u64,
    /// The time in which connections are opened.
    pub(crate) time: Duration,
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) failure: Option<String>,
}

/// The number of client threads. Each has many connections; more threads would only take cores from
/// the server.
const CLIENT_THREADS: usize = 4;
const SEND_BUFFER: usize = 32 << 10;
/// The most CPU time that an idle server may use in [`QUIET`].
const IDLE_CPU_MAX: Duration = Duration::from_millis(20);
const QUIET: Duration = Duration::from_secs(1);
const IDLE_GRACE: Duration = Duration::from_millis(200);
/// The longest time that the stop may take. Nothing is in flight then, so it takes the idle grace,
/// and somewhat more on a busy machine.
const STOP_MAX: Duration = Duration::from_secs(2);

/// Starts a server, stresses it, and checks what is left.
pub(crate) fn run(setup: &Setup) -> Outcome {
    silence_planned_panics();
    let descriptors = proc::descriptors();
    // The timeouts are so long that an overloaded machine does not reach them. They would hide
    // connections that hang.
    let builder = Server::builder()
        .workers(setup.workers)
        .collect_bytes(setup.collect_bytes)
        .queue_timeout(6 * HANG);
    let builder = builder.idle_grace(IDLE_GRACE).grace_period(HANG);
    let server = builder
        .bind(listener())
        .and_then(|bound| bound.spawn(plan::handle))
        .expect("the server starts");
    let handle = server.handle();
    let (mut tally, stressed) = stress(setup, &server);
    let checked = stressed.and_then(|streams| {
        check_quiet(&server, &streams)?;
        check_idle(&streams, &mut tally)?;
        let report = handle.shutdown();
        check_report(&report, &tally)?;
        check_ends(streams)
    });
    let failure = checked.err().map(|error| format!("{error}\n  {setup:?}"));
    drop(server);
    let _ = handle.shutdown_within(HANG);
    let failure = failure.or_else(|| match (descriptors, proc::descriptors()) {
        (Some(before), Some(after)) if before != after => Some(format!(
            "{after} descriptors after the stop, {before} before"
        )),
        _ => None,
    });
    Outcome { tally, failure }
}

/// Returns a listener whose connections inherit a small send buffer, so that the server often has
/// to wait for room.
fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER)
        .expect("a listener has a send buffer");
    listener
}

/// Drives all connections. Returns those that are still open in the end, or the first failure.
fn stress(setup: &Setup, server: &Running) -> (Tally, Result<Vec<TcpStream>, String>) {
    let until = Instant::now() + setup.time;
    let arena = Arena {
        addr: server.local_addr(),
        seed: setup.seed,
        until,
        failed: AtomicBool::new(false),
        handle: server.handle(),
    };
    let first = |nth| setup.connections * nth / CLIENT_THREADS;
    let driven: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENT_THREADS)
            .map(|nth| {
                let arena = &arena;
                scope.spawn(move || client::drive(arena, first(nth)..first(nth + 1)))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a client thread reports failures"))
            .collect()
    });
    let (mut tally, mut open, mut failure) = (Tally::default(), Vec::new(), None::<String>);
    for driven in driven {
        match driven {
            Ok((part, streams)) => {
                tally.add(&part);
                open.extend(streams);
            }
            // An error without a text belongs to a thread that only stopped because another failed.
            Err(error) => failure = failure.filter(|error| !error.is_empty()).or(Some(error)),
        }
    }
    (tally, failure.map_or(Ok(open), Err))
}

/// Checks that only the connections that stay are open, and that the idle server uses no CPU time.
fn check_quiet(server: &Running, streams: &[TcpStream]) -> Result<(), String> {
    let handle = server.handle();
    let began = Instant::now();
    while handle.stats().open != streams.len() {
        if began.elapsed() > HANG {
            return Err(format!(
                "{:?}, but {} connections stay",
                handle.stats(),
                streams.len()
            ));
        }
        pass(server, Duration::from_millis(10));
    }
    let before = proc::server_cpu();
    pass(server, QUIET);
    match (before, proc::server_cpu()) {
        (Some(before), Some(after)) if after - before > IDLE_CPU_MAX => Err(format!(
            "{:?} of CPU time in an idle second\n{}",
            after - before,
            proc::threads()
        )),
        _ => Ok(()),
    }
}

/// Lets time pass, unless the server stops.
fn pass(server: &Running, time: Duration) {
    let _ = server.stopped().recv_timeout(time);
}

/// Checks that a connection that was silent for a while is still served. It asks on each eighth one
/// only, so that the stop meets both kinds.
fn check_idle(streams: &[TcpStream], tally: &mut Tally) -> Result<(), String> {
    for mut stream in streams.iter().step_by(8) {
        let failed = |error| format!("an idle connection was not served: {error}");
        stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_read_timeout(Some(HANG)))
            .map_err(failed)?;
        stream
            .write_all(b"GET /t/7/16 HTTP/1.1\r\nHost: stress\r\n\r\n")
            .map_err(failed)?;
        let (mut inbox, mut buffer) = (Vec::new(), [0; 1024]);
        let answer = loop {
            let n = match stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.map_err(failed)?,
            };
            inbox.extend_from_slice(&buffer[..n]);
            match Answer::parse(&inbox, false)? {
                Some(answer) => break answer,
                None if n == 0 => {
                    return Err("an idle connection ended before its answer".to_owned());
                }
                None => {}
            }
        };
        if answer.body != b"000000000000007\n" {
            return Err(format!("an idle connection got {answer:?}"));
        }
        tally.answers += 1;
    }
    Ok(())
}

/// Checks that each connection has ended with a FIN after the stop, and that nothing more has come.
fn check_ends(streams: Vec<TcpStream>) -> Result<(), String> {
    for mut stream in streams {
        let port = stream.local_addr().map_or(0, |addr| addr.port());
        let ended = stream
            .set_nonblocking(true)
            .and_then(|()| stream.read(&mut [0; 16]));
        if !matches!(ended, Ok(0)) {
            return Err(format!(
                "a connection did not end with the server: {ended:?}\n{}",
                proc::sockets(port)
            ));
        }
    }
    Ok(())
}

/// Checks that the server's report agrees with what the clients have counted.
fn check_report(report: &Report, tally: &Tally) -> Result<(), String> {
    let never = [
        CloseReason::Cut,
        CloseReason::Stalled,
        CloseReason::Silent,
        CloseReason::NoSlot,
        CloseReason::Idle,
    ];
    let closed: u64 = report.closed.iter().map(|(_, n)| n).sum();
    let answered: u64 = report.answered.iter().map(|(_, n)| n).sum();
    let wrong = [
        (
            !report.is_clean() || !report.listeners.errors.is_empty(),
            "it is not clean",
        ),
        (report.took > STOP_MAX, "it took too long"),
        (
            report
                .phases
                .iter()
                .any(|(phase, _)| *phase == Phase::Cutting),
            "it had to cut",
        ),
        (
            report.accepted != tally.connections,
            "connections opened are not those accepted",
        ),
        (
            closed != report.accepted,
            "connections accepted are not those closed",
        ),
        (answered < tally.answers, "fewer responses than were read"),
        (
            report.closed_because(CloseReason::Failed) < tally.panics,
            "fewer failures than panics",
        ),
        (
            never
                .iter()
                .any(|reason| report.closed_because(*reason) > 0),
            "a connection was given up",
        ),
    ];
    let wrong: Vec<_> = wrong
        .into_iter()
        .filter(|(is, _)| *is)
        .map(|(_, what)| what)
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "the report is wrong: {}\n{tally:?}\n{report}",
            wrong.join(", ")
        ))
    }
}

/// Keeps the planned panics of handlers from filling the screen.
fn silence_planned_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref() != Some(&plan::PANIC) {
                default(panic);
            }
        }));
    });
}
