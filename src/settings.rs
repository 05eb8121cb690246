//! Every limit and time of the server: its name, its default and why it is that.

use std::time::Duration;

/// How long a phase of the stop lasts.
pub(crate) const LAME_DUCK: Duration = Duration::ZERO;
/// Kubernetes kills a pod 30 s after SIGTERM; 5 s of that are left for everything else.
pub(crate) const GRACE_PERIOD: Duration = Duration::from_secs(25);
/// A client whose pool still holds the connection has had time to notice, or to speak.
pub(crate) const IDLE_GRACE: Duration = Duration::from_secs(1);
/// For answers that are under way at the deadline, and for 503s to arrive.
pub(crate) const CUT_GRACE: Duration = Duration::from_secs(1);

/// For a group's members to end: what a server takes by default, and some.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// From the first byte of a head, or from the connection's start, to the head's end.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two reads of a body.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Without the peer having acknowledged a byte.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a complete request for a worker.
pub(crate) const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes per second, in both directions, while we wait for the peer.
pub(crate) const MIN_RATE: u64 = 500;
/// From when on the rate counts: a burst of loss must not cut an honest peer.
pub(crate) const RATE_AFTER: Duration = Duration::from_secs(10);
/// Of a request body the handler did not read, so that the connection can be kept.
pub(crate) const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const MAX_DISCARD_BYTES: u64 = 256 << 10;
/// Of the peer's silence after our FIN: RFC 9112 section 9.6 asks to wait, not for how long.
pub(crate) const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Of all that it sends after our FIN. Many clients read no answer before they have sent all of
/// their body, and a reset meanwhile hides the answer from them.
pub(crate) const MAX_LINGER_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const MAX_LINGER_BYTES: u64 = 32 << 20;
/// For a request that crosses our end of an idle connection, at least; two round trips if those are
/// longer.
pub(crate) const MIN_GOODBYE: Duration = Duration::from_millis(50);
/// Of silence after the peer has acknowledged everything: no RST can destroy an answer any more.
pub(crate) const LINGER_QUIET: Duration = Duration::from_millis(250);

/// A request body up to this size is collected before the handler is called.
pub(crate) const COLLECT_BYTES: usize = 64 << 10;
/// Of the accepted channel: connections on their way to the pool. Further ones wait in the kernel's
/// accept backlog.
pub(crate) const MAX_ACCEPTED: usize = 1024;
/// Of the kernel's accept backlog; the kernel cuts it to `net.core.somaxconn`, 4096 by default.
pub(crate) const BACKLOG: i32 = 4096;
/// Answers to pipelined requests are sent when there are this many bytes, if not before.
pub(crate) const MAX_PENDING_BYTES: usize = 64 << 10;
/// Of a connection, in the kernel and not on their way: a thousand clients that read nothing would
/// otherwise have it take several gigabytes, and the pool's time to fill them. Half of it is enough
/// to bridge the moment until a worker sees that there is room again.
pub(crate) const MAX_UNSENT_BYTES: u32 = 128 << 10;
/// Each has a stack; beyond this the system's own limits on threads and mappings are near.
pub(crate) const MAX_WORKERS: usize = 10_000;
/// Requests on one connection before others get their turn.
pub(crate) const REQUEST_BUDGET: usize = 64;
/// Connections that have given way to others, before the poller's next one gets its turn: each of
/// them may be a megabyte.
pub(crate) const READY_BUDGET: usize = 4;
/// Pulls of a response body before others get their turn: 1 MiB.
pub(crate) const PULL_BUDGET: usize = 16;
/// Of a response body, in one pull.
pub(crate) const MAX_PULL_BYTES: usize = 64 << 10;
/// Connections with a thread of their own: upgraded ones and streams. As many threads are no burden
/// on any system.
pub(crate) const MAX_DEDICATED_THREADS: usize = 1000;
/// A worker's read buffer: a read shorter than it means that the socket is drained.
pub(crate) const READ_BYTES: usize = 16 << 10;

/// The server's limits and times, as its builder was told.
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
            max_dedicated_threads: MAX_DEDICATED_THREADS,
            limits: Limits::default(),
        }
    }
}

/// Limits on what a peer may send in a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Method, target and version, without the line end. More is 414.
    pub(crate) max_request_line_bytes: usize,
    /// The whole head: empty lines before it, request line, fields, and the empty line that ends
    /// it. More is 431.
    pub(crate) max_head_bytes: usize,
    /// Field lines in a head. More is 431.
    pub(crate) max_fields: usize,
    /// What follows the size of one chunk on its line. More is 400.
    pub(crate) max_chunk_extension_bytes: usize,
    /// The same, added up over a whole body. More is 400.
    pub(crate) max_chunk_extensions_bytes: usize,
    /// The lines of a trailer section, without their line ends. More is 431.
    pub(crate) max_trailer_bytes: usize,
    /// Field lines in a trailer section, also those that are dropped. More is 431.
    pub(crate) max_trailer_fields: usize,
}

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

/// Cores the process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Handlers block; four for each core keep the cores busy, and 16 are cheap.
fn default_workers() -> usize {
    (4 * cores()).max(16)
}

/// 80 % of the descriptors the process may have: the rest are the program's.
pub(crate) fn default_max_connections() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    // Without a limit the table's keys are the limit; a million connections are beyond any pool.
    let limit = limit
        .map_or(1 << 20, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        })
        .min(1 << 20);
    (limit / 5 * 4).max(1)
}
