//! A server in its own process, with few descriptors or with many connections, answers its backlog
//! and stops in time.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use super::support::child::{Program, shell};
use super::support::{Client, LIMIT, get, millis, now};

#[test]
fn without_descriptors_for_the_accept_backlog_its_clients_are_answered_nevertheless() {
    const IDLE: usize = 48;
    const QUEUED: usize = 150;
    let script =
        "ulimit -n 64 && exec \"$0\" demo --listen 127.0.0.1:0 --workers 1 --idle-grace 100ms";
    let demo = Program::serving(&mut shell(script));
    let mut idle: Vec<_> = (0..IDLE).map(|_| demo.client()).collect();
    for client in &mut idle {
        assert_eq!(client.get("/plaintext").status, 200);
    }
    let mut queued: Vec<_> = (0..QUEUED).map(|_| demo.client()).collect();
    queued
        .iter_mut()
        .for_each(|client| client.send_get("/plaintext"));
    // The idle connections are as many as 80 % of the limit allows, so these are not accepted.
    queued[QUEUED - 1].expect_nothing_yet();
    demo.signal(Signal::TERM);
    for (i, client) in queued.iter_mut().enumerate() {
        let answer = client
            .try_read(false)
            .unwrap_or_else(|end| panic!("{i} of {QUEUED}: {end:?}"));
        assert_eq!((answer.status, answer.closes()), (200, true), "{i}");
        client.expect_eof();
    }
    idle.iter_mut().for_each(Client::expect_eof);
    let ended = demo.end();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
}

#[test]
fn ten_thousand_idle_connections_close_soon_after_their_grace() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .unwrap();
    let room = maximum.map_or(10_000, |maximum| {
        (maximum * 4 / 5).saturating_sub(1_000).min(10_000)
    });
    let demo = Program::demo(&["--workers", "2", "--idle-grace", "1s"]);
    let mut clients: Vec<_> = (0..room)
        .map(|_| TcpStream::connect(demo.local_addr()).unwrap())
        .collect();
    for client in &mut clients {
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(get("/plaintext").as_bytes()).unwrap();
    }
    let mut buffer = [0; 1024];
    for client in &mut clients {
        let mut len = 0;
        while !buffer[..len].ends_with(b"Hello, World!") {
            match client.read(&mut buffer[len..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => len += read.unwrap(),
            }
        }
    }
    let began = now();
    demo.signal(Signal::TERM);
    let ended = demo.end();
    let took = now() - began;
    println!("a stop with {room} idle connections and an idle grace of 1 s: {took:?}");
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(
        took < millis(1000) + LIMIT / 2,
        "{took:?}: {}",
        ended.output
    );
    assert!(
        ended.output.contains(&format!("{room} closed while idle")),
        "{}",
        ended.output
    );
    assert!(
        clients
            .iter_mut()
            .all(|client| client.read(&mut buffer).unwrap() == 0)
    );
}
