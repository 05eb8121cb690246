//! Where a request's body ends: RFC 9112 sections 6 to 8, RFC 9110 sections 6.5 and 8.6.

use lameduck::IntoResponse;

use crate::{METHODS, NEXT, Suite, chunked, post, request, seen, statuses};

/// Returns the body that a handler saw, and its trailer fields.
#[track_caller]
fn body(suite: &Suite, input: impl AsRef<[u8]>) -> String {
    let answer = suite.accepted(input);
    let seen = answer.text();
    seen[seen.find("body ").unwrap() + "body ".len()..]
        .replace('\n', " ")
        .trim()
        .to_owned()
}

#[test]
fn a_declared_length_is_the_body() {
    let suite = Suite::new();
    assert_eq!(
        body(&suite, post("Content-Length: 5\r\n", "hello")),
        "hello"
    );
    assert_eq!(body(&suite, post("Content-Length: 0\r\n", "")), "");
    // Whitespace around the value is no part of it, and zeros before it are digits.
    for length in ["05", "0000000000000000000000005", "  5", "5  ", "\t5\t"] {
        assert_eq!(
            body(
                &suite,
                post(&format!("Content-Length: {length}\r\n"), "hello")
            ),
            "hello",
            "{length:?}"
        );
    }
}

#[test]
fn without_a_length_there_is_no_body() {
    let suite = Suite::new();
    for method in METHODS.iter().filter(|method| *method != "HEAD") {
        assert_eq!(
            body(&suite, request(&format!("{method} /"), "")),
            "",
            "{method}"
        );
        assert_eq!(
            body(
                &suite,
                request(&format!("{method} /"), "Content-Type: text/plain\r\n")
            ),
            "",
            "{method}"
        );
    }
}

#[test]
fn the_body_of_any_method_is_read_and_is_not_the_next_request() {
    let suite = Suite::new();
    let smuggled = request("GET /smuggled", "");
    for path in ["/", "/unread"] {
        for method in METHODS.iter().filter(|method| *method != "HEAD") {
            let fields = format!("Content-Length: {}\r\n", smuggled.len());
            let answer = suite.accepted(request(&format!("{method} {path}"), &fields) + &smuggled);
            assert!(
                path == "/unread" || answer.text().contains("smuggled"),
                "{method}: {answer:?}"
            );
            let chunk = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
            suite.accepted(
                request(
                    &format!("{method} {path}"),
                    "Transfer-Encoding: chunked\r\n",
                ) + &chunk,
            );
        }
    }
    let mut client = suite.client();
    client.send(request("HEAD /", &format!("Content-Length: {}\r\n", smuggled.len())) + &smuggled);
    assert_eq!(client.read_response_to_head().status, 200);
    client.send(NEXT);
    assert!(client.read_response().text().starts_with("GET /next"));
}

#[test]
fn a_length_that_is_not_digits_is_refused() {
    let suite = Suite::new();
    for length in [
        "",
        " ",
        "abc",
        "+5",
        "-5",
        "-0",
        "+0",
        "0x5",
        "0X5",
        "5h",
        "0o5",
        "0b1",
        "5_0",
        "1_000",
        "5 0",
        "5\t0",
        "5.0",
        "5.",
        ".5",
        "5e0",
        "5,",
        ",5",
        "5;",
        "5;q=1",
        "\"5\"",
        "'5'",
        "(5)",
        "#5",
        "5\u{a0}",
        "\u{661}",
        "five",
        "NaN",
        "inf",
        "true",
        "*",
        "-123456789123456789123456789",
    ] {
        suite.refused(post(&format!("Content-Length: {length}\r\n"), "hello"), 400);
        suite.refused(
            request("GET /", &format!("Content-Length: {length}\r\n")),
            400,
        );
    }
}

#[test]
fn a_length_beyond_64_bits_is_refused() {
    let suite = Suite::new();
    for length in [
        "18446744073709551616",
        "18446744073709551621",
        "99999999999999999999",
        "36893488147419103237",
        &"9".repeat(1000),
    ] {
        suite.refused(post(&format!("Content-Length: {length}\r\n"), "hello"), 400);
    }
}

#[test]
fn more_than_one_length_is_refused() {
    let suite = Suite::new();
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 0\r\n",
        "Content-Length: 0\r\ncontent-length: 5\r\n",
        "Content-Length: 5\r\nX: a\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5,5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length:\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length:\r\n",
        "Content-Length: 5\r\nContent-Length: +5\r\n",
    ] {
        suite.refused(post(fields, "hello"), 400);
    }
}

#[test]
fn a_coding_and_a_length_are_refused() {
    let suite = Suite::new();
    for coding in [
        "chunked",
        "Chunked",
        "identity",
        "gzip",
        "",
        "xchunked",
        "gzip, chunked",
        "chunked, chunked",
        "chunked ",
    ] {
        for length in ["0", "5", "6", "", "x"] {
            let (coding, length) = (
                format!("Transfer-Encoding: {coding}\r\n"),
                format!("Content-Length: {length}\r\n"),
            );
            suite.refused(post(&(coding.clone() + &length), "0\r\n\r\n"), 400);
            suite.refused(post(&(length + &coding), "0\r\n\r\n"), 400);
        }
    }
}

#[test]
fn chunked_in_any_case_is_the_one_coding_there_is() {
    let suite = Suite::new();
    for coding in [
        "chunked",
        "Chunked",
        "CHUNKED",
        "cHuNkEd",
        "  chunked",
        "chunked\t ",
    ] {
        let fields = format!("Transfer-Encoding: {coding}\r\n");
        assert_eq!(
            body(&suite, post(&fields, "5\r\nhello\r\n0\r\n\r\n")),
            "hello",
            "{coding:?}"
        );
    }
}

#[test]
fn an_unknown_coding_is_501() {
    let suite = Suite::new();
    for coding in [
        "gzip, chunked",
        "identity, chunked",
        "x-duck,chunked",
        "gzip\r\nTransfer-Encoding: chunked",
        "deflate , gzip ,\tchunked",
    ] {
        suite.refused(
            post(&format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n"),
            501,
        );
    }
}

#[test]
fn a_coding_that_does_not_end_with_chunked_is_refused() {
    let suite = Suite::new();
    for coding in [
        "gzip",
        "identity",
        "chunked, gzip",
        "chunked, identity",
        "xchunked",
        "chunkedx",
        "x-chunked",
        "chunk",
        "chunke",
        "c hunked",
        "chunked\r\nTransfer-Encoding: gzip",
        "chunked\r\nTransfer-Encoding: identity",
        "none",
        "0",
    ] {
        suite.refused(
            post(&format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n"),
            400,
        );
    }
}

#[test]
fn chunked_twice_is_refused() {
    let suite = Suite::new();
    for coding in [
        "chunked, chunked",
        "chunked,chunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nX: a\r\ntransfer-encoding: Chunked",
    ] {
        suite.refused(
            post(&format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n"),
            400,
        );
    }
}

#[test]
fn a_coding_that_is_no_token_is_refused() {
    let suite = Suite::new();
    for coding in [
        "",
        " ",
        ",",
        "chunked,",
        ",chunked",
        "chunked, ,",
        "\"chunked\"",
        "'chunked",
        "chunked;q=1",
        "chunked;",
        "chunked; a=b",
        "chunked=1",
        "chunked/1",
        "(chunked)",
        "[chunked]",
        "chunked\u{a0}",
        "\u{85}chunked",
        "chunked\x0b",
        "\x0bchunked",
        "\x0cchunked",
        "chunked\0",
        "chun\x08ked",
        "chunked\r\nTransfer-Encoding:",
        "chunked chunked",
        "chunked gzip",
        "chunKed\u{212a}",
    ] {
        suite.refused(
            post(&format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n"),
            400,
        );
    }
    for line in [
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chun\rked",
        "Transfer-Encoding: chunked\r",
        "Transfer\u{2010}Encoding: chunked",
        "Transfer Encoding: chunked",
        "Transfer-Encoding\0: chunked",
        "X: a\nTransfer-Encoding: chunked",
        "X: a\rTransfer-Encoding: chunked",
        "Transfer-Encoding\x0b: chunked",
    ] {
        suite.refused(post(&format!("{line}\r\n"), "0\r\n\r\n"), 400);
    }
}

#[test]
fn a_field_that_only_looks_like_a_framing_field_frames_nothing() {
    let suite = Suite::new();
    for field in [
        "Transfer_Encoding: chunked",
        "Content_Length: 5",
        "X-Content-Length: 5",
        "Transfer-Encodin: chunked",
        "TransferEncoding: chunked",
        "Content-Length2: 5",
    ] {
        assert_eq!(
            body(&suite, post(&format!("{field}\r\n"), "")),
            "",
            "{field}"
        );
    }
}

#[test]
fn a_coding_in_http_1_0_is_refused() {
    let suite = Suite::new();
    for fields in [
        "",
        "Connection: keep-alive\r\n",
        "Content-Length: 5\r\n",
        "Host: a\r\n",
    ] {
        for coding in ["chunked", "identity", "gzip, chunked", ""] {
            let head = format!("POST / HTTP/1.0\r\n{fields}Transfer-Encoding: {coding}\r\n\r\n");
            suite.refused(head + "5\r\nhello\r\n0\r\n\r\n", 400);
        }
    }
}

#[test]
fn chunks_are_decoded() {
    let suite = Suite::new();
    let sixteen = "0123456789abcdef";
    for (chunks, expected) in [
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world"),
        ("1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n", "abc"),
        ("0\r\n\r\n", ""),
        (
            "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
            "01234567890123456789",
        ),
        ("05\r\nhello\r\n00\r\n\r\n", "hello"),
        (
            "0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n",
            "hello",
        ),
        (&format!("10\r\n{sixteen}\r\n0\r\n\r\n"), sixteen),
        ("7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", "\\r\\n0\\r\\n\\r\\n"),
    ] {
        assert_eq!(
            body(&suite, chunked(chunks)),
            expected,
            "{}",
            chunks.escape_debug()
        );
    }
}

#[test]
fn a_chunk_size_that_is_not_hexadecimal_digits_is_refused() {
    let suite = Suite::new();
    for size in [
        "", " 5", "\t5", "5 ", "5\t", "+5", "-5", "-0", "0x5", "0X5", "x5", "5h", "5_0", "_5",
        "5.0", "5,", "\"5\"", "g", "five", "5 5", "\x0b5", "\u{665}", "\u{ff15}", "5\u{a0}", "5\0",
        "\x005", "5=5", "5:", "5/", "(5)", "#5", "5-", "5+",
    ] {
        suite.refused(chunked(format!("{size}\r\nhello\r\n0\r\n\r\n")), 400);
        suite.refused(
            chunked(format!("5\r\nhello\r\n{size}\r\nhello\r\n0\r\n\r\n")),
            400,
        );
    }
}

#[test]
fn a_chunk_size_beyond_64_bits_is_refused() {
    let suite = Suite::new();
    for size in [
        "10000000000000000",
        "10000000000000005",
        "fffffffffffffffff",
        "00000000000000005",
        "ffffffffffffffffffffffffffffffff",
        &"f".repeat(1000),
    ] {
        suite.refused(chunked(format!("{size}\r\nhello\r\n0\r\n\r\n")), 400);
    }
    // The server waits for a chunk of the largest size, and allocates no memory before it comes.
    let answers = suite.answers(chunked("ffffffffffffffff\r\nhello\r\n0\r\n\r\n"));
    assert_eq!(statuses(&answers), [400]);
}

#[test]
fn the_data_of_a_chunk_is_as_long_as_its_size_says() {
    let suite = Suite::new();
    for body in [
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello \r\n0\r\n\r\n",
        "5\r\nhelloXX\r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nhello",
        "0\r\nhello\r\n\r\n",
    ] {
        suite.refused(chunked(body), 400);
    }
}

#[test]
fn chunk_extensions_are_ignored() {
    let suite = Suite::new();
    for extension in [
        ";a",
        ";a=b",
        ";a=\"b\"",
        ";a;b=c;d=\"e\"",
        " ;a",
        "\t;\ta",
        ";a =b",
        ";a= b",
        " ; a = b ; c",
        ";a=\"b;c\\\"d\"",
        ";a=\"\"",
        ";a=\"\u{e4}\"",
        &format!(";{}", "a".repeat(200)),
    ] {
        let body_of = chunked(format!("5{extension}\r\nhello\r\n0{extension}\r\n\r\n"));
        assert_eq!(body(&suite, body_of), "hello", "{extension}");
    }
}

#[test]
fn a_malformed_chunk_extension_is_refused() {
    let suite = Suite::new();
    for extension in [
        ";",
        "; ",
        ";;a",
        ";=a",
        ";a=",
        ";a=;b",
        ";a=\"b",
        ";a=\"b\rc\"",
        ";a=\"b\nc\"",
        ";a=\"b\r\nc\"",
        ";a\rb",
        ";a\nb",
        ";a\0",
        ";a=\0",
        ";a=b c",
        ";a b",
        " a",
        ";\x7f",
        ";a=\"\x01\"",
        ";a[]",
        ";\u{e4}=a",
        "=a",
        ";a=b\"c\"",
        ";a\r",
        ";a \r",
    ] {
        suite.refused(chunked(format!("5{extension}\r\nhello\r\n0\r\n\r\n")), 400);
    }
}

#[test]
fn chunk_extensions_without_end_are_refused() {
    let suite = Suite::new();
    suite.refused(
        chunked(format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(1000))),
        400,
    );
    suite.refused(chunked(format!("5;{}", "a".repeat(1 << 20))), 400);
    let chunk = format!("1;{}\r\nx\r\n", "a".repeat(200));
    suite.refused(chunked(chunk.repeat(200) + "0\r\n\r\n"), 400);
}

#[test]
fn trailer_fields_are_kept_apart_from_the_head() {
    let suite = Suite::new();
    let input = chunked("5\r\nhello\r\n0\r\nChecksum: abc\r\nx:  y \r\n\r\n");
    assert_eq!(
        body(&suite, input),
        "hello trailer checksum: abc trailer x: y"
    );
    assert_eq!(
        body(&suite, chunked("0\r\nX: a\r\nX: b\r\n\r\n")),
        "trailer x: a trailer x: b"
    );
}

#[test]
fn trailer_fields_that_frame_route_or_authorize_are_dropped() {
    let suite = Suite::new();
    for field in [
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Host: evil",
        "Connection: close",
        "Authorization: Basic eDp5",
        "Cookie: a=b",
        "Content-Type: text/html",
        "Content-Encoding: gzip",
        "Content-Range: bytes 0-1/2",
        "Trailer: X",
        "TE: trailers",
        "Expect: 100-continue",
        "Range: bytes=0-1",
        "If-Match: *",
        "Cache-Control: no-store",
        "Max-Forwards: 0",
        "Upgrade: h2c",
        "Keep-Alive: timeout=5",
        "Proxy-Authorization: Basic eDp5",
        "content-length: 5",
    ] {
        assert_eq!(
            body(
                &suite,
                chunked(format!("5\r\nhello\r\n0\r\n{field}\r\nX: y\r\n\r\n"))
            ),
            "hello trailer x: y",
            "{field}"
        );
    }
}

#[test]
fn a_malformed_trailer_section_is_refused() {
    let suite = Suite::new();
    for trailers in [
        "X\r\n\r\n",
        "X : a\r\n\r\n",
        ": a\r\n\r\n",
        " X: a\r\n\r\n",
        "X: a\r\n b\r\n\r\n",
        "X: a\0\r\n\r\n",
        "X: a\rb\r\n\r\n",
        "X: a\nb\r\n\r\n",
        "X[]: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "X: a\r\n\n",
        "X: \x7f\r\n\r\n",
        "\u{e4}: a\r\n\r\n",
    ] {
        suite.refused(chunked(format!("5\r\nhello\r\n0\r\n{trailers}")), 400);
    }
    suite.refused(
        chunked("0\r\n".to_owned() + &"X: a\r\n".repeat(40) + "\r\n"),
        431,
    );
    suite.refused(
        chunked(format!("0\r\nX: {}\r\n\r\n", "a".repeat(10_000))),
        431,
    );
}

#[test]
fn a_body_that_ends_early_is_incomplete() {
    let suite = Suite::new();
    for input in [
        post("Content-Length: 10\r\n", "hello"),
        post("Content-Length: 1\r\n", ""),
        post("Transfer-Encoding: chunked\r\n", ""),
        post("Transfer-Encoding: chunked\r\n", "5\r\nhel"),
        post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
        post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n"),
        post("Transfer-Encoding: chunked\r\n", "0\r\nX: a\r\n"),
    ] {
        let answers = suite.answers(&input);
        assert_eq!(statuses(&answers), [400], "{input:?}");
        assert!(answers[0].closes());
    }
    // The body is longer than what is collected, so the handler was called and gets an error.
    let suite = Suite::with(|request, _| seen(request));
    let answers = suite.answers(post("Content-Length: 1000000\r\n", &"a".repeat(100_000)));
    assert_eq!(statuses(&answers), [400]);
    assert!(answers[0].closes());
    // A head without its end is no request, and gets no answer.
    assert!(suite.answers("GET / HTTP/1.1\r\nHost: a\r\n").is_empty());
}

#[test]
fn a_large_body_arrives_complete_in_either_framing() {
    let suite = Suite::with(|request, _| {
        let mut body = request.into_body();
        std::io::copy(&mut body, &mut std::io::sink())
            .map_or_else(|error| error.to_string(), |n| n.to_string())
            .into_response()
    });
    let mut client = suite.client();
    for _ in 0..2 {
        client.send(crate::support::post("/", &crate::support::pattern(1 << 20)));
        assert_eq!(client.read_response().text(), (1 << 20).to_string());
        client.send(crate::support::post_chunked(
            "/",
            &[&crate::support::pattern(1 << 20), b"x"],
        ));
        assert_eq!(client.read_response().text(), ((1 << 20) + 1).to_string());
    }
}
