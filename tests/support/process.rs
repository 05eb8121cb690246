//! The threads and descriptors of this process, as the kernel lists them.

use std::path::Path;
use std::sync::Once;

use rustix::process::Pid;

/// Returns the ids of this process's threads that belong to servers.
pub(crate) fn server_threads() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| {
            let task = task.ok()?;
            // A thread that ends meanwhile has no name any more.
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
            name.starts_with("lameduck-")
                .then(|| task.file_name().to_string_lossy().parse().unwrap())
        });
    tasks.collect()
}

/// Returns what each open descriptor of this process leads to.
pub(crate) fn descriptors() -> Vec<String> {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let fds = fds.filter_map(|fd| {
        Some(
            std::fs::read_link(fd.ok()?.path())
                .ok()?
                .display()
                .to_string(),
        )
    });
    // The descriptor that lists them does not count.
    let mut fds: Vec<_> = fds.filter(|fd| !fd.starts_with("/proc/")).collect();
    fds.sort();
    fds
}

/// Returns how often these threads have been given a core.
pub(crate) fn context_switches(threads: &[u32]) -> u64 {
    let tasks = threads
        .iter()
        .map(|thread| format!("/proc/self/task/{thread}"));
    tasks.map(|task| switches(Path::new(&task))).sum()
}

/// Returns how often the threads of another process have been given a core.
pub(crate) fn context_switches_of(pid: Pid) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
    tasks.map(|task| switches(&task.unwrap().path())).sum()
}

/// Returns how often a thread has been given a core; zero if it has ended.
fn switches(task: &Path) -> u64 {
    let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
    let switches = status.lines().filter(|line| line.contains("ctxt_switches"));
    switches
        .map(|line| {
            line.rsplit(['\t', ' '])
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum()
}

/// Raises the limit on descriptors. A thousand connections are two thousand descriptors here,
/// because both ends are in this process.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let wanted = maximum.map_or(16_384, |maximum| maximum.min(16_384));
        if current.is_some_and(|current| current < wanted) {
            setrlimit(
                Resource::Nofile,
                Rlimit {
                    current: Some(wanted),
                    maximum,
                },
            )
            .unwrap();
        }
    });
}
