//! Reads responses as a client has to, and checks them. The code is not shared with the server, so
//! that it does not share the server's mistakes.

/// What the body of a response has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// This text.
    Text(&'static [u8]),
    /// This many bytes, which count from 0 to 250 over and over.
    Counting(usize),
    /// Any complete body.
    Anything,
}

/// A response that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Whether the status is 200. Otherwise it is 503, with `Retry-After`.
    pub(super) is_ok: bool,
    /// Whether this is the last response on its connection.
    pub(super) closes: bool,
}

/// Reads one response after another, in whatever pieces they come.
#[derive(Debug, Default)]
pub(super) struct Reader {
    state: State,
    /// How many bytes of the current response were read.
    pub(super) bytes: usize,
}

#[derive(Debug)]
enum State {
    Head(Vec<u8>),
    Body {
        answer: Answer,
        framing: Framing,
        at: usize,
    },
}

#[derive(Debug)]
enum Framing {
    Length(usize),
    ToEnd,
    Chunked(Chunk),
}

/// The position in a chunked body.
#[derive(Debug)]
enum Chunk {
    Size(Vec<u8>),
    Data(usize),
    /// The line break after the data.
    End(Vec<u8>),
    Trailer(Vec<u8>),
}

/// Says what is wrong with a response that no server should send.
pub(super) type Wrong = String;

impl Reader {
    /// Takes the bytes of the current response from `bytes`. `Some` if the response is complete:
    /// the bytes that are left then do not belong to it.
    pub(super) fn read(
        &mut self,
        bytes: &mut &[u8],
        expected: Expected,
    ) -> Result<Option<Answer>, Wrong> {
        let before = bytes.len();
        let answer = loop {
            match &mut self.state {
                State::Head(head) => {
                    if !take_until(head, bytes, b"\r\n\r\n")? {
                        break None;
                    }
                    let (answer, framing) = parse_head(head, expected)?;
                    self.state = State::Body {
                        answer,
                        framing,
                        at: 0,
                    };
                }
                State::Body {
                    answer,
                    framing,
                    at,
                } => {
                    let checked = if answer.is_ok {
                        expected
                    } else {
                        Expected::Anything
                    };
                    if !take_body(framing, at, bytes, checked)? {
                        break None;
                    }
                    break Some(*answer);
                }
            }
            if bytes.is_empty() && !self.is_at_end() {
                break None;
            }
        };
        self.bytes += before - bytes.len();
        if answer.is_some() {
            *self = Self::default();
        }
        Ok(answer)
    }

    /// Returns the current response if the end of the connection, which has come, is also the end
    /// of that response.
    pub(super) fn end(&self) -> Option<Answer> {
        match self.state {
            State::Body {
                answer,
                framing: Framing::ToEnd,
                ..
            } => Some(answer),
            _ => None,
        }
    }

    /// Returns whether the response is complete although no more bytes have come.
    fn is_at_end(&self) -> bool {
        matches!(
            self.state,
            State::Body {
                framing: Framing::Length(0),
                ..
            }
        )
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Head(Vec::new())
    }
}

fn parse_head(head: &[u8], expected: Expected) -> Result<(Answer, Framing), Wrong> {
    let text = String::from_utf8_lossy(head);
    let wrong = || {
        format!(
            "not a response: {:?}",
            text.chars().take(60).collect::<String>()
        )
    };
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .ok_or_else(wrong)?;
    let (mut length, mut chunked, mut closes, mut retry_after) = (None, false, false, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("content-length", value) => {
                length = Some(value.parse::<usize>().map_err(|_| wrong())?)
            }
            ("transfer-encoding", value) => chunked = value.eq_ignore_ascii_case("chunked"),
            ("connection", value) => closes |= value.eq_ignore_ascii_case("close"),
            ("retry-after", _) => retry_after = true,
            _ => {}
        }
    }
    let is_ok = status.starts_with("200");
    if !(is_ok || status.starts_with("503") && retry_after) {
        return Err(format!("answered with {status}"));
    }
    if let (true, Some(length), Some(right)) = (is_ok, length, expected.len())
        && length != right
    {
        return Err(format!("{length} bytes instead of {right}"));
    }
    let framing = match (chunked, length) {
        (true, _) => Framing::Chunked(Chunk::Size(Vec::new())),
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::ToEnd,
    };
    closes |= matches!(framing, Framing::ToEnd);
    Ok((Answer { is_ok, closes }, framing))
}

/// Takes the bytes of the body. Returns whether the body is complete.
fn take_body(
    framing: &mut Framing,
    at: &mut usize,
    bytes: &mut &[u8],
    expected: Expected,
) -> Result<bool, Wrong> {
    match framing {
        Framing::Length(left) => {
            take_data(left, at, bytes, expected)?;
            Ok(*left == 0)
        }
        Framing::ToEnd => {
            take_data(&mut usize::MAX.clone(), at, bytes, expected)?;
            Ok(false)
        }
        Framing::Chunked(chunk) => {
            while !bytes.is_empty() {
                if take_chunk(chunk, at, bytes, expected)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// Takes a part of a chunk. Returns whether the body is complete.
fn take_chunk(
    chunk: &mut Chunk,
    at: &mut usize,
    bytes: &mut &[u8],
    expected: Expected,
) -> Result<bool, Wrong> {
    match chunk {
        Chunk::Size(line) => {
            if take_until(line, bytes, b"\r\n")? {
                let text = String::from_utf8_lossy(line);
                let digits = text.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(digits, 16)
                    .map_err(|_| format!("not a chunk's size: {text:?}"))?;
                *chunk = if size == 0 {
                    Chunk::Trailer(Vec::new())
                } else {
                    Chunk::Data(size)
                };
            }
        }
        Chunk::Data(left) => {
            take_data(left, at, bytes, expected)?;
            if *left == 0 {
                *chunk = Chunk::End(Vec::new());
            }
        }
        Chunk::End(line) => {
            if take_until(line, bytes, b"\r\n")? {
                *chunk = Chunk::Size(Vec::new());
            }
        }
        Chunk::Trailer(line) => {
            if take_until(line, bytes, b"\r\n")? {
                if line == b"\r\n" {
                    return match expected.len() {
                        Some(right) if *at != right => {
                            Err(format!("{at} bytes instead of {right}"))
                        }
                        _ => Ok(true),
                    };
                }
                line.clear();
            }
        }
    }
    Ok(false)
}

fn take_data(
    left: &mut usize,
    at: &mut usize,
    bytes: &mut &[u8],
    expected: Expected,
) -> Result<(), Wrong> {
    let (data, rest) = bytes.split_at(bytes.len().min(*left));
    if !expected.allows(*at, data) {
        return Err(format!("wrong bytes among the {} from {at} on", data.len()));
    }
    *left -= data.len();
    *at += data.len();
    *bytes = rest;
    Ok(())
}

/// Moves bytes to `line` until it ends with `mark`. Returns whether it does.
fn take_until(line: &mut Vec<u8>, bytes: &mut &[u8], mark: &[u8]) -> Result<bool, Wrong> {
    const LINE_MAX: usize = 16 * 1024;
    while let Some((byte, rest)) = bytes.split_first() {
        line.push(*byte);
        *bytes = rest;
        if line.ends_with(mark) {
            return Ok(true);
        }
    }
    if line.len() > LINE_MAX {
        Err("a head or line without an end".to_owned())
    } else {
        Ok(false)
    }
}

impl Expected {
    fn len(self) -> Option<usize> {
        match self {
            Self::Text(text) => Some(text.len()),
            Self::Counting(n) => Some(n),
            Self::Anything => None,
        }
    }

    /// Returns whether the body may have `piece` at this offset.
    fn allows(self, at: usize, piece: &[u8]) -> bool {
        match self {
            Self::Text(text) => text.get(at..).is_some_and(|text| text.starts_with(piece)),
            Self::Counting(n) => at + piece.len() <= n && is_counting(at, piece),
            Self::Anything => true,
        }
    }
}

fn is_counting(at: usize, piece: &[u8]) -> bool {
    let mut right = at % PERIOD;
    let mut rest = piece;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(PERIOD - right));
        if now != &COUNT[right..right + now.len()] {
            return false;
        }
        (right, rest) = (0, later);
    }
    true
}

/// Returns the bytes of a body that counts.
pub(super) fn counting(n: usize) -> impl Iterator<Item = u8> {
    COUNT.iter().copied().cycle().take(n)
}

const PERIOD: usize = 251;
const COUNT: [u8; PERIOD] = {
    let mut count = [0; PERIOD];
    let mut i = 1;
    while i < PERIOD {
        count[i] = count[i - 1] + 1;
        i += 1;
    }
    count
};

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Answer = Answer {
        is_ok: true,
        closes: false,
    };
    const HELLO: Expected = Expected::Text(b"hello");

    /// Reads `text`, followed by another response, split in two at each position.
    #[track_caller]
    fn check(text: &str, expected: Expected, answer: Result<Answer, &str>) {
        let bytes = format!("{text}HTTP/1.1");
        for cut in 0..text.len() {
            let mut reader = Reader::default();
            let (mut first, mut second) = bytes.as_bytes().split_at(cut);
            let read = match reader.read(&mut first, expected) {
                Ok(None) => reader.read(&mut second, expected),
                read => read,
            };
            match (read, answer) {
                (Ok(Some(read)), Ok(answer)) => {
                    assert_eq!((read, second), (answer, &b"HTTP/1.1"[..]), "cut at {cut}")
                }
                (Err(wrong), Err(answer)) => assert!(wrong.contains(answer), "{wrong}"),
                (read, _) => panic!("cut at {cut}: {read:?}"),
            }
        }
    }

    #[test]
    fn responses_are_read_by_length_and_in_chunks() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            HELLO,
            Ok(OK),
        );
        check(
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            Expected::Counting(0),
            Ok(OK),
        );
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\nA: b\r\n\r\n";
        check(chunks, HELLO, Ok(OK));
    }

    #[test]
    fn close_and_503_are_seen() {
        let closes = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
        check(closes, HELLO, Ok(Answer { closes: true, ..OK }));
        let busy = "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nbusy";
        check(
            busy,
            HELLO,
            Ok(Answer {
                is_ok: false,
                closes: false,
            }),
        );
    }

    #[test]
    fn wrong_responses_are_refused() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo",
            HELLO,
            Err("wrong bytes"),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhell",
            HELLO,
            Err("4 bytes instead of 5"),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            HELLO,
            Err("0 bytes instead of 5"),
        );
        check(
            "HTTP/1.1 408 Request Timeout\r\n\r\n",
            HELLO,
            Err("answered with 408"),
        );
        check(
            "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
            HELLO,
            Err("answered with 503"),
        );
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        let mut reader = Reader::default();
        let mut bytes = &b"HTTP/1.1 200 OK\r\n\r\nhello"[..];
        assert_eq!(reader.read(&mut bytes, HELLO), Ok(None));
        assert_eq!(reader.end(), Some(Answer { closes: true, ..OK }));
        assert_eq!(Reader::default().end(), None);
    }

    #[test]
    fn counting_goes_on_over_its_period() {
        let bytes: Vec<_> = counting(600).collect();
        assert!(
            is_counting(0, &bytes) && is_counting(249, &bytes[249..]) && !is_counting(1, &bytes)
        );
    }
}
