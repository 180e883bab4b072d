//! The decoder of Ollama's lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_router::fuzzing::ollama_decoder(data));
