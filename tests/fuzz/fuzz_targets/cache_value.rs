//! The decoder of stored answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_router::fuzzing::cache_value(data));
