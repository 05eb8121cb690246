//! The threads of the pool, and what they share.

pub(crate) mod deadlines;
pub(crate) mod dedicated;
pub(crate) mod detach;
pub(crate) mod monitor;
pub(crate) mod permits;
pub(crate) mod settle;
pub(crate) mod shared;
pub(crate) mod slots;
pub(crate) mod test_seams;
pub(crate) mod worker;
