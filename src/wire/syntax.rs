//! Reads the grammar that several parts of a message share (RFC 9110 section 5.6).

use http::header::{HeaderMap, HeaderName};

/// Returns the members of a comma-separated list, from all fields of that name, without the
/// whitespace around them.
///
/// Empty members are returned too. A comma in a quoted string separates members as well: none of
/// the lists that are read with this has quoted strings that this server understands. What it does
/// not understand is refused or skipped, in two halves as well as in one piece.
pub(crate) fn members<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    // `trim_ascii` removes just OWS, which is spaces and tabs: the other whitespace that it knows
    // cannot be in a `HeaderValue`.
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// Returns the number that `digits` are. Returns `None` if they are not digits alone, or too many
/// for a `u64`.
///
/// `str::parse` would accept a `+` too.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Returns whether `bytes` are a token: a method, a field name, a transfer coding.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_tchar)
}

/// Returns whether a byte may be in a token.
pub(super) const fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::*;

    #[track_caller]
    fn check(values: &[&'static str], expected: &[&str]) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        let found: Vec<_> = members(&headers, &ACCEPT)
            .map(|member| str::from_utf8(member).unwrap())
            .collect();
        assert_eq!(found, expected, "{values:?}");
    }

    #[test]
    fn members_are_found_across_fields_and_commas() {
        check(&[], &[]);
        check(&["a"], &["a"]);
        check(&["a, b\t,c d", "e"], &["a", "b", "c d", "e"]);
        check(&["", ",a,"], &["", "", "a", ""]);
    }

    #[test]
    fn a_number_is_digits_and_nothing_else() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"007"), Some(7));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for invalid in [
            "",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1_0",
            "0x1",
            "1.0",
            "18446744073709551616",
            "99999999999999999999",
        ] {
            assert_eq!(decimal(invalid.as_bytes()), None, "{invalid:?}");
        }
    }

    #[test]
    fn a_token_is_what_a_field_name_is() {
        for byte in 0..=u8::MAX {
            assert_eq!(
                is_token(&[byte]),
                http::HeaderName::from_bytes(&[byte]).is_ok(),
                "{byte:#x}"
            );
        }
        assert!(!is_token(b""));
    }
}
