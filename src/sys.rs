//! The few socket options that no crate wraps. With the portable poller's one call, the only unsafe code of the crate.
#![allow(unsafe_code, reason = "getsockopt(2) of options that neither std nor rustix knows")]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// What the kernel knows about the peer of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// Everything we wrote and our FIN are acknowledged; only the peer's FIN is missing.
    pub(crate) is_fin_wait2: bool,
    /// Smoothed round trip time.
    pub(crate) rtt: Duration,
    /// Bytes of ours that the peer has acknowledged.
    pub(crate) bytes_acked: u64,
}

/// Reads `TCP_INFO`. `None` where the socket is not TCP or the system is not Linux.
#[cfg(target_os = "linux")]
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> Option<TcpInfo> {
    /// `TCP_FIN_WAIT2` of the kernel's `enum tcp_state`.
    const FIN_WAIT2: u8 = 5;
    // Offsets in `struct tcp_info` of <linux/tcp.h>, which only ever grows at its end: libc's own struct is the short one
    // of glibc, without `tcpi_bytes_acked`.
    const STATE: usize = 0;
    const RTT_MICROS: usize = 68;
    const BYTES_ACKED: usize = 120;

    let mut info = [0u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so it is open during the call; the kernel writes at most `len` bytes into `info`.
    let failed = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    } != 0;
    if failed || (len as usize) < BYTES_ACKED + 8 {
        return None;
    }
    let rtt = u32::from_ne_bytes(*info[RTT_MICROS..].first_chunk()?);
    Some(TcpInfo {
        is_fin_wait2: info[STATE] == FIN_WAIT2,
        rtt: Duration::from_micros(u64::from(rtt)),
        bytes_acked: u64::from_ne_bytes(*info[BYTES_ACKED..].first_chunk()?),
    })
}

/// Reads `TCP_INFO`. `None` where the socket is not TCP or the system is not Linux.
#[cfg(not(target_os = "linux"))]
pub(crate) fn tcp_info(_socket: BorrowedFd<'_>) -> Option<TcpInfo> {
    None
}

/// A signal's name, as in `SIGTERM`.
pub(crate) fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}
