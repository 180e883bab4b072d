//! What `tests/fuzz` calls: each function takes any bytes whatsoever and panics when a promise is broken. The same
//! functions run as bounded property tests in `make test`.

use std::path::Path;

use service_kit::config::{Environment, Problems, parse};

use crate::config::Config;
use crate::settings::Settings;
use crate::upstream::harness;

/// The first byte chooses how the others are split.
fn split(data: &[u8]) -> (usize, &[u8]) {
    data.split_first().map_or((1, data), |(chunk, body)| (usize::from(*chunk % 64) + 1, body))
}

/// The decoder of streamed chat completions.
///
/// # Panics
/// It breaks a promise.
pub fn openai_decoder(data: &[u8]) {
    let (chunk, body) = split(data);
    drop(harness::check_openai(body, chunk));
}

/// The decoder of Ollama's lines.
///
/// # Panics
/// It breaks a promise.
pub fn ollama_decoder(data: &[u8]) {
    let (chunk, body) = split(data);
    drop(harness::check_ollama(body, chunk));
}

/// The decoder of stored answers: what it takes can be stored and read again, and is the same answer then.
///
/// # Panics
/// It breaks a promise.
pub fn cache_value(data: &[u8]) {
    crate::cache::check_value(data);
}

/// The configuration: what is refused has a reason, what is taken is complete and can be shown.
///
/// # Panics
/// It breaks a promise.
pub fn configuration(data: &[u8]) {
    // What is no text is refused before it is a configuration.
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse::<Config>(Path::new("fuzzed.yaml"), text, &Environment::default()) {
        Err(refusal) => assert!(!refusal.to_string().is_empty(), "a refusal without a reason"),
        Ok(loaded) => {
            let mut problems = Problems::default();
            let settings = Settings::of(&loaded.config, &mut problems);
            assert!(
                settings.is_some() && problems.is_empty(),
                "taken, and then refused: {:?}",
                problems.found()
            );
            assert!(loaded.to_text().contains("agents"), "not shown");
        }
    }
}

#[cfg(test)]
mod tests;
