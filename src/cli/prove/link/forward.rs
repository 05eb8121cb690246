//! The far end of a link: a thread that takes each packet out of the TUN device and puts it back
//! with swapped addresses, later or never.
//!
//! A checksum does not depend on the order of the addresses, so those of the packets stay right.
//!
//! **Invariant:** packets keep their order. Each has the same delay.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cli::args::Link;
use crate::cli::prove::link::tun::take_precedence;
use crate::cli::prove::plan::Random;
use crate::cli::prove::write;

/// The thread, which runs for as long as the process does.
#[derive(Debug)]
pub(in crate::cli::prove) struct Forwarder {
    thread: JoinHandle<()>,
    counts: Arc<Counts>,
}

/// What has happened to the packets.
#[derive(Debug, Default)]
struct Counts {
    forwarded: AtomicU64,
    lost: AtomicU64,
    /// Packets dropped because too many were under way.
    overflowed: AtomicU64,
    /// Packets that were late by more than [`PRECISION`].
    late: AtomicU64,
    /// By how much the latest packet was late.
    latest_micros: AtomicU64,
}

impl Forwarder {
    pub(super) fn start(device: File, link: Link, seed: u64) -> io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let wire = Wire::new(link, Random::new(seed, STREAM));
        let theirs = Arc::clone(&counts);
        let thread = thread::Builder::new()
            .name("lameduck-link".to_owned())
            .spawn(move || {
                let Err(error) = forward(&device, wire, &theirs);
                write(&format!("the link has failed: {error}\n"));
            })?;
        Ok(Self { thread, counts })
    }

    pub(super) fn check(&self) -> io::Result<()> {
        if self.thread.is_finished() {
            return Err(io::Error::other("the network of --link has failed"));
        }
        Ok(())
    }
}

impl fmt::Display for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            forwarded,
            lost,
            overflowed,
            late,
            latest_micros,
        } = &*self.counts;
        let latest = Duration::from_micros(latest_micros.load(Relaxed));
        write!(
            f,
            "{} packets, {} lost, {} dropped at a full queue, {} late by up to {latest:.1?}",
            forwarded.load(Relaxed),
            lost.load(Relaxed),
            overflowed.load(Relaxed),
            late.load(Relaxed)
        )
    }
}

/// Forwards packets until the device fails.
fn forward(mut device: &File, mut wire: Wire, counts: &Counts) -> io::Result<Infallible> {
    // A link is not slower where processors are busy. Without the privilege it may be.
    let _ = take_precedence();
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        let mut is_empty = false;
        for _ in 0..BATCH {
            match device.read(&mut buffer) {
                Ok(n) => {
                    let counter = match wire.take(&buffer[..n], Instant::now()) {
                        Fate::Forwarded => &counts.forwarded,
                        Fate::Lost => &counts.lost,
                        Fate::Overflowed => &counts.overflowed,
                        Fate::Foreign => continue,
                    };
                    counter.fetch_add(1, Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    is_empty = true;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        while let Some(packet) = wire.arrived(Instant::now()) {
            let late = packet.due.elapsed();
            if late > PRECISION {
                let micros = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
                counts.late.fetch_add(1, Relaxed);
                counts.latest_micros.fetch_max(micros, Relaxed);
            }
            // The kernel takes no packet when it is out of memory. A router drops it then.
            if device.write(&packet.bytes).is_err() {
                counts.forwarded.fetch_sub(1, Relaxed);
                counts.overflowed.fetch_add(1, Relaxed);
            }
        }
        if is_empty {
            let now = Instant::now();
            let wait = wire.next().map(|due| due.saturating_duration_since(now));
            let wait = wait.map(|wait| Timespec::try_from(wait).expect("a delay is short"));
            // An interrupted wait is no error: it ends early, and is begun again.
            let _ = poll(&mut [PollFd::new(device, PollFlags::IN)], wait.as_ref());
        }
    }
}

/// The packets that are under way.
#[derive(Debug)]
struct Wire {
    /// The time that each packet takes, half a round trip.
    delay: Duration,
    loss: f64,
    random: Random,
    packets: VecDeque<Packet>,
}

#[derive(Debug)]
struct Packet {
    /// When it arrives.
    due: Instant,
    bytes: Vec<u8>,
}

/// What becomes of a packet.
#[derive(Debug, PartialEq)]
enum Fate {
    Forwarded,
    Lost,
    Overflowed,
    /// It is not IPv4: the kernel looks for IPv6 neighbours by itself.
    Foreign,
}

impl Wire {
    fn new(link: Link, random: Random) -> Self {
        Self {
            delay: link.round_trip / 2,
            loss: link.loss,
            random,
            packets: VecDeque::new(),
        }
    }

    /// Takes a packet that enters the wire.
    fn take(&mut self, packet: &[u8], now: Instant) -> Fate {
        if packet.len() < HEADER_BYTES || packet[0] >> 4 != 4 {
            return Fate::Foreign;
        }
        if self.random.fraction() < self.loss {
            return Fate::Lost;
        }
        if self.packets.len() >= PACKETS_MAX {
            return Fate::Overflowed;
        }
        let mut bytes = packet.to_vec();
        let (before, after) = bytes.split_at_mut(DESTINATION);
        before[SOURCE..].swap_with_slice(&mut after[..ADDRESS_BYTES]);
        self.packets.push_back(Packet {
            due: now + self.delay,
            bytes,
        });
        Fate::Forwarded
    }

    /// Returns when the next packet arrives.
    fn next(&self) -> Option<Instant> {
        self.packets.front().map(|packet| packet.due)
    }

    /// Takes out a packet that has arrived by `now`.
    fn arrived(&mut self, now: Instant) -> Option<Packet> {
        if self.next()? > now {
            return None;
        }
        self.packets.pop_front()
    }
}

/// The stream of random numbers that decide which packets are lost. The streams of stops are their
/// numbers, which are smaller.
const STREAM: u64 = u64::MAX;

/// By how much a packet may be late without being counted.
const PRECISION: Duration = Duration::from_millis(1);
/// The most packets that are taken before those that have arrived are let out.
const BATCH: u32 = 64;
/// The most packets that are under way. 20,000 packets per second need it for a delay of 0.8 s.
const PACKETS_MAX: usize = 16 * 1024;
/// The size of the longest IPv4 packet. Those of the device have at most 1500 bytes.
const PACKET_BYTES_MAX: usize = 64 * 1024;

/// The size of an IPv4 header without options, and where its addresses are.
const HEADER_BYTES: usize = 20;
const SOURCE: usize = 12;
const DESTINATION: usize = SOURCE + ADDRESS_BYTES;
const ADDRESS_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(millis: u64, loss: f64) -> Wire {
        let round_trip = Duration::from_millis(millis);
        Wire::new(Link { round_trip, loss }, Random::new(1, 1))
    }

    fn packet(number: u8) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[0] = 0x45;
        bytes[SOURCE..HEADER_BYTES].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        bytes[39] = number;
        bytes
    }

    #[test]
    fn a_packet_comes_back_after_half_a_round_trip_with_swapped_addresses() {
        let (mut wire, now) = (wire(50, 0.0), Instant::now());
        let later = |millis| now + Duration::from_millis(millis);
        assert_eq!(wire.take(&packet(7), now), Fate::Forwarded);
        assert_eq!(wire.next(), Some(later(25)));
        assert!(wire.arrived(later(24)).is_none());
        let arrived = wire.arrived(later(25)).unwrap().bytes;
        assert_eq!(arrived[SOURCE..HEADER_BYTES], [10, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!((arrived.len(), arrived[0], arrived[39]), (40, 0x45, 7));
        assert_eq!(wire.next(), None);
    }

    #[test]
    fn packets_keep_their_order() {
        let (mut wire, now) = (wire(50, 0.0), Instant::now());
        for number in 0..100 {
            wire.take(&packet(number), now + Duration::from_micros(number.into()));
        }
        let end = now + Duration::from_secs(1);
        let arrived = std::iter::from_fn(|| wire.arrived(end)).map(|packet| packet.bytes[39]);
        assert!(arrived.eq(0..100));
    }

    #[test]
    fn as_many_packets_are_lost_as_the_link_says() {
        let (mut wire, now) = (wire(0, 0.03), Instant::now());
        let lost = (0..10_000).filter(|_| wire.take(&packet(0), now) == Fate::Lost);
        let lost = lost.count();
        assert!((200..400).contains(&lost), "{lost}");
    }

    #[test]
    fn a_full_wire_drops_packets() {
        let (mut wire, now) = (wire(50, 0.0), Instant::now());
        for _ in 0..PACKETS_MAX {
            assert_eq!(wire.take(&packet(0), now), Fate::Forwarded);
        }
        assert_eq!(wire.take(&packet(0), now), Fate::Overflowed);
        wire.arrived(now + Duration::from_secs(1)).unwrap();
        assert_eq!(wire.take(&packet(0), now), Fate::Forwarded);
    }

    #[test]
    fn what_is_not_ipv4_is_ignored() {
        let mut wire = wire(50, 0.0);
        for bytes in [&[][..], &[0x45; 19], &[0x60; 40]] {
            assert_eq!(wire.take(bytes, Instant::now()), Fate::Foreign, "{bytes:?}");
        }
    }
}
