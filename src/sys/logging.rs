//! The lines that the server logs, written by a thread of their own.
//!
//! A logger is user code: it may wait for a full pipe, and it may panic. So no thread of a server
//! calls it. The macros `error!`, `warn!`, `info!` and `debug!` of this module only queue a line, and the
//! thread `lameduck-log` gives it to the logger, as long as there is a [`LogThread`], which every
//! server holds. Without one, the caller writes its line itself.
//!
//! **Invariant:** to queue a line never waits. Lines that a slow logger leaves no room for are
//! dropped, and counted in a line that follows.

use std::fmt;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::Level;

use crate::settings::LOG_END;
use crate::sys::panics;

/// The most lines that wait for the logger.
const MAX_QUEUED: usize = 1024;

/// A line for the logger, with what is known of the place it comes from.
pub(crate) struct Line {
    pub(crate) level: Level,
    pub(crate) target: &'static str,
    pub(crate) text: String,
    /// The values of the line for machines, beside its text.
    pub(crate) fields: Vec<(&'static str, String)>,
}

/// What the log thread is sent.
enum Message {
    Line(Line),
    /// A request to answer when all lines before it are written.
    Flush(Sender<()>),
}

/// The right of a server to the log thread of the process. The thread is started by the first line
/// and ends after the last clone of this, so a program without a logger has no such thread.
#[derive(Clone)]
pub(crate) struct LogThread(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// `None` until the first line.
    running: Mutex<Option<Running>>,
    /// The lines that were dropped and are not yet told.
    dropped: Arc<AtomicU64>,
}

struct Running {
    to: Sender<Message>,
    thread: JoinHandle<()>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// What the servers of the process share, while there is one.
static CURRENT: Mutex<Weak<Shared>> = Mutex::new(Weak::new());

impl LogThread {
    /// Has the lines of the process written by a thread from now on.
    pub(crate) fn new() -> Self {
        let mut current = lock(&CURRENT);
        let shared = current.upgrade().unwrap_or_default();
        *current = Arc::downgrade(&shared);
        Self(shared)
    }

    /// Waits until the lines that are queued now are written, for at most `within`. Returns whether
    /// they are.
    pub(crate) fn flush(&self, within: Duration) -> bool {
        let to = match &*lock(&self.0.running) {
            Some(running) => running.to.clone(),
            None => return true,
        };
        let (written, is_written) = bounded(1);
        to.send_timeout(Message::Flush(written), within).is_ok()
            && is_written.recv_timeout(within).is_ok()
    }
}

impl Shared {
    /// Queues a line, or counts it as dropped.
    fn queue(&self, line: Line) {
        let mut running = lock(&self.running);
        if running.is_none() {
            *running = start(self.dropped.clone()).ok();
        }
        let is_queued = running
            .as_ref()
            .is_some_and(|running| running.to.try_send(Message::Line(line)).is_ok());
        if !is_queued {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Shared {
    /// Ends the thread, which writes what is queued. A logger that does not return is left behind.
    fn drop(&mut self) {
        let Some(Running { to, thread, ended }) = lock(&self.running).take() else {
            return;
        };
        drop(to);
        let ended = ended.recv_timeout(LOG_END);
        if ended.is_err_and(|error| error.is_disconnected()) {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for LogThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogThread").finish_non_exhaustive()
    }
}

/// Starts the log thread.
fn start(dropped: Arc<AtomicU64>) -> io::Result<Running> {
    let (to, lines) = bounded(MAX_QUEUED);
    let (ending, ended) = bounded::<()>(0);
    let thread = std::thread::Builder::new().name("lameduck-log".to_owned());
    let thread = thread.spawn(move || {
        let _ending = ending;
        run(&lines, &dropped);
    })?;
    Ok(Running { to, thread, ended })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Queues a line of a level, whose text is made only if a logger may want it.
macro_rules! line {
    ($level:expr, $($text:tt)+) => {{
        let level = $level;
        if $crate::sys::logging::is_enabled(level) {
            $crate::sys::logging::queue($crate::sys::logging::Line {
                level,
                target: module_path!(),
                text: format!($($text)+),
                fields: Vec::new(),
            });
        }
    }};
}

macro_rules! error {
    ($($text:tt)+) => { $crate::sys::logging::line!(log::Level::Error, $($text)+) };
}

// Not named as it is used, because `warn` is an attribute too.
macro_rules! warning {
    ($($text:tt)+) => { $crate::sys::logging::line!(log::Level::Warn, $($text)+) };
}

macro_rules! info {
    ($($text:tt)+) => { $crate::sys::logging::line!(log::Level::Info, $($text)+) };
}

macro_rules! debug {
    ($($text:tt)+) => { $crate::sys::logging::line!(log::Level::Debug, $($text)+) };
}

pub(crate) use {debug, error, info, line, warning as warn};

/// Gives lines to the logger until there is nobody left who could send one.
fn run(lines: &Receiver<Message>, dropped: &AtomicU64) {
    for message in lines {
        match message {
            Message::Line(line) => write(&line),
            Message::Flush(written) => drop(written.send(())),
        }
        let n = dropped.swap(0, Relaxed);
        if n > 0 {
            write(&Line {
                level: Level::Warn,
                target: module_path!(),
                text: format!("{n} lines were dropped, because the logger was slow"),
                fields: Vec::new(),
            });
        }
    }
}

/// Calls the logger.
fn write(line: &Line) {
    // A logger that panics costs its line; there is no other place to tell it.
    let _ = panics::catch(|| {
        log::logger().log(
            &log::Record::builder()
                .level(line.level)
                .target(line.target)
                .module_path_static(Some(line.target))
                .key_values(&line.fields)
                .args(format_args!("{}", line.text))
                .build(),
        );
    });
}

/// Whether any logger wants lines of this level.
pub(crate) fn is_enabled(level: Level) -> bool {
    level <= log::STATIC_MAX_LEVEL && level <= log::max_level()
}

/// Queues a line for the logger. Control characters in it are escaped: a part of it may come from a
/// client, and must not look like a line of its own or change a terminal.
pub(crate) fn queue(mut line: Line) {
    let fields = line.fields.iter_mut().map(|(_, value)| value);
    fields.chain([&mut line.text]).for_each(escape);
    let shared = lock(&CURRENT).upgrade();
    match shared {
        Some(shared) => shared.queue(line),
        None => write(&line),
    }
}

fn escape(text: &mut String) {
    if text.contains(char::is_control) {
        *text = text.chars().fold(String::new(), |mut escaped, char| {
            if char.is_control() {
                escaped.extend(char.escape_default());
            } else {
                escaped.push(char);
            }
            escaped
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let mut escaped = text.to_owned();
        escape(&mut escaped);
        assert_eq!(escaped, expected);
    }

    #[test]
    fn a_text_of_a_client_makes_no_line_of_its_own() {
        check(
            "caf\u{e9} \u{1f986} \"quoted\" \\",
            "caf\u{e9} \u{1f986} \"quoted\" \\",
        );
        check("a\n[ERROR] forged", "a\\n[ERROR] forged");
        check("\u{1b}[2J\r\t\0\u{85}", "\\u{1b}[2J\\r\\t\\u{0}\\u{85}");
    }
}
