//! Tests that need a clock that stands still, or a thread held at one of the
//! [test points](crate::sys::test_points).

mod accept_errors;
mod blocked_workers;
mod books;
mod dedicated;
mod events;
mod fixture;
mod full;
mod lingering;
mod permits;
mod start;
mod stop;
mod timeouts;
mod transport;

use std::time::Duration;

use self::fixture::{Client, Fixture, SECOND, get};

/// Returns `n` clients with idle connections, each of which was used a second after the one before
/// it. Then the clock goes on by `then`.
fn idle_clients(server: &Fixture, n: usize, then: Duration) -> Vec<Client> {
    let clients = (0..n).map(|i| {
        let client = server.used(&format!("/{i}"));
        server.wait_silent(i + 1);
        server.clock.advance(SECOND);
        client
    });
    let clients = clients.collect();
    server.clock.advance(then);
    clients
}

#[track_caller]
fn assert_served(server: &Fixture) -> Client {
    let mut client = server.connect();
    client.send(&get("/new"));
    client.expect_body("/new");
    client
}
