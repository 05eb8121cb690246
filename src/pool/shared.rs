//! What the threads of the pool share.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use crossbeam_utils::CachePadded;
use http::Method;

use crate::conn::egress::Egress;
use crate::conn::latency::{LatencyEstimates, RouteKey};
use crate::conn::message::{Request, Response};
use crate::conn::serve_context::{Buffers, ServeContext};
#[cfg(test)]
use crate::conn::transport::{Socket, Transport};
use crate::lifecycle::context::Context;
use crate::lifecycle::ledger::{Entry, Ledger};
use crate::lifecycle::phase::{Lifecycle, Phase};
use crate::pool::deadlines::Deadlines;
use crate::pool::dedicated::DedicatedThreads;
use crate::pool::leftovers::Leftovers;
use crate::pool::permits::{Permit, Permits, PollerWake, Semaphore, WorkerWord, is_nobody_polling};
use crate::pool::slots::{KeyQueue, Table};
use crate::pool::test_seams::TestSeams;
use crate::settings::{BACKLOG_SLOTS, MAX_ACCEPTED, Settings, cores};
use crate::sys::poller::Poller;
use crate::sys::sync::AtomicBool;
use crate::sys::test_points::{Point, TestPoints};
use crate::sys::threads::ThreadNumber;
use crate::sys::waker::Waker;

/// A handler of any type.
pub(crate) trait DynHandler: Send + Sync {
    fn handle(&self, request: Request, context: Context) -> Response;

    /// Returns a number that stands for the route at a path, if the handler knows its routes. It runs
    /// no user code.
    fn route_id(&self, path: &str) -> Option<u64>;
}

/// A connection on its way from the acceptor to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: OwnedFd,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) entry: Entry,
}

/// What the threads of the pool share.
pub(crate) struct Pool {
    pub(crate) settings: Settings,
    pub(crate) test_points: TestPoints,
    /// Makes the transport of each accepted socket.
    #[cfg(test)]
    pub(super) transport: fn(Socket) -> Box<dyn Transport>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) handler: Box<dyn DynHandler>,
    pub(crate) poller: Arc<Poller>,
    pub(crate) table: Table,
    pub(crate) deadlines: Deadlines,
    /// The accepted channel.
    pub(crate) accepted: Receiver<Accepted>,
    /// Wakes the acceptor.
    pub(crate) waker: Arc<Waker>,
    /// Whether the acceptor waits for room in the accepted channel.
    pub(crate) acceptor_waits: AtomicBool,
    /// Connections that any thread of the pool can go on with.
    pub(crate) ready: KeyQueue,
    /// Connections that only a worker can go on with.
    pub(crate) calls: KeyQueue,
    /// The lane of handlers that are expected to be slow.
    pub(crate) slow: Lane,
    /// The lane of code that may wait for its client, on dedicated threads. What waits is outside.
    pub(crate) streams: Lane,
    pub(crate) dedicated: Arc<DedicatedThreads>,
    pub(crate) leftovers: Leftovers,
    /// A waker that becomes readable when the server drains, for upgraded connections.
    pub(crate) stopping: Arc<Waker>,
    pub(crate) permits: Permits,
    pub(crate) poller_wake: PollerWake,
    pub(crate) latency: LatencyEstimates,
    pub(crate) worker_states: Box<[CachePadded<WorkerState>]>,
    /// The responses made by other threads than workers, by phase.
    answered: [AtomicU64; Phase::ALL.len()],
    pub(crate) monitor: MonitorWake,
    /// The number of permits that the monitor has revoked.
    pub(crate) revoked: AtomicU64,
    /// The monitor's own word, asleep while it waits for the poller in the workers' place.
    pub(crate) caretaker: WorkerWord,
    origin: Instant,
}

/// A lane: kind of call that at most so many workers run at a time, with the connections that wait
/// for room in it.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) semaphore: Semaphore,
    pub(crate) waiting: KeyQueue,
    /// Those that have waited long. They go first when there is room, and without room to a worker
    /// with a permit that has nothing else to do.
    pub(crate) late: KeyQueue,
}

/// What a worker shows to other threads.
#[derive(Debug)]
pub(crate) struct WorkerState {
    pub(crate) word: WorkerWord,
    /// The connection for which the worker runs user code.
    pub(crate) key: AtomicU32,
    /// Whether that code is a response's body, and not the handler.
    pub(crate) is_body: AtomicBool,
    /// The route that the monitor has found when it revoked the permit.
    pub(crate) revoked_route: AtomicU64,
    /// The worker's thread, of which the monitor asks the kernel.
    pub(crate) thread: ThreadNumber,
    /// The responses that the worker made, by phase. Only the worker writes them.
    pub(crate) answered: [AtomicU64; Phase::ALL.len()],
}

/// Wakes the monitor if it sleeps.
#[derive(Debug)]
pub(crate) struct MonitorWake {
    asleep: AtomicBool,
    pub(crate) waker: Arc<Waker>,
}

impl MonitorWake {
    pub(crate) fn new(waker: Arc<Waker>) -> Self {
        Self {
            asleep: AtomicBool::new(false),
            waker,
        }
    }

    pub(crate) fn wake(&self) {
        if self.asleep.load(SeqCst) && self.asleep.swap(false, SeqCst) {
            self.waker.wake();
        }
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep.load(SeqCst)
    }

    /// Marks the monitor asleep. After this it looks once more at everything that it can be woken
    /// for.
    pub(crate) fn fall_asleep(&self) {
        self.asleep.store(true, SeqCst);
    }

    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, SeqCst);
    }
}

impl Pool {
    pub(crate) fn new(
        settings: Settings,
        seams: TestSeams,
        lifecycle: Arc<Lifecycle>,
        ledger: Arc<Ledger>,
        handler: Box<dyn DynHandler>,
        accepted: Receiver<Accepted>,
        waker: Arc<Waker>,
    ) -> std::io::Result<Self> {
        let workers = settings.workers;
        // One worker is always without a permit, if there are two. Otherwise the first calls of a
        // route that hangs would take every worker before the first of them is found to be slow.
        let permits = cores().min(workers - 1).max(1);
        // One worker is left for fast handlers; in a larger pool, one for each permit.
        let slow = if workers >= 4 * permits {
            workers - permits
        } else {
            workers - 1
        }
        .max(1);
        let connections = settings
            .max_connections
            .unwrap_or_else(crate::settings::default_max_connections);
        let monitor = Arc::new(Waker::new()?);
        lifecycle.clock.on_advance(&monitor);
        Ok(Self {
            origin: lifecycle.clock.now(),
            poller: Arc::new(Poller::new()?),
            // The table also holds the connections that the acceptor has taken before it saw that
            // the server is full.
            table: Table::new(connections + MAX_ACCEPTED + BACKLOG_SLOTS),
            deadlines: Deadlines::default(),
            accepted,
            waker,
            acceptor_waits: AtomicBool::new(false),
            ready: KeyQueue::default(),
            calls: KeyQueue::default(),
            slow: Lane::new(slow),
            streams: Lane::new(workers),
            dedicated: DedicatedThreads::new(settings.max_dedicated_threads),
            leftovers: Leftovers::default(),
            stopping: Arc::new(Waker::new()?),
            permits: Permits::new(permits),
            poller_wake: PollerWake::new(),
            latency: LatencyEstimates::new(),
            worker_states: (0..workers)
                .map(|_| CachePadded::new(WorkerState::new()))
                .collect(),
            answered: std::array::from_fn(|_| AtomicU64::new(0)),
            monitor: MonitorWake::new(monitor),
            revoked: AtomicU64::new(0),
            caretaker: WorkerWord::new(),
            settings,
            test_points: seams.test_points,
            #[cfg(test)]
            transport: seams.transport,
            lifecycle,
            ledger,
            handler,
        })
    }

    /// Wakes a poller if one sleeps, after a connection was queued.
    pub(crate) fn wake_poller(&self) {
        let pollers = self
            .worker_states
            .iter()
            .map(|state| &state.word)
            .chain([&self.caretaker]);
        if self.poller_wake.is_needed(pollers) {
            self.poller.wake();
        }
    }

    /// Wakes the monitor, if it sleeps, because of a call of user code that the caller has just
    /// shown in its word: when no worker polls any more, or when responses to earlier requests wait
    /// for the call.
    ///
    /// The monitor says that it sleeps, then looks at the words; the caller shows its word, then
    /// looks whether the monitor sleeps. Of the workers, the last one to show its word sees all
    /// others.
    pub(crate) fn wake_monitor_for_call(&self, egress: &Egress) {
        if self.monitor.is_asleep() && (egress.pending() > 0 || self.is_nobody_polling()) {
            self.monitor.wake();
        }
    }

    /// Whether all that could poll is in calls of user code.
    pub(crate) fn is_nobody_polling(&self) -> bool {
        let words = self.worker_states.iter().map(|state| &state.word);
        is_nobody_polling(words, self.permits.count())
    }

    /// Whether a connection is queued that a thread with a permit would take.
    pub(crate) fn has_queued(&self) -> bool {
        self.has_queued_for_anybody() || !self.calls.is_empty() || !self.slow.late.is_empty()
    }

    /// Whether a connection is queued that needs no user code to go on.
    pub(crate) fn has_queued_for_anybody(&self) -> bool {
        !self.accepted.is_empty() || !self.ready.is_empty()
    }

    /// Passes a permit on. There may be no worker to take it: then a sleeping poller has to see
    /// what is queued.
    pub(crate) fn pass_permit_on(&self, permit: Permit) {
        self.test_points.at(Point::PermitFreeBeforePassedOn);
        self.permits.pass_on(permit);
        if self.has_queued() {
            self.wake_poller();
        }
    }

    /// Returns what a thread needs to serve a connection from now on, with the thread's buffers.
    pub(crate) fn serve_context<'a>(&'a self, buffers: &'a mut Buffers) -> ServeContext<'a> {
        let now = self.lifecycle.clock.now();
        ServeContext::new(&self.settings, &self.lifecycle, buffers, now)
    }

    /// Has every thread of the pool leave as soon as it has nothing in hand. The phase is Stopped.
    pub(crate) fn dismiss_threads(&self) {
        self.permits.close();
        self.poller.wake();
        self.monitor.waker.wake();
    }

    /// Returns a moment as a slot stores it, in nanoseconds.
    pub(crate) fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX - 1)
    }

    /// Returns a stored moment as the clock returns it.
    pub(crate) fn instant(&self, nanos: u64) -> Option<Instant> {
        self.origin.checked_add(Duration::from_nanos(nanos))
    }

    /// Returns the route of a request.
    pub(crate) fn route(&self, method: &Method, path: &str) -> RouteKey {
        match self.handler.route_id(path) {
            Some(id) => RouteKey::of_id(method, id),
            None => RouteKey::of_path(method, path),
        }
    }

    /// Returns the route of the request in flight on a connection, or of its response's body.
    pub(crate) fn route_in_flight(&self, egress: &Egress, is_body: bool) -> Option<RouteKey> {
        let (request, _) = egress.in_flight()?;
        let route = self.route(&request.method, request.target.path());
        Some(if is_body { route.of_body() } else { route })
    }

    /// Returns how many workers run user code of a route with a permit.
    pub(crate) fn calls_with_permit(&self, route: RouteKey) -> usize {
        let has_route = |state: &&CachePadded<WorkerState>| {
            let egress = self.table.get(state.key.load(Relaxed))?.egress()?;
            Some(self.route_in_flight(&egress, state.is_body.load(Relaxed))? == route)
        };
        self.worker_states
            .iter()
            .filter(|state| state.word.look().is_in_call_with_permit())
            .filter(|state| has_route(state) == Some(true))
            .count()
    }

    /// Returns the number of responses made in a phase so far.
    pub(crate) fn answered(&self, phase: Phase) -> u64 {
        let by_workers: u64 = self
            .worker_states
            .iter()
            .map(|state| state.answered[phase as usize].load(Relaxed))
            .sum();
        by_workers + self.answered[phase as usize].load(Relaxed)
    }

    /// Counts the responses made by a thread that is no worker.
    pub(crate) fn count_answered(&self, buffers: &mut Buffers) {
        for (count, own) in self.answered.iter().zip(&mut buffers.answered) {
            count.fetch_add(std::mem::take(own), Relaxed);
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("settings", &self.settings)
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

impl Lane {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            semaphore: Semaphore::new(max),
            waiting: KeyQueue::default(),
            late: KeyQueue::default(),
        }
    }

    /// Has a connection wait that found no room and was parked with `park_queued`. `Some`: the key
    /// of a waiting connection, perhaps of another, that was claimed because there is room by now.
    #[must_use]
    pub(crate) fn wait(&self, key: u32, table: &Table) -> Option<u32> {
        self.waiting.push(key);
        // The last call may have left the lane, and looked for waiting connections, before the
        // push.
        self.claim_if_room(table)
    }

    /// Claims a connection that waits although there is room.
    #[must_use]
    pub(crate) fn claim_if_room(&self, table: &Table) -> Option<u32> {
        if self.semaphore.has_room() {
            self.claim(table)
        } else {
            None
        }
    }

    /// Leaves the lane, unless a connection waits for it. Then its key is returned, it is claimed,
    /// and the caller is still inside the lane.
    #[must_use]
    pub(crate) fn release_or_next(&self, table: &Table) -> Option<u32> {
        self.semaphore.release();
        // Look again after each time this thread was inside for nothing: a connection that came
        // meanwhile has found no room.
        while !(self.late.is_empty() && self.waiting.is_empty()) && self.semaphore.acquire() {
            let key = self.claim(table);
            if key.is_some() {
                return key;
            }
            self.semaphore.release();
        }
        None
    }

    fn claim(&self, table: &Table) -> Option<u32> {
        self.late.claim(table).or_else(|| self.waiting.claim(table))
    }
}

impl WorkerState {
    fn new() -> Self {
        Self {
            word: WorkerWord::new(),
            key: AtomicU32::new(u32::MAX),
            is_body: AtomicBool::new(false),
            revoked_route: AtomicU64::new(0),
            thread: ThreadNumber::default(),
            answered: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Publishes the counts of the worker's responses.
    pub(crate) fn publish_counts(&self, buffers: &Buffers) {
        for (shown, own) in self.answered.iter().zip(buffers.answered) {
            if shown.load(Relaxed) != own {
                shown.store(own, Relaxed);
            }
        }
    }
}
