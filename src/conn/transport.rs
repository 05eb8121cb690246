//! The socket under a connection, behind a trait so that TLS, or a test, can take its place.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::sys::{self, TcpInfo};

/// What a connection needs of its socket. No call ever blocks.
pub(crate) trait Transport: Debug + Send + Sync {
    /// Reads what is there: `Ok(0)` is the end, `WouldBlock` is nothing yet.
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Looks whether there is something to read, and leaves it there.
    fn look(&self) -> Look;

    /// Writes as much as the kernel takes: `WouldBlock` is nothing.
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Says that nothing more will be written (FIN).
    fn finish(&self);

    /// Ends the connection at once, in both directions, such that the peer takes nothing for complete (RST), and frees
    /// a thread that waits for it.
    fn reset(&self);

    /// What the kernel knows about the peer.
    fn info(&self) -> Option<TcpInfo>;

    /// For the poller, and for waiting.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

/// What a look at a socket found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Bytes to read.
    Bytes,
    /// Nothing, and the connection stands.
    Silence,
    /// The peer has finished its side.
    End,
    /// The connection is broken.
    Broken,
}

/// A TCP or unix stream socket as the kernel has it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Takes over an accepted socket, which has to be non-blocking.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The addresses of both ends. `None` where they are not internet addresses.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        rustix::net::getsockname(&self.fd).ok()?.try_into().ok()
    }
}

impl Transport for Socket {
    #[inline]
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.fd, buffer, RecvFlags::empty())?.0)
    }

    fn look(&self) -> Look {
        match rustix::net::recv(&self.fd, &mut [0u8; 1][..], RecvFlags::PEEK) {
            Ok((0, _)) => Look::End,
            Ok(_) => Look::Bytes,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Look::Silence,
            Err(_) => Look::Broken,
        }
    }

    #[inline]
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL)?)
    }

    fn finish(&self) {
        // It fails only when the connection is broken, which the next read will say.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
    }

    fn reset(&self) {
        // Dissolving the association sends RST and wakes whoever waits, while SO_LINGER 0 and closing a second descriptor
        // does neither. A unix socket knows no RST and refuses this; there shutdown(2) has the same effect on the peer's
        // next write, and an incomplete response is told by its framing.
        if rustix::net::connect_unspec(&self.fd).is_err() {
            let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
        }
    }

    fn info(&self) -> Option<TcpInfo> {
        sys::tcp_info(self.fd.as_fd())
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
