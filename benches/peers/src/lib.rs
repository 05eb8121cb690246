//! The parts that all peers share: their answers, and the time that they may take to stop.

use std::time::Duration;

use bytes::Bytes;

/// The time from the signal until a peer may cut what is left. `lameduck prove` waits twice as
/// long.
pub const GRACE: Duration = Duration::from_secs(10);

/// The answer of `/plaintext`.
pub const HELLO: &str = "Hello, World!";

/// The answer of `/sleep`.
pub const SLEPT: &str = "slept\n";

/// The answer of `/bytes`: bytes that count from 0 to 250, over and over. They are made once, so
/// that an answer costs a peer next to nothing.
#[derive(Debug, Clone)]
pub struct Counting(Bytes);

impl Counting {
    /// The longest body that the mixture asks for.
    pub const MAX: usize = 4 << 20;

    /// Makes the bytes.
    pub fn new() -> Self {
        Self((0..=250).cycle().take(Self::MAX).collect())
    }

    /// Returns the first `n`, or all if there are not so many.
    pub fn first(&self, n: usize) -> Bytes {
        self.0.slice(..n.min(Self::MAX))
    }
}

impl Default for Counting {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the number that a query has for `key`.
pub fn number(query: &str, key: &str) -> Option<u64> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

/// Returns the address to listen on, whose port is the first argument.
pub fn addr() -> (&'static str, u16) {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    (
        "127.0.0.1",
        port.expect("the first argument is the port to listen on"),
    )
}
