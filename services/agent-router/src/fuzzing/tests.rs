//! The fuzz targets as property tests: random bytes, and every input that a fuzzer once found worth keeping.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 4] = [
    ("openai_decoder", openai_decoder),
    ("ollama_decoder", ollama_decoder),
    ("cache_value", cache_value),
    ("configuration", configuration),
];

/// The kept inputs of a target, by their names.
fn named(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read = |file: std::fs::DirEntry| {
        (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())
    };
    files.map(|file| read(file.unwrap())).collect()
}

fn kept(target: &str) -> Vec<Vec<u8>> {
    named(target).into_values().collect()
}

fn names(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        found.insert(name.clone());
        names(value, found);
    }
}

/// A fuzzer that only ever starts from refusals hardly comes to what is behind them.
#[test]
fn the_kept_configurations_name_every_setting_and_are_what_they_are_called() {
    let inputs = named("configuration");
    let mut text = String::new();
    for (name, input) in &inputs {
        let input = std::str::from_utf8(input).unwrap();
        let read = parse::<Config>(Path::new(name), input, &Environment::default());
        assert_eq!(read.is_err(), name.starts_with("refused_"), "{name}: {:?}", read.err());
        text.push_str(input);
    }
    let mut settings = BTreeSet::new();
    names(&serde_json::to_value(Config::default()).unwrap(), &mut settings);
    let missing: Vec<_> = settings.iter().filter(|name| !text.contains(&format!("{name}:"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_kept_input_keeps_the_promises() {
    for (name, target) in TARGETS {
        let inputs = kept(name);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for input in &inputs {
            target(input);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_break_no_promise(data in prop::collection::vec(any::<u8>(), 0..512)) {
        for (_, target) in TARGETS {
            target(&data);
        }
    }

    #[test]
    fn kept_inputs_that_are_damaged_break_no_promise(
        choice in any::<prop::sample::Index>(),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        for (name, target) in TARGETS {
            let mut input = choice.get(&kept(name)).clone();
            if input.is_empty() {
                continue;
            }
            for (place, byte) in &places {
                let place = place.index(input.len());
                input[place] = *byte;
            }
            target(&input);
            target(&input[..cut.index(input.len())]);
        }
    }
}
