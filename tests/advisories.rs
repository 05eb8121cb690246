//! The weaknesses that HTTP servers have had to admit, one test for each class: none of them is
//! here.
//!
//! The comments name advisories in which the class came up elsewhere, in our own words. Most are
//! about two readers that find different requests in the same bytes, so most tests hide a request
//! for `/smuggled` in something else: no handler may ever see one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lameduck::http::header::{CONTENT_LENGTH, HeaderName};
use lameduck::http::{HeaderValue, Response as HttpResponse, StatusCode};
use lameduck::{Body, Context, IntoResponse, Request, Response};

use support::{
    Client, End, LIMIT, TestServer, builder, descriptors, eventually, get, pattern, server_threads,
};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server that knows whether a smuggled request came through.
struct Victim {
    server: TestServer,
    smuggled: Arc<AtomicUsize>,
}

impl Victim {
    /// With a handler that reads all of a body and says how long it was, or for `/unread` leaves
    /// it.
    fn new() -> Self {
        Self::with(|request, _| match request.uri().path() {
            "/unread" => "unread".into_response(),
            "/forbidden" => StatusCode::FORBIDDEN.into_response(),
            _ => match std::io::copy(&mut request.into_body(), &mut std::io::sink()) {
                Ok(len) => format!("{len} bytes").into_response(),
                Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
            },
        })
    }

    fn with(handler: impl Fn(Request, Context) -> Response + Send + Sync + 'static) -> Self {
        let smuggled = Arc::new(AtomicUsize::new(0));
        let count = smuggled.clone();
        let server = TestServer::start(move |request: Request, context: Context| {
            if request.uri().path().contains("smuggled") {
                count.fetch_add(1, Ordering::Relaxed);
            }
            handler(request, context)
        });
        Self { server, smuggled }
    }

    /// The statuses of all answers to `input`, behind which the client finishes its side.
    #[track_caller]
    fn statuses(&self, input: impl AsRef<[u8]>) -> Vec<u16> {
        let statuses = statuses(&mut self.server.client(), input.as_ref());
        assert_eq!(
            self.smuggled.load(Ordering::Relaxed),
            0,
            "smuggled: {}",
            input.as_ref().escape_ascii()
        );
        statuses
    }

    /// Each of these heads of a POST is refused, and so nothing behind it is a request.
    #[track_caller]
    fn refuses_heads<'a>(&self, heads: impl IntoIterator<Item = &'a str>) {
        for head in heads {
            for body in ["", "0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "hello"] {
                let input = format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body}{SMUGGLED}");
                let statuses = self.statuses(&input);
                assert!(
                    matches!(statuses[..], [400 | 501]),
                    "{statuses:?} for {input:?}"
                );
            }
        }
    }

    /// Each of these bodies is refused, and so nothing behind it is a request.
    #[track_caller]
    fn refuses_chunks<'a>(&self, bodies: impl IntoIterator<Item = &'a str>) {
        for body in bodies {
            for path in ["/", "/unread"] {
                let input = format!(
                    "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}"
                );
                assert_eq!(self.statuses(&input), [400], "{input:?}");
            }
        }
    }
}

#[track_caller]
fn statuses(client: &mut Client, input: &[u8]) -> Vec<u16> {
    let _ = client.try_send(input);
    client.half_close();
    let mut statuses = Vec::new();
    loop {
        match client.try_read(false) {
            Ok(answer) => statuses.push(answer.status),
            Err(incomplete) => {
                assert!(
                    incomplete.answer.is_none() && incomplete.end == End::Eof,
                    "{incomplete:?}"
                );
                assert_eq!(client.drain(), (Vec::new(), End::Eof));
                return statuses;
            }
        }
    }
}

// gunicorn CVE-2024-1135 and CVE-2024-6827 (a coding it did not know made it fall back to the
// length), Node CVE-2019-15605, tiny_http RUSTSEC-2020-0031, Go CVE-2022-1705, waitress
// CVE-2019-16786: malformed codings were taken for `chunked`, or for none, with a length beside
// them or without.
#[test]
fn no_spelling_of_a_transfer_coding_is_taken_for_another() {
    let codings = [
        "chunked, chunked",
        "chunked,chunked",
        "chunked, identity",
        "identity, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "gzip",
        "identity",
        "xchunked",
        "chunkedx",
        "x-chunked",
        "chunk",
        "\"chunked\"",
        "'chunked'",
        "chunked;q=1",
        "chunked;",
        ";chunked",
        "chunked,",
        ",chunked",
        "chunked ,",
        "",
        ",",
        "chunked\x0b",
        "\x0bchunked",
        "\x0cchunked",
        "chunked\0",
        "\x01chunked",
        "chunked\x7f",
        "chun\tked",
        "c hunked",
        "\u{a0}chunked",
        "chunked\u{85}",
        "cow, chunked",
        "chunked, cow",
        "chunked=1",
        "[chunked]",
        "chunked/1.1",
        "none",
        "0",
        "chun\rked",
        "chunked\r",
        "chun\nked",
    ];
    let victim = Victim::new();
    for coding in codings {
        victim.refuses_heads([format!("Transfer-Encoding: {coding}").as_str()]);
        for length in [0, 5, 48] {
            victim.refuses_heads([
                format!("Transfer-Encoding: {coding}\r\nContent-Length: {length}").as_str(),
                format!("Content-Length: {length}\r\nTransfer-Encoding: {coding}").as_str(),
            ]);
        }
    }
}

// The class that has its name from CL.TE and TE.CL; RFC 9112 section 6.1 lets the coding win, which
// is no protection when the other reader lets the length win.
#[test]
fn a_coding_and_a_length_together_are_refused() {
    let victim = Victim::new();
    for coding in [
        "chunked",
        "Chunked",
        "CHUNKED",
        "\tchunked",
        "chunked\t",
        "chunked \t",
    ] {
        for length in ["0", "4", "5", "6", "48", "00", "99999"] {
            let (coding, length) = (
                format!("Transfer-Encoding: {coding}"),
                format!("Content-Length: {length}"),
            );
            victim.refuses_heads([
                format!("{coding}\r\n{length}").as_str(),
                format!("{length}\r\nX: a\r\n{coding}").as_str(),
            ]);
        }
    }
}

// Node CVE-2020-8287, hyper RUSTSEC-2021-0020 (CVE-2021-21299), Tornado GHSA-753j-mpmx-qq6g: of two
// fields only one was looked at.
#[test]
fn two_transfer_encoding_fields_are_refused() {
    Victim::new().refuses_heads([
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nX: a\r\ntransfer-encoding:",
    ]);
}

// Go CVE-2019-16276, Netty CVE-2019-16869, Node CVE-2021-22959 and CVE-2024-27982: whitespace
// around a name was cut off, so that a field that others pass over framed the body.
#[test]
fn whitespace_before_or_in_a_name_is_refused() {
    Victim::new().refuses_heads([
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Content-Length : 48",
        "Content-Length\t: 48",
        " Content-Length: 48",
        "\tContent-Length: 48",
        "Content Length: 48",
        "Transfer Encoding: chunked",
        " Transfer-Encoding: chunked",
        "X : a",
    ]);
}

// Node CVE-2022-32215: folded lines were joined, or not.
#[test]
fn a_folded_framing_field_is_refused() {
    Victim::new().refuses_heads([
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r\n , identity",
        "Content-Length:\r\n\t48",
        "Content-Length: 4\r\n 8",
        "X: a\r\n Content-Length: 48",
        "X: a\r\n\tTransfer-Encoding: chunked",
        "X:\r\n \r\n a",
    ]);
}

// Node CVE-2022-32214, CVE-2022-35256 and CVE-2023-30589, waitress CVE-2019-16785, CPython's
// http.server: a bare CR or a bare LF ended a line.
#[test]
fn a_bare_cr_or_lf_ends_no_line() {
    let victim = Victim::new();
    victim.refuses_heads([
        "X: a\nTransfer-Encoding: chunked",
        "X: a\rTransfer-Encoding: chunked",
        "X: a\n\nTransfer-Encoding: chunked",
        "X: a\r\rX: b",
        "X: a\n",
        "X: a\r",
        "\rX: a",
        "\nX: a",
        "X\r: a",
        "X\n: a",
        "X:\ra",
        "X:\na",
        "X: a\r\n\rContent-Length: 48",
        "X: a\r\n\nContent-Length: 48",
    ]);
    for line in [
        "GET / HTTP/1.1\n",
        "GET / HTTP/1.1\r",
        "GET /\n",
        "GET /\rHTTP/1.1\r\n",
        "GET\n/ HTTP/1.1\r\n",
        "\nGET / HTTP/1.1\r\n",
    ] {
        assert_eq!(
            victim.statuses(format!("{line}Host: a\r\n\r\n{SMUGGLED}")),
            [400],
            "{line:?}"
        );
    }
}

// Tornado GHSA-qppv-j76h-2rpx, hyper RUSTSEC-2021-0078 (CVE-2021-32715), aiohttp CVE-2023-47627,
// Tomcat CVE-2022-42252, HAProxy CVE-2023-40225, Puma CVE-2023-40175: lengths that are no numbers
// were taken for some.
#[test]
fn a_length_that_is_no_number_is_refused() {
    let victim = Victim::new();
    for length in [
        "+48", "-48", "-0", "+0", "0x30", "0X30", "060h", "4_8", "4 8", "4\t8", "48,", ",48",
        "48;", "48.0", "4.8e1", "\"48\"", "", " ", "abc", "48\x0b", "48\0", "\u{661}", "0b110000",
        "0o60", "48\u{a0}", "1e1", "٤٨",
    ] {
        victim.refuses_heads([format!("Content-Length: {length}").as_str()]);
    }
}

// Go CVE-2015-5740, waitress CVE-2019-16792, Jetty CVE-2017-7658: of two lengths one was taken, or
// they were joined.
#[test]
fn two_lengths_are_refused_though_they_agree() {
    Victim::new().refuses_heads([
        "Content-Length: 48\r\nContent-Length: 0",
        "Content-Length: 0\r\nContent-Length: 48",
        "Content-Length: 48\r\nContent-Length: 48",
        "Content-Length: 48, 48",
        "Content-Length: 0, 48",
        "Content-Length: 48,0",
        "Content-Length:\r\nContent-Length: 48",
        "Content-Length: 48\r\ncontent-length: 48",
        "Content-Length: 0\r\nX: a\r\nContent-Length: 0",
    ]);
}

// tiny_http died of 9223372036854775807; others of what their integers could not hold.
#[test]
fn a_length_at_the_edge_of_an_integer_is_waited_for_or_refused() {
    let victim = Victim::new();
    for length in [
        "2147483647",
        "2147483648",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
    ] {
        for path in ["/", "/unread", "/forbidden"] {
            for expectation in ["", "Expect: 100-continue\r\n"] {
                let head = format!(
                    "POST {path} HTTP/1.1\r\nHost: a\r\n{expectation}Content-Length: {length}\r\n\r\n"
                );
                let statuses = victim.statuses(head.clone() + SMUGGLED);
                assert_eq!(statuses, [400], "the body has not come whole: {head}");
                // Beyond what is collected, so that the handler is called.
                let statuses = victim
                    .statuses([head.as_bytes(), &pattern(100_000), SMUGGLED.as_bytes()].concat());
                assert_eq!(statuses.len(), 1, "{head}");
            }
        }
    }
    for length in [
        "18446744073709551616",
        "18446744073709551664",
        "36893488147419103280",
        "340282366920938463463374607431768211456",
    ] {
        victim.refuses_heads([format!("Content-Length: {length}").as_str()]);
    }
    assert_eq!(victim.server.client().get("/").status, 200);
}

// nginx CVE-2013-2028, hyper RUSTSEC-2021-0079 (CVE-2021-32714), Jetty CVE-2017-7657: chunk sizes
// that overflowed.
#[test]
fn a_chunk_size_that_overflows_is_refused() {
    let sizes = [
        "10000000000000000",
        "10000000000000030",
        "fffffffffffffffff",
        "f0000000000000003",
        "00000000000000030",
        &"0".repeat(10_000),
        &"f".repeat(64),
    ];
    let victim = Victim::new();
    for size in sizes {
        victim.refuses_chunks([
            format!("{size}\r\nhello\r\n0\r\n\r\n").as_str(),
            format!("5\r\nhello\r\n{size}\r\n\r\n").as_str(),
        ]);
    }
    // The largest that fits is waited for.
    victim.refuses_chunks([
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "7fffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ]);
}

// aiohttp CVE-2023-47627, protocol-http1 CVE-2023-38697, Puma CVE-2022-24790, and most that read
// numbers with their language's own function: signs, prefixes, underscores, whitespace, nothing at
// all.
#[test]
fn a_chunk_size_is_hexadecimal_digits_and_nothing_else() {
    let victim = Victim::new();
    for size in [
        "", " ", "+5", "-5", "-0", "0x5", "0X5", "5h", "0_5", "5_", " 5", "\t5", "5 ", "5\t",
        "5\x0b", "\x0c5", "5\0", "5.", "5,5", "\"5\"", "g", "\u{ff15}", "5 5", "5=", "$5",
    ] {
        victim.refuses_chunks([
            format!("{size}\r\nhello\r\n0\r\n\r\n").as_str(),
            format!("5\r\nhello\r\n{size}\r\n\r\n").as_str(),
        ]);
    }
}

// Go CVE-2025-22871, aiohttp and others: a bare LF ended the line of a chunk's size. And the two
// bytes behind a chunk's data were skipped whatever they were.
#[test]
fn the_lines_of_chunks_end_with_cr_lf() {
    Victim::new().refuses_chunks([
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\r\n",
        "0\r\n\n",
        "0\r\n\r\r\n",
        "0\r\nX\r\n\r\n",
        "0\n\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\n\r\nhello\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
    ]);
}

// ASP.NET Core CVE-2025-55315, Netty CVE-2025-58056, aiohttp CVE-2024-52304: a line break in a
// chunk extension, which one reader took for the end of the line and another did not.
#[test]
fn a_chunk_extension_holds_no_line_break() {
    Victim::new().refuses_chunks([
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\n\r\nhello\r\n0\r\n\r\n",
        "5;a\rhello\r\n0\r\n\r\n",
        "5;a\r\r\nhello\r\n0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\\\n\"\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\r\nhello\r\n0\r\n\r\n",
        "0;a\n\r\n",
        "2;\nxx\r\n0\r\n\r\n",
    ]);
}

// Go CVE-2023-39326, Node CVE-2024-22019, Puma CVE-2024-21647: extensions of any length, read and
// dropped for ever.
#[test]
fn chunk_extensions_have_a_limit() {
    let victim = Victim::new();
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(1 << 20));
    let quoted = format!("5;a=\"{}\"\r\nhello\r\n0\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("1;{}\r\nx\r\n", "a".repeat(250)).repeat(1000) + "0\r\n\r\n";
    let semicolons = format!("5{}\r\nhello\r\n0\r\n\r\n", ";a".repeat(100_000));
    victim.refuses_chunks([long.as_str(), &quoted, &many, &semicolons]);
}

// Tomcat CVE-2023-45648 and Puma CVE-2023-40175: trailer lines that were not read as such. And what
// is smuggled into the head by way of them.
#[test]
fn trailers_smuggle_no_field_and_no_request() {
    let victim = Victim::with(|request, _| {
        let (parts, mut body) = request.into_parts();
        std::io::copy(&mut body, &mut std::io::sink()).unwrap();
        let trailers = body.take_trailers();
        let told = [
            "content-length",
            "transfer-encoding",
            "host",
            "authorization",
            "cookie",
            "connection",
            "content-type",
            "range",
        ];
        let told: Vec<_> = told
            .iter()
            .filter(|name| trailers.contains_key(**name))
            .collect();
        assert!(
            told.is_empty() && !parts.headers.contains_key("x"),
            "{told:?}"
        );
        parts.headers.len().to_string().into_response()
    });
    let head =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
    let fields = "Content-Length: 48\r\nTransfer-Encoding: gzip\r\nHost: b\r\nAuthorization: Basic eDp5\r\nCookie: a=b\r\nConnection: close\r\n\
        Content-Type: text/html\r\nRange: bytes=0-0\r\nX: y\r\n\r\n";
    assert_eq!(
        victim.statuses([head, fields, &get("/")].concat()),
        [200, 200]
    );
    victim.refuses_chunks([
        "0\r\nX: a\n\r\n",
        "0\r\nX: a\r\r\n",
        "0\r\n X: a\r\n\r\n",
        "0\r\nX : a\r\n\r\n",
        "0\r\nX: a\0\r\n\r\n",
        "0\r\n: a\r\n\r\n",
        "0\r\nX: a\r\n b\r\n\r\n",
    ]);
    // A request where a trailer section is due is a line without a name.
    assert_eq!(victim.statuses([head, SMUGGLED].concat()), [400]);
    for flood in [
        format!("X: {}\r\n\r\n", "a".repeat(1 << 20)),
        "X: a\r\n".repeat(10_000) + "\r\n",
    ] {
        assert_eq!(victim.statuses([head, &flood].concat()), [431]);
    }
}

// HAProxy CVE-2023-25725 (an empty name ended the head), and parsers that let more into a name than
// a token has.
#[test]
fn a_name_that_is_no_token_is_refused() {
    let victim = Victim::new();
    for byte in (0..=0xff_u8)
        .filter(|byte| !(byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:\r".contains(byte)))
    {
        let input = [
            b"POST / HTTP/1.1\r\nHost: a\r\nX",
            &[byte][..],
            b"Y: b\r\n\r\n",
            SMUGGLED.as_bytes(),
        ]
        .concat();
        assert_eq!(victim.statuses(input), [400], "{byte:#x}");
    }
    victim.refuses_heads([":", ": a", "X", "X\r\n: a"]);
}

// nginx CVE-2013-4547, and many log and access rules since: characters in a target that two readers
// take differently.
#[test]
fn a_target_with_whitespace_or_control_characters_is_refused() {
    let victim = Victim::new();
    for byte in (0..=0x20_u8).chain(0x7f..=0xff).chain(*b"\"<>\\`#") {
        let input = [
            b"GET /a",
            &[byte][..],
            b"/b HTTP/1.1\r\nHost: a\r\n\r\n",
            SMUGGLED.as_bytes(),
        ]
        .concat();
        assert_eq!(victim.statuses(input), [400], "{byte:#x}");
    }
    for version in [
        "HTTP/1.1 HTTP/1.1",
        "HTTP/1.32",
        "HTTP/1.1\0",
        " HTTP/1.1",
        "HTTP/1.1 ",
        "HTTP/2",
        "http/1.1",
    ] {
        assert_eq!(
            victim.statuses(format!("GET / {version}\r\nHost: a\r\n\r\n{SMUGGLED}")),
            [400],
            "{version:?}"
        );
    }
}

// Routing attacks: what the proxy routes by is not what the server goes by.
#[test]
fn there_is_one_host_and_it_is_the_targets() {
    let victim = Victim::with(|request, _| {
        let hosts: Vec<_> = request
            .headers()
            .get_all("host")
            .iter()
            .map(|host| host.to_str().unwrap())
            .collect();
        hosts.join("|").into_response()
    });
    for hosts in [
        "Host: a\r\nHost: b",
        "Host: a\r\nhost: a",
        "Host: a, b",
        "Host: a b",
        "Host: b@a",
        "Host: a/b",
        "Host : a",
        " Host: a\r\nHost: b",
        "Host: a\r\n b",
        "Host:",
        "X: a",
    ] {
        assert_eq!(
            victim.statuses(format!("GET / HTTP/1.1\r\n{hosts}\r\n\r\n{SMUGGLED}")),
            [400],
            "{hosts:?}"
        );
    }
    let mut client = victim.server.client();
    client.send("GET http://target/ HTTP/1.1\r\nHost: field\r\n\r\n");
    assert_eq!(client.read_response().text(), "target");
    for target in [
        "http://a@b/",
        "http://a:b@c/",
        "http:///",
        "http://a b/",
        "https://a/",
        "ftp://a/",
        "a:80",
        "@a",
        "*",
    ] {
        let statuses = victim.statuses(format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\n\r\n{SMUGGLED}"
        ));
        assert!(
            matches!(statuses[..], [400 | 421]),
            "{target}: {statuses:?}"
        );
    }
}

// nginx CVE-2019-20372, Apache httpd CVE-2022-22720: after an answer that came before the body, the
// body was read as a request.
#[test]
fn an_unread_body_is_never_a_request() {
    let victim = Victim::new();
    for path in ["/unread", "/forbidden"] {
        for method in ["GET", "POST", "DELETE", "OPTIONS", "QUACK"] {
            let declared = format!(
                "{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
                SMUGGLED.len()
            );
            let chunk = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
            let chunked = format!(
                "{method} {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"
            );
            for input in [declared, chunked] {
                assert_eq!(
                    victim.statuses(input.clone() + &get("/") + &input).len(),
                    3,
                    "{input:?}"
                );
            }
        }
        // Larger than what is collected or dropped, and made of nothing but requests.
        let many = SMUGGLED.repeat(50_000);
        for head in [
            format!("Content-Length: {}\r\n\r\n", many.len()),
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", many.len()),
        ] {
            assert_eq!(
                victim
                    .statuses(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{head}{many}"))
                    .len(),
                1
            );
        }
    }
}

// The 0.CL class: a client that waits for 100, a server that answers at once, and a body that comes
// all the same.
#[test]
fn a_body_behind_an_answer_in_place_of_100_is_never_a_request() {
    let victim = Victim::new();
    for framing in [
        format!("Content-Length: {}", SMUGGLED.len()),
        "Transfer-Encoding: chunked".to_owned(),
    ] {
        for expectation in ["100-continue", "y 100-continue", "100-continue, x"] {
            let mut client = victim.server.client();
            client.send(format!(
                "POST /forbidden HTTP/1.1\r\nHost: a\r\nExpect: {expectation}\r\n{framing}\r\n\r\n"
            ));
            let answer = client.read_response();
            assert!(
                matches!(answer.status, 403 | 417) && answer.closes(),
                "{answer:?}"
            );
            assert_eq!(statuses(&mut client, SMUGGLED.as_bytes()), [] as [u16; 0]);
        }
    }
    assert_eq!(victim.smuggled.load(Ordering::Relaxed), 0);
}

// Tunnels by h2c and by websockets that the server never agreed to.
#[test]
fn bytes_after_an_upgrade_are_http_or_nothing() {
    let victim = Victim::new();
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    for (behind, expected) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[200, 505][..]),
        ("\0\0\x12\x04\0\0\0\0\0", &[200, 400]),
        ("\u{81}\u{85}hello", &[200, 400]),
        ("", &[200]),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[200, 200]),
    ] {
        assert_eq!(
            victim.statuses([upgrade, behind].concat()),
            expected,
            "{behind:?}"
        );
    }
    let connect = "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(victim.statuses([connect, SMUGGLED].concat()), [501]);
}

// gunicorn CVE-2018-1000164, hyper RUSTSEC-2017-0002, Node CVE-2016-2216: line breaks in what a
// handler sets.
#[test]
fn no_handler_can_split_a_response() {
    for text in [
        "a\r\nX-Evil: b",
        "a\nX-Evil: b",
        "a\rX-Evil: b",
        "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "a\0b",
    ] {
        assert!(
            HeaderValue::from_str(text).is_err()
                && HeaderValue::from_bytes(text.as_bytes()).is_err(),
            "{text:?}"
        );
        assert!(HeaderName::from_bytes(text.as_bytes()).is_err(), "{text:?}");
        assert!(
            HttpResponse::builder()
                .header("x", text)
                .body(Body::empty())
                .is_err(),
            "{text:?}"
        );
    }
    // There is no way to set a reason phrase. What can be set goes out as one line: U+010A has an
    // LF only for who cuts it.
    let victim = Victim::with(|_, _| {
        let value = HeaderValue::from_bytes("\u{10a}\u{10d}".as_bytes()).unwrap();
        let status = StatusCode::from_u16(299).unwrap();
        (status, ([(HeaderName::from_static("x"), value)], "hi")).into_response()
    });
    let mut client = victim.server.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let (bytes, end) = client.drain();
    assert_eq!(end, End::Eof);
    assert!(bytes.starts_with(b"HTTP/1.1 299 \r\n"));
    let lines = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\r"))
        .count();
    assert_eq!(
        lines,
        bytes.iter().filter(|byte| **byte == b'\n').count(),
        "{}",
        bytes.escape_ascii()
    );
}

// A response whose length is not its body's makes the client read the rest as the next response, or
// wait for ever.
#[test]
fn a_length_that_a_handler_declares_is_its_bodys_or_500() {
    for (length, expected) in [
        ("2", 200),
        ("1", 500),
        ("3", 500),
        ("+2", 500),
        ("2, 2", 500),
        ("", 500),
        ("18446744073709551618", 500),
    ] {
        let victim = Victim::with(move |_, _| {
            ([(CONTENT_LENGTH, HeaderValue::from_static(length))], "hi").into_response()
        });
        assert_eq!(
            victim.statuses(get("/") + &get("/")),
            [expected, expected],
            "{length:?}"
        );
    }
}

// Slowloris and its kin by size: Node CVE-2018-12121, Go CVE-2023-24534, and every server without a
// limit.
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

#[cfg(all(feature = "cli", target_os = "linux"))]
mod memory {
    use super::*;
    use support::child::Program;

    /// The most memory that a process has had, in KiB.
    fn peak(demo: &Program) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", demo.pid().as_raw_nonzero()))
                .unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        line.split_ascii_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    }

    // Servers that make room for what a client says it will send.
    #[test]
    fn nothing_is_allocated_for_what_is_only_declared() {
        let demo = Program::demo(&[]);
        assert_eq!(demo.client().get("/plaintext").status, 200);
        let before = peak(&demo);
        let mut clients = Vec::new();
        for framing in [
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
            assert_eq!(client.read_response().status, 400);
        }
        let grown = peak(&demo) - before;
        assert!(grown < 16 << 10, "{grown} KiB for 200 bodies of 5 bytes");
    }

    #[test]
    fn heads_that_never_end_cost_their_limit_and_no_more() {
        let demo = Program::demo(&[]);
        assert_eq!(demo.client().get("/plaintext").status, 200);
        let before = peak(&demo);
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
        let grown = peak(&demo) - before;
        assert!(
            grown < 200 * 128 + (8 << 10),
            "{grown} KiB for 200 heads of 60 kB"
        );
        drop(clients);
    }
}

// A flood of resets: each must be counted and leave nothing behind.
#[test]
fn a_storm_of_resets_leaves_nothing_behind() {
    const STORM: usize = 1500;
    // The descriptors and threads of this process are counted, so this test has it to itself.
    if std::env::var_os("LAMEDUCK_STORM").is_none() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "a_storm_of_resets_leaves_nothing_behind",
                "--nocapture",
            ])
            .env("LAMEDUCK_STORM", "1");
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
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
