//! The cost of idle connections: memory, and the speed of the connections that are not idle.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::crowd::{Crowd, Kind};
use super::server::{Server, Times};

/// The most bytes of user memory that one idle connection may cost.
const BYTES_MAX: u64 = 1024;
/// The part of the throughput that must be left beside idle connections.
const SPEED_MIN: f64 = 0.8;
const ACTIVE: usize = 32;
const ROUNDS: usize = 7;

/// Prints what `n` idle connections cost, and returns the goals that were missed.
pub(crate) fn measure(n: usize, quick: bool) -> Vec<String> {
    let (alone, beside) = (Server::start(Times::Default), Server::start(Times::Default));
    let round = if quick {
        Duration::from_millis(100)
    } else {
        Duration::from_secs(1)
    };
    // After a first run, both servers have all that is made once.
    run(alone.addr, round);
    run(beside.addr, round);
    let before = beside.memory();
    let mut crowd = Crowd::connect(beside.addr, Kind::Idle, n, false);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        crowd.go_round(Duration::from_millis(50));
    }
    let each = beside.memory().saturating_sub(before) / n as u64;
    assert_eq!(crowd.open(), n, "some did not stay");
    // The servers are measured in turn, so that the machine's other work slows both alike.
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(run(alone.addr, round));
        with.push(run(beside.addr, round));
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_unstable_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (without, with) = (median(&mut without), median(&mut with));
    let ratio = with / without;
    assert!(quick || crowd.open() == n, "some did not stay");
    println!(
        "| idle connections | resident bytes each | requests/s of {ACTIVE} beside them | without them | ratio |"
    );
    println!("|--:|--:|--:|--:|--:|");
    println!("| {n} | {each} | {with:.0} | {without:.0} | {ratio:.3} |");
    let mut missed = Vec::new();
    if each > BYTES_MAX {
        missed.push(format!("an idle connection costs {each} bytes"));
    }
    if ratio < SPEED_MIN && !quick {
        missed.push(format!(
            "beside {n} idle connections the speed is {ratio:.2} of what it was"
        ));
    }
    missed
}

/// Returns the requests per second of [`ACTIVE`] connections, each of which asks again when it is
/// answered.
fn run(addr: SocketAddr, time: Duration) -> f64 {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let none = epoll::Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    };
    let mut events = vec![none; ACTIVE];
    let mut clients: Vec<_> = (0..ACTIVE)
        .map(|_| TcpStream::connect(addr).unwrap())
        .collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client.set_nonblocking(true).unwrap();
        client.set_nodelay(true).unwrap();
        epoll::add(
            &epoll,
            &*client,
            EventData::new_u64(i as u64),
            EventFlags::IN,
        )
        .unwrap();
        client.write_all(REQUEST).unwrap();
    }
    let began = Instant::now();
    let (mut answers, mut buffer) = (0_u64, [0; 4096]);
    while began.elapsed() < time {
        let timeout = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let ready = epoll::wait(&epoll, &mut events[..], Some(&timeout)).unwrap_or(0);
        for event in &events[..ready] {
            let client = &mut clients[event.data.u64() as usize];
            match client.read(&mut buffer) {
                // An answer leaves in one write, and comes in one read.
                Ok(n) if buffer[..n].ends_with(b"\r\n\r\nhello") => {
                    answers += 1;
                    client.write_all(REQUEST).unwrap();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => panic!("not an answer: {other:?}"),
            }
        }
    }
    answers as f64 / began.elapsed().as_secs_f64()
}
