//! The decoder of streamed chat completions.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_router::fuzzing::openai_decoder(data));
