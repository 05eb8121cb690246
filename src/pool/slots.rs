//! The table of connections, and the claim: the only way to a connection that is parked in it.
//!
//! A connection lives in one slot from its first read to its close. The slot's state word says
//! which thread may touch it:
//!
//! ```text
//!            claim by an event                      park, no mark
//!   IDLE ─────────────────────────> RUN ─────────────────────────> IDLE
//!   IDLE, QUEUED ─claim by a queue, the sweeper, the drain──> RUN  ─enqueue─> QUEUED
//!   RUN  ─event─> AGAIN ─event with hang-up─> HUP       (marks: the owner reads before it parks)
//!   RUN  ─close─> FREE ─allocate─> RUN
//! ```
//!
//! **Invariant:** the thread that moved the word to RUN owns the connection, takes it out by value
//! and is the only one to put it back. The mutex around it is therefore never contended; it is
//! there so that no `unsafe` is needed. **Invariant:** an event is never lost: it claims the
//! connection, or leaves a mark in the same word that the owner must change to park. A queued
//! connection needs no mark, because the thread that takes it from its queue reads to the end.
//! **Invariant:** each entry of a [`KeyQueue`] was pushed for a slot in QUEUED; an entry whose slot
//! has moved on is stale, and dropped when it comes up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};

use crossbeam_utils::CachePadded;

use crate::conn::egress::Egress;
use crate::conn::stage::Conn;
use crate::pool::deadlines::DeadlineCell;
use crate::sys::poller::SocketEvents;
use crate::sys::sync::{AtomicU8, AtomicU64, AtomicUsize, Mutex, lock};

/// The number of slots that are made at once, when the first of them is needed. They never move.
const SLOTS_PER_CHUNK: usize = if cfg!(loom) { 2 } else { 1024 };

/// The state of a slot without a connection.
const FREE: u8 = 0;
/// The state of a parked connection, which the next event claims.
const IDLE: u8 = 1;
/// The state of a connection that a thread owns.
const RUN: u8 = 2;
/// Like RUN, and an event came meanwhile: the owner has to look at the socket once more.
const AGAIN: u8 = 3;
/// Like AGAIN, and the peer has closed its side: a short read does not mean that the rest was read.
const HUP: u8 = 4;
/// The state of a parked connection with an entry in a queue. The thread that takes the entry
/// claims it; events do not.
const QUEUED: u8 = 5;

/// A connection's state word.
#[derive(Debug)]
pub(crate) struct ClaimWord(AtomicU8);

/// How a claimed connection had been parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// It waited for an event or its deadline.
    Idle,
    /// It had an entry in a queue, which is stale from now on.
    Queued,
}

impl ClaimWord {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(FREE))
    }

    /// Handles an event. True: the caller now owns the connection. False: its owner will look, or
    /// no thread needs to.
    ///
    /// This is always a read-modify-write, even where nothing changes, so that it has a place in
    /// the word's order: an owner whose `park` comes after it also sees the bytes that the event
    /// announced.
    pub(crate) fn claim_by_event(&self, hup: bool) -> bool {
        let claimed = self.0.fetch_update(AcqRel, Acquire, |word| {
            Some(match word {
                IDLE => RUN,
                RUN | AGAIN => {
                    if hup {
                        HUP
                    } else {
                        AGAIN
                    }
                }
                same => same,
            })
        });
        claimed == Ok(IDLE)
    }

    /// Claims a parked connection unless it is being served, for the sweeper and the drain.
    pub(crate) fn claim_parked(&self) -> Option<Claimed> {
        if self.claim_idle() {
            return Some(Claimed::Idle);
        }
        self.claim_queued().then_some(Claimed::Queued)
    }

    /// Claims a parked connection that waits for no worker, for an eviction.
    pub(crate) fn claim_idle(&self) -> bool {
        self.0.compare_exchange(IDLE, RUN, AcqRel, Relaxed).is_ok()
    }

    /// Claims a parked connection whose deadline was over. If it is being served, its owner finds a
    /// mark: it may have set the deadline that was taken from the queue, and be about to park on
    /// it.
    pub(crate) fn claim_overdue(&self) -> Option<Claimed> {
        // This is one step: whatever the word is, either the caller gets the connection or its
        // owner gets the mark.
        let before = self.0.fetch_update(AcqRel, Acquire, |word| {
            Some(match word {
                IDLE | QUEUED => RUN,
                RUN => AGAIN,
                same => same,
            })
        });
        match before {
            Ok(IDLE) => Some(Claimed::Idle),
            Ok(QUEUED) => Some(Claimed::Queued),
            _ => None,
        }
    }

    /// Claims a connection whose key came from a queue. False: the entry was stale.
    pub(crate) fn claim_queued(&self) -> bool {
        self.0
            .compare_exchange(QUEUED, RUN, AcqRel, Relaxed)
            .is_ok()
    }

    /// Parks the connection for its owner. `Err`: an event has left a mark; the caller still owns
    /// the connection and must look again.
    pub(crate) fn park(&self) -> Result<(), SocketEvents> {
        if self.0.compare_exchange(RUN, IDLE, AcqRel, Relaxed).is_ok() {
            return Ok(());
        }
        Err(SocketEvents {
            readable: true,
            hup: self.0.swap(RUN, AcqRel) == HUP,
        })
    }

    /// Parks the connection for a queue, whose entry is pushed after this. True: there was a mark,
    /// which is gone.
    pub(crate) fn park_queued(&self) -> bool {
        self.0.swap(QUEUED, AcqRel) != RUN
    }

    /// Makes the caller the owner of a free slot.
    fn occupy(&self) {
        // A read-modify-write, so that it has a place in the word's order.
        self.0.swap(RUN, AcqRel);
    }

    /// Frees the slot after its owner has closed the connection. Events that are still on their way
    /// find a free slot, or its next connection, for which they are spurious: its read finds
    /// nothing.
    fn vacate(&self) {
        self.0.swap(FREE, AcqRel);
    }

    fn is_idle(&self) -> bool {
        self.0.load(Acquire) == IDLE
    }

    fn is_queued(&self) -> bool {
        self.0.load(Acquire) == QUEUED
    }
}

/// The value for a connection with which something is under way.
const NOT_SILENT: u64 = u64::MAX;

/// A slot: the place of one connection in the table.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) word: ClaimWord,
    /// When the connection has to be looked at if it is still parked then.
    pub(crate) deadline: DeadlineCell,
    /// Since when nothing is under way with the connection, or `NOT_SILENT`. It serves to find
    /// candidates; only a thread that claims the connection knows for sure.
    silent_since: AtomicU64,
    conn: Mutex<Option<Box<Conn>>>,
    /// The second reference to the socket, to send pending bytes and to cut the connection from
    /// outside, and for nothing else.
    egress: Mutex<Option<Arc<Egress>>>,
}

impl Slot {
    fn new() -> Self {
        Self {
            word: ClaimWord::new(),
            deadline: DeadlineCell::default(),
            silent_since: AtomicU64::new(NOT_SILENT),
            conn: Mutex::new(None),
            egress: Mutex::new(None),
        }
    }

    /// Publishes since when nothing is under way with the connection, in nanoseconds like the
    /// deadlines. Its owner calls this before it parks the connection.
    pub(crate) fn publish_silent_since(&self, since: Option<u64>) {
        self.silent_since
            .store(since.unwrap_or(NOT_SILENT), Relaxed);
    }

    /// Returns since when nothing is under way with a parked connection, for a thread that does not
    /// own it. The connection may have moved on already.
    pub(crate) fn silent_since(&self) -> Option<u64> {
        if !self.word.is_idle() {
            return None;
        }
        Some(self.silent_since.load(Relaxed)).filter(|since| *since != NOT_SILENT)
    }

    /// Puts the connection back. Only its owner may.
    pub(crate) fn put(&self, conn: Box<Conn>) {
        *lock(&self.conn) = Some(conn);
    }

    /// Takes the connection out. Only its owner may.
    pub(crate) fn take(&self) -> Box<Conn> {
        lock(&self.conn)
            .take()
            .expect("an owned slot holds its connection")
    }

    /// Returns the egress of the connection, for a thread that does not own it.
    pub(crate) fn egress(&self) -> Option<Arc<Egress>> {
        lock(&self.egress).clone()
    }
}

/// All slots.
#[derive(Debug)]
pub(crate) struct Table {
    chunks: Vec<OnceLock<Box<[CachePadded<Slot>]>>>,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    keys: Vec<u32>,
    /// The first key that was never used.
    fresh: u32,
}

impl Table {
    /// Makes a table for `max_connections` connections. Nothing is allocated for slots that are
    /// never used.
    pub(crate) fn new(max_connections: usize) -> Self {
        let chunks = max_connections.div_ceil(SLOTS_PER_CHUNK).max(1);
        Self {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            free: Mutex::default(),
        }
    }

    /// Returns the slot of a key that came from an event, a queue or a deadline.
    pub(crate) fn slot(&self, key: u32) -> &Slot {
        self.get(key).expect("a key comes from this table")
    }

    /// Returns the slot of a key, or `None` if there is no such slot.
    pub(crate) fn get(&self, key: u32) -> Option<&Slot> {
        Some(
            &self.chunks.get(key as usize / SLOTS_PER_CHUNK)?.get()?
                [key as usize % SLOTS_PER_CHUNK],
        )
    }

    /// Allocates a slot for a new connection. The caller owns it and has to call `put`. `None`: the
    /// table is full.
    pub(crate) fn allocate(&self, egress: Arc<Egress>) -> Option<u32> {
        let key = {
            let mut free = lock(&self.free);
            match free.keys.pop() {
                Some(key) => key,
                None if (free.fresh as usize) < self.chunks.len() * SLOTS_PER_CHUNK => {
                    // The slot is first made, then counted, because `keys` promises slots that
                    // exist.
                    self.chunk(free.fresh);
                    free.fresh += 1;
                    free.fresh - 1
                }
                None => return None,
            }
        };
        let slot = &self.chunk(key)[key as usize % SLOTS_PER_CHUNK];
        *lock(&slot.egress) = Some(egress);
        slot.word.occupy();
        Some(key)
    }

    fn chunk(&self, key: u32) -> &[CachePadded<Slot>] {
        let make = || {
            (0..SLOTS_PER_CHUNK)
                .map(|_| CachePadded::new(Slot::new()))
                .collect::<Vec<_>>()
                .into_boxed_slice()
        };
        self.chunks[key as usize / SLOTS_PER_CHUNK].get_or_init(make)
    }

    /// Frees the slot of a connection that its owner has dropped.
    pub(crate) fn free(&self, key: u32) {
        let slot = self.slot(key);
        drop(lock(&slot.egress).take());
        slot.word.vacate();
        lock(&self.free).keys.push(key);
    }

    /// Returns the keys of all slots that were ever used.
    pub(crate) fn keys(&self) -> std::ops::Range<u32> {
        0..lock(&self.free).fresh
    }
}

/// A queue of the keys of connections that wait in QUEUED for a thread.
///
/// It is at most as long as there are connections: a stale entry, left by a connection that was
/// taken out by its deadline, is dropped as soon as it is the first.
#[derive(Debug, Default)]
pub(crate) struct KeyQueue {
    keys: Mutex<VecDeque<u32>>,
    len: AtomicUsize,
}

impl KeyQueue {
    /// Appends a key whose slot was parked with `park_queued`.
    pub(crate) fn push(&self, key: u32) {
        let mut keys = lock(&self.keys);
        keys.push_back(key);
        self.len.store(keys.len(), SeqCst);
    }

    /// Claims the first connection that can be claimed, and returns its key. The caller owns it.
    pub(crate) fn claim(&self, table: &Table) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        let mut keys = lock(&self.keys);
        let claimed = std::iter::from_fn(|| keys.pop_front())
            .find(|key| table.slot(*key).word.claim_queued());
        self.len.store(keys.len(), SeqCst);
        claimed
    }

    /// Drops the entries at the front whose connections were taken out by their deadlines.
    pub(crate) fn drop_stale(&self, table: &Table) {
        let mut keys = lock(&self.keys);
        while keys
            .front()
            .is_some_and(|key| !table.slot(*key).word.is_queued())
        {
            keys.pop_front();
        }
        self.len.store(keys.len(), SeqCst);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(SeqCst) == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }
}
