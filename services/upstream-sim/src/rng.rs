//! Randomness that is the same on every machine and for every version of every library.

/// SplitMix64: one word of state, and a stream that never changes for a seed.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// True with the given probability.
    pub(crate) fn chance(&mut self, rate: f64) -> bool {
        // 53 bits are all that a f64 in 0..1 can hold, so the conversion is exact.
        #[allow(clippy::cast_precision_loss, reason = "53 bits fit a f64 exactly")]
        let drawn = (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < rate
    }
}

const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// A hash that takes text in parts, so that `["ab", "c"]` and `["a", "bc"]` differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextHash(u64);

impl TextHash {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0xCBF2_9CE4_8422_2325))
    }

    #[must_use]
    pub(crate) fn text(self, text: &str) -> Self {
        let bytes = text
            .bytes()
            .fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
        Self(mix(bytes ^ text.len() as u64))
    }

    #[must_use]
    pub(crate) const fn number(self, number: u64) -> Self {
        Self(mix(self.0 ^ mix(number)))
    }

    pub(crate) const fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        let mut rng = SplitMix64::new(0);
        // The reference vector of SplitMix64 for seed 0.
        assert_eq!(rng.next_u64(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(rng.next_u64(), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn a_rate_is_met_over_many_draws() {
        let mut rng = SplitMix64::new(7);
        let hits = (0..10_000).filter(|_| rng.chance(0.1)).count();
        assert!((850..1150).contains(&hits), "{hits}");
        assert!((0..1000).all(|_| !rng.chance(0.0)));
        assert!((0..1000).all(|_| rng.chance(1.0)));
    }

    #[test]
    fn parts_are_kept_apart() {
        let hash =
            |parts: &[&str]| parts.iter().fold(TextHash::new(1), |hash, part| hash.text(part)).finish();
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["ab", "c"]), hash(&["ab", "c"]));
    }
}
