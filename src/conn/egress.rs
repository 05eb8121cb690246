//! What leaves a connection, behind one small lock.
//!
//! Nothing else writes to a socket. Answers wait here until the kernel takes them, so that whoever
//! has a reason can send them: the worker when nothing more is there to answer, the monitor when a
//! handler turns out to be slow, the drain when the connection is cut. The lock is held while bytes
//! are appended or handed to the kernel, never while anybody waits.
//!
//! **Invariant:** each response is begun once: by the connection's owner, or by who takes the
//! connection over and answers 503. Whoever comes second writes nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Instant;

use http::{Method, Uri};

use crate::conn::transport::{Look, Transport};
use crate::lifecycle::scope::Client;
use crate::sys::poller::Poller;
use crate::sys::socket::TcpInfo;
use crate::sys::sync::{Mutex, lock};

/// How much of what the peer has sent is kept at a reset from outside: some hundred heads.
const MAX_KEPT_UNREAD: usize = 64 << 10;

/// The sending side of a connection.
#[derive(Debug)]
pub(crate) struct Egress {
    transport: Box<dyn Transport>,
    peer: Option<SocketAddr>,
    /// Who tells of it, and under which key.
    home: OnceLock<(Arc<Poller>, u32)>,
    /// A [`Interest`]; it changes under the lock.
    interest: AtomicU8,
    out: Mutex<Out>,
}

/// What the poller tells of a connection. It only grows, until the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Interest {
    /// Not registered yet.
    None,
    /// Bytes and hang-up.
    Readable,
    /// Room to write too.
    Both,
    /// Not registered any more: the connection is about to be closed, or belongs to a thread of its
    /// own.
    Removed,
}

struct Out {
    pending: Vec<u8>,
    /// How much of `pending` the kernel has.
    sent: usize,
    /// Bytes the kernel has taken since the connection began.
    sent_total: u64,
    /// Where the current request's response begins, counted like these.
    begins_at: u64,
    /// Requests before the current one whose responses the kernel may not have taken whole, and
    /// where these begin and end.
    before: Vec<(InFlight, u64, u64)>,
    answer: Answer,
    /// TakeOver over: the owner may not write any more.
    shut: bool,
    /// The request of `answer` is in the report.
    named: bool,
    /// What the peer had sent, and nobody had received, at a reset from outside.
    unread: Vec<u8>,
    /// What is done if the peer resets the connection while the current request is served.
    on_gone: Vec<Box<dyn FnOnce() + Send>>,
}

/// Where the response to the current request stands.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a box would be an allocation for each request"
)]
enum Answer {
    /// No request waits for one, or the last one's is wholly in `pending`.
    None,
    /// A request is complete enough to be owed one.
    NotBegun(InFlight),
    /// Its first byte is in `pending`, or sent.
    Begun(InFlight),
    /// Its last byte is in `pending`, and not yet with the kernel.
    Complete(InFlight),
    /// It was refused by who took the connection over.
    Refused(InFlight),
    /// It was answered with 101: what is sent from now on is no response.
    Upgraded(InFlight),
}

/// A request that is in flight, for naming it.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    pub(crate) method: Method,
    pub(crate) target: Uri,
    /// When its head was complete.
    pub(crate) since: Instant,
    /// It was given to a handler.
    pub(crate) started: bool,
}

/// The connection was taken over: what its owner wanted to write was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shut;

/// What [`Egress::take_over`] found.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "lives for a moment")]
pub(crate) enum TakeOver {
    /// No response was owed.
    None,
    /// One was owed and not begun; the refusal is on its way.
    Answered(InFlight),
    /// One is under way: it must not be added to.
    Begun,
}

impl Egress {
    pub(crate) fn new(transport: Box<dyn Transport>, peer: Option<SocketAddr>) -> Self {
        let out = Out {
            pending: Vec::new(),
            sent: 0,
            sent_total: 0,
            begins_at: 0,
            before: Vec::new(),
            answer: Answer::None,
            shut: false,
            named: false,
            unread: Vec::new(),
            on_gone: Vec::new(),
        };
        let interest = AtomicU8::new(Interest::None as u8);
        Self {
            transport,
            peer,
            home: OnceLock::new(),
            interest,
            out: Mutex::new(out),
        }
    }

    /// From now on `poller` can tell of it, under `key`.
    pub(crate) fn settle(&self, poller: Arc<Poller>, key: u32) {
        let _ = self.home.set((poller, key));
    }

    /// Has the poller tell of at least this.
    #[inline]
    pub(crate) fn watch(&self, wanted: Interest) -> io::Result<()> {
        if self.interest.load(Acquire) >= wanted as u8 {
            Ok(())
        } else {
            self.register(wanted)
        }
    }

    /// Bytes and hang-up are told of from the first park on, and room to write only once there was
    /// none.
    fn register(&self, wanted: Interest) -> io::Result<()> {
        // The lock is for a handler that asks for hang-ups while its worker parks.
        let _out = lock(&self.out);
        let (Some((poller, key)), interest) = (self.home.get(), self.interest.load(Acquire)) else {
            return Ok(());
        };
        let fd = self.transport.as_fd();
        if interest == Interest::None as u8 {
            poller.add(fd, *key)?;
        }
        if interest <= Interest::Readable as u8 && wanted == Interest::Both {
            poller.want_out(fd, *key)?;
        }
        self.interest.store((wanted as u8).max(interest), Release);
        Ok(())
    }

    /// The poller tells nothing more.
    pub(crate) fn forget(&self) {
        let _out = lock(&self.out);
        if let Some(poller) = self.leave() {
            poller.remove(self.transport.as_fd());
        }
    }

    /// The poller that has told of it and is to forget it now. Under the lock.
    fn leave(&self) -> Option<&Poller> {
        let interest = self.interest.swap(Interest::Removed as u8, Release);
        let was_registered =
            interest == Interest::Readable as u8 || interest == Interest::Both as u8;
        self.home
            .get()
            .filter(|_| was_registered)
            .map(|(poller, _)| &**poller)
    }

    /// The response that was begun is a 101 and whole: the connection is its thread's alone, also
    /// to wait for.
    pub(crate) fn switch_over(&self) {
        let mut out = lock(&self.out);
        out.answer = match std::mem::replace(&mut out.answer, Answer::None) {
            Answer::Begun(request) => Answer::Upgraded(request),
            other => other,
        };
        if let Some(poller) = self.leave() {
            poller.delete(self.transport.as_fd());
        }
    }

    /// The connection is the pool's again.
    pub(crate) fn switch_back(&self) {
        let mut out = lock(&self.out);
        out.answer = Answer::None;
        self.interest.store(Interest::None as u8, Release);
    }

    /// Whether it is no longer HTTP.
    pub(crate) fn is_upgraded(&self) -> bool {
        matches!(lock(&self.out).answer, Answer::Upgraded(_))
    }

    /// The poller has told of a hang-up while the connection is served.
    pub(crate) fn hung_up(&self) {
        if lock(&self.out).on_gone.is_empty() || !self.is_gone() {
            return;
        }
        let gone = std::mem::take(&mut lock(&self.out).on_gone);
        gone.into_iter().for_each(|then| then());
    }

    /// Whether the peer has reset the connection: one that has finished its side only may still
    /// read.
    fn is_gone(&self) -> bool {
        self.transport.info().is_some_and(|info| info.is_closed)
            || self.transport.look() == Look::Broken
    }

    /// The socket, for reading and for waiting.
    #[inline]
    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// A request is owed an answer from now on.
    pub(crate) fn set_in_flight(&self, request: InFlight) {
        let mut out = lock(&self.out);
        out.named = false;
        let end = out.end();
        if let Answer::Complete(before) =
            std::mem::replace(&mut out.answer, Answer::NotBegun(request))
        {
            let begin = out.begins_at;
            out.before.push((before, begin, end));
        }
        out.begins_at = end;
        out.on_gone.clear();
    }

    /// The owed request was given to a handler.
    pub(crate) fn start(&self) {
        if let Answer::NotBegun(request) = &mut lock(&self.out).answer {
            request.started = true;
        }
    }

    /// Begins a response: `write` appends its first bytes. `spare` is lent as the place to collect
    /// them if there is none. `whole`: there will be no more.
    pub(crate) fn begin_response(
        &self,
        spare: &mut Vec<u8>,
        complete: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Shut> {
        let mut out = lock(&self.out);
        if out.shut {
            return Err(Shut);
        }
        if out.pending.capacity() == 0 {
            out.pending = std::mem::take(spare);
        }
        write(&mut out.pending);
        out.answer = match std::mem::replace(&mut out.answer, Answer::None) {
            Answer::NotBegun(request) if complete => Answer::Complete(request),
            Answer::NotBegun(request) => Answer::Begun(request),
            _ => Answer::None,
        };
        Ok(())
    }

    /// Appends bytes that belong to no response, such as `100 Continue`, or further ones of the
    /// response that was begun. `last`: the response is whole with them.
    pub(crate) fn append(&self, last: bool, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Shut> {
        let mut out = lock(&self.out);
        if out.shut {
            return Err(Shut);
        }
        write(&mut out.pending);
        if last {
            out.answer = match std::mem::replace(&mut out.answer, Answer::None) {
                Answer::Begun(request) => Answer::Complete(request),
                _ => Answer::None,
            };
        }
        Ok(())
    }

    /// Whether the current request's response is owed and not begun.
    pub(crate) fn is_not_begun(&self) -> bool {
        matches!(lock(&self.out).answer, Answer::NotBegun(_))
    }

    /// Whether somebody else has refused the current request in the owner's place.
    pub(crate) fn is_refused(&self) -> bool {
        lock(&self.out).shut
    }

    /// Whether the current request's response is begun and not whole.
    pub(crate) fn is_begun(&self) -> bool {
        matches!(lock(&self.out).answer, Answer::Begun(_))
    }

    /// Hands to the kernel what waits. True: nothing is left; the place it waited in is given back
    /// in `spare`.
    pub(crate) fn flush(&self, spare: &mut Vec<u8>) -> io::Result<bool> {
        let mut out = lock(&self.out);
        if !out.flush(&*self.transport)? {
            return Ok(false);
        }
        if spare.capacity() == 0 {
            *spare = std::mem::take(&mut out.pending);
        } else if out.pending.capacity() > 0 {
            out.pending = Vec::new();
        }
        Ok(true)
    }

    /// The same for who does not own the connection: nothing is given back.
    pub(crate) fn flush_from_outside(&self) -> io::Result<bool> {
        let mut out = lock(&self.out);
        let sent = out.flush(&*self.transport)?;
        if sent && out.shut {
            self.transport.finish();
        }
        Ok(sent)
    }

    /// Hands `bytes` to the kernel without copying them, if nothing waits before them. How many it
    /// took.
    pub(crate) fn send_directly(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut out = lock(&self.out);
        if out.shut {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if !out.flush(&*self.transport)? {
            return Ok(0);
        }
        let taken = accept_blocked(self.transport.send(bytes))?;
        out.sent_total += taken as u64;
        // What is kept of it is for the next flush.
        self.transport.flush()?;
        Ok(taken)
    }

    /// Bytes that the kernel has not taken yet.
    pub(crate) fn pending(&self) -> usize {
        let out = lock(&self.out);
        out.pending.len() - out.sent
    }

    /// Whether something waits for the kernel, here or in the transport.
    pub(crate) fn has_unsent(&self) -> bool {
        self.pending() > 0 || self.transport.has_unsent()
    }

    /// Whether the peer has acknowledged all that was written.
    pub(crate) fn is_acknowledged(&self, info: TcpInfo) -> bool {
        info.bytes_acked >= lock(&self.out).sent_total
    }

    /// Bytes the peer has acknowledged; where the kernel does not tell, those it has taken from us.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.transport
            .info()
            .map_or_else(|| lock(&self.out).sent_total, |info| info.bytes_acked)
    }

    /// The response to the current request is whole although nothing was appended: its last bytes
    /// went directly.
    pub(crate) fn complete(&self) {
        lock(&self.out).answer = Answer::None;
    }

    /// The request in flight, and the bytes of its response that the kernel has taken.
    pub(crate) fn in_flight(&self) -> Option<(InFlight, u64)> {
        let out = lock(&self.out);
        match &out.answer {
            Answer::NotBegun(request)
            | Answer::Begun(request)
            | Answer::Complete(request)
            | Answer::Refused(request)
            | Answer::Upgraded(request) => Some((
                request.clone(),
                out.sent_total.saturating_sub(out.begins_at),
            )),
            Answer::None => None,
        }
    }

    /// Takes the requests whose responses have begun, or that were upgraded, and that a reset would
    /// cut; with the bytes of each that the kernel has taken. They are taken once: who asks again
    /// gets those of later responses only, of which there are none once the stop cuts.
    pub(crate) fn take_unfinished(&self) -> Vec<(InFlight, u64)> {
        let mut out = lock(&self.out);
        let sent = out.sent_total;
        let before = std::mem::take(&mut out.before);
        let mut unfinished: Vec<_> = before
            .into_iter()
            .filter(|(.., end)| *end > sent)
            .map(|(request, begin, _)| (request, sent.saturating_sub(begin)))
            .collect();
        if let Answer::Begun(request) | Answer::Complete(request) | Answer::Upgraded(request) =
            &out.answer
            && !out.named
        {
            unfinished.push((request.clone(), sent.saturating_sub(out.begins_at)));
            out.named = true;
        }
        unfinished
    }

    /// Resets the connection for a thread that does not own it, which also frees its owner where
    /// that waits for the peer. What the peer has sent and nobody has received is kept for the
    /// owner, to name the requests among it: a reset drops it.
    pub(crate) fn reset_from_outside(&self) {
        let mut unread = vec![0; MAX_KEPT_UNREAD];
        let mut out = lock(&self.out);
        let n = self.transport.peek(&mut unread).unwrap_or(0);
        unread.truncate(n);
        out.unread = unread;
        self.transport.reset();
    }

    /// What a [reset from outside](Self::reset_from_outside) has kept.
    pub(crate) fn take_unread(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.out).unread)
    }

    /// Answers with `refusal` in the owner's place, whose later writes fail, if a response is owed
    /// that was not begun; and finishes our side behind it. In any case what waits is sent; what
    /// the kernel does not take now is for [`flush_from_outside`](Self::flush_from_outside).
    pub(crate) fn take_over(&self, refusal: &[u8]) -> TakeOver {
        let mut out = lock(&self.out);
        let taken = match std::mem::replace(&mut out.answer, Answer::None) {
            Answer::NotBegun(request) => {
                out.pending
                    .extend_from_slice(refusal_to(&request.method, refusal));
                out.shut = true;
                out.answer = Answer::Refused(request.clone());
                TakeOver::Answered(request)
            }
            Answer::Begun(request) => {
                out.answer = Answer::Begun(request);
                TakeOver::Begun
            }
            other => {
                out.answer = other;
                TakeOver::None
            }
        };
        // A failure here is the peer's: there is nobody left to tell.
        if out.flush(&*self.transport).is_ok_and(|sent| sent) && out.shut {
            self.transport.finish();
        }
        taken
    }
}

impl Client for Egress {
    fn on_gone(&self, then: Box<dyn FnOnce() + Send>) {
        lock(&self.out).on_gone.push(then);
        // The first request of a connection is served before the poller knows of it. What has
        // happened already is an event too; where it was told before we asked, it is to be seen
        // now.
        if self.watch(Interest::Readable).is_err() || self.is_gone() {
            self.hung_up();
        }
    }
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out")
            .field("pending", &(self.pending.len() - self.sent))
            .field("answer", &self.answer)
            .finish()
    }
}

impl Out {
    /// Where what is appended next begins.
    fn end(&self) -> u64 {
        self.sent_total + (self.pending.len() - self.sent) as u64
    }

    fn flush(&mut self, transport: &dyn Transport) -> io::Result<bool> {
        while self.sent < self.pending.len() {
            let taken = accept_blocked(transport.send(&self.pending[self.sent..]))?;
            self.sent += taken;
            self.sent_total += taken as u64;
            if self.sent < self.pending.len() && taken == 0 {
                return Ok(false);
            }
        }
        self.pending.clear();
        self.sent = 0;
        if matches!(self.answer, Answer::Complete(_)) {
            self.answer = Answer::None;
        }
        if !self.before.is_empty() {
            // A connection that waits keeps no room for it.
            self.before = Vec::new();
        }
        transport.flush()
    }
}

/// The part of a refusal that answers a request: for HEAD its head (RFC 9110 section 9.3.2).
fn refusal_to<'r>(method: &Method, refusal: &'r [u8]) -> &'r [u8] {
    const HEAD_END: &[u8] = b"\r\n\r\n";
    let head_end = refusal
        .windows(HEAD_END.len())
        .position(|window| window == HEAD_END);
    match head_end {
        Some(at) if method == Method::HEAD => &refusal[..at + HEAD_END.len()],
        _ => refusal,
    }
}

/// A kernel that takes nothing now has taken 0 bytes.
fn accept_blocked(sent: io::Result<usize>) -> io::Result<usize> {
    match sent {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Ok(0)
        }
        sent => sent,
    }
}
