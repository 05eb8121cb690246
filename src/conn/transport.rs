//! The socket under a connection, behind a trait so that TLS or a test can take its place.
//!
//! A transport that encrypts keeps bytes on both sides: some that came from the peer and were not
//! read yet, and some that were written and that the kernel has not taken. A thread that parks a
//! connection asks for both, since no event reports the first and only room to write concerns the
//! second. A handshake is nothing but a first read that takes several events: it holds no worker,
//! and the head timeout covers it too.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::sys::socket::{self, TcpInfo};

/// What a connection needs of its socket. No call ever blocks.
pub(crate) trait Transport: Debug + Send + Sync {
    /// Reads the bytes that are there: `Ok(0)` is the end, `WouldBlock` means none yet.
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Copies the bytes that are there, and leaves them there. Returns `Ok(0)` also where that is
    /// impossible.
    fn peek(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    /// Returns whether there is something to read, and leaves it there.
    fn look(&self) -> Look;

    /// Whether bytes may wait here, or in the kernel, that no event will report: then a read that
    /// does not fill its buffer is not the last one.
    fn has_unread(&self) -> bool {
        false
    }

    /// Writes as much as there is room for: `WouldBlock` means nothing. Less than all means that
    /// there is no more room, and the poller reports when there is.
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Hands the bytes that the transport kept to the kernel. True: it keeps none.
    fn flush(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Whether the transport keeps bytes that the kernel has not taken.
    fn has_unsent(&self) -> bool {
        false
    }

    /// Ends our side with FIN, after the [last word](Self::last_word).
    fn finish(&self);

    /// Tells the peer that the end is intended (`close_notify`), where that is not clear by itself.
    fn last_word(&self) {}

    /// Ends the connection at once in both directions (RST), so that the peer takes no response for
    /// complete, and wakes a thread that waits for the socket.
    fn reset(&self);

    /// Returns what the kernel knows about the peer.
    fn info(&self) -> Option<TcpInfo>;

    /// Returns the descriptor, for the poller and for waiting.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

/// What a look at a socket found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// There are bytes to read.
    Bytes,
    /// There is nothing to read, and the connection stands.
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
    /// Wraps an accepted socket, which has to be non-blocking.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Returns the address of our end. `None` if it is not an internet address.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        let addr = SocketAddr::try_from(rustix::net::getsockname(&self.fd).ok()?).ok()?;
        Some(socket::canonical(addr))
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
        // This fails only when the connection is broken, which the next read will report.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
    }

    fn reset(&self) {
        // Dissolving the association sends RST and wakes every thread that waits; SO_LINGER 0 and
        // closing a second descriptor do neither. A unix socket has no RST and refuses this. There
        // shutdown(2) has the same effect on the peer's next write, and the framing shows that a
        // response is incomplete.
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

/// The flags of each send: writing to a connection that is gone must be an error, not a signal.
/// Apple's kernel has no flag for that; there the listener sets an option that accepted sockets
/// inherit.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: SendFlags = SendFlags::empty();
