//! The books of a stop balance, or the report says what does not come out.

use std::io;
use std::os::fd::BorrowedFd;

use crate::conn::transport::{Look, Socket, Transport};
use crate::lifecycle::ledger::CloseReason;
use crate::server::tests::fixture::{Fixture, get};
use crate::sys::socket::TcpInfo;

/// A socket whose reading panics once the peer has sent [`FAULT`].
#[derive(Debug)]
struct Faulty(Socket);

/// The request that finds a fault of the server.
const FAULT: &str = "/fault";

impl Transport for Faulty {
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.recv(buffer)?;
        let fault = FAULT.as_bytes();
        assert!(
            !buffer[..n].windows(fault.len()).any(|bytes| bytes == fault),
            "a fault of the server"
        );
        Ok(n)
    }

    fn look(&self) -> Look {
        self.0.look()
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)
    }

    fn finish(&self) {
        self.0.finish();
    }

    fn reset(&self) {
        self.0.reset();
    }

    fn info(&self) -> Option<TcpInfo> {
        self.0.info()
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[test]
fn a_panic_in_the_servers_own_code_is_a_fault_in_the_report() {
    let server = Fixture::new(|builder| builder.transport(|socket| Box::new(Faulty(socket))));
    let mut other = server.used("/other");
    let mut client = server.connect();
    client.send(&get(FAULT));
    client.expect_end();
    // The server goes on.
    other.send(&get("/again"));
    other.expect_body("/again");
    drop(other);
    let report = server.stop();
    assert_eq!(report.closed_because(CloseReason::Lost), 1, "{report}");
    assert!(
        report.faults.iter().any(|fault| fault.contains("panicked"))
            && report
                .faults
                .iter()
                .any(|fault| fault.contains("1 connection dropped")),
        "{report}"
    );
    assert_eq!((report.is_clean(), report.exit_code()), (false, 1));
}
