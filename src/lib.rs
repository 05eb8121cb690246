//! A synchronous HTTP/1.1 server on a fixed thread pool that can be stopped at any moment without losing a request.

#[cfg(not(unix))]
compile_error!("lameduck runs on Unix only: it is built on signals, poll(2) and descriptors");

mod wire;

pub use http;
