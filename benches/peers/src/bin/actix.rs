//! actix-web. It catches SIGTERM by itself, and waits for its workers for `shutdown_timeout`.

use std::time::Duration;

use actix_web::web::{Bytes, Data, Query, get, post};
use actix_web::{App, HttpServer};
use peers::{Counting, GRACE, HELLO, SLEPT};
use serde::Deserialize;

#[derive(Deserialize)]
struct Length {
    n: usize,
}

#[derive(Deserialize)]
struct Pause {
    ms: u64,
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let counting = Data::new(Counting::new());
    let app = move || {
        App::new()
            .app_data(counting.clone())
            .route("/plaintext", get().to(async || HELLO))
            .route("/bytes", get().to(bytes))
            .route("/sleep", get().to(sleep))
            .route("/echo", post().to(echo))
    };
    HttpServer::new(app)
        .shutdown_timeout(GRACE.as_secs())
        .bind(peers::addr())?
        .run()
        .await
}

async fn bytes(counting: Data<Counting>, length: Query<Length>) -> Bytes {
    counting.first(length.n)
}

async fn sleep(pause: Query<Pause>) -> &'static str {
    actix_web::rt::time::sleep(Duration::from_millis(pause.ms)).await;
    SLEPT
}

async fn echo(body: Bytes) -> Bytes {
    body
}
