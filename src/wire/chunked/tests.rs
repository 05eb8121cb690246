use super::*;

/// Decodes a chunked body whole, cut in two at each byte, and byte by byte into an output of one
/// byte, and expects the same each time: the body and what of the input is not part of it, or a
/// refusal.
#[track_caller]
fn check(input: impl AsRef<[u8]>, expected: Result<(&str, &str), Refusal>) {
    check_framing(Framing::Chunked, &Limits::default(), input, expected);
}

#[track_caller]
fn check_framing(
    framing: Framing,
    limits: &Limits,
    input: impl AsRef<[u8]>,
    expected: Result<(&str, &str), Refusal>,
) {
    let input = input.as_ref();
    let expected =
        expected.map(|(body, rest)| (body.as_bytes().to_vec(), rest.as_bytes().to_vec()));
    let text = input.escape_ascii();
    assert_eq!(
        decode(framing, limits, &[input], 64),
        expected,
        "whole: {text}"
    );
    for cut in 0..=input.len() {
        let (first, second) = input.split_at(cut);
        assert_eq!(
            decode(framing, limits, &[first, second], 64),
            expected,
            "cut at {cut}: {text}"
        );
    }
    let bytes: Vec<_> = input.chunks(1).collect();
    assert_eq!(
        decode(framing, limits, &bytes, 1),
        expected,
        "byte by byte: {text}"
    );
    assert_eq!(
        decode(framing, limits, &[input], 1),
        expected,
        "to one byte of output: {text}"
    );
}

/// Decodes a body that arrives in these parts, and returns it and what is left of the input.
fn decode(
    framing: Framing,
    limits: &Limits,
    parts: &[&[u8]],
    room: usize,
) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
    let mut decoder = Decoder::new(framing, limits);
    let (mut input, mut body) = (Vec::new(), Vec::new());
    for part in parts {
        input.extend_from_slice(part);
        loop {
            let mut output = vec![0; room];
            let Decoded { consumed, produced } =
                decoder.decode(&input, &mut output).inspect_err(|refusal| {
                    assert_eq!(
                        decoder.decode(b"0\r\n\r\n", &mut [0]),
                        Err(*refusal),
                        "a refused body stays refused"
                    );
                })?;
            body.extend_from_slice(&output[..produced]);
            input.drain(..consumed);
            if consumed == 0 {
                assert!(
                    input.is_empty() || decoder.is_done(),
                    "the decoder is stuck at {}",
                    input.escape_ascii()
                );
                break;
            }
        }
    }
    Ok(if decoder.is_done() {
        (body, input)
    } else {
        (body, b"(incomplete)".to_vec())
    })
}

const INCOMPLETE: &str = "(incomplete)";

mod lengths {
    use super::*;

    #[test]
    fn a_body_ends_where_its_length_says() {
        check_framing(
            Framing::Length(5),
            &Limits::default(),
            "helloGET",
            Ok(("hello", "GET")),
        );
        check_framing(
            Framing::Length(5),
            &Limits::default(),
            "hell",
            Ok(("hell", INCOMPLETE)),
        );
    }

    #[test]
    fn an_empty_body_is_done_at_once() {
        for framing in [Framing::Empty, Framing::Length(0)] {
            assert!(Decoder::new(framing, &Limits::default()).is_done());
            check_framing(framing, &Limits::default(), "GET", Ok(("", "GET")));
        }
    }

    #[test]
    fn a_body_until_the_connection_closes_is_never_done() {
        check_framing(
            Framing::UntilClose,
            &Limits::default(),
            "hello",
            Ok(("hello", INCOMPLETE)),
        );
    }

    #[test]
    fn what_remains_is_known_for_a_declared_length_alone() {
        let mut decoder = Decoder::new(Framing::Length(u64::MAX), &Limits::default());
        assert_eq!(
            decoder.decode(b"hello", &mut [0; 3]),
            Ok(Decoded {
                consumed: 3,
                produced: 3
            })
        );
        assert_eq!(decoder.remaining(), Some(u64::MAX - 3));
        assert_eq!(
            Decoder::new(Framing::Empty, &Limits::default()).remaining(),
            Some(0)
        );
        assert_eq!(
            Decoder::new(Framing::Chunked, &Limits::default()).remaining(),
            None
        );
    }
}

mod chunks {
    use super::*;

    #[test]
    fn a_body_is_put_together_from_its_chunks() {
        check(
            "5\r\nhello\r\n1\r\n,\r\n6\r\n world\r\n0\r\n\r\nGET",
            Ok(("hello, world", "GET")),
        );
    }

    #[test]
    fn a_body_may_be_empty() {
        check("0\r\n\r\n", Ok(("", "")));
        check("000\r\n\r\n\r\n", Ok(("", "\r\n")));
    }

    #[test]
    fn sizes_are_hexadecimal() {
        let data = "x".repeat(0x1a);
        for size in ["1a", "1A", "001a", "000000000000001a"] {
            check(format!("{size}\r\n{data}\r\n0\r\n\r\n"), Ok((&data, "")));
        }
    }

    #[test]
    fn data_may_look_like_framing() {
        check("7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", Ok(("\r\n0\r\n\r\n", "")));
    }

    #[test]
    fn the_largest_size_there_is_allocates_nothing() {
        check("ffffffffffffffff\r\nhello", Ok(("hello", INCOMPLETE)));
    }

    #[test]
    fn the_end_is_reached_without_room_for_output() {
        let mut decoder = Decoder::new(Framing::Chunked, &Limits::default());
        let input = b"2;a=b\r\nhi\r\n0\r\nA: b\r\n\r\nGET";
        assert_eq!(
            decoder.decode(input, &mut []),
            Ok(Decoded {
                consumed: 7,
                produced: 0
            })
        );
        assert_eq!(
            decoder.decode(&input[7..], &mut [0; 2]),
            Ok(Decoded {
                consumed: 15,
                produced: 2
            })
        );
        assert!(decoder.is_done());
    }

    #[test]
    fn a_size_is_hexadecimal_digits_and_nothing_else() {
        for size in [
            "", "+5", "-5", "0x5", "5h", "5_0", "x", " 5", "\t5", "\"5\"", "5.0", "\r", ";a=b",
            "\u{b2}", "\0", "G",
        ] {
            check(format!("{size}\r\nhello\r\n0\r\n\r\n"), Err(SIZE));
        }
    }

    #[test]
    fn a_size_that_does_not_fit_is_refused() {
        check("10000000000000000\r\n", Err(SIZE_TOO_LARGE));
        check("00000000000000005\r\nhello", Err(SIZE_TOO_LARGE));
        check("fffffffffffffffff\r\n", Err(SIZE_TOO_LARGE));
    }

    #[test]
    fn lf_alone_ends_no_line() {
        check("5\nhello\r\n0\r\n\r\n", Err(LINE_END));
        check("5;a\nhello\r\n0\r\n\r\n", Err(LINE_END));
        check("5;a=\"\nhello\r\n0\r\n\r\n", Err(LINE_END));
        check("\n", Err(LINE_END));
        check("0\r\n\n", Err(LINE_END));
        check("0\r\nA: b\n\r\n", Err(LINE_END));
    }

    #[test]
    fn cr_alone_ends_no_line() {
        check("5\rhello\r\n0\r\n\r\n", Err(LINE_END));
        check("5\r\r\nhello\r\n0\r\n\r\n", Err(LINE_END));
        check("5;a\rhello\r\n0\r\n\r\n", Err(LINE_END));
        check("5;a=\"\r\"\r\nhello\r\n0\r\n\r\n", Err(EXTENSION));
        check("0\r\n\rG", Err(LINE_END));
        check("0\r\nA: b\rC: d\r\n\r\n", Err(LINE_END));
    }

    #[test]
    fn data_longer_or_shorter_than_its_size_is_refused() {
        check("4\r\nhello\r\n0\r\n\r\n", Err(DATA_END));
        check("5\r\nhello0\r\n\r\n", Err(DATA_END));
        check("5\r\nhello\n0\r\n\r\n", Err(DATA_END));
        check("5\r\nhello\rX", Err(DATA_END));
        check("6\r\nhello\r\n0\r\n\r\n", Err(DATA_END));
    }

    #[test]
    fn what_is_not_complete_waits() {
        let whole = "5\r\nhello\r\n0;a=\"b\"\r\nA: b\r\n\r\n";
        for len in 0..whole.len() {
            let body = &"hello"[..len.saturating_sub(3).min(5)];
            check(&whole[..len], Ok((body, INCOMPLETE)));
        }
        check(whole, Ok(("hello", "")));
    }
}

mod extensions {
    use super::*;

    #[test]
    fn extensions_are_passed_over() {
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
    fn a_line_has_so_many_bytes_of_them() {
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
    fn a_body_has_so_many_bytes_of_them() {
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
}

mod trailers {
    use super::*;

    /// Expects these fields, in order, after a body with this trailer section.
    #[track_caller]
    fn check_fields(section: &str, expected: &[(&str, &str)]) {
        let input = format!("5\r\nhello\r\n0\r\n{section}\r\n");
        check(format!("{input}GET"), Ok(("hello", "GET")));
        let mut decoder = Decoder::new(Framing::Chunked, &Limits::default());
        decoder.decode(input.as_bytes(), &mut [0; 5]).unwrap();
        let trailers = decoder.take_trailers();
        let fields: Vec<_> = trailers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(fields, expected);
        assert!(decoder.take_trailers().is_empty());
    }

    /// Expects a trailer section to be refused.
    #[track_caller]
    fn check_refused(section: &str, status: u16, reason: &str) {
        let mut decoder = Decoder::new(Framing::Chunked, &Limits::default());
        let refusal = decoder
            .decode(format!("0\r\n{section}\r\n").as_bytes(), &mut [])
            .unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.reason), (status, reason));
        check(format!("0\r\n{section}\r\n"), Err(refusal));
    }

    #[test]
    fn fields_after_the_body_are_handed_out() {
        check_fields("", &[]);
        check_fields(
            "Digest: abc\r\nX:\tone \r\nX: two\r\nY:\r\n",
            &[("digest", "abc"), ("x", "one"), ("x", "two"), ("y", "")],
        );
    }

    #[test]
    fn fields_that_belong_before_the_body_are_dropped() {
        check_fields(
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\nHOST: evil\r\nX: kept\r\nConnection: close\r\n\
             Authorization: me\r\nTrailer: X\r\nContent-Type: a/b\r\nExpect: 100-continue\r\n",
            &[("x", "kept")],
        );
    }

    #[test]
    fn malformed_fields_are_refused() {
        check_refused(" A: b\r\n", 400, "a field line begins with whitespace");
        check_refused("A: b\r\n c\r\n", 400, "a field line begins with whitespace");
        check_refused(
            "A : b\r\n",
            400,
            "whitespace between a field name and its colon",
        );
        check_refused("A\r\n", 400, "a field line without a colon");
        check_refused(": b\r\n", 400, "a field name is not a token");
        check_refused(
            "A: \0\r\n",
            400,
            "a control character in the trailer section",
        );
        check_refused(
            "A\x7f: b\r\n",
            400,
            "a control character in the trailer section",
        );
    }

    #[test]
    fn a_request_smuggled_as_trailer_is_refused() {
        check_refused(
            "GET /admin HTTP/1.1\r\nHost: a\r\n",
            400,
            "a field line without a colon",
        );
    }

    #[test]
    fn there_are_32_fields_at_most_also_of_the_dropped() {
        let fields = "Host: a\r\n".repeat(32);
        check_fields(&fields, &[]);
        check_refused(
            &format!("{fields}Host: a\r\n"),
            431,
            "the trailer section has too many fields",
        );
    }

    #[test]
    fn there_are_8_kib_at_most() {
        let limits = Limits {
            max_trailer_bytes: 10,
            ..Limits::default()
        };
        let check = |section, expected| check_framing(Framing::Chunked, &limits, section, expected);
        check("0\r\nA: b\r\nCC: dd\r\n\r\n", Ok(("", "")));
        let input = "0\r\nA: b\r\nCC: ddd\r\n\r\n";
        let refusal = decode(Framing::Chunked, &limits, &[input.as_bytes()], 1).unwrap_err();
        assert_eq!(
            (refusal.status.as_u16(), refusal.reason),
            (431, "the trailer section is too long")
        );
        check(input, Err(refusal));
        assert_eq!(Limits::default().max_trailer_bytes, 8192);
    }
}

mod encoder {
    use super::*;

    #[track_caller]
    fn check(data: &[u8], expected: &str) {
        let mut out = b"before ".to_vec();
        encode_chunk(data, &mut out);
        assert_eq!(str::from_utf8(&out).unwrap(), format!("before {expected}"));
    }

    #[test]
    fn a_chunk_is_its_size_and_its_data() {
        check(b"x", "1\r\nx\r\n");
        check(b"0123456789abcde", "f\r\n0123456789abcde\r\n");
        check(b"0123456789abcdef", "10\r\n0123456789abcdef\r\n");
        check(&[b'x'; 0xabc], &format!("abc\r\n{}\r\n", "x".repeat(0xabc)));
        check(
            &[b'x'; 0x1000],
            &format!("1000\r\n{}\r\n", "x".repeat(0x1000)),
        );
    }

    #[test]
    fn empty_data_is_no_chunk() {
        check(b"", "");
    }

    #[test]
    fn what_is_encoded_can_be_decoded() {
        let mut out = Vec::new();
        for len in 0..100 {
            encode_chunk(&vec![b'x'; len], &mut out);
        }
        out.extend_from_slice(LAST_CHUNK);
        let decoded = decode(Framing::Chunked, &Limits::default(), &[&out], 64);
        assert_eq!(decoded, Ok((vec![b'x'; (0..100).sum()], Vec::new())));
    }
}
