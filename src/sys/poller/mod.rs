//! Finds the parked connections that have something to do, and wakes the threads that poll.
//!
//! One poller serves all connections, and it is edge-triggered: a connection is registered once,
//! and each event is reported once. If a thread loses an event, the connection hangs.
//!
//! On Linux the poller is epoll through rustix; elsewhere, and under
//! `--cfg lameduck_portable_poller`, it is the `polling` crate. Both have the same few functions,
//! and no other module knows which one it uses.

#[cfg(all(target_os = "linux", not(lameduck_portable_poller)))]
mod epoll;
#[cfg(any(not(target_os = "linux"), lameduck_portable_poller))]
mod portable;

#[cfg(all(target_os = "linux", not(lameduck_portable_poller)))]
pub(crate) use epoll::{Events, Poller};
#[cfg(any(not(target_os = "linux"), lameduck_portable_poller))]
pub(crate) use portable::{Events, Poller};

/// The key under which a poller's waker is registered. No slot has it.
const WAKE_KEY: usize = u32::MAX as usize;

/// An event that a wait returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Another thread woke the poller: there is work in a queue.
    Wake,
    /// The connection in slot `key` can go on.
    Socket { key: u32, events: SocketEvents },
}

/// What there may be to read on a socket.
///
/// Events only ever hint: the read that follows says what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketEvents {
    /// There may be bytes to read. If this is false, there is only room to write.
    pub(crate) readable: bool,
    /// The peer has closed or reset its side. This is reported once, so the connection has to be
    /// read to its end.
    pub(crate) hup: bool,
}

impl SocketEvents {
    /// There may be bytes, and the peer has not finished its side.
    pub(crate) const BYTES: Self = Self {
        readable: true,
        hup: false,
    };
    /// Nobody has watched: there may be bytes, an end, or neither.
    pub(crate) const ANY: Self = Self {
        readable: true,
        hup: true,
    };
}
