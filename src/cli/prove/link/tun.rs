//! The system calls that make a link: unshare(2), and the ioctls for network devices, which neither
//! std nor rustix wraps.
#![allow(
    unsafe_code,
    reason = "namespaces and network devices, which no safe function makes"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

/// A TUN device that is up. It is gone when it is dropped.
#[derive(Debug)]
pub(super) struct Device(File);

impl Device {
    /// Creates the device and brings it and the loopback device up. Packets from `local` to
    /// `remote` go into it.
    pub(super) fn create(local: Ipv4Addr, remote: Ipv4Addr) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(|error| io::Error::other(format!("/dev/net/tun: {error}")))?;
        let mut request = request_for(NAME);
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        ioctl(&file, libc::TUNSETIFF, &mut request)?;

        // Any socket does: it only stands for the network namespace.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        for (what, addr) in [(libc::SIOCSIFADDR, local), (libc::SIOCSIFDSTADDR, remote)] {
            let mut request = request_for(NAME);
            request.ifr_ifru.ifru_addr = socket_addr(addr);
            ioctl(&socket, what, &mut request)?;
        }
        // The kernel's own queue holds 500 packets, too few when the forwarder has to wait for a
        // processor. Only root may change it, and not in a user namespace.
        let mut request = request_for(NAME);
        request.ifr_ifru.ifru_metric = QUEUE_PACKETS;
        let _ = ioctl(&socket, libc::SIOCSIFTXQLEN, &mut request);
        for name in [NAME, "lo"] {
            let mut request = request_for(name);
            request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
            ioctl(&socket, libc::SIOCSIFFLAGS, &mut request)?;
        }
        Ok(Self(file))
    }

    /// Returns the file of the device. Each read takes one packet, each write gives one, and neither
    /// blocks.
    pub(super) fn into_file(self) -> File {
        self.0
    }
}

/// Moves the calling thread into new namespaces, of the kinds in `flags`.
pub(super) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the call takes no pointer. Namespaces change no memory and close no descriptor.
    let failed = unsafe { libc::unshare(flags) } != 0;
    if failed {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Lets the calling thread run before all others that are no real-time threads, such as those that
/// compile something meanwhile. It needs a privilege, which in a user namespace nobody has.
pub(super) fn take_precedence() -> io::Result<()> {
    // SAFETY: the struct consists of integers, with musl also of times made of integers. All of them
    // may be zero.
    let mut parameters: libc::sched_param = unsafe { mem::zeroed() };
    parameters.sched_priority = LOWEST_REAL_TIME;
    // SAFETY: 0 is the calling thread, and the kernel reads no more than the `struct sched_param`.
    let failed = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const parameters) } != 0;
    if failed {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Makes a request about a network device. `what` is one whose argument is a `struct ifreq`.
fn ioctl(fd: &impl AsFd, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, so it is open during the call. The kernel reads and
    // writes no more than the `struct ifreq`, which all requests in this file have.
    let failed = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), what, &raw mut *request) } != 0;
    if failed {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Returns a request about the device `name`, which is shorter than 16 bytes.
fn request_for(name: &str) -> libc::ifreq {
    // SAFETY: the struct and the union in it consist of integers, addresses made of integers, and
    // a raw pointer. All of them may be zero.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// Returns an address as a `struct sockaddr`: after the family a port, which devices do not have,
/// and the four bytes of the address.
fn socket_addr(addr: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..].iter_mut().zip(addr.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

/// The lowest priority of a real-time thread.
const LOWEST_REAL_TIME: libc::c_int = 1;

/// The name of the device.
const NAME: &str = "link";

/// The number of packets that the kernel holds for the forwarder.
const QUEUE_PACKETS: libc::c_int = 10_000;
