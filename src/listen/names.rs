//! Internet addresses to listen on: names that have several, and wildcards that overlap.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::listen::listener::{Addr, Listener, MappedIpv4};
use crate::sys::logging;

/// The listeners of a server, which are made one after the other.
#[derive(Debug)]
#[doc(hidden)]
pub struct Listeners {
    pub(super) made: Vec<Listener>,
    pub(super) backlog: i32,
}

/// The most attempts to find a port that is free on all addresses of a name.
const PORT_TRIES: usize = 16;

/// Listens on a text that has a port: an address, a name, or the port alone.
pub(super) fn listen(text: &str, listeners: &mut Listeners) -> Result<()> {
    let refused = |reason| Error::Address {
        addr: text.to_owned(),
        reason,
    };
    let failed = |source| Error::Listen {
        addr: text.to_owned(),
        source,
    };
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(refused("it has no port, as in 127.0.0.1:8080"));
    };
    const NO_ADDRESS: &str = "it is not an address with a port, as in 127.0.0.1:8080";
    if let "" | "*" = host {
        // `u16` would parse a sign too.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refused(NO_ADDRESS));
        }
        let port = port.parse().map_err(|_| refused(NO_ADDRESS))?;
        return listen_everywhere(port, listeners).map_err(failed);
    }
    let mut addrs = Vec::new();
    let found = text.to_socket_addrs().map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => refused(NO_ADDRESS),
        _ => failed(error),
    })?;
    // A hosts file may give a name the same address twice.
    for addr in found {
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    if addrs.is_empty() {
        return Err(refused("the name has no address"));
    }
    listen_on_all(text, &addrs, listeners).map_err(failed)
}

/// Listens on one address.
pub(super) fn listen_on(addr: SocketAddr, listeners: &mut Listeners) -> Result<()> {
    listen_on_all("", &[addr], listeners).map_err(|source| Error::Listen {
        addr: addr.to_string(),
        source,
    })
}

/// Listens on all addresses of the machine.
fn listen_everywhere(port: u16, listeners: &mut Listeners) -> io::Result<()> {
    let ipv6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match Listener::tcp(ipv6, MappedIpv4::Too, listeners.backlog) {
        Err(error) if is_not_here(&error) => {
            let ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            listen_on_all("", &[ipv4], listeners)
        }
        listener => {
            listeners.made.push(listener?);
            Ok(())
        }
    }
}

/// Listens on each address of a name that this machine has. Port 0 becomes one port for all.
fn listen_on_all(name: &str, addrs: &[SocketAddr], listeners: &mut Listeners) -> io::Result<()> {
    let before = listeners.made.len();
    let mut tries = 0;
    loop {
        tries += 1;
        match try_all(name, addrs, listeners) {
            // The port that the kernel chose for the first address is in use on another one.
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && addrs.iter().any(|addr| addr.port() == 0)
                    && tries < PORT_TRIES =>
            {
                listeners.made.truncate(before);
            }
            result => return result,
        }
    }
}

fn try_all(name: &str, addrs: &[SocketAddr], listeners: &mut Listeners) -> io::Result<()> {
    let mut port = None;
    let mut left_out = Vec::new();
    for &(mut addr) in addrs {
        addr.set_port(port.unwrap_or(addr.port()));
        match listeners.tcp(addr) {
            Ok(chosen) => port = Some(chosen),
            Err(error) if is_not_here(&error) => left_out.push((addr, error)),
            Err(error) => return Err(error),
        }
    }
    if port.is_none()
        && let Some((_, error)) = left_out.pop()
    {
        return Err(error);
    }
    for (addr, error) in left_out {
        logging::warn!(
            "not listening on {}, an address of {name}: {error}",
            addr.ip()
        );
    }
    Ok(())
}

impl Listeners {
    /// Listens on an address, and returns its port.
    ///
    /// A listener on `[::]` takes IPv4 clients too, so that `0.0.0.0` with the same port is in use
    /// beside it, and the other way round. Whichever of our own comes second gives way.
    fn tcp(&mut self, addr: SocketAddr) -> io::Result<u16> {
        let with_ip = |ip| Addr::Tcp(SocketAddr::new(ip, addr.port()));
        let ipv4 = with_ip(Ipv4Addr::UNSPECIFIED.into());
        let ipv6 = with_ip(Ipv6Addr::UNSPECIFIED.into());
        let has = |wanted: &Addr| self.made.iter().any(|made| made.addr == *wanted);
        let wanted = Addr::Tcp(addr);
        let made = match Listener::tcp(addr, MappedIpv4::AsSystem, self.backlog) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if wanted == ipv4 && has(&ipv6) && !has(&ipv4) {
                    return Ok(addr.port());
                }
                if wanted != ipv6 || !has(&ipv4) {
                    return Err(error);
                }
                Listener::tcp(addr, MappedIpv4::Not, self.backlog)?
            }
            made => made?,
        };
        let port = made.port().unwrap_or(addr.port());
        self.made.push(made);
        Ok(port)
    }
}

/// Returns whether the machine has no such address, or not that family of addresses.
fn is_not_here(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    /// An address for documentation (RFC 5737), which no machine has.
    const ELSEWHERE: &str = "192.0.2.1:0";

    fn listen_on(texts: &[&str]) -> io::Result<Vec<SocketAddr>> {
        let addrs: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let mut listeners = none();
        listen_on_all("name", &addrs, &mut listeners)?;
        Ok(tcp_addrs(&listeners))
    }

    fn none() -> Listeners {
        Listeners {
            made: Vec::new(),
            backlog: 8,
        }
    }

    fn tcp_addrs(listeners: &Listeners) -> Vec<SocketAddr> {
        let addrs = listeners.made.iter().map(|made| match &made.addr {
            Addr::Tcp(addr) => *addr,
            addr => panic!("{addr}"),
        });
        addrs.collect()
    }

    fn has_ipv6() -> bool {
        let has = std::net::TcpListener::bind("[::1]:0").is_ok();
        if !has {
            println!("not tested: this machine has no IPv6");
        }
        has
    }

    #[test]
    fn an_address_that_the_machine_does_not_have_is_left_out_while_another_works() {
        for texts in [
            ["127.0.0.1:0", ELSEWHERE],
            [ELSEWHERE, "127.0.0.1:0"],
            ["[2001:db8::1]:0", "127.0.0.1:0"],
        ] {
            let addrs = listen_on(&texts).unwrap();
            assert_eq!(addrs.len(), 1, "{texts:?}: {addrs:?}");
            assert!(addrs[0].ip().is_loopback());
        }
        let error = listen_on(&[ELSEWHERE]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn port_zero_is_one_port_for_all_addresses_of_a_name() {
        if !has_ipv6() {
            return;
        }
        for _ in 0..50 {
            let addrs = listen_on(&["127.0.0.1:0", "[::1]:0"]).unwrap();
            assert_eq!(addrs.len(), 2);
            assert_eq!(addrs[0].port(), addrs[1].port());
        }
    }

    #[test]
    fn a_port_that_is_in_use_on_one_address_each_time_is_an_error() {
        // The second address is in use whichever port the first one gets.
        let error = listen_on(&["127.0.0.1:0", "127.0.0.1:0"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn both_wildcards_can_have_the_same_port() {
        if !has_ipv6() {
            return;
        }
        for order in [["0.0.0.0", "[::]"], ["[::]", "0.0.0.0"]] {
            let mut listeners = none();
            listen(&format!("{}:0", order[0]), &mut listeners).unwrap();
            let port = tcp_addrs(&listeners)[0].port();
            listen(&format!("{}:{port}", order[1]), &mut listeners).unwrap();
            for ip in ["127.0.0.1", "[::1]"] {
                TcpStream::connect(format!("{ip}:{port}")).unwrap();
            }
            // What another server listens on is refused as before.
            for text in order {
                listen(&format!("{text}:{port}"), &mut none()).unwrap_err();
            }
        }
    }

    #[test]
    fn a_port_alone_is_all_addresses() {
        for text in [":0", "*:0"] {
            let mut listeners = none();
            listen(text, &mut listeners).unwrap();
            let addrs = tcp_addrs(&listeners);
            assert!(addrs.len() == 1 && addrs[0].ip().is_unspecified());
            let port = addrs[0].port();
            TcpStream::connect(("127.0.0.1", port)).unwrap();
            if has_ipv6() {
                TcpStream::connect(("::1", port)).unwrap();
            }
        }
        for text in [":", "*:", ":x", ":65536", "*", ":-1", ":+80"] {
            let error = listen(text, &mut none()).unwrap_err();
            assert!(matches!(error, Error::Address { .. }), "{text}: {error:?}");
        }
    }
}
