//! Listening sockets: made by us, given by the program, or inherited from the parent.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
#[cfg(not(target_vendor = "apple"))]
use rustix::net::SocketFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};

use crate::listen::socket_file::{DirectoryLock, SocketFile};
use crate::settings::MAX_UNSENT_BYTES;
use crate::sys::logging;
use crate::sys::socket::{self, stream_socket};
use crate::sys::test_points::TestPoints;

/// An address that a server listens on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// An internet address. Where port 0 was asked for, the port is the one that the kernel chose.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that clients connect to.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
    pub(crate) addr: Addr,
    /// The file of a unix socket, if we have made it and so have to remove it.
    file: Option<SocketFile>,
    origin: Origin,
}

/// Where a listener's socket comes from, which says who else may hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// We have made the socket, and nobody else holds it.
    Ours,
    /// The program has given us the socket, and may hold it too.
    Given,
    /// The process was started with the socket. Its parent may hold it too, and the parent's other
    /// children.
    Inherited,
}

/// Says whether an IPv6 listener takes IPv4 clients too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MappedIpv4 {
    /// It does where the system says so (`net.ipv6.bindv6only`).
    AsSystem,
    Too,
    Not,
}

impl Listener {
    /// Listens on an internet address. A port that a stopped server has left in TIME_WAIT can be
    /// taken at once.
    pub(super) fn tcp(addr: SocketAddr, ipv4: MappedIpv4, backlog: i32) -> io::Result<Self> {
        let family = if addr.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let fd = stream_socket(family)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        match ipv4 {
            MappedIpv4::Too if addr.is_ipv6() => sockopt::set_ipv6_v6only(&fd, false)?,
            MappedIpv4::Not if addr.is_ipv6() => sockopt::set_ipv6_v6only(&fd, true)?,
            _ => {}
        }
        rustix::net::bind(&fd, &addr)?;
        rustix::net::listen(&fd, backlog)?;
        Self::new(fd, Origin::Ours)
    }

    /// Listens on a path. A socket file that nobody listens on any more is replaced.
    pub(super) fn unix(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<Self> {
        let fd = stream_socket(AddressFamily::UNIX)?;
        let _lock = DirectoryLock::take(path);
        let file = SocketFile::bind(&fd, path)?;
        let mut listener = Self::new(fd, Origin::Ours)?;
        listener.file = Some(file);
        if let Some(mode) = mode {
            // The mode is set in time: no client can connect before the socket listens.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        rustix::net::listen(&listener.fd, backlog)?;
        Ok(listener)
    }

    pub(super) fn new(fd: OwnedFd, origin: Origin) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // Accepted sockets inherit this option, with which a write to a client that is gone fails
        // and raises no SIGPIPE.
        #[cfg(target_vendor = "apple")]
        sockopt::set_socket_nosigpipe(&fd, true)?;
        let name = rustix::net::getsockname(&fd)?;
        let addr = match SocketAddr::try_from(name.clone()) {
            Ok(addr) => {
                // Accepted sockets inherit this option, with which no response waits for the
                // acknowledgement of the one before.
                sockopt::set_tcp_nodelay(&fd, true)?;
                // They inherit this option too. Where the system refuses it, clients that read
                // slowly cost more memory, and nothing else.
                let _ = crate::sys::socket::set_unsent_max(fd.as_fd(), MAX_UNSENT_BYTES);
                Addr::Tcp(addr)
            }
            Err(_) => {
                let path = SocketAddrUnix::try_from(name)?;
                let path = path
                    .path()
                    .map(|path| PathBuf::from(path.to_string_lossy().into_owned()));
                Addr::Unix(path.unwrap_or_default())
            }
        };
        Ok(Self {
            fd,
            addr,
            file: None,
            origin,
        })
    }

    /// Takes a socket that the process was started with. The socket has to listen already.
    pub(super) fn inherited(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        if !is_listening(&fd)? || sockopt::socket_type(&fd)? != SocketType::STREAM {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a listening stream socket",
            ));
        }
        let listener = Self::new(fd, Origin::Inherited)?;
        // A predecessor that was killed while it closed the socket may have left the SYN gate on.
        if matches!(listener.addr, Addr::Tcp(_)) {
            let _ = listener.set_syn_gate(false);
        }
        Ok(listener)
    }

    /// Returns whether other processes accept from the same socket, so that its backlog is not lost
    /// when we close it.
    pub(crate) fn is_shared(&self) -> bool {
        self.origin == Origin::Inherited
    }

    /// Returns whether new connections can be kept out without harm to another holder of the
    /// socket.
    pub(crate) fn may_be_gated(&self) -> bool {
        self.origin == Origin::Ours && matches!(self.addr, Addr::Tcp(_))
    }

    /// Keeps new connections out, or lets them in again: see `closing.rs`.
    pub(crate) fn set_syn_gate(&self, on: bool) -> io::Result<()> {
        crate::sys::socket::set_syn_gate(self.fd.as_fd(), on)
    }

    /// Returns whether all clients of the listener are on this machine.
    pub(crate) fn is_local(&self) -> bool {
        match &self.addr {
            Addr::Tcp(addr) => addr.ip().is_loopback(),
            Addr::Unix(_) => true,
        }
    }

    /// The TCP port. `None` for a unix socket.
    pub(crate) fn port(&self) -> Option<u16> {
        match &self.addr {
            Addr::Tcp(addr) => Some(addr.port()),
            Addr::Unix(_) => None,
        }
    }

    /// Takes the next connection from the accept backlog, without blocking: `Ok(None)` if there is
    /// none.
    pub(crate) fn accept(
        &self,
        test_points: &TestPoints,
    ) -> io::Result<Option<(OwnedFd, Option<SocketAddr>)>> {
        let mut failed = 0;
        loop {
            match test_points
                .accept_error()
                .map_or_else(|| accept_nonblocking(&self.fd), Err)
            {
                Ok((fd, peer)) => {
                    let peer = peer.map(socket::canonical);
                    match peer {
                        Some(peer) => logging::debug!("accepted on {}, peer {peer}", self.addr),
                        None => logging::debug!("accepted on {}", self.addr),
                    }
                    return Ok(Some((fd, peer)));
                }
                Err(Errno::AGAIN) => return Ok(None),
                // The connection that was next has failed, and not the listener: the connection
                // after it may be well. A failure that comes again and again is taken for one of
                // the listener.
                Err(error) if PASSING.contains(&error) && failed < PASSING_MAX => failed += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes the file of a unix socket, so that no further client finds it. The clients that did
    /// are in the backlog. A file that another server has made at the same path stays.
    pub(crate) fn unlink(&mut self) -> io::Result<()> {
        self.file.take().map_or(Ok(()), SocketFile::remove)
    }
}

/// The errors with which accept(2) fails when the next connection is at fault: its client was gone
/// before we accepted it (ECONNABORTED, EPROTO), a firewall forbids it (EPERM), or Linux passes on
/// an error of its network.
#[cfg(target_os = "linux")]
const PASSING: &[Errno] = &[
    Errno::CONNABORTED,
    Errno::INTR,
    Errno::PROTO,
    Errno::PERM,
    Errno::NETDOWN,
    Errno::NOPROTOOPT,
    Errno::HOSTDOWN,
    Errno::NONET,
    Errno::HOSTUNREACH,
    Errno::OPNOTSUPP,
    Errno::NETUNREACH,
];
#[cfg(not(target_os = "linux"))]
const PASSING: &[Errno] = &[Errno::CONNABORTED, Errno::INTR, Errno::PROTO];

/// The most such errors on end that are passed over. An accept backlog seldom holds more dead
/// connections.
const PASSING_MAX: usize = 1024;

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.unlink();
    }
}

#[cfg(not(target_vendor = "apple"))]
fn accept_nonblocking(listener: &OwnedFd) -> rustix::io::Result<(OwnedFd, Option<SocketAddr>)> {
    let (fd, peer) =
        rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    Ok((fd, peer.and_then(|peer| peer.try_into().ok())))
}

#[cfg(target_vendor = "apple")]
fn accept_nonblocking(listener: &OwnedFd) -> rustix::io::Result<(OwnedFd, Option<SocketAddr>)> {
    let (fd, peer) = rustix::net::acceptfrom(listener)?;
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok((fd, peer.and_then(|peer| peer.try_into().ok())))
}

#[cfg(not(target_vendor = "apple"))]
fn is_listening(socket: &OwnedFd) -> io::Result<bool> {
    Ok(sockopt::socket_acceptconn(socket)?)
}

/// Always true, because Apple's kernel does not say. There the first accept(2) fails on a socket
/// that does not listen.
#[cfg(target_vendor = "apple")]
fn is_listening(_socket: &OwnedFd) -> io::Result<bool> {
    Ok(true)
}
