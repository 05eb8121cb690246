//! The signal mask of a thread, which neither std nor rustix wraps.
#![allow(
    unsafe_code,
    reason = "the signal mask, which neither std nor rustix wraps"
)]

/// Has the calling thread receive these signals, even if the process was started with them blocked.
///
/// A program inherits its mask through exec(2), and each thread that of the thread which started
/// it. A signal that is sent to the process and that all its threads block never arrives.
pub(crate) fn unblock(signals: &[i32]) {
    // SAFETY: a set of zeros is a valid argument of sigemptyset(3), which makes it an empty set;
    // each call reads or writes that one set only, and a number that is no signal is refused.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
}
