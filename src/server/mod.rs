//! From a builder to a report: how a server is made, run and stopped.

pub(crate) mod group;
pub(crate) mod shutdown;
pub(crate) mod signals;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, unbounded};

use crate::error::{Error, Result};
use crate::handler::respond::Handler;
use crate::lifecycle::context::Context;
use crate::lifecycle::hooks::{Hook, Hooks};
use crate::lifecycle::ledger::{CloseReason, Ledger};
use crate::lifecycle::phase::{Lifecycle, Phase, StopCause, is_awaited};
use crate::lifecycle::report::Report;
use crate::listen::acceptor::{Acceptor, Threads};
use crate::listen::listener::{Addr, Listen, Listener};
use crate::pool::monitor::Monitor;
use crate::pool::shared::Pool;
use crate::pool::worker::{Ended, Worker};
use crate::server::signals::{Caught, SignalThread};
use crate::settings::{MAX_ACCEPTED, MAX_WORKERS, Settings};
use crate::sys::clock::Clock;
use crate::sys::panics;
use crate::sys::waker::Waker;

/// A server: see [`builder`](Self::builder).
#[derive(Debug)]
pub struct Server(());

impl Server {
    /// Starts to describe a server. Every limit and time has a default that is safe on the open
    /// internet.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            settings: Settings::default(),
            signals: Vec::new(),
            hooks: Hooks::default(),
            context: None,
            clock: Clock::System,
        }
    }
}

/// What a server will be like: see [`Server::builder`].
///
/// Each method sets one thing; a second call replaces the first, but for signals and hooks, which
/// add up. A timeout of zero gives up as soon as anybody has to wait, one of [`Duration::MAX`]
/// never.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use lameduck::{SIGINT, SIGTERM, Server};
///
/// let bound = Server::builder()
///     .workers(32)
///     .lame_duck(Duration::from_secs(5))
///     .grace_period(Duration::from_secs(20))
///     .on_signals([SIGINT, SIGTERM])
///     .bind("127.0.0.1:0")?;
/// assert_ne!(bound.local_addr().port(), 0);
/// # Ok::<(), lameduck::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing happens before `bind`"]
pub struct ServerBuilder {
    settings: Settings,
    signals: Vec<i32>,
    hooks: Hooks,
    context: Option<Context>,
    clock: Clock,
}

impl ServerBuilder {
    /// Handlers that can run at the same time. Default: four for each core, at least 16. At least
    /// 1, at most 10,000.
    ///
    /// A handler that blocks occupies one worker. Clients that are slow, idle or silent occupy
    /// none.
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers.clamp(1, MAX_WORKERS);
        self
    }

    /// Connections that are open at the same time. A further one takes the place of the one that
    /// has been idle longest, if that is more than [`idle_grace`](Self::idle_grace); else it waits
    /// in the kernel's accept backlog. Default: 80 % of the descriptors the process may have. At
    /// least 1.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = Some(connections.max(1));
        self
    }

    /// Connections that the kernel holds until they are accepted, for each address. Default: 4096.
    /// The kernel allows no more than `net.core.somaxconn` (listen(2)). A client beyond that
    /// repeats its attempt until there is room.
    pub fn backlog(mut self, connections: u16) -> Self {
        self.settings.backlog = i32::from(connections);
        self
    }

    /// How long a stopping server goes on accepting, so that whoever routes to it can notice that
    /// it is not ready any more. Each response says `Connection: close` meanwhile. Default: zero,
    /// which skips the phase. It always lasts its full time.
    pub fn lame_duck(mut self, period: Duration) -> Self {
        self.settings.lame_duck = period;
        self
    }

    /// How long a request in flight gets once draining starts. Default: 25 s. Zero cuts at once;
    /// [`Duration::MAX`] never cuts.
    pub fn grace_period(mut self, period: Duration) -> Self {
        self.settings.grace_period = period;
        self
    }

    /// How long a connection must have been silent before a draining server closes it, or a full
    /// one closes it to make room. Default: 1 s. Zero closes each idle one at once.
    pub fn idle_grace(mut self, period: Duration) -> Self {
        self.settings.idle_grace = period;
        self
    }

    /// How long a response that has begun gets once the deadline is over, and a 503 to arrive.
    /// Default: 1 s. Zero resets at once.
    pub fn cut_grace(mut self, period: Duration) -> Self {
        self.settings.cut_grace = period;
        self
    }

    /// How long a client may take for a request's head, from its first byte. Default: 10 s. The
    /// client gets 408, or if it has sent nothing at all sees the connection close.
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.settings.head_timeout = timeout;
        self
    }

    /// How long a connection is kept open between requests. Default: 60 s. The client sees it close
    /// (RFC 9112 section 9.5). Behind a proxy it should be longer than the proxy's own.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout;
        self
    }

    /// How long a client may send nothing of a body it has announced. Default: 30 s. The client
    /// gets 408, or a handler that reads the body gets an error.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.settings.body_timeout = timeout;
        self
    }

    /// How long a client may take nothing of its response. Default: 30 s. The connection is reset.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.settings.write_timeout = timeout;
        self
    }

    /// Bytes per second, in either direction, below which a client is given up once it was waited
    /// for 10 s in all. Default: 500. Zero allows any.
    pub fn min_rate(mut self, bytes_per_second: u64) -> Self {
        self.settings.min_rate = bytes_per_second;
        self
    }

    /// How long a complete request may wait for a worker. Default: 10 s. The client gets 503 with
    /// `Retry-After`.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.queue_timeout = timeout;
        self
    }

    /// Request bodies up to this many bytes are collected before the handler is called. Default: 64
    /// KiB. With zero the handler is called at once. Longer bodies are read by the handler as they
    /// come, which holds a worker: at most half of them do that at a time.
    pub fn collect_bytes(mut self, bytes: usize) -> Self {
        self.settings.collect_bytes = bytes;
        self
    }

    /// Connections that have a thread of their own at the same time: [upgraded](crate::upgrade::accept)
    /// ones, and responses made by [`Body::stream`](crate::Body::stream). Default: 1000. A further
    /// one is answered with 503 and `Retry-After`.
    pub fn max_dedicated_threads(mut self, threads: usize) -> Self {
        self.settings.max_dedicated_threads = threads;
        self
    }

    /// Bytes that a request line may have. Default: 16 KiB; RFC 9112 section 3 asks for 8000 at
    /// least. Beyond it the client gets 414.
    pub fn max_request_line_bytes(mut self, bytes: usize) -> Self {
        self.settings.limits.max_request_line_bytes = bytes;
        self
    }

    /// Bytes that a whole request head may have. Default: 64 KiB. Beyond it the client gets 431
    /// (RFC 6585 section 5).
    pub fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.settings.limits.max_head_bytes = bytes;
        self
    }

    /// Fields that a request head may have. Default: 100. Beyond it the client gets 431.
    pub fn max_fields(mut self, fields: usize) -> Self {
        self.settings.limits.max_fields = fields;
        self
    }

    /// Signals that stop the server: the first one as [`ServerHandle::begin_shutdown`] does, a second one
    /// cuts what is left, a third one ends the process. Default: none, and then nothing is
    /// installed.
    ///
    /// They are caught from [`bind`](Self::bind) on, which fails for those that cannot be.
    pub fn on_signals(mut self, signals: impl IntoIterator<Item = i32>) -> Self {
        self.signals.extend(signals);
        self
    }

    /// Has `hook` run when draining starts, on a thread of its own beside the others and beside the
    /// requests that are finished. It is waited for within the grace period; the report says how it
    /// ended.
    pub fn on_shutdown(
        mut self,
        name: impl Into<String>,
        hook: impl FnOnce() + Send + 'static,
    ) -> Self {
        self.hooks.on_shutdown.push(Hook::new(name, hook));
        self
    }

    /// Has `hook` run after the last request, when no handler runs any more but those that are
    /// reported as stuck: the place to close what handlers use. Several run one after the other in
    /// the order they were given. They are waited for until the stop's deadline, and at least for
    /// [`cut_grace`](Self::cut_grace).
    pub fn on_stopped(
        mut self,
        name: impl Into<String>,
        hook: impl FnOnce() + Send + 'static,
    ) -> Self {
        self.hooks.on_stopped.push(Hook::new(name, hook));
        self
    }

    /// Stops the server when `context` is cancelled: one that [`notify`](crate::signal::notify) or
    /// [`Context::root`] has made.
    pub fn context(mut self, context: &Context) -> Self {
        self.context = Some(context.clone());
        self
    }

    /// Listens. The ports are known and clients can connect from here on; they are served once the
    /// server runs.
    ///
    /// # Errors
    ///
    /// [`Error::Address`], [`Error::Listen`] if an address cannot be listened on;
    /// [`Error::SignalForbidden`], [`Error::Signal`] if a signal cannot be caught; [`Error::Start`]
    /// if the process is out of descriptors.
    pub fn bind(self, addr: impl Listen) -> Result<Bound> {
        let caught = Caught::install(self.signals)?;
        let listeners = addr.listen(self.settings.backlog)?.0;
        let waker = Arc::new(Waker::new().map_err(|source| Error::Start {
            what: "waker",
            source,
        })?);
        self.clock.on_advance(&waker);
        let (lame_duck, grace_period) = (self.settings.lame_duck, self.settings.grace_period);
        let ledger = Ledger::new(Arc::downgrade(&waker));
        let shared = Shared {
            lifecycle: Arc::new(Lifecycle::new(
                self.clock,
                lame_duck,
                grace_period,
                Arc::downgrade(&waker),
            )),
            ledger,
            pool: OnceLock::new(),
            ran: AtomicBool::new(false),
            report: OnceLock::new(),
        };
        let handle = ServerHandle(Arc::new(shared));
        if let Some(context) = self.context {
            let (begin, cut) = (handle.downgrade(), handle.downgrade());
            context.on_cancel(
                move || begin.begin(StopCause::Context),
                move || cut.cut(StopCause::Context),
            );
        }
        Ok(Bound {
            settings: self.settings,
            hooks: self.hooks,
            caught,
            listeners,
            waker,
            handle,
        })
    }

    #[cfg(test)]
    pub(crate) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    #[cfg(test)]
    pub(crate) fn transport(
        mut self,
        make: fn(crate::conn::transport::Socket) -> Box<dyn crate::conn::transport::Transport>,
    ) -> Self {
        self.settings.transport = make;
        self
    }

    #[cfg(test)]
    pub(crate) fn test_points(mut self, test_points: &crate::sys::test_points::TestPoints) -> Self {
        self.settings.test_points = test_points.clone();
        self
    }
}

/// A server that listens and does not serve yet. Dropping it closes the listeners: who has
/// connected meanwhile is reset.
#[derive(Debug)]
#[must_use = "clients that connect wait until it runs"]
pub struct Bound {
    settings: Settings,
    hooks: Hooks,
    caught: Caught,
    listeners: Vec<Listener>,
    waker: Arc<Waker>,
    handle: ServerHandle,
}

impl Bound {
    /// The first internet address it listens on.
    ///
    /// # Panics
    ///
    /// If it listens on unix sockets only; see [`local_addrs`](Self::local_addrs).
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        first_tcp(self.listeners.iter().map(|listener| &listener.addr))
    }

    /// All addresses it listens on.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<Addr> {
        self.listeners
            .iter()
            .map(|listener| listener.addr.clone())
            .collect()
    }

    /// What the server can be stopped with, from any thread.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Serves until the server has stopped, and says how it did.
    ///
    /// Blocks until something asks for the stop: a signal, a [`ServerHandle`], the
    /// [context](ServerBuilder::context) it was built with.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] if it was told to stop before; [`Error::Start`] if a thread cannot be
    /// made.
    pub fn run(self, handler: impl Handler) -> Result<Report> {
        Ok(self.spawn(handler)?.join())
    }

    /// Serves on threads of its own, and returns at once.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn spawn(self, handler: impl Handler) -> Result<Running> {
        let Self {
            settings,
            hooks,
            caught,
            listeners,
            waker,
            handle,
        } = self;
        let addrs = listeners
            .iter()
            .map(|listener| listener.addr.clone())
            .collect();
        let shared = handle.0.clone();
        if shared.ran.swap(true, SeqCst) {
            return Err(Error::Stopped);
        }
        let workers = settings.workers;
        let (sender, accepted) = bounded(MAX_ACCEPTED);
        let handler = Kept(Some(handler));
        let handler = Box::new(move |request, context| handler.get().handle(request, context));
        let (lifecycle, ledger) = (shared.lifecycle.clone(), shared.ledger.clone());
        let pool = Pool::new(settings, lifecycle, ledger, handler, accepted, waker);
        let pool = Arc::new(pool.map_err(|source| Error::Start {
            what: "poller",
            source,
        })?);
        let _ = shared.pool.set(Arc::downgrade(&pool));

        let threads = start_pool(&pool, workers).map_err(|source| Error::Start {
            what: "threads",
            source,
        })?;
        let (begin, cut) = (handle.clone(), handle.clone());
        let begin = move |signal| begin.begin(StopCause::Signal(signal));
        let cut = move |signal| cut.cut(StopCause::Signal(signal));
        let signals = caught.listen(begin, cut).map_err(|source| Error::Start {
            what: "signal thread",
            source,
        })?;
        let acceptor = Acceptor::new(pool, listeners, sender, threads, hooks);
        let accepting = std::thread::Builder::new().name("lameduck-acceptor".to_owned());
        accepting
            .spawn(move || accept_and_drain(acceptor, &shared, signals))
            .map_err(|source| Error::Start {
                what: "acceptor thread",
                source,
            })?;
        Ok(Running { handle, addrs })
    }
}

/// A handler, which is user code's to drop: by whichever of our threads is the last.
struct Kept<H>(Option<H>);

impl<H> Kept<H> {
    fn get(&self) -> &H {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<H> Drop for Kept<H> {
    fn drop(&mut self) {
        if let Err(panic) = panics::catch(|| drop(self.0.take())) {
            log::error!("a handler panicked when it was dropped: {panic}");
        }
    }
}

/// The acceptor's thread.
fn accept_and_drain(mut acceptor: Acceptor, shared: &Shared, signals: Option<SignalThread>) {
    let accepted_and_drained = panics::catch(|| {
        acceptor.run_until(Phase::Draining);
        shutdown::drain(acceptor)
    });
    // Nobody who waits for the stop is to wait for ever for a fault of ours.
    let report = accepted_and_drained.unwrap_or_else(|panic| {
        log::error!("the acceptor panicked: {panic}");
        shared.lifecycle.enter(Phase::Stopped);
        Report::of_fault("lameduck-acceptor")
    });
    drop(signals);
    shared.conclude(report);
}

/// Starts the workers and the monitor. If one cannot be started, those that were end again.
fn start_pool(pool: &Arc<Pool>, workers: usize) -> std::io::Result<Threads> {
    let (to, ended) = unbounded();
    let mut handles = Vec::with_capacity(workers + 1);
    for me in 0..=workers {
        let shared = pool.clone();
        let ended = Ended {
            thread: me,
            to: to.clone(),
        };
        let (name, run): (_, Box<dyn FnOnce() + Send>) = if me < workers {
            (
                format!("lameduck-worker-{me}"),
                Box::new(move || Worker::new(me, &shared).run()),
            )
        } else {
            (
                "lameduck-monitor".to_owned(),
                Box::new(move || Monitor::new(&shared).run()),
            )
        };
        let run = move || {
            let _ended = ended;
            run();
        };
        let started = std::thread::Builder::new()
            .name(name)
            .spawn(run)
            .inspect_err(|_| {
                pool.lifecycle.enter(Phase::Stopped);
                pool.permits.close();
                pool.poller.wake();
            });
        handles.push(started?);
    }
    Ok(Threads { handles, ended })
}

/// A server that serves. Dropping it begins the stop, and does not wait for it.
#[derive(Debug)]
#[must_use = "dropping it begins the stop"]
pub struct Running {
    handle: ServerHandle,
    addrs: Vec<Addr>,
}

impl Running {
    /// The first internet address it listens on.
    ///
    /// # Panics
    ///
    /// If it listens on unix sockets only; see [`local_addrs`](Self::local_addrs).
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        first_tcp(self.addrs.iter())
    }

    /// All addresses it listens on.
    #[must_use]
    pub fn local_addrs(&self) -> &[Addr] {
        &self.addrs
    }

    /// What the server can be stopped with, from any thread.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Waits until the server has stopped, which something else has to ask for, and says how it
    /// did.
    pub fn join(self) -> Report {
        self.handle.0.wait()
    }

    /// A channel that disconnects when the server has stopped, for `select!` beside others.
    #[must_use]
    pub fn stopped(&self) -> &Receiver<()> {
        self.handle.0.lifecycle.stopped.receiver()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.begin(StopCause::Dropped);
    }
}

/// What a server can be stopped with, from any thread. A cheap clone.
#[derive(Debug, Clone)]
pub struct ServerHandle(Arc<Shared>);

/// What is left of a server whoever owns its parts.
#[derive(Debug)]
struct Shared {
    lifecycle: Arc<Lifecycle>,
    ledger: Arc<Ledger>,
    /// Gone, with its descriptors, when the server has stopped.
    pool: OnceLock<Weak<Pool>>,
    /// It was run, or told to stop before it could be.
    ran: AtomicBool,
    report: OnceLock<Report>,
}

impl ServerHandle {
    /// Begins the stop and returns at once; also for handlers.
    ///
    /// New connections are served for [`lame_duck`](ServerBuilder::lame_duck), then those in the kernel's
    /// accept backlog are still answered and the listeners close. A client with a request in flight
    /// gets its response, with `Connection: close`; an idle one sees its connection close. What is
    /// left after [`grace_period`](ServerBuilder::grace_period) is cut and counted. A stop that was begun
    /// before goes on unchanged.
    pub fn begin_shutdown(&self) {
        self.begin(StopCause::Handle);
    }

    /// Begins the stop without lame duck and with `within` instead of the grace period, and returns
    /// at once; also for handlers. A stop that was begun before can only become shorter.
    pub fn begin_shutdown_within(&self, within: Duration) {
        self.0
            .begin(|lifecycle| lifecycle.begin_stop_within(StopCause::Handle, within));
    }

    /// Shuts the server down and waits until every connection has ended.
    ///
    /// Blocks for at most `lame_duck + grace_period + cut_grace`: a handler still running then is
    /// left on its thread and counted as stuck. A second call, from any thread, waits for the same
    /// stop and returns an equal report.
    ///
    /// # Panics
    ///
    /// Called from a handler, which would wait for itself, it begins the stop and then panics; use
    /// [`begin_shutdown`](Self::begin_shutdown) there.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use lameduck::Server;
    ///
    /// let server = Server::builder()
    ///     .grace_period(Duration::from_secs(20))
    ///     .bind("127.0.0.1:0")?
    ///     .spawn(|_request, _context| "hello\n")?;
    ///
    /// let report = server.handle().shutdown();
    /// assert!(report.is_clean(), "{report}");
    /// # Ok::<(), lameduck::Error>(())
    /// ```
    pub fn shutdown(&self) -> Report {
        self.begin_shutdown();
        self.wait("shutdown")
    }

    /// Shuts the server down without lame duck and with `within` instead of the grace period, and
    /// waits until every connection has ended: for at most `within + cut_grace`. A stop that was
    /// begun before can only become shorter.
    ///
    /// # Panics
    ///
    /// As [`shutdown`](Self::shutdown).
    pub fn shutdown_within(&self, within: Duration) -> Report {
        self.begin_shutdown_within(within);
        self.wait("shutdown_within")
    }

    /// Cuts everything now and waits until that is done. A client with a request in flight gets 503
    /// if its response is not begun, and a reset connection if it is.
    ///
    /// # Panics
    ///
    /// As [`shutdown`](Self::shutdown).
    pub fn close(&self) -> Report {
        self.cut(StopCause::Handle);
        self.wait("close")
    }

    /// Where the server is on its way from running to stopped.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.0.lifecycle.phase()
    }

    /// Whether the server serves and is not about to stop: what a readiness probe asks.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.pool.get().is_some() && self.phase() == Phase::Running
    }

    /// What the server has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (ledger, report) = (&self.0.ledger, self.0.report.get());
        let pool = self.0.pool.get().and_then(Weak::upgrade);
        Stats {
            open: ledger.len(),
            accepted: ledger.accepted(),
            closed: CloseReason::ALL
                .iter()
                .map(|reason| ledger.ended(*reason))
                .sum(),
            upgraded: pool.as_ref().map_or(0, |pool| pool.dedicated.upgraded()),
            answered: match (report, pool) {
                (Some(report), _) => report.answered.iter().map(|(_, n)| n).sum(),
                (None, Some(pool)) => Phase::ALL.iter().map(|phase| pool.answered(*phase)).sum(),
                (None, None) => 0,
            },
            evicted: ledger.ended(CloseReason::Evicted) + ledger.ended(CloseReason::NoSlot),
            overloaded: ledger.ended(CloseReason::Overloaded),
            paused: ledger.paused(),
        }
    }

    pub(crate) fn begin(&self, cause: StopCause) {
        self.0.begin(|lifecycle| lifecycle.begin_stop(cause));
    }

    /// Ends every wait of the stop now.
    pub(crate) fn cut(&self, cause: StopCause) {
        self.0
            .begin(|lifecycle| lifecycle.begin_stop_within(cause, Duration::ZERO));
    }

    /// Has `then` called with the report when the server has stopped: it must be short and not
    /// block.
    pub(crate) fn on_stopped(&self, then: impl FnOnce(Report) + Send + 'static) {
        let shared = Arc::downgrade(&self.0);
        self.0.lifecycle.stopped.on_raise(move || {
            if let Some(report) = shared
                .upgrade()
                .and_then(|shared| shared.report.get().cloned())
            {
                then(report);
            }
        });
    }

    /// For who must not keep the server's parts alive.
    fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.0))
    }

    fn wait(&self, call: &str) -> Report {
        assert!(
            !is_awaited(),
            "`{call}` waits for the handler or hook it was called from; use `begin_shutdown`"
        );
        self.0.wait()
    }
}

/// A handle for a context, which may live longer than the server and be shared with others.
struct WeakHandle(Weak<Shared>);

impl WeakHandle {
    fn begin(&self, cause: StopCause) {
        if let Some(shared) = self.0.upgrade() {
            ServerHandle(shared).begin(cause);
        }
    }

    fn cut(&self, cause: StopCause) {
        if let Some(shared) = self.0.upgrade() {
            ServerHandle(shared).cut(cause);
        }
    }
}

/// A server's counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that are open.
    pub open: usize,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections that have ended since the start.
    pub closed: u64,
    /// Responses made since the start.
    pub answered: u64,
    /// Of those that are open: upgraded ones.
    pub upgraded: usize,
    /// Of those that have ended: idle ones that were closed to make room for others.
    pub evicted: u64,
    /// Of those that have ended: ones on which a request found no worker in time, and was answered
    /// with 503.
    pub overloaded: u64,
    /// How long in all clients had to wait in the accept backlog for want of room: see
    /// [`Report::paused`].
    pub paused: Duration,
}

impl Shared {
    fn begin(&self, begin: impl FnOnce(&Lifecycle)) {
        begin(&self.lifecycle);
        // One that never ran has nothing to drain, and never will.
        if !self.ran.swap(true, SeqCst) {
            let plan = self.lifecycle.plan().expect("a stop was just begun");
            self.lifecycle.enter(Phase::Stopped);
            self.conclude(Report::new(plan.cause));
        }
    }

    fn conclude(&self, report: Report) {
        let _ = self.report.set(report);
        self.lifecycle.draining.raise();
        self.lifecycle.cancelled.raise();
        self.lifecycle.stopped.raise();
    }

    fn wait(&self) -> Report {
        let _ = self.lifecycle.stopped.receiver().recv();
        self.report
            .get()
            .expect("the report is there before the server counts as stopped")
            .clone()
    }
}

fn first_tcp<'a>(mut addrs: impl Iterator<Item = &'a Addr>) -> SocketAddr {
    let tcp = addrs.find_map(|addr| {
        if let Addr::Tcp(addr) = addr {
            Some(*addr)
        } else {
            None
        }
    });
    tcp.expect("`local_addr` is for servers that listen on an internet address")
}

#[cfg(test)]
mod tests;
