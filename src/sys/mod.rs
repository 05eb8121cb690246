//! What the system gives: time, readiness, wake-ups, socket options; and the two seams of the
//! crate's own tests.

pub(crate) mod clock;
pub(crate) mod panics;
pub(crate) mod poller;
pub(crate) mod socket;
pub(crate) mod sync;
pub(crate) mod test_points;
pub(crate) mod waker;
