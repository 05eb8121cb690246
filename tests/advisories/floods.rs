//! However much a client sends, and however it leaves, it is answered or counted, and leaves
//! nothing behind.

use lameduck::{Body, Context, IntoResponse, Request};

use super::Victim;
use super::support::{LIMIT, TestServer, builder, descriptors, eventually, get, server_threads};

// Slowloris by size: Node CVE-2018-12121, Go CVE-2023-24534, and every server without a limit.
#[test]
fn header_floods_end_at_a_limit() {
    let victim = Victim::new();
    for flood in [
        "X: a\r\n".repeat(1 << 18),
        format!("X: {}", "a".repeat(1 << 21)),
        "a".repeat(1 << 21),
        "a: ".repeat(1 << 19),
    ] {
        assert_eq!(
            victim.statuses(format!("GET / HTTP/1.1\r\nHost: a\r\n{flood}")),
            [431]
        );
    }
    assert_eq!(victim.statuses("\r\n".repeat(1 << 20)), [431]);
    assert_eq!(
        victim.statuses(format!("GET /{}", "a".repeat(1 << 21))),
        [414]
    );
    assert_eq!(victim.statuses("A".repeat(1 << 21)), [501]);
    assert_eq!(
        victim.statuses(format!("GET / HTTP/1.1\r\nHost: {}", "a".repeat(1 << 21))),
        [431]
    );
}

// A flood of resets: each connection must be counted, and leave nothing behind.
#[test]
fn a_storm_of_resets_leaves_nothing_behind() {
    const STORM: usize = 1500;
    // The descriptors and threads of this process are counted, so this test has it to itself.
    if std::env::var_os("LAMEDUCK_STORM").is_none() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "floods::a_storm_of_resets_leaves_nothing_behind",
                "--nocapture",
            ])
            .env("LAMEDUCK_STORM", "1");
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("1 passed"),
            "the child found no test of this name"
        );
        return;
    }
    let server = TestServer::with(
        builder().workers(4),
        |request: Request, _: Context| match request.uri().path() {
            "/large" => Body::sized_reader(std::io::repeat(b'x'), 50 << 20).into_response(),
            _ => "hello".into_response(),
        },
    );
    assert_eq!(server.client().get("/").status, 200);
    eventually("the first connection is gone", || {
        server.handle().stats().open == 0
    });
    // Four workers, the monitor and the acceptor; a thread has its name only once it runs.
    eventually("all threads run", || server_threads().len() == 6);
    let (before, threads) = (descriptors(), server_threads());
    for n in 0..STORM {
        let mut client = server.client();
        let _ = match n % 5 {
            0 => Ok(()),
            1 => client.try_send("GET / HT"),
            2 => client.try_send(get("/")),
            3 => client.try_send(get("/large")),
            _ => {
                client.try_send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhello")
            }
        };
        client.reset();
    }
    eventually("all are gone", || server.handle().stats().open == 0);
    eventually("their descriptors too", || descriptors() == before);
    assert_eq!(server_threads(), threads, "within {LIMIT:?}");
    assert_eq!(server.client().get("/").text(), "hello");
    let report = server.stop();
    let closed: u64 = report
        .closed
        .iter()
        .map(|(_, connections)| connections)
        .sum();
    assert_eq!(
        (report.accepted, closed),
        (STORM as u64 + 2, STORM as u64 + 2),
        "{report}"
    );
}
