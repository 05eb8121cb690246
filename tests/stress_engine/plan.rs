//! The requests, the answers that they must get, the handler that serves them, and the plan of a
//! connection.
//!
//! **Invariant:** a plan follows from its seed alone.

use std::io::{Cursor, Read, Write};
use std::time::{Duration, Instant};

use lameduck::http::StatusCode;
use lameduck::{Body, Context, IntoResponse, Request, Response};

use super::client::Answer;

/// The random numbers from which a plan is made (Xorshift64*).
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    /// Starts a stream of numbers. Seeds that are close to each other give unrelated streams.
    pub(crate) fn new(seed: u64) -> Self {
        let mixed = (seed ^ (seed >> 30))
            .wrapping_add(0x9e37_79b9_7f4a_7c15)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self((mixed ^ (mixed >> 27)) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Returns a number from 0 to `n - 1`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// The thing that a request makes the handler do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The handler answers with bytes.
    Bytes,
    /// The same, asked for by HEAD.
    Head,
    /// The handler answers with a reader of unknown length.
    Reader,
    /// The handler answers with a reader of known length.
    Sized,
    /// The handler answers with a closure that writes.
    Writer,
    /// The handler computes for 100 µs, which is slow enough to be run without a permit.
    Spin,
    /// The handler blocks for 3 ms, which is longer than the monitor's tick.
    Nap,
    /// The handler answers with the request's body.
    Echo,
    /// The handler reads the request's body before it answers.
    Collect,
    /// The handler does not read the request's body.
    Ignore,
    /// The handler panics.
    Panic,
}

/// Each kind with its name in a path and its share among requests.
const KINDS: [(Kind, &str, usize); 11] = [
    (Kind::Bytes, "t", 107),
    (Kind::Head, "head", 4),
    (Kind::Reader, "reader", 6),
    (Kind::Sized, "sized", 4),
    (Kind::Writer, "writer", 4),
    (Kind::Spin, "spin", 10),
    (Kind::Nap, "nap", 1),
    (Kind::Echo, "echo", 5),
    (Kind::Collect, "collect", 7),
    (Kind::Ignore, "ignore", 4),
    (Kind::Panic, "panic", 0),
];

impl Kind {
    fn random(rng: &mut Rng) -> Self {
        let mut at = rng.below(KINDS.iter().map(|(_, _, share)| share).sum());
        for (kind, _, share) in KINDS {
            match at.checked_sub(share) {
                Some(rest) => at = rest,
                None => return kind,
            }
        }
        unreachable!("it is below the sum of all shares")
    }

    fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(kind, ..)| *kind == self)
            .expect("every kind has a name")
            .1
    }

    fn method(self) -> &'static str {
        match self {
            Self::Echo | Self::Collect | Self::Ignore => "POST",
            Self::Head => "HEAD",
            _ => "GET",
        }
    }
}

/// One request, from which its answer follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) kind: Kind,
    tag: u64,
    /// The length of the body, of the request or the response or both.
    len: usize,
    /// Whether the body of the request is chunked.
    chunked: bool,
    /// Whether the request says `Connection: close`.
    closes: bool,
}

impl Ask {
    /// Makes a request. A `light` one is one of many in a pipeline, most of which have short
    /// bodies.
    pub(crate) fn random(rng: &mut Rng, light: bool) -> Self {
        let kind = Kind::random(rng);
        let len = match rng.below(if light { 90 } else { 12 }) {
            0 => 16_370 + rng.below(40),
            1 => 65_520 + rng.below(40),
            // The rest of an unread body has to come within a second, or the server closes.
            2 if kind != Kind::Ignore => 100_000,
            3 => 0,
            _ => rng.below(200),
        };
        Self {
            kind,
            tag: rng.next(),
            len,
            chunked: rng.one_in(2),
            closes: false,
        }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let (method, name, close) = (
            self.kind.method(),
            self.kind.name(),
            if self.closes { "close" } else { "keep-alive" },
        );
        let Self { tag, len, .. } = self;
        let _ = write!(
            out,
            "{method} /{name}/{tag:x}/{len} HTTP/1.1\r\nHost: stress\r\nConnection: {close}\r\n"
        );
        if method != "POST" {
            out.extend_from_slice(b"\r\n");
        } else if self.chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in body(*tag, *len).chunks(1 + *tag as usize % 5000) {
                let _ = write!(out, "{:x}\r\n", chunk.len());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n\r\n");
        } else {
            let _ = write!(out, "Content-Length: {len}\r\n\r\n");
            out.extend_from_slice(&body(*tag, *len));
        }
    }

    /// Checks an answer to the request. The error says what is wrong with it.
    pub(crate) fn check(&self, answer: &Answer) -> Result<(), String> {
        let panics = self.kind == Kind::Panic;
        if (answer.status, answer.closes) != (if panics { 500 } else { 200 }, panics || self.closes)
        {
            return Err(format!(
                "status {}, closing: {}",
                answer.status, answer.closes
            ));
        }
        if panics {
            return Ok(());
        }
        if self.kind == Kind::Head {
            // An empty body may be one that the handler has left out.
            let right = answer.length == Some(self.len) || self.len == 0 && answer.length.is_none();
            return if right {
                Ok(())
            } else {
                Err(format!("a length of {:?} for HEAD", answer.length))
            };
        }
        let expected = body(self.tag, self.len);
        if answer.body == expected {
            return Ok(());
        }
        let same = answer
            .body
            .iter()
            .zip(&expected)
            .take_while(|(got, wanted)| got == wanted)
            .count();
        Err(format!(
            "{} bytes instead of {}, wrong from byte {same} on",
            answer.body.len(),
            expected.len()
        ))
    }
}

/// Returns a body that names its request in every line.
fn body(tag: u64, len: usize) -> Vec<u8> {
    format!("{tag:015x}\n").bytes().cycle().take(len).collect()
}

/// The message of planned panics.
pub(crate) const PANIC: &str = "stress: a planned panic";

/// Answers the request of an [`Ask`].
pub(crate) fn handle(request: Request, context: Context) -> Response {
    let mut path = request.uri().path().split('/').skip(1);
    let name = path.next().unwrap_or_default();
    let tag = path
        .next()
        .and_then(|tag| u64::from_str_radix(tag, 16).ok());
    let len = path.next().and_then(|len| len.parse().ok());
    let (Some((kind, ..)), Some(tag), Some(len)) =
        (KINDS.iter().find(|(_, known, _)| *known == name), tag, len)
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    Response::new(match kind {
        Kind::Bytes | Kind::Head | Kind::Ignore => body(tag, len).into(),
        Kind::Reader => Body::reader(Cursor::new(body(tag, len))),
        Kind::Sized => Body::sized_reader(Cursor::new(body(tag, len)), len as u64),
        Kind::Writer => Body::writer(move |writer| {
            body(tag, len)
                .chunks(1 + tag as usize % 30_000)
                .try_for_each(|piece| {
                    writer.write_all(piece)?;
                    if piece[0] % 2 == 0 {
                        writer.flush()
                    } else {
                        Ok(())
                    }
                })
        }),
        Kind::Spin => {
            let began = Instant::now();
            while began.elapsed() < Duration::from_micros(100) {
                std::hint::spin_loop();
            }
            body(tag, len).into()
        }
        Kind::Nap => {
            let _ = context.cancelled().recv_timeout(Duration::from_millis(3));
            body(tag, len).into()
        }
        Kind::Echo => request.into_body(),
        Kind::Collect => {
            let mut whole = Vec::new();
            match request.into_body().read_to_end(&mut whole) {
                Ok(_) => whole.into(),
                Err(_) => return StatusCode::BAD_REQUEST.into_response(),
            }
        }
        Kind::Panic => std::panic::panic_any(PANIC),
    })
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client closes the connection when all is answered.
    Close,
    /// The client finishes its side after the last request. All answers and the end must come.
    HalfClose,
    /// The last request asks the server to close.
    Asked,
    /// The last handler panics.
    Panic,
    /// The client closes or resets the connection as soon as so many bytes are sent and so many
    /// answers are read.
    Broken {
        reset: bool,
        sent: usize,
        answers: usize,
    },
    /// The connection stays open.
    Stay,
}

/// The plan of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) asks: Vec<Ask>,
    /// The position after each request in the bytes that are sent.
    pub(crate) ends: Vec<usize>,
    pub(crate) ending: Ending,
    /// Positions in the bytes that are sent, and the number of answers that the client must have
    /// read before it sends further bytes.
    pub(crate) gates: Vec<(usize, usize)>,
    /// The most bytes that are written at once.
    pub(crate) piece_max: usize,
    /// The size of the receive buffer, if it is a small one.
    pub(crate) receive_buffer: Option<usize>,
    /// How often the client stops reading for a while.
    pub(crate) holds: usize,
}

impl Plan {
    /// Makes a plan, and all the bytes that the client sends. The `last` connection of a place
    /// stays open.
    pub(crate) fn random(rng: &mut Rng, last: bool) -> (Self, Vec<u8>) {
        let mut ending = match rng.below(14) {
            _ if last => Ending::Stay,
            0..4 => Ending::Close,
            4..7 => Ending::HalfClose,
            7..9 => Ending::Asked,
            9 => Ending::Panic,
            n => Ending::Broken {
                reset: n >= 12,
                sent: 0,
                answers: 0,
            },
        };
        let (mut asks, mut ends, mut gates, mut out) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let batches = if last { 1 } else { 1 + rng.below(6) };
        for batch in 1..=batches {
            let size = [1, 1, 1 + rng.below(4), 1 + rng.below(64)][rng.below(4)];
            for nth in 1..=size {
                let mut ask = Ask::random(rng, size > 4);
                match ending {
                    Ending::Asked => ask.closes = (batch, nth) == (batches, size),
                    Ending::Panic if (batch, nth) == (batches, size) => ask.kind = Kind::Panic,
                    _ => {}
                }
                ask.write(&mut out);
                asks.push(ask);
                ends.push(out.len());
            }
            if !rng.one_in(3) {
                gates.push((out.len(), asks.len()));
            }
        }
        if let Ending::Broken { sent, answers, .. } = &mut ending {
            *sent = rng.below(out.len() + 1);
            *answers = rng.below(1 + ends.iter().filter(|end| **end <= *sent).count());
        }
        // A lot of bytes in tiny pieces would take too long.
        let piece_max = [usize::MAX, 2000, 30, 3][rng.below(4)].max(out.len() / 40);
        // With a smaller buffer, the kernel's window management turns a stream into a trickle.
        let receive_buffer = rng.one_in(4).then(|| 16_384 << rng.below(3));
        let holds = if receive_buffer.is_some() {
            rng.below(4)
        } else {
            0
        };
        (
            Self {
                asks,
                ends,
                ending,
                gates,
                piece_max,
                receive_buffer,
                holds,
            },
            out,
        )
    }
}
