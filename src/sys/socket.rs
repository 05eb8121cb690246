//! Stream sockets, and the few socket options that neither std nor rustix wraps.
//!
//! Together with `signal_mask.rs` and one call in the portable poller this is the only unsafe code
//! of the library.
#![allow(
    unsafe_code,
    reason = "socket options and descriptor flags that neither std nor rustix wraps"
)]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

#[cfg(not(target_vendor = "apple"))]
use rustix::net::SocketFlags;
use rustix::net::{AddressFamily, SocketType};

/// Makes a stream socket that child processes do not inherit.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn stream_socket(family: AddressFamily) -> std::io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Makes a stream socket that child processes do not inherit.
#[cfg(target_vendor = "apple")]
pub(crate) fn stream_socket(family: AddressFamily) -> std::io::Result<OwnedFd> {
    let fd = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// What the kernel knows about the peer of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// The peer has acknowledged all that we wrote and our FIN. Only its own FIN is missing.
    pub(crate) is_fin_wait2: bool,
    /// The connection was reset, by the peer or by us.
    pub(crate) is_closed: bool,
    /// The smoothed round trip time.
    pub(crate) rtt: Duration,
    /// How many of our bytes the peer has acknowledged.
    pub(crate) bytes_acked: u64,
    /// The time since the last segment from the peer, be it bytes, an acknowledgement, or a window
    /// update.
    pub(crate) silent_for: Duration,
}

/// Returns an IPv4 address that is written as an IPv6 one as what it is.
///
/// The kernel names an IPv4 peer of `[::]` as `::ffff:127.0.0.1`, which a program would not find in
/// a list of the addresses that it allows.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, addr.port()),
        // This one may have a scope, which says on which link it is.
        IpAddr::V6(_) => addr,
    }
}

/// Reads `TCP_INFO`. Returns `None` if the socket is not TCP or the system is not Linux.
#[cfg(target_os = "linux")]
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> Option<TcpInfo> {
    // `TCP_FIN_WAIT2` and `TCP_CLOSE` of the kernel's `enum tcp_state`.
    const FIN_WAIT2: u8 = 5;
    const CLOSE: u8 = 7;
    // Offsets in `struct tcp_info`.
    const STATE: usize = 0;
    const RTT_MICROS: usize = 68;
    const BYTES_ACKED: usize = 120;
    const LAST_DATA_MILLIS: usize = 52;
    const LAST_ACK_MILLIS: usize = 56;

    let info = raw_tcp_info(socket)?;
    let rtt = u32::from_ne_bytes(*info[RTT_MICROS..].first_chunk()?);
    let millis = |at: usize| Some(u32::from_ne_bytes(*info[at..].first_chunk()?));
    let silent_for = millis(LAST_DATA_MILLIS)?.min(millis(LAST_ACK_MILLIS)?);
    Some(TcpInfo {
        is_fin_wait2: info[STATE] == FIN_WAIT2,
        is_closed: info[STATE] == CLOSE,
        rtt: Duration::from_micros(u64::from(rtt)),
        bytes_acked: u64::from_ne_bytes(*info[BYTES_ACKED..].first_chunk()?),
        silent_for: Duration::from_millis(u64::from(silent_for)),
    })
}

/// Returns the bytes of `struct tcp_info` of <linux/tcp.h>.
///
/// They are read by offset, because libc's struct is the short one of glibc, without
/// `tcpi_bytes_acked`. The kernel's own only ever grows at its end.
#[cfg(target_os = "linux")]
fn raw_tcp_info(socket: BorrowedFd<'_>) -> Option<[u8; 256]> {
    let mut info = [0u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so it is open during the call; the kernel writes at most
    // `len` bytes into `info`.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    } != 0;
    // 128 bytes reach to the end of `tcpi_bytes_acked`, which is there since Linux 4.1.
    (!failed && len >= 128).then_some(info)
}

/// Reads `TCP_INFO`. Returns `None` if the socket is not TCP or the system is not Linux.
#[cfg(not(target_os = "linux"))]
pub(crate) fn tcp_info(_socket: BorrowedFd<'_>) -> Option<TcpInfo> {
    None
}

/// Has a listener refuse every new connection, for good: it is bound to a network device that does
/// not exist, so the kernel finds no listener for a SYN and answers with RST.
///
/// Handshakes under way complete, because the kernel finds them without the listener's device, and
/// accepted sockets do not inherit the binding. `SO_BINDTOIFINDEX` (Linux 5.0) serves both address
/// families; it needs no privilege since Linux 5.7, and CAP_NET_RAW before.
#[cfg(target_os = "linux")]
pub(crate) fn bind_to_no_device(listener: BorrowedFd<'_>) -> std::io::Result<()> {
    /// `SO_BINDTOIFINDEX` of <asm-generic/socket.h>.
    const BIND_TO_IFINDEX: libc::c_int = 62;

    // Indices are given from 1 on, and never come here.
    set_option(
        listener,
        libc::SOL_SOCKET,
        BIND_TO_IFINDEX,
        libc::c_int::MAX,
    )
}

/// Fails: elsewhere than on Linux there is no such option.
#[cfg(not(target_os = "linux"))]
pub(crate) fn bind_to_no_device(_listener: BorrowedFd<'_>) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Sets whether a listener drops packets that have passed a router: see `listen/closing.rs`.
///
/// An accepted socket inherits this from its listener and can be freed of it in the same way. On an
/// IPv6 socket both options are set, as it may be dual-stack.
#[cfg(target_os = "linux")]
pub(crate) fn set_syn_gate(socket: BorrowedFd<'_>, on: bool) -> std::io::Result<()> {
    /// `IP_MINTTL` of <linux/in.h> and `IPV6_MINHOPCOUNT` of <linux/in6.h>.
    const OPTIONS: [(libc::c_int, libc::c_int); 2] =
        [(libc::IPPROTO_IP, 21), (libc::IPPROTO_IPV6, 73)];

    let value = if on { 255 } else { 0 };
    let [ipv4, ipv6] = OPTIONS.map(|(level, option)| set_option(socket, level, option, value));
    // An IPv4 socket knows the first option only, which is enough for it.
    ipv6.or(ipv4)
}

/// Fails: elsewhere than on Linux there is no such option.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set_syn_gate(_socket: BorrowedFd<'_>, _on: bool) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Limits the bytes that a socket takes beyond those that are on their way to the peer. Sockets
/// inherit the limit from their listener.
///
/// Without it the kernel takes megabytes for each client that reads slowly.
#[cfg(target_os = "linux")]
pub(crate) fn set_unsent_max(socket: BorrowedFd<'_>, bytes: u32) -> std::io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, value)
}

/// Sets a socket option whose value is an int.
#[cfg(target_os = "linux")]
fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> std::io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let pointer = (&raw const value).cast();
    // SAFETY: the descriptor is borrowed, so it is open during the call; the kernel reads one int.
    let failed = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, len) } != 0;
    if failed {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Fails: elsewhere than on Linux the limit is the kernel's own.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set_unsent_max(_socket: BorrowedFd<'_>, _bytes: u32) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Returns the length of a TCP listener's accept backlog, or `None` where the kernel does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn backlog_len(listener: BorrowedFd<'_>) -> Option<u32> {
    /// The offset of `tcpi_unacked`, which for a listener is the length of its accept backlog.
    const UNACKED: usize = 24;
    let info = raw_tcp_info(listener)?;
    Some(u32::from_ne_bytes(*info[UNACKED..].first_chunk()?))
}

/// Returns the length of a TCP listener's accept backlog, or `None` where the kernel does not tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn backlog_len(_listener: BorrowedFd<'_>) -> Option<u32> {
    None
}

/// Takes over a descriptor that the process was started with.
///
/// # Panics
///
/// Panics if `fd` is one of the standard streams.
pub(crate) fn adopt(fd: std::os::fd::RawFd) -> std::io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    assert!(
        fd > 2,
        "the standard streams belong to the standard library"
    );
    // SAFETY: fcntl(2) touches no memory of ours, and fails for a descriptor that is not open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // A descriptor that came through exec(2) never has this flag, and one that this process opened
    // always has it: it belongs to another part of the program.
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "the descriptor was not passed to this process",
        ));
    }
    // SAFETY: the descriptor is open, and the caller ensures that the process takes it over once.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
}
