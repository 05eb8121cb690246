//! The poller elsewhere than on Linux: the `polling` crate (kqueue and others), edge-triggered.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use polling::{Event, PollMode};

use super::{Ready, WAKE_KEY};
use crate::sys::sync::lock;
use crate::sys::waker::Waker;

/// One edge-triggered poller and the bell in it.
#[derive(Debug)]
pub(crate) struct Poller {
    poller: polling::Poller,
    wake: Waker,
    /// `polling` lets one thread wait at a time, and sends a second one away at once, which would
    /// make it spin. Here it waits to be let in.
    waiting: Mutex<()>,
}

/// Where a thread that waits gets its events.
pub(crate) struct Events(polling::Events);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let this = Self {
            poller: polling::Poller::new()?,
            wake: Waker::new()?,
            waiting: Mutex::new(()),
        };
        this.register(this.wake.as_fd(), Event::readable(WAKE_KEY))?;
        Ok(this)
    }

    /// Tells of what happens to `socket` from now on, and of what is there already.
    pub(crate) fn add(&self, socket: BorrowedFd<'_>, key: u32) -> io::Result<()> {
        self.register(socket, Event::readable(key as usize))
    }

    /// Tells of room to write too, at once if there is room already.
    pub(crate) fn want_out(&self, socket: BorrowedFd<'_>, key: u32) -> io::Result<()> {
        self.poller
            .modify_with_mode(socket, Event::all(key as usize), PollMode::Edge)
    }

    /// Forgets a socket that is about to be closed.
    pub(crate) fn remove(&self, socket: BorrowedFd<'_>) {
        // It fails for a socket that was never registered, which is as good.
        let _ = self.poller.delete(socket);
    }

    /// Forgets a socket that stays open.
    pub(crate) fn delete(&self, socket: BorrowedFd<'_>) {
        self.remove(socket);
    }

    /// Wakes one thread that waits, or the next one that will.
    pub(crate) fn wake(&self) {
        self.wake.wake();
    }

    /// Fills `events`; blocks until there is one, unless told not to.
    pub(crate) fn wait(&self, events: &mut Events, block: bool) {
        events.0.clear();
        let _waiting = match (block, self.waiting.try_lock()) {
            (_, Ok(waiting)) => waiting,
            (_, Err(TryLockError::Poisoned(poisoned))) => poisoned.into_inner(),
            (true, Err(TryLockError::WouldBlock)) => lock(&self.waiting),
            (false, Err(TryLockError::WouldBlock)) => return,
        };
        match self.poller.wait(
            &mut events.0,
            if block { None } else { Some(Duration::ZERO) },
        ) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => unreachable!("waiting on a poller that is open: {error}"),
        }
        if events.iter().any(|ready| ready == Ready::Wake) {
            self.wake.reset();
        }
    }

    #[allow(
        unsafe_code,
        reason = "polling leaves it to its user that a source outlives its registration"
    )]
    fn register(&self, source: BorrowedFd<'_>, interest: Event) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: a connection's socket is removed before it is closed, by the one who owns the
        // connection; the bell lives as long as the poller.
        unsafe {
            self.poller
                .add_with_mode(source.as_raw_fd(), interest, PollMode::Edge)
        }
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }
}

impl Events {
    pub(crate) fn new(capacity: usize) -> Self {
        Self(polling::Events::with_capacity(
            NonZeroUsize::new(capacity).expect("room for one event"),
        ))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Ready> {
        self.0.iter().map(|event| match event.key {
            WAKE_KEY => Ready::Wake,
            // `polling` does not tell a half-close from bytes: each readable event may be one, so
            // each is read to its end.
            key => Ready::Socket {
                key: key as u32,
                readable: event.readable,
                hup: event.readable,
            },
        })
    }
}
