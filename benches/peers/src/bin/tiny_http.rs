//! tiny_http. Every thread of the pool is unblocked and ends its request, and then the server is
//! dropped. It has no other way to stop.

use std::io::Cursor;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use peers::{Counting, HELLO, SLEPT, number};
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use tiny_http::{Method, Request, Response, Server};

const THREADS: usize = 16;

fn main() {
    let counting = Counting::new();
    let mut signals = Signals::new([SIGTERM]).expect("SIGTERM can be caught");
    let server = Arc::new(Server::http(peers::addr()).expect("the port is free"));
    let serve = || {
        let (server, counting) = (server.clone(), counting.clone());
        move || {
            while let Ok(request) = server.recv() {
                // A client that went away is not an error of the server.
                let _ = answer(request, &counting);
            }
        }
    };
    let threads: Vec<_> = (0..THREADS).map(|_| thread::spawn(serve())).collect();
    signals.forever().next();
    threads.iter().for_each(|_| server.unblock());
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("no request panics"));
    drop(server);
}

fn answer(mut request: Request, counting: &Counting) -> std::io::Result<()> {
    let url = request.url().to_owned();
    let (path, query) = url.split_once('?').unwrap_or((&url, ""));
    match (request.method(), path) {
        (Method::Get, "/plaintext") => request.respond(Response::from_string(HELLO)),
        (Method::Get, "/bytes") => {
            let body = counting.first(
                number(query, "n")
                    .and_then(|n| usize::try_from(n).ok())
                    .unwrap_or_default(),
            );
            let n = body.len();
            request.respond(Response::new(
                200.into(),
                Vec::new(),
                Cursor::new(body),
                Some(n),
                None,
            ))
        }
        (Method::Get, "/sleep") => {
            thread::sleep(Duration::from_millis(
                number(query, "ms").unwrap_or_default(),
            ));
            request.respond(Response::from_string(SLEPT))
        }
        (Method::Post, "/echo") => {
            let mut body = Vec::new();
            request.as_reader().read_to_end(&mut body)?;
            request.respond(Response::from_data(body))
        }
        _ => request.respond(Response::empty(404)),
    }
}
