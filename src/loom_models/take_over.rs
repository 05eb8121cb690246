//! The take-over: at the cut a request is answered by its handler or with 503, never by both.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Mutex as StdMutex;
use std::time::Instant;

use http::{Method, Uri};
use loom::sync::Arc;
use loom::thread;

use super::check;
use crate::conn::egress::{Egress, InFlight, TakeOver};
use crate::conn::transport::{Look, Transport};
use crate::sys::socket::TcpInfo;

/// Catches: two responses to one request, or none; a response that overtakes an earlier one; a
/// handler that goes on writing after the 503, or that gets success for bytes that were not
/// written.
#[test]
fn a_request_is_answered_once() {
    for complete in [true, false] {
        check(None, move || {
            let transport = SlowTransport::default();
            let egress = Arc::new(Egress::new(Box::new(transport.clone()), None));
            egress
                .begin_response(&mut Vec::new(), true, |out| {
                    out.extend_from_slice(b"earlier ")
                })
                .unwrap();
            egress.set_in_flight(in_flight());
            let cutter = {
                let egress = egress.clone();
                thread::spawn(move || egress.take_over(b"503"))
            };
            let monitor = {
                let egress = egress.clone();
                thread::spawn(move || egress.flush_from_outside().unwrap())
            };
            let begun = egress.begin_response(&mut Vec::new(), complete, |out| {
                out.extend_from_slice(b"200 ")
            });
            let mut written =
                begun.and_then(|()| egress.append(true, |out| out.extend_from_slice(b"OK")));
            if begun.is_err() {
                written = Err(egress
                    .append(true, |out| out.extend_from_slice(b"OK"))
                    .expect_err("it is shut"));
                assert!(egress.send_directly(b"OK").is_err());
            }
            let taken = cutter.join().unwrap();
            monitor.join().unwrap();
            assert!(egress.flush_from_outside().unwrap());
            let wire = transport.0.lock().unwrap();
            if written.is_ok() {
                assert!(!matches!(taken, TakeOver::Answered(_)));
                assert_eq!(
                    (&*wire.bytes, wire.finished),
                    (&b"earlier 200 OK"[..], false)
                );
            } else {
                assert!(matches!(taken, TakeOver::Answered(_)));
                assert_eq!((&*wire.bytes, wire.finished), (&b"earlier 503"[..], true));
            }
        });
    }
}

#[allow(clippy::disallowed_methods, reason = "any moment will do")]
fn in_flight() -> InFlight {
    InFlight {
        method: Method::GET,
        target: Uri::from_static("/"),
        since: Instant::now(),
        started: true,
        id: None,
    }
}

/// A connection to a peer that takes no byte at first, and then two at a time.
#[derive(Debug, Clone, Default)]
pub(super) struct SlowTransport(std::sync::Arc<StdMutex<Wire>>);

#[derive(Debug, Default)]
struct Wire {
    bytes: Vec<u8>,
    was_full: bool,
    finished: bool,
}

impl Transport for SlowTransport {
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut wire = self.0.lock().unwrap();
        assert!(!wire.finished, "nothing is sent after the FIN");
        if !std::mem::replace(&mut wire.was_full, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = bytes.len().min(2);
        wire.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn finish(&self) {
        self.0.lock().unwrap().finished = true;
    }

    fn recv(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        unreachable!("nobody reads in a model")
    }

    fn look(&self) -> Look {
        unreachable!("nobody reads in a model")
    }

    fn reset(&self) {
        unreachable!("nobody resets in a model")
    }

    fn info(&self) -> Option<TcpInfo> {
        None
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("nobody polls in a model")
    }
}
