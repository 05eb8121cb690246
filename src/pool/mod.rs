//! The threads of the pool, and what they share.
//!
//! This floor decides which thread serves which connection, and when. It uses the floors below it,
//! above all `conn`, and knows nothing of listeners: connections come through a channel. Its
//! threads are the workers, the monitor that watches them, and the dedicated threads of upgraded
//! connections and long streams.
//!
//! Read `slots` first (the table and the claim), then `settle` (how a thread takes a connection and
//! lets go of it), `serve` (what it does in between) and `worker`. `permits` says which worker polls,
//! `deadlines` when a parked connection is looked at, and `monitor` what happens while workers are
//! busy. `detach` and `dedicated` give a connection a thread. `guards` give back what a thread held,
//! `leftovers` drops bodies that are not sent to their end, `shared` holds what all of them use, and `test_seams` what tests replace.

pub(crate) mod deadlines;
pub(crate) mod dedicated;
pub(crate) mod detach;
mod guards;
pub(crate) mod leftovers;
pub(crate) mod monitor;
pub(crate) mod permits;
mod serve;
pub(crate) mod settle;
pub(crate) mod shared;
pub(crate) mod slots;
pub(crate) mod test_seams;
pub(crate) mod worker;
