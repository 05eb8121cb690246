//! What the kernel knows of a thread of this process: whether it waits, and how long it has run.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The kernel's number of a thread, which another thread may ask about.
#[derive(Debug, Default)]
pub(crate) struct ThreadNumber(AtomicU32);

/// What a thread does at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It waits for something else than a core.
    Waits,
    /// It runs, or waits for a core. It has run for so long since it was started.
    Runs(Duration),
    /// The system does not tell.
    Unknown,
}

impl ThreadNumber {
    /// Stores the number of the calling thread. Elsewhere than on Linux, and without `/proc`, there
    /// is none.
    pub(crate) fn set(&self) {
        let number = std::fs::read_link("/proc/thread-self").ok();
        let number = number.and_then(|path| path.file_name()?.to_str()?.parse().ok());
        self.0.store(number.unwrap_or(0), Relaxed);
    }

    /// Asks the kernel what the thread does.
    pub(crate) fn activity(&self) -> Activity {
        let number = self.0.load(Relaxed);
        if number == 0 {
            return Activity::Unknown;
        }
        let read = |file| read_number_file(number, file);
        let state = read("stat").and_then(|stat| state_of(&stat));
        match state {
            None => Activity::Unknown,
            Some('R') => read("schedstat")
                .and_then(|stat| stat.split(' ').next()?.parse().ok())
                .map_or(Activity::Unknown, |nanos| {
                    Activity::Runs(Duration::from_nanos(nanos))
                }),
            Some(_) => Activity::Waits,
        }
    }
}

fn read_number_file(number: u32, file: &str) -> Option<String> {
    let mut text = [0; 1024];
    let n = File::open(format!("/proc/self/task/{number}/{file}"))
        .and_then(|mut file| file.read(&mut text))
        .ok()?;
    Some(String::from_utf8_lossy(&text[..n]).into_owned())
}

/// Returns the letter of the state, which follows the name of the thread. The name is in
/// parentheses and may contain any others.
fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_follows_the_last_parenthesis() {
        assert_eq!(state_of("12 (a) R (b) S 1 2"), Some('S'));
        assert_eq!(state_of("12"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_computes_is_told_from_one_that_waits() {
        let (numbers, stop) = (
            [ThreadNumber::default(), ThreadNumber::default()],
            std::sync::atomic::AtomicBool::new(false),
        );
        let (wake, woken) = crossbeam_channel::bounded::<()>(0);
        let (started, both) = crossbeam_channel::bounded(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                numbers[0].set();
                started.send(()).unwrap();
                while !stop.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
            scope.spawn(|| {
                numbers[1].set();
                started.send(()).unwrap();
                let _ = woken.recv();
            });
            both.iter().take(2).for_each(drop);
            let runs = |than| matches!(numbers[0].activity(), Activity::Runs(for_) if for_ > than);
            while !runs(Duration::from_millis(20)) {
                std::thread::yield_now();
            }
            while numbers[1].activity() != Activity::Waits {
                std::thread::yield_now();
            }
            stop.store(true, Relaxed);
            drop(wake);
        });
    }
}
