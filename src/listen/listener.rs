//! Listening sockets, and what a program may give a server to listen on.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
#[cfg(not(target_vendor = "apple"))]
use rustix::net::SocketFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};

use crate::error::{Error, Result};
use crate::listen::socket_file::{DirectoryLock, SocketFile};
use crate::settings::MAX_UNSENT_BYTES;
use crate::sys::socket::stream_socket;
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
enum Origin {
    /// We have made the socket, and nobody else holds it.
    Ours,
    /// The program has given us the socket, and may hold it too.
    Given,
    /// The process was started with the socket. Its parent may hold it too, and the parent's other
    /// children.
    Inherited,
}

impl Listener {
    /// Listens on an internet address. A port that a stopped server has left in TIME_WAIT can be
    /// taken at once.
    fn tcp(addr: SocketAddr, backlog: i32) -> io::Result<Self> {
        let family = if addr.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let fd = stream_socket(family)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        rustix::net::bind(&fd, &addr)?;
        rustix::net::listen(&fd, backlog)?;
        Self::new(fd, Origin::Ours)
    }

    /// Listens on a path. A socket file that nobody listens on any more is replaced.
    fn unix(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<Self> {
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

    fn new(fd: OwnedFd, origin: Origin) -> io::Result<Self> {
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
    fn inherited(fd: OwnedFd) -> io::Result<Self> {
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
                Ok((fd, peer)) => return Ok(Some((fd, peer))),
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

/// What a server can listen on.
///
/// It is a text, a [`SocketAddr`], an IP address with a port, a [`TcpListener`] or [`UnixListener`]
/// that was made elsewhere, the sockets that the process was [started with](inherited), or several
/// of a kind in an array or a `Vec`.
///
/// | text | listens on |
/// |---|---|
/// | `127.0.0.1:8080`, `[::1]:8080` | that address |
/// | `0.0.0.0:8080` | all IPv4 addresses |
/// | `[::]:8080` | all addresses, IPv4 and IPv6 |
/// | `localhost:8080` | each address of the name |
/// | `127.0.0.1:0` | any free port |
/// | `unix:/run/app.sock` | a socket file |
/// | `inherited` | all inherited sockets |
/// | `inherited:NAME` | the inherited sockets of this name |
///
/// [`Bound::local_addr`](crate::Bound::local_addr) returns the port that the kernel chose for port
/// 0. `[::]` does not listen on IPv4 where the system says so (`net.ipv6.bindv6only`). A port that
/// an earlier process has left in TIME_WAIT can be listened on at once (`SO_REUSEADDR`); a port
/// that another process listens on cannot.
///
/// A socket file has the mode that the umask leaves; [`unix`] sets another one. A file that no
/// process listens on any more is replaced, and one that is in use is an error. The server removes
/// its file when it closes the listener, but not a file that has taken its place. Of several servers
/// that start at the same path at once, one listens.
///
/// A listener that was made elsewhere keeps its own backlog. It becomes non-blocking, and gets
/// `TCP_NODELAY`, which every accepted connection has. While a stopping server closes it, new
/// connections cannot be kept out, because others may hold the same socket: see
/// [`ListenersReport::without_syn_gate`](crate::report::ListenersReport::without_syn_gate).
pub trait Listen {
    /// Makes the listeners.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if it is no address; [`Error::Listen`] if the system refuses it, because
    /// the address is in use, not permitted, or not one of this machine.
    #[doc(hidden)]
    fn listen(self, backlog: i32) -> Result<Listeners>;
}

/// Listeners that were made by [`Listen`].
#[derive(Debug)]
#[doc(hidden)]
pub struct Listeners(pub(crate) Vec<Listener>);

impl Listen for &str {
    fn listen(self, backlog: i32) -> Result<Listeners> {
        let refused = |reason| Error::Address {
            addr: self.to_owned(),
            reason,
        };
        let failed = |source| Error::Listen {
            addr: self.to_owned(),
            source,
        };
        if let Some(name) = self.strip_prefix("inherited") {
            return match name.strip_prefix(':') {
                Some(name) => inherited().named(name).listen(backlog),
                None if name.is_empty() => inherited().listen(backlog),
                None => Err(refused("only a colon and a name may follow `inherited`")),
            };
        }
        if let Some(path) = self.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(refused("a unix socket needs a path"));
            }
            return unix(path).listen(backlog);
        }
        if !self.contains(':') {
            return Err(refused("it has no port, as in 127.0.0.1:8080"));
        }
        let addrs = self.to_socket_addrs().map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => {
                refused("it is not an address with a port, as in 127.0.0.1:8080")
            }
            _ => failed(error),
        })?;
        let listeners: Vec<_> = addrs
            .map(|addr| Listener::tcp(addr, backlog).map_err(failed))
            .collect::<Result<_>>()?;
        if listeners.is_empty() {
            return Err(refused("the name has no address"));
        }
        Ok(Listeners(listeners))
    }
}

/// Returns a unix socket to listen on, for when `unix:` and a path do not say enough.
///
/// A socket file that no process listens on any more is replaced, and one that is in use is an
/// error. The file is removed when draining starts, before the last connections are taken from the
/// socket.
///
/// # Examples
///
/// ```
/// use lameduck::Server;
/// use lameduck::net::unix;
///
/// # let dir = std::env::temp_dir().join(format!("lameduck-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir).unwrap();
/// # let path = dir.join("app.sock");
/// let server = Server::builder().bind(unix(&path).mode(0o660))?;
/// # drop(server);
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), lameduck::Error>(())
/// ```
pub fn unix(path: impl Into<PathBuf>) -> Unix {
    Unix {
        path: path.into(),
        mode: None,
    }
}

/// A unix socket to listen on: see [`unix`].
#[derive(Debug, Clone)]
#[must_use = "it is for `bind`"]
pub struct Unix {
    path: PathBuf,
    mode: Option<u32>,
}

impl Unix {
    /// Sets who may connect, as for chmod(2): with `0o660` the owner and the group may. Default:
    /// the mode that the umask of the process leaves.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }
}

impl Listen for Unix {
    fn listen(self, backlog: i32) -> Result<Listeners> {
        let failed = |source| Error::Listen {
            addr: format!("unix:{}", self.path.display()),
            source,
        };
        Ok(Listeners(vec![
            Listener::unix(&self.path, self.mode, backlog).map_err(failed)?,
        ]))
    }
}

impl Listen for String {
    fn listen(self, backlog: i32) -> Result<Listeners> {
        self.as_str().listen(backlog)
    }
}

impl Listen for &String {
    fn listen(self, backlog: i32) -> Result<Listeners> {
        self.as_str().listen(backlog)
    }
}

impl Listen for SocketAddr {
    fn listen(self, backlog: i32) -> Result<Listeners> {
        let listener = Listener::tcp(self, backlog);
        Ok(Listeners(vec![listener.map_err(|source| {
            Error::Listen {
                addr: self.to_string(),
                source,
            }
        })?]))
    }
}

impl<I: Into<IpAddr>> Listen for (I, u16) {
    fn listen(self, backlog: i32) -> Result<Listeners> {
        SocketAddr::from(self).listen(backlog)
    }
}

impl Listen for TcpListener {
    fn listen(self, _backlog: i32) -> Result<Listeners> {
        take_given(self.into())
    }
}

impl Listen for UnixListener {
    fn listen(self, _backlog: i32) -> Result<Listeners> {
        take_given(self.into())
    }
}

fn take_given(fd: OwnedFd) -> Result<Listeners> {
    let given = Listener::new(fd, Origin::Given);
    Ok(Listeners(vec![given.map_err(|source| Error::Listen {
        addr: "the given listener".to_owned(),
        source,
    })?]))
}

/// The sockets that the process was started with, as systemd and others pass them: see
/// [`inherited`].
#[derive(Debug, Clone)]
#[must_use = "give it to `ServerBuilder::bind`"]
pub struct Inherited {
    name: Option<String>,
}

/// Returns the listeners that the process was started with, for
/// [`ServerBuilder::bind`](crate::ServerBuilder::bind).
///
/// A supervisor such as systemd makes them and passes them on (`LISTEN_PID`, `LISTEN_FDS`,
/// `LISTEN_FDNAMES`, see sd_listen_fds(3)). They stay open when this server stops: the connections
/// in their backlogs are for the next process, so that no client is refused in between.
///
/// Each of them can be bound once in a process. `bind` fails with [`Error::Address`] if there is
/// none, or if it was bound before, and with [`Error::Listen`] if it is not a listening stream
/// socket.
pub const fn inherited() -> Inherited {
    Inherited { name: None }
}

impl Inherited {
    /// Leaves out all but those with this name. Default: all inherited sockets are used.
    ///
    /// The name is the `FileDescriptorName=` of a unit, which by default is the name of the
    /// `.socket` unit.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
        }
    }
}

impl Listen for Inherited {
    fn listen(self, _backlog: i32) -> Result<Listeners> {
        let addr = || {
            self.name.as_ref().map_or_else(
                || "inherited".to_owned(),
                |name| format!("inherited:{name}"),
            )
        };
        let passed = passed_fds(|name| std::env::var(name).ok(), std::process::id());
        let wanted = passed
            .into_iter()
            .filter(|(_, name)| self.name.as_ref().is_none_or(|wanted| wanted == name));
        let mut listeners = Vec::new();
        for (fd, _) in wanted {
            if !claim(fd) {
                return Err(Error::Address {
                    addr: addr(),
                    reason: "it is claimed already",
                });
            }
            let listener = crate::sys::socket::adopt(fd).and_then(Listener::inherited);
            listeners.push(listener.map_err(|source| Error::Listen {
                addr: format!("{} (descriptor {fd})", addr()),
                source,
            })?);
        }
        if listeners.is_empty() {
            return Err(Error::Address {
                addr: addr(),
                reason: "the process was started without such a socket",
            });
        }
        Ok(Listeners(listeners))
    }
}

/// The first descriptor that is passed, by sd_listen_fds(3).
const PASSED_FDS_START: i32 = 3;

/// The descriptors that the environment says were passed to process `pid`, with their names.
///
/// The variables stay as they are: because of `LISTEN_PID`, child processes do not take them for
/// theirs.
fn passed_fds(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Vec<(i32, String)> {
    let number = |name| variable(name).and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(pid) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS")
        .and_then(|count| i32::try_from(count).ok())
        .unwrap_or(0)
        .min(1024);
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let given = names
        .split(':')
        .filter(|_| !names.is_empty())
        .map(str::to_owned);
    let names = given.chain(std::iter::repeat_with(|| "unknown".to_owned()));
    (PASSED_FDS_START..PASSED_FDS_START + count)
        .zip(names)
        .collect()
}

/// Claims a descriptor. False: it was claimed before.
fn claim(fd: i32) -> bool {
    static CLAIMED: std::sync::Mutex<std::collections::BTreeSet<i32>> =
        std::sync::Mutex::new(std::collections::BTreeSet::new());
    CLAIMED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .insert(fd)
}

impl<L: Listen, const N: usize> Listen for [L; N] {
    fn listen(self, backlog: i32) -> Result<Listeners> {
        listen_all(self, backlog)
    }
}

impl<L: Listen> Listen for Vec<L> {
    fn listen(self, backlog: i32) -> Result<Listeners> {
        listen_all(self, backlog)
    }
}

fn listen_all<L: Listen>(addrs: impl IntoIterator<Item = L>, backlog: i32) -> Result<Listeners> {
    let listeners: Vec<_> = addrs
        .into_iter()
        .map(|addr| addr.listen(backlog))
        .collect::<Result<_>>()?;
    let listeners: Vec<_> = listeners
        .into_iter()
        .flat_map(|listeners| listeners.0)
        .collect();
    if listeners.is_empty() {
        return Err(Error::Address {
            addr: String::new(),
            reason: "there is no address in the list",
        });
    }
    Ok(Listeners(listeners))
}
