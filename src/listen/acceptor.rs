//! The blocking accept loop: takes connections from the kernel's accept backlog and sends them to
//! the pool.
//!
//! **Invariant:** the acceptor blocks only here, in its wait for a listener or its waker. A full
//! server that finds no idle connection stops waiting for its listeners, and the kernel's backlog
//! is the queue.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use log::Level;

use crate::lifecycle::hooks::ReadyHooks;
use crate::lifecycle::ledger::{Ledger, WakeAt};
use crate::lifecycle::phase::Phase;
use crate::listen::eviction::{Eviction, Evictor};
use crate::listen::listener::Listener;
use crate::pool::shared::{Accepted, Pool};
use crate::sys::clock::{after, earlier, later};
use crate::sys::logging;
use crate::sys::test_points::Point;
use crate::sys::waker::wait_for;

/// The time for which the acceptor waits after an accept(2) that failed, or after a look for idle
/// connections that found none, unless a connection ends before.
const PAUSE: Duration = Duration::from_millis(100);
/// The shortest time between two lines in the log about a lack of room.
const COMPLAINT: Duration = Duration::from_secs(1);

/// The acceptor, and all it hands to the drain at its end.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) pool: Arc<Pool>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) threads: Threads,
    pub(crate) hooks: ReadyHooks,
    accepted: Sender<Accepted>,
    max_connections: usize,
    evictor: Evictor,
    paused_until: Option<Instant>,
    /// The instant since which a client waits for room.
    pause_began: Option<Instant>,
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
        hooks: ReadyHooks,
    ) -> Self {
        let max = pool
            .settings
            .max_connections
            .unwrap_or_else(crate::settings::default_max_connections);
        Self {
            pool,
            listeners,
            threads,
            hooks,
            accepted,
            max_connections: max,
            evictor: Evictor::new(),
            paused_until: None,
            pause_began: None,
            complained_at: None,
        }
    }

    /// Accepts until `phase` is due.
    pub(crate) fn run_until(&mut self, phase: Phase) {
        debug_assert_eq!(phase, Phase::Draining, "the only phase that ends accepting");
        while !self.is_over() {
            self.accept_once();
        }
        self.count_pause();
    }

    /// Returns whether draining is due.
    fn is_over(&self) -> bool {
        let lifecycle = &self.pool.lifecycle;
        lifecycle.is_stopping()
            && self
                .drain_at()
                .is_some_and(|at| at <= lifecycle.clock.now())
    }

    fn drain_at(&self) -> Option<Instant> {
        self.pool.lifecycle.plan()?.drain_at
    }

    /// Waits for clients, or for a reason to look again, and takes those that are there.
    fn accept_once(&mut self) {
        let now = self.pool.lifecycle.clock.now();
        self.paused_until = self.paused_until.filter(|until| now < *until);
        // A full server waits for its listeners too: it closes an idle connection only when a
        // client is there that needs the room.
        let listening = self.paused_until.is_none() && self.can_send();
        let waker = self.pool.waker.clone();
        let mut fds = vec![waker.as_fd()];
        if listening {
            fds.extend(self.listeners.iter().map(AsFd::as_fd));
        }
        let timeout = self
            .pool
            .lifecycle
            .clock
            .until(earlier(self.drain_at(), self.paused_until));
        if !wait_for(&fds, timeout) {
            return;
        }
        waker.reset();
        // The wake-up may have come from a connection that has ended and made room.
        self.paused_until = None;
        if listening {
            for i in 0..self.listeners.len() {
                self.accept_all(i);
            }
        }
    }

    /// Returns whether as many connections are open as may be. If so, the acceptor will be woken
    /// when one ends.
    fn is_full(&self) -> bool {
        self.pool.ledger.is_full(self.max_connections)
    }

    /// Returns whether there is room in the accepted channel. If not, the acceptor will be woken
    /// when there is.
    fn can_send(&self) -> bool {
        if self.accepted.is_full() {
            self.pool.acceptor_waits.store(true, SeqCst);
            return !self.accepted.is_full();
        }
        true
    }

    /// Takes what is in a listener's backlog, as long as there is room or can be made.
    fn accept_all(&mut self, listener: usize) {
        // Whether a descriptor that an eviction has freed was taken by another thread of the
        // process. The next one would go the same way, so no further connection is evicted for it.
        let mut evicted_in_vain = false;
        while !self.is_over() && self.can_send() && (!self.is_full() || self.make_room(listener)) {
            match self.listeners[listener].accept(&self.pool.test_points) {
                Ok(Some((socket, peer))) => {
                    self.count_pause();
                    evicted_in_vain = false;
                    let entry = Ledger::open(&self.pool.ledger);
                    self.pool.test_points.at(Point::AcceptedBeforeSent);
                    // The channel has room, because only this thread sends to it.
                    let _ = self.accepted.try_send(Accepted {
                        socket,
                        peer,
                        entry,
                    });
                    self.pool.wake_poller();
                }
                Ok(None) => return self.count_pause(),
                Err(error) => {
                    let addr = &self.listeners[listener].addr;
                    if is_resource_shortage(&error)
                        && !evicted_in_vain
                        && self.evictor.evict(&self.pool, Duration::ZERO) == Eviction::One
                    {
                        evicted_in_vain = true;
                        let line = format!(
                            "cannot accept on {addr}: {error}; \
                             closing the connection that has been idle longest"
                        );
                        self.complain(Level::Error, &line);
                    } else {
                        let line = format!("cannot accept on {addr}: {error}; trying again");
                        self.complain(Level::Error, &line);
                        return self.pause(None);
                    }
                }
            }
        }
    }

    /// Makes room in a full server: closes an idle connection if another one waits in the backlog
    /// of `listener`. False: none waits, or none is idle.
    fn make_room(&mut self, listener: usize) -> bool {
        if !wait_for(&[self.listeners[listener].as_fd()], Some(Duration::ZERO)) {
            return false;
        }
        let idle_grace = self.pool.settings.idle_grace;
        let max = self.max_connections;
        match self.evictor.evict(&self.pool, idle_grace) {
            Eviction::One => {
                self.complain(
                    Level::Warn,
                    &format!("{max} connections are open: closing the one idle longest"),
                );
                true
            }
            Eviction::None(ripe_at) => {
                self.complain(
                    Level::Warn,
                    &format!("{max} connections are open and none is idle: new ones wait"),
                );
                // A connection that falls idle from now on cannot be evicted before that.
                self.pause(earlier(
                    ripe_at,
                    after(self.pool.lifecycle.clock.now(), idle_grace),
                ));
                if !self.is_full() {
                    self.paused_until = None;
                }
                false
            }
        }
    }

    /// Stops accepting for want of room until a connection has ended, or until `until`, but at
    /// least for [`PAUSE`] in the second case.
    fn pause(&mut self, until: Option<Instant>) {
        let now = self.pool.lifecycle.clock.now();
        self.pool.ledger.wake(WakeAt::AnyEnd);
        self.paused_until = later(after(now, PAUSE), until.or(Some(now)));
        self.pause_began.get_or_insert(now);
    }

    /// Counts the time for which clients waited for want of room, when no client waits any more.
    fn count_pause(&mut self) {
        if let Some(began) = self.pause_began.take() {
            let now = self.pool.lifecycle.clock.now();
            self.pool
                .ledger
                .count_pause(now.saturating_duration_since(began));
        }
    }

    /// Writes a line to the log, unless one was written a moment ago.
    fn complain(&mut self, level: Level, line: &str) {
        let now = self.pool.lifecycle.clock.now();
        if self
            .complained_at
            .is_none_or(|at| now.saturating_duration_since(at) >= COMPLAINT)
        {
            self.complained_at = Some(now);
            logging::line!(level, "{line}");
        }
    }
}

/// Returns whether an accept(2) failed for want of descriptors or memory, which a connection gives
/// back when it closes.
pub(crate) fn is_resource_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| shortages.iter().any(|errno| errno.raw_os_error() == code))
}
