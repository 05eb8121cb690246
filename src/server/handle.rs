//! The handle that stops a server from any thread. It still answers when the server has ended.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::lifecycle::ledger::{CloseReason, Ledger};
use crate::lifecycle::phase::{Lifecycle, Phase, StopCause, is_awaited};
use crate::lifecycle::report::Report;
use crate::pool::shared::Pool;

/// Stops a server, from any thread, and says what the server does. A clone is cheap.
#[derive(Debug, Clone)]
pub struct ServerHandle(Arc<Shared>);

/// The state of a server that its handles share. It outlives the server.
#[derive(Debug)]
struct Shared {
    lifecycle: Arc<Lifecycle>,
    ledger: Arc<Ledger>,
    /// The pool of the running server. It is gone, with its descriptors, when the server has
    /// stopped.
    pool: OnceLock<Weak<Pool>>,
    /// Whether the server was run, or was told to stop before it could be.
    has_run: AtomicBool,
    report: OnceLock<Report>,
}

impl ServerHandle {
    /// Begins the stop and returns at once. Handlers may call it too.
    ///
    /// New connections are served for [`lame_duck`](crate::ServerBuilder::lame_duck). Then those in
    /// the kernel's accept backlog are still answered, and the listeners close. A client with a
    /// request in flight gets its response, with `Connection: close`; an idle client sees its
    /// connection close. What is left after
    /// [`grace_period`](crate::ServerBuilder::grace_period) is cut and counted. A stop that was
    /// begun before goes on unchanged.
    pub fn begin_shutdown(&self) {
        self.begin_stop(StopCause::Handle);
    }

    /// Begins the stop without lame duck and with `within` instead of the grace period, and returns
    /// at once. Handlers may call it too.
    ///
    /// Zero cuts at once; [`Duration::MAX`] never cuts. A stop that was begun before can only
    /// become shorter.
    pub fn begin_shutdown_within(&self, within: Duration) {
        self.0
            .ask_for_stop(|lifecycle| lifecycle.begin_stop_within(StopCause::Handle, within));
    }

    /// Shuts the server down and waits until every connection has ended.
    ///
    /// Clients see what [`begin_shutdown`](Self::begin_shutdown) describes. A second call, from any
    /// thread, waits for the same stop and returns an equal report.
    ///
    /// # How long it takes
    ///
    /// At most `lame_duck + grace_period + cut_grace` and half a second, whatever handlers, bodies,
    /// hooks and the program's logger do. All waits of the stop share this time: a handler that
    /// still runs at its end is left on its thread and counted as stuck, and a hook as late. Most
    /// stops are over as soon as the last response is sent and idle clients have seen their
    /// connections close.
    ///
    /// # Panics
    ///
    /// A handler or a hook would wait for itself. Called from there it begins the stop and then
    /// panics; use [`begin_shutdown`](Self::begin_shutdown) instead.
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
    /// waits until every connection has ended.
    ///
    /// Blocks for at most `within + cut_grace` and half a second, as described at
    /// [`shutdown`](Self::shutdown). A stop that was begun before can only become
    /// shorter.
    ///
    /// # Panics
    ///
    /// As [`shutdown`](Self::shutdown).
    pub fn shutdown_within(&self, within: Duration) -> Report {
        self.begin_shutdown_within(within);
        self.wait("shutdown_within")
    }

    /// Cuts every connection now and waits until that is done.
    ///
    /// A client with a request in flight gets 503 if its response is not begun, and a reset
    /// connection if it is. Blocks for at most [`cut_grace`](crate::ServerBuilder::cut_grace) and
    /// half a second, as described at [`shutdown`](Self::shutdown).
    ///
    /// # Panics
    ///
    /// As [`shutdown`](Self::shutdown).
    pub fn close(&self) -> Report {
        self.cut(StopCause::Handle);
        self.wait("close")
    }

    /// Returns the phase that the server is in, on its way from running to stopped.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.0.lifecycle.phase()
    }

    /// Returns whether the server serves and is not about to stop, for a readiness probe.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.pool.get().is_some() && self.phase() == Phase::Running
    }

    /// Returns what the server has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (ledger, report) = (&self.0.ledger, self.0.report.get());
        let pool = self.pool();
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

    /// Makes the handle of a server that does not run yet.
    pub(super) fn new(lifecycle: Arc<Lifecycle>, ledger: Arc<Ledger>) -> Self {
        Self(Arc::new(Shared {
            lifecycle,
            ledger,
            pool: OnceLock::new(),
            has_run: AtomicBool::new(false),
            report: OnceLock::new(),
        }))
    }

    pub(super) fn lifecycle(&self) -> &Arc<Lifecycle> {
        &self.0.lifecycle
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.0.ledger
    }

    /// Claims the one run that a server has. False: the server has run, or was told to stop before
    /// it could.
    pub(super) fn claim_run(&self) -> bool {
        !self.0.has_run.swap(true, SeqCst)
    }

    /// Sets the pool whose counts [`stats`](Self::stats) reads while the server runs.
    pub(super) fn set_pool(&self, pool: &Arc<Pool>) {
        let _ = self.0.pool.set(Arc::downgrade(pool));
    }

    /// Returns the pool, while the server runs.
    pub(super) fn pool(&self) -> Option<Arc<Pool>> {
        self.0.pool.get().and_then(Weak::upgrade)
    }

    /// Gives the report to all threads that wait for the stop. The server counts as stopped from
    /// now on.
    pub(super) fn conclude(&self, report: Report) {
        self.0.conclude(report);
    }

    /// Waits for the report of a stop, without asking for one.
    pub(super) fn wait_for_report(&self) -> Report {
        let _ = self.stopped().recv();
        let report = self.0.report.get();
        report
            .expect("the report is there before the server counts as stopped")
            .clone()
    }

    pub(super) fn stopped(&self) -> &Receiver<()> {
        self.0.lifecycle.stopped.receiver()
    }

    pub(crate) fn begin_stop(&self, cause: StopCause) {
        self.0.ask_for_stop(|lifecycle| lifecycle.begin_stop(cause));
    }

    /// Ends every wait of the stop now.
    pub(crate) fn cut(&self, cause: StopCause) {
        self.0
            .ask_for_stop(|lifecycle| lifecycle.begin_stop_within(cause, Duration::ZERO));
    }

    /// Has `then` called with the report when the server has stopped. `then` must be short and must
    /// not block.
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

    /// Returns a handle that does not keep the server's parts alive.
    pub(super) fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.0))
    }

    fn wait(&self, call: &str) -> Report {
        assert!(
            !is_awaited(),
            "`{call}` waits for the handler or hook it was called from; use `begin_shutdown`"
        );
        self.wait_for_report()
    }
}

/// The handle that a context holds. A context may live longer than the server, and be shared with
/// other servers.
pub(super) struct WeakHandle(Weak<Shared>);

impl WeakHandle {
    pub(super) fn begin_stop(&self, cause: StopCause) {
        if let Some(shared) = self.0.upgrade() {
            ServerHandle(shared).begin_stop(cause);
        }
    }

    pub(super) fn cut(&self, cause: StopCause) {
        if let Some(shared) = self.0.upgrade() {
            ServerHandle(shared).cut(cause);
        }
    }
}

/// A server's counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The connections that are open.
    pub open: usize,
    /// The connections that were accepted since the start.
    pub accepted: u64,
    /// The connections that have ended since the start.
    pub closed: u64,
    /// The responses that were made since the start.
    pub answered: u64,
    /// The open connections that are upgraded.
    pub upgraded: usize,
    /// The ended connections that were closed while idle, to make room for others.
    pub evicted: u64,
    /// The ended connections on which a request found no worker in time, and was answered with 503.
    pub overloaded: u64,
    /// The time in all that clients had to wait in the accept backlog for want of room: see
    /// [`ListenersReport::accept_paused`](crate::report::ListenersReport::accept_paused).
    pub paused: Duration,
}

impl Shared {
    fn ask_for_stop(&self, ask: impl FnOnce(&Lifecycle)) {
        ask(&self.lifecycle);
        // A server that has not run has nothing to drain, and cannot be run any more.
        if !self.has_run.swap(true, SeqCst) {
            let plan = self.lifecycle.plan().expect("a stop was just asked for");
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
}
