//! The blocking accept loop: takes connections from the kernel's accept backlog and sends them to the pool.
//!
//! **Invariant:** the acceptor blocks only here, in its wait for a listener or its waker. A server that is full stops
//! waiting for its listeners, and the kernel's backlog is the queue.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::clock::{after, earlier};
use crate::hooks::Hooks;
use crate::lifecycle::ledger::{Ledger, WakeAt};
use crate::lifecycle::phase::Phase;
use crate::listener::Listener;
use crate::pool::{Accepted, Pool};
use crate::race::Point;
use crate::waker::wait_for;

/// After a failed accept(2), for want of descriptors or memory, and while no connection ends.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two lines in the log about that.
const COMPLAINT: Duration = Duration::from_secs(1);

/// The acceptor, and all it hands to the drain at its end.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) pool: Arc<Pool>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) threads: Threads,
    pub(crate) hooks: Hooks,
    accepted: Sender<Accepted>,
    connections_max: usize,
    paused_until: Option<Instant>,
    complained_at: Option<Instant>,
}

/// The threads that shutdown joins, in the order of the numbers they report when they end.
#[derive(Debug)]
pub(crate) struct Threads {
    pub(crate) handles: Vec<JoinHandle<()>>,
    pub(crate) ended: Receiver<usize>,
}

impl Acceptor {
    pub(crate) fn new(
        pool: Arc<Pool>,
        listeners: Vec<Listener>,
        accepted: Sender<Accepted>,
        threads: Threads,
        hooks: Hooks,
    ) -> Self {
        let max = pool.settings.connections_max.unwrap_or_else(crate::settings::connections_max_default);
        Self {
            pool,
            listeners,
            threads,
            hooks,
            accepted,
            connections_max: max,
            paused_until: None,
            complained_at: None,
        }
    }

    /// Accepts until `phase` is due.
    pub(crate) fn run_until(&mut self, phase: Phase) {
        debug_assert_eq!(phase, Phase::Draining, "the only phase that ends accepting");
        while !self.is_over() {
            self.turn();
        }
    }

    /// Whether draining is due.
    fn is_over(&self) -> bool {
        let lifecycle = &self.pool.lifecycle;
        lifecycle.is_stopping() && self.drain_at().is_some_and(|at| at <= lifecycle.clock.now())
    }

    fn drain_at(&self) -> Option<Instant> {
        self.pool.lifecycle.plan()?.drain_at
    }

    /// Waits for clients, or for a reason to look again, and takes those that are there.
    fn turn(&mut self) {
        let now = self.pool.lifecycle.clock.now();
        self.paused_until = self.paused_until.filter(|until| now < *until);
        let may_accept = self.paused_until.is_none() && self.has_room();
        let waker = self.pool.waker.clone();
        let mut fds = vec![waker.as_fd()];
        if may_accept {
            fds.extend(self.listeners.iter().map(AsFd::as_fd));
        }
        let timeout = self.pool.lifecycle.clock.until(earlier(self.drain_at(), self.paused_until));
        if !wait_for(&fds, timeout) {
            return;
        }
        waker.reset();
        // Who woke us may have been a connection that has ended.
        self.paused_until = None;
        if may_accept {
            for i in 0..self.listeners.len() {
                self.accept_all(i);
            }
        }
    }

    /// Whether a connection may be taken. If not, the acceptor will be woken when that changes.
    fn has_room(&self) -> bool {
        let (pool, ledger) = (&self.pool, &self.pool.ledger);
        if ledger.len() >= self.connections_max {
            ledger.wake(WakeAt::AnyEnd);
            if ledger.len() >= self.connections_max {
                return false;
            }
        }
        ledger.wake(WakeAt::Never);
        if self.accepted.is_full() {
            pool.acceptor_waits.store(true, SeqCst);
            if self.accepted.is_full() {
                return false;
            }
        }
        true
    }

    /// Takes what is in a listener's backlog, as long as there is room.
    fn accept_all(&mut self, listener: usize) {
        while self.has_room() && !self.is_over() {
            match self.listeners[listener].accept() {
                Ok(Some((socket, peer))) => {
                    let entry = Ledger::open(&self.pool.ledger);
                    self.pool.settings.races.at(Point::Accepted);
                    // There is room, and nobody else sends.
                    let _ = self.accepted.try_send(Accepted { socket, peer, entry });
                    self.pool.ring();
                }
                Ok(None) => return,
                Err(error) => return self.pause(&error, listener),
            }
        }
    }

    /// Out of descriptors or memory: goes on when a connection has ended, or after a while.
    fn pause(&mut self, error: &io::Error, listener: usize) {
        let now = self.pool.lifecycle.clock.now();
        self.pool.ledger.wake(WakeAt::AnyEnd);
        self.paused_until = after(now, PAUSE);
        if self.complained_at.is_none_or(|at| now.saturating_duration_since(at) >= COMPLAINT) {
            self.complained_at = Some(now);
            log::error!("cannot accept on {}: {error}; trying again", self.listeners[listener].addr);
        }
    }
}
