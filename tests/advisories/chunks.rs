//! Where a chunk ends: sizes, line ends, extensions and trailers are read to the letter, and have a
//! limit.

use lameduck::IntoResponse;

use super::support::get;
use super::{SMUGGLED, Victim};

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
    // The server waits for a chunk of the largest size that fits, whose data does not come.
    victim.refuses_chunks([
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "7fffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ]);
}

// aiohttp CVE-2023-47627, protocol-http1 CVE-2023-38697, Puma CVE-2022-24790, and most servers that
// read numbers with their language's own function: they took signs, prefixes, underscores,
// whitespace or an empty text.
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

// Go CVE-2025-22871, aiohttp and others: a bare LF ended the line of a chunk's size, or the two
// bytes that follow a chunk's data were skipped whatever they were.
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

// Go CVE-2023-39326, Node CVE-2024-22019, Puma CVE-2024-21647: extensions of any length were read
// and dropped, without end.
#[test]
fn chunk_extensions_have_a_limit() {
    let victim = Victim::new();
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(1 << 20));
    let quoted = format!("5;a=\"{}\"\r\nhello\r\n0\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("1;{}\r\nx\r\n", "a".repeat(250)).repeat(1000) + "0\r\n\r\n";
    let semicolons = format!("5{}\r\nhello\r\n0\r\n\r\n", ";a".repeat(100_000));
    victim.refuses_chunks([long.as_str(), &quoted, &many, &semicolons]);
}

// Tomcat CVE-2023-45648 and Puma CVE-2023-40175: trailer lines were not read as such, or their
// fields were smuggled into the head.
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
