//! An upgraded connection: what its dedicated thread reads and writes.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::conn::egress::Egress;
use crate::lifecycle::context::Context;
use crate::sys::sync::{Mutex, lock};
use crate::sys::waker::{Waker, wait_for, wait_writable};

/// An upgraded connection, which is no longer HTTP: see [`accept`](crate::upgrade::accept). The
/// first bytes to read are those that came after the request.
///
/// Reading and writing block. [`try_clone`](Self::try_clone) returns a second handle to the
/// connection, for another thread or for `on_shutdown`. Once the closure that got the connection
/// has returned, every handle fails.
pub struct Upgraded {
    shared: Arc<Shared>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

struct Shared {
    egress: Arc<Egress>,
    context: Context,
    /// The bytes that came after the request's head and are not read yet.
    received: Mutex<Vec<u8>>,
    /// A waker that becomes readable when the server drains.
    stopping: Arc<Waker>,
    /// Whether `on_shutdown` was due, and has been called if it was set.
    was_notified: AtomicBool,
    on_shutdown: Mutex<Option<Box<OnShutdown>>>,
    has_ended: AtomicBool,
}

type OnShutdown = dyn FnOnce(&mut Upgraded) + Send;

/// Ends an [`Upgraded`] and all its clones when it is dropped.
pub(crate) struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.has_ended.store(true, SeqCst);
    }
}

impl Upgraded {
    pub(crate) fn new(
        egress: Arc<Egress>,
        context: Context,
        received: Vec<u8>,
        stopping: Arc<Waker>,
        write_timeout: Duration,
    ) -> (Self, EndOnDrop) {
        let shared = Arc::new(Shared {
            egress,
            context,
            received: Mutex::new(received),
            stopping,
            was_notified: AtomicBool::new(false),
            on_shutdown: Mutex::new(None),
            has_ended: AtomicBool::new(false),
        });
        (
            Self {
                shared: shared.clone(),
                read_timeout: None,
                write_timeout: Some(write_timeout),
            },
            EndOnDrop(shared),
        )
    }

    /// Sets a closure that is called once when the server starts to drain, by a thread that waits
    /// in [`read`](Read::read), or at its next read. It can send a last message, such as a
    /// WebSocket's Close with 1001. Reading goes on afterwards, for the peer's answer.
    ///
    /// A thread that does not read learns of the drain from [`Context::draining`] alone.
    pub fn on_shutdown(&self, then: impl FnOnce(&mut Self) + Send + 'static) {
        *lock(&self.shared.on_shutdown) = Some(Box::new(then));
        // No later read would call it.
        if self.shared.was_notified.load(SeqCst) {
            self.run_on_shutdown();
        }
    }

    /// Returns another handle to the same connection, with timeouts of its own.
    ///
    /// # Errors
    ///
    /// It does not fail today. It returns a `Result` as everywhere in `std`, and for kinds of
    /// connections to come.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(self.duplicate())
    }

    fn duplicate(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            read_timeout: self.read_timeout,
            write_timeout: self.write_timeout,
        }
    }

    /// Sets how long a read waits before it fails with `TimedOut`. Default: `None`, which waits
    /// forever.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    /// Sets how long a write waits for a peer that takes nothing before it fails with `TimedOut`.
    /// Default: the server's [`write_timeout`](crate::ServerBuilder::write_timeout).
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    /// Ends our side of the connection (FIN). Reading goes on.
    pub fn finish(&self) {
        self.shared.egress.transport().finish();
    }

    /// Returns the peer's address. `None` over a unix socket.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared.egress.peer_addr()
    }

    /// Blocks until there may be something to read.
    fn wait_for_bytes(&self) -> io::Result<()> {
        let shared = &*self.shared;
        loop {
            if shared.has_ended.load(SeqCst) {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the upgraded connection has ended",
                ));
            }
            if !shared.was_notified.load(SeqCst) && shared.context.is_draining() {
                shared.was_notified.store(true, SeqCst);
                self.run_on_shutdown();
            }
            let fds = [shared.egress.transport().as_fd(), shared.stopping.as_fd()];
            let fds = if shared.was_notified.load(SeqCst) {
                &fds[..1]
            } else {
                &fds[..]
            };
            if !wait_for(fds, self.read_timeout) {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the peer is silent",
                ));
            }
            // The loop above handles the wake-up by the stop. After any other the caller reads
            // again.
            if shared.was_notified.load(SeqCst) || !shared.context.is_draining() {
                return Ok(());
            }
        }
    }

    fn run_on_shutdown(&self) {
        let then = lock(&self.shared.on_shutdown).take();
        if let Some(then) = then {
            then(&mut self.duplicate());
        }
    }
}

impl Read for Upgraded {
    /// Reads the bytes that are there, and blocks until there are some.
    ///
    /// # Errors
    ///
    /// `ConnectionReset` and others when the peer or the server has ended the connection,
    /// `TimedOut` when the read timeout is over.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        {
            let mut received = lock(&self.shared.received);
            if !received.is_empty() {
                let n = received.len().min(buffer.len());
                buffer[..n].copy_from_slice(&received[..n]);
                received.drain(..n);
                return Ok(n);
            }
        }
        loop {
            match self.shared.egress.transport().recv(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_for_bytes()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl Write for Upgraded {
    /// Writes as much as the kernel takes, and blocks until it takes some.
    ///
    /// # Errors
    ///
    /// The same as for reading.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if self.shared.has_ended.load(SeqCst) {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the upgraded connection has ended",
                ));
            }
            let taken = self.shared.egress.send_directly(bytes)?;
            if taken > 0 || bytes.is_empty() {
                return Ok(taken);
            }
            let fd = self.shared.egress.transport().as_fd();
            if !wait_writable(fd, self.write_timeout.unwrap_or(Duration::MAX)) {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the peer takes nothing",
                ));
            }
        }
    }

    /// Does nothing: every write hands its bytes to the kernel at once.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgraded")
            .field("peer", &self.peer_addr())
            .finish_non_exhaustive()
    }
}
