//! Upgraded connections and long streams have dedicated threads, learn of the stop, are waited for,
//! and are counted.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, tick, unbounded};
use lameduck::http::header::{CONTENT_TYPE, HeaderName};
use lameduck::http::{HeaderValue, StatusCode};
use lameduck::report::CloseReason;
use lameduck::report::Fate;
use lameduck::upgrade::{self, Upgraded};
use lameduck::{Body, Context, Request, Response};
use support::{Client, LIMIT, TestServer, builder, get, now, server_threads};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Message, WebSocket};

/// Answers a WebSocket's handshake, and echoes what comes. At a stop it closes with 1001.
fn echo(request: Request, _context: Context) -> Response {
    let key = request.headers().get("sec-websocket-key").cloned();
    let mut response = upgrade::accept(&request, "websocket", |io: Upgraded, _context| {
        io.on_shutdown(|io| {
            // This frame does not come in the middle of another: the thread waits for the peer, so
            // nothing else is written meanwhile.
            let mut last = WebSocket::from_raw_socket(io, Role::Server, None);
            let frame = CloseFrame {
                code: CloseCode::Away,
                reason: "the server stops".into(),
            };
            let _ = last.close(Some(frame));
            let _ = last.flush();
        });
        let mut socket = WebSocket::from_raw_socket(io, Role::Server, None);
        while let Ok(message) = socket.read() {
            if message.is_text() && socket.send(message).is_err() {
                return;
            }
        }
    });
    if let Some(key) = key {
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        let accept = HeaderValue::from_str(&accept).unwrap();
        response
            .headers_mut()
            .insert(HeaderName::from_static("sec-websocket-accept"), accept);
    }
    response
}

fn connect(server: &TestServer) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(server.local_addr()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let (socket, response) =
        tungstenite::client(format!("ws://{}/echo", server.local_addr()), stream).unwrap();
    assert_eq!(response.status().as_u16(), 101);
    socket
}

fn say(socket: &mut WebSocket<TcpStream>, text: &str) {
    socket.send(Message::text(text)).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text(text));
}

#[test]
fn a_websocket_echoes_and_holds_no_worker() {
    let server = TestServer::with(
        builder().workers(1),
        |request: Request, context: Context| {
            if request.uri().path() == "/echo" {
                echo(request, context)
            } else {
                Response::new("plain".into())
            }
        },
    );
    let mut sockets: Vec<_> = (0..20).map(|_| connect(&server)).collect();
    for (i, socket) in sockets.iter_mut().enumerate() {
        say(socket, &format!("hello {i}"));
        say(socket, &"long ".repeat(20_000));
    }
    assert_eq!(server.client().get("/").text(), "plain");
    assert_eq!(server.handle().stats().upgraded, 20);
    for mut socket in sockets {
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
    }
    support::eventually("the threads end", || server.handle().stats().upgraded == 0);
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        (
            report.closed_because(CloseReason::Upgraded),
            report.upgraded.told
        ),
        (20, 0),
        "{report}"
    );
}

#[test]
fn a_stop_tells_websockets_and_waits_for_them() {
    let server = TestServer::start(echo);
    let mut sockets: Vec<_> = (0..10).map(|_| connect(&server)).collect();
    for socket in &mut sockets {
        say(socket, "before");
    }
    server.handle().begin_shutdown();
    for socket in &mut sockets {
        let Message::Close(Some(close)) = socket.read().unwrap() else {
            panic!("a close was due")
        };
        assert_eq!(close.code, CloseCode::Away);
        // This answers the close, and reads to the end.
        while socket.read().is_ok() {}
    }
    drop(sockets);
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
    let upgraded = report.upgraded;
    assert_eq!(
        (upgraded.told, upgraded.finished, upgraded.cut),
        (10, 10, 0),
        "{report}"
    );
}

#[test]
fn a_stop_in_the_middle_of_traffic_loses_no_message_that_was_answered_before_the_close() {
    let server = TestServer::start(echo);
    let mut socket = connect(&server);
    let (begun_sender, begun) = bounded(1);
    let handle = server.handle();
    let stopper = std::thread::spawn(move || {
        begun.recv_timeout(LIMIT).unwrap();
        handle.shutdown()
    });
    let mut closed = false;
    for n in 0..1_000_000_u32 {
        if n == 100 {
            begun_sender.send(()).unwrap();
        }
        let text = n.to_string();
        if socket.send(Message::text(text.as_str())).is_err() {
            break;
        }
        match socket.read() {
            Ok(Message::Close(Some(close))) => {
                assert_eq!(close.code, CloseCode::Away);
                closed = true;
            }
            Ok(message) => assert_eq!(message, Message::text(text)),
            Err(_) => break,
        }
    }
    assert!(closed, "the close came");
    drop(socket);
    let report = stopper.join().unwrap();
    assert_eq!(
        (report.upgraded.told, report.upgraded.finished),
        (1, 1),
        "{report}"
    );
}

#[test]
fn a_peer_that_ignores_the_close_is_cut_at_the_deadline_and_named() {
    let server = TestServer::with(builder().cut_grace(Duration::from_millis(50)), echo);
    let mut deaf = connect(&server);
    say(&mut deaf, "before");
    let report = server.handle().shutdown_within(Duration::from_millis(100));
    assert_eq!(
        (
            report.upgraded.told,
            report.upgraded.cut,
            report.exit_code()
        ),
        (1, 1, 1),
        "{report}"
    );
    assert!(
        matches!(report.unanswered[0].fate, Fate::UpgradeCut { .. })
            && report.unanswered[0].target == "/echo",
        "{report}"
    );
    assert!(
        report
            .to_string()
            .contains("1 upgraded connection told of the stop: 0 finished, 1 cut"),
        "{report}"
    );
    assert!(report.stuck.is_empty(), "{report}");
}

#[test]
fn a_closure_that_never_returns_is_named_as_stuck() {
    let (entered_sender, entered) = bounded(1);
    let (go, gone) = bounded::<()>(0);
    let server = TestServer::with(
        builder().cut_grace(Duration::ZERO),
        move |request: Request, _context: Context| {
            let (entered, gone) = (entered_sender.clone(), gone.clone());
            upgrade::accept(&request, "deaf", move |_io, _context| {
                entered.send(()).unwrap();
                let _ = gone.recv();
            })
        },
    );
    let mut client = server.client();
    client.send("GET /deaf HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: deaf\r\n\r\n");
    entered.recv_timeout(LIMIT).unwrap();
    let report = server.handle().shutdown_within(Duration::from_millis(20));
    assert_eq!((report.exit_code(), report.stuck.len()), (3, 1), "{report}");
    let upgraded = report.upgraded;
    assert_eq!(
        (upgraded.told, upgraded.finished, upgraded.cut),
        (1, 0, 1),
        "{report}"
    );
    assert_eq!(report.unanswered.len(), 1, "{report}");
    assert!(
        report.stuck[0].thread.starts_with("lameduck-dedicated-"),
        "{report}"
    );
    assert_eq!(report.stuck[0].request.as_ref().unwrap().1, "/deaf");
    drop(go);
}

#[test]
fn a_client_that_does_not_ask_for_the_protocol_gets_426() {
    let server = TestServer::start(echo);
    for head in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let mut client = server.client();
        client.send(head);
        let answer = client.read_response();
        assert_eq!(
            (answer.status, answer.field("upgrade")),
            (426, Some("websocket")),
            "{head}"
        );
    }
    server.stop_cleanly();
}

#[test]
fn bytes_after_the_request_are_the_upgraded_connections() {
    let server = TestServer::start(|request: Request, _context: Context| {
        upgrade::accept(&request, "count", |mut io: Upgraded, _context| {
            let mut bytes = Vec::new();
            io.read_to_end(&mut bytes).unwrap();
            io.write_all(format!("{} bytes", bytes.len()).as_bytes())
                .unwrap();
        })
    });
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: count\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    client.half_close();
    assert_eq!(client.read_response_to_head().status, 101);
    assert_eq!(client.read_raw(8), b"18 bytes");
    client.expect_eof();
    let report = server.stop();
    assert!(
        report.is_clean() && support::raced(&report).is_empty(),
        "{report}"
    );
}

#[test]
fn an_upgrade_asked_for_while_draining_is_answered_with_503() {
    let gate = support::Gate::new();
    let inside = gate.clone();
    let server = TestServer::start(move |request: Request, context: Context| {
        inside.pass();
        echo(request, context)
    });
    let mut client = server.client();
    client
        .send("GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    gate.wait_entered(1);
    server.handle().begin_shutdown();
    support::eventually("it drains", || {
        server.handle().phase() == lameduck::report::Phase::Draining
    });
    gate.open();
    let answer = client.read_response();
    assert_eq!(
        (answer.status, answer.closes(), answer.field("retry-after")),
        (503, true, Some("1"))
    );
    let report = server.stop();
    assert_eq!(
        (report.upgraded.told, report.is_clean()),
        (0, true),
        "{report}"
    );
}

#[test]
fn beyond_the_limit_a_further_upgrade_is_answered_with_503_and_the_pool_goes_on() {
    let server = TestServer::with(builder().max_dedicated_threads(1), echo);
    let mut first = connect(&server);
    let mut second = server.client();
    second
        .send("GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(second.read_response().status, 503);
    say(&mut first, "still here");
    drop(first);
    support::eventually("the first one ends", || {
        server.handle().stats().upgraded == 0
    });
    say(&mut connect(&server), "in its place");
    let _ = server.stop();
}

#[test]
fn an_upgraded_connections_read_and_write_time_out() {
    let (sender, results) = unbounded();
    let server = TestServer::start(move |request: Request, _context: Context| {
        let sender: Sender<_> = sender.clone();
        upgrade::accept(&request, "slow", move |mut io: Upgraded, _context| {
            io.set_read_timeout(Some(Duration::from_millis(5)));
            sender.send(io.read(&mut [0]).unwrap_err().kind()).unwrap();
            let mut other = io.try_clone().unwrap();
            other.set_write_timeout(Some(Duration::from_millis(5)));
            let error = loop {
                if let Err(error) = other.write(&[0; 64 << 10]) {
                    break error;
                }
            };
            sender.send(error.kind()).unwrap();
        })
    });
    let mut client = Client::connect_narrow(server.local_addr());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: slow\r\n\r\n");
    for _ in 0..2 {
        assert_eq!(
            results.recv_timeout(LIMIT),
            Ok(std::io::ErrorKind::TimedOut)
        );
    }
    drop(client);
    let _ = server.stop();
}

#[test]
fn a_panic_in_an_upgraded_connection_costs_that_connection() {
    let server = TestServer::start(|request: Request, context: Context| {
        if request.uri().path() == "/panic" {
            return upgrade::accept(&request, "websocket", |_io, _context| {
                panic!("for the test")
            });
        }
        echo(request, context)
    });
    let mut client = server.client();
    client.send(
        "GET /panic HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let _ = client.drain();
    say(&mut connect(&server), "others live");
    support::eventually("all have ended", || server.handle().stats().upgraded == 0);
    assert_eq!(server.stop().closed_because(CloseReason::Failed), 1);
}

/// Sends an event for each of `ticks`, until the server drains.
fn events(context: &Context, ticks: crossbeam_channel::Receiver<u32>) -> Response {
    let context = context.clone();
    let mut response = Response::new(Body::stream(move |out| {
        out.flush()?;
        loop {
            crossbeam_channel::select! {
                recv(ticks) -> tick => match tick {
                    Ok(tick) => {
                        write!(out, "data: {tick}\n\n")?;
                        out.flush()?;
                    }
                    Err(_) => return Ok(()),
                },
                recv(context.draining()) -> _ => {
                    write!(out, "event: end\n\n")?;
                    return Ok(());
                }
            }
        }
    }));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

#[test]
fn a_hundred_event_streams_hold_none_of_four_workers_and_end_with_the_stop() {
    let (tick, ticks) = unbounded();
    let server = TestServer::with(
        builder().workers(4),
        move |request: Request, context: Context| {
            if request.uri().path() == "/events" {
                events(&context, ticks.clone())
            } else {
                Response::new("plain".into())
            }
        },
    );
    let mut streams: Vec<_> = (0..100).map(|_| server.client()).collect();
    for stream in &mut streams {
        stream.send(get("/events"));
        // The head comes before the first event.
        assert_eq!(
            stream.read_response_to_head().field("content-type"),
            Some("text/event-stream")
        );
    }
    assert!(server_threads().len() >= 100);
    for _ in 0..50 {
        assert_eq!(server.client().get("/").text(), "plain");
    }
    for n in 0..100 {
        tick.send(n).unwrap();
    }
    support::eventually("each event was taken by some stream", || tick.is_empty());
    server.handle().begin_shutdown();
    let mut events = 0;
    for stream in &mut streams {
        let (bytes, end) = stream.drain();
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.contains("event: end\n\n") && text.ends_with("0\r\n\r\n"),
            "{text} {end:?}"
        );
        events += text.matches("data: ").count();
    }
    assert_eq!(events, 100);
    let report = server.stop();
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        report.answered.iter().map(|(_, n)| n).sum::<u64>(),
        150,
        "{report}"
    );
}

#[test]
fn a_stream_that_is_over_leaves_its_connection_for_the_next_request() {
    let server = TestServer::start(|_request: Request, _context: Context| {
        Body::stream(|out| {
            out.write_all(b"one")?;
            out.flush()?;
            out.write_all(b"two")
        })
    });
    let mut client = server.client();
    for _ in 0..5 {
        let answer = client.get("/");
        assert_eq!(
            (answer.status, answer.text()),
            (StatusCode::OK.as_u16(), "onetwo")
        );
    }
    server.stop_cleanly();
}

/// Closures that end one after another are waited for in all, and not each from anew.
#[test]
fn closures_that_end_one_after_another_do_not_draw_the_stop_out() {
    const CLOSURES: usize = 60;
    let (to, turns) = bounded::<()>(CLOSURES);
    let (entered_sender, entered) = bounded(CLOSURES);
    let server = TestServer::with(
        builder().cut_grace(Duration::ZERO),
        move |request: Request, _context: Context| {
            let (entered, turns) = (entered_sender.clone(), turns.clone());
            upgrade::accept(&request, "deaf", move |_io, _context| {
                entered.send(()).unwrap();
                // One closure ends each 50 ms, which is sooner than a thread counts as stuck.
                let _ = turns.recv();
            })
        },
    );
    let upgrade = "GET /deaf HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: deaf\r\n\r\n";
    let _clients: Vec<_> = (0..CLOSURES)
        .map(|_| {
            let mut client = server.client();
            client.send(upgrade);
            entered.recv_timeout(LIMIT).unwrap();
            client
        })
        .collect();
    let handle = server.handle();
    let stop = std::thread::spawn(move || {
        let began = now();
        (handle.close(), now() - began)
    });
    let ticks = tick(Duration::from_millis(50));
    let (report, took) = loop {
        if stop.is_finished() {
            break stop.join().unwrap();
        }
        ticks.recv().unwrap();
        let _ = to.try_send(());
    };
    assert!(
        took < Duration::from_millis(50) * CLOSURES as u32 / 2,
        "{took:?}: {report}"
    );
    assert!(!report.stuck.is_empty(), "{report}");
    drop(to);
}

/// The closure knows who has logged in, and the parameters of its route.
#[cfg(feature = "router")]
#[test]
fn the_closure_has_the_values_of_the_request_and_not_its_deadline() {
    struct User(&'static str);
    let (to, seen) = unbounded();
    let app = lameduck::Router::new()
        .get("/rooms/{room}", move |request: Request, _: Context| {
            let to = to.clone();
            upgrade::accept(&request, "chat", move |_io, context: Context| {
                let user = context.value::<User>().map(|user| user.0);
                let room = context.param("room").map(str::to_owned);
                to.send((
                    user,
                    room,
                    context.request_id().map(str::to_owned),
                    context.deadline(),
                ))
                .unwrap();
            })
        })
        .layer(
            |request: Request, context: Context, next: lameduck::layers::Next<'_>| {
                next.run(request, context.with_value(User("anna")))
            },
        )
        .layer(lameduck::layers::timeout(LIMIT))
        .layer(lameduck::layers::request_id());
    let server = TestServer::with(builder(), app);
    for id in ["r1", "r2"] {
        let mut client = server.client();
        client.send(format!(
            "GET /rooms/blue HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: chat\r\n\
             X-Request-Id: {id}\r\n\r\n"
        ));
        let (user, room, request_id, deadline) = seen.recv_timeout(LIMIT).unwrap();
        assert_eq!((user, room.as_deref()), (Some("anna"), Some("blue")));
        assert_eq!(request_id.as_deref(), Some(id));
        assert_eq!(deadline, None);
    }
    server.stop_cleanly();
}

#[test]
fn a_body_comes_before_the_upgrade_and_100_before_101() {
    let description = builder().workers(2).collect_bytes(4);
    let server = TestServer::with(description, |request: Request, _: Context| {
        upgrade::accept(&request, "shout", |mut io: Upgraded, _context| {
            let mut bytes = [0; 5];
            io.read_exact(&mut bytes).unwrap();
            io.write_all(&bytes.map(|byte| byte.to_ascii_uppercase()))
                .unwrap();
        })
    });
    let ask = |fields: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: shout\r\n{fields}\r\n"
        )
    };
    let large = 100_000;
    for (fields, body) in [
        ("Content-Length: 3\r\n".to_owned(), "abc".to_owned()),
        (format!("Content-Length: {large}\r\n"), "x".repeat(large)),
        (
            "Transfer-Encoding: chunked\r\n".to_owned(),
            "a\r\n0123456789\r\n0\r\n\r\n".to_owned(),
        ),
    ] {
        for expects in [false, true] {
            let mut client = server.client();
            if expects {
                client.send(ask(&format!("{fields}Expect: 100-continue\r\n")));
                assert_eq!(client.read_head().status, 100, "{fields}");
                client.send(&body);
            } else {
                client.send(ask(&fields) + &body);
            }
            assert_eq!(client.read_head().status, 101, "{fields}");
            client.send("hello");
            assert_eq!(client.read_raw(5), b"HELLO");
            client.expect_eof();
        }
    }
    // A body that is too long to be dropped is refused, and nothing of it is taken for the protocol.
    let mut client = server.client();
    client.send(ask("Content-Length: 300000\r\n") + &"x".repeat(300_000));
    assert_eq!(client.read_last_response().status, 413);
    let mut client = server.client();
    client.send(ask("Transfer-Encoding: chunked\r\n") + "9\r\n012345678\r\nx\r\n");
    assert_eq!(client.read_last_response().status, 400);
    assert!(server.stop().is_clean());
}
