//! Reads any bytes as all that arrives on a connection.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lameduck::fuzzing::connection(data));
