//! The router's configuration file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_router::fuzzing::configuration(data));
