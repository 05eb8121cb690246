//! Lines in the log about one request, which name it: its method and path, its peer and its id.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use log::Level;

use crate::conn::egress::Egress;
use crate::conn::stage::Peer;
use crate::sys::logging::{self, Line};

thread_local! {
    /// The connection whose request the thread answers.
    static ANSWERS: RefCell<Option<Arc<Egress>>> = const { RefCell::new(None) };
}

/// A thread's answering of a request. Until it is dropped, [`log_here`] names the request.
pub(crate) struct Answering(());

impl Answering {
    pub(crate) fn start(egress: &Arc<Egress>) -> Self {
        ANSWERS.set(Some(egress.clone()));
        Self(())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        ANSWERS.set(None);
    }
}

/// Logs what has happened to the request that is in flight on a connection.
///
/// The query is left out, because it may hold what must not be in a log.
pub(crate) fn log(level: Level, egress: &Egress, what: fmt::Arguments<'_>) {
    if !logging::is_enabled(level) {
        return;
    }
    let (mut text, mut fields) = (what.to_string(), Vec::new());
    let request = egress.in_flight().map(|(request, _)| request);
    if let Some(request) = &request {
        let (method, path) = (&request.method, request.target.path());
        text.push_str(&format!(", in {method} {path}"));
        fields.push(("method", method.to_string()));
        fields.push(("path", path.to_owned()));
    }
    text.push_str(&format!(", peer {}", Peer(egress)));
    if let Some(peer) = egress.peer_addr() {
        fields.push(("peer", peer.to_string()));
    }
    if let Some(id) = request.and_then(|request| request.id) {
        text.push_str(&format!(", request id {id}"));
        fields.push(("request_id", id.to_string()));
    }
    logging::queue(Line {
        level,
        target: module_path!(),
        text,
        fields,
    });
}

/// Logs what has happened to the request that this thread answers, if it answers one.
pub(crate) fn log_here(level: Level, what: fmt::Arguments<'_>) {
    match ANSWERS.with_borrow(Clone::clone) {
        Some(egress) => log(level, &egress, what),
        None => logging::line!(level, "{what}"),
    }
}

/// Notes the id of the request that this thread answers, for the lines about it.
pub(crate) fn set_request_id(id: &str) {
    ANSWERS.with_borrow(|egress| {
        if let Some(egress) = egress {
            egress.set_request_id(id);
        }
    });
}
