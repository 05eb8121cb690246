//! Reads any bytes as a request head, and as a request target.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lameduck::fuzzing::head(data));
