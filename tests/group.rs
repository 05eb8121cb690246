//! Groups: which members stop the others, what a group's report says, and which services are left
//! behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::error::Error as _;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, select};
use lameduck::context::CancelReason;
use lameduck::group::{Group, GroupCause, GroupHandle, GroupReport, MemberOutcome};
use lameduck::report::StopCause;
use lameduck::{Context, Error, Request, Running, Server};

use support::{Client, Gate, LIMIT, builder, eventually, get, hello, millis, serve, within_limit};

/// A service that ends well when its context is cancelled.
fn until_told(context: Context) -> Result<(), CancelReason> {
    let _ = context.cancelled().recv_timeout(LIMIT * 3);
    Ok(())
}

#[track_caller]
fn wait(group: Group) -> GroupReport {
    within_limit("the group's end", || group.join())
}

fn names(report: &GroupReport) -> Vec<&str> {
    report
        .members
        .iter()
        .map(|member| member.name.as_str())
        .collect()
}

/// [`GroupHandle::shutdown`] or [`GroupHandle::close`].
type WaitingCall = fn(&GroupHandle) -> GroupReport;

/// Makes each of the calls on a thread. The channel has the reports as they come.
fn on_threads<const N: usize>(group: &Group, calls: [WaitingCall; N]) -> Receiver<GroupReport> {
    let (sender, reports) = bounded(N);
    for call in calls {
        let (handle, sender) = (group.handle(), sender.clone());
        std::thread::spawn(move || sender.send(call(&handle)));
    }
    reports
}

/// Returns the text that `call` panics with.
fn text_of_panic(call: impl FnOnce() -> GroupReport) -> String {
    let panic = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
    panic.downcast_ref::<String>().unwrap().clone()
}

/// Everything that this process logs at *info* and above.
struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl Lines {
    /// Starts to record.
    fn of_this_process() -> &'static Self {
        log::set_logger(&LINES).unwrap();
        log::set_max_level(log::LevelFilter::Info);
        &LINES
    }

    fn count(&self, start: &str) -> usize {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.starts_with(start)).count()
    }
}

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
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
fn the_first_member_that_fails_stops_the_others_and_a_request_in_flight_is_answered() {
    let (gate, fail) = (Gate::new(), Gate::new());
    let (waits, fails) = (gate.clone(), fail.clone());
    let web = builder().workers(2).bind("127.0.0.1:0").unwrap();
    let admin = builder().workers(2).bind("127.0.0.1:0").unwrap();
    let addrs = [web.local_addr(), admin.local_addr()];
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
    assert_eq!(context.reason(), Some(CancelReason::Cancelled));
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
        matches!(report.member("other").unwrap().outcome, MemberOutcome::Done),
        "{report}"
    );
    for name in ["web", "admin"] {
        let server = report.server(name).unwrap();
        assert!(
            server.is_clean() && server.cause == StopCause::Context,
            "{report}"
        );
    }
    assert_eq!(
        report.first_error().unwrap().downcast_ref(),
        Some(&Broken(1))
    );
    assert_eq!(report.exit_code(), 1);
    let error = report.into_result().unwrap_err();
    assert_eq!(error.to_string(), "broken failed");
    assert_eq!(error.source().unwrap().downcast_ref(), Some(&Broken(1)));
    assert_eq!(format!("{error:?}"), "broken failed: broken 1");
    assert_eq!(error.report().members.len(), 4);
    assert_eq!(error.into_report().members.len(), 4);
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
        matches!(&report.member("clumsy").unwrap().outcome, MemberOutcome::Panicked(text) if text == "dropped it")
    );
    assert!(matches!(
        report.member("other").unwrap().outcome,
        MemberOutcome::Done
    ));
    assert_eq!(
        (report.exit_code(), report.first_error().is_some()),
        (1, false)
    );
    let error = report.into_result().unwrap_err();
    assert!(
        error.to_string().starts_with("clumsy panicked after "),
        "{error}"
    );
    assert!(error.source().is_none());
    assert_eq!(format!("{error:?}"), error.to_string());
}

#[test]
fn a_panic_in_the_conversion_of_a_services_error_is_the_services() {
    struct Unspeakable;
    impl From<Unspeakable> for Box<dyn std::error::Error + Send + Sync> {
        fn from(_: Unspeakable) -> Self {
            panic!("no words")
        }
    }
    let group = Group::new();
    group.spawn("speechless", |_| Err(Unspeakable));
    let report = wait(group);
    assert!(
        matches!(&report.members[0].outcome, MemberOutcome::Panicked(text) if text == "no words"),
        "{report}"
    );
}

#[test]
fn a_member_that_ends_well_stops_no_other_and_the_group_ends_with_the_last() {
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
    // A server that is stopped from outside its group has ended well too.
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
fn groups_and_their_handles_can_be_shared_between_threads() {
    fn check<T: Send + Sync + fmt::Debug>() {}
    check::<Group>();
    check::<lameduck::group::GroupBuilder>();
    check::<lameduck::group::GroupFailed>();
    check::<lameduck::group::GroupHandle>();
    check::<GroupReport>();
    check::<lameduck::testing::TestServer>();
}

#[test]
fn a_group_without_members_has_ended() {
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
            .all(|member| matches!(member.outcome, MemberOutcome::Done))
    );
}

#[test]
fn errors_are_reported_in_the_order_in_which_they_came() {
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
    let waiting = std::thread::spawn(move || group.join());
    // The third service is the last one that the group waits for.
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
fn a_service_that_returns_the_reason_for_its_cancellation_has_not_failed() {
    let group = Group::new();
    group.spawn("told", |context: Context| {
        let _ = until_told(context.clone());
        context.reason().map_or(Ok(()), Err)
    });
    group.spawn("late", |context: Context| {
        let _ = until_told(context);
        Err(CancelReason::Deadline)
    });
    group.handle().begin_shutdown();
    let report = wait(group);
    assert_eq!(report.cause, GroupCause::Handle);
    assert!(
        matches!(report.member("told").unwrap().outcome, MemberOutcome::Done),
        "{report}"
    );
    assert_eq!(report.errors().collect::<Vec<_>>().len(), 1, "{report}");
}

#[test]
fn a_service_that_ignores_its_context_is_left_behind_and_named() {
    let gate = Gate::new();
    let waits = gate.clone();
    let group = Group::builder().stop_timeout(millis(20)).start().unwrap();
    group.spawn("deaf", move |_| {
        waits.pass();
        Ok::<_, Broken>(())
    });
    group.spawn("told", until_told);
    gate.wait_entered(1);
    group.handle().begin_shutdown();
    let report = wait(group);
    assert_eq!(names(&report), ["told", "deaf"]);
    assert!(
        matches!(report.members[1].outcome, MemberOutcome::LeftBehind),
        "{report}"
    );
    assert!(
        report.took >= millis(20) && report.took < LIMIT / 2,
        "{report}"
    );
    assert_eq!(report.exit_code(), 3);
    let error = report.into_result().unwrap_err().to_string();
    assert!(
        error.starts_with("deaf did not end and was left behind after "),
        "{error}"
    );
    gate.open();
}

#[test]
fn shutdown_begins_the_stop_and_waits_for_every_member() {
    let gate = Gate::new();
    let waits = gate.clone();
    let web = builder().workers(2).bind("127.0.0.1:0").unwrap();
    let mut client = Client::connect(web.local_addr());
    let group = Group::new();
    group.serve("web", web, move |_: Request, _: Context| {
        waits.pass();
        "answered"
    });
    group.spawn("told", until_told);
    client.send(get("/"));
    gate.wait_entered(1);
    let reports = on_threads(&group, [GroupHandle::shutdown]);
    group.context().cancelled().recv_timeout(LIMIT).unwrap_err();
    assert!(reports.try_recv().is_err(), "a request is in flight");
    gate.open();
    assert_eq!(client.read_response().body, b"answered");
    let report = reports.recv_timeout(LIMIT).unwrap();
    assert_eq!(report.cause, GroupCause::Handle);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.members.len(), 2, "{report}");
}

#[test]
fn all_callers_that_wait_get_the_same_report_and_its_last_line_is_logged_once() {
    let lines = Lines::of_this_process();
    let gate = Gate::new();
    let waits = gate.clone();
    let group = Group::new();
    group.spawn("slow", move |_| {
        waits.pass();
        Ok::<_, Broken>(())
    });
    group.spawn("falls over", |_| Err(Broken(1)));
    group.context().cancelled().recv_timeout(LIMIT).unwrap_err();
    let handle = group.handle();
    let reports = on_threads(&group, [GroupHandle::shutdown; 3]);
    assert!(reports.try_recv().is_err(), "a member still runs");
    gate.open();
    let first = wait(group);
    let mut others: Vec<_> = (0..3)
        .map(|_| reports.recv_timeout(LIMIT).unwrap())
        .collect();
    // The group has ended by now.
    others.extend([handle.shutdown(), handle.close()]);
    for other in others {
        assert_eq!(format!("{other:?}"), format!("{first:?}"));
        assert!(std::ptr::addr_eq(
            other.first_error().unwrap(),
            first.first_error().unwrap()
        ));
    }
    assert_eq!(
        lines.count("the group has stopped: falls over has failed; it took "),
        1
    );
}

#[test]
fn close_cuts_servers_and_leaves_a_service_behind_that_ignores_its_context() {
    let (gate, deaf) = (Gate::new(), Gate::new());
    let (waits, ignores) = (gate.clone(), deaf.clone());
    let web = builder()
        .workers(2)
        .grace_period(Duration::MAX)
        .cut_grace(LIMIT)
        .bind("127.0.0.1:0")
        .unwrap();
    let mut client = Client::connect(web.local_addr());
    let group = Group::builder()
        .stop_timeout(Duration::MAX)
        .start()
        .unwrap();
    group.serve("web", web, move |_: Request, _: Context| waits.pass());
    group.spawn("told", until_told);
    group.spawn("deaf", move |_| {
        ignores.pass();
        Ok::<_, Broken>(())
    });
    client.send(get("/"));
    gate.wait_entered(1);
    deaf.wait_entered(1);

    let reports = on_threads(&group, [GroupHandle::close]);
    assert_eq!(client.read_response().status, 503);
    drop(client);
    // The server's handler keeps the group from ending until then.
    eventually("the service that was told has ended", || {
        !format!("{group:?}").contains("told")
    });
    gate.open();
    let report = reports.recv_timeout(LIMIT).unwrap();
    assert_eq!(report.cause, GroupCause::Handle);
    assert_eq!(
        support::cut(report.server("web").unwrap()).len(),
        1,
        "{report}"
    );
    let outcome = |name| &report.member(name).unwrap().outcome;
    assert!(matches!(outcome("told"), MemberOutcome::Done), "{report}");
    assert!(
        matches!(outcome("deaf"), MemberOutcome::LeftBehind),
        "{report}"
    );
    // The service that ignores its context had this long to end.
    assert!(report.took >= millis(100), "{report}");
    assert_eq!(report.exit_code(), 3);
    deaf.open();
}

#[test]
fn close_cuts_a_stop_short_that_others_already_wait_for() {
    let gate = Gate::new();
    let waits = gate.clone();
    let group = Group::builder()
        .stop_timeout(Duration::MAX)
        .start()
        .unwrap();
    group.spawn("deaf", move |_| {
        waits.pass();
        Ok::<_, Broken>(())
    });
    gate.wait_entered(1);
    let reports = on_threads(&group, [GroupHandle::shutdown]);
    group.context().cancelled().recv_timeout(LIMIT).unwrap_err();
    let handle = group.handle();
    let closed = within_limit("the end of `close`", move || handle.close());
    let waited = reports.recv_timeout(LIMIT).unwrap();
    assert_eq!(format!("{waited:?}"), format!("{closed:?}"));
    assert!(
        matches!(closed.members[0].outcome, MemberOutcome::LeftBehind),
        "{closed}"
    );
    gate.open();
}

#[test]
fn a_service_that_would_wait_for_itself_begins_the_stop_and_then_panics() {
    let calls: [(&str, WaitingCall); 2] = [
        ("shutdown", GroupHandle::shutdown),
        ("close", GroupHandle::close),
    ];
    for (name, call) in calls {
        let group = Group::new();
        let (handle, (sender, refusal)) = (group.handle(), bounded(1));
        group.spawn("waits for itself", move |_| {
            sender.send(text_of_panic(|| call(&handle)))
        });
        let refusal = refusal.recv_timeout(LIMIT).unwrap();
        assert!(
            refusal.starts_with(&format!("`{name}` waits for the service"))
                && refusal.ends_with("use `begin_shutdown`"),
            "{refusal}"
        );
        assert!(group.context().is_cancelled());
        assert_eq!(wait(group).cause, GroupCause::Handle);
    }
}

#[test]
fn a_handler_that_would_wait_for_itself_begins_the_stop_and_then_panics() {
    let calls: [WaitingCall; 2] = [GroupHandle::shutdown, GroupHandle::close];
    for call in calls {
        let group = Group::new();
        let (handle, (sender, refusal)) = (group.handle(), bounded(1));
        let web = builder().workers(1).bind("127.0.0.1:0").unwrap();
        let mut client = Client::connect(web.local_addr());
        group.serve("web", web, move |_: Request, _: Context| {
            sender.send(text_of_panic(|| call(&handle))).unwrap();
        });
        client.send(get("/"));
        let refusal = refusal.recv_timeout(LIMIT).unwrap();
        assert!(refusal.ends_with("use `begin_shutdown`"), "{refusal}");
        assert_eq!(wait(group).cause, GroupCause::Handle);
    }
}

#[test]
fn a_service_may_shut_another_group_and_any_server_down() {
    let other = Group::new();
    other.spawn("told", until_told);
    let group = Group::new();
    let (alone, member) = (
        builder().workers(1).bind("127.0.0.1:0").unwrap(),
        builder().workers(1).bind("127.0.0.1:0").unwrap(),
    );
    let (own_group, another) = (group.handle(), other.handle());
    let servers = [alone.handle(), member.handle()];
    let alone = alone.spawn(hello).unwrap();
    group.serve("web", member, hello);
    group.spawn("closes all", move |_| {
        assert!(another.shutdown().is_clean());
        assert!(another.close().is_clean());
        for server in servers {
            assert!(server.shutdown().is_clean());
        }
        own_group.begin_shutdown();
        Ok::<_, Broken>(())
    });
    let report = wait(group);
    assert!(report.is_clean(), "{report}");
    assert_eq!(wait(other).cause, GroupCause::Handle);
    assert!(alone.join().is_clean());
}

#[test]
fn a_server_is_cut_after_the_stop_timeout_of_its_group() {
    let gate = Gate::new();
    let waits = gate.clone();
    let bound = builder()
        .workers(2)
        .grace_period(Duration::MAX)
        .cut_grace(LIMIT)
        .bind("127.0.0.1:0")
        .unwrap();
    let mut client = Client::connect(bound.local_addr());
    let group = Group::builder().stop_timeout(millis(20)).start().unwrap();
    group.serve("web", bound, move |_: Request, context: Context| {
        waits.pass();
        let _ = context.cancelled().recv_timeout(LIMIT);
        "too late"
    });
    client.send(get("/"));
    gate.wait_entered(1);
    group.handle().begin_shutdown();
    gate.open();
    assert_eq!(client.read_response().status, 503);
    drop(client);
    let report = wait(group);
    assert_eq!(
        support::cut(report.server("web").unwrap()).len(),
        1,
        "{report}"
    );
    assert_eq!(report.exit_code(), 1, "{report}");
    assert!(
        report
            .into_result()
            .unwrap_err()
            .to_string()
            .contains("web stopped with 1 request cut")
    );
}

#[test]
fn the_end_of_a_group_is_received_in_a_select() {
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
fn a_late_service_is_not_started_but_a_late_server_answers_its_accept_backlog() {
    let group = Group::new();
    group.handle().begin_shutdown();
    group.spawn("late", |_| -> Result<(), Broken> {
        unreachable!("it does not start")
    });
    let bound = builder().workers(1).bind("127.0.0.1:0").unwrap();
    let mut client = Client::connect(bound.local_addr());
    client.send(get("/"));
    group.serve("web", bound, hello);
    assert_eq!(client.read_response().status, 200);
    let report = wait(group);
    assert!(report.is_clean(), "{report}");
    assert!(
        matches!(
            report.member("late").unwrap().outcome,
            MemberOutcome::NotStarted
        ),
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
    let mut client = Client::connect(bound.local_addr());
    group.spawn("web", move |_| {
        let report = bound.run(hello)?;
        assert!(report.is_clean(), "{report}");
        Ok::<_, Error>(())
    });
    assert_eq!(client.get("/").status, 200);
    group.context().cancel();
    client.expect_eof();
    let report = wait(group);
    assert_eq!(report.cause, GroupCause::Context);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_group_stops_when_the_context_it_was_built_with_is_cancelled() {
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
    // A group that stops does not cancel the context it was built with.
    let (other, program) = (Context::root(), Context::root());
    let group = Group::builder().context(&program).start().unwrap();
    group.handle().begin_shutdown();
    assert!(wait(group).is_clean());
    assert!(!program.is_cancelled() && !other.is_cancelled());
}

#[test]
fn a_service_that_cancels_its_context_stops_no_other() {
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
fn dropping_a_group_stops_its_members() {
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
fn a_signal_that_no_program_may_catch_is_refused() {
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
fn a_group_leaves_no_thread_and_no_server_behind() {
    let server = || Server::builder().workers(1).bind("127.0.0.1:0").unwrap();
    let context = Context::root();
    for _ in 0..3 {
        let group = Group::builder().context(&context).start().unwrap();
        group.serve("web", server(), hello);
        group.spawn("no server of ours", until_told);
        group.handle().begin_shutdown();
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

    /// No test: the program that the children of the tests below run.
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
        let addr = bound.local_addr();
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
        // Only now, because a service that comes after the signal would not be started.
        eprintln!("listening on http://{addr}");
        let report = group.join();
        eprintln!("{report}");
        std::process::exit(report.exit_code().into());
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
