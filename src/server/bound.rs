//! A server that listens, and one that serves: what lies between is the start of its threads.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::conn::message::{Request, Response};
use crate::error::{Error, Result};
use crate::handler::Handler;
use crate::lifecycle::context::Context;
use crate::lifecycle::hooks::Hooks;
use crate::lifecycle::phase::{Phase, StopCause};
use crate::lifecycle::report::Report;
use crate::listen::acceptor::{Acceptor, Threads};
use crate::listen::listener::{Addr, Listener};
use crate::pool::monitor::Monitor;
use crate::pool::shared::{DynHandler, Pool};
use crate::pool::test_seams::TestSeams;
use crate::pool::worker::{Ended, Worker};
use crate::server::handle::ServerHandle;
use crate::server::shutdown;
use crate::server::signals::{Caught, SignalThread};
use crate::settings::{LOG_END, MAX_ACCEPTED, Settings};
use crate::sys::logging::{self, LogThread};
use crate::sys::panics;
use crate::sys::waker::Waker;

/// A server that listens and does not serve yet. Dropping it closes the listeners: who has
/// connected meanwhile is reset.
#[derive(Debug)]
#[must_use = "clients that connect wait until it runs"]
pub struct Bound {
    pub(super) settings: Settings,
    pub(super) seams: TestSeams,
    pub(super) hooks: Hooks,
    pub(super) caught: Caught,
    pub(super) listeners: Vec<Listener>,
    pub(super) waker: Arc<Waker>,
    pub(super) handle: ServerHandle,
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
    /// [context](crate::ServerBuilder::context) it was built with.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] if it was told to stop before; [`Error::Start`] if a thread or the poller
    /// cannot be made, or if no descriptor is left for a client.
    pub fn run(self, handler: impl Handler) -> Result<Report> {
        Ok(self.spawn(handler)?.join())
    }

    /// Serves on threads of its own, and returns at once.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn spawn(self, handler: impl Handler) -> Result<Running> {
        if !self.handle.claim_run() {
            return Err(Error::Stopped);
        }
        let handle = self.handle.clone();
        self.start(handler).inspect_err(|_| {
            // Nobody who waits for the stop is to wait for a server that will never run.
            handle.lifecycle().enter(Phase::Stopped);
            handle.conclude(Report::new(StopCause::NotStarted));
        })
    }

    /// Starts the threads. If one cannot be started, those that were have ended when this returns.
    fn start(self, handler: impl Handler) -> Result<Running> {
        let cannot_start = |what| move |source| Error::Start { what, source };
        let Self {
            settings,
            seams,
            hooks,
            caught,
            listeners,
            waker,
            handle,
        } = self;
        let addrs: Vec<_> = listeners
            .iter()
            .map(|listener| listener.addr.clone())
            .collect();
        let logs = LogThread::new();
        let (sender, accepted) = bounded(MAX_ACCEPTED);
        let handler = Box::new(DroppedInSafety(Some(handler)));
        let (lifecycle, ledger) = (handle.lifecycle().clone(), handle.ledger().clone());
        let pool = Pool::new(settings, seams, lifecycle, ledger, handler, accepted, waker);
        let pool = Arc::new(pool.map_err(cannot_start("poller"))?);
        handle.set_pool(&pool);

        let mut started = StartedPool::new(&pool);
        started.start_all().map_err(cannot_start("threads"))?;
        let hooks = hooks
            .ready(&pool.test_points)
            .map_err(cannot_start("hook thread"))?;
        let (stop, cut) = (handle.clone(), handle.clone());
        let signals = caught
            .listen(
                &pool.test_points,
                move |signal| stop.begin_stop(StopCause::Signal(signal)),
                move |signal| cut.cut(StopCause::Signal(signal)),
            )
            .map_err(cannot_start("signal thread"))?;
        check_descriptors(pool.waker.as_fd()).map_err(cannot_start("first connection"))?;
        // The thread gets what it needs once it runs: what a thread that cannot be started was given
        // would be dropped, and not ended.
        let (give, take) = bounded::<(Acceptor, Option<SignalThread>)>(1);
        let concluding = handle.clone();
        spawn(&pool, "lameduck-acceptor".to_owned(), move || {
            if let Ok((acceptor, signals)) = take.recv() {
                accept_and_drain(acceptor, concluding, signals, logs);
            }
        })
        .map_err(cannot_start("acceptor thread"))?;
        let threads = started.into_threads();
        let acceptor = Acceptor::new(pool, listeners, sender, threads, hooks);
        for addr in &addrs {
            match addr {
                Addr::Tcp(addr) => logging::info!("listening on http://{addr}"),
                addr => logging::info!("listening on {addr}"),
            }
        }
        let _ = give.send((acceptor, signals));
        Ok(Running { handle, addrs })
    }
}

/// A handler, which is user code's to drop: by whichever of our threads is the last.
struct DroppedInSafety<H>(Option<H>);

impl<H> DroppedInSafety<H> {
    fn get(&self) -> &H {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<H: Handler> DynHandler for DroppedInSafety<H> {
    fn handle(&self, request: Request, context: Context) -> Response {
        self.get().handle(request, context)
    }

    fn route_id(&self, path: &str) -> Option<u64> {
        self.get().route_id(path)
    }
}

impl<H> Drop for DroppedInSafety<H> {
    fn drop(&mut self) {
        if let Err(panic) = panics::catch(|| drop(self.0.take())) {
            logging::error!("a handler panicked when it was dropped: {panic}");
        }
    }
}

/// The acceptor's thread.
fn accept_and_drain(
    mut acceptor: Acceptor,
    handle: ServerHandle,
    signals: Option<SignalThread>,
    logs: LogThread,
) {
    let mut end = End {
        handle,
        report: None,
    };
    let drained = panics::catch(|| {
        acceptor.run_until(Phase::Draining);
        shutdown::drain(acceptor)
    });
    let fault = |panic| shutdown::give_up(&end.handle, format!("the acceptor panicked: {panic}"));
    let report = drained.unwrap_or_else(fault);
    let report = end.report.insert(report);
    drop(signals);
    log_end(report);
    // A logger that does not take its line must not hold the report back.
    logs.flush(LOG_END);
    drop(logs);
}

/// The end of a server, which comes when this is dropped, on whatever path: nobody who waits for
/// the stop is to wait for ever.
struct End {
    handle: ServerHandle,
    /// `None` if the end is a fault.
    report: Option<Report>,
}

impl Drop for End {
    fn drop(&mut self) {
        let report = self.report.take();
        let fault = || shutdown::give_up(&self.handle, "the acceptor ended".to_owned());
        let report = report.unwrap_or_else(fault);
        self.handle.conclude(report);
    }
}

/// Logs how the server has stopped: in one line and, if it was not clean, in a line for each loss.
fn log_end(report: &Report) {
    if report.is_clean() {
        return logging::info!("{}", report.summary());
    }
    logging::warn!("{}", report.summary());
    for loss in report.losses(MAX_LOGGED_LOSSES) {
        logging::warn!("{loss}");
    }
}

/// The most losses of a stop that are logged, each in a line of its own.
const MAX_LOGGED_LOSSES: usize = 30;

/// The pool's threads until the acceptor has them. Dropping it ends them.
struct StartedPool<'p> {
    pool: &'p Arc<Pool>,
    /// `None` once they are the acceptor's.
    threads: Option<Threads>,
    to: Sender<usize>,
}

impl<'p> StartedPool<'p> {
    fn new(pool: &'p Arc<Pool>) -> Self {
        let (to, ended) = unbounded();
        let handles = Vec::with_capacity(pool.settings.workers + 1);
        Self {
            pool,
            threads: Some(Threads { handles, ended }),
            to,
        }
    }

    /// Starts the workers and the monitor.
    fn start_all(&mut self) -> std::io::Result<()> {
        for me in 0..self.pool.settings.workers {
            let pool = self.pool.clone();
            let name = format!("lameduck-worker-{me}");
            self.start(name, move || Worker::new(me, &pool).run())?;
        }
        let pool = self.pool.clone();
        self.start("lameduck-monitor".to_owned(), move || {
            Monitor::new(&pool).run();
        })
    }

    fn start(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let handles = &mut self
            .threads
            .as_mut()
            .expect("they are started here")
            .handles;
        let ended = Ended {
            thread: handles.len(),
            to: self.to.clone(),
        };
        let handle = spawn(self.pool, name, move || {
            let _ended = ended;
            run();
        })?;
        handles.push(handle);
        Ok(())
    }

    fn into_threads(mut self) -> Threads {
        self.threads.take().expect("they are given away once")
    }
}

impl Drop for StartedPool<'_> {
    fn drop(&mut self) {
        let Some(threads) = self.threads.take() else {
            return;
        };
        // No connection has been accepted, so each of them ends at once.
        self.pool.lifecycle.enter(Phase::Stopped);
        self.pool.dismiss_threads();
        let handles = threads.handles.into_iter();
        handles.for_each(|handle| drop(handle.join()));
    }
}

/// Returns an error if no descriptor is left for a client, now that the server has all of its own:
/// it would listen, and clients would wait in its backlog for ever.
fn check_descriptors(any: BorrowedFd<'_>) -> std::io::Result<()> {
    match rustix::io::fcntl_dupfd_cloexec(any, 0) {
        Ok(_) => Ok(()),
        Err(Errno::MFILE) => {
            let limit = getrlimit(Resource::Nofile).current.unwrap_or_default();
            Err(std::io::Error::other(format!(
                "no descriptor is left for it: the process may have {limit} and needs at least {} \
                 (`ulimit -n`, LimitNOFILE=)",
                limit.saturating_add(1)
            )))
        }
        Err(error) => Err(error.into()),
    }
}

/// Starts a thread, unless a test has it fail.
fn spawn(
    pool: &Pool,
    name: String,
    run: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    pool.test_points.spawn_error()?;
    std::thread::Builder::new().name(name).spawn(run)
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
        self.handle.wait_for_report()
    }

    /// A channel that disconnects when the server has stopped, for `select!` beside others.
    #[must_use]
    pub fn stopped(&self) -> &Receiver<()> {
        self.handle.stopped()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.begin_stop(StopCause::Dropped);
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
