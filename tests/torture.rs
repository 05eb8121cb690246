//! Real server processes under a mixture of clients, stopped at random moments: nothing may be
//! lost. This is a short run; `lameduck prove` runs for as long as you like.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::child;

#[test]
fn stops_lose_nothing() {
    check_lossless(&["--stops", "5", "--seed", "1"]);
}

#[test]
fn stops_lose_nothing_with_a_round_trip_between_choosing_a_connection_and_writing() {
    check_lossless(&["--stops", "4", "--seed", "2", "--rtt", "5ms"]);
}

/// Shows that the torture finds losses: a server that does not catch the signal loses what it has.
#[test]
fn what_a_killed_server_loses_is_found() {
    let target = format!(
        "'{}' demo --listen 127.0.0.1:{{port}}",
        env!("CARGO_BIN_EXE_lameduck")
    );
    let output = child::prove(&[
        "--stops", "1", "--seed", "1", "--signal", "QUIT", "--target", &target,
    ]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{table}");
    for way in [
        "sent, and no byte came back",
        "cut off while it was being sent",
        "answered in part",
    ] {
        assert!(table.contains(way), "{table}");
    }
}

#[test]
fn a_server_that_does_not_start_is_one_line() {
    let output = child::prove(&["--target", "sh -c 'echo quack >&2; exit 1'"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    let problem = told.lines().last().unwrap();
    assert!(
        problem.starts_with("lameduck: cannot start a server to stop: ")
            && problem.ends_with("quack"),
        "{told}"
    );
}

#[track_caller]
fn check_lossless(options: &[&str]) {
    let output = child::prove(options);
    let (table, told) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert_eq!(output.status.code(), Some(0), "{told}{table}");
    assert!(
        table.contains("in all") && table.contains("compared with what the clients know"),
        "{table}"
    );
}
