//! Every way to stop a server begins the same stop and gets the same report, whoever calls it, and
//! stops no other server.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::Signal;

use lameduck::report::{Phase, StopCause};
use lameduck::{Context, Error, Request, ServerHandle};

use super::support::{
    Client, Gate, LIMIT, TestServer, builder, gated, hello, millis, now, serve, within_limit,
};
use super::{alone, shared};

#[test]
fn a_lame_duck_accepts_and_serves_and_says_close() {
    let _shared = shared();
    let server = TestServer::with(builder().workers(2).lame_duck(millis(300)), hello);
    let mut known = server.used_client("/");
    assert!(server.handle().is_ready());
    assert_eq!(server.handle().phase(), Phase::Running);
    let began = now();
    server.handle().begin_shutdown();
    assert!(!server.handle().is_ready());
    assert_eq!(server.handle().phase(), Phase::LameDuck);
    for client in [&mut known, &mut server.client()] {
        let answer = client.get("/");
        assert_eq!(answer.text(), "hello");
        assert!(answer.closes());
        client.expect_eof();
    }
    let report = server.stop();
    let took = now() - began;
    assert!(took >= millis(300) && took < LIMIT / 5, "{took:?}");
    assert_eq!(report.answered_in(Phase::LameDuck), 2, "{report}");
    assert_eq!(server.handle().phase(), Phase::Stopped);
    assert!(!server.handle().is_ready());
}

#[test]
fn a_shorter_stop_ends_the_lame_duck() {
    let _shared = shared();
    let server = TestServer::with(builder().workers(2).lame_duck(LIMIT * 6), hello);
    server.handle().begin_shutdown();
    assert_eq!(server.handle().phase(), Phase::LameDuck);
    let handle = server.handle();
    let report = within_limit("a shorter stop", move || {
        handle.shutdown_within(Duration::from_secs(1))
    });
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_handler_can_begin_the_shutdown() {
    let _shared = shared();
    let server = with_own_handle(ServerHandle::begin_shutdown);
    let mut client = server.client();
    let answer = client.get("/");
    assert_eq!(answer.text(), "done");
    assert!(answer.closes());
    client.expect_eof();
    server.running().stopped().recv_timeout(LIMIT).unwrap_err();
    assert_eq!(server.handle().phase(), Phase::Stopped);
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.cause, StopCause::Handle);
}

#[test]
fn a_handler_that_waits_for_the_shutdown_begins_it_and_panics_with_the_reason() {
    let _shared = shared();
    type Call = fn(&ServerHandle);
    let calls: [(&str, Call); 3] = [
        ("shutdown", |handle| drop(handle.shutdown())),
        ("shutdown_within", |handle| {
            drop(handle.shutdown_within(LIMIT))
        }),
        ("close", |handle| drop(handle.close())),
    ];
    for (name, call) in calls {
        let (sender, reason) = crossbeam_channel::bounded(1);
        let server = with_own_handle(move |handle| {
            let panic = catch_unwind(AssertUnwindSafe(|| call(handle))).unwrap_err();
            sender
                .send(panic.downcast_ref::<String>().cloned().unwrap())
                .unwrap();
            resume_unwind(panic);
        });
        let mut client = server.client();
        client.send_get("/");
        let reason = reason.recv_timeout(LIMIT).unwrap();
        assert!(
            reason.contains(name) && reason.contains("begin_shutdown"),
            "{reason}"
        );
        let answer = client.read_response();
        // `close` cuts the request that called it as well.
        assert!(
            answer.status == 500 || name == "close" && answer.status == 503,
            "{name}: {answer:?}"
        );
        assert!(answer.closes(), "{name}");
        client.expect_eof();
        server.running().stopped().recv_timeout(LIMIT).unwrap_err();
        let report = server.stop();
        assert!(report.stuck.is_empty(), "{name}: {report}");
    }
}

#[test]
fn a_handler_may_stop_another_server_and_wait() {
    let _shared = shared();
    let other = TestServer::start(|_: Request, _: Context| "other");
    let handle = other.handle();
    let server = TestServer::start(move |_: Request, _: Context| {
        let handle = handle.clone();
        std::thread::spawn(move || handle.shutdown())
            .join()
            .unwrap()
            .to_string()
    });
    assert!(server.client().get("/").text().contains("cleanly"));
    assert_eq!(other.handle().phase(), Phase::Stopped);
}

#[test]
fn every_shutdown_returns_an_equal_report() {
    let _shared = shared();
    let gate = Gate::new();
    let server = TestServer::with(
        builder()
            .workers(2)
            .grace_period(millis(100))
            .cut_grace(millis(100)),
        gated(&gate),
    );
    let _blocked = server.block(&gate, "/block");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let handle = server.handle();
            std::thread::spawn(move || handle.shutdown())
        })
        .collect();
    let reports: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let last = server.stop();
    assert_eq!(crate::support::cut(&last).len(), 1, "{last}");
    for report in reports {
        assert_eq!(report, last);
    }
    assert_eq!(server.handle().close(), last);
    gate.open();
}

#[test]
fn a_server_that_was_stopped_before_it_ran_does_not_run() {
    let _shared = shared();
    for stop in [
        |handle: &ServerHandle| handle.begin_shutdown(),
        |handle: &ServerHandle| drop(handle.shutdown()),
    ] {
        let bound = builder().bind("127.0.0.1:0").unwrap();
        let (addr, handle) = (bound.local_addr(), bound.handle());
        stop(&handle);
        assert_eq!(handle.phase(), Phase::Stopped);
        let error = within_limit("run", move || bound.run(hello)).unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error:?}");
        assert!(error.to_string().contains("stopped"), "{error}");
        assert!(
            std::net::TcpStream::connect(addr).is_err(),
            "the listener is closed"
        );
    }
    let bound = builder().bind("127.0.0.1:0").unwrap();
    bound.handle().begin_shutdown();
    assert!(matches!(bound.spawn(hello), Err(Error::Stopped)));
}

#[test]
fn run_blocks_until_the_stop_and_gives_the_report() {
    let _shared = shared();
    let bound = builder().bind("127.0.0.1:0").unwrap();
    let (addr, handle) = (bound.local_addr(), bound.handle());
    let thread = std::thread::spawn(move || bound.run(hello));
    assert_eq!(Client::connect(addr).get("/").text(), "hello");
    let report = handle.shutdown();
    assert_eq!(thread.join().unwrap().unwrap(), report);
    assert_eq!(report.accepted, 1);
}

#[test]
fn dropping_the_running_server_begins_the_stop_and_does_not_wait() {
    let _shared = shared();
    let gate = Gate::new();
    let running = serve(builder().workers(2), "127.0.0.1:0", gated(&gate));
    let handle = running.handle();
    let mut client = Client::connect(running.local_addr());
    client.send_get("/block");
    gate.wait_entered(1);
    drop(running);
    assert!(handle.phase() >= Phase::LameDuck && handle.phase() < Phase::Stopped);
    gate.open();
    assert!(client.read_response().closes());
    let report = handle.shutdown();
    assert_eq!(report.cause, StopCause::Dropped);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn stopped_can_be_selected_on() {
    let _shared = shared();
    let server = TestServer::start(hello);
    let (_sender, other) = crossbeam_channel::unbounded::<()>();
    crossbeam_channel::select! {
        recv(server.running().stopped()) -> _ => panic!("it has not stopped yet"),
        recv(other) -> _ => panic!("nobody sends"),
        default => {}
    }
    server.handle().begin_shutdown();
    crossbeam_channel::select! {
        recv(server.running().stopped()) -> end => assert!(end.is_err()),
        recv(other) -> _ => panic!("nobody sends"),
        default(LIMIT) => panic!("it has not stopped"),
    }
    assert_eq!(server.handle().phase(), Phase::Stopped);
}

#[test]
fn two_servers_in_one_process_stop_apart() {
    let _shared = shared();
    let one = TestServer::start(|_: Request, _: Context| "one");
    let other = TestServer::start(|_: Request, _: Context| "other");
    let (mut of_one, mut of_other) = (one.used_client("/"), other.used_client("/"));
    assert_eq!(of_one.get("/").text(), "one");
    let report = one.stop();
    assert_eq!(
        (report.accepted, report.answered_in(Phase::Running)),
        (1, 2),
        "{report}"
    );
    of_one.expect_eof();
    assert_eq!(of_other.get("/").text(), "other");
    assert_eq!(other.client().get("/").text(), "other");
    assert_eq!(other.handle().phase(), Phase::Running);
    let report = other.stop();
    assert_eq!(
        (report.accepted, report.answered_in(Phase::Running)),
        (2, 3),
        "{report}"
    );
}

#[test]
fn signals_that_no_program_may_catch_are_refused() {
    let _shared = shared();
    for (signal, name) in [
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGSTOP, "SIGSTOP"),
        (libc::SIGSEGV, "SIGSEGV"),
    ] {
        let error = builder()
            .on_signals([libc::SIGUSR2, signal])
            .bind("127.0.0.1:0")
            .unwrap_err();
        assert!(
            matches!(error, Error::SignalForbidden { signal: which } if which == signal),
            "{error:?}"
        );
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_number_that_is_no_signal_is_refused() {
    let _shared = shared();
    for number in [4711, -1, 0] {
        let error = builder()
            .on_signals([number])
            .bind("127.0.0.1:0")
            .unwrap_err();
        assert!(
            matches!(error, Error::Signal { signal, .. } if signal == number),
            "{error:?}"
        );
    }
}

#[test]
fn a_signal_stops_the_server_and_a_second_one_cuts() {
    let _alone = alone();
    let gate = Gate::new();
    let server = TestServer::with(
        builder()
            .workers(2)
            .on_signals([libc::SIGUSR1, libc::SIGUSR2]),
        gated(&gate),
    );
    let raise = |signal| {
        rustix::process::kill_process(rustix::process::getpid(), signal).unwrap();
    };
    let mut idle = server.used_client("/");
    let mut client = server.block(&gate, "/block");
    raise(Signal::USR1);
    idle.expect_eof();
    client.expect_nothing_yet();
    assert_eq!(server.handle().phase(), Phase::Draining);
    raise(Signal::USR2);
    assert_eq!(client.read_response().status, 503);
    let report = server.handle().shutdown();
    assert_eq!(report.cause, StopCause::Signal(libc::SIGUSR1));
    assert_eq!(
        (crate::support::cut(&report).len(), report.stuck.len()),
        (1, 1),
        "{report}"
    );
    gate.open();
}

/// Starts a server whose handler does `action` with the handle of that server.
fn with_own_handle(action: impl Fn(&ServerHandle) + Send + Sync + 'static) -> TestServer {
    let own = Arc::new(OnceLock::<ServerHandle>::new());
    let known = own.clone();
    let server = TestServer::start(move |_: Request, _: Context| {
        action(known.get().unwrap());
        "done"
    });
    own.set(server.handle()).unwrap();
    server
}
