//! Blocking until a descriptor has something, or until another thread wakes us.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// Wakes one thread that blocks in [`wait_for`], or, where it is registered, in a poller.
#[derive(Debug)]
pub(crate) struct Waker {
    read: OwnedFd,
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

    /// Never blocks: a waker that cannot take another byte is already readable.
    pub(crate) fn wake(&self) {
        let _ = rustix::io::write(
            self.write.as_ref().unwrap_or(&self.read),
            &1u64.to_ne_bytes(),
        );
    }

    /// Makes it unreadable again; what happened before the call is to be looked at after it.
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

/// Blocks until one of `fds` is readable, hung up or broken, or until `timeout` (`None`: for ever)
/// is over. True if one is.
pub(crate) fn wait_for(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> bool {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    poll(&mut fds, timeout)
}

/// Blocks until a peer can be read from, or written to, or `timeout` is over. True if so.
pub(crate) fn wait_for_peer(socket: BorrowedFd<'_>, writable: bool, timeout: Duration) -> bool {
    let flags = if writable {
        PollFlags::OUT
    } else {
        PollFlags::IN
    };
    poll(
        &mut [PollFd::from_borrowed_fd(socket, flags)],
        Some(timeout),
    )
}

fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> bool {
    // A timeout that the kernel's type cannot say is for ever.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match rustix::event::poll(fds, timeout.as_ref()) {
        Ok(ready) => ready > 0,
        // A signal's handler ran on this thread: the caller's loop looks at its conditions and
        // waits again.
        Err(Errno::INTR) => false,
        // ENOMEM is the only other one for descriptors that are borrowed, so open. Looking again is
        // all there is to do.
        Err(error) => {
            log::error!("poll failed: {error}");
            false
        }
    }
}
