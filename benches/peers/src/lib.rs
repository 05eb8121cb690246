//! What all peers share: what they answer, and how long they may take to stop.

use std::time::Duration;

use bytes::Bytes;

/// From the signal to when a peer may cut what is left. `lameduck prove` waits twice as long.
pub const GRACE: Duration = Duration::from_secs(10);

/// What `/plaintext` answers.
pub const HELLO: &str = "Hello, World!";

/// What `/sleep` answers.
pub const SLEPT: &str = "slept\n";

/// Bytes that count from 0 to 250, over and over: what `/bytes` answers. They are made once, so
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

    /// The first `n`, or all if there are not so many.
    pub fn first(&self, n: usize) -> Bytes {
        self.0.slice(..n.min(Self::MAX))
    }
}

impl Default for Counting {
    fn default() -> Self {
        Self::new()
    }
}

/// The number that a query has for `key`.
pub fn number(query: &str, key: &str) -> Option<u64> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

/// The address to listen on: the first argument is the port.
pub fn addr() -> (&'static str, u16) {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    (
        "127.0.0.1",
        port.expect("the first argument is the port to listen on"),
    )
}
