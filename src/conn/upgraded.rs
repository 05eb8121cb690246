//! A connection that is no longer HTTP: what its thread reads and writes.

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

/// A connection that is no longer HTTP: see [`accept`](crate::upgrade::accept). It begins with the bytes that came behind
/// the request.
///
/// Reading and writing block. [`try_clone`](Self::try_clone) gives another one, for a second thread
/// or for `on_shutdown`. Once the closure it was given to has returned it is over, also for clones.
pub struct Upgraded {
    shared: Arc<Shared>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

struct Shared {
    egress: Arc<Egress>,
    context: Context,
    /// Bytes that came behind the request's head.
    received: Mutex<Vec<u8>>,
    /// Readable from the moment on when the server drains.
    stopping: Arc<Waker>,
    told: AtomicBool,
    on_shutdown: Mutex<Option<Box<OnShutdown>>>,
    over: AtomicBool,
}

type OnShutdown = dyn FnOnce(&mut Upgraded) + Send;

/// Ends an [`Upgraded`] and all its clones when it is dropped.
pub(crate) struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
    }
}

impl Upgraded {
    pub(crate) fn new(
        egress: Arc<Egress>,
        context: Context,
        received: Vec<u8>,
        stopping: Arc<Waker>,
        write_timeout: Duration,
    ) -> (Self, End) {
        let shared = Arc::new(Shared {
            egress,
            context,
            received: Mutex::new(received),
            stopping,
            told: AtomicBool::new(false),
            on_shutdown: Mutex::new(None),
            over: AtomicBool::new(false),
        });
        (
            Self {
                shared: shared.clone(),
                read_timeout: None,
                write_timeout: Some(write_timeout),
            },
            End(shared),
        )
    }

    /// Has `then` called once when the server starts to drain, by a thread that waits in
    /// [`read`](Read::read), or at its next read: for a last word, such as a WebSocket's Close with
    /// 1001. Reading goes on afterwards, for the peer's answer.
    ///
    /// Who does not read is told by [`Context::draining`] alone.
    pub fn on_shutdown(&self, then: impl FnOnce(&mut Self) + Send + 'static) {
        *lock(&self.shared.on_shutdown) = Some(Box::new(then));
        // Nobody is going to look again.
        if self.shared.told.load(SeqCst) {
            self.tell_of_stop();
        }
    }

    /// Another one for the same connection, with timeouts of its own.
    ///
    /// # Errors
    ///
    /// None today; it is a `Result` as everywhere in `std`, and for connections to come.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(self.again())
    }

    fn again(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            read_timeout: self.read_timeout,
            write_timeout: self.write_timeout,
        }
    }

    /// How long a read waits before it fails with `TimedOut`. Default: `None`, for ever.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    /// How long a write waits for a peer that takes nothing before it fails with `TimedOut`.
    /// Default: the server's [`write_timeout`](crate::ServerBuilder::write_timeout).
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    /// Says that nothing more will be written (FIN). Reading goes on.
    pub fn finish(&self) {
        self.shared.egress.transport().finish();
    }

    /// The peer's address. `None` over a unix socket.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared.egress.peer_addr()
    }

    /// Blocks until there may be something to read.
    fn wait_for_bytes(&self) -> io::Result<()> {
        let shared = &*self.shared;
        loop {
            if shared.over.load(SeqCst) {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the connection was given back",
                ));
            }
            if !shared.told.load(SeqCst) && shared.context.is_draining() {
                shared.told.store(true, SeqCst);
                self.tell_of_stop();
            }
            let fds = [shared.egress.transport().as_fd(), shared.stopping.as_fd()];
            let fds = if shared.told.load(SeqCst) {
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
            // The stop wakes once; for the peer one looks again.
            if shared.told.load(SeqCst) || !shared.context.is_draining() {
                return Ok(());
            }
        }
    }

    fn tell_of_stop(&self) {
        let then = lock(&self.shared.on_shutdown).take();
        if let Some(then) = then {
            then(&mut self.again());
        }
    }
}

impl Read for Upgraded {
    /// # Errors
    ///
    /// `ConnectionReset` and others when the peer or the server has ended the connection,
    /// `TimedOut`.
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
    /// # Errors
    ///
    /// As reading.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if self.shared.over.load(SeqCst) {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the connection was given back",
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

    /// What was written is on its way already.
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
