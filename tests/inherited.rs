//! One server after another on the same address: restarts, sockets that outlive a server, and unix
//! sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use lameduck::net::unix;
use lameduck::report::Phase;
use lameduck::{Context, Error, Request};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

use support::{Client, Gate, builder, eventually, get, get_last, hello, serve, within_limit};

/// Returns a path at which there is no file.
fn socket_path(name: &str) -> PathBuf {
    let path =
        std::env::temp_dir().join(format!("lameduck-test-{}-{name}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// Returns a client on the unix socket at `path` that has sent its only request.
fn ask(path: &Path) -> Client<UnixStream> {
    let mut client = Client::connect_unix(path);
    client.send(get_last("/"));
    client
}

/// Returns how many connections to or from the port are in TIME_WAIT, as the kernel lists them.
fn in_time_wait(port: u16) -> usize {
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{port:04X}");
    let states = connections.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, _remote, state) = (words.next()?, words.next()?, words.next()?);
        local.ends_with(&port).then_some(state)
    });
    states.filter(|state| *state == "06").count()
}

#[test]
fn a_restart_on_the_same_port_never_finds_it_in_use() {
    let addr = builder().bind("127.0.0.1:0").unwrap().local_addr();
    for restart in 0..20 {
        let bound = builder()
            .workers(2)
            .bind(addr)
            .unwrap_or_else(|error| panic!("{restart}: {error}"));
        let running = bound.spawn(hello).unwrap();
        for _ in 0..5 {
            // The side that closes first is left in TIME_WAIT, which is the server here.
            let mut client = Client::connect(addr);
            client.send(get_last("/"));
            assert_eq!(client.read_response().status, 200);
            client.expect_eof();
        }
        let report = running.handle().shutdown();
        assert!(report.is_clean(), "{restart}: {report}");
        assert!(in_time_wait(addr.port()) > 0, "or this tests nothing");
    }
}

#[test]
fn a_port_that_another_server_listens_on_is_refused() {
    let first = serve(builder().workers(1), "127.0.0.1:0", hello);
    let error = builder().bind(first.local_addr()).unwrap_err();
    assert!(
        matches!(&error, Error::Listen { source, .. } if source.kind() == ErrorKind::AddrInUse),
        "{error:?}"
    );
    assert_eq!(Client::connect(first.local_addr()).get("/").status, 200);
}

#[test]
fn what_is_queued_on_a_unix_socket_is_served_and_its_file_is_gone_at_once() {
    const QUEUED: usize = 20;
    let path = socket_path("queued");
    let gate = Gate::new();
    let waits = gate.clone();
    let description = builder().workers(1).max_connections(1);
    let running = description
        .bind(format!("unix:{}", path.display()))
        .unwrap()
        .spawn(move |_: Request, _: Context| {
            waits.pass();
            "hello"
        })
        .unwrap();
    let first = ask(&path);
    gate.wait_entered(1);
    let queued: Vec<_> = (0..QUEUED).map(|_| ask(&path)).collect();
    running.handle().begin_shutdown();
    eventually("it drains", || running.handle().phase() >= Phase::Draining);
    eventually("the file is gone", || !path.exists());
    gate.open();
    for mut client in [first].into_iter().chain(queued) {
        assert_eq!(client.read_last_response().text(), "hello");
    }
    let report = running.handle().shutdown();
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        (report.listeners.backlog_served, report.accepted),
        (QUEUED, QUEUED as u64 + 1),
        "{report}"
    );
}

#[test]
fn a_socket_file_that_was_left_behind_is_replaced() {
    let path = socket_path("abandoned");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists() && UnixStream::connect(&path).is_err());
    let addr = format!("unix:{}", path.display());
    let running = serve(builder().workers(1), addr, hello);
    assert_eq!(ask(&path).read_last_response().text(), "hello");
    assert!(running.handle().shutdown().is_clean());
    assert!(!path.exists());
}

#[test]
fn a_unix_socket_that_is_in_use_is_refused_and_stays() {
    let path = socket_path("live");
    let addr = format!("unix:{}", path.display());
    let first = serve(builder().workers(1), &addr, hello);
    for _ in 0..3 {
        let error = builder().bind(&addr).unwrap_err();
        assert!(
            matches!(&error, Error::Listen { source, .. } if source.kind() == ErrorKind::AddrInUse),
            "{error:?}"
        );
        assert!(error.to_string().contains(&addr), "{error}");
        assert_eq!(ask(&path).read_last_response().text(), "hello");
    }
    assert!(first.handle().shutdown().is_clean());
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_refused_and_stays() {
    let path = socket_path("no-socket");
    std::fs::write(&path, "precious").unwrap();
    let error = builder()
        .bind(format!("unix:{}", path.display()))
        .unwrap_err();
    assert!(matches!(error, Error::Listen { .. }), "{error:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_file_that_a_successor_has_made_is_not_removed_by_the_predecessors_end() {
    let path = socket_path("successor");
    let addr = format!("unix:{}", path.display());
    let gate = Gate::new();
    let waits = gate.clone();
    let first = serve(
        builder().workers(1),
        &addr,
        move |_: Request, _: Context| {
            waits.pass();
            "first"
        },
    );
    let mut asking = ask(&path);
    gate.wait_entered(1);
    first.handle().begin_shutdown();
    eventually("the file is gone", || !path.exists());
    let second = serve(builder().workers(1), &addr, hello);
    gate.open();
    assert_eq!(asking.read_last_response().text(), "first");
    assert!(first.handle().shutdown().is_clean());
    drop(first);
    assert!(path.exists());
    assert_eq!(ask(&path).read_last_response().text(), "hello");
    assert!(second.handle().shutdown().is_clean());
}

#[test]
fn a_file_that_has_taken_the_place_of_ours_is_not_removed() {
    let path = socket_path("taken-over");
    let first = serve(
        builder().workers(1),
        format!("unix:{}", path.display()),
        hello,
    );
    // A successor that is no lameduck removes the file of a server that runs.
    std::fs::remove_file(&path).unwrap();
    let successor = UnixListener::bind(&path).unwrap();
    let report = first.handle().shutdown();
    assert!(report.is_clean(), "{report}");
    assert!(path.exists());
    drop(UnixStream::connect(&path).unwrap());
    drop(successor);
    // A server whose file is gone has nothing to remove and nothing to complain about.
    let second = serve(
        builder().workers(1),
        format!("unix:{}", path.display()),
        hello,
    );
    std::fs::remove_file(&path).unwrap();
    let report = second.handle().shutdown();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.listeners.errors, [""; 0], "{report}");
}

#[test]
fn of_several_servers_that_start_on_an_abandoned_path_one_listens() {
    const STARTERS: usize = 4;
    let path = socket_path("starters");
    for _ in 0..50 {
        drop(UnixListener::bind(&path).unwrap());
        let together = Barrier::new(STARTERS);
        let started: Vec<_> = std::thread::scope(|scope| {
            let start = || {
                together.wait();
                builder().bind(unix(&path).mode(0o600))
            };
            let threads: Vec<_> = (0..STARTERS).map(|_| scope.spawn(start)).collect();
            let bound = threads.into_iter().map(|thread| thread.join().unwrap());
            bound.collect()
        });
        let listening = started.iter().filter(|bound| bound.is_ok()).count();
        assert_eq!(listening, 1, "{started:#?}");
        assert!(UnixStream::connect(&path).is_ok());
        drop(started);
        assert!(!path.exists());
    }
}

#[test]
fn a_unix_socket_whose_backlog_is_full_is_in_use() {
    let path = socket_path("full");
    let addr = SocketAddrUnix::new(&path).unwrap();
    let socket = || rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let busy = socket();
    rustix::net::bind(&busy, &addr).unwrap();
    rustix::net::listen(&busy, 0).unwrap();
    let waiting = socket();
    rustix::net::connect(&waiting, &addr).unwrap();
    let error = within_limit("bind", {
        let path = path.clone();
        move || builder().bind(unix(path)).unwrap_err()
    });
    assert!(
        matches!(&error, Error::Listen { source, .. } if source.kind() == ErrorKind::AddrInUse),
        "{error:?}"
    );
    assert!(path.exists());
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_given_listener_is_served_and_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut early = Client::connect(addr);
    early.send(get("/early"));
    let running = serve(builder().workers(1), listener, hello);
    assert_eq!(running.local_addr(), addr);
    assert_eq!(early.read_response().status, 200);
    drop(early);
    assert!(running.handle().shutdown().is_clean());
    assert_eq!(
        TcpStream::connect(addr).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn without_inherited_sockets_there_is_nothing_to_listen_on() {
    for error in [
        builder().bind(lameduck::net::inherited()).unwrap_err(),
        builder().bind("inherited").unwrap_err(),
        builder().bind("inherited:web").unwrap_err(),
        builder()
            .bind(lameduck::net::inherited().named("web"))
            .unwrap_err(),
        builder().bind("inherited-not").unwrap_err(),
    ] {
        assert!(
            matches!(&error, Error::Address { addr, .. } if addr.starts_with("inherited")),
            "{error:?}"
        );
    }
}

/// A program that is started with sockets. `sh` takes the part of the launcher: it puts the sockets
/// where the program looks for them, and names its own process id.
#[cfg(feature = "cli")]
mod in_a_child {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsFd, OwnedFd};
    use std::process::{Command, Stdio};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    use rustix::process::Signal;
    use support::End;
    use support::child::{Program, shell};

    /// The beginning of a script that makes stdin descriptor 3.
    const TAKE_ONE: &str = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1;";

    fn launch(script: &str, socket: impl AsFd) -> Command {
        let mut command = shell(script);
        command.stdin(Stdio::from(socket.as_fd().try_clone_to_owned().unwrap()));
        command
    }

    fn launch_demo(socket: impl AsFd, options: &str) -> Program {
        Program::serving(&mut launch(
            &format!("{TAKE_ONE} exec \"$0\" demo --listen inherited {options}"),
            socket,
        ))
    }

    #[test]
    fn two_generations_share_a_socket_and_no_client_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let first = launch_demo(&listener, "--workers 4");
        assert_eq!(first.local_addr(), addr);
        let (answered, closed, over) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let ask = |keeps_alive: bool| {
            let (answered, closed, over) = (answered.clone(), closed.clone(), over.clone());
            std::thread::spawn(move || {
                let mut client = None;
                while !over.load(SeqCst) {
                    let mut current = client.take().unwrap_or_else(|| Client::connect(addr));
                    let answer = current.get(if keeps_alive {
                        "/sleep?ms=1"
                    } else {
                        "/plaintext"
                    });
                    assert_eq!(answer.status, 200);
                    answered.fetch_add(1, SeqCst);
                    closed.fetch_add(u64::from(answer.closes()), SeqCst);
                    client = (keeps_alive && !answer.closes()).then_some(current);
                }
            })
        };
        let threads: Vec<_> = (0..8).map(|i| ask(i % 2 == 0)).collect();
        let served = |so_far: u64| {
            eventually("requests are answered", || {
                answered.load(SeqCst) > so_far + 200
            })
        };
        served(0);
        let mut sleeper = first.client();
        let second = launch_demo(&listener, "--workers 4");
        sleeper.send(get("/sleep?ms=300"));
        served(answered.load(SeqCst));
        first.signal(Signal::TERM);
        let ended = first.end();
        assert_eq!(ended.code, Some(0), "{}", ended.output);
        // Either process may have accepted this connection.
        assert_eq!(sleeper.read_response().text(), "slept\n");
        assert!(closed.load(SeqCst) > 0, "the first one was under load");
        served(answered.load(SeqCst));
        over.store(true, SeqCst);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        drop(sleeper);
        second.signal(Signal::TERM);
        let ended = second.end();
        assert_eq!(ended.code, Some(0), "{}", ended.output);

        // No process accepts now, and the socket still listens. A client that comes waits for the
        // third server.
        let mut early = Client::connect(addr);
        early.send(get("/plaintext"));
        let third = launch_demo(&listener, "");
        assert_eq!(early.read_response().status, 200);
        drop(early);
        third.signal(Signal::TERM);
        assert_eq!(third.end().code, Some(0));
    }

    #[test]
    fn an_inherited_unix_socket_keeps_its_file() {
        let path = socket_path("inherited");
        let listener = UnixListener::bind(&path).unwrap();
        for _ in 0..2 {
            let demo = launch_demo(&listener, "");
            let mut client = ask(&path);
            assert_eq!(client.read_raw(17), b"HTTP/1.1 200 OK\r\n");
            assert_eq!(client.drain().1, End::Eof);
            demo.signal(Signal::TERM);
            let ended = demo.end();
            assert_eq!(ended.code, Some(0), "{}", ended.output);
            assert!(path.exists());
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn inherited_sockets_are_chosen_by_their_names() {
        let sockets = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let addrs = sockets
            .each_ref()
            .map(|socket| socket.local_addr().unwrap());
        let take_two = "exec 3<&0 4>&1 </dev/null >/dev/null; export LISTEN_PID=$$ LISTEN_FDS=2;";
        let start = |names: &str, listen: &str| {
            let script = format!("{take_two} {names} exec \"$0\" demo {listen}");
            let mut command = launch(&script, &sockets[0]);
            Program::start(
                command.stdout(Stdio::from(OwnedFd::from(sockets[1].try_clone().unwrap()))),
            )
        };
        for (names, listen, expected) in [
            (
                "LISTEN_FDNAMES=web:admin",
                "--listen inherited:web",
                vec![addrs[0]],
            ),
            (
                "LISTEN_FDNAMES=web:admin",
                "--listen inherited:admin",
                vec![addrs[1]],
            ),
            (
                "LISTEN_FDNAMES=web:web",
                "--listen inherited:web",
                addrs.to_vec(),
            ),
            (
                "LISTEN_FDNAMES=web:admin",
                "--listen inherited",
                addrs.to_vec(),
            ),
            (
                "LISTEN_FDNAMES=web:admin",
                "--listen inherited:admin --listen inherited:web",
                vec![addrs[1], addrs[0]],
            ),
            ("", "--listen inherited:unknown", addrs.to_vec()),
        ] {
            let program = start(names, listen);
            for addr in &expected {
                program.wait_for_line(&format!("listening on http://{addr}"));
            }
            assert_eq!(Client::connect(expected[0]).get("/plaintext").status, 200);
            program.signal(Signal::TERM);
            assert_eq!(program.end().code, Some(0), "{names} {listen}");
        }
        for (names, listen) in [
            ("LISTEN_FDNAMES=web:admin", "--listen inherited:other"),
            ("LISTEN_FDNAMES=web:admin", "--listen inherited:web:admin"),
        ] {
            let program = start(names, listen);
            let lines = program.rest_of_lines();
            assert_eq!(program.end().code, Some(2), "{lines:?}");
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(
                lines[0].contains("the process was started without such a socket"),
                "{lines:?}"
            );
        }
    }

    /// Checks that the program ends with one line that has `problem`, and with exit code 2.
    #[track_caller]
    fn check_refused(script: &str, socket: impl AsFd, problem: &str) {
        let output = launch(script, socket).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{script}: {told}");
        assert!(
            told.starts_with("lameduck: cannot listen on ") && told.lines().count() == 1,
            "{script}: {told}"
        );
        assert!(told.contains(problem), "{script}: {told}");
        assert_eq!(output.stdout, b"", "{script}");
    }

    #[test]
    fn what_is_meant_for_another_process_is_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for variables in [
            "LISTEN_PID=1 LISTEN_FDS=1",
            "LISTEN_FDS=1",
            "LISTEN_PID=$$ LISTEN_FDS=0",
            "LISTEN_PID=$$ LISTEN_FDS=-1",
            "LISTEN_PID=$$ LISTEN_FDS=one",
            "LISTEN_PID=$$",
        ] {
            let script =
                format!("exec 3<&0 </dev/null; {variables} exec \"$0\" demo --listen inherited");
            check_refused(
                &script,
                &listener,
                "the process was started without such a socket",
            );
        }
    }

    #[test]
    fn what_is_no_listening_socket_is_refused() {
        let script = format!("{TAKE_ONE} exec \"$0\" demo --listen inherited");
        let why = "inherited (descriptor 3): ";
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        check_refused(&script, &connected, why);
        check_refused(&script, UnixStream::pair().unwrap().0, why);
        check_refused(
            &script,
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
            why,
        );
        check_refused(&script, File::open("/dev/null").unwrap(), why);
        let unbound =
            "exec 3<&- </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" demo --listen inherited";
        check_refused(unbound, &listener, why);
        // The first one is a listener; the second one is not there.
        let one_missing = "exec 3<&0 4<&- </dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" demo --listen inherited";
        check_refused(one_missing, &listener, "inherited (descriptor 4): ");
    }

    #[test]
    fn an_inherited_socket_is_claimed_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let script = format!("{TAKE_ONE} exec \"$0\" demo --listen inherited --listen inherited");
        check_refused(&script, &listener, "claimed already");
    }
}

#[test]
fn a_unix_socket_has_the_mode_it_was_given_and_is_gone_with_the_server() {
    use std::os::unix::fs::PermissionsExt;

    let path = std::env::temp_dir().join(format!("lameduck-mode-{}.sock", std::process::id()));
    let running = serve(builder(), unix(&path).mode(0o600), hello);
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // A socket file that a server listens on is not taken away.
    let taken = builder().bind(unix(&path)).unwrap_err();
    assert!(taken.to_string().contains("unix:"), "{taken}");
    assert!(UnixStream::connect(&path).is_ok());
    assert!(running.handle().shutdown().is_clean());
    assert!(!path.exists());
}
