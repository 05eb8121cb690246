//! Every limit and every time of the server, with its default and the reason for it.
//!
//! This is the lowest floor: it uses nothing of the crate, and each floor above it takes its
//! numbers from here.

use std::time::Duration;

/// The default time for which a stopping server still accepts. Zero skips the phase, which only a
/// server that others route to needs.
pub(crate) const LAME_DUCK: Duration = Duration::ZERO;
/// The default time that requests in flight get once draining starts. Kubernetes kills a pod 30 s
/// after SIGTERM; 5 s of that are left for everything else.
pub(crate) const GRACE_PERIOD: Duration = Duration::from_secs(25);
/// The default time for which an idle connection must have been silent before a draining server
/// closes it. A client whose pool still holds the connection can notice the stop, or send its next
/// request. Many clients poll once a second: a grace of a whole number of seconds would end just
/// when their next request is on its way.
pub(crate) const IDLE_GRACE: Duration = Duration::from_millis(1300);
/// The default time that responses under way at the deadline, and the 503s that are sent then, get
/// to arrive.
pub(crate) const CUT_GRACE: Duration = Duration::from_secs(1);
/// The time that a stop gets after the cut and its grace, for all that may have to wait for user
/// code: the goodbye of idle connections where the cut's grace is shorter, threads that are about to
/// end, and `on_stopped` hooks that had no time before.
pub(crate) const END_GRACE: Duration = Duration::from_millis(500);
/// The time that the end of a server or a group waits for the logger to take the last lines.
pub(crate) const LOG_END: Duration = Duration::from_millis(200);
/// The time within which a repeat of the same signal counts once: process groups and wrappers that pass
/// signals on deliver one signal twice within milliseconds. A person who presses Ctrl-C again takes
/// longer.
pub(crate) const SIGNAL_REPEAT: Duration = Duration::from_millis(300);

/// The default time that a group's members get to end: somewhat more than a server takes by
/// default.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// The default time in which a request's head must be complete, from its first byte or from the
/// start of the connection.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The default time for which a connection is kept open between two requests. Balancers keep theirs
/// for 60 s, and a request that one sends in the last moment would meet our close if ours were not
/// clearly longer.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// The default longest time in which the peer sends no byte of a request body that is expected.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The default longest time in which the peer acknowledges no byte of its response.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The default longest time for which a complete request waits for a worker.
pub(crate) const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time for which a call that is expected to be slow waits until fewer of its kind run.
/// After it, or after half of the queue timeout, it gets a worker that is kept free for fast ones if
/// that has nothing to do: no request is refused while a worker is idle.
pub(crate) const MAX_ROOM_TIMEOUT: Duration = Duration::from_secs(5);
/// The default rate, in bytes per second and in either direction, below which a peer that is waited
/// for is given up.
pub(crate) const MIN_RATE: u64 = 500;
/// The time for which a peer must have been waited for before its rate counts: a burst of packet
/// loss must not cut an honest peer.
pub(crate) const RATE_AFTER: Duration = Duration::from_secs(10);
/// The longest time for which the rest of a request body that the handler did not read is read and
/// dropped, so that the connection can be kept.
pub(crate) const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
/// The most bytes of such a rest that are read and dropped.
pub(crate) const MAX_DISCARD_BYTES: u64 = 256 << 10;
/// The longest silence of the peer after our FIN. RFC 9112 section 9.6 asks a server to wait, but
/// does not say for how long.
pub(crate) const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest time for which the peer may go on sending after our FIN. Many clients read no
/// response before they have sent all of their body, and a reset meanwhile hides the response from
/// them. The bytes are dropped as they come, so their number costs nothing that a limit on it would
/// save.
pub(crate) const MAX_LINGER_TIMEOUT: Duration = Duration::from_secs(30);
/// The time that a stopping server waits, after its FIN on an idle connection, for a request that
/// crosses it; some round trips are added. TCP sends a lost segment again after 200 ms
/// (`TCP_RTO_MIN`), so a request whose first segment was lost is still seen. A client that closes
/// ends the wait sooner.
pub(crate) const MIN_GOODBYE: Duration = Duration::from_millis(300);
/// The round trips that are added. TCP waits for two or three of them before it sends a lost segment
/// again, and each time twice as long as before. With two round trips, and with eight, one request
/// of some 70,000 was lost at 160 ms and 3 % loss: each of its first three segments was.
pub(crate) const GOODBYE_ROUND_TRIPS: u32 = 16;
/// The longest time with them.
pub(crate) const MAX_GOODBYE: Duration = Duration::from_secs(4);
/// The longest such wait after the cut, where the cut's grace is shorter.
pub(crate) const CUT_GOODBYE: Duration = Duration::from_millis(400);
/// The silence that ends a lingering close once the peer has acknowledged everything: from then on
/// no RST can destroy a response.
pub(crate) const LINGER_QUIET: Duration = Duration::from_millis(250);

/// The default size up to which a request body is collected before the handler is called.
pub(crate) const COLLECT_BYTES: usize = 64 << 10;
/// The default length that a request body may have: none of any length is too long, because no more
/// of it is in memory than a handler asks for.
pub(crate) const MAX_BODY_BYTES: u64 = u64::MAX;
/// The capacity of the accepted channel, which holds connections on their way to the pool. Further
/// ones wait in the kernel's accept backlog.
pub(crate) const MAX_ACCEPTED: usize = 1024;
/// The slots for connections that a stop takes from the accept backlogs at once, beyond
/// `max_connections`: more than the kernel's backlogs hold. A slot that is never used costs nothing.
pub(crate) const BACKLOG_SLOTS: usize = 1 << 20;
/// The largest `max_connections`: four million connections are beyond any pool of threads.
pub(crate) const MAX_CONNECTIONS: usize = 1 << 22;
/// The default length of the kernel's accept backlog. The kernel cuts it to `net.core.somaxconn`,
/// which is 4096 by default.
pub(crate) const BACKLOG: i32 = 4096;
/// The number of bytes at which the responses to pipelined requests are sent, if they were not sent
/// before.
pub(crate) const MAX_PENDING_BYTES: usize = 64 << 10;
/// The most bytes of a connection that the kernel holds and has not put on their way.
///
/// Without this limit a thousand clients that read nothing would have the kernel take several
/// gigabytes, and the pool spend its time to fill them. Half of it is enough to bridge the moment
/// until a worker sees that there is room again.
pub(crate) const MAX_UNSENT_BYTES: u32 = 128 << 10;
/// The most workers that a pool may have. Each has a stack, and beyond this number the system's own
/// limits on threads and mappings are near.
pub(crate) const MAX_WORKERS: usize = 10_000;
/// The number of requests that are served on one connection before other connections get their
/// turn.
pub(crate) const REQUEST_BUDGET: usize = 64;
/// The number of connections that gave way to others and are served again before the poller's next
/// connection gets its turn. Each of them may send a megabyte in that.
pub(crate) const READY_BUDGET: usize = 4;
/// The number of pieces of a response body that are read before other connections get their turn:
/// 1 MiB in all.
pub(crate) const PULL_BUDGET: usize = 16;
/// The most bytes of a response body that are read in one piece.
pub(crate) const MAX_PULL_BYTES: usize = 64 << 10;
/// The default number of connections that may have a dedicated thread: upgraded ones and streams.
/// So many threads are no burden on any system.
pub(crate) const MAX_DEDICATED_THREADS: usize = 1000;
/// The size of a worker's read buffer. A read that does not fill it has emptied the socket.
pub(crate) const READ_BYTES: usize = 16 << 10;

/// The limits and times of one server. `ServerBuilder` has a method for each, which documents it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) workers: usize,
    pub(crate) max_connections: Option<usize>,
    pub(crate) backlog: i32,
    pub(crate) lame_duck: Duration,
    pub(crate) grace_period: Duration,
    pub(crate) idle_grace: Duration,
    pub(crate) cut_grace: Duration,
    pub(crate) head_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) queue_timeout: Duration,
    pub(crate) min_rate: u64,
    pub(crate) collect_bytes: usize,
    pub(crate) max_body_bytes: u64,
    pub(crate) title_case_fields: bool,
    pub(crate) max_dedicated_threads: usize,
    pub(crate) limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: default_workers(),
            max_connections: None,
            backlog: BACKLOG,
            lame_duck: LAME_DUCK,
            grace_period: GRACE_PERIOD,
            idle_grace: IDLE_GRACE,
            cut_grace: CUT_GRACE,
            head_timeout: HEAD_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            body_timeout: BODY_TIMEOUT,
            write_timeout: WRITE_TIMEOUT,
            queue_timeout: QUEUE_TIMEOUT,
            min_rate: MIN_RATE,
            collect_bytes: COLLECT_BYTES,
            max_body_bytes: MAX_BODY_BYTES,
            title_case_fields: false,
            max_dedicated_threads: MAX_DEDICATED_THREADS,
            limits: Limits::default(),
        }
    }
}

/// The limits on what a peer may send in one message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most bytes of a request line: method, target and version, without the line end. A longer
    /// one is answered with 414.
    pub(crate) max_request_line_bytes: usize,
    /// The most bytes of a whole head: the empty lines before it, the request line, the fields, and
    /// the empty line that ends it. A longer one is answered with 431.
    pub(crate) max_head_bytes: usize,
    /// The most field lines in a head. If there are more, the answer is 431.
    pub(crate) max_fields: usize,
    /// The most bytes that may follow the size of one chunk on its line. A longer extension is
    /// answered with 400.
    pub(crate) max_chunk_extension_bytes: usize,
    /// The most bytes of chunk extensions in a whole body. If there are more, the answer is 400.
    pub(crate) max_chunk_extensions_bytes: usize,
    /// The most bytes in the lines of a trailer section, without their line ends. A longer section
    /// is answered with 431.
    pub(crate) max_trailer_bytes: usize,
    /// The most field lines in a trailer section, those that are dropped included. If there are
    /// more, the answer is 431.
    pub(crate) max_trailer_fields: usize,
}

/// The defaults.
impl Limits {
    pub(crate) const MAX_REQUEST_LINE_BYTES: usize = 16 * 1024;
    pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;
    pub(crate) const MAX_FIELDS: usize = 100;
    pub(crate) const MAX_CHUNK_EXTENSION_BYTES: usize = 256;
    pub(crate) const MAX_CHUNK_EXTENSIONS_BYTES: usize = 16 * 1024;
    pub(crate) const MAX_TRAILER_BYTES: usize = 8 * 1024;
    pub(crate) const MAX_TRAILER_FIELDS: usize = 32;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_request_line_bytes: Self::MAX_REQUEST_LINE_BYTES,
            max_head_bytes: Self::MAX_HEAD_BYTES,
            max_fields: Self::MAX_FIELDS,
            max_chunk_extension_bytes: Self::MAX_CHUNK_EXTENSION_BYTES,
            max_chunk_extensions_bytes: Self::MAX_CHUNK_EXTENSIONS_BYTES,
            max_trailer_bytes: Self::MAX_TRAILER_BYTES,
            max_trailer_fields: Self::MAX_TRAILER_FIELDS,
        }
    }
}

/// Returns how many cores the process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Returns the default number of workers. Handlers block: four workers for each core keep the cores
/// busy, and 16 are cheap.
fn default_workers() -> usize {
    (4 * cores()).max(16)
}

/// Returns the default limit on connections: 80 % of the descriptors that the process may have. The
/// rest are left to the program.
pub(crate) fn default_max_connections() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    // Where the system sets no limit, or a higher one, a million: more connections than any pool
    // can serve, and few enough for the keys of the slot table.
    let limit = limit
        .map_or(1 << 20, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        })
        .min(1 << 20);
    (limit / 5 * 4).max(1)
}
