//! Percent-decoding.

/// Returns the text that `encoded` stands for (RFC 3986 section 2.1). `None` if it is not UTF-8, or
/// if a percent sign is not followed by two hexadecimal digits.
pub(super) fn decode(encoded: &str) -> Option<String> {
    if !encoded.contains('%') {
        return Some(encoded.to_owned());
    }
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hexadecimal(bytes.next()?)? << 4 | hexadecimal(bytes.next()?)?,
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hexadecimal(digit: u8) -> Option<u8> {
    // A digit below 16 fits.
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(encoded: &str, expected: Option<&str>) {
        assert_eq!(decode(encoded).as_deref(), expected, "{encoded}");
    }

    #[test]
    fn what_is_encoded_is_decoded_once_and_what_cannot_be_is_refused() {
        check("a+b", Some("a+b"));
        check("%41%c3%BC", Some("Aü"));
        check("%252F", Some("%2F"));
        check("a%2Fb", Some("a/b"));
        check("%00", Some("\0"));
        for broken in ["%", "%4", "%4g", "%+4", "%ff", "%c3"] {
            check(broken, None);
        }
    }
}
