//! The poller on Linux: epoll, edge-triggered.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::{Ready, SocketEvents, WAKE_KEY};
use crate::sys::waker::Waker;

const NO_TIME: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// An epoll instance, and the waker that is registered in it.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    wake: Waker,
}

/// The buffer in which one thread receives its events.
pub(crate) struct Events {
    events: Vec<epoll::Event>,
    len: usize,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = Waker::new()?;
        // The waker is edge-triggered and never read: each write to it is one event, for one of the
        // threads that wait.
        epoll::add(
            &epoll,
            &wake,
            EventData::new_u64(WAKE_KEY as u64),
            EventFlags::IN | EventFlags::ET,
        )?;
        // A sandbox may refuse the call with which the threads wait, and would show it only when
        // clients are connected.
        let mut events = Events::new(1);
        epoll::wait(&epoll, &mut events.events[..], Some(&NO_TIME))?;
        Ok(Self { epoll, wake })
    }

    /// Starts to report what happens to `socket`, beginning with what is there already.
    pub(crate) fn add(&self, socket: BorrowedFd<'_>, key: u32) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(
            &self.epoll,
            socket,
            EventData::new_u64(u64::from(key)),
            flags,
        )?)
    }

    /// Starts to report room to write too, at once if there is room already.
    pub(crate) fn want_out(&self, socket: BorrowedFd<'_>, key: u32) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::modify(
            &self.epoll,
            socket,
            EventData::new_u64(u64::from(key)),
            flags,
        )?)
    }

    /// Forgets a socket that is about to be closed. Here the kernel does that by itself when the
    /// socket's last descriptor is closed.
    #[allow(clippy::unused_self, reason = "the portable poller needs it")]
    pub(crate) fn remove(&self, _socket: BorrowedFd<'_>) {}

    /// Forgets a socket that stays open.
    pub(crate) fn delete(&self, socket: BorrowedFd<'_>) {
        // This fails for a socket that was never registered, which is just as good.
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// Wakes one of the threads that wait, or the next one that does.
    pub(crate) fn wake(&self) {
        self.wake.wake();
    }

    /// Fills `events`. With `block` it blocks until there is at least one.
    pub(crate) fn wait(&self, events: &mut Events, block: bool) {
        let timeout = if block { None } else { Some(&NO_TIME) };
        events.len = match epoll::wait(&self.epoll, &mut events.events[..], timeout) {
            Ok(len) => len,
            Err(Errno::INTR) => 0,
            Err(error) => unreachable!("epoll_wait on an epoll that is open: {error}"),
        };
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Events {
    pub(crate) fn new(capacity: usize) -> Self {
        let none = epoll::Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        Self {
            events: vec![none; capacity],
            len: 0,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Ready> {
        self.events[..self.len].iter().map(|event| {
            let (key, flags) = (event.data.u64(), event.flags);
            if key == WAKE_KEY as u64 {
                return Ready::Wake;
            }
            Ready::Socket {
                key: key as u32,
                events: SocketEvents {
                    readable: flags != EventFlags::OUT,
                    hup: flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
                },
            }
        })
    }
}
