//! The sockets that a server listens on: making them, accepting from them, and closing them without
//! losing what is in their accept backlogs.
//!
//! This floor takes connections from the kernel and gives them to the pool; it reads no byte of
//! them. It may use every floor below it: it sends connections to the `pool`, claims idle ones
//! there to make room, and records each in the ledger (`lifecycle`).
//!
//! Read `listener.rs` first, with `socket_file.rs`, the file of a unix socket; `addresses.rs` and
//! `names.rs` are what a program may give to listen on. Then
//! `acceptor.rs`, the loop that accepts, and `eviction.rs`, how a full server makes room. Last
//! `closing.rs`, which closes the listeners when draining starts.

pub(crate) mod acceptor;
pub(crate) mod addresses;
pub(crate) mod closing;
pub(crate) mod eviction;
pub(crate) mod listener;
mod names;
mod socket_file;
