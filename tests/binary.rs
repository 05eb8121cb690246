//! The program `lameduck demo`, as its user and its clients see it.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::ops::Deref;
use std::process::Output;

use rustix::process::Signal;

use support::child::{Program, program, shell};
use support::{Answer, Client, Delimited, End};

#[test]
fn the_first_page_leads_to_every_route() {
    let demo = Demo::start(&[]);
    let page = demo.get("/");
    assert_eq!(page.status, 200);
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    for route in [
        "/plaintext",
        "/sleep",
        "/bytes",
        "/chunked",
        "/headers",
        "/setheader",
        "/status",
        "/echo",
    ] {
        assert!(page.text().contains(&format!("{route}\"")), "{route}");
    }
    for external in ["href=\"http", "href=\"//", "src=", "@import", "url("] {
        assert!(!page.text().contains(external), "{external}");
    }
}

#[test]
fn plaintext_says_hello() {
    let demo = Demo::start(&[]);
    let hello = demo.get("/plaintext");
    assert_eq!((hello.status, hello.text()), (200, "Hello, World!"));
    assert_eq!(
        hello.field("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(hello.field("content-length"), Some("13"));
}

#[test]
fn head_gets_the_head_that_get_would_get() {
    let demo = Demo::start(&[]);
    for target in [
        "/",
        "/plaintext",
        "/sleep?ms=1",
        "/bytes?n=5000000000",
        "/setheader?name=x-duck&value=quack",
        "/status?code=404",
        "/sleep?ms=never",
        "/nowhere",
    ] {
        let (head, get) = (demo.ask("HEAD", target), demo.head_of_get(target));
        assert_eq!(head.body, b"", "HEAD {target}");
        assert_eq!(head.status, get.status, "HEAD {target}");
        for name in ["content-length", "content-type", "x-duck"] {
            assert_eq!(head.field(name), get.field(name), "HEAD {target}, {name}");
        }
    }
    let chunked = demo.ask("HEAD", "/chunked");
    assert_eq!((chunked.status, chunked.body.len()), (200, 0));
    assert_eq!(demo.ask("HEAD", "/headers").body, b"");
}

#[test]
fn sleep_answers_after_a_while() {
    let demo = Demo::start(&["--workers", "1"]);
    let slept = demo.get("/sleep?ms=20");
    assert_eq!((slept.status, slept.text()), (200, "slept\n"));
}

#[test]
fn bytes_are_a_pattern_of_the_length_asked_for() {
    let demo = Demo::start(&[]);
    for n in [0, 1, 251, 1_000_000] {
        let bytes = demo.get(&format!("/bytes?n={n}"));
        assert_eq!((bytes.status, bytes.body.len()), (200, n));
        assert_eq!(bytes.field("content-length"), Some(&*n.to_string()));
        assert_eq!(
            bytes.field("content-type"),
            Some("application/octet-stream")
        );
        assert!(
            bytes
                .body
                .iter()
                .zip(0_usize..)
                .all(|(byte, at)| usize::from(*byte) == at % 251),
            "{n} bytes"
        );
    }
}

#[test]
fn chunked_sends_each_line_in_a_chunk_of_its_own() {
    let demo = Demo::start(&[]);
    let mut client = demo.client();
    client.send(request("GET", "/chunked", "", b""));
    let lines = client.read_head();
    assert_eq!((lines.status, lines.delimited), (200, Delimited::Chunked));
    let chunks: String = (1..=5)
        .map(|line| format!("c\r\nline {line} of 5\n\r\n"))
        .collect();
    let (body, end) = client.drain();
    assert_eq!(
        (String::from_utf8(body).unwrap(), end),
        (format!("{chunks}0\r\n\r\n"), End::Eof)
    );
}

#[test]
fn http_1_0_gets_the_lines_without_chunks() {
    let demo = Demo::start(&[]);
    let lines = demo.raw(b"GET /chunked HTTP/1.0\r\n\r\n");
    assert_eq!(
        (lines.status, lines.field("transfer-encoding")),
        (200, None)
    );
    assert_eq!(
        lines.text(),
        (1..=5)
            .map(|line| format!("line {line} of 5\n"))
            .collect::<String>()
    );
}

#[test]
fn echo_gives_the_body_back() {
    let demo = Demo::start(&[]);
    for method in ["POST", "PUT"] {
        let echo = demo.send(
            method,
            "/echo",
            "Content-Type: text/x-duck\r\nContent-Length: 5\r\n",
            b"quack",
        );
        assert_eq!((echo.status, echo.text()), (200, "quack"));
        assert_eq!(echo.field("content-type"), Some("text/x-duck"));
    }
    let untyped = demo.send("POST", "/echo", "Content-Length: 2\r\n", b"\x00\xff");
    assert_eq!((untyped.status, &*untyped.body), (200, &b"\x00\xff"[..]));
    assert_eq!(
        untyped.field("content-type"),
        Some("application/octet-stream")
    );
}

#[test]
fn echo_goes_out_while_the_body_comes_in() {
    let demo = Demo::start(&[]);
    let piece = vec![b'q'; 100_000];
    let mut client = demo.client();
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
    client.send("Transfer-Encoding: chunked\r\n\r\n186a0\r\n");
    client.send(&piece);
    // The first bytes of the echo are here, although the last ones of the body were not sent.
    assert_eq!(client.read_raw(12), b"HTTP/1.1 200");
    client.send("\r\n0\r\n\r\n");
    let (rest, end) = client.drain();
    assert_eq!(end, End::Eof);
    assert_eq!(
        rest.iter().filter(|byte| **byte == b'q').count(),
        piece.len()
    );
    assert!(rest.ends_with(b"\r\n0\r\n\r\n"), "the echo is complete");
}

#[test]
fn status_is_the_one_asked_for_whatever_the_method() {
    let demo = Demo::start(&[]);
    for (method, code, body) in [
        ("GET", 200, "200 OK\n"),
        ("POST", 201, "201 Created\n"),
        ("DELETE", 204, ""),
        ("GET", 205, ""),
        ("GET", 304, ""),
        ("OPTIONS", 418, "418 I'm a teapot\n"),
        ("PATCH", 503, "503 Service Unavailable\n"),
        ("QUACK", 599, "599 unknown status\n"),
    ] {
        let answer = demo.ask(method, &format!("/status?code={code}"));
        assert_eq!(
            (answer.status, answer.text()),
            (code, body),
            "{method} {code}"
        );
    }
}

#[test]
fn setheader_sets_one_field() {
    let demo = Demo::start(&[]);
    let set = demo.get("/setheader?name=X-Duck&value=quack%2C+%22quack%22");
    assert_eq!(
        (set.status, set.field("x-duck")),
        (200, Some("quack, \"quack\""))
    );
}

#[test]
fn setheader_cannot_split_a_response() {
    let demo = Demo::start(&[]);
    for query in [
        "name=x-duck&value=a%0d%0aset-cookie:+b=c",
        "name=x-duck&value=a%0aset-cookie:+b=c",
        "name=x-duck&value=a%0d",
        "name=x-duck&value=a%00",
        "name=x-duck%0d%0aset-cookie&value=b=c",
        "name=x-duck:+a%0d%0aset-cookie&value=b=c",
        "name=x+duck&value=a",
        "name=&value=a",
    ] {
        let refused = demo.get(&format!("/setheader?{query}"));
        assert_eq!(
            (refused.status, refused.field("set-cookie")),
            (400, None),
            "{query}"
        );
        assert!(
            refused
                .text()
                .ends_with("; try /setheader?name=x-duck&value=quack\n"),
            "{}",
            refused.text()
        );
    }
}

#[test]
fn setheader_does_not_touch_the_framing() {
    let demo = Demo::start(&[]);
    let set = demo.get("/setheader?name=transfer-encoding&value=chunked");
    assert_eq!(
        (set.status, set.field("transfer-encoding"), set.text()),
        (200, None, "the field is set\n")
    );
    let lied = demo.get("/setheader?name=content-length&value=5");
    assert_eq!(
        lied.field("content-length"),
        Some(&*lied.body.len().to_string())
    );
}

#[test]
fn headers_shows_the_fields_as_they_came() {
    let demo = Demo::start(&[]);
    let shown = demo.raw(
        b"GET /headers HTTP/1.1\r\nHost: a\r\nX-Duck: one\r\nx-duck: two\r\nX-Latin: caf\xe9\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(
        (shown.status, shown.field("content-type")),
        (200, Some("text/plain"))
    );
    let mut lines: Vec<_> = shown.body.split_inclusive(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    let expected = [
        &b"connection: close\n"[..],
        b"host: a\n",
        b"x-duck: one\n",
        b"x-duck: two\n",
        b"x-latin: caf\xe9\n",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_parameter_that_is_missing_or_wrong_is_reported_in_one_line() {
    let demo = Demo::start(&[]);
    for (target, problem) in [
        ("/sleep", "the parameter `ms` is missing; try /sleep?ms=500"),
        (
            "/sleep?ms=1s",
            "the parameter `ms` is not a whole number from 0 to 3600000; try /sleep?ms=500",
        ),
        (
            "/sleep?ms=3600001",
            "the parameter `ms` is not a whole number from 0 to 3600000; try /sleep?ms=500",
        ),
        (
            "/sleep?ms=1&ms=2",
            "the parameter `ms` is given more than once; try /sleep?ms=500",
        ),
        (
            "/bytes?n=-1",
            "the parameter `n` is not a whole number from 0 to 18446744073709551615; try /bytes?n=1000000",
        ),
        (
            "/status?code=600",
            "the parameter `code` is not a whole number from 200 to 599; try /status?code=418",
        ),
        (
            "/status?code=100",
            "the parameter `code` is not a whole number from 200 to 599; try /status?code=418",
        ),
        (
            "/setheader?name=a",
            "the parameter `value` is missing; try /setheader?name=x-duck&value=quack",
        ),
    ] {
        let refused = demo.get(target);
        assert_eq!(refused.status, 400, "{target}");
        assert_eq!(
            refused.text(),
            format!("400 Bad Request: {problem}\n"),
            "{target}"
        );
    }
    // It does not matter which layer refuses the request.
    assert_eq!(demo.get("/setheader?name=a&value=%zz").status, 400);
}

#[test]
fn an_unknown_path_is_404_and_a_wrong_method_405() {
    let demo = Demo::start(&[]);
    for target in ["/nowhere", "/plaintext/", "//", "/Echo"] {
        assert_eq!(demo.get(target).status, 404, "{target}");
    }
    for (method, target, allow) in [
        ("PUT", "/", "GET, HEAD, POST, OPTIONS"),
        ("DELETE", "/plaintext", "GET, HEAD, OPTIONS"),
        ("POST", "/sleep?ms=1", "GET, HEAD, OPTIONS"),
        ("PUT", "/bytes?n=1", "GET, HEAD, OPTIONS"),
        ("PATCH", "/chunked", "GET, HEAD, OPTIONS"),
        ("TRACE", "/headers", "GET, HEAD, OPTIONS"),
        ("GET", "/echo", "POST, PUT, OPTIONS"),
        ("HEAD", "/echo", "POST, PUT, OPTIONS"),
    ] {
        let refused = demo.ask(method, target);
        assert_eq!(
            (refused.status, refused.field("allow")),
            (405, Some(allow)),
            "{method} {target}"
        );
    }
}

#[test]
fn options_says_which_methods_there_are() {
    let demo = Demo::start(&[]);
    for (target, allow) in [
        ("/plaintext", "GET, HEAD, OPTIONS"),
        ("/echo", "POST, PUT, OPTIONS"),
        ("*", "GET, HEAD, POST, PUT, OPTIONS"),
    ] {
        let options = demo.ask("OPTIONS", target);
        assert_eq!(
            (options.status, options.field("allow"), options.text()),
            (200, Some(allow), ""),
            "{target}"
        );
    }
    assert_eq!(demo.ask("OPTIONS", "/nowhere").status, 404);
}

#[test]
fn a_method_that_no_route_knows_is_501() {
    let demo = Demo::start(&[]);
    for (method, target) in [
        ("QUACK", "/plaintext"),
        ("get", "/"),
        ("Post", "/echo"),
        ("PROPFIND", "/nowhere"),
    ] {
        assert_eq!(demo.ask(method, target).status, 501, "{method} {target}");
    }
}

#[test]
fn a_post_to_the_first_page_is_echoed() {
    let demo = Demo::start(&[]);
    let echo = demo.send("POST", "/", "Content-Length: 5\r\n", b"quack");
    assert_eq!((echo.status, echo.text()), (200, "quack"));
}

#[test]
fn a_part_of_a_body_is_not_echoed() {
    let demo = Demo::start(&[]);
    let refused = demo.send(
        "PUT",
        "/echo",
        "Content-Range: bytes 0-4/10\r\nContent-Length: 5\r\n",
        b"quack",
    );
    assert_eq!(refused.status, 400);
}

#[test]
fn several_addresses_are_served_and_logged() {
    let path = std::env::temp_dir().join(format!("lameduck-test-{}.sock", std::process::id()));
    let unix = format!("unix:{}", path.display());
    let demo = Demo::start(&["--listen", "127.0.0.1:0", "--listen", &unix]);
    let second = demo.wait_for_next_addr();
    demo.wait_for_line(&format!("listening on {unix}"));

    let request = request("GET", "/plaintext", "", b"");
    let answer = exchange(Client::connect(second), &request);
    assert_eq!(answer.text(), "Hello, World!");
    let answer = exchange(Client::connect_unix(&path), &request);
    assert_eq!(answer.text(), "Hello, World!");

    demo.signal(Signal::TERM);
    assert_eq!(demo.end().code, Some(0));
    assert!(!path.exists(), "the socket's file is removed");
}

#[test]
fn either_signal_stops_an_idle_server_cleanly() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let demo = Demo::start(&[]);
        assert_eq!(demo.get("/plaintext").status, 200);
        demo.signal(signal);
        let ended = demo.end();
        let report = ended.output;
        assert_eq!(ended.code, Some(0), "{report}");
        assert!(
            report.starts_with(&format!("stopped cleanly by {name}")),
            "{report}"
        );
        assert!(report.contains("1 connection, 1 response"), "{report}");
    }
}

#[test]
fn a_request_sent_before_sigterm_is_answered() {
    let demo = Demo::start(&["--idle-grace", "0"]);
    let mut sleeper = demo.client();
    sleeper.send(request("GET", "/sleep?ms=300", "", b""));
    demo.signal(Signal::TERM);
    let slept = sleeper.read_last_response();
    assert_eq!((slept.status, slept.text()), (200, "slept\n"));
    let ended = demo.end();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
}

#[test]
fn a_response_that_has_begun_finishes_after_sigterm() {
    let demo = Demo::start(&[]);
    let mut client = demo.client();
    client.send(request("GET", "/chunked", "", b""));
    client.read_raw(12);
    demo.signal(Signal::TERM);
    let (rest, end) = client.drain();
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.ends_with("line 5 of 5\n\r\n0\r\n\r\n"), "{rest}");
    assert_eq!(end, End::Eof);
    let ended = demo.end();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
}

#[test]
fn what_exceeds_the_grace_period_is_cut_and_reported() {
    let demo = Demo::start(&["--grace-period", "200ms"]);
    let mut sleeper = demo.client();
    sleeper.send(request("GET", "/sleep?ms=60000", "", b""));
    demo.signal(Signal::TERM);
    assert_eq!(sleeper.read_last_response().status, 503);
    assert_cut(&demo, "GET /sleep?ms=60000");
}

#[test]
fn a_second_signal_cuts_at_once() {
    let demo = Demo::start(&["--grace-period", "1h"]);
    let mut sleeper = demo.client();
    let hello = b"GET /plaintext HTTP/1.1\r\nHost: a\r\n\r\n";
    sleeper.send([&hello[..], &request("GET", "/sleep?ms=3600000", "", b"")].concat());
    // Both requests came in one piece, so the first answer shows that the second request has come.
    assert_eq!(sleeper.read_response().text(), "Hello, World!");
    demo.signal(Signal::INT);
    demo.wait_for_line("got SIGINT: stopping");
    demo.signal(Signal::TERM);
    assert_eq!(sleeper.read_last_response().status, 503);
    assert_cut(&demo, "GET /sleep?ms=3600000");
}

#[test]
fn a_signal_that_comes_twice_at_once_counts_once_and_again_later_cuts() {
    let demo = Demo::start(&["--grace-period", "1h"]);
    let (mut short, mut long) = (demo.client(), demo.client());
    short.send(request("GET", "/sleep?ms=500", "", b""));
    long.send(request("GET", "/sleep?ms=3600000", "", b""));
    demo.signal(Signal::TERM);
    demo.wait_for_line("got SIGTERM: stopping");
    demo.signal(Signal::TERM);
    let slept = short.read_last_response();
    assert_eq!((slept.status, slept.text()), (200, "slept\n"));
    // The response came about 500 ms after the signals, and a person would press the key again as
    // late.
    demo.signal(Signal::TERM);
    assert_eq!(long.read_last_response().status, 503);
    assert_cut(&demo, "GET /sleep?ms=3600000");
}

#[test]
fn lame_duck_goes_on_accepting() {
    let demo = Demo::start(&["--lame-duck", "1h"]);
    demo.signal(Signal::TERM);
    demo.wait_for_line("got SIGTERM: stopping");
    let hello = demo.raw(b"GET /plaintext HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        (hello.status, hello.field("connection")),
        (200, Some("close"))
    );
    demo.signal(Signal::INT);
    assert_eq!(demo.end().code, Some(0));
}

#[test]
fn help_and_version_go_to_stdout() {
    for (words, begin) in [
        (&["--help"][..], "lameduck - "),
        (&["-h"], "lameduck - "),
        (&["demo", "--help"], "lameduck demo - "),
        (
            &["--version"],
            concat!("lameduck ", env!("CARGO_PKG_VERSION"), "\n"),
        ),
    ] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(
            String::from_utf8(output.stdout).unwrap().starts_with(begin),
            "{words:?}"
        );
        assert_eq!(output.stderr, b"", "{words:?}");
    }
}

#[test]
fn without_a_command_the_help_goes_to_stderr() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stdout, b"");
    assert_eq!(output.stderr, run(&["--help"]).stdout);
}

#[test]
fn what_is_wrong_with_the_command_line_is_one_line() {
    for (words, problem) in [
        (
            &["prance"][..],
            "unknown command \"prance\"; try 'lameduck --help'",
        ),
        (&["--bad"], "invalid option '--bad'; try 'lameduck --help'"),
        (
            &["demo", "--bad"],
            "invalid option '--bad'; try 'lameduck demo --help'",
        ),
        (
            &["demo", "--grace-period", "10"],
            "--grace-period: \"10\" is not a duration such as 500ms, 10s, 2m, 1h or 0; try 'lameduck demo --help'",
        ),
        (
            &["demo", "--listen", "duck"],
            "cannot listen on \"duck\": it has no port, as in 127.0.0.1:8080; try 'lameduck demo --help'",
        ),
    ] {
        check_failure(words, problem);
    }
}

#[test]
fn a_port_in_use_is_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let error = std::io::Error::from(rustix::io::Errno::ADDRINUSE);
    check_failure(
        &["demo", "--listen", &addr],
        &format!("cannot listen on {addr}: {error}"),
    );
}

#[cfg(target_os = "linux")]
#[test]
fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
    let script = "ulimit -Sn 64 && exec \"$0\" demo --listen 127.0.0.1:0";
    let demo = Program::serving(&mut shell(script));
    let pid = demo.pid().as_raw_nonzero();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limits = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let limits: Vec<_> = limits.split_whitespace().collect();
    assert_ne!(limits[3], "64");
    assert_eq!(limits[3], limits[4], "soft and hard");
}

/// `lameduck demo` in its own process.
struct Demo(Program);

impl Demo {
    /// Starts the demo on a free port, which comes first, and on the addresses in `options`.
    fn start(options: &[&str]) -> Self {
        Self(Program::demo(options))
    }

    fn get(&self, target: &str) -> Answer {
        self.ask("GET", target)
    }

    fn ask(&self, method: &str, target: &str) -> Answer {
        self.send(method, target, "", b"")
    }

    fn send(&self, method: &str, target: &str, fields: &str, body: &[u8]) -> Answer {
        self.raw(&request(method, target, fields, body))
    }

    /// Sends a request that is the last one on its connection, and returns the answer.
    fn raw(&self, request: &[u8]) -> Answer {
        exchange(self.client(), request)
    }

    /// Reads the head of a response to GET, however long its body would be.
    fn head_of_get(&self, target: &str) -> Answer {
        let mut client = self.client();
        client.send(request("GET", target, "", b""));
        client.read_head()
    }
}

impl Deref for Demo {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.0
    }
}

/// Waits for the end of a server that has cut `request` and says so.
#[track_caller]
fn assert_cut(demo: &Program, request: &str) {
    let ended = demo.end();
    let report = ended.output;
    assert!(ended.code.is_some_and(|code| code != 0), "{report}");
    assert!(report.contains(request), "{report}");
}

fn run(words: &[&str]) -> Output {
    program().args(words).output().unwrap()
}

#[track_caller]
fn check_failure(words: &[&str], problem: &str) {
    let output = run(words);
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!("lameduck: {problem}\n")
    );
    assert_eq!(output.stdout, b"", "{words:?}");
    assert_eq!(output.status.code(), Some(2), "{words:?}");
}

fn request(method: &str, target: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    [head.as_bytes(), body].concat()
}

#[track_caller]
fn exchange<S: Read + Write>(mut client: Client<S>, request: &[u8]) -> Answer {
    client.send(request);
    let answer = if request.starts_with(b"HEAD ") {
        client.read_response_to_head()
    } else {
        client.read_response()
    };
    client.expect_eof();
    answer
}
