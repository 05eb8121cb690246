//! The network between clients and servers: loopback, or with `--link` one that has a round trip
//! time and loses packets.
//!
//! A link is a TUN device in a network namespace. Clients connect to the address at its far end,
//! where nobody listens: `forward` sends each packet back with its two addresses swapped, and so it
//! comes to the server from that address, as do the server's packets to the client. Both ends of
//! each connection are in the same kernel, and all that is between them is the delay and the loss.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

#[cfg(target_os = "linux")]
use rustix::net::sockopt;

use crate::cli::args::Link;

#[cfg(target_os = "linux")]
mod forward;
#[cfg(target_os = "linux")]
mod tun;

/// A network in which clients reach servers.
#[derive(Debug)]
pub(super) struct Network {
    link: Option<OpenLink>,
}

#[derive(Debug)]
struct OpenLink {
    link: Link,
    #[cfg(target_os = "linux")]
    forwarder: forward::Forwarder,
}

impl Network {
    pub(super) fn loopback() -> Self {
        Self { link: None }
    }

    /// Moves this process into a network namespace of its own and opens the link there. Processes
    /// and threads that are started later are in the namespace too.
    ///
    /// This has to be called while the process has one thread: the namespace is the calling
    /// thread's.
    ///
    /// # Errors
    ///
    /// The system does not let this process make the namespace or the device.
    #[cfg(target_os = "linux")]
    pub(super) fn open(link: Link, seed: u64) -> io::Result<Self> {
        let during = |what: &'static str| {
            move |error| io::Error::other(format!("{CANNOT_OPEN}: {what}: {error}"))
        };
        enter_namespace().map_err(during("a network namespace is refused"))?;
        let device = tun::Device::create(SERVERS, CLIENTS_TARGET)
            .map_err(during("a TUN device is refused"))?;
        let forwarder = forward::Forwarder::start(device.into_file(), link, seed)?;
        let link = Some(OpenLink { link, forwarder });
        Ok(Self { link })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn open(_link: Link, _seed: u64) -> io::Result<Self> {
        let problem = format!("{CANNOT_OPEN}: it needs the network namespaces of Linux");
        Err(io::Error::new(io::ErrorKind::Unsupported, problem))
    }

    /// Returns the address on which servers listen.
    pub(super) fn servers(&self) -> Ipv4Addr {
        self.link.as_ref().map_or(Ipv4Addr::LOCALHOST, |_| SERVERS)
    }

    /// Returns the address under which clients reach the server that listens on `server`.
    pub(super) fn seen_by_clients(&self, server: SocketAddr) -> SocketAddr {
        match self.link {
            Some(_) => (CLIENTS_TARGET, server.port()).into(),
            None => server,
        }
    }

    /// Returns the link's round trip time. That of loopback counts as zero.
    pub(super) fn round_trip(&self) -> Duration {
        self.link
            .as_ref()
            .map_or(Duration::ZERO, |open| open.link.round_trip)
    }

    /// Returns by how much the network can delay what would be there at once on loopback: one that
    /// loses packets also delays those that TCP sends again.
    pub(super) fn patience(&self) -> Duration {
        self.link
            .as_ref()
            .map_or(Duration::ZERO, |_| RETRANSMISSIONS)
    }

    pub(super) fn is_link(&self) -> bool {
        self.link.is_some()
    }

    /// Returns how many bytes a response may have that is to keep a connection busy for long, but
    /// not for longer than a stop lasts: at most `most`, and fewer where TCP is slower.
    pub(super) fn long_response(&self, most: u64) -> u64 {
        self.link
            .as_ref()
            .map_or(most, |open| open.link.long_response(most))
    }

    /// Returns an error if the link has failed, which makes all results worthless.
    pub(super) fn check(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(open) = &self.link {
            open.forwarder.check()?;
        }
        Ok(())
    }
}

/// Lets the kernel ask a silent peer whether the connection is still there.
///
/// A server's reset is sent once and may be lost, as may the last segment of a handshake, after
/// which a closed listener has no memory of the connection. A client that only waits would never
/// learn of either.
#[cfg(target_os = "linux")]
pub(super) fn keep_alive(socket: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEP_ALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE_EVERY)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn keep_alive(_socket: &TcpStream) -> io::Result<()> {
    Ok(())
}

impl fmt::Display for Network {
    /// Writes a line that says what the link has done; for loopback, nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(open) = &self.link else {
            return Ok(());
        };
        write!(f, "link {}", open.link)?;
        #[cfg(target_os = "linux")]
        write!(f, ": {}", open.forwarder)?;
        writeln!(f)
    }
}

impl Link {
    fn long_response(self, most: u64) -> u64 {
        // For each round trip a window of the slow readers' buffer, but no more than the congestion
        // window that the loss leaves (Mathis et al.: 1.2 segments / sqrt(loss)).
        let window = (64.0 * 1024.0_f64).min(1460.0 * 1.2 / self.loss.sqrt());
        let bytes = window / self.round_trip.as_secs_f64() * LONG_RESPONSE.as_secs_f64();
        // A conversion to an integer saturates; without a round trip time this is infinite.
        (bytes as u64).min(most)
    }
}

/// Moves the calling thread into a new network namespace. A process that may not make one for
/// itself makes a user namespace around it, in which it may.
#[cfg(target_os = "linux")]
fn enter_namespace() -> io::Result<()> {
    match tun::unshare(libc::CLONE_NEWNET) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        result => return result,
    }
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    tun::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
    // Users keep their numbers, so a server runs as the user that it would run as elsewhere. The
    // kernel takes a map of groups only from a process that has given up setgroups(2).
    std::fs::write("/proc/self/setgroups", "deny")?;
    for (map, id) in [("uid_map", user.as_raw()), ("gid_map", group.as_raw())] {
        std::fs::write(format!("/proc/self/{map}"), format!("{id} {id} 1"))?;
    }
    Ok(())
}

/// How the error of a link that could not be opened begins.
const CANNOT_OPEN: &str = "cannot open the network of --link";

/// The address of the TUN device, on which servers listen.
const SERVERS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The address at the far end of the TUN device, which clients connect to.
const CLIENTS_TARGET: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// For how long a client goes on waiting for segments that are sent again. TCP repeats a SYN after
/// 1, 3, 7 and 15 s, and other segments sooner.
const RETRANSMISSIONS: Duration = Duration::from_secs(30);

/// The silence after which the kernel asks whether a connection is still there: so long that a
/// server has long had the last look at its idle connections.
#[cfg(target_os = "linux")]
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(5);
/// The time between two such questions without an answer. After 9 of them the connection is broken.
#[cfg(target_os = "linux")]
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(1);

/// The time that the longest responses take.
const LONG_RESPONSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_responses_are_shorter_where_tcp_is_slower() {
        const MOST: u64 = 4 << 20;
        let long = |millis, loss| {
            let round_trip = Duration::from_millis(millis);
            Link { round_trip, loss }.long_response(MOST)
        };
        assert_eq!(long(0, 0.0), MOST);
        assert_eq!(long(5, 0.0), MOST);
        assert_eq!(long(160, 0.0), 409_600);
        assert!((50_000..100_000).contains(&long(160, 0.03)));
    }
}
