//! Bodies that are only declared, and heads that never end, cost memory up to a limit and no more.

use super::support::child::Program;

// Some servers allocate memory for what a client says that it will send.
#[test]
fn nothing_is_allocated_for_what_is_only_declared() {
    let demo = Program::demo(&[]);
    assert_eq!(demo.client().get("/plaintext").status, 200);
    let before = peak_kib(&demo);
    let mut clients = Vec::new();
    for framing in [
        "Content-Length: 1000000000\r\n\r\n",
        "Content-Length: 100000000000\r\n\r\n",
        "Content-Length: 9223372036854775807\r\n\r\n",
        "Content-Length: 18446744073709551615\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        "Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n",
    ] {
        for path in ["/echo", "/plaintext"] {
            for _ in 0..20 {
                let mut client = demo.client();
                client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}hello"));
                clients.push(client);
            }
        }
    }
    assert_eq!(demo.client().get("/plaintext").status, 200);
    for mut client in clients {
        client.half_close();
        // 413 where the length is above the demo's limit.
        let status = client.read_response().status;
        assert!(matches!(status, 400 | 413), "{status}");
    }
    let grown = peak_kib(&demo) - before;
    assert!(grown < 16 << 10, "{grown} KiB for 240 bodies of 5 bytes");
}

#[test]
fn heads_that_never_end_cost_their_limit_and_no_more() {
    let demo = Program::demo(&[]);
    assert_eq!(demo.client().get("/plaintext").status, 200);
    let before = peak_kib(&demo);
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let mut client = demo.client();
            client.send(format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX: {}",
                "a".repeat(60_000)
            ));
            client
        })
        .collect();
    assert_eq!(demo.client().get("/plaintext").status, 200);
    let grown = peak_kib(&demo) - before;
    assert!(
        grown < 200 * 128 + (8 << 10),
        "{grown} KiB for 200 heads of 60 kB"
    );
    drop(clients);
}

/// Returns the most memory that the process has had.
fn peak_kib(demo: &Program) -> u64 {
    demo.memory("VmHWM:") >> 10
}
