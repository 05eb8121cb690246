//! Which parked connections have something to do: the operating system's readiness, and the wake.
//!
//! One poller for all connections, edge-triggered: a connection is registered once, an event is
//! told once, and who misses one has a hung connection. On Linux it is epoll through rustix;
//! elsewhere, and under `--cfg lameduck_portable_poller`, the `polling` crate. Both are behind the
//! same few functions, and no other module knows which one it is.

#[cfg(all(target_os = "linux", not(lameduck_portable_poller)))]
mod epoll;
#[cfg(any(not(target_os = "linux"), lameduck_portable_poller))]
mod portable;

#[cfg(all(target_os = "linux", not(lameduck_portable_poller)))]
pub(crate) use epoll::{Events, Poller};
#[cfg(any(not(target_os = "linux"), lameduck_portable_poller))]
pub(crate) use portable::{Events, Poller};

/// The key under which a poller's bell is registered; no slot has it.
const WAKE_KEY: usize = u32::MAX as usize;

/// What one wait brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Somebody rang: there is work in a queue.
    Wake,
    /// The connection in slot `key` can go on.
    Socket {
        key: u32,
        /// There may be bytes to read; without it there is only room to write.
        readable: bool,
        /// The peer has closed or reset its side. This is told once, so a read must go on to the
        /// end.
        hup: bool,
    },
}
