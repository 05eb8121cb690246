//! The programs that the children of the tests run. Each function is a complete program, named as
//! its mode.
//!
//! A program says on stderr when it is "ready" for a signal, and when it is "done".

use std::io::Write;
use std::sync::{Arc, Barrier};

use lameduck::body::BodyWriter;
use lameduck::context::CancelReason;
use lameduck::report::{Phase, StopCause};
use lameduck::signal::SignalGuard;
use lameduck::{Body, Context, Error, Request, Running, ServerBuilder};
use rustix::process::{Signal, getpid, kill_process};

use super::support::{Client, Gate, LIMIT, builder, get, hello, serve, within_limit};
use super::{INT, TERM};

/// Runs the program `mode`.
pub(super) fn run(mode: &str) {
    match mode {
        "nothing asked" => nothing_asked(),
        "asked" => asked(),
        "guard dropped" => guard_dropped(),
        "guard kept by another" => guard_kept_by_another(),
        "caught again" => caught_again(),
        "one refused" => one_refused(),
        "bound and dropped" => bound_and_dropped(),
        "stopped" => stopped(),
        "before it runs" => before_it_runs(),
        "stops that race" => stops_that_race(),
        "context" => context(),
        mode => panic!("{mode:?} is no mode"),
    }
}

/// Serves without having asked for a signal.
fn nothing_asked() {
    let running = serve(server(), "127.0.0.1:0", hello);
    announce(&running);
    let _ = running.join();
}

/// Serves responses that do not end, and has asked for two signals.
fn asked() {
    let description = server()
        .workers(4)
        .cut_grace(LIMIT * 6)
        .on_signals([TERM, INT]);
    let running = serve(description, "127.0.0.1:0", endless);
    announce(&running);
    let _ = running.join();
}

fn guard_dropped() {
    drop(notified(&[TERM]));
    wait_to_be_killed();
}

/// Says which signal it caught, although one of its two guards for SIGTERM was dropped.
fn guard_kept_by_another() {
    let one = notified(&[TERM]);
    let (context, _guard) = notified(&[TERM, INT]);
    drop(one);
    say("ready");
    context.cancelled().recv_timeout(LIMIT).unwrap_err();
    say(&format!("{:?}", context.reason()));
}

fn caught_again() {
    for _ in 0..3 {
        drop(notified(&[TERM]));
    }
    let (context, guard) = notified(&[TERM]);
    raise(Signal::TERM);
    context.cancelled().recv_timeout(LIMIT).unwrap_err();
    assert_eq!(context.reason(), Some(CancelReason::Signal(TERM)));
    drop(guard);
    wait_to_be_killed();
}

/// Asks for SIGTERM in calls that are refused for another reason.
fn one_refused() {
    lameduck::signal::notify([TERM, libc::SIGKILL]).unwrap_err();
    lameduck::signal::notify([TERM, 4711]).unwrap_err();
    builder()
        .on_signals([TERM, libc::SIGSTOP])
        .bind("127.0.0.1:0")
        .unwrap_err();
    let taken = server().bind("127.0.0.1:0").unwrap();
    // Here SIGTERM was installed before the address was found to be taken.
    server()
        .on_signals([TERM])
        .bind(taken.local_addr())
        .unwrap_err();
    wait_to_be_killed();
}

fn bound_and_dropped() {
    drop(server().on_signals([TERM]).bind("127.0.0.1:0").unwrap());
    wait_to_be_killed();
}

fn stopped() {
    let running = serve(server().on_signals([TERM]), "127.0.0.1:0", hello);
    assert!(running.handle().shutdown().is_clean());
    wait_to_be_killed();
}

/// Gets its signals between `bind` and `run`.
fn before_it_runs() {
    for signals in 1..=2 {
        signalled_before_it_runs(signals);
    }
    cancelled_before_it_runs();
    say("done");
}

fn signalled_before_it_runs(signals: usize) {
    let bound = server().on_signals([TERM]).bind("127.0.0.1:0").unwrap();
    let mut client = Client::connect(bound.local_addr());
    client.send(get("/"));
    (0..signals).for_each(|_| raise(Signal::TERM));
    let report = within_limit("run", || bound.run(hello)).unwrap();
    assert_eq!(report.cause, StopCause::Signal(TERM), "{report}");
    assert!(report.took < LIMIT / 2, "{report}");
    if signals == 1 {
        // The request came before the stop, even if no thread served then.
        assert_eq!(client.read_response().status, 200);
        assert!(report.is_clean(), "{report}");
    }
}

fn cancelled_before_it_runs() {
    let (context, _guard) = notified(&[TERM]);
    raise(Signal::TERM);
    let bound = server().context(&context).bind("127.0.0.1:0").unwrap();
    context.cancelled().recv_timeout(LIMIT).unwrap_err();
    // Either the server has stopped before it runs, or it stops at once.
    match within_limit("run", || bound.run(hello)) {
        Ok(report) => assert!(report.is_clean(), "{report}"),
        Err(error) => assert!(matches!(error, Error::Stopped), "{error:?}"),
    }
}

/// Has a signal race every other way to stop a server.
fn stops_that_race() {
    type Stop = fn(Running);
    let stops: [(&str, Stop); 5] = [
        ("shutdown", |running| drop(running.handle().shutdown())),
        ("shutdown_within", |running| {
            drop(running.handle().shutdown_within(LIMIT))
        }),
        ("close", |running| drop(running.handle().close())),
        ("join", |running| drop(running.join())),
        ("drop", drop),
    ];
    for (name, stop) in stops {
        for _ in 0..10 {
            race_a_signal(name, stop);
        }
    }
    say("done");
}

fn race_a_signal(name: &str, stop: fn(Running)) {
    // The guard catches a signal that comes when the server has stopped already.
    let (context, _guard) = notified(&[TERM]);
    let running = serve(server().on_signals([TERM]), "127.0.0.1:0", hello);
    let mut idle = Client::connect(running.local_addr());
    assert_eq!(idle.get("/").status, 200);
    // This client closes when the server does, so no stop waits for it.
    std::thread::spawn(move || idle.expect_eof());
    let handle = running.handle();
    let both = Arc::new(Barrier::new(2));
    let there = both.clone();
    let thread = std::thread::spawn(move || {
        there.wait();
        stop(running);
    });
    both.wait();
    raise(Signal::TERM);
    within_limit(name, || thread.join().unwrap());
    let first = within_limit(name, {
        let handle = handle.clone();
        move || handle.shutdown()
    });
    assert_eq!(handle.shutdown(), first, "{name}");
    assert!(
        first.is_clean() && first.answered_in(Phase::Running) == 1,
        "{name}: {first}"
    );
    assert!(first.took < LIMIT / 2, "{name}: {first}");
    context.cancelled().recv_timeout(LIMIT).unwrap_err();
}

/// Has two servers under one context that two signals cancel, and an exit code of its own.
fn context() {
    let (context, _guard) = notified(&[TERM, INT]);
    let servers = [0, 1].map(|_| serve(server().context(&context), "127.0.0.1:0", endless));
    announce(&servers[0]);
    announce(&servers[1]);
    let reports = servers.map(Running::join);
    assert_eq!(context.reason(), Some(CancelReason::Signal(INT)));
    for report in reports {
        say(&format!(
            "report: {:?}, {} cut",
            report.cause,
            crate::support::cut(&report).len()
        ));
    }
    std::process::exit(7);
}

// ---- Shared by the programs ----

fn server() -> ServerBuilder {
    builder().workers(2)
}

/// Sends the first part of a body, and no second one for as long as the process lives; for
/// `/silent` not even the first one.
fn endless(request: Request, _: Context) -> Body {
    if request.uri().path() == "/silent" {
        Gate::new().pass();
    }
    Body::writer(|out: &mut BodyWriter<'_>| {
        out.write_all(b"first part")?;
        out.flush()?;
        Gate::new().pass();
        Ok(())
    })
}

fn notified(signals: &[i32]) -> (Context, SignalGuard) {
    lameduck::signal::notify(signals.iter().copied()).unwrap()
}

fn raise(signal: Signal) {
    kill_process(getpid(), signal).unwrap();
}

/// Sends a line to the parent.
fn say(text: &str) {
    eprintln!("{text}");
}

#[track_caller]
fn announce(running: &Running) {
    say(&format!("listening on http://{}", running.local_addr()));
}

/// Says "ready", and waits for the signal with which the parent kills this process.
fn wait_to_be_killed() -> ! {
    say("ready");
    within_limit("the signal", || Gate::new().pass());
    unreachable!("the gate never opens");
}
