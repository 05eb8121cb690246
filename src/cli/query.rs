//! The parameters of a query, as HTML forms send them: `ms=500&text=a+b%21`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use lameduck::http::Uri;

/// A query. It is searched once for each parameter that is asked for: there are few of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// Returns the query of `uri`, which is empty if `uri` has none.
    pub(crate) fn of(uri: &'a Uri) -> Self {
        Self(uri.query().unwrap_or_default())
    }

    /// Returns the decoded value of the parameter `name`. It may be any bytes, including NUL and
    /// line breaks.
    pub(crate) fn value(self, name: &'static str) -> Result<Vec<u8>, Invalid> {
        let mut found = None;
        for pair in self.0.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(key), Some(value)) = (decode(key), decode(value)) else {
                return Err(Invalid::escape());
            };
            // With two values we would not know which one is meant.
            if key == name.as_bytes() && found.replace(value).is_some() {
                return Err(Invalid::parameter(name, "is given more than once"));
            }
        }
        found.ok_or_else(|| Invalid::parameter(name, "is missing"))
    }

    /// Returns the number that is the value of the parameter `name`: decimal digits, nothing else.
    pub(crate) fn number<N>(
        self,
        name: &'static str,
        range: RangeInclusive<N>,
    ) -> Result<N, Invalid>
    where
        N: FromStr + PartialOrd + fmt::Display,
    {
        let digits = String::from_utf8(self.value(name)?).ok();
        // `parse` alone would accept a sign.
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
        let number = digits
            .and_then(|digits| digits.parse().ok())
            .filter(|number| range.contains(number));
        number.ok_or_else(|| {
            Invalid::parameter(
                name,
                &format!(
                    "is not a whole number from {} to {}",
                    range.start(),
                    range.end()
                ),
            )
        })
    }
}

/// A sentence that tells the client what is wrong with its query, without repeating any of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invalid(String);

impl Invalid {
    pub(crate) fn parameter(name: &'static str, problem: &str) -> Self {
        Self(format!("the parameter `{name}` {problem}"))
    }

    fn escape() -> Self {
        Self("a `%` in the query is not followed by two hexadecimal digits".to_owned())
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Decodes percent-encoding as forms use it, where `+` is a space. `None` if an escape is broken.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            b'+' => b' ',
            byte => byte,
        });
    }
    Some(decoded)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_value(query: &str, expected: Result<&[u8], &str>) {
        let value = Query(query)
            .value("a")
            .map_err(|invalid| invalid.to_string());
        assert_eq!(
            value.as_deref().map_err(String::as_str),
            expected,
            "{query:?}"
        );
    }

    #[track_caller]
    fn check_number(query: &str, expected: Option<u16>) {
        assert_eq!(
            Query(query).number("a", 200..=599).ok(),
            expected,
            "{query:?}"
        );
    }

    #[test]
    fn a_value_is_found_wherever_it_stands() {
        for query in [
            "a=1",
            "b=2&a=1",
            "a=1&b=2",
            "&&a=1&",
            "aa=2&a=1&A=3",
            "%61=1",
        ] {
            check_value(query, Ok(b"1"));
        }
    }

    #[test]
    fn a_value_goes_to_the_next_ampersand() {
        check_value("a", Ok(b""));
        check_value("a=", Ok(b""));
        check_value("a=1=2", Ok(b"1=2"));
        check_value("a=1;b=2", Ok(b"1;b=2"));
        check_value("a=1%26b=2", Ok(b"1&b=2"));
    }

    #[test]
    fn escapes_and_plus_are_decoded_once() {
        check_value("a=b+c%20d%2B%2b", Ok(b"b c d++"));
        check_value("a=%0d%0A%00%ff", Ok(b"\r\n\0\xff"));
        check_value("a=%2541", Ok(b"%41"));
        check_value("a=d\u{e9}j\u{e0}", Ok("d\u{e9}j\u{e0}".as_bytes()));
    }

    #[test]
    fn a_broken_escape_is_refused_wherever_it_stands() {
        let refused = Err("a `%` in the query is not followed by two hexadecimal digits");
        for query in [
            "a=%",
            "a=%4",
            "a=%4g",
            "a=%%41",
            "a=%+1",
            "a=%\u{e9}",
            "a=1&b=%zz",
            "%=1&a=1",
        ] {
            check_value(query, refused);
        }
    }

    #[test]
    fn a_parameter_is_given_exactly_once() {
        for query in ["", "b=1", "A=1", "aa=1"] {
            check_value(query, Err("the parameter `a` is missing"));
        }
        check_value("a=1&a=1", Err("the parameter `a` is given more than once"));
    }

    #[test]
    fn a_number_is_digits_in_its_range() {
        check_number("a=200", Some(200));
        check_number("a=599", Some(599));
        check_number("a=0404", Some(404));
        check_number("a=%34%30%34", Some(404));
        for query in [
            "a=199", "a=600", "a=65936", "a=", "a=+404", "a=%2B404", "a=-404", "a=4e2", "a=404+",
            "a=%ff",
        ] {
            check_number(query, None);
        }
    }

    #[test]
    fn a_wrong_number_is_answered_with_the_range() {
        let invalid = Query("a=x")
            .number("a", 0..=u64::MAX)
            .unwrap_err()
            .to_string();
        assert_eq!(
            invalid,
            "the parameter `a` is not a whole number from 0 to 18446744073709551615"
        );
    }
}
