//! The poller elsewhere than on Linux: the `polling` crate (kqueue and others), edge-triggered.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use polling::{Event, PollMode};

use super::{Ready, SocketEvents, WAKE_KEY};
use crate::sys::sync::lock;
use crate::sys::waker::Waker;

/// A poller of the `polling` crate, and the waker that is registered in it.
#[derive(Debug)]
pub(crate) struct Poller {
    poller: polling::Poller,
    wake: Waker,
    /// Held by the thread that waits. `polling` lets one thread wait at a time and returns at once
    /// to a second one, which would make that thread spin. With this lock it waits for its turn.
    waiting: Mutex<()>,
}

/// The buffer in which one thread receives its events.
pub(crate) struct Events(polling::Events);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let this = Self {
            poller: polling::Poller::new()?,
            wake: Waker::new()?,
            waiting: Mutex::new(()),
        };
        this.register(this.wake.as_fd(), Event::readable(WAKE_KEY))?;
        // A sandbox may refuse the call with which the threads wait, and would show it only when
        // clients are connected.
        let mut events = Events::new(1);
        this.poller.wait(&mut events.0, Some(Duration::ZERO))?;
        Ok(this)
    }

    /// Starts to report what happens to `socket`, beginning with what is there already.
    pub(crate) fn add(&self, socket: BorrowedFd<'_>, key: u32) -> io::Result<()> {
        self.register(socket, Event::readable(key as usize))
    }

    /// Starts to report room to write too, at once if there is room already.
    pub(crate) fn want_out(&self, socket: BorrowedFd<'_>, key: u32) -> io::Result<()> {
        self.poller
            .modify_with_mode(socket, Event::all(key as usize), PollMode::Edge)
    }

    /// Forgets a socket that is about to be closed.
    pub(crate) fn remove(&self, socket: BorrowedFd<'_>) {
        // This fails for a socket that was never registered, which is just as good.
        let _ = self.poller.delete(socket);
    }

    /// Forgets a socket that stays open.
    pub(crate) fn delete(&self, socket: BorrowedFd<'_>) {
        self.remove(socket);
    }

    /// Wakes one of the threads that wait, or the next one that does.
    pub(crate) fn wake(&self) {
        self.wake.wake();
    }

    /// Fills `events`. With `block` it blocks until there is at least one.
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
        reason = "polling relies on its user that a source outlives its registration"
    )]
    fn register(&self, source: BorrowedFd<'_>, interest: Event) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: the thread that owns a connection removes its socket before it is closed; the
        // waker lives as long as the poller.
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
            // `polling` does not distinguish a half-close from bytes: each readable event may be
            // one, so the connection is read to its end each time.
            key => Ready::Socket {
                key: key as u32,
                events: SocketEvents {
                    readable: event.readable,
                    hup: event.readable,
                },
            },
        })
    }
}
