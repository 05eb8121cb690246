//! Asks the kernel for TCP handshakes that are under way on a port.
//!
//! A half-open handshake is one whose SYN the kernel has answered and whose last ACK has not come.
//! `sock_diag(7)` lists them; it needs no privilege, and sees the caller's network namespace only.

/// Counts the half-open handshakes on a TCP port of this machine, whatever address they came to.
/// `None` where the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn half_open(port: u16) -> Option<usize> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::NETLINK,
        rustix::net::SocketType::RAW,
        rustix::net::SocketFlags::CLOEXEC,
        Some(rustix::net::netlink::SOCK_DIAG),
    )
    .ok()?;
    // A dual-stack listener has both kinds.
    [libc::AF_INET, libc::AF_INET6]
        .into_iter()
        .map(|family| linux::dump(&socket, family as u8, port))
        .sum()
}

/// Counts the half-open handshakes on a TCP port of this machine. `None`: the system does not tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn half_open(_port: u16) -> Option<usize> {
    None
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::OwnedFd;

    use rustix::net::{RecvFlags, SendFlags};

    /// `SOCK_DIAG_BY_FAMILY` of <linux/sock_diag.h>.
    const BY_FAMILY: u16 = 20;
    /// `NLM_F_REQUEST | NLM_F_DUMP` of <linux/netlink.h>.
    const REQUEST_DUMP: u16 = 0x301;
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    /// The bit of `TCP_SYN_RECV` of the kernel's `enum tcp_state`.
    const SYN_RECV: u32 = 1 << 3;
    /// The lengths of `struct nlmsghdr` and of `struct inet_diag_req_v2`.
    const HEADER: usize = 16;
    const REQUEST: usize = 56;

    /// Counts the sockets of one address family that are in SYN_RECV on a local port.
    pub(super) fn dump(socket: &OwnedFd, family: u8, port: u16) -> Option<usize> {
        let mut request = [0u8; HEADER + REQUEST];
        request[..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        request[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
        request[HEADER] = family;
        request[HEADER + 1] = libc::IPPROTO_TCP as u8;
        request[HEADER + 4..HEADER + 8].copy_from_slice(&SYN_RECV.to_ne_bytes());
        // `id.idiag_sport`; every other part of the id is zero, which matches any.
        request[HEADER + 8..HEADER + 10].copy_from_slice(&port.to_be_bytes());
        rustix::net::send(socket, &request, SendFlags::empty()).ok()?;
        let mut count = 0;
        let mut answer = vec![0u8; 32 << 10];
        loop {
            let (len, _) = rustix::net::recv(socket, &mut answer[..], RecvFlags::empty()).ok()?;
            let mut messages = &answer[..len];
            while let Some((kind, rest)) = split_message(messages) {
                match kind {
                    NLMSG_DONE => return Some(count),
                    NLMSG_ERROR => return None,
                    _ => count += 1,
                }
                messages = rest;
            }
            if len == 0 {
                return None;
            }
        }
    }

    /// The type of the first message of a datagram, and what follows it.
    fn split_message(bytes: &[u8]) -> Option<(u16, &[u8])> {
        let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let aligned = len.next_multiple_of(4);
        (len >= HEADER).then(|| (kind, bytes.get(aligned..).unwrap_or_default()))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::half_open;

    #[test]
    fn complete_handshakes_are_not_half_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // A namespace may forbid the question; then there is no answer to check.
        assert!(matches!(half_open(port), Some(0) | None));
    }
}
