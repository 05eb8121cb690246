//! What the server needs of the operating system: time, readiness, wake-ups, socket options.
//!
//! This floor knows nothing of HTTP, of connections or of the pool. It may use the settings, which
//! are the floor below, and has no need to. All of the crate's unsafe code is here, and so is the
//! only module of the library that reads the time.
//!
//! Read [`waker`] and [`clock`] first: each wait of the server is made of these two. Then
//! [`poller`], which finds the parked connections that have something to do, and [`socket`], the
//! socket options that no other crate wraps. [`logging`] has a thread call the logger, which is user
//! code. [`sync`] and [`panics`] are short: the synchronisation types of std or of loom, and panics
//! of user code. So are [`signal_mask`], [`signal_name`] and [`threads`]. [`test_points`]
//! is for the crate's own tests and costs nothing outside them.

pub(crate) mod clock;
pub(crate) mod half_open;
pub(crate) mod logging;
pub(crate) mod panics;
pub(crate) mod poller;
pub(crate) mod signal_mask;
pub(crate) mod signal_name;
pub(crate) mod socket;
pub(crate) mod sync;
pub(crate) mod test_points;
pub(crate) mod threads;
pub(crate) mod waker;
