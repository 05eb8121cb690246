//! The builder, which describes a server and has it listen.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::hooks::{Hook, Hooks};
use crate::lifecycle::ledger::Ledger;
use crate::lifecycle::phase::{Lifecycle, StopCause};
use crate::listen::addresses::{self, Listen};
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
    /// Starts to describe a server.
    ///
    /// Every limit and every time has a default that is safe on the open internet.
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

/// The description of a server that is to be bound: see [`Server::builder`].
///
/// Each method sets one thing. A second call replaces the first, except for signals and hooks,
/// which add up. With a timeout of zero the server gives up as soon as it has to wait; with one of
/// [`Duration::MAX`] it waits for ever.
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
    /// Sets how many workers the pool has, which is how many handlers can run at the same time,
    /// except those that [read a long body](Self::collect_bytes).
    /// Default: four for each core, but at least 16. Zero counts as 1, and more than 10,000 as
    /// 10,000.
    ///
    /// A handler that blocks occupies one worker. Clients that are slow, idle or silent occupy
    /// none. See [choosing the numbers](crate::docs::choosing) for how slow handlers share them.
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers.clamp(1, MAX_WORKERS);
        self
    }

    /// Sets how many connections may be open at the same time. Default: 80 % of the descriptors
    /// that the process may have. Zero counts as 1, and more than 4,194,304 as 4,194,304.
    ///
    /// When so many are open, a new connection takes the place of the one that has been idle
    /// longest, if that is longer than [`idle_grace`](Self::idle_grace). Otherwise its client waits
    /// in the kernel's accept backlog.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = Some(connections.clamp(1, MAX_CONNECTIONS));
        self
    }

    /// Sets how many connections the kernel holds until they are accepted, for each address.
    /// Default: 4096.
    ///
    /// The kernel allows no more than `net.core.somaxconn` (listen(2)). A client that comes when
    /// the backlog is full repeats its attempt until there is room.
    pub fn backlog(mut self, connections: u16) -> Self {
        self.settings.backlog = i32::from(connections);
        self
    }

    /// Sets how long a stopping server still accepts connections, as a lame duck. Default: zero,
    /// which skips the phase.
    ///
    /// In this time a load balancer can notice that the server is not
    /// [ready](crate::Context::readiness) any more, and send its clients elsewhere. Clients are
    /// served as before, and each response says `Connection: close`. The phase always lasts its
    /// full time.
    pub fn lame_duck(mut self, period: Duration) -> Self {
        self.settings.lame_duck = period;
        self
    }

    /// Sets how long a request in flight gets once draining starts. Default: 25 s. Zero cuts at
    /// once; [`Duration::MAX`] never cuts.
    ///
    /// After this time a client whose response is not begun gets 503, and a client whose response
    /// is begun has [`cut_grace`](Self::cut_grace) to receive the rest.
    pub fn grace_period(mut self, period: Duration) -> Self {
        self.settings.grace_period = period;
        self
    }

    /// Sets how long an idle connection must have been silent before a draining server closes it,
    /// or a full server closes it to make room. Default: 1.3 s. Zero closes every idle connection
    /// at once.
    ///
    /// Many clients poll at whole seconds, so a whole number of seconds would end just when their
    /// next request is on its way. A connection whose last pause between two requests was within a
    /// quarter of this period is kept a quarter of it longer than that pause: its client is about to
    /// send, and its next response says `Connection: close`.
    pub fn idle_grace(mut self, period: Duration) -> Self {
        self.settings.idle_grace = period;
        self
    }

    /// Sets how long a response that has begun, or a 503, gets to arrive after the stop's deadline.
    /// Default: 1 s. Zero resets the connections at once.
    ///
    /// An idle connection is closed then too, and gets up to 400 ms even if this is zero: a request
    /// that crosses its close is named in the report.
    pub fn cut_grace(mut self, period: Duration) -> Self {
        self.settings.cut_grace = period;
        self
    }

    /// Sets how long a client may take for the head of a request, from its first byte. Default:
    /// 10 s.
    ///
    /// A client that takes longer gets 408. A client that has sent nothing since it connected sees
    /// its connection close after this time.
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.settings.head_timeout = timeout;
        self
    }

    /// Sets how long a connection is kept open between requests. Default: 75 s. Zero closes it as
    /// soon as no further request is there.
    ///
    /// The client then sees its connection close (RFC 9112 section 9.5). Behind a proxy, the time
    /// should be longer than the idle timeout of the proxy.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout;
        self
    }

    /// Sets how long a client may send nothing of a body that it has announced. Default: 30 s.
    ///
    /// A client that is silent for longer gets 408; if the handler reads the body itself, the
    /// handler gets an error.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.settings.body_timeout = timeout;
        self
    }

    /// Sets how long a client may take nothing of its response. Default: 30 s. After that the
    /// connection is reset.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.settings.write_timeout = timeout;
        self
    }

    /// Sets the least rate, in bytes per second, at which a client must send its request body and
    /// take its response. Default: 500. Zero allows any rate.
    ///
    /// The rate counts once the server has waited for the client for 10 s in all. A client that is
    /// slower is treated as one that has reached [`body_timeout`](Self::body_timeout) or
    /// [`write_timeout`](Self::write_timeout). A client that goes on sending its body after it was
    /// answered is read for up to 30 s, so that it can send all of it and then read the answer; if
    /// it is slower than this rate, for 10 s.
    pub fn min_rate(mut self, bytes_per_second: u64) -> Self {
        self.settings.min_rate = bytes_per_second;
        self
    }

    /// Sets how long a complete request may wait for a worker. Default: 10 s. After that the client
    /// gets 503 with `Retry-After`.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.queue_timeout = timeout;
        self
    }

    /// Sets the size, in bytes, up to which a request body is collected before the handler is
    /// called. Default: 64 KiB. With zero no body is collected, and the handler is called as soon
    /// as the head is complete.
    ///
    /// A longer body is read by the handler as it comes, on a dedicated thread: see
    /// [`max_dedicated_threads`](Self::max_dedicated_threads).
    pub fn collect_bytes(mut self, bytes: usize) -> Self {
        self.settings.collect_bytes = bytes;
        self
    }

    /// Sets how many bytes a request body may have. Default: no limit.
    ///
    /// A client that declares a longer one gets 413 at once: the handler is not called, and a client
    /// that waits for `100 Continue` does not send the body. A chunked body that turns out to be
    /// longer is answered with 413 too, if it is [collected](Self::collect_bytes); a handler that
    /// reads it as it comes gets [`BodyError::TooLong`](crate::body::BodyError::TooLong), which is a
    /// 413 if the handler returns it. A handler or a route can have a lower limit of its own:
    /// [`body_limit`](crate::layers::body_limit).
    pub fn max_body_bytes(mut self, bytes: u64) -> Self {
        self.settings.max_body_bytes = bytes;
        self
    }

    /// Sets how many connections may have a dedicated thread at the same time. Default: 1000. Zero
    /// allows none.
    ///
    /// [Upgraded](crate::upgrade::accept) connections have one, and responses that are made by
    /// [`Body::stream`](crate::Body::stream). A client whose request needs one more gets 503 with
    /// `Retry-After`.
    ///
    /// So have handlers whose request has a body longer than
    /// [`collect_bytes`](Self::collect_bytes), and responses that are made by
    /// [`Body::writer`](crate::Body::writer). If there is none left for them, they take a worker,
    /// as slow handlers do.
    pub fn max_dedicated_threads(mut self, threads: usize) -> Self {
        self.settings.max_dedicated_threads = threads;
        self
    }

    /// Sets how many bytes a request line may have. Default: 16 KiB; RFC 9112 section 3 asks for at
    /// least 8000. A client that sends a longer one gets 414.
    pub fn max_request_line_bytes(mut self, bytes: usize) -> Self {
        self.settings.limits.max_request_line_bytes = bytes;
        self
    }

    /// Sets how many bytes a request head may have in all. Default: 64 KiB. A client that sends a
    /// longer one gets 431 (RFC 6585 section 5).
    pub fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.settings.limits.max_head_bytes = bytes;
        self
    }

    /// Sets how many fields a request head may have. Default: 100. A client that sends more gets
    /// 431.
    pub fn max_fields(mut self, fields: usize) -> Self {
        self.settings.limits.max_fields = fields;
        self
    }

    /// Sets whether the names of response fields that a handler sets are written in title case, as in
    /// `X-Request-Id`. Default: no, which is lower case, as in `x-request-id`.
    ///
    /// The names of fields have no case (RFC 9110 section 5.1), but some old clients look for one
    /// spelling. The server's own fields, such as `Content-Length`, are in title case always.
    pub fn title_case_fields(mut self, title_case: bool) -> Self {
        self.settings.title_case_fields = title_case;
        self
    }

    /// Adds signals that stop the server. Default: none, and no signal handler is installed.
    ///
    /// The first signal does what [`ServerHandle::begin_shutdown`] does. A second one cuts what is
    /// left, and a third one ends the process. The same signal again within 300 ms does not count.
    /// Signals are caught from [`bind`](Self::bind) on, which fails for those that cannot be caught.
    /// They arrive even if the process was started with them blocked.
    pub fn on_signals(mut self, signals: impl IntoIterator<Item = i32>) -> Self {
        self.signals.extend(signals);
        self
    }

    /// Adds a hook that runs when draining starts, beside the requests that are still served.
    ///
    /// Each hook has its own thread, so several run at the same time; if no thread can be started
    /// then, they run one after the other. The stop waits for them, at most for the
    /// [`grace_period`](Self::grace_period). The report says how each one ended.
    pub fn on_shutdown(
        mut self,
        name: impl Into<String>,
        hook: impl FnOnce() + Send + 'static,
    ) -> Self {
        self.hooks.on_shutdown.push(Hook::new(name, hook));
        self
    }

    /// Adds a hook that runs after the last request: the place to close what handlers use.
    ///
    /// No handler runs then, except those that the report names as stuck. Several hooks run one
    /// after the other, in the order in which they were added, on a thread that is started with the
    /// server. The stop waits for them as long as it
    /// [may take](crate::ServerHandle::shutdown). The report says how each one
    /// ended.
    pub fn on_stopped(
        mut self,
        name: impl Into<String>,
        hook: impl FnOnce() + Send + 'static,
    ) -> Self {
        self.hooks.on_stopped.push(Hook::new(name, hook));
        self
    }

    /// Sets a context that stops the server when it is cancelled. Default: none.
    ///
    /// [`notify`](crate::signal::notify) and [`Context::root`] make such contexts.
    pub fn context(mut self, context: &Context) -> Self {
        self.context = Some(context.clone());
        self
    }

    /// Listens on `addr`, which may be several addresses: see [`Listen`].
    ///
    /// From here on the ports are known and clients can connect. They wait in the kernel's accept
    /// backlog until the server runs. This call does not block, except to look up a host name, or
    /// for a second if another program has locked the directory of a unix socket.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] and [`Error::Listen`] if an address cannot be listened on;
    /// [`Error::SignalForbidden`] and [`Error::Signal`] if a signal cannot be caught;
    /// [`Error::Start`] if the process is out of descriptors.
    pub fn bind(self, addr: impl Listen) -> Result<Bound> {
        let caught = Caught::install(self.signals)?;
        let listeners = addresses::listen(addr, self.settings.backlog)?;
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
