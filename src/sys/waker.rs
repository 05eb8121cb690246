//! Blocks a thread until a descriptor is ready, another thread wakes it, or a timeout is over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::sys::logging;

/// Wakes a thread that blocks in [`wait_for`], or in a poller that the waker is registered with.
#[derive(Debug)]
pub(crate) struct Waker {
    read: OwnedFd,
    /// The other end of a pair of sockets. `None` for an eventfd, which is both ends.
    write: Option<OwnedFd>,
}

impl Waker {
    #[cfg(target_os = "linux")]
    pub(crate) fn new() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        Ok(Self {
            read: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            write: None,
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new() -> io::Result<Self> {
        let (read, write) = std::os::unix::net::UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        Ok(Self {
            read: read.into(),
            write: Some(write.into()),
        })
    }

    /// Wakes the thread. Never blocks: a waker that can take no more bytes is already readable.
    pub(crate) fn wake(&self) {
        let _ = rustix::io::write(
            self.write.as_ref().unwrap_or(&self.read),
            &1u64.to_ne_bytes(),
        );
    }

    /// Makes the waker unreadable again.
    ///
    /// The thread has to look for work after this call. If it looked before, it could miss what was
    /// added in between, because the wake-up for that has just been taken back.
    pub(crate) fn reset(&self) {
        let mut bytes = [0u8; 64];
        while rustix::io::read(&self.read, &mut bytes[..]).is_ok_and(|n| n == bytes.len()) {}
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

/// The pause after a poll(2) that failed, and the shortest time between two lines in the log about
/// that.
const PAUSE: Duration = Duration::from_millis(100);
const COMPLAINT: Duration = Duration::from_secs(1);

/// Blocks until one of `fds` is readable, hung up or broken, or until `timeout` is over, where
/// `None` means never. Returns whether one of them is. It may return earlier, so the caller looks
/// again at what it waits for.
pub(crate) fn wait_for(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> bool {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    poll(&mut fds, timeout).unwrap_or(false)
}

/// Blocks until `socket` has something to read, or until `timeout` is over. Returns whether it has.
pub(crate) fn wait_readable(socket: BorrowedFd<'_>, timeout: Duration) -> bool {
    wait_for_one(socket, PollFlags::IN, timeout)
}

/// Blocks until `socket` has room to write, or until `timeout` is over. Returns whether it has.
pub(crate) fn wait_writable(socket: BorrowedFd<'_>, timeout: Duration) -> bool {
    wait_for_one(socket, PollFlags::OUT, timeout)
}

#[allow(
    clippy::disallowed_methods,
    reason = "what is left of a wait in the kernel, which no test's clock measures"
)]
fn wait_for_one(socket: BorrowedFd<'_>, flags: PollFlags, timeout: Duration) -> bool {
    let until = Instant::now().checked_add(timeout);
    let mut left = Some(timeout);
    loop {
        let mut socket = [PollFd::from_borrowed_fd(socket, flags)];
        if let Ok(ready) = poll(&mut socket, left) {
            return ready;
        }
        // A wait that failed is no timeout.
        left = until.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
    }
}

/// Returns whether one of `fds` is ready. `Err`: poll(2) has failed, and a pause was made.
#[allow(
    clippy::disallowed_methods,
    reason = "waits in the kernel, which no test's clock measures"
)]
fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<bool, Errno> {
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut left = timeout;
    loop {
        // A timeout that is too long for the kernel's type means for ever.
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match rustix::event::poll(fds, timeout.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            // A signal handler ran on this thread. The kernel never restarts poll(2), and a wait
            // that was only interrupted is not over.
            Err(Errno::INTR) => {
                left = until.map(|at| at.saturating_duration_since(Instant::now()));
            }
            // ENOMEM, or EINVAL if the limit of descriptors was set below the number of these.
            Err(error) => {
                complain(error);
                let pause = left.map_or(PAUSE, |left| left.min(PAUSE));
                std::thread::sleep(pause);
                return Err(error);
            }
        }
    }
}

/// Logs that poll(2) has failed, unless that was logged a moment ago.
#[allow(clippy::disallowed_methods, reason = "the log is read in real time")]
fn complain(error: Errno) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let now = Instant::now();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|at| now.saturating_duration_since(at) >= COMPLAINT) {
        *last = Some(now);
        logging::error!("poll failed: {error}");
    }
}
