//! Scenarios of what can be under way when a stop begins, one in each test. Each request is
//! answered, or cut and named.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod callers;
mod crowds;
mod cut;
#[cfg(feature = "cli")]
mod in_a_child;
mod in_the_middle;
mod late_requests;
#[path = "../support/mod.rs"]
mod support;
mod unhelpful_clients;

use std::io::Read;

use lameduck::http::StatusCode;
use lameduck::{Context, Handler, IntoResponse, Request, Response, ServerBuilder};

use support::{Gate, LIMIT, builder, pattern};

/// Returns a handler that answers with the path. It waits at the gate for a path that ends in
/// `block`, reads the request's body for one that begins with `/body`, and sends 4 MiB for `/big`.
fn app(gate: &Gate) -> impl Handler + use<> {
    let gate = gate.clone();
    move |mut request: Request, _: Context| -> Response {
        let path = request.uri().path().to_owned();
        if path.ends_with("block") {
            gate.pass();
        }
        if path.starts_with("/body") {
            let mut body = Vec::new();
            return match request.body_mut().read_to_end(&mut body) {
                Ok(_) => format!("{} bytes, {}", body.len(), sum(&body)).into_response(),
                Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
            };
        }
        if path == "/big" {
            return pattern(4 << 20).into_response();
        }
        path.into_response()
    }
}

/// Describes a server whose idle connections have time for their next request.
fn patient() -> ServerBuilder {
    builder().idle_grace(LIMIT * 2)
}

/// Returns a sum that differs when bytes are lost, added or swapped.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum: u64, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    })
}
