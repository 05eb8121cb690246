//! HTTP/1.1 without a socket, a thread or a clock.
