//! The tests' reader of HTTP responses, for every test and bench that is not about reading itself.
//!
//! It shares no code with the crate, whose mistakes it would share, and it is strict: a response
//! with two framings, a field without `": "` or a chunk of another size than it says fails the
//! test. Where reading is the point there are other readers: `tests/stress_engine/client.rs` counts
//! every byte without blocking, and `lameduck prove` (`src/cli/prove/answer.rs`) is a client that
//! judges any server.

#![allow(dead_code, reason = "each program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read};

/// Reads responses from a connection, one after the other.
#[derive(Debug)]
pub(crate) struct Reader<S> {
    stream: S,
    /// Bytes that were received and not yet read.
    received: Vec<u8>,
    /// How many bytes were read.
    taken: usize,
}

/// What a client has read of one response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) version: String,
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) delimited: Delimited,
}

/// How the end of a response's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delimited {
    NoBody,
    Length,
    Chunked,
    ByClose,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Eof,
    Reset,
}

/// A response whose connection ended before it was complete.
#[derive(Debug)]
pub(crate) struct Incomplete {
    pub(crate) end: End,
    /// The part that came, if the head was complete.
    pub(crate) answer: Option<Answer>,
}

impl<S> Reader<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self {
            stream,
            received: Vec::new(),
            taken: 0,
        }
    }

    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Bytes that were received after those that were read.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.received
    }

    /// How many bytes were read.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }
}

impl<S: Read> Reader<S> {
    /// Reads a complete response.
    #[track_caller]
    pub(crate) fn read_response(&mut self) -> Answer {
        self.try_read(false)
            .unwrap_or_else(|incomplete| panic!("a response is not complete: {incomplete:?}"))
    }

    /// Reads a complete response, after which the server closes.
    #[track_caller]
    pub(crate) fn read_last_response(&mut self) -> Answer {
        let answer = self.read_response();
        self.expect_eof();
        answer
    }

    /// Reads a complete response to a HEAD request, which has no body.
    #[track_caller]
    pub(crate) fn read_response_to_head(&mut self) -> Answer {
        self.try_read(true)
            .unwrap_or_else(|incomplete| panic!("a response is not complete: {incomplete:?}"))
    }

    /// Reads a response that must not be complete.
    #[track_caller]
    pub(crate) fn expect_incomplete(&mut self) -> Incomplete {
        match self.try_read(false) {
            Ok(answer) => panic!(
                "a response is complete: {} {:?} with {} bytes",
                answer.status,
                answer.delimited,
                answer.body.len()
            ),
            Err(incomplete) => incomplete,
        }
    }

    /// Reads a response. With `to_head` it answers a HEAD request, and has no body.
    #[track_caller]
    pub(crate) fn try_read(&mut self, to_head: bool) -> Result<Answer, Incomplete> {
        let mut answer = self
            .try_read_head(to_head)
            .map_err(|end| Incomplete { end, answer: None })?;
        let read = match answer.delimited {
            Delimited::NoBody => Ok(()),
            Delimited::Length => {
                let len = answer.field("content-length").unwrap().parse().unwrap();
                self.read_bytes(len, &mut answer.body)
            }
            Delimited::Chunked => self.read_chunks(&mut answer.body),
            Delimited::ByClose => match self.read_to_end(&mut answer.body) {
                End::Eof => Ok(()),
                End::Reset => Err(End::Reset),
            },
        };
        match read {
            Ok(()) => Ok(answer),
            Err(end) => Err(Incomplete {
                end,
                answer: Some(answer),
            }),
        }
    }

    /// Reads the head of a response, and leaves its body.
    #[track_caller]
    pub(crate) fn read_head(&mut self) -> Answer {
        self.try_read_head(false)
            .unwrap_or_else(|end| panic!("the head of a response is not complete: {end:?}"))
    }

    #[track_caller]
    fn try_read_head(&mut self, to_head: bool) -> Result<Answer, End> {
        let head = self.read_through(b"\r\n\r\n")?;
        let mut answer = Answer::of_head(&String::from_utf8(head).unwrap());
        answer.delimited = answer.delimitation(to_head);
        Ok(answer)
    }

    /// Reads raw bytes, as many as `len`.
    #[track_caller]
    pub(crate) fn read_raw(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read_bytes(len, &mut bytes)
            .unwrap_or_else(|end| panic!("{end:?} after {}", excerpt(&bytes)));
        bytes
    }

    /// Waits for the end of the connection, however it comes, and returns what came before it.
    #[track_caller]
    pub(crate) fn drain(&mut self) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        let end = self.read_to_end(&mut bytes);
        (bytes, end)
    }

    /// Waits for the end of the connection, and returns the number of bytes that came before it. It
    /// keeps none of them, for a test to which many bytes come.
    #[track_caller]
    pub(crate) fn drain_count(&mut self) -> (usize, End) {
        let mut bytes = 0;
        loop {
            bytes += self.received.len();
            self.received.clear();
            if let Err(end) = self.receive() {
                return (bytes, end);
            }
        }
    }

    /// Waits until the server closes the connection, in order and without another byte.
    #[track_caller]
    pub(crate) fn expect_eof(&mut self) {
        let (bytes, end) = self.drain();
        assert_eq!((excerpt(&bytes), end), (String::new(), End::Eof));
    }

    #[track_caller]
    fn read_chunks(&mut self, body: &mut Vec<u8>) -> Result<(), End> {
        loop {
            let line = String::from_utf8(self.read_through(b"\r\n")?).unwrap();
            let size = usize::from_str_radix(line.trim_end(), 16)
                .unwrap_or_else(|_| panic!("chunk size {line:?}"));
            self.read_bytes(size, body)?;
            let mut end = Vec::new();
            self.read_bytes(2, &mut end)?;
            assert_eq!(end, b"\r\n", "the end of a chunk");
            if size == 0 {
                return Ok(());
            }
        }
    }

    #[track_caller]
    fn read_through(&mut self, delimiter: &[u8]) -> Result<Vec<u8>, End> {
        let mut searched = 0;
        loop {
            let found = self.received[searched..]
                .windows(delimiter.len())
                .position(|window| window == delimiter);
            if let Some(at) = found {
                let len = searched + at + delimiter.len();
                self.taken += len;
                let rest = self.received.split_off(len);
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            searched = self.received.len().saturating_sub(delimiter.len() - 1);
            self.receive()?;
        }
    }

    #[track_caller]
    fn read_bytes(&mut self, len: usize, to: &mut Vec<u8>) -> Result<(), End> {
        let mut missing = len;
        loop {
            let n = missing.min(self.received.len());
            to.extend_from_slice(&self.received[..n]);
            self.received.drain(..n);
            self.taken += n;
            missing -= n;
            if missing == 0 {
                return Ok(());
            }
            self.receive()?;
        }
    }

    #[track_caller]
    fn read_to_end(&mut self, to: &mut Vec<u8>) -> End {
        loop {
            self.taken += self.received.len();
            to.append(&mut self.received);
            if let Err(end) = self.receive() {
                return end;
            }
        }
    }

    /// Receives once.
    ///
    /// A signal interrupts a read that has a timeout, even if its handler was installed with
    /// SA_RESTART (signal(7)), and so does a stop of the process. Such a read is made again.
    #[track_caller]
    fn receive(&mut self) -> Result<(), End> {
        let old = self.received.len();
        self.received.resize(old + (64 << 10), 0);
        let read = loop {
            match self.stream.read(&mut self.received[old..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.received.truncate(old + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(End::Eof),
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Err(End::Reset),
                _ => panic!(
                    "nothing came in time ({error}); unread so far: {}",
                    excerpt(&self.received)
                ),
            },
        }
    }
}

impl Answer {
    fn of_head(head: &str) -> Self {
        let mut lines = head.strip_suffix("\r\n\r\n").unwrap().split("\r\n");
        let status_line = lines.next().unwrap();
        let (version, rest) = status_line.split_once(' ').unwrap();
        let (status, _reason) = rest
            .split_once(' ')
            .unwrap_or_else(|| panic!("status line {status_line:?}"));
        assert_eq!(status.len(), 3, "status line {status_line:?}");
        let fields = lines.map(|line| {
            let (name, value) = line
                .split_once(": ")
                .unwrap_or_else(|| panic!("field {line:?}"));
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Self {
            version: version.to_owned(),
            status: status.parse().unwrap(),
            fields: fields.collect(),
            body: Vec::new(),
            delimited: Delimited::NoBody,
        }
    }

    fn delimitation(&self, to_head: bool) -> Delimited {
        let (chunked, length) = (
            self.field("transfer-encoding"),
            self.field("content-length"),
        );
        assert!(
            chunked.is_none() || length.is_none(),
            "two framings: {self:?}"
        );
        if to_head || self.status < 200 || self.status == 204 || self.status == 304 {
            Delimited::NoBody
        } else if let Some(coding) = chunked {
            assert_eq!(coding, "chunked");
            Delimited::Chunked
        } else if length.is_some() {
            Delimited::Length
        } else {
            Delimited::ByClose
        }
    }

    /// Returns the value of a field that may be there at most once.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self
            .fields
            .iter()
            .filter(|(of, _)| of == name)
            .map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "a second {name}");
        value
    }

    /// Returns whether the response says that the connection closes.
    pub(crate) fn closes(&self) -> bool {
        self.field("connection")
            .is_some_and(|value| value.split(',').any(|option| option.trim() == "close"))
    }

    /// Returns the body, which has to be text.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Returns the first 200 of `bytes` as text, for a message.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}
