//! What a program may give a server to listen on.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::listen::listener::{Listener, Origin};
use crate::listen::names::{self, Listeners};

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
/// | `:8080`, `*:8080` | all addresses that the machine has |
/// | `localhost:8080` | each address of the name |
/// | `127.0.0.1:0` | any free port |
/// | `unix:/run/app.sock` | a socket file |
/// | `inherited` | all inherited sockets |
/// | `inherited:NAME` | the inherited sockets of this name |
///
/// [`Bound::local_addr`](crate::Bound::local_addr) returns the port that the kernel chose for port
/// 0, which is one port for all addresses of a name. An address of a name that this machine does not
/// have is left out with a warning in the log, as long as another one works: `localhost` is often
/// `::1` too where IPv6 is off.
///
/// `[::]` does not listen on IPv4 where the system says so (`net.ipv6.bindv6only`), or beside
/// `0.0.0.0` with the same port, which may be listened on as well. `:8080` and `*:8080` always
/// listen on IPv4, and on IPv6 where the machine has it. A port that
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
    fn listen(self, listeners: &mut Listeners) -> Result<()>;
}

/// Listens on all that `addrs` asks for.
pub(crate) fn listen(addrs: impl Listen, backlog: i32) -> Result<Vec<Listener>> {
    let mut listeners = Listeners {
        made: Vec::new(),
        backlog,
    };
    addrs.listen(&mut listeners)?;
    Ok(listeners.made)
}

impl Listen for &str {
    fn listen(self, listeners: &mut Listeners) -> Result<()> {
        let refused = |reason| Error::Address {
            addr: self.to_owned(),
            reason,
        };
        if let Some(name) = self.strip_prefix("inherited") {
            return match name.strip_prefix(':') {
                Some(name) => inherited().named(name).listen(listeners),
                None if name.is_empty() => inherited().listen(listeners),
                None => Err(refused("only a colon and a name may follow `inherited`")),
            };
        }
        if let Some(path) = self.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(refused("a unix socket needs a path"));
            }
            return unix(path).listen(listeners);
        }
        names::listen(self, listeners)
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
    fn listen(self, listeners: &mut Listeners) -> Result<()> {
        let failed = |source| Error::Listen {
            addr: format!("unix:{}", self.path.display()),
            source,
        };
        let listener = Listener::unix(&self.path, self.mode, listeners.backlog);
        listeners.made.push(listener.map_err(failed)?);
        Ok(())
    }
}

impl Listen for String {
    fn listen(self, listeners: &mut Listeners) -> Result<()> {
        self.as_str().listen(listeners)
    }
}

impl Listen for &String {
    fn listen(self, listeners: &mut Listeners) -> Result<()> {
        self.as_str().listen(listeners)
    }
}

impl Listen for SocketAddr {
    fn listen(self, listeners: &mut Listeners) -> Result<()> {
        names::listen_on(self, listeners)
    }
}

impl<I: Into<IpAddr>> Listen for (I, u16) {
    fn listen(self, listeners: &mut Listeners) -> Result<()> {
        SocketAddr::from(self).listen(listeners)
    }
}

impl Listen for TcpListener {
    fn listen(self, listeners: &mut Listeners) -> Result<()> {
        take_given(self.into(), listeners)
    }
}

impl Listen for UnixListener {
    fn listen(self, listeners: &mut Listeners) -> Result<()> {
        take_given(self.into(), listeners)
    }
}

fn take_given(fd: OwnedFd, listeners: &mut Listeners) -> Result<()> {
    let given = Listener::new(fd, Origin::Given);
    listeners.made.push(given.map_err(|source| Error::Listen {
        addr: "the given listener".to_owned(),
        source,
    })?);
    Ok(())
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
    fn listen(self, listeners: &mut Listeners) -> Result<()> {
        let addr = || {
            self.name.as_ref().map_or_else(
                || "inherited".to_owned(),
                |name| format!("inherited:{name}"),
            )
        };
        let wanted = passed_fds(|name| std::env::var(name).ok(), std::process::id())
            .into_iter()
            .filter(|(_, name)| self.name.as_ref().is_none_or(|wanted| wanted == name));
        let mut passed = 0;
        for (fd, _) in wanted {
            if !claim(fd) {
                return Err(Error::Address {
                    addr: addr(),
                    reason: "it is claimed already",
                });
            }
            let listener = crate::sys::socket::adopt(fd).and_then(Listener::inherited);
            listeners
                .made
                .push(listener.map_err(|source| Error::Listen {
                    addr: format!("{} (descriptor {fd})", addr()),
                    source,
                })?);
            passed += 1;
        }
        if passed == 0 {
            return Err(Error::Address {
                addr: addr(),
                reason: "the process was started without such a socket",
            });
        }
        Ok(())
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
    fn listen(self, listeners: &mut Listeners) -> Result<()> {
        listen_all(self, listeners)
    }
}

impl<L: Listen> Listen for Vec<L> {
    fn listen(self, listeners: &mut Listeners) -> Result<()> {
        listen_all(self, listeners)
    }
}

fn listen_all<L: Listen>(
    addrs: impl IntoIterator<Item = L>,
    listeners: &mut Listeners,
) -> Result<()> {
    let before = listeners.made.len();
    for addr in addrs {
        addr.listen(listeners)?;
    }
    if listeners.made.len() == before {
        return Err(Error::Address {
            addr: String::new(),
            reason: "there is no address in the list",
        });
    }
    Ok(())
}
