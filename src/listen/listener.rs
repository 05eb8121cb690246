//! Sockets that are listened on, and what a user may give to listen on.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
#[cfg(not(target_vendor = "apple"))]
use rustix::net::SocketFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};

use crate::error::{Error, Result};
use crate::settings::MAX_UNSENT_BYTES;
use crate::sys::test_points::TestPoints;

/// An address a server listens on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// An internet address. The port is the one the kernel has given, where port 0 was asked for.
    Tcp(SocketAddr),
    /// A unix socket's path.
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
    /// The file of a unix socket that we have made, and so remove.
    unlink: Option<PathBuf>,
    origin: Origin,
}

/// Who else may hold a listener's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Nobody: we have made it.
    Ours,
    /// Perhaps the user, who has given it to us.
    Given,
    /// Whoever has started the process, and its other children.
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
        let addr = SocketAddrUnix::new(path)?;
        let fd = stream_socket(AddressFamily::UNIX)?;
        match rustix::net::bind(&fd, &addr) {
            Err(Errno::ADDRINUSE) if is_abandoned(path, &addr) => {
                std::fs::remove_file(path)?;
                rustix::net::bind(&fd, &addr)?;
            }
            bound => bound?,
        }
        if let Some(mode) = mode {
            // Nobody can connect before the socket listens.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        rustix::net::listen(&fd, backlog)?;
        let mut listener = Self::new(fd, Origin::Ours)?;
        listener.unlink = Some(path.to_owned());
        Ok(listener)
    }

    fn new(fd: OwnedFd, origin: Origin) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // Accepted sockets inherit it: a write to a client that is gone fails and raises no SIGPIPE.
        #[cfg(target_vendor = "apple")]
        sockopt::set_socket_nosigpipe(&fd, true)?;
        let name = rustix::net::getsockname(&fd)?;
        let addr = match SocketAddr::try_from(name.clone()) {
            Ok(addr) => {
                // Accepted sockets inherit it: no response waits for the acknowledgement of the one
                // before.
                sockopt::set_tcp_nodelay(&fd, true)?;
                // They inherit this too. Where it is refused, slow readers cost more memory, and
                // nothing else.
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
            unlink: None,
            origin,
        })
    }

    /// Takes a socket that the process was started with. It has to listen already.
    fn inherited(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        if !is_listening(&fd)? || sockopt::socket_type(&fd)? != SocketType::STREAM {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a listening stream socket",
            ));
        }
        let listener = Self::new(fd, Origin::Inherited)?;
        // A predecessor that was killed may have left it shut.
        if matches!(listener.addr, Addr::Tcp(_)) {
            let _ = listener.set_syn_gate(false);
        }
        Ok(listener)
    }

    /// Whether others accept from the same socket, so that its backlog is not lost with us.
    pub(crate) fn is_shared(&self) -> bool {
        self.origin == Origin::Inherited
    }

    /// Whether new connections can be kept out without harm to anybody else.
    pub(crate) fn may_be_gated(&self) -> bool {
        self.origin == Origin::Ours && matches!(self.addr, Addr::Tcp(_))
    }

    /// Keeps new connections out, or lets them in again: see `backlog.rs`.
    pub(crate) fn set_syn_gate(&self, on: bool) -> io::Result<()> {
        crate::sys::socket::set_syn_gate(self.fd.as_fd(), on)
    }

    /// Whether its clients are on this machine.
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
                // A failure of the connection that was next, not of the listener: the one behind it
                // may be well. One that comes again and again is the listener's after all.
                Err(error) if PASSING.contains(&error) && failed < PASSING_MAX => failed += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// No client finds a unix socket's path from here on; those that did are in the backlog.
    pub(crate) fn unlink(&mut self) -> io::Result<()> {
        self.unlink.take().map_or(Ok(()), std::fs::remove_file)
    }
}

/// What accept(2) fails with when the next connection is at fault: its client was gone before we
/// came (ECONNABORTED, EPROTO), a firewall forbids it (EPERM), or Linux passes on what its network
/// had to say about it.
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

/// So many of them on end are more than an accept backlog usually holds in dead connections.
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
fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

#[cfg(target_vendor = "apple")]
fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let fd = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
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

/// Apple's kernel does not tell. There the first accept(2) fails on a socket that does not listen.
#[cfg(target_vendor = "apple")]
fn is_listening(_socket: &OwnedFd) -> io::Result<bool> {
    Ok(true)
}

/// Whether a path is a unix socket's, at which nobody answers. (A file that is none refuses
/// connections too.)
fn is_abandoned(path: &Path, addr: &SocketAddrUnix) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refuses = || {
        stream_socket(AddressFamily::UNIX).is_ok_and(|probe| {
            rustix::net::connect(&probe, addr).is_err_and(|error| error == Errno::CONNREFUSED)
        })
    };
    is_socket && refuses()
}

/// What a server can be told to listen on: a text, a [`SocketAddr`], an ip address with a port, a
/// [`TcpListener`] or [`UnixListener`] that was made elsewhere, what the process was
/// [started with](inherited), or several of a kind in an array or a `Vec`.
///
/// | text | listens on |
/// |---|---|
/// | `127.0.0.1:8080`, `[::1]:8080` | that address |
/// | `0.0.0.0:8080` | all IPv4 addresses |
/// | `[::]:8080` | all addresses, IPv4 too unless the system says otherwise (`net.ipv6.bindv6only`) |
/// | `localhost:8080` | each address the name has |
/// | `127.0.0.1:0` | any free port: [`Bound::local_addr`](crate::Bound::local_addr) tells which |
/// | `unix:/run/app.sock` | a socket file, with the mode that the umask leaves; with another one by [`unix`] |
/// | `inherited`, `inherited:NAME` | what the process was [started with](inherited), all of it or what has this name |
///
/// A port that an earlier process has left in TIME_WAIT is taken at once (`SO_REUSEADDR`); one that
/// another process listens on is not. A socket file that nobody listens on any more is replaced,
/// one that is in use is an error, and ours is removed when the listener closes.
///
/// A listener that was made elsewhere keeps its own backlog; it becomes non-blocking and has
/// `TCP_NODELAY` set, which every accepted connection has. When the server stops, new connections
/// cannot be kept out of it while it closes, as others may hold the same socket: see
/// [`ListenersReport::without_syn_gate`](crate::report::ListenersReport::without_syn_gate).
pub trait Listen {
    /// Makes the listeners.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] for what is no address, [`Error::Listen`] when the system refuses it: in
    /// use, not permitted, not of this machine.
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
                None => Err(refused(
                    "after `inherited` comes nothing, or a colon and a name",
                )),
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

/// A unix socket to listen on, where `unix:` and a path do not say enough.
///
/// A socket file that nobody listens on any more is replaced; one that somebody listens on is an
/// error. The file is removed when the stop begins, before the last connections are taken from it.
///
/// # Examples
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("lameduck-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir).unwrap();
/// # let path = dir.join("app.sock");
/// let server = lameduck::Server::builder().bind(lameduck::net::unix(&path).mode(0o660))?;
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
    /// Who may connect, as for chmod(2): `0o660` is the owner and the group. Default: what the
    /// process's umask leaves.
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
/// [`inherited`]. All of them, unless [`named`](Self::named) says which.
#[derive(Debug, Clone)]
#[must_use = "give it to `ServerBuilder::bind`"]
pub struct Inherited {
    name: Option<String>,
}

/// The listeners that whoever has started the process has made for it (`LISTEN_PID`, `LISTEN_FDS`,
/// `LISTEN_FDNAMES`, see sd_listen_fds(3)), for [`ServerBuilder::bind`](crate::ServerBuilder::bind). They stay
/// open when this server stops: what is in their backlogs is for the next one, so that no client is
/// refused in between.
///
/// Each can be claimed once in a process. To `bind` fails with [`Error::Address`] if there is none,
/// or if it was claimed before, and with [`Error::Listen`] for what is no listening stream socket.
pub const fn inherited() -> Inherited {
    Inherited { name: None }
}

impl Inherited {
    /// Only those with this name: a unit's `FileDescriptorName=`, which by default is the name of
    /// the `.socket` unit.
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

/// The first descriptor that is passed, as sd_listen_fds(3) has it.
const PASSED_FDS_START: i32 = 3;

/// The descriptors that the environment says were passed to process `pid`, with their names.
///
/// The variables stay as they are: `LISTEN_PID` keeps children from taking them for theirs.
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

/// True for the first who asks for a descriptor.
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
