//! The fuzz targets as property tests: random bytes, and every input that a fuzzer once found worth keeping.

use std::path::Path;

use proptest::prelude::*;

use super::*;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 4] = [
    ("openai_decoder", openai_decoder),
    ("ollama_decoder", ollama_decoder),
    ("cache_value", cache_value),
    ("configuration", configuration),
];

fn kept(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
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
