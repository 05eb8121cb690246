//! The hooks of a stop: some run while the server drains, the others after the last request.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lameduck::report::{HookOutcome, Phase};
use lameduck::{Context, Report, Request, ServerHandle};

use support::{
    Client, Gate, LIMIT, TestServer, builder, eventually, hello, millis, now, within_limit,
};

fn outcomes(report: &Report) -> Vec<(&str, HookOutcome)> {
    report
        .hooks
        .iter()
        .map(|hook| (hook.name.as_str(), hook.outcome))
        .collect()
}

/// Returns a server whose handler waits at the gate, and a client whose request is there.
fn blocked(builder: lameduck::ServerBuilder, gate: &Gate) -> (TestServer, Client) {
    let waits = gate.clone();
    let server = TestServer::with(builder, move |_: Request, _: Context| {
        waits.pass();
        "passed"
    });
    let client = server.block(gate, "/block");
    (server, client)
}

#[test]
fn hooks_that_wait_for_each_other_both_return() {
    let (to_second, from_first) = crossbeam_channel::bounded::<()>(0);
    let (to_first, from_second) = crossbeam_channel::bounded::<()>(0);
    let description = builder()
        .workers(2)
        .on_shutdown("first", move || {
            to_second.send_timeout((), LIMIT).unwrap();
            from_second.recv_timeout(LIMIT).unwrap();
        })
        .on_shutdown("second", move || {
            from_first.recv_timeout(LIMIT).unwrap();
            to_first.send_timeout((), LIMIT).unwrap();
        });
    let report = TestServer::with(description, hello).stop();
    assert_eq!(
        outcomes(&report),
        [("first", HookOutcome::Done), ("second", HookOutcome::Done)]
    );
    assert!(report.is_clean(), "{report}");
}

#[test]
fn hooks_run_when_draining_starts_and_not_before() {
    let own = Arc::new(OnceLock::<ServerHandle>::new());
    let (to, phase) = crossbeam_channel::unbounded();
    let known = own.clone();
    let description =
        builder()
            .workers(2)
            .lame_duck(millis(150))
            .on_shutdown("reports the phase", move || {
                let handle = known.get().unwrap();
                to.send((handle.phase(), handle.is_ready())).unwrap();
            });
    let server = TestServer::with(description, hello);
    own.set(server.handle()).unwrap();
    server.handle().begin_shutdown();
    assert_eq!(server.client().get("/").status, 200);
    assert!(
        server.handle().phase() > Phase::LameDuck || phase.is_empty(),
        "not while it is a lame duck"
    );
    let report = server.stop();
    assert_eq!(phase.try_recv(), Ok((Phase::Draining, false)), "{report}");
    assert!(phase.is_empty());
}

#[test]
fn a_hook_and_a_request_in_flight_do_not_wait_for_each_other() {
    let gate = Gate::new();
    let (to, hook_ran) = crossbeam_channel::bounded(1);
    let description = builder()
        .workers(2)
        .on_shutdown("beside", move || to.send(()).unwrap());
    let (server, mut client) = blocked(description, &gate);
    server.handle().begin_shutdown();
    hook_ran.recv_timeout(LIMIT).unwrap();
    client.expect_nothing_yet();
    gate.open();
    assert_eq!(client.read_response().text(), "passed");
    client.expect_eof();
    server.stop_cleanly();
}

#[test]
fn a_stop_waits_for_its_hooks_within_the_grace_period() {
    let gate = Gate::new();
    let waits = gate.clone();
    let server = TestServer::with(
        builder()
            .workers(2)
            .on_shutdown("slow", move || waits.pass()),
        hello,
    );
    let mut idle = server.used_client("/");
    server.handle().begin_shutdown();
    gate.wait_entered(1);
    idle.expect_eof();
    drop(idle);
    eventually("nothing is connected", || server.handle().stats().open == 0);
    // The stop is waiting for the hook, and for nothing else.
    assert!(
        server
            .running()
            .stopped()
            .recv_timeout(millis(50))
            .unwrap_err()
            .is_timeout()
    );
    gate.open();
    let report = server.stop();
    let [hook] = &report.hooks[..] else {
        panic!("{report}")
    };
    assert!(
        hook.took >= millis(50) && hook.took <= report.took,
        "{report}"
    );
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_hook_beyond_the_grace_period_is_left_behind_and_named() {
    let gate = Gate::new();
    let waits = gate.clone();
    let description = builder()
        .workers(2)
        .grace_period(millis(150))
        .on_shutdown("quick", || {})
        .on_shutdown("endless", move || waits.pass());
    let report = TestServer::with(description, hello).stop();
    assert_eq!(
        outcomes(&report),
        [("quick", HookOutcome::Done), ("endless", HookOutcome::Late)]
    );
    assert!(report.hooks[1].took >= millis(145), "{report}");
    assert!(report.took < LIMIT / 5, "{report}");
    assert_eq!(
        (report.is_clean(), report.exit_code()),
        (false, 1),
        "{report}"
    );
    let text = report.to_string();
    assert!(
        text.contains("hook: endless left behind after") && text.contains("hook: quick done"),
        "{text}"
    );
    assert!(
        report.summary().contains("1 hook failed"),
        "{}",
        report.summary()
    );
    gate.open();
}

#[test]
fn a_stop_that_is_shortened_does_not_wait_for_hooks() {
    let gate = Gate::new();
    let waits = gate.clone();
    let server = TestServer::with(
        builder()
            .workers(2)
            .on_shutdown("endless", move || waits.pass()),
        hello,
    );
    server.handle().begin_shutdown();
    gate.wait_entered(1);
    let handle = server.handle();
    let report = within_limit("close", move || handle.close());
    assert_eq!(outcomes(&report), [("endless", HookOutcome::Late)]);
    assert!(report.took < LIMIT / 5, "{report}");
    gate.open();
}

#[test]
fn a_hook_that_panics_is_named_and_the_others_run() {
    let description = builder()
        .workers(2)
        .on_shutdown("before", || {})
        .on_shutdown("panics", || panic!("on purpose"))
        .on_shutdown("after", || {});
    let report = TestServer::with(description, hello).stop();
    let expected = [
        ("before", HookOutcome::Done),
        ("panics", HookOutcome::Panicked),
        ("after", HookOutcome::Done),
    ];
    assert_eq!(outcomes(&report), expected);
    assert_eq!(
        (report.is_clean(), report.exit_code()),
        (false, 1),
        "{report}"
    );
    assert!(
        report.to_string().contains("hook: panics panicked after"),
        "{report}"
    );
}

#[test]
fn on_stopped_runs_when_the_last_handler_has_returned() {
    let gate = Gate::new();
    let returned = Arc::new(AtomicBool::new(false));
    let (waits, returns) = (gate.clone(), returned.clone());
    let (to, seen) = crossbeam_channel::unbounded();
    let seen_by_hook = returned.clone();
    let description = builder()
        .workers(2)
        .on_stopped("closes the database", move || {
            to.send(seen_by_hook.load(SeqCst)).unwrap();
        });
    let server = TestServer::with(description, move |_: Request, _: Context| {
        waits.pass();
        returns.store(true, SeqCst);
        "passed"
    });
    let mut client = server.block(&gate, "/block");
    server.begin_draining();
    assert!(seen.is_empty());
    gate.open();
    assert_eq!(client.read_response().text(), "passed");
    drop(client);
    let report = server.stop();
    assert!(seen.try_recv().unwrap(), "{report}");
    assert_eq!(
        outcomes(&report),
        [("closes the database", HookOutcome::Done)]
    );
    assert!(report.is_clean(), "{report}");
}

#[test]
fn on_stopped_hooks_run_one_after_another_and_after_the_on_shutdown_hooks() {
    let (to, order) = crossbeam_channel::unbounded();
    let record = |name: &'static str| {
        let to = to.clone();
        move || to.send(name).unwrap()
    };
    let failing = to.clone();
    let description = builder()
        .workers(2)
        .on_stopped("1", record("1"))
        .on_stopped("2", move || {
            failing.send("2").unwrap();
            panic!("on purpose");
        })
        .on_shutdown("0", record("0"))
        .on_stopped("3", record("3"));
    let report = TestServer::with(description, hello).stop();
    assert_eq!(order.try_iter().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    let expected = [
        ("0", HookOutcome::Done),
        ("1", HookOutcome::Done),
        ("2", HookOutcome::Panicked),
        ("3", HookOutcome::Done),
    ];
    assert_eq!(outcomes(&report), expected);
    assert_eq!(
        (report.is_clean(), report.exit_code()),
        (false, 1),
        "{report}"
    );
}

#[test]
fn on_stopped_gets_cut_grace_even_when_the_deadline_has_passed() {
    let gate = Gate::new();
    let own = Gate::new();
    let waits = own.clone();
    let (to, ran) = crossbeam_channel::unbounded();
    let description = builder()
        .workers(2)
        .grace_period(millis(50))
        .cut_grace(millis(300))
        .on_stopped("quick", move || to.send(()).unwrap())
        .on_stopped("endless", move || waits.pass())
        .on_stopped("never", || panic!("the one before does not return"));
    let (server, mut client) = blocked(description, &gate);
    let report = server.stop();
    assert_eq!(client.read_response().status, 503);
    ran.try_recv().unwrap();
    let expected = [
        ("quick", HookOutcome::Done),
        ("endless", HookOutcome::Late),
        ("never", HookOutcome::Late),
    ];
    assert_eq!(outcomes(&report), expected, "{report}");
    assert!(report.hooks[1].took >= millis(250), "{report}");
    // A stuck worker decides the exit code before a hook that failed does.
    assert_eq!((report.stuck.len(), report.exit_code()), (1, 3), "{report}");
    assert!(report.took < LIMIT / 4, "{report}");
    gate.open();
}

/// A stuck handler uses up the cut's grace, and a hook that hangs what comes after it: the two do
/// not add up to a second grace.
#[test]
fn a_stuck_handler_and_a_hook_that_hangs_share_one_bound() {
    let gate = Gate::new();
    let (hook_gate, grace) = (gate.clone(), Duration::from_secs(3));
    let description = builder()
        .workers(2)
        .cut_grace(grace)
        .on_stopped("hangs", move || hook_gate.pass());
    let waits = gate.clone();
    let server = TestServer::with(description, move |_: Request, _: Context| waits.pass());
    let _client = server.block(&gate, "/stuck");
    let began = now();
    let report = server.handle().close();
    // The grace and half a second, and no second grace.
    assert!(now() - began < grace * 2, "{report}");
    assert_eq!(outcomes(&report), [("hangs", HookOutcome::Late)]);
    assert_eq!(report.stuck.len(), 1, "{report}");
    gate.open();
}
