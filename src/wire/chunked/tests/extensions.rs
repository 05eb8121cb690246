//! Chunk extensions, which are checked and skipped.

use super::*;

#[test]
fn extensions_are_skipped() {
    for extensions in [
        ";a",
        ";a=b",
        ";a=\"b\"",
        ";a=\"\"",
        ";a=\"\\\"\"",
        ";a=\"b;c=d, \t\\\\\u{e4}\"",
        ";a;b=c;d=\"e\";f",
        " ;a",
        "\t ; a",
        "; a = b ; c\t=\t\"d\" ;e",
        ";a=\"0;\" ;b",
    ] {
        check(
            format!("5{extensions}\r\nhello\r\n0{extensions}\r\n\r\nGET"),
            Ok(("hello", "GET")),
        );
    }
}

#[test]
fn malformed_extensions_are_refused() {
    for extensions in [
        ";",
        " ",
        "\t",
        " ;",
        ";;a",
        ";a=",
        ";a ",
        ";a= ",
        ";a=b ",
        ";a=b c",
        ";=b",
        ";a==b",
        ";a=b=c",
        ";a=\"b",
        ";a=\"b\"c",
        ";a=\"b\\",
        ";a\"b\"",
        ";\"a\"=b",
        " a",
        " 0",
        ";a b",
        ";a,b",
        ";a=\0",
        ";a=\"\0\"",
        ";a=\"\\\0\"",
        ";\u{e4}",
        ";a=\x7f",
    ] {
        check(
            format!("5{extensions}\r\nhello\r\n0\r\n\r\n"),
            Err(EXTENSION),
        );
    }
}

#[test]
fn the_extensions_of_a_line_have_a_limit() {
    let limits = Limits {
        max_chunk_extension_bytes: 8,
        ..Limits::default()
    };
    let check = |extensions, expected| {
        let input = format!("5{extensions}\r\nhello\r\n0{extensions}\r\n\r\n");
        check_framing(Framing::Chunked, &limits, input, expected);
    };
    check(" ;a=bcde", Ok(("hello", "")));
    check(" ;a=bcdef", Err(EXTENSIONS_TOO_LONG));
    check(";a=\"bcde\"", Err(EXTENSIONS_TOO_LONG));
}

#[test]
fn the_extensions_of_a_body_have_a_limit() {
    let limits = Limits {
        max_chunk_extensions_bytes: 8,
        ..Limits::default()
    };
    let check = |input, expected| check_framing(Framing::Chunked, &limits, input, expected);
    check("1;abc\r\nx\r\n1;abc\r\ny\r\n0\r\n\r\n", Ok(("xy", "")));
    check(
        "1;abc\r\nx\r\n1;abc\r\ny\r\n0;a\r\n\r\n",
        Err(EXTENSIONS_TOO_LONG),
    );
}

#[test]
fn by_default_there_are_256_bytes_a_line_and_16_kib_a_body() {
    let decode = |input: String| {
        decode(
            Framing::Chunked,
            &Limits::default(),
            &[input.as_bytes()],
            64,
        )
    };
    let line = format!("1;{}\r\nx\r\n", "a".repeat(255));
    let end = "0\r\n\r\n";
    assert_eq!(
        decode(line.repeat(64) + end),
        Ok((b"x".repeat(64), Vec::new()))
    );
    assert_eq!(decode(line.repeat(65) + end), Err(EXTENSIONS_TOO_LONG));
    assert_eq!(
        decode(line.replace("\r\nx", "a\r\nx") + end),
        Err(EXTENSIONS_TOO_LONG)
    );
}
