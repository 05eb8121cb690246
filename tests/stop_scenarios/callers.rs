//! Hooks and threads that stop the same server in different ways get one stop and one report.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lameduck::report::HookOutcome;
use lameduck::{Report, ServerHandle};

use super::app;
use super::support::{Gate, LIMIT, TestServer, builder, hello, millis};

#[test]
fn a_hook_that_waits_for_the_stop_panics_and_is_reported() {
    let own = Arc::new(OnceLock::<ServerHandle>::new());
    let known = own.clone();
    let description = builder()
        .workers(2)
        .on_shutdown("waits for itself", move || {
            let _ = known.get().unwrap().shutdown();
        });
    let server = TestServer::with(description, hello);
    own.set(server.handle()).unwrap();
    let report = server.stop();
    let [hook] = &report.hooks[..] else {
        panic!("{report}")
    };
    assert_eq!(
        (hook.name.as_str(), hook.outcome),
        ("waits for itself", HookOutcome::Panicked)
    );
    assert_eq!(
        (report.is_clean(), report.exit_code()),
        (false, 1),
        "{report}"
    );
    assert!(report.took < LIMIT / 2, "{report}");
}

#[test]
fn a_hook_can_shorten_the_stop() {
    let own = Arc::new(OnceLock::<ServerHandle>::new());
    let known = own.clone();
    let gate = Gate::new();
    let description =
        builder()
            .workers(2)
            .cut_grace(millis(100))
            .on_shutdown("hurries", move || {
                known.get().unwrap().begin_shutdown_within(millis(20));
            });
    let server = TestServer::with(description, app(&gate));
    own.set(server.handle()).unwrap();
    let mut client = server.block(&gate, "/block");
    let report = server.stop();
    gate.open();
    assert_eq!(client.read_response().status, 503);
    assert_eq!(
        (report.hooks[0].outcome, crate::support::cut(&report).len()),
        (HookOutcome::Done, 1),
        "{report}"
    );
}

#[test]
fn eight_threads_that_stop_a_server_in_different_ways_get_equal_reports() {
    for _ in 0..10 {
        let gate = Gate::new();
        let server = TestServer::with(builder().workers(2).cut_grace(millis(50)), app(&gate));
        let mut client = server.block(&gate, "/block");
        let stops: [fn(&ServerHandle) -> Report; 4] = [
            ServerHandle::shutdown,
            |handle| handle.shutdown_within(millis(50)),
            |handle| handle.shutdown_within(Duration::MAX),
            ServerHandle::close,
        ];
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let handle = server.handle();
                std::thread::spawn(move || stops[i % 4](&handle))
            })
            .collect();
        let reports: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        gate.open();
        assert!(
            reports.iter().all(|report| *report == reports[0]),
            "{reports:#?}"
        );
        assert_eq!(crate::support::cut(&reports[0]).len(), 1, "{}", reports[0]);
        assert!(reports[0].took < LIMIT / 5, "{}", reports[0]);
        assert_eq!(client.read_response().status, 503);
    }
}
