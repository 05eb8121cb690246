//! Several services as one: who stops whom, what comes out, and who is not waited for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded, select};
use lameduck::{
    Cause, Context, Error, Group, GroupCause, GroupReport, Outcome, Reason, Request, Running,
    Server,
};

use support::{Client, Gate, LIMIT, builder, eventually, get, hello, millis, serve, within_limit};

/// Ends well when it is told to.
fn until_told(context: Context) -> Result<(), Reason> {
    let _ = context.cancelled().recv_timeout(LIMIT * 3);
    Ok(())
}

#[track_caller]
fn wait(group: Group) -> GroupReport {
    within_limit("the group's end", || group.wait())
}

fn names(report: &GroupReport) -> Vec<&str> {
    report
        .members
        .iter()
        .map(|member| member.name.as_str())
        .collect()
}

#[derive(Debug, PartialEq)]
struct Broken(u32);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken {}", self.0)
    }
}

impl std::error::Error for Broken {}

#[test]
fn the_first_that_fails_stops_the_others_and_a_request_in_flight_is_answered() {
    let (gate, fail) = (Gate::new(), Gate::new());
    let (waits, fails) = (gate.clone(), fail.clone());
    let web = builder().workers(2).bind("127.0.0.1:0").unwrap();
    let admin = builder().workers(2).bind("127.0.0.1:0").unwrap();
    let addrs = [web.addr(), admin.addr()];
    let group = Group::new();
    group.serve("web", web, move |_: Request, context: Context| {
        waits.pass();
        if context.is_draining() {
            "draining"
        } else {
            "running"
        }
    });
    group.serve("admin", admin, hello);
    group.spawn("other", until_told);
    group.spawn("broken", move |_| {
        fails.pass();
        Err(Broken(1))
    });

    let mut client = Client::connect(addrs[0]);
    client.send(get("/"));
    gate.wait_entered(1);
    let mut idle = Client::connect(addrs[1]);
    assert_eq!(idle.get("/").status, 200);
    fail.open();
    idle.expect_eof();
    let context = group.context().clone();
    context.cancelled().recv_timeout(LIMIT).unwrap_err();
    assert_eq!(context.reason(), Some(Reason::Cancelled));
    gate.open();
    assert_eq!(client.read_response().body, b"draining");

    let report = wait(group);
    assert_eq!(
        report.cause,
        GroupCause::Failed("broken".to_owned()),
        "{report}"
    );
    assert_eq!(names(&report)[0], "broken", "{report}");
    assert_eq!(report.members.len(), 4, "{report}");
    assert!(
        matches!(report.member("other").unwrap().outcome, Outcome::Done),
        "{report}"
    );
    for name in ["web", "admin"] {
        let server = report.server(name).unwrap();
        assert!(
            server.is_clean() && server.cause == Cause::Context,
            "{report}"
        );
    }
    assert_eq!(
        report.first_error().unwrap().downcast_ref(),
        Some(&Broken(1))
    );
    assert_eq!(report.exit_status(), 1);
    let error = report.into_result().unwrap_err();
    assert_eq!(error.to_string(), "broken failed");
    assert_eq!(error.source().unwrap().downcast_ref(), Some(&Broken(1)));
    assert!(matches!(error, Error::Group(report) if report.members.len() == 4));
}

#[test]
fn a_panic_stops_the_others_as_an_error_does() {
    let group = Group::new();
    group.spawn("other", until_told);
    group.spawn("clumsy", |_| -> Result<(), Broken> {
        panic!("dropped {}", "it")
    });
    let report = wait(group);
    assert_eq!(report.cause, GroupCause::Failed("clumsy".to_owned()));
    assert!(
        matches!(&report.member("clumsy").unwrap().outcome, Outcome::Panicked(text) if text == "dropped it")
    );
    assert!(matches!(
        report.member("other").unwrap().outcome,
        Outcome::Done
    ));
    assert_eq!(
        (report.exit_status(), report.first_error().is_some()),
        (1, false)
    );
    let error = report.into_result().unwrap_err();
    assert!(
        error.to_string().starts_with("clumsy panicked after "),
        "{error}"
    );
    assert!(error.source().is_none());
}

#[test]
fn one_that_ends_well_stops_nobody_and_when_all_have_the_group_is_done() {
    let group = Group::new();
    let release = Gate::new();
    let waits = release.clone();
    group.spawn("short", |_| Ok::<_, Broken>(()));
    group.spawn("long", move |context| {
        waits.pass();
        context.reason().map_or(Ok(()), Err)
    });
    let bound = builder().workers(1).bind("127.0.0.1:0").unwrap();
    let server = bound.handle();
    group.serve("web", bound, hello);
    // A server that somebody else stops has ended well too.
    assert!(server.shutdown().is_clean());
    assert_eq!(
        group.stopped().recv_timeout(millis(20)),
        Err(RecvTimeoutError::Timeout)
    );
    release.open();
    let report = wait(group);
    assert_eq!(
        (report.cause.clone(), report.took),
        (GroupCause::Ended, Duration::ZERO),
        "{report}"
    );
    assert_eq!(names(&report)[2], "long", "{report}");
    assert!(report.is_clean(), "{report}");
    assert!(report.into_result().is_ok());
}

#[test]
fn it_can_be_shared_between_threads() {
    fn check<T: Send + Sync + fmt::Debug>() {}
    check::<Group>();
    check::<lameduck::GroupBuilder>();
    check::<lameduck::GroupHandle>();
    check::<GroupReport>();
    check::<lameduck::testing::TestServer>();
}

#[test]
fn a_group_without_members_is_done() {
    assert_eq!(wait(Group::default()).cause, GroupCause::Ended);
}

#[test]
fn members_that_end_before_the_next_one_comes_do_not_end_the_group() {
    let group = Group::new();
    let (sender, ended) = bounded::<()>(0);
    group.spawn("first", move |_| {
        drop(sender);
        Ok::<_, Broken>(())
    });
    ended.recv_timeout(LIMIT).unwrap_err();
    group.spawn("second", |_| Ok::<_, Broken>(()));
    assert!(
        wait(group)
            .members
            .iter()
            .all(|member| matches!(member.outcome, Outcome::Done))
    );
}

#[test]
fn errors_are_in_the_order_in_which_they_came() {
    let group = Group::new();
    let first = group.context().clone();
    let second = Gate::new();
    let (told, waits) = (second.clone(), second);
    group.spawn("third", move |_| {
        waits.pass();
        Err(Broken(3))
    });
    group.spawn("second", move |context| {
        let _ = until_told(context);
        Err(Broken(2))
    });
    group.spawn("first", |_| Err(Broken(1)));
    first.cancelled().recv_timeout(LIMIT).unwrap_err();
    let handle = group.handle();
    let waiting = std::thread::spawn(move || group.wait());
    // It is the last one: nothing else is waited for any more.
    eventually("the second has failed", || {
        !format!("{handle:?}").contains("second")
    });
    told.open();
    let report = within_limit("the group's end", || waiting.join().unwrap());
    let errors: Vec<_> = report
        .errors()
        .map(|(name, error)| (name, error.downcast_ref::<Broken>().unwrap().0))
        .collect();
    assert_eq!(
        errors,
        [("first", 1), ("second", 2), ("third", 3)],
        "{report}"
    );
    assert!(
        report.to_string().contains("third failed after "),
        "{report}"
    );
}

#[test]
fn to_return_the_reason_one_was_told_is_to_end_well() {
    let group = Group::new();
    group.spawn("told", |context: Context| {
        let _ = until_told(context.clone());
        context.reason().map_or(Ok(()), Err)
    });
    group.spawn("late", |context: Context| {
        let _ = until_told(context);
        Err(Reason::Deadline)
    });
    group.handle().stop();
    let report = wait(group);
    assert_eq!(report.cause, GroupCause::Handle);
    assert!(
        matches!(report.member("told").unwrap().outcome, Outcome::Done),
        "{report}"
    );
    assert_eq!(report.errors().collect::<Vec<_>>().len(), 1, "{report}");
}

#[test]
fn one_that_does_not_heed_its_context_is_left_behind_and_named() {
    let gate = Gate::new();
    let waits = gate.clone();
    let group = Group::builder().stop_timeout(millis(20)).start().unwrap();
    group.spawn("deaf", move |_| {
        waits.pass();
        Ok::<_, Broken>(())
    });
    group.spawn("told", until_told);
    gate.wait_entered(1);
    group.handle().stop();
    let report = wait(group);
    assert_eq!(names(&report), ["told", "deaf"]);
    assert!(
        matches!(report.members[1].outcome, Outcome::LeftBehind),
        "{report}"
    );
    assert!(
        report.took >= millis(20) && report.took < LIMIT / 2,
        "{report}"
    );
    assert_eq!(report.exit_status(), 3);
    let error = report.into_result().unwrap_err().to_string();
    assert!(
        error.starts_with("deaf did not end and was left behind after "),
        "{error}"
    );
    gate.open();
}

#[test]
fn a_server_is_cut_when_the_groups_time_is_over() {
    let gate = Gate::new();
    let waits = gate.clone();
    let bound = builder()
        .workers(2)
        .grace_period(Duration::MAX)
        .cut_grace(LIMIT)
        .bind("127.0.0.1:0")
        .unwrap();
    let mut client = Client::connect(bound.addr());
    let group = Group::builder().stop_timeout(millis(20)).start().unwrap();
    group.serve("web", bound, move |_: Request, context: Context| {
        waits.pass();
        let _ = context.cancelled().recv_timeout(LIMIT);
        "too late"
    });
    client.send(get("/"));
    gate.wait_entered(1);
    group.handle().stop();
    gate.open();
    assert_eq!(client.read_response().status, 503);
    drop(client);
    let report = wait(group);
    assert_eq!(report.server("web").unwrap().cut.len(), 1, "{report}");
    assert_eq!(report.exit_status(), 1, "{report}");
    assert!(
        report
            .into_result()
            .unwrap_err()
            .to_string()
            .contains("web stopped with 1 request cut")
    );
}

#[test]
fn its_end_is_received_in_a_select_beside_others() {
    let group = Group::new();
    group.spawn("broken", |_| Err(Broken(1)));
    let (_sender, never) = bounded::<()>(0);
    let alone = serve(builder().workers(1), "127.0.0.1:0", hello);
    select! {
        recv(group.stopped()) -> _ => {}
        recv(alone.stopped()) -> _ => panic!("nobody stops it"),
        recv(never) -> _ => panic!("it is never sent"),
        default(LIMIT) => panic!("the group does not end"),
    }
    assert_eq!(wait(group).errors().count(), 1);
}

#[test]
fn one_that_comes_too_late_is_not_started_but_a_server_answers_who_is_there() {
    let group = Group::new();
    group.handle().stop();
    group.spawn("late", |_| -> Result<(), Broken> {
        unreachable!("it does not start")
    });
    let bound = builder().workers(1).bind("127.0.0.1:0").unwrap();
    let mut client = Client::connect(bound.addr());
    client.send(get("/"));
    group.serve("web", bound, hello);
    assert_eq!(client.read_response().status, 200);
    let report = wait(group);
    assert!(report.is_clean(), "{report}");
    assert!(
        matches!(report.member("late").unwrap().outcome, Outcome::NotStarted),
        "{report}"
    );
    let answered = &report.server("web").unwrap().answered;
    assert_eq!(answered.iter().map(|(_, n)| n).sum::<u64>(), 1, "{report}");
}

#[test]
fn a_server_that_cannot_start_is_a_member_that_has_failed() {
    let group = Group::new();
    group.spawn("other", until_told);
    let bound = builder().bind("127.0.0.1:0").unwrap();
    bound.handle().begin_shutdown();
    group.serve("web", bound, hello);
    let report = wait(group);
    assert_eq!(
        report.cause,
        GroupCause::Failed("web".to_owned()),
        "{report}"
    );
    assert!(
        matches!(
            report.first_error().unwrap().downcast_ref(),
            Some(Error::Stopped)
        ),
        "{report}"
    );
}

#[test]
fn a_service_that_runs_a_server_itself_stops_it_by_its_context() {
    let group = Group::new();
    let bound = builder()
        .workers(1)
        .context(group.context())
        .bind("127.0.0.1:0")
        .unwrap();
    let mut client = Client::connect(bound.addr());
    group.spawn("web", move |_| bound.run(hello)?.into_result().map(drop));
    assert_eq!(client.get("/").status, 200);
    group.context().cancel();
    client.expect_eof();
    let report = wait(group);
    assert_eq!(report.cause, GroupCause::Context);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn it_stops_when_the_context_it_is_made_of_is_cancelled() {
    let program = Context::root().with_value(7_u32);
    let group = Group::builder().context(&program).start().unwrap();
    group.spawn("told", |context: Context| {
        assert_eq!(context.value::<u32>(), Some(&7));
        until_told(context)
    });
    program.cancel();
    let report = wait(group);
    assert!(
        report.is_clean() && report.cause == GroupCause::Context,
        "{report}"
    );
    // And not the other way round.
    let (other, program) = (Context::root(), Context::root());
    let group = Group::builder().context(&program).start().unwrap();
    group.handle().stop();
    assert!(wait(group).is_clean());
    assert!(!program.is_cancelled() && !other.is_cancelled());
}

#[test]
fn what_one_service_cancels_is_its_own() {
    let group = Group::new();
    let (sender, cancelled) = bounded(1);
    group.spawn("selfish", move |context: Context| {
        context.cancel();
        sender.send(())
    });
    cancelled.recv_timeout(LIMIT).unwrap();
    assert!(!group.context().is_cancelled());
    assert_eq!(wait(group).cause, GroupCause::Ended);
}

#[test]
fn dropping_it_stops_its_members() {
    let (sender, ended) = bounded::<()>(0);
    let bound = builder().workers(1).bind("127.0.0.1:0").unwrap();
    let server = bound.handle();
    let group = Group::new();
    let context = group.context().clone();
    group.serve("web", bound, hello);
    group.spawn("told", move |context| {
        let _held = sender;
        until_told(context)
    });
    drop(group);
    assert_eq!(
        ended.recv_timeout(LIMIT),
        Err(RecvTimeoutError::Disconnected)
    );
    assert!(within_limit("the server's end", move || server.shutdown()).is_clean());
    assert!(context.is_cancelled());
}

#[test]
fn services_run_on_threads_that_have_their_names() {
    let group = Group::new();
    for name in ["timer", "with\0zero"] {
        group.spawn(name, |_| match std::thread::current().name() {
            Some("timer" | "with zero") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let report = wait(group);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_signal_that_nobody_may_catch_is_refused() {
    let error = Group::builder()
        .on_signals([libc::SIGTERM, libc::SIGKILL])
        .start()
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::SignalForbidden {
                signal: libc::SIGKILL
            }
        ),
        "{error:?}"
    );
}

#[test]
fn it_leaves_no_thread_and_no_server_behind() {
    let server = || Server::builder().workers(1).bind("127.0.0.1:0").unwrap();
    let context = Context::root();
    for _ in 0..3 {
        let group = Group::builder().context(&context).start().unwrap();
        group.serve("web", server(), hello);
        group.spawn("no server of ours", until_told);
        group.handle().stop();
        assert!(wait(group).is_clean());
    }
    let is_service = || {
        std::fs::read_dir("/proc/self/task").unwrap().any(|task| {
            let name =
                std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default();
            "no server of ours".starts_with(name.trim_end()) && !name.is_empty()
        })
    };
    eventually("its threads are gone", || !is_service());
    let _: Running = server().spawn(hello).unwrap();
}

#[cfg(feature = "cli")]
mod signals {
    use rustix::process::Signal;

    use super::support::child::{MODE, Program, this_program};
    use super::*;

    /// Not a test of its own: what the child of the test below does.
    #[test]
    fn the_program() {
        let Ok(mode) = std::env::var(MODE) else {
            return;
        };
        let group = Group::builder()
            .stop_timeout(LIMIT * 6)
            .on_signals([libc::SIGTERM, libc::SIGINT])
            .start()
            .unwrap();
        let bound = builder()
            .workers(2)
            .grace_period(LIMIT * 6)
            .bind("127.0.0.1:0")
            .unwrap();
        let addr = bound.addr();
        group.serve("web", bound, |_: Request, _: Context| {
            eprintln!("entered");
            Gate::new().pass();
        });
        group.spawn("told", until_told);
        if mode == "deaf" {
            group.spawn("deaf", |_| {
                Gate::new().pass();
                Ok::<_, Broken>(())
            });
        }
        // A member that comes after the signal would not be started.
        eprintln!("listening on http://{addr}");
        let report = group.wait();
        eprintln!("{report}");
        std::process::exit(report.exit_status().into());
    }

    #[test]
    fn the_first_signal_stops_all_and_the_second_ends_the_wait() {
        let child = Program::serving(&mut this_program("signals::the_program", "deaf"));
        let mut silent = child.client();
        silent.send(get("/"));
        child.wait_for_line("entered");
        let mut idle = child.client();
        child.signal(Signal::TERM);
        idle.expect_eof();
        silent.expect_nothing_yet();
        child.signal(Signal::INT);
        assert_eq!(silent.read_response().status, 503);
        drop(silent);
        let lines = child.rest_of_lines().join("\n");
        assert!(lines.contains("the group has stopped: SIGTERM"), "{lines}");
        assert!(lines.contains("told ended after"), "{lines}");
        assert!(
            lines.contains("deaf did not end and was left behind"),
            "{lines}"
        );
        assert!(
            lines.contains("with 1 request cut, 1 worker left behind by SIGTERM"),
            "{lines}"
        );
        assert_eq!(child.end().code, Some(3));
    }

    #[test]
    fn a_signal_stops_a_group_whose_members_heed_it() {
        let child = Program::serving(&mut this_program("signals::the_program", "heed"));
        let mut idle = child.client();
        child.signal(Signal::INT);
        idle.expect_eof();
        assert_eq!(child.end().code, Some(0));
    }
}
