//! What a server will be like, and the call that makes it listen.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::hooks::{Hook, Hooks};
use crate::lifecycle::ledger::Ledger;
use crate::lifecycle::phase::{Lifecycle, StopCause};
use crate::listen::listener::Listen;
use crate::pool::test_seams::TestSeams;
use crate::server::bound::Bound;
use crate::server::handle::ServerHandle;
use crate::server::signals::Caught;
use crate::settings::{MAX_CONNECTIONS, MAX_WORKERS, Settings};
use crate::sys::clock::Clock;
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
            seams: TestSeams::default(),
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
    seams: TestSeams,
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
    /// in the kernel's accept backlog. Default: 80 % of the descriptors the process may have. A
    /// value below 1 means 1, one above 4,194,304 means that.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = Some(connections.clamp(1, MAX_CONNECTIONS));
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
        let waker_ref = Arc::downgrade(&waker);
        let lifecycle = Lifecycle::new(self.clock, lame_duck, grace_period, waker_ref.clone());
        let handle = ServerHandle::new(Arc::new(lifecycle), Ledger::new(waker_ref));
        if let Some(context) = self.context {
            let (begin, cut) = (handle.downgrade(), handle.downgrade());
            context.on_cancel(
                move || begin.begin_stop(StopCause::Context),
                move || cut.cut(StopCause::Context),
            );
        }
        Ok(Bound {
            settings: self.settings,
            seams: self.seams,
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
        self.seams.transport = make;
        self
    }

    #[cfg(test)]
    pub(crate) fn test_points(mut self, test_points: &crate::sys::test_points::TestPoints) -> Self {
        self.seams.test_points = test_points.clone();
        self
    }
}
