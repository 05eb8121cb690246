//! Reads any bytes as a body, of the framing that the input chooses.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lameduck::fuzzing::body(data));
