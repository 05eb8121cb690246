//! hyper with hyper-util's `GracefulShutdown`, as its documentation shows it.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use peers::{Counting, GRACE, HELLO, SLEPT, number};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let counting = Counting::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(peers::addr()).await?;
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                // Without this option, an answer after another would wait for the client's
                // acknowledgement, and there would be less load.
                let _ = stream.set_nodelay(true);
                let counting = counting.clone();
                let service = service_fn(move |request| app(request, counting.clone()));
                let connection =
                    http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
                let watched = graceful.watch(connection);
                tokio::spawn(async move {
                    // A client that went away is not an error of the server.
                    let _ = watched.await;
                });
            }
            _ = terminate.recv() => break,
        }
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(GRACE) => eprintln!("connections were left at the deadline"),
    }
    Ok(())
}

async fn app(
    request: Request<Incoming>,
    counting: Counting,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let query = request.uri().query().unwrap_or_default();
    let body = match (request.method(), request.uri().path()) {
        (&Method::GET, "/plaintext") => Some(HELLO.into()),
        (&Method::GET, "/bytes") => number(query, "n")
            .and_then(|n| usize::try_from(n).ok())
            .map(|n| counting.first(n)),
        (&Method::GET, "/sleep") => match number(query, "ms") {
            Some(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Some(SLEPT.into())
            }
            None => None,
        },
        (&Method::POST, "/echo") => request
            .into_body()
            .collect()
            .await
            .ok()
            .map(|body| body.to_bytes()),
        _ => None,
    };
    let mut response = Response::new(Full::from(body.clone().unwrap_or_default()));
    if body.is_none() {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    Ok(response)
}
