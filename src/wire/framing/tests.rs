use super::*;

/// Expects this framing of an HTTP/1.1 request with these fields.
#[track_caller]
fn check(fields: &[(&'static str, &'static str)], expected: Result<Framing, Refusal>) {
    check_version(Version::HTTP_11, fields, expected);
}

#[track_caller]
fn check_version(
    version: Version,
    fields: &[(&'static str, &'static str)],
    expected: Result<Framing, Refusal>,
) {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    assert_eq!(request_framing(version, &headers), expected, "{fields:?}");
}

const CODING: &str = "transfer-encoding";
const LENGTH: &str = "content-length";

mod requests {
    use super::*;

    #[test]
    fn no_field_is_no_body() {
        check(&[], Ok(Framing::Empty));
        check_version(Version::HTTP_10, &[], Ok(Framing::Empty));
    }

    #[test]
    fn a_length_is_a_body_of_that_length() {
        check(&[(LENGTH, "1")], Ok(Framing::Length(1)));
        check(
            &[(LENGTH, "9223372036854775807")],
            Ok(Framing::Length(i64::MAX as u64)),
        );
        check_version(Version::HTTP_10, &[(LENGTH, "5")], Ok(Framing::Length(5)));
    }

    #[test]
    fn a_length_that_63_bits_cannot_hold_is_refused() {
        for length in ["9223372036854775808", "18446744073709551615"] {
            check(&[(LENGTH, length)], Err(LENGTH_TOO_LARGE));
        }
    }

    #[test]
    fn a_length_of_zero_is_no_body() {
        check(&[(LENGTH, "0")], Ok(Framing::Empty));
    }

    #[test]
    fn leading_zeros_are_allowed_and_not_octal() {
        check(&[(LENGTH, "0010")], Ok(Framing::Length(10)));
    }

    #[test]
    fn a_length_that_is_not_digits_is_refused() {
        for length in [
            "",
            "+5",
            "-5",
            "5 5",
            "5,5",
            "5, 5",
            "5;",
            "0x5",
            "5_0",
            "5.0",
            "5e1",
            "\"5\"",
            "five",
            "18446744073709551616",
        ] {
            check(&[(LENGTH, length)], Err(LENGTH_INVALID));
        }
    }

    #[test]
    fn two_lengths_are_refused_also_when_they_agree() {
        check(&[(LENGTH, "5"), (LENGTH, "5")], Err(LENGTH_REPEATED));
        check(&[(LENGTH, "5"), (LENGTH, "6")], Err(LENGTH_REPEATED));
        check(&[(LENGTH, "0"), (LENGTH, "")], Err(LENGTH_REPEATED));
    }

    #[test]
    fn chunked_is_known_in_any_case() {
        check(&[(CODING, "chunked")], Ok(Framing::Chunked));
        check(&[(CODING, "Chunked")], Ok(Framing::Chunked));
    }

    #[test]
    fn a_coding_and_a_length_are_refused() {
        for coding in ["chunked", "identity", "", "xchunked"] {
            check(&[(CODING, coding), (LENGTH, "5")], Err(BOTH));
            check(&[(LENGTH, "0"), (CODING, coding)], Err(BOTH));
            check_version(
                Version::HTTP_10,
                &[(CODING, coding), (LENGTH, "5")],
                Err(BOTH),
            );
        }
    }

    #[test]
    fn a_coding_in_http_1_0_is_refused() {
        check_version(Version::HTTP_10, &[(CODING, "chunked")], Err(IN_HTTP_10));
        check_version(Version::HTTP_10, &[(CODING, "identity")], Err(IN_HTTP_10));
    }

    #[test]
    fn an_unknown_coding_before_chunked_is_not_implemented() {
        check(&[(CODING, "gzip, chunked")], Err(UNKNOWN_CODING));
        check(
            &[(CODING, "gzip"), (CODING, "chunked")],
            Err(UNKNOWN_CODING),
        );
        check(&[(CODING, "identity,chunked")], Err(UNKNOWN_CODING));
    }

    #[test]
    fn a_body_without_chunked_at_its_end_is_refused() {
        for coding in [
            "gzip",
            "identity",
            "xchunked",
            "chunkedx",
            "chunked-",
            "chunk",
            "compress, deflate",
        ] {
            check(&[(CODING, coding)], Err(CHUNKED_NOT_LAST));
        }
    }

    #[test]
    fn chunked_before_anything_else_is_refused() {
        check(&[(CODING, "chunked, gzip")], Err(CHUNKED_NOT_LAST));
        check(
            &[(CODING, "chunked"), (CODING, "identity")],
            Err(CHUNKED_NOT_LAST),
        );
    }

    #[test]
    fn chunked_twice_is_refused() {
        check(&[(CODING, "chunked, chunked")], Err(CHUNKED_NOT_LAST));
        check(
            &[(CODING, "chunked"), (CODING, "chunked")],
            Err(CHUNKED_NOT_LAST),
        );
        check(&[(CODING, "chunked, gzip, chunked")], Err(CHUNKED_NOT_LAST));
    }

    #[test]
    fn a_malformed_list_of_codings_is_refused() {
        for coding in [
            "",
            ",",
            "chunked,",
            ",chunked",
            "gzip,,chunked",
            "chunked;",
            "chunked;q=1",
            "chunked;a=\"b, chunked\"",
            "\"chunked\"",
            "chunked chunked",
            "chun\tked",
            "chunked/1",
            "[chunked]",
            "chunked:",
            "=",
        ] {
            check(&[(CODING, coding)], Err(MALFORMED_CODING));
        }
    }
}

mod responses {
    use super::*;

    #[track_caller]
    fn check(
        method: Method,
        version: Version,
        status: u16,
        body_len: Option<u64>,
        expected: Framing,
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(
            response_framing(&method, version, status, body_len),
            expected
        );
    }

    #[test]
    fn a_known_length_is_declared() {
        for version in [Version::HTTP_10, Version::HTTP_11] {
            check(Method::GET, version, 200, Some(5), Framing::Length(5));
            check(Method::GET, version, 404, Some(0), Framing::Length(0));
        }
    }

    #[test]
    fn an_unknown_length_is_chunked_but_not_to_http_1_0() {
        check(Method::GET, Version::HTTP_11, 200, None, Framing::Chunked);
        check(
            Method::GET,
            Version::HTTP_10,
            200,
            None,
            Framing::UntilClose,
        );
    }

    #[test]
    fn a_response_to_head_has_no_body() {
        for len in [None, Some(5)] {
            check(Method::HEAD, Version::HTTP_11, 200, len, Framing::Empty);
            check(Method::HEAD, Version::HTTP_10, 205, len, Framing::Empty);
        }
    }

    #[test]
    fn some_statuses_have_no_body() {
        for status in [100, 101, 103, 204, 304] {
            for len in [None, Some(0), Some(5)] {
                check(Method::GET, Version::HTTP_11, status, len, Framing::Empty);
                check(Method::GET, Version::HTTP_10, status, len, Framing::Empty);
            }
        }
    }

    #[test]
    fn reset_content_has_an_empty_body_and_says_so() {
        for len in [None, Some(5)] {
            check(Method::POST, Version::HTTP_11, 205, len, Framing::Length(0));
        }
    }
}
