//! The egress of a connection: everything that is sent on it, behind one small lock.
//!
//! Nothing else writes to a socket. Responses wait here until the kernel takes them, so that any
//! thread with a reason can send them: the worker when there is nothing more to answer, the monitor
//! when a handler turns out to be slow, the drain when it cuts the connection. The lock is held
//! while bytes are appended or handed to the kernel, never while a thread waits.
//!
//! **Invariant:** each response is begun once: by the connection's owner, or by the thread that
//! takes the connection over and answers 503. The later of the two writes nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Instant;

use http::{Method, Uri};

use crate::conn::transport::{Look, Transport};
use crate::lifecycle::ledger::Requests;
use crate::lifecycle::scope::Client;
use crate::sys::poller::Poller;
use crate::sys::socket::TcpInfo;
use crate::sys::sync::{Mutex, lock};

/// The most unread bytes of the peer that are kept at a reset from outside: some hundred heads.
const MAX_KEPT_UNREAD: usize = 64 << 10;

/// The sending side of a connection.
#[derive(Debug)]
pub(crate) struct Egress {
    transport: Box<dyn Transport>,
    peer: Option<SocketAddr>,
    /// The poller that reports the connection's events, and the key in them.
    home: OnceLock<(Arc<Poller>, u32)>,
    /// An [`Interest`]. It changes under the lock.
    interest: AtomicU8,
    out: Mutex<Out>,
    told: Mutex<Option<Arc<dyn PeerWait>>>,
}

/// Is told when user code on a dedicated thread has to wait for its peer.
pub(crate) trait PeerWait: std::fmt::Debug + Send + Sync {
    fn begin(&self);
    fn end(&self);
}

/// A wait for the peer, until it is dropped.
pub(super) struct Wait(Arc<dyn PeerWait>);

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The events that the poller reports of a connection. They only grow, until the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Interest {
    /// The connection is not registered yet.
    None,
    /// The poller reports bytes and hang-up.
    Readable,
    /// It also reports room to write.
    Both,
    /// The connection is not registered any more: it is about to be closed, or belongs to a
    /// dedicated thread.
    Removed,
}

struct Out {
    pending: Vec<u8>,
    /// The bytes of `pending` that the kernel has taken.
    sent: usize,
    /// The bytes that the kernel has taken since the connection began.
    sent_total: u64,
    /// The offset at which the response to the current request begins, counted like `sent_total`.
    begins_at: u64,
    /// The requests before the current one whose responses the kernel may not have taken
    /// completely, each with the offsets at which its response begins and ends.
    before: Vec<(InFlight, u64, u64)>,
    answer: Answer,
    /// Whether the connection was taken over, so that its owner may not write any more.
    shut: bool,
    /// What became of the requests of this connection.
    books: RequestBooks,
    /// Whether the request of `answer` is in the report.
    named: bool,
    /// What the peer had sent, and no thread had received, at a reset from outside.
    unread: Vec<u8>,
    /// The calls to make if the peer resets the connection while the current request is served.
    on_gone: Vec<Box<dyn FnOnce() + Send>>,
}

/// What became of the requests of a connection, as far as their responses are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct RequestBooks {
    /// The requests whose heads were complete.
    begun: u64,
    /// The requests whose responses the kernel has taken completely.
    answered: u64,
    /// The requests that were given to the report instead.
    named: u64,
}

/// The state of the response to the current request.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a box would be an allocation for each request"
)]
enum Answer {
    /// No request waits for a response, or the last response is complete and no longer tracked.
    None,
    /// The head of a request is complete, so that it must be answered.
    NotBegun(InFlight),
    /// The first byte of the response is in `pending`, or sent.
    Begun(InFlight),
    /// The last byte of the response is in `pending`, and the kernel has not taken it yet.
    Complete(InFlight),
    /// The thread that took the connection over has refused the request.
    Refused(InFlight),
    /// The request was answered with 101: what is sent from now on is no response.
    Upgraded(InFlight),
}

/// A request in flight, as logs and reports name it.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    pub(crate) method: Method,
    pub(crate) target: Uri,
    /// When the head was complete.
    pub(crate) since: Instant,
    /// Whether the request was given to a handler.
    pub(crate) started: bool,
    /// The id that a layer has given to the request.
    pub(crate) id: Option<Arc<str>>,
}

/// The error of an owner whose connection was taken over: nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shut;

/// What [`Egress::take_over`] found.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "lives for a moment")]
pub(crate) enum TakeOver {
    /// No request waited for a response that was not begun.
    None,
    /// A request waited; the refusal is on its way.
    Answered(InFlight),
    /// A response is under way, and nothing may be added to it.
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
            books: RequestBooks::default(),
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
            told: Mutex::new(None),
        }
    }

    /// Sets who is told of waits for the peer.
    pub(crate) fn tell_of_waits(&self, told: Option<Arc<dyn PeerWait>>) {
        *lock(&self.told) = told;
    }

    /// Notes that the calling thread is about to wait for the peer.
    pub(super) fn begin_wait(&self) -> Option<Wait> {
        let told = lock(&self.told).clone()?;
        told.begin();
        Some(Wait(told))
    }

    /// Sets the poller that reports this connection's events, and the key for them.
    pub(crate) fn register_with(&self, poller: Arc<Poller>, key: u32) {
        let _ = self.home.set((poller, key));
    }

    /// Makes the poller report at least these events.
    #[inline]
    pub(crate) fn watch(&self, wanted: Interest) -> io::Result<()> {
        if self.interest.load(Acquire) >= wanted as u8 {
            Ok(())
        } else {
            self.register(wanted)
        }
    }

    /// Registers the connection for bytes and hang-up when it is first parked, and for room to
    /// write only once there was none.
    fn register(&self, wanted: Interest) -> io::Result<()> {
        // The lock excludes a handler that asks for hang-ups while its worker parks the connection.
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

    /// Makes the poller report nothing more.
    pub(crate) fn unregister(&self) {
        let _out = lock(&self.out);
        if let Some(poller) = self.mark_removed() {
            poller.remove(self.transport.as_fd());
        }
    }

    /// Marks the connection as removed, and returns the poller that still has to remove it. The
    /// caller holds the lock.
    fn mark_removed(&self) -> Option<&Poller> {
        let interest = self.interest.swap(Interest::Removed as u8, Release);
        let was_registered =
            interest == Interest::Readable as u8 || interest == Interest::Both as u8;
        self.home
            .get()
            .filter(|_| was_registered)
            .map(|(poller, _)| &**poller)
    }

    /// Notes that the response, a 101, is complete: from now on only the connection's thread uses
    /// and awaits it.
    pub(crate) fn begin_upgrade(&self) {
        let mut out = lock(&self.out);
        out.answer = match std::mem::replace(&mut out.answer, Answer::None) {
            Answer::Begun(request) => Answer::Upgraded(request),
            other => other,
        };
        if let Some(poller) = self.mark_removed() {
            poller.delete(self.transport.as_fd());
        }
    }

    /// Gives an upgraded connection back to the pool.
    pub(crate) fn end_upgrade(&self) {
        let mut out = lock(&self.out);
        out.note_answered();
        self.interest.store(Interest::None as u8, Release);
    }

    /// Whether the connection is upgraded.
    pub(crate) fn is_upgraded(&self) -> bool {
        matches!(lock(&self.out).answer, Answer::Upgraded(_))
    }

    /// Handles a hang-up that the poller reports while the connection is served.
    pub(crate) fn handle_hang_up(&self) {
        if lock(&self.out).on_gone.is_empty() || !self.is_gone() {
            return;
        }
        let gone = std::mem::take(&mut lock(&self.out).on_gone);
        gone.into_iter().for_each(|then| then());
    }

    /// Whether the peer has reset the connection. A peer that has only finished its side may still
    /// read.
    fn is_gone(&self) -> bool {
        self.transport.info().is_some_and(|info| info.is_closed)
            || self.transport.look() == Look::Broken
    }

    /// Returns the socket, for reading and for waiting.
    #[inline]
    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Notes a request that must be answered from now on.
    pub(crate) fn set_in_flight(&self, request: InFlight) {
        let mut out = lock(&self.out);
        out.books.begun += 1;
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

    /// Notes that the current request was given to a handler.
    pub(crate) fn start(&self) {
        if let Answer::NotBegun(request) = &mut lock(&self.out).answer {
            request.started = true;
        }
    }

    /// Notes the id that the current request has in the log.
    pub(crate) fn set_request_id(&self, id: &str) {
        if let Answer::NotBegun(request) = &mut lock(&self.out).answer {
            request.id = Some(id.into());
        }
    }

    /// Begins a response: `write` appends its first bytes, to `spare` if there is no buffer yet.
    /// With `complete` there will be no more bytes.
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

    /// Appends bytes that belong to no response, such as `100 Continue`, or further bytes of the
    /// response that was begun. With `last` the response is complete.
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

    /// Whether the current request waits for a response that is not begun.
    pub(crate) fn is_not_begun(&self) -> bool {
        matches!(lock(&self.out).answer, Answer::NotBegun(_))
    }

    /// Whether another thread has refused the current request in the owner's place.
    pub(crate) fn is_refused(&self) -> bool {
        lock(&self.out).shut
    }

    /// Whether the stop has taken the response to the current request away.
    pub(crate) fn is_cut(&self) -> bool {
        let out = lock(&self.out);
        out.named || out.shut
    }

    /// Whether the response to the current request is begun and not complete.
    pub(crate) fn is_begun(&self) -> bool {
        matches!(lock(&self.out).answer, Answer::Begun(_))
    }

    /// Hands the pending bytes to the kernel. True: all are taken, and their buffer is given back
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

    /// Hands the pending bytes to the kernel, for a thread that does not own the connection: it
    /// gets no buffer back.
    pub(crate) fn flush_from_outside(&self) -> io::Result<bool> {
        let mut out = lock(&self.out);
        let sent = out.flush(&*self.transport)?;
        if sent && out.shut {
            self.transport.finish();
        }
        Ok(sent)
    }

    /// Hands `bytes` to the kernel without copying them, if no bytes are pending. Returns how many
    /// the kernel took.
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
        // If the transport keeps some of the bytes, the next flush sends them.
        self.transport.flush()?;
        Ok(taken)
    }

    /// Returns the number of bytes that the kernel has not taken yet.
    pub(crate) fn pending(&self) -> usize {
        let out = lock(&self.out);
        out.pending.len() - out.sent
    }

    /// Whether bytes wait for the kernel, here or in the transport.
    pub(crate) fn has_unsent(&self) -> bool {
        self.pending() > 0 || self.transport.has_unsent()
    }

    /// Whether the peer has acknowledged all that was written.
    pub(crate) fn is_acknowledged(&self, info: TcpInfo) -> bool {
        info.bytes_acked >= lock(&self.out).sent_total
    }

    /// Returns the bytes that the peer has acknowledged or, where the kernel does not say, those
    /// that the kernel has taken.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.transport
            .info()
            .map_or_else(|| lock(&self.out).sent_total, |info| info.bytes_acked)
    }

    /// Notes that the response is complete although nothing was appended: its last bytes were sent
    /// directly.
    pub(crate) fn complete(&self) {
        lock(&self.out).note_answered();
    }

    /// Closes the books of this connection, which is about to end, and returns what is entered in
    /// the ledger. A request that is neither answered nor named counts as `broken_off` if
    /// `may_break_off`, and as lost otherwise.
    pub(crate) fn close_books(&self, may_break_off: bool) -> Requests {
        let mut out = lock(&self.out);
        out.settle_before();
        let books = std::mem::take(&mut out.books);
        let left = books.begun.saturating_sub(books.answered + books.named);
        let (broken_off, lost) = if may_break_off { (left, 0) } else { (0, left) };
        Requests {
            begun: books.begun,
            answered: books.answered,
            named: books.named,
            broken_off,
            lost,
        }
    }

    /// Returns the request in flight, and the bytes of its response that the kernel has taken.
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

    /// Takes the requests that a reset would cut, with the bytes of each response that the kernel
    /// has taken: those whose responses have begun, and one that was upgraded. They are taken once:
    /// a further call gets only those of later responses, of which there are none once the stop
    /// cuts.
    pub(crate) fn take_unfinished(&self) -> Vec<(InFlight, u64)> {
        let mut out = lock(&self.out);
        let sent = out.sent_total;
        out.settle_before();
        let before = std::mem::take(&mut out.before);
        let mut unfinished: Vec<_> = before
            .into_iter()
            .map(|(request, begin, _)| (request, sent.saturating_sub(begin)))
            .collect();
        if let Answer::Begun(request) | Answer::Complete(request) | Answer::Upgraded(request) =
            &out.answer
            && !out.named
        {
            unfinished.push((request.clone(), sent.saturating_sub(out.begins_at)));
            out.named = true;
        }
        out.books.named += unfinished.len() as u64;
        unfinished
    }

    /// Resets the connection for a thread that does not own it, which also frees an owner that
    /// waits for the peer. What the peer has sent and no thread has received is kept for the owner,
    /// to name the requests among it: a reset drops it.
    pub(crate) fn reset_from_outside(&self) {
        let mut unread = vec![0; MAX_KEPT_UNREAD];
        let mut out = lock(&self.out);
        let n = self.transport.peek(&mut unread).unwrap_or(0);
        unread.truncate(n);
        // A second reset finds nothing to read, and must not drop what the first one has kept.
        out.unread.append(&mut unread);
        self.transport.reset();
    }

    /// Takes what a [reset from outside](Self::reset_from_outside) has kept.
    pub(crate) fn take_unread(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.out).unread)
    }

    /// Takes the connection over from its owner. If a response is due that was not begun, it
    /// answers with `refusal`, makes the owner's later writes fail, and sends our FIN after it. In
    /// any case it sends the pending bytes; those that the kernel does not take now are left to
    /// [`flush_from_outside`](Self::flush_from_outside).
    pub(crate) fn take_over(&self, refusal: &[u8]) -> TakeOver {
        let mut out = lock(&self.out);
        let taken = match std::mem::replace(&mut out.answer, Answer::None) {
            Answer::NotBegun(request) => {
                out.pending
                    .extend_from_slice(refusal_to(&request.method, refusal));
                out.shut = true;
                out.books.named += 1;
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
        // A failure means that the peer is gone, and nobody is left to answer.
        if out.flush(&*self.transport).is_ok_and(|sent| sent) && out.shut {
            self.transport.finish();
        }
        taken
    }
}

impl Client for Egress {
    fn on_gone(&self, then: Box<dyn FnOnce() + Send>) {
        lock(&self.out).on_gone.push(then);
        // The first request of a connection is served before the connection is registered. What has
        // happened already causes an event too; an event that was reported before this call has to
        // be noticed now.
        if self.watch(Interest::Readable).is_err() || self.is_gone() {
            self.handle_hang_up();
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
    /// Returns the offset at which the next appended byte will be.
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
            self.note_answered();
        }
        if !self.before.is_empty() {
            self.settle_before();
            // A connection that waits keeps no memory for this.
            self.before = Vec::new();
        }
        transport.flush()
    }

    /// Notes that the response to the current request was sent completely, if there is one.
    fn note_answered(&mut self) {
        let request = std::mem::replace(&mut self.answer, Answer::None);
        // What the report names was given up, even if it was completed later.
        let is_named = self.named || matches!(request, Answer::Refused(_));
        if !matches!(request, Answer::None) && !is_named {
            self.books.answered += 1;
        }
    }

    /// Counts the earlier requests whose responses the kernel has taken, and keeps the others.
    fn settle_before(&mut self) {
        let (sent, n) = (self.sent_total, self.before.len());
        self.before.retain(|(.., end)| *end > sent);
        self.books.answered += (n - self.before.len()) as u64;
    }
}

/// Returns the part of a refusal that answers a request: for HEAD only its head (RFC 9110 section
/// 9.3.2).
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

/// Reads "the kernel takes nothing now" as 0 bytes taken.
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
