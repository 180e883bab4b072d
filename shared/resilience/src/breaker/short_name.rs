//! A name that lies where its breaker does.

/// The bytes of a name, unless there are too many: a look-up by name compares them, and finds the breaker's state beside
/// them.
pub(super) struct ShortName {
    bytes: [u8; Self::MAX],
    /// Over [`ShortName::MAX`] for a name that is too long.
    length: u8,
}

impl ShortName {
    /// As many as fill the cache line that a breaker begins with.
    const MAX: usize = 31;

    pub(super) fn of(name: &str) -> Self {
        let mut bytes = [0; Self::MAX];
        if let Some(room) = bytes.get_mut(..name.len()) {
            room.copy_from_slice(name.as_bytes());
        }
        Self { bytes, length: u8::try_from(name.len()).unwrap_or(u8::MAX) }
    }

    /// Whether the name is this one. `None`: it was too long to be kept.
    #[inline]
    pub(super) fn is(&self, name: &str) -> Option<bool> {
        self.bytes.get(..usize::from(self.length)).map(|kept| kept == name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_from_all_others_or_not_kept() {
        for length in [0, 1, 30, 31] {
            let name = "n".repeat(length);
            let kept = ShortName::of(&name);
            assert_eq!(kept.is(&name), Some(true), "{length}");
            assert_eq!(kept.is(&format!("{name}n")), Some(false), "{length}");
            assert_eq!(kept.is(&format!("{name}\0")), Some(false), "{length}");
        }
        assert_eq!(ShortName::of("one").is("two"), Some(false));
        for length in [32, 255, 256, 257, 279] {
            let name = "n".repeat(length);
            assert_eq!(ShortName::of(&name).is(&name), None, "{length}");
        }
    }
}
