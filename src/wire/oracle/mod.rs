//! Properties that hold for whatever bytes a peer sends. Each is a function that panics if its
//! property does not hold.
//!
//! The property tests (`properties.rs`) call these functions with generated messages, and the fuzz
//! targets (`tests/fuzz`) with the inputs of a fuzzer. To compare, this module reads each message a
//! second time, in the simplest possible way and with the whole message at once.
//!
//! Read `head.rs`, `body.rs` and `connection.rs`, in this order: a connection is heads and bodies.

mod body;
mod connection;
mod head;

use super::Refusal;
use super::head::Head;

pub(crate) use self::body::body;
pub(crate) use self::connection::connection;
pub(crate) use self::head::{head, target};

/// Returns how many bytes have arrived after each piece. After the last one it is all.
fn ends(bytes: &[u8], pieces: &[usize]) -> impl Iterator<Item = usize> {
    let mut arrived = 0;
    let mut pieces = pieces.iter().copied().cycle();
    std::iter::from_fn(move || {
        let piece = pieces.next().unwrap_or(1).max(1);
        (arrived < bytes.len()).then(|| {
            arrived = bytes.len().min(arrived + piece);
            arrived
        })
    })
}

fn summary(parsed: &Result<Option<Head>, Refusal>) -> String {
    format!("{parsed:?}")
}
