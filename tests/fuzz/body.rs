//! Any bytes as a body, chunked or of a declared length.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lameduck::fuzzing::body(data));
