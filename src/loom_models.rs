//! Models of the core's protocols: loom tries the orders in which their threads can run and the
//! values they can read.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib loom` runs them. Each says which bug it would
//! catch. What the crate takes from crossbeam and from the kernel is outside: the bell's eventfd is
//! a count behind a lock, and the bytes of a socket are relaxed stores, so that whoever reads them
//! has to have been told through the protocol.
//!
//! Loom knows `SeqCst` fences, but of `SeqCst` accesses only that a load does not miss a store
//! where the older value it would read was stored so too. Where a protocol rests on such accesses,
//! its model stores the first value so beforehand.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex as StdMutex, Weak};
use std::time::{Duration, Instant};

use http::{Method, Uri};
use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::conn::egress::{Egress, InFlight, TakeOver};
use crate::conn::transport::{Look, Transport};
use crate::lifecycle::ledger::{CloseReason, Entry, Ledger, Raced, WakeAt};
use crate::lifecycle::phase::{Lifecycle, Phase, PhaseWord, StopCause};
use crate::pool::deadlines::{Deadlines, Due};
use crate::pool::permits::{PollerWake, Semaphore, WorkerWord};
use crate::pool::shared::{Lane, MonitorWake};
use crate::pool::slots::{ClaimWord, Claimed, KeyQueue, Table};
use crate::sys::clock::Clock;
use crate::sys::socket::TcpInfo;
use crate::sys::waker::{Waker, wait_for};

/// Tries every order, or those in which threads are preempted at most `preemptions` times: a model
/// of retries has no end of others, and a large one takes too long.
fn check(preemptions: impl Into<Option<usize>>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions.into();
    builder.check(model);
}

fn join<T>(threads: impl IntoIterator<Item = thread::JoinHandle<T>>) {
    threads
        .into_iter()
        .for_each(|thread| drop(thread.join().unwrap()));
}

// ---- the claim ----

/// A connection under its claim, and a peer that has sent at most one byte to each of two events.
struct Connection {
    word: ClaimWord,
    came: [AtomicUsize; 2],
    /// How often it was owned, for the next owner to see: one that does not has been let in without
    /// the last one's work.
    turns: AtomicUsize,
    /// What its owners did. Never contended, or two own it at a time.
    done: StdMutex<Done>,
}

#[derive(Default)]
struct Done {
    turns: usize,
    read: [usize; 2],
    hup: bool,
}

impl Connection {
    /// One that the caller owns.
    fn owned() -> Arc<Self> {
        let word = ClaimWord::new();
        word.park_queued();
        assert!(word.claim_queued());
        let came = [AtomicUsize::new(0), AtomicUsize::new(0)];
        Arc::new(Self {
            word,
            came,
            turns: AtomicUsize::new(0),
            done: StdMutex::default(),
        })
    }

    /// What an owner does: it reads all there is, or only looks at the rest.
    fn own(&self, reads: bool, hup: bool) {
        let mut done = self.done.try_lock().expect("one owner at a time");
        assert_eq!(
            self.turns.load(Relaxed),
            done.turns,
            "an owner sees what the last one did"
        );
        done.turns += 1;
        self.turns.store(done.turns, Relaxed);
        done.hup |= hup;
        if reads {
            done.read = [self.came[0].load(Relaxed), self.came[1].load(Relaxed)];
        }
    }

    /// Parks, and serves it as long as there are marks.
    fn let_go(&self) {
        while let Err(mark) = self.word.park() {
            self.own(true, mark.hup);
        }
    }

    /// The peer sends a byte, and perhaps its last, and a poller learns of it.
    fn event(&self, i: usize, hup: bool) {
        self.came[i].store(1, Relaxed);
        if self.word.claim_by_event(hup) {
            self.own(true, hup);
            self.let_go();
        }
    }

    /// When all is quiet.
    fn assert_all_read(&self, read: [usize; 2], hup: bool) {
        assert!(self.word.claim_by_event(false), "the connection is parked");
        self.own(false, false);
        let done = self.done.lock().unwrap();
        assert_eq!((done.read, done.hup), (read, hup));
    }
}

/// Catches: an event that leaves no mark, a mark that forgets a hang-up or is forgotten by `park`,
/// a claim or a park that does not pass on what was written before it.
#[test]
fn events_meet_an_owner() {
    check(3, || {
        let conn = Connection::owned();
        let events = [(0, false), (1, true)].map(|(i, hup)| {
            let conn = conn.clone();
            thread::spawn(move || conn.event(i, hup))
        });
        conn.own(true, false);
        conn.let_go();
        join(events);
        conn.assert_all_read([1, 1], true);
    });
}

/// Catches: a sweeper that takes a connection from its owner, or drops an event that comes while it
/// only looks.
#[test]
fn the_sweeper_meets_an_event_and_an_owner() {
    for overdue in [true, false] {
        check(None, move || {
            let conn = Connection::owned();
            let event = {
                let conn = conn.clone();
                thread::spawn(move || conn.event(0, true))
            };
            let sweeper = {
                let conn = conn.clone();
                thread::spawn(move || {
                    let claimed = if overdue {
                        conn.word.claim_overdue()
                    } else {
                        conn.word.claim_parked()
                    };
                    if claimed.is_some() {
                        conn.own(false, false);
                        conn.let_go();
                    }
                })
            };
            conn.own(true, false);
            conn.let_go();
            event.join().unwrap();
            sweeper.join().unwrap();
            conn.assert_all_read([1, 0], true);
        });
    }
}

/// Connections that wait for threads.
struct Queues {
    table: Table,
    calls: KeyQueue,
    ready: KeyQueue,
    served: AtomicUsize,
}

impl Queues {
    /// With connections 0 and 1, owned by the caller.
    fn new() -> Self {
        let table = Table::new(2);
        for _ in 0..2 {
            table
                .allocate(std::sync::Arc::new(Egress::new(
                    Box::new(Line::default()),
                    None,
                )))
                .expect("a free slot");
        }
        let (calls, ready) = (KeyQueue::default(), KeyQueue::default());
        Self {
            table,
            calls,
            ready,
            served: AtomicUsize::new(0),
        }
    }

    fn enqueue(&self, key: u32, queue: &KeyQueue) {
        self.table.slot(key).word.park_queued();
        queue.push(key);
    }

    /// Serves one that waits, which then is gone. False: none does.
    fn serve_next(&self) -> bool {
        let key = self
            .calls
            .claim(&self.table)
            .or_else(|| self.ready.claim(&self.table));
        if key.is_some() {
            self.served.fetch_add(1, Relaxed);
        }
        key.is_some()
    }
}

/// Catches: an entry taken twice, one dropped as stale that was not, and a connection that the
/// sweeper has queued anew being served once for each of its entries.
#[test]
fn one_of_many_gets_a_queued_connection() {
    check(3, || {
        let queues = Arc::new(Queues::new());
        let taker = {
            let queues = queues.clone();
            thread::spawn(move || queues.serve_next())
        };
        let sweeper = {
            let queues = queues.clone();
            thread::spawn(move || {
                let word = &queues.table.slot(0).word;
                if let Some(claimed) = word.claim_parked() {
                    assert_eq!(claimed, Claimed::Queued);
                    queues.ready.drop_stale(&queues.table);
                    queues.enqueue(0, &queues.calls);
                }
            })
        };
        queues.enqueue(0, &queues.ready);
        queues.serve_next();
        taker.join().unwrap();
        sweeper.join().unwrap();
        while queues.serve_next() {}
        assert_eq!(queues.served.load(Relaxed), 1);
    });
}

// ---- permits ----

/// Catches: a permit that is in two hands or in none after a call ended while it was revoked, and
/// one revoked from another call than the one the monitor saw.
#[test]
fn a_permit_is_in_one_hand() {
    check(None, || {
        let word = Arc::new(WorkerWord::new());
        let call = Arc::new(AtomicUsize::new(0));
        let semaphore = Arc::new(Semaphore::new(1));
        let monitor = {
            let (word, call, semaphore) = (word.clone(), call.clone(), semaphore.clone());
            thread::spawn(move || {
                let mut revoked_in = None;
                for _ in 0..2 {
                    let seen = word.look();
                    if !seen.is_busy() {
                        continue;
                    }
                    let seen_in = call.load(Relaxed);
                    semaphore.acquire_beyond();
                    if word.revoke(seen).is_some() {
                        assert_eq!(
                            revoked_in.replace(seen_in),
                            None,
                            "one permit is revoked once"
                        );
                    } else {
                        semaphore.release();
                    }
                }
                revoked_in
            })
        };
        let mut lost_in = None;
        for generation in 1..=2 {
            call.store(generation, Relaxed);
            if lost_in.is_none() {
                word.begin_busy(generation as u64);
                if !word.end_busy(generation as u64) {
                    lost_in = Some(generation);
                    semaphore.release();
                }
            } else {
                word.begin_out();
                word.end_out();
            }
        }
        assert_eq!(monitor.join().unwrap(), lost_in);
        assert!(
            semaphore.acquire() && !semaphore.acquire(),
            "whoever was counted in has left"
        );
    });
}

/// Catches: a handler that runs with a permit while the monitor sleeps and nobody wakes it.
#[test]
fn the_monitor_does_not_sleep_beside_a_busy_worker() {
    check(None, || {
        let bell = MonitorWake::new(std::sync::Arc::new(Waker::new().unwrap()));
        let shared = Arc::new((WorkerWord::new(), bell));
        let (word, bell) = &*shared;
        // For loom, see above.
        word.end_out();
        bell.wake_up();
        let monitor = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (word, bell) = &*shared;
                bell.fall_asleep();
                !word.look().is_in_user_code()
            })
        };
        word.begin_busy(1);
        bell.wake();
        let sleeps = monitor.join().unwrap();
        assert!(!sleeps || wait_for(&[bell.waker.as_fd()], Some(Duration::ZERO)));
    });
}

/// The poller as far as the bell goes: each ring wakes one who waits, or the next one who will.
#[derive(Default)]
struct Eventfd {
    rings: Mutex<usize>,
    rung: Condvar,
}

impl Eventfd {
    fn wake_poller(&self) {
        *self.rings.lock().unwrap() = 1;
        self.rung.notify_one();
    }

    /// True: it rang.
    fn wait(&self, block: bool) -> bool {
        let mut rings = self.rings.lock().unwrap();
        while block && *rings == 0 {
            rings = self.rung.wait(rings).unwrap();
        }
        std::mem::take(&mut *rings) > 0
    }
}

/// Those who wait for work, and those who bring it.
struct Hall {
    queues: Queues,
    poller_wake: PollerWake,
    eventfd: Eventfd,
    word: WorkerWord,
}

impl Hall {
    fn new() -> Arc<Self> {
        let queues = Queues::new();
        Arc::new(Self {
            queues,
            poller_wake: PollerWake::new(),
            eventfd: Eventfd::default(),
            word: WorkerWord::new(),
        })
    }

    fn wake_poller(&self) {
        if self.poller_wake.is_needed([&self.word].into_iter()) {
            self.eventfd.wake_poller();
        }
    }

    fn bring(&self, key: u32) {
        self.queues.enqueue(key, &self.queues.ready);
        self.wake_poller();
    }

    /// A worker with a permit, until it has served `n`.
    fn poll(&self, n: usize) {
        let mut served = 0;
        loop {
            while self.queues.serve_next() {
                served += 1;
            }
            if served == n {
                return;
            }
            self.word.fall_asleep();
            let rang = self.eventfd.wait(self.queues.ready.is_empty());
            self.word.wake_up();
            if rang {
                self.poller_wake.acknowledge();
            }
        }
    }

    /// The monitor, which has seen that all workers run user code a moment ago, takes an event. A
    /// bell is not meant for it alone: work that it cannot do, or that came after it looked, is for
    /// a worker who sleeps again by now.
    fn take_care(&self) {
        if self.eventfd.wait(false) {
            self.poller_wake.acknowledge();
            if !self.queues.ready.is_empty() {
                self.wake_poller();
            }
        }
    }
}

/// Catches: a poller that sleeps beside queued work because it looked before it said that it
/// sleeps, because a fence is missing, or because it noticed the bell only after it had looked.
/// Loom calls that a deadlock.
#[test]
fn nobody_sleeps_beside_work() {
    check(3, || {
        let hall = Hall::new();
        let bringers = [0, 1].map(|key| {
            let hall = hall.clone();
            thread::spawn(move || hall.bring(key))
        });
        hall.poll(2);
        join(bringers);
    });
}

/// Catches: the monitor taking the bell of a worker that has fallen asleep meanwhile, and keeping
/// it.
#[test]
fn a_bell_the_monitor_takes_is_passed_on() {
    check(3, || {
        let hall = Hall::new();
        let bringer = {
            let hall = hall.clone();
            thread::spawn(move || hall.bring(0))
        };
        let monitor = {
            let hall = hall.clone();
            thread::spawn(move || hall.take_care())
        };
        hall.poll(1);
        bringer.join().unwrap();
        monitor.join().unwrap();
    });
}

// ---- sections ----

/// A section with one place, and connections that wait for it.
struct Waiting {
    queues: Queues,
    lane: Lane,
}

impl Waiting {
    fn new() -> Arc<Self> {
        let queues = Queues::new();
        let lane = Lane::new(1);
        // For loom, see above.
        lane.waiting.drop_stale(&queues.table);
        lane.semaphore.acquire_beyond();
        lane.semaphore.release();
        Arc::new(Self { queues, lane })
    }

    /// A worker whose connection needs a place: it goes in, or the connection waits. True: it went
    /// in.
    fn enter_or_wait(&self, key: u32) -> bool {
        if self.lane.semaphore.acquire() {
            return true;
        }
        self.queues.table.slot(key).word.park_queued();
        self.try_again(self.lane.wait(key, &self.queues.table));
        false
    }

    /// Has a worker look at one that was claimed.
    fn try_again(&self, claimed: Option<u32>) {
        if let Some(key) = claimed {
            self.queues.enqueue(key, &self.queues.ready);
        }
    }

    fn serve_all(&self) {
        while self.lane.leave_or_next(&self.queues.table).is_some() {}
    }

    fn assert_nobody_waits(&self) {
        assert!(self.lane.semaphore.has_room());
        assert!(
            self.lane.waiting.claim(&self.queues.table).is_none(),
            "somebody waits beside a free place"
        );
    }
}

/// Catches: a connection that begins to wait while the last worker leaves, and is seen by neither;
/// also when the leaver comes back for an entry that the sweeper has made stale, and goes again.
#[test]
fn nobody_waits_beside_a_free_place() {
    for stale in [false, true] {
        check(None, move || {
            let waiting = Waiting::new();
            assert!(waiting.lane.semaphore.acquire());
            if stale {
                waiting.queues.enqueue(1, &waiting.lane.waiting);
                assert!(waiting.queues.table.slot(1).word.claim_queued());
            }
            let comer = {
                let waiting = waiting.clone();
                thread::spawn(move || {
                    if waiting.enter_or_wait(0) {
                        waiting.serve_all();
                    }
                })
            };
            waiting.serve_all();
            comer.join().unwrap();
            waiting.assert_nobody_waits();
        });
    }
}

/// Catches: a connection that begins to wait because the monitor counts a slow handler in, and is
/// forgotten when the monitor finds that the handler has just ended and counts it out.
#[test]
fn the_monitor_leaves_a_place_like_anybody() {
    check(None, || {
        let waiting = Waiting::new();
        let monitor = {
            let waiting = waiting.clone();
            thread::spawn(move || {
                waiting.lane.semaphore.acquire_beyond();
                waiting.lane.semaphore.release();
                waiting.try_again(waiting.lane.claim_beside_room(&waiting.queues.table));
            })
        };
        if waiting.enter_or_wait(0) {
            waiting.serve_all();
        }
        monitor.join().unwrap();
        waiting.assert_nobody_waits();
    });
}

/// Catches: two who take the last place.
#[test]
fn there_are_no_more_inside_than_places() {
    check(None, || {
        let semaphore = Arc::new(Semaphore::new(1));
        let inside = Arc::new(AtomicUsize::new(0));
        let work = |semaphore: &Semaphore, inside: &AtomicUsize| {
            if semaphore.acquire() {
                assert_eq!(inside.fetch_add(1, Relaxed), 0);
                inside.fetch_sub(1, Relaxed);
                semaphore.release();
            }
        };
        let others = [(); 2].map(|()| {
            let (semaphore, inside) = (semaphore.clone(), inside.clone());
            thread::spawn(move || work(&semaphore, &inside))
        });
        work(&semaphore, &inside);
        join(others);
        assert!(semaphore.acquire());
    });
}

// ---- deadlines ----

/// A connection with its deadline. The sweeper's time is always 10.
struct Timed {
    word: ClaimWord,
    due: Due,
    deadlines: Deadlines,
}

impl Timed {
    /// Owned by the caller, with an entry queued for 1.
    fn owned() -> Arc<Self> {
        let timed = Self {
            word: ClaimWord::new(),
            due: Due::default(),
            deadlines: Deadlines::default(),
        };
        timed.word.park_queued();
        assert!(timed.word.claim_queued());
        assert!(timed.set(1));
        Arc::new(timed)
    }

    fn set(&self, at: u64) -> bool {
        self.deadlines.set(&self.due, 0, at)
    }

    fn pop(&self) -> bool {
        self.deadlines.pop(10, |_| &self.due).is_ok()
    }

    /// The monitor: what is overdue gets a later deadline.
    fn sweep(&self) {
        while self.pop() {
            match self.word.claim_overdue() {
                Some(Claimed::Idle) => self.park(20),
                Some(Claimed::Queued) => self.park_queued(20),
                None => {}
            }
        }
    }

    fn park(&self, at: u64) {
        loop {
            let _ = self.set(at);
            if self.word.park().is_ok() {
                return;
            }
        }
    }

    fn park_queued(&self, at: u64) {
        let _ = self.set(at);
        if self.word.park_queued() {
            let _ = self.set(at);
        }
    }
}

/// Catches: an entry taken out for a deadline that has just moved, and not put back by either side.
#[test]
fn a_deadline_that_moves_keeps_its_entry() {
    check(None, || {
        let timed = Timed::owned();
        let sweeper = {
            let timed = timed.clone();
            thread::spawn(move || timed.pop())
        };
        let _ = timed.set(20);
        sweeper.join().unwrap();
        assert!(timed.deadlines.first().is_some_and(|at| at <= 20));
    });
}

/// Catches: a connection that is parked, or queued, just after the sweeper has dropped its entry
/// because it was being served: the deadline was set before, and was over.
#[test]
fn a_parked_connection_has_an_entry() {
    for park in [Timed::park, Timed::park_queued] {
        check(3, move || {
            let timed = Timed::owned();
            let sweeper = {
                let timed = timed.clone();
                thread::spawn(move || timed.sweep())
            };
            // Over already.
            park(&timed, 2);
            sweeper.join().unwrap();
            assert!(timed.deadlines.first().is_some());
        });
    }
}

/// Catches: an entry that is put back for a connection which is being forgotten.
#[test]
fn a_forgotten_connection_has_none() {
    check(None, || {
        let timed = Timed::owned();
        // Its entry comes up too early.
        let _ = timed.set(20);
        let sweeper = {
            let timed = timed.clone();
            thread::spawn(move || timed.pop())
        };
        timed.deadlines.forget(&timed.due, 0);
        sweeper.join().unwrap();
        assert_eq!(timed.deadlines.first(), None);
    });
}

// ---- egress ----

/// A line to a peer, that takes two bytes at a time, and at first none.
#[derive(Debug, Clone, Default)]
struct Line(std::sync::Arc<StdMutex<Wire>>);

#[derive(Debug, Default)]
struct Wire {
    bytes: Vec<u8>,
    was_full: bool,
    finished: bool,
}

impl Transport for Line {
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut wire = self.0.lock().unwrap();
        assert!(!wire.finished, "nothing is sent behind the FIN");
        if !std::mem::replace(&mut wire.was_full, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = bytes.len().min(2);
        wire.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn finish(&self) {
        self.0.lock().unwrap().finished = true;
    }

    fn recv(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        unreachable!("nobody reads in a model")
    }

    fn look(&self) -> Look {
        unreachable!("nobody reads in a model")
    }

    fn reset(&self) {
        unreachable!("nobody resets in a model")
    }

    fn info(&self) -> Option<TcpInfo> {
        None
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("nobody polls in a model")
    }
}

/// Catches: two answers to one request, or none; one that overtakes an earlier one; a handler that
/// goes on writing behind the 503, or is told that it has written what was not.
#[test]
fn a_request_is_answered_once() {
    for whole in [true, false] {
        check(None, move || {
            let line = Line::default();
            let egress = Arc::new(Egress::new(Box::new(line.clone()), None));
            egress
                .begin_response(&mut Vec::new(), true, |out| {
                    out.extend_from_slice(b"earlier ")
                })
                .unwrap();
            egress.set_in_flight(in_flight());
            let cutter = {
                let egress = egress.clone();
                thread::spawn(move || egress.take_over(b"503"))
            };
            let monitor = {
                let egress = egress.clone();
                thread::spawn(move || egress.flush_from_outside().unwrap())
            };
            let begun =
                egress.begin_response(&mut Vec::new(), whole, |out| out.extend_from_slice(b"200 "));
            let mut written =
                begun.and_then(|()| egress.append(true, |out| out.extend_from_slice(b"OK")));
            if begun.is_err() {
                written = Err(egress
                    .append(true, |out| out.extend_from_slice(b"OK"))
                    .expect_err("it is shut"));
                assert!(egress.send_directly(b"OK").is_err());
            }
            let taken = cutter.join().unwrap();
            monitor.join().unwrap();
            assert!(egress.flush_from_outside().unwrap());
            let wire = line.0.lock().unwrap();
            if written.is_ok() {
                assert!(!matches!(taken, TakeOver::Answered(_)));
                assert_eq!(
                    (&*wire.bytes, wire.finished),
                    (&b"earlier 200 OK"[..], false)
                );
            } else {
                assert!(matches!(taken, TakeOver::Answered(_)));
                assert_eq!((&*wire.bytes, wire.finished), (&b"earlier 503"[..], true));
            }
        });
    }
}

#[allow(clippy::disallowed_methods, reason = "any moment will do")]
fn in_flight() -> InFlight {
    InFlight {
        method: Method::GET,
        target: Uri::from_static("/"),
        since: Instant::now(),
        started: true,
    }
}

// ---- the ledger ----

/// A ledger, the waker of its acceptor, and two connections with a line in it.
fn ledger() -> (std::sync::Arc<Ledger>, std::sync::Arc<Waker>, [Entry; 2]) {
    let waker = std::sync::Arc::new(Waker::new().unwrap());
    let ledger = Ledger::new(std::sync::Arc::downgrade(&waker));
    // For loom, see above.
    ledger.wake(WakeAt::Never);
    let mut entries = [(); 2].map(|()| Ledger::open(&ledger));
    entries[0].because(CloseReason::Asked);
    entries[1].because(CloseReason::PeerClosed);
    (ledger, waker, entries)
}

fn is_woken(waker: &Waker) -> bool {
    wait_for(&[waker.as_fd()], Some(Duration::ZERO))
}

/// As the acceptor does in poll(2). Loom gives up on a model in which nobody ever wakes it.
fn wait_until_woken(waker: &Waker) {
    while !is_woken(waker) {
        thread::yield_now();
    }
    waker.reset();
}

/// Catches: an acceptor that says what it waits for and looks, while a connection ends, which looks
/// for it before that and counts itself out after; and two that each take the other one for the
/// last.
#[test]
fn who_waits_for_an_end_is_woken() {
    for any in [true, false] {
        check(None, move || {
            let (ledger, waker, entries) = ledger();
            let ends = entries.map(|entry| thread::spawn(move || drop(entry)));
            let waits = if any {
                ledger.is_full(2)
            } else {
                ledger.wake(WakeAt::LastEnd);
                ledger.len() > 0
            };
            join(ends);
            assert_eq!(ledger.len(), 0);
            assert!(!waits || is_woken(&waker), "it waits for ever");
        });
    }
}

/// Catches: a full server that stays so because an end was told of while its acceptor said that it
/// does not wait.
#[test]
fn a_full_server_goes_on_accepting() {
    check(None, || {
        let (ledger, waker, [first, second]) = ledger();
        let worker = thread::spawn(move || drop(first));
        let mut second = Some(second);
        for _ in 0..2 {
            while ledger.is_full(2) {
                wait_until_woken(&waker);
                // A second one ends for the second round.
                drop(second.take());
            }
            drop(Ledger::open(&ledger));
        }
        worker.join().unwrap();
        drop(second);
        let ended = CloseReason::ALL
            .iter()
            .map(|reason| ledger.ended(*reason))
            .sum::<u64>();
        assert_eq!((ledger.len(), ledger.accepted(), ended), (0, 4, 4));
    });
}

/// Catches: a drain that is not woken by the last end, and one that has seen it and misses how a
/// connection ended, or the request that came too late on it.
#[test]
fn who_has_seen_the_last_end_counts_all() {
    check(None, || {
        let (ledger, waker, entries) = ledger();
        let ends = entries.map(|entry| {
            thread::spawn(move || {
                let (method, target) = (Method::GET, Uri::from_static("/late"));
                entry.raced(Raced {
                    peer: None,
                    method,
                    target,
                    told: true,
                });
                drop(entry);
            })
        });
        ledger.wake(WakeAt::LastEnd);
        while ledger.len() > 0 {
            wait_until_woken(&waker);
        }
        assert_eq!(
            (
                ledger.ended(CloseReason::Asked),
                ledger.ended(CloseReason::PeerClosed)
            ),
            (1, 1)
        );
        assert_eq!((ledger.accepted(), ledger.take_raced().len()), (2, 2));
        join(ends);
    });
}

// ---- phases ----

/// Catches: a phase gone back to, and two who both think that they have brought a phase about.
#[test]
fn phases_move_forward() {
    check(None, || {
        let word = Arc::new(PhaseWord::new());
        let advance = |phase| {
            let word = word.clone();
            thread::spawn(move || word.advance(phase))
        };
        let first = advance(Phase::Draining);
        let second = advance(Phase::Cutting);
        let (before, after) = (word.get(), word.get());
        assert!(before <= after);
        let third = word.advance(Phase::Draining);
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        assert!(second, "nobody else moves to the last one");
        assert!(!(first && third), "one of two at most");
        assert_eq!(word.get(), Phase::Cutting);
    });
}

/// Catches: a thread that sees the stop and finds no plan for it.
#[test]
fn who_sees_the_stop_finds_the_plan() {
    check(None, || {
        let lifecycle = Lifecycle::new(Clock::System, Duration::ZERO, Duration::ZERO, Weak::new());
        let lifecycle = Arc::new(lifecycle);
        let handles = [StopCause::Handle, StopCause::Dropped].map(|cause| {
            let lifecycle = lifecycle.clone();
            thread::spawn(move || lifecycle.begin_stop(cause))
        });
        if lifecycle.is_stopping() {
            assert!(lifecycle.plan().is_some());
        }
        join(handles);
        assert_eq!(lifecycle.phase(), Phase::LameDuck);
    });
}
