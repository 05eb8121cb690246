//! The requests of the clients.

use std::fmt;

use crate::cli::prove::answer::{Expected, counting};
use crate::cli::prove::plan::{Random, Route};

/// A request. Its number makes its target unique, so that it can be found in the server's report.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    route: Route,
    number: u64,
    /// The number of bytes or milliseconds that the route is asked for.
    n: u64,
}

impl Request {
    /// Makes a request. A response that is to take long has `long` bytes.
    pub(super) fn new(route: Route, number: u64, long: u64, random: &mut Random) -> Self {
        // The responses differ in length, so that a response to another request is noticed.
        let n = match route {
            Route::Plaintext => 0,
            Route::Bytes | Route::Echo => random.between((1, 3000)),
            Route::Sleep => random.between((2, 150)),
            Route::ManyBytes => long,
            Route::LongEcho => random.between((10_000, 120_000)),
        };
        Self { route, number, n }
    }

    /// Appends the request to `out`, with `Connection: close` if `closes`.
    pub(super) fn write(&self, closes: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{self} HTTP/1.1\r\nHost: localhost\r\n").as_bytes());
        if closes {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        if self.is_post() {
            out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", self.n).as_bytes());
            out.extend(counting(self.len()));
        } else {
            out.extend_from_slice(b"\r\n");
        }
    }

    pub(super) fn expected(&self) -> Expected {
        match self.route {
            Route::Plaintext => Expected::Text(b"Hello, World!"),
            Route::Bytes | Route::ManyBytes | Route::Echo | Route::LongEcho => {
                Expected::Counting(self.len())
            }
            Route::Sleep => Expected::Anything,
        }
    }

    fn is_post(&self) -> bool {
        matches!(self.route, Route::Echo | Route::LongEcho)
    }

    fn len(&self) -> usize {
        usize::try_from(self.n).expect("a body fits into memory")
    }
}

impl fmt::Display for Request {
    /// Writes the method and the target.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route, number, n } = self;
        let (client, request) = (number >> 32, number & 0xffff_ffff);
        match route {
            Route::Plaintext => write!(f, "GET /plaintext?r={client}-{request}"),
            Route::Bytes | Route::ManyBytes => write!(f, "GET /bytes?n={n}&r={client}-{request}"),
            Route::Sleep => write!(f, "GET /sleep?ms={n}&r={client}-{request}"),
            Route::Echo | Route::LongEcho => write!(f, "POST /echo?r={client}-{request}"),
        }
    }
}
