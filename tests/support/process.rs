//! What the kernel says of this process: its threads and its descriptors.

use std::sync::Once;

/// The ids of this process's threads that belong to servers.
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

/// This process's open descriptors, as what they lead to.
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

/// How often these threads have been given a core.
pub(crate) fn context_switches(threads: &[u32]) -> u64 {
    let of = |thread: &u32| {
        let status =
            std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap_or_default();
        let switches = status.lines().filter(|line| line.contains("ctxt_switches"));
        switches
            .map(|line| {
                line.rsplit(['\t', ' '])
                    .next()
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
            })
            .sum::<u64>()
    };
    threads.iter().map(of).sum()
}

/// A thousand connections are two thousand descriptors here.
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
