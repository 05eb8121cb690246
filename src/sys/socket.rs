//! The few socket options that no crate wraps. With the portable poller's one call, the only unsafe
//! code of the crate.
#![allow(
    unsafe_code,
    reason = "getsockopt(2) of options that neither std nor rustix knows"
)]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// What the kernel knows about the peer of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// Everything we wrote and our FIN are acknowledged; only the peer's FIN is missing.
    pub(crate) is_fin_wait2: bool,
    /// Reset, by the peer or by us.
    pub(crate) is_closed: bool,
    /// Smoothed round trip time.
    pub(crate) rtt: Duration,
    /// Bytes of ours that the peer has acknowledged.
    pub(crate) bytes_acked: u64,
    /// Since a segment came from the peer: bytes, an acknowledgement, or word that there is room
    /// again.
    pub(crate) silent_for: Duration,
}

/// Reads `TCP_INFO`. `None` where the socket is not TCP or the system is not Linux.
#[cfg(target_os = "linux")]
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> Option<TcpInfo> {
    /// `TCP_FIN_WAIT2` and `TCP_CLOSE` of the kernel's `enum tcp_state`.
    const FIN_WAIT2: u8 = 5;
    const CLOSE: u8 = 7;
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

/// `struct tcp_info` of <linux/tcp.h>, which only ever grows at its end: libc's own is the short
/// one of glibc, without `tcpi_bytes_acked`, so it is read by offset.
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
    // Up to and with `tcpi_bytes_acked`, which is there since Linux 4.1.
    (!failed && len >= 128).then_some(info)
}

/// Reads `TCP_INFO`. `None` where the socket is not TCP or the system is not Linux.
#[cfg(not(target_os = "linux"))]
pub(crate) fn tcp_info(_socket: BorrowedFd<'_>) -> Option<TcpInfo> {
    None
}

/// Whether a listener, or a socket that has inherited it from one, drops packets that have passed a
/// router: see `backlog.rs`. Both options are set on an IPv6 socket, which may be dual-stack.
#[cfg(target_os = "linux")]
pub(crate) fn set_syn_gate(socket: BorrowedFd<'_>, on: bool) -> std::io::Result<()> {
    /// `IP_MINTTL` of <linux/in.h> and `IPV6_MINHOPCOUNT` of <linux/in6.h>.
    const OPTIONS: [(libc::c_int, libc::c_int); 2] =
        [(libc::IPPROTO_IP, 21), (libc::IPPROTO_IPV6, 73)];

    let value: libc::c_int = if on { 255 } else { 0 };
    let mut result = Err(std::io::ErrorKind::Unsupported.into());
    for (level, option) in OPTIONS {
        // SAFETY: the descriptor is borrowed, so it is open during the call; the kernel reads one
        // int.
        let failed = unsafe {
            let (value, len) = (
                &raw const value,
                size_of::<libc::c_int>() as libc::socklen_t,
            );
            libc::setsockopt(socket.as_raw_fd(), level, option, value.cast(), len)
        } != 0;
        // An IPv4 socket knows only the first, which is then enough.
        if !failed {
            result = Ok(());
        } else if level == libc::IPPROTO_IP {
            result = Err(std::io::Error::last_os_error());
        }
    }
    result
}

/// Elsewhere there is none.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set_syn_gate(_socket: BorrowedFd<'_>, _on: bool) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Has a socket, or those that inherit it from a listener, take no more bytes than so many beyond
/// what is on its way to the peer. Without it the kernel takes megabytes for each client that reads
/// slowly.
#[cfg(target_os = "linux")]
pub(crate) fn set_unsent_max(socket: BorrowedFd<'_>, bytes: u32) -> std::io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is borrowed, so it is open during the call; the kernel reads one int.
    let failed = unsafe {
        let (value, len) = (
            &raw const value,
            size_of::<libc::c_int>() as libc::socklen_t,
        );
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            value.cast(),
            len,
        )
    } != 0;
    if failed {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Elsewhere the kernel decides.
#[cfg(not(target_os = "linux"))]
pub(crate) fn set_unsent_max(_socket: BorrowedFd<'_>, _bytes: u32) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Connections in a TCP listener's accept backlog. `None` where the kernel does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn backlog_len(listener: BorrowedFd<'_>) -> Option<u32> {
    /// `tcpi_unacked`: for a listener, the length of its queue.
    const UNACKED: usize = 24;
    let info = raw_tcp_info(listener)?;
    Some(u32::from_ne_bytes(*info[UNACKED..].first_chunk()?))
}

/// Connections in a TCP listener's accept backlog. `None` where the kernel does not tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn backlog_len(_listener: BorrowedFd<'_>) -> Option<u32> {
    None
}

/// Takes over a descriptor that the process was started with.
///
/// # Panics
///
/// For the standard streams.
pub(crate) fn adopt(fd: std::os::fd::RawFd) -> std::io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    assert!(
        fd > 2,
        "the standard streams belong to the standard library"
    );
    // SAFETY: fcntl looks at no memory of ours, and fails for a descriptor that is not open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // What came through exec(2) never has this flag, and what this process has opened always has
    // it: then the number is somebody else's.
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "it was not passed to this process",
        ));
    }
    // SAFETY: it is open, and the caller sees to it that the process claims it once.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
}
