//! Closing a listener without losing what is in its accept backlog.
//!
//! A connection in the backlog is complete for its client, who may have sent a request on it: closing the listener resets
//! it. So everything is accepted first and served after the close. Serving in between would never end under load.

use crate::lifecycle::ledger::Ledger;
use crate::listener::Listener;
use crate::pool::{Accepted, Pool};

/// What closing the listeners brought.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    /// The connections that were still in their backlogs.
    pub(crate) connections: Vec<Accepted>,
    /// What went wrong, one line for each listener.
    pub(crate) errors: Vec<String>,
}

/// Empties the accept backlogs and closes the listeners.
pub(crate) fn close(listeners: Vec<Listener>, pool: &Pool) -> Closed {
    let mut closed = Closed::default();
    for mut listener in listeners {
        if let Err(error) = listener.unlink() {
            closed.errors.push(format!("cannot remove {}: {error}", listener.addr));
        }
        loop {
            match listener.accept() {
                Ok(Some((socket, peer))) => {
                    let entry = Ledger::open(&pool.ledger);
                    closed.connections.push(Accepted { socket, peer, entry });
                }
                Ok(None) => break,
                Err(error) => {
                    closed.errors.push(format!("cannot empty the accept backlog of {}: {error}", listener.addr));
                    break;
                }
            }
        }
    }
    closed
}
