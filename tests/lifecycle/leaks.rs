//! A server that has stopped, or never ran, leaves no thread, no descriptor and no file.

use lameduck::report::Phase;

use super::support::{
    Client, Gate, LIMIT, TestServer, builder, descriptors, eventually, gated, get_last, hello,
    serve, server_threads, within_limit,
};
use super::{alone, shared};

#[test]
fn no_thread_and_no_descriptor_is_left_after_a_stop() {
    let _alone = alone();
    let cycle = |signals: &[i32]| {
        let gate = Gate::new();
        let description = builder().workers(8).on_signals(signals.iter().copied());
        let server = TestServer::with(description, gated(&gate));
        let _idle: Vec<_> = (0..50).map(|_| server.used_client("/")).collect();
        let _silent: Vec<_> = (0..50).map(|_| server.client()).collect();
        let mut half: Vec<_> = (0..50).map(|_| server.client()).collect();
        for client in &mut half {
            client.send("POST / HTTP/1.1\r\nContent-Le");
        }
        let mut blocked: Vec<_> = ["/a/block", "/bb/block", "/ccc/block"]
            .map(|path| server.block(&gate, path))
            .into();
        half.clear();
        server.handle().begin_shutdown();
        gate.open();
        for client in &mut blocked {
            assert_eq!(client.read_response().status, 200);
        }
        let report = server.stop();
        assert!(report.is_clean(), "{report}");
        drop((_idle, _silent, blocked));
        // The test still holds the stopped server, of which only its handle is left.
        let left = descriptors();
        drop(server);
        left
    };
    // After this cycle, all that the process opens once and keeps is open.
    cycle(&[signal_hook::consts::SIGUSR1]);
    let before = descriptors();
    assert_eq!(cycle(&[]), before);
    assert_eq!(cycle(&[signal_hook::consts::SIGUSR1]), before);
    eventually("all threads are gone", || server_threads().is_empty());
}

#[test]
fn a_server_that_never_runs_leaves_nothing() {
    let _alone = alone();
    let before = descriptors();
    let bound = builder().bind("127.0.0.1:0").unwrap();
    let addr = bound.local_addr();
    let handle = bound.handle();
    drop(bound);
    assert_eq!(descriptors(), before);
    assert!(server_threads().is_empty());
    let _ = builder().bind(addr).unwrap();
    let report = within_limit("a stop without a server", move || handle.shutdown());
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_hundred_starts_and_stops_on_one_port_leave_nothing() {
    let _alone = alone();
    let addr = builder().bind("127.0.0.1:0").unwrap().local_addr();
    let before = descriptors();
    for i in 0..100 {
        let running = serve(builder().workers(4), addr, hello);
        let mut client = Client::connect(addr);
        assert_eq!(client.get("/").text(), "hello");
        // A client that closes when the server does: it keeps no stop.
        let client = std::thread::spawn(move || client.expect_eof());
        let report = running.handle().shutdown();
        assert!(report.is_clean(), "cycle {i}: {report}");
        assert_eq!(
            (report.accepted, report.answered_in(Phase::Running)),
            (1, 1),
            "cycle {i}"
        );
        client.join().unwrap();
    }
    assert_eq!(descriptors(), before);
    eventually("all threads are gone", || server_threads().is_empty());
}

#[test]
fn a_hundred_servers_that_stop_at_once_leave_nothing() {
    let _alone = alone();
    let before = descriptors();
    for _ in 0..100 {
        let running = serve(builder().workers(4), "127.0.0.1:0", hello);
        let report = running.handle().shutdown();
        assert!(report.is_clean(), "{report}");
        assert!(report.took < LIMIT / 10, "{report}");
    }
    assert_eq!(descriptors(), before);
    eventually("all threads are gone", || server_threads().is_empty());
}

#[test]
fn a_unix_socket_is_served_and_its_file_is_gone_after_the_stop() {
    let _shared = shared();
    let path = std::env::temp_dir().join(format!("lameduck-test-{}.sock", std::process::id()));
    let addr = format!("unix:{}", path.display());
    for _ in 0..2 {
        let running = serve(builder().workers(2), &addr, hello);
        let mut client = Client::connect_unix(&path);
        client.send(get_last("/"));
        assert_eq!(client.read_last_response().text(), "hello");
        drop(client);
        let report = running.handle().shutdown();
        assert!(report.is_clean(), "{report}");
        assert!(!path.exists());
    }
}
