//! The kernel's account of this process. Where there is no `/proc`, nothing is checked.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

/// Returns how many descriptors are open.
pub(crate) fn descriptors() -> Option<usize> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count())
}

/// Returns the CPU time that the server's threads have used.
pub(crate) fn server_cpu() -> Option<Duration> {
    let tasks = fs::read_dir("/proc/self/task")
        .ok()?
        .flatten()
        .map(|task| task.path());
    let ours = tasks.filter(|task| {
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("lameduck-"))
    });
    let nanos = ours.filter_map(|task| {
        fs::read_to_string(task.join("schedstat"))
            .ok()?
            .split(' ')
            .next()?
            .parse::<u64>()
            .ok()
    });
    Some(Duration::from_nanos(nanos.sum()))
}

/// Describes each thread: its name, its state, where it waits in the kernel, and how often it has
/// gone to sleep.
pub(crate) fn threads() -> String {
    let mut lines = String::new();
    for task in fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let status = read("status");
        let field = |name| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .trim()
        };
        let (state, switches) = (field("State:"), field("voluntary_ctxt_switches:"));
        let _ = writeln!(
            lines,
            "  {:<18} {state:<14} {:<24} {switches} sleeps",
            read("comm").trim(),
            read("wchan")
        );
    }
    lines
}

/// Describes both ends of the connection from a port of the loopback interface, with the bytes in
/// their queues.
pub(crate) fn sockets(port: u16) -> String {
    const STATES: [&str; 12] = [
        "?",
        "established",
        "syn sent",
        "syn received",
        "fin wait 1",
        "fin wait 2",
        "time wait",
        "closed",
        "close wait",
        "last ack",
        "listening",
        "closing",
    ];
    let port = format!(":{port:04X}");
    let mut lines = String::new();
    for line in fs::read_to_string("/proc/net/tcp")
        .unwrap_or_default()
        .lines()
    {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, remote, state, queues, ..] = fields[..] else {
            continue;
        };
        if !local.ends_with(&port) && !remote.ends_with(&port) {
            continue;
        }
        let end = if local.ends_with(&port) {
            "client"
        } else {
            "server"
        };
        let hex = |text: &str| usize::from_str_radix(text, 16).unwrap_or_default();
        let (unsent, unread) = queues.split_once(':').unwrap_or_default();
        let state = STATES.get(hex(state)).unwrap_or(&"?");
        let _ = writeln!(
            lines,
            "  {end}: {state}, {} bytes not acknowledged, {} not read",
            hex(unsent),
            hex(unread)
        );
    }
    lines
}
