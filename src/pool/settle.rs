//! How a thread comes to own a connection, and the one way to let go of it.
//!
//! A connection is taken by its claim ([`Pool::take_ready`], [`Pool::take_queued`]), or when it is
//! new ([`Pool::take_accepted`]). Its owner goes on with it until it needs something else, and then
//! calls [`Pool::settle`]:
//!
//! ```text
//! LetGo::Park   watch the socket ─> give the buffer back ─> set the deadline ─> put ─> RUN to IDLE
//!                                          the word held a mark: the caller owns it still <─┘
//! LetGo::Queue  give the buffer back ─> set the deadline ─> put ─> RUN to QUEUED ─> push the key
//! LetGo::Close  remove the deadline ─> leave the poller ─> drop ─> RUN to FREE
//! ```
//!
//! The order is the protocol. The deadline is set before the connection is put back, because from
//! the moment the word says IDLE any thread may own it. An event that comes while the connection is
//! owned leaves a mark in the word, which parking finds: an edge-triggered event is reported once,
//! so the owner has to read again. A queued connection needs no mark, because the thread that takes
//! it from its queue reads to the end.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::conn::egress::{Egress, Interest};
use crate::conn::serve_context::ServeContext;
use crate::conn::stage::Conn;
use crate::conn::transport::Socket;
use crate::lifecycle::context::Context;
use crate::lifecycle::ledger::CloseReason;
use crate::lifecycle::phase::Phase;
use crate::lifecycle::scope::Client;
use crate::pool::shared::{Accepted, Lane, Pool};
use crate::pool::slots::KeyQueue;
use crate::sys::logging;
use crate::sys::poller::SocketEvents;
use crate::sys::test_points::Point;

/// What the owner of a connection wants done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LetGo {
    /// The connection waits for its peer, or for its deadline.
    Park,
    /// The connection waits for a thread.
    Queue(Queue),
    /// The connection is over.
    Close(CloseReason),
}

/// Where a connection waits for a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Any thread with a permit can go on with it.
    Ready,
    /// Only a worker can: it needs user code.
    Calls,
    /// It waits for room in the slow lane.
    Slow,
    /// It waits for room in the lane of code that may wait for its client.
    Streams,
    /// It has waited long for room, and goes on as soon as a worker has nothing else to do.
    Late,
}

/// Taking a connection.
impl Pool {
    /// Takes the connection that an event is for. `None`: another thread owns it and has the
    /// event's mark, or it is gone.
    pub(crate) fn take_ready(&self, key: u32, events: SocketEvents) -> Option<Box<Conn>> {
        let slot = self.table.slot(key);
        if !slot.word.claim_by_event(events.hup) {
            if events.hup
                && let Some(egress) = slot.egress()
            {
                // A handler may have asked for a call when its client is gone.
                egress.handle_hang_up();
            }
            return None;
        }
        let mut conn = slot.take();
        conn.note_events(events);
        Some(conn)
    }

    /// Takes the first connection of a queue.
    pub(crate) fn take_queued(&self, queue: &KeyQueue) -> Option<(u32, Box<Conn>)> {
        let key = queue.claim(&self.table)?;
        Some((key, self.take_claimed(key)))
    }

    /// Takes a connection whose key was claimed from a queue. Its events left no mark, so whatever
    /// may have come is looked for.
    pub(crate) fn take_claimed(&self, key: u32) -> Box<Conn> {
        let mut conn = self.table.slot(key).take();
        conn.note_events(SocketEvents::ANY);
        conn
    }

    /// Takes the next connection that the acceptor has sent, and gives it a slot. `None`: there is
    /// no connection, or it was closed because there is no slot.
    pub(crate) fn take_accepted(&self) -> Option<(u32, Box<Conn>)> {
        let accepted = self.accepted.try_recv().ok()?;
        if self.acceptor_waits.load(SeqCst) && self.acceptor_waits.swap(false, SeqCst) {
            self.waker.wake();
        }
        self.adopt(accepted)
    }

    /// Gives an accepted socket a slot. `None`: there is none, and the connection is closed.
    pub(crate) fn adopt(&self, accepted: Accepted) -> Option<(u32, Box<Conn>)> {
        let Accepted {
            socket,
            peer,
            mut entry,
        } = accepted;
        let socket = Socket::new(socket);
        let local = socket.local_addr();
        #[cfg(not(test))]
        let transport = Box::new(socket);
        #[cfg(test)]
        let transport = (self.transport)(socket);
        let egress = Arc::new(Egress::new(transport, peer));
        let client: Weak<dyn Client> = Arc::<Egress>::downgrade(&egress);
        let context = Context::of_connection(self.lifecycle.clone(), peer, local, client);
        let Some(key) = self.table.allocate(egress.clone()) else {
            entry.because(CloseReason::NoSlot);
            return None;
        };
        egress.register_with(self.poller.clone(), key);
        let now = self.lifecycle.clock.now();
        Some((key, Box::new(Conn::new(egress, entry, context, now))))
    }
}

/// Letting go of a connection.
impl Pool {
    /// Lets go of a connection that the caller owns. `Some`: an event came meanwhile, so the caller
    /// owns the connection still and has to look at it once more.
    #[must_use]
    pub(crate) fn settle(
        &self,
        key: u32,
        mut conn: Box<Conn>,
        how: LetGo,
        cx: &mut ServeContext<'_>,
    ) -> Option<Box<Conn>> {
        if conn.has_leftovers() {
            self.leftovers.drop_elsewhere(conn.take_leftovers());
        }
        match how {
            LetGo::Park => return self.park(key, conn, cx),
            LetGo::Queue(queue) => self.enqueue(key, conn, queue, cx),
            LetGo::Close(reason) => self.close(key, conn, reason, cx),
        }
        None
    }

    /// Lets go of a connection on a thread that does not serve connections: one that an event has
    /// marked goes to the ready queue.
    pub(crate) fn settle_or_queue(
        &self,
        key: u32,
        conn: Box<Conn>,
        how: LetGo,
        cx: &mut ServeContext<'_>,
    ) {
        if let Some(conn) = self.settle(key, conn, how, cx) {
            self.enqueue(key, conn, Queue::Ready, cx);
        }
    }

    fn park(&self, key: u32, mut conn: Box<Conn>, cx: &mut ServeContext<'_>) -> Option<Box<Conn>> {
        let wanted = if conn.needs_writable() {
            Interest::Both
        } else {
            Interest::Readable
        };
        if let Err(error) = conn.egress.watch(wanted) {
            logging::error!("cannot watch a connection: {error}");
            self.close(key, conn, CloseReason::Broken, cx);
            return None;
        }
        conn.release_buffer(cx);
        let slot = self.table.slot(key);
        self.set_deadline(key, conn.deadline(cx));
        slot.publish_silent_since(conn.silent_since().map(|since| self.nanos(since)));
        slot.put(conn);
        self.test_points.at(Point::InSlotBeforeParked);
        let mark = slot.word.park().err()?;
        let mut conn = slot.take();
        conn.note_events(mark);
        Some(conn)
    }

    fn enqueue(&self, key: u32, mut conn: Box<Conn>, queue: Queue, cx: &mut ServeContext<'_>) {
        conn.release_buffer(cx);
        let slot = self.table.slot(key);
        let deadline = conn.deadline(cx);
        self.set_deadline(key, deadline);
        slot.put(conn);
        if slot.word.park_queued() {
            // The mark may come from the sweeper, which has then dropped the deadline.
            self.set_deadline(key, deadline);
        }
        self.test_points.at(Point::QueuedBeforePushed);
        match queue {
            Queue::Ready => self.ready.push(key),
            Queue::Calls => self.calls.push(key),
            Queue::Slow => return self.requeue_claimed(self.slow.wait(key, &self.table)),
            Queue::Streams => return self.requeue_claimed(self.streams.wait(key, &self.table)),
            Queue::Late => self.slow.late.push(key),
        }
        self.wake_poller();
    }

    #[allow(clippy::boxed_local, reason = "a connection moves as a pointer")]
    fn close(&self, key: u32, mut conn: Box<Conn>, reason: CloseReason, cx: &mut ServeContext<'_>) {
        if self.lifecycle.phase() >= Phase::Cutting {
            // The requests that its client has pipelined after a cut response are named with it.
            conn.name_unread(cx);
            conn.release_buffer(cx);
        }
        self.deadlines.remove(&self.table.slot(key).deadline, key);
        conn.egress.unregister();
        let leftovers = conn.take_last_leftovers();
        conn.close(reason);
        self.table.free(key);
        self.leftovers.drop_elsewhere(leftovers);
    }

    /// Resets a connection whose thread has panicked with it in hand, and frees its slot. The report
    /// names the fault.
    pub(super) fn abandon(&self, key: u32) {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        self.ledger
            .name_fault(format!("{thread} panicked while it served a connection"));
        let slot = self.table.slot(key);
        self.deadlines.remove(&slot.deadline, key);
        if let Some(egress) = slot.egress() {
            egress.transport().reset();
            egress.unregister();
        }
        self.table.free(key);
    }

    /// Has a worker serve a connection that waits for a lane although there is room.
    pub(crate) fn admit_waiting(&self, lane: &Lane) {
        self.requeue_claimed(lane.claim_if_room(&self.table));
    }

    /// Has a worker try again to find room for a connection that was claimed from a lane.
    fn requeue_claimed(&self, claimed: Option<u32>) {
        let Some(key) = claimed else { return };
        if self.table.slot(key).word.park_queued() {
            // The sweeper has dropped the deadline. One that comes up too early is only set anew.
            self.set_deadline(key, Some(self.lifecycle.clock.now()));
        }
        self.ready.push(key);
        self.wake_poller();
    }

    fn set_deadline(&self, key: u32, at: Option<Instant>) {
        let at = at.map_or(u64::MAX, |at| self.nanos(at));
        if self.deadlines.set(&self.table.slot(key).deadline, key, at) {
            self.monitor.wake();
        }
    }
}
