//! Real server processes are stopped under a mixture of clients on a network that is slow and loses
//! packets: nothing may be lost there either. See `lameduck prove --link` for other networks.
#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Output;

use support::child;

#[test]
fn stops_lose_nothing_on_a_network_that_loses_packets() {
    let Some((table, told)) = prove(&["--stops", "4", "--seed", "1", "--link", "25ms,1%"]) else {
        return;
    };
    assert!(told.is_lossless, "{}{table}", told.text);
    assert!(table.contains("in all"), "{table}");
    let lost = count_before(&table, " lost, ");
    assert!(lost > 100, "{lost} packets were lost\n{table}");
}

/// The network has to be worth something: a server that does not know the signal loses what it has.
#[test]
fn what_a_killed_server_loses_is_found_on_a_link() {
    let target = format!(
        "'{}' demo --listen 0.0.0.0:{{port}}",
        env!("CARGO_BIN_EXE_lameduck")
    );
    let options = [
        "--stops", "1", "--link", "25ms", "--signal", "QUIT", "--target", &target,
    ];
    let Some((table, told)) = prove(&options) else {
        return;
    };
    assert!(!told.is_lossless, "{}{table}", told.text);
    assert!(table.contains("sent, and no byte came back"), "{table}");
}

/// What `prove` said on stderr, and its verdict.
struct Told {
    text: String,
    is_lossless: bool,
}

/// Returns the table and what was said. `None` if this system refuses namespaces or devices.
#[track_caller]
fn prove(options: &[&str]) -> Option<(String, Told)> {
    let Output {
        status,
        stdout,
        stderr,
    } = child::prove(options);
    let (table, text) = (
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    );
    if status.code() == Some(2) && text.contains(" is refused: ") {
        eprintln!("skipped: {}", text.lines().last().unwrap());
        return None;
    }
    assert!(matches!(status.code(), Some(0 | 1)), "{status}: {text}");
    let is_lossless = status.success();
    Some((table, Told { text, is_lossless }))
}

/// Returns the number before `what` in the text.
fn count_before(text: &str, what: &str) -> u64 {
    let (before, _) = text.split_once(what).unwrap();
    before.rsplit(' ').next().unwrap().parse().unwrap()
}
