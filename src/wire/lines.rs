//! Splits a head into lines, which end with CR LF and nothing else. The only control character that
//! may be in one is the tab.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};

use super::Refusal;

/// Finds the lines of a text that is still arriving, and looks at each byte once.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Where the next line begins.
    start: usize,
    /// Where the search goes on: between `start` and here there is no line end and no fault.
    seen: usize,
}

impl Lines {
    /// Returns the next line without its end, or `None` while that has not arrived.
    ///
    /// `text` must be the same at each call, except that bytes may be added at its end.
    pub(super) fn next<'t>(&mut self, text: &'t [u8]) -> Result<Option<&'t [u8]>, Refusal> {
        while let Some(distance) = find_control(&text[self.seen..]) {
            self.seen += distance;
            match text[self.seen..] {
                [b'\t', ..] => self.seen += 1,
                [b'\r', b'\n', ..] => {
                    let line = &text[self.start..self.seen];
                    self.seen += 2;
                    self.start = self.seen;
                    return Ok(Some(line));
                }
                [b'\r'] => return Ok(None),
                [b'\r', ..] => return Err(BARE_CR),
                [b'\n', ..] => return Err(BARE_LF),
                _ => return Err(CONTROL),
            }
        }
        self.seen = text.len();
        Ok(None)
    }

    /// Returns what has arrived of the next line.
    pub(super) fn begun<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        &text[self.start..self.seen]
    }

    /// Returns whether nothing has arrived of the next line, except perhaps the CR of an empty
    /// line.
    pub(super) fn is_between(&self) -> bool {
        self.start == self.seen
    }

    /// Returns how many bytes the lines returned so far have taken.
    pub(super) fn len(&self) -> usize {
        self.start
    }
}

/// Reads a field line. `line` is a part of `text`, and the value shares the memory of `text`.
pub(super) fn field(line: &[u8], text: &Bytes) -> Result<(HeaderName, HeaderValue), Refusal> {
    let colon = line
        .iter()
        .position(|&byte| byte == b':')
        .ok_or_else(|| without_name(line))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let name = HeaderName::from_bytes(name).map_err(|_| without_name(line))?;
    // `trim_ascii` removes just OWS, which is spaces and tabs: a line has no other whitespace.
    Ok((name, field_value(value.trim_ascii(), text)?))
}

/// Reads a field's value, which is a part of `text` without whitespace around it.
#[inline]
pub(super) fn field_value(value: &[u8], text: &Bytes) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_maybe_shared(text.slice_ref(value)).map_err(|_| FIELD_VALUE)
}

/// Returns what is wrong with a line that does not begin with a field name and a colon.
fn without_name(line: &[u8]) -> Refusal {
    match line.split(|&byte| byte == b':').next() {
        // This is obs-fold (RFC 9112 section 5.2), in which two readers may see different fields.
        Some([b' ' | b'\t', ..]) => FOLDED,
        Some([.., b' ' | b'\t']) => SPACE_BEFORE_COLON,
        Some(name) if name.len() < line.len() => FIELD_NAME,
        _ => NO_COLON,
    }
}

/// Finds the first control character, which may be a tab, eight bytes at a time.
fn find_control(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = ONES << 7;

    let mut words = bytes.chunks_exact(8);
    for (index, word) in words.by_ref().enumerate() {
        let word = u64::from_le_bytes(word.try_into().expect("a chunk has eight bytes"));
        // Subtracting from a byte that is too small borrows, which sets its high bit; `!word` drops
        // the bytes that had it set before. A borrow reaches into the bytes above, so only the
        // lowest hit is exact, and only the lowest is needed.
        let below_space = word.wrapping_sub(ONES * 0x20) & !word;
        let without_delete = word ^ (ONES * 0x7f);
        let is_delete = without_delete.wrapping_sub(ONES) & !without_delete;
        let hits = (below_space | is_delete) & HIGH_BITS;
        if hits != 0 {
            return Some(index * 8 + hits.trailing_zeros() as usize / 8);
        }
    }
    let rest = words.remainder();
    rest.iter()
        .position(u8::is_ascii_control)
        .map(|index| bytes.len() - rest.len() + index)
}

// RFC 9112 section 2.2 lets a recipient take a bare LF for a line end and a bare CR for a space.
// Two readers of which only one does so see different messages in the same bytes.
const BARE_LF: Refusal = Refusal::bad_request("a line ends with LF alone, without CR");
const BARE_CR: Refusal = Refusal::bad_request("a CR is not followed by LF");
const CONTROL: Refusal = Refusal::bad_request("a control character in the head");
const FOLDED: Refusal = Refusal::bad_request("a field line begins with whitespace");
const NO_COLON: Refusal = Refusal::bad_request("a field line without a colon");
const SPACE_BEFORE_COLON: Refusal =
    Refusal::bad_request("whitespace between a field name and its colon");
pub(super) const FIELD_NAME: Refusal = Refusal::bad_request("a field name is not a token");
const FIELD_VALUE: Refusal = Refusal::bad_request("an invalid character in a field value");

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that a text which arrives byte by byte has these lines, and that each byte is looked
    /// at once.
    #[track_caller]
    fn check(text: &str, expected: Result<&[&str], Refusal>) {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for len in 0..=text.len() {
            let arrived = &text.as_bytes()[..len];
            match lines.next(arrived) {
                Ok(Some(line)) => found.push(str::from_utf8(line).unwrap()),
                Ok(None) => assert!(lines.seen + 1 >= len, "only a CR is looked at again"),
                Err(refusal) => return assert_eq!(expected, Err(refusal), "{text:?}"),
            }
        }
        assert_eq!(expected, Ok(&found[..]), "{text:?}");
    }

    #[test]
    fn lines_end_with_cr_lf() {
        check("a\r\n\r\n\tb\tc\r\n", Ok(&["a", "", "\tb\tc"]));
    }

    #[test]
    fn a_line_that_has_not_ended_is_none() {
        check("a\r\nb\r", Ok(&["a"]));
        check("a\r\nlonger than a word", Ok(&["a"]));
    }

    #[test]
    fn other_line_ends_and_control_characters_are_refused() {
        check("a\nb", Err(BARE_LF));
        check("a\rb", Err(BARE_CR));
        check("a\r\r\n", Err(BARE_CR));
        check("a\0", Err(CONTROL));
    }

    #[test]
    fn the_first_control_character_is_found_at_any_place() {
        for byte in 0..=u8::MAX {
            for len in 0..20 {
                for at in 0..len {
                    // None of these fillers is a control character, but each is close to one.
                    for filler in [b' ', b'~', 0x80, 0x9f, 0xff] {
                        let mut bytes = vec![filler; len];
                        bytes[at] = byte;
                        let expected = byte.is_ascii_control().then_some(at);
                        assert_eq!(find_control(&bytes), expected, "{bytes:x?}");
                        bytes[at..].fill(byte);
                        assert_eq!(find_control(&bytes), expected, "{bytes:x?}");
                    }
                }
            }
        }
    }
}
