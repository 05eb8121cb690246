//! The listeners of a server in a stop, whatever state they are in.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use lameduck::{Context, Request, Server, ServerBuilder};

use support::{Client, builder, hello, millis, within_limit};

#[test]
fn a_listener_that_another_holder_has_shut_does_not_keep_the_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = listener.try_clone().unwrap();
    let running = builder().bind(listener).unwrap().spawn(hello).unwrap();
    let mut client = Client::connect(running.local_addr());
    assert_eq!(client.get("/").status, 200);
    drop(client);
    // The classic way to wake a thread that blocks in accept(2): it ends accepting for every
    // holder.
    rustix::net::shutdown(&other, rustix::net::Shutdown::Both).unwrap();
    let handle = running.handle();
    let report = within_limit("the stop", move || handle.shutdown());
    assert!(report.took < millis(2000), "{report}");
    let errors = &report.listeners.errors;
    assert_eq!(
        errors.len(),
        1,
        "an error once, not for each attempt: {report}"
    );
    assert!(
        errors[0].contains("cannot empty the accept backlog"),
        "{report}"
    );
}

#[test]
fn a_limit_on_connections_that_is_no_limit_serves() {
    let limits: [fn(ServerBuilder) -> ServerBuilder; 3] = [
        |builder| builder.max_connections(usize::MAX),
        |builder| builder.max_connections(1 << 40),
        |builder| builder.max_connections(0),
    ];
    for limit in limits {
        let running = limit(Server::builder()).bind("127.0.0.1:0").unwrap();
        let running = running.spawn(hello).unwrap();
        assert_eq!(Client::connect(running.local_addr()).get("/").status, 200);
        assert!(running.handle().shutdown().is_clean());
    }
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_named_as_ipv4() {
    let Ok(bound) = builder().bind("[::]:0") else {
        println!("not tested: this system has no IPv6");
        return;
    };
    let addr = bound.local_addr();
    let names = |_: Request, context: Context| {
        let ip = |addr: Option<SocketAddr>| addr.unwrap().ip();
        let (peer, local) = (ip(context.peer_addr()), ip(context.local_addr()));
        format!("{peer} {local}")
    };
    let running = bound.spawn(names).unwrap();
    let mut client = Client::connect((Ipv4Addr::LOCALHOST, addr.port()).into());
    assert_eq!(client.get("/").text(), "127.0.0.1 127.0.0.1");
    drop(client);
    assert!(running.handle().shutdown().is_clean());
}
