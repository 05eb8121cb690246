//! Closing a listener without losing what is in its accept backlog.
//!
//! For its client, a connection in the backlog is complete, and the client may have sent a request
//! on it. Closing the listener would reset it. So all of them are accepted first, into a list, and
//! are served after the close; to serve them before it would never end under load.
//!
//! That alone is not enough, because a handshake that is half done when the listener closes is
//! reset too, after its client was told that it is connected. So a *SYN gate* keeps new connections
//! out meanwhile, and lets the handshakes that are under way complete: the listener is bound to a
//! network device that does not exist, and a new SYN is refused. Where the system does not allow
//! that, the gate is `IP_MINTTL` 255 (`IPV6_MINHOPCOUNT`): the kernel drops each SYN, unless from a
//! neighbour that sends TTL 255, and the client sends it again after a second and is refused then.
//! A connection that is made behind this second kind of gate inherits it, and its first request is
//! dropped and sent again if it comes before the connection is accepted.
//!
//! **Invariant:** the SYN gate is never used on a socket that another process may hold too, because
//! it acts on the socket and not on the descriptor.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::lifecycle::ledger::Ledger;
use crate::listen::acceptor::is_resource_shortage;
use crate::listen::listener::Listener;
use crate::pool::shared::{Accepted, Pool};
use crate::sys::clock::Clock;
use crate::sys::half_open::half_open;
use crate::sys::socket;
use crate::sys::waker::wait_for;

/// The longest time for which the SYN gate is held. A SYN-ACK whose answer was lost is repeated
/// after one second and after three, so two losses on end are outlasted.
const MAX_SYN_GATE: Duration = Duration::from_millis(3500);
/// The shortest time for which the SYN gate is held: on one machine a handshake is done in the time
/// of a few interrupts.
const MIN_SYN_GATE: Duration = Duration::from_millis(1);
/// The time between two questions to the kernel whether handshakes are under way.
const HANDSHAKE_LOOK: Duration = Duration::from_millis(5);
/// The time that handshakes get where the kernel does not tell of them, as a number of the longest
/// round trips that were seen.
const ROUND_TRIPS: u32 = 4;
/// The longest such time.
const MAX_ESTIMATE: Duration = Duration::from_millis(500);

/// Listeners that are being closed.
#[derive(Debug)]
pub(crate) struct Closing {
    /// The listeners whose backlogs are being emptied.
    open: Vec<Gated>,
    /// The listeners whose accept(2) fails for good. They are closed with the others.
    failed: Vec<Listener>,
    clock: Clock,
    began: Instant,
    /// The instant from which the SYN gate is held. It is the system's time, and not that of
    /// `clock`, because packets keep no manual clock.
    gated_at: Instant,
    /// The connections that were still in their backlogs.
    pub(crate) connections: Vec<Accepted>,
    /// The errors, at most two for each listener.
    pub(crate) errors: Vec<String>,
    /// The number of listeners on which a SYN gate could not be set.
    pub(crate) ungated: usize,
}

/// A listener that lets no new connection in, if the system has a SYN gate.
#[derive(Debug)]
struct Gated {
    listener: Listener,
    gate: SynGate,
}

/// What keeps new connections out of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SynGate {
    /// A device that does not exist. Accepted connections know nothing of it.
    NoDevice,
    /// A TTL that no packet has that passed a router. Connections inherit it, but for so many that
    /// were in the backlog before it was set.
    Ttl { older: u32 },
    /// Nothing.
    None,
}

/// The result of [`Closing::accept`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BacklogState {
    /// The backlogs are empty, and no handshake is under way.
    Empty,
    /// There are no descriptors for the rest.
    OutOfDescriptors,
    /// The deadline has passed.
    TimeOver,
}

impl SynGate {
    fn set(listener: &Listener) -> Self {
        if !listener.may_be_gated() {
            return Self::None;
        }
        if socket::bind_to_no_device(listener.as_fd()).is_ok() {
            return Self::NoDevice;
        }
        // Read before the gate is set: only connections that are made after that inherit it.
        let older = socket::backlog_len(listener.as_fd()).unwrap_or(0);
        match listener.set_syn_gate(true) {
            Ok(()) => Self::Ttl { older },
            Err(_) => Self::None,
        }
    }
}

impl Closing {
    /// Begins to close the listeners: keeps new connections out.
    pub(crate) fn start(listeners: Vec<Listener>, clock: &Clock) -> Self {
        let mut closing = Self {
            open: Vec::with_capacity(listeners.len()),
            failed: Vec::new(),
            clock: clock.clone(),
            began: clock.now(),
            gated_at: Clock::System.now(),
            connections: Vec::new(),
            errors: Vec::new(),
            ungated: 0,
        };
        for mut listener in listeners {
            // A listener that others accept from too keeps its backlog for them.
            if listener.is_shared() {
                continue;
            }
            if let Err(error) = listener.unlink() {
                let line = format!("cannot remove {}: {error}", listener.addr);
                closing.errors.push(line);
            }
            let gate = SynGate::set(&listener);
            // A unix socket's path is gone by now, which has the same effect.
            if listener.port().is_some() && gate == SynGate::None {
                closing.ungated += 1;
            }
            closing.open.push(Gated { listener, gate });
        }
        closing
    }

    /// Accepts what is in the backlogs, and goes on while handshakes are under way, but not beyond
    /// `deadline` (`None` is never), which may become earlier meanwhile. `rtt` is the longest round
    /// trip seen.
    pub(crate) fn accept(
        &mut self,
        deadline: impl Fn() -> Option<Instant>,
        rtt: Duration,
        pool: &Pool,
    ) -> BacklogState {
        // A handshake that ends while we ask is neither in the kernel's answer nor in the backlog
        // that we have seen, so one quiet round is not enough.
        let mut quiet_rounds = 0;
        loop {
            let under_way = self.handshakes_under_way(rtt);
            if self.accept_all(pool) == BacklogState::OutOfDescriptors {
                return BacklogState::OutOfDescriptors;
            }
            quiet_rounds = if under_way { 0 } else { quiet_rounds + 1 };
            if self.open.is_empty() || quiet_rounds > 1 {
                return BacklogState::Empty;
            }
            if deadline().is_some_and(|at| at <= self.clock.now()) {
                return BacklogState::TimeOver;
            }
            let fds: Vec<_> = self
                .open
                .iter()
                .map(|gated| gated.listener.as_fd())
                .collect();
            let look = if under_way {
                HANDSHAKE_LOOK
            } else {
                MIN_SYN_GATE
            };
            wait_for(&fds, Some(look));
        }
    }

    /// Returns whether there may be a client that believes that it is connected, or soon will, and
    /// whose connection is in no backlog yet.
    fn handshakes_under_way(&self, rtt: Duration) -> bool {
        let held_for = Clock::System.now().saturating_duration_since(self.gated_at);
        let remote = self.open.iter().map(|gated| &gated.listener);
        let ports: Vec<_> = remote
            .filter(|it| !it.is_local())
            .filter_map(Listener::port)
            .collect();
        if ports.is_empty() || held_for >= MAX_SYN_GATE {
            return false;
        }
        let half_open = ports.into_iter().map(half_open).sum::<Option<usize>>();
        half_open.map_or_else(
            || held_for < (ROUND_TRIPS * rtt).clamp(MIN_SYN_GATE, MAX_ESTIMATE),
            |n| n > 0,
        )
    }

    fn accept_all(&mut self, pool: &Pool) -> BacklogState {
        let mut at = 0;
        while let Some(gated) = self.open.get_mut(at) {
            match gated.listener.accept(&pool.test_points) {
                Ok(Some((socket, peer))) => {
                    let entry = Ledger::open(&pool.ledger);
                    if let SynGate::Ttl { older } = &mut gated.gate {
                        // A connection that has inherited the gate hears nothing from its peer
                        // before it is off.
                        match older.checked_sub(1) {
                            Some(left) => *older = left,
                            None => drop(socket::set_syn_gate(socket.as_fd(), false)),
                        }
                    }
                    self.connections.push(Accepted {
                        socket,
                        peer,
                        entry,
                    });
                }
                Ok(None) => at += 1,
                Err(error) if is_resource_shortage(&error) => {
                    return BacklogState::OutOfDescriptors;
                }
                Err(error) => {
                    // Another holder may have shut the socket, for example. To accept again would
                    // fail for ever.
                    let Gated { listener, .. } = self.open.remove(at);
                    self.errors.push(format!(
                        "cannot empty the accept backlog of {}: {error}",
                        listener.addr
                    ));
                    self.failed.push(listener);
                }
            }
        }
        BacklogState::Empty
    }

    /// Closes the listeners. Returns how long that took in all, and how many connections were in
    /// their backlogs nevertheless.
    pub(crate) fn close(self) -> (Duration, u32) {
        let open = self.open.iter().map(|gated| &gated.listener);
        let left = open
            .chain(&self.failed)
            .filter_map(|listener| socket::backlog_len(listener.as_fd()))
            .sum();
        drop((self.open, self.failed));
        let took = self.clock.now().saturating_duration_since(self.began);
        (took, left)
    }
}
