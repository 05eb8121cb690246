//! axum: `serve(..).with_graceful_shutdown(..)`, with a deadline around it, because it has none.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use peers::{Counting, GRACE, HELLO, SLEPT};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

#[derive(Deserialize)]
struct Length {
    n: usize,
}

#[derive(Deserialize)]
struct Pause {
    ms: u64,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app =
        Router::new()
            .route("/plaintext", get(|| async { HELLO }))
            .route(
                "/bytes",
                get(
                    |State(all): State<Counting>, Query(of): Query<Length>| async move {
                        all.first(of.n)
                    },
                ),
            )
            .route("/sleep", get(sleep))
            .route("/echo", post(|body: Bytes| async move { body }))
            .with_state(Counting::new());
    let mut terminate = signal(SignalKind::terminate())?;
    let (stopping, mut stops) = watch::channel(false);
    // Without this option, an answer after another would wait for the client's acknowledgement, and
    // there would be less load.
    let listener = TcpListener::bind(peers::addr()).await?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
        terminate.recv().await;
        stopping.send_replace(true);
    });
    let deadline = async {
        let _ = stops.wait_for(|stops| *stops).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = async { serving.await } => served,
        () = deadline => {
            eprintln!("connections were left at the deadline");
            Ok(())
        }
    }
}

async fn sleep(Query(pause): Query<Pause>) -> &'static str {
    tokio::time::sleep(Duration::from_millis(pause.ms)).await;
    SLEPT
}
