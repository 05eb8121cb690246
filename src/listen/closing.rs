//! Closing a listener without losing what is in its accept backlog.
//!
//! A connection in the backlog is complete for its client, who may have sent a request on it:
//! closing the listener resets it. So all are accepted first, into a list, and served after the
//! close; serving in between would never end under load.
//!
//! Neither would be enough alone: a handshake that is half done when the listener closes is reset
//! too, after its client has been told that it is connected. A *gate* keeps new ones out meanwhile:
//! with `IP_MINTTL` 255 (`IPV6_MINHOPCOUNT`) the kernel drops each SYN that comes to the listener,
//! unless from a neighbour that sends TTL 255, and completes the handshakes that are under way. Who
//! meets the gate tries again after a second, and is refused.
//!
//! **Invariant:** the gate is never used on a socket that somebody else may hold too: it acts on
//! the socket, not on the descriptor.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::lifecycle::ledger::Ledger;
use crate::listen::acceptor::is_resource_shortage;
use crate::listen::listener::Listener;
use crate::pool::shared::{Accepted, Pool};
use crate::sys::clock::Clock;
use crate::sys::socket;
use crate::sys::waker::wait_for;

/// Handshakes take a round trip; some are repeated.
const ROUND_TRIPS: u32 = 4;
/// The gate stays no longer, whatever the round trip time.
const MAX_SYN_GATE: Duration = Duration::from_millis(500);
/// On one machine a handshake is done in the time of a few interrupts.
const MIN_SYN_GATE: Duration = Duration::from_millis(1);

/// Listeners that are being closed.
#[derive(Debug)]
pub(crate) struct Closing {
    listeners: Vec<Listener>,
    began: Instant,
    /// The connections that were still in their backlogs.
    pub(crate) connections: Vec<Accepted>,
    /// What went wrong.
    pub(crate) errors: Vec<String>,
    /// A gate could not be had for this many listeners.
    pub(crate) ungated: usize,
}

/// What [`Closing::accept`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BacklogState {
    /// The backlogs are empty.
    Empty,
    /// There are no descriptors for the rest.
    OutOfDescriptors,
}

impl Closing {
    /// Keeps new connections out.
    pub(crate) fn start(listeners: Vec<Listener>, clock: &Clock) -> Self {
        let mut closing = Self {
            listeners,
            began: clock.now(),
            connections: Vec::new(),
            errors: Vec::new(),
            ungated: 0,
        };
        // One that others accept from too keeps its backlog for them.
        closing.listeners.retain(|listener| !listener.is_shared());
        for listener in &mut closing.listeners {
            if let Err(error) = listener.unlink() {
                closing
                    .errors
                    .push(format!("cannot remove {}: {error}", listener.addr));
            }
            if listener.may_be_gated() && listener.set_syn_gate(true).is_err() {
                closing.ungated += 1;
            }
        }
        closing
    }

    /// How long handshakes may be under way: `rtt` is the longest round trip seen.
    pub(crate) fn syn_gate_time(&self, rtt: Duration) -> Duration {
        let local = self.listeners.iter().all(Listener::is_local);
        if local {
            MIN_SYN_GATE
        } else {
            (ROUND_TRIPS * rtt).clamp(MIN_SYN_GATE, MAX_SYN_GATE)
        }
    }

    /// Accepts what is in the backlogs, and what still comes for `syn_gate_time`.
    pub(crate) fn accept(&mut self, syn_gate_time: Duration, pool: &Pool) -> BacklogState {
        if self.listeners.is_empty() {
            return BacklogState::Empty;
        }
        let clock = &pool.lifecycle.clock;
        loop {
            if self.accept_all(pool) == BacklogState::OutOfDescriptors {
                return BacklogState::OutOfDescriptors;
            }
            let left =
                syn_gate_time.saturating_sub(clock.now().saturating_duration_since(self.began));
            let fds: Vec<_> = self.listeners.iter().map(AsFd::as_fd).collect();
            // The kernel's time, not the clock's: it is about packets.
            if !wait_for(&fds, Some(left.min(syn_gate_time))) {
                return BacklogState::Empty;
            }
        }
    }

    fn accept_all(&mut self, pool: &Pool) -> BacklogState {
        for listener in &self.listeners {
            loop {
                match listener.accept(&pool.test_points) {
                    Ok(Some((socket, peer))) => {
                        let entry = Ledger::open(&pool.ledger);
                        // It has inherited the gate, and hears nothing from its peer before it is
                        // off.
                        if listener.may_be_gated() {
                            let _ = socket::set_syn_gate(socket.as_fd(), false);
                        }
                        self.connections.push(Accepted {
                            socket,
                            peer,
                            entry,
                        });
                    }
                    Ok(None) => break,
                    Err(error) if is_resource_shortage(&error) => {
                        return BacklogState::OutOfDescriptors;
                    }
                    Err(error) => {
                        self.errors.push(format!(
                            "cannot empty the accept backlog of {}: {error}",
                            listener.addr
                        ));
                        break;
                    }
                }
            }
        }
        BacklogState::Empty
    }

    /// Closes the listeners: how long that took in all, and how many connections were in their
    /// backlogs nevertheless.
    pub(crate) fn close(self, clock: &Clock) -> (Duration, u32) {
        let left = self
            .listeners
            .iter()
            .filter_map(|listener| socket::backlog_len(listener.as_fd()))
            .sum();
        drop(self.listeners);
        (clock.now().saturating_duration_since(self.began), left)
    }
}
