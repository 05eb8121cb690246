//! The socket under a connection, behind a trait so that TLS, or a test, can take its place.
//!
//! One that encrypts keeps bytes on both sides: some that came from the peer and were not read yet,
//! some that were written and that the kernel has not taken. Whoever parks a connection asks for
//! both, since no event will tell of the first and only room to write of the second. A handshake is
//! nothing but a first read that takes several events: it holds no worker, and the time for a
//! request's head is the time for it too.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::sys::socket::{self, TcpInfo};

/// What a connection needs of its socket. No call ever blocks.
pub(crate) trait Transport: Debug + Send + Sync {
    /// Reads what is there: `Ok(0)` is the end, `WouldBlock` is nothing yet.
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Copies what there is to read, and leaves it there. `Ok(0)` also where that cannot be done.
    fn peek(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    /// Looks whether there is something to read, and leaves it there.
    fn look(&self) -> Look;

    /// Whether bytes may wait here, or behind it in the kernel, that no event will tell of: a read
    /// that does not fill its buffer is not the last one then.
    fn has_unread(&self) -> bool {
        false
    }

    /// Writes as much as there is room for: `WouldBlock` is nothing. Less than all means that there
    /// is no more room, and the poller tells when there is.
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Hands to the kernel what was taken and kept. True: nothing is left.
    fn flush(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Whether something was taken that the kernel has not.
    fn has_unsent(&self) -> bool {
        false
    }

    /// Says that nothing more will be written: FIN, after the [last word](Self::last_word).
    fn finish(&self);

    /// Tells the peer that the end which comes is meant (`close_notify`), where that is not clear
    /// by itself.
    fn last_word(&self) {}

    /// Ends the connection at once, in both directions, such that the peer takes nothing for
    /// complete (RST), and frees a thread that waits for it.
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
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        rustix::net::getsockname(&self.fd).ok()?.try_into().ok()
    }
}

impl Transport for Socket {
    #[inline]
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.fd, buffer, RecvFlags::empty())?.0)
    }

    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.fd, buffer, RecvFlags::PEEK)?.0)
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
        Ok(rustix::net::send(&self.fd, bytes, SEND_FLAGS)?)
    }

    fn finish(&self) {
        // It fails only when the connection is broken, which the next read will say.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
    }

    fn reset(&self) {
        // Dissolving the association sends RST and wakes whoever waits, while SO_LINGER 0 and
        // closing a second descriptor does neither. A unix socket knows no RST and refuses this;
        // there shutdown(2) has the same effect on the peer's next write, and an incomplete
        // response is told by its framing.
        if rustix::net::connect_unspec(&self.fd).is_err() {
            let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
        }
    }

    fn info(&self) -> Option<TcpInfo> {
        socket::tcp_info(self.fd.as_fd())
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Writing to a connection that is gone is an error, not a signal. Apple's kernel has no flag for
/// it; there the listener sets an option that accepted sockets inherit.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: SendFlags = SendFlags::empty();
