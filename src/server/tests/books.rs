//! The books of a stop balance, or the report says what does not come out.

use crate::lifecycle::ledger::CloseReason;
use crate::server::tests::fixture::{FAULT, Faulty, Fixture, get};

#[test]
fn a_panic_in_the_servers_own_code_is_a_fault_in_the_report() {
    let server = Fixture::new(|builder| builder.transport(Faulty::transport));
    let mut other = server.used("/other");
    let mut client = server.connect();
    client.send(FAULT);
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
