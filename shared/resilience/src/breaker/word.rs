//! What acquire needs to know, packed into one atomic word.

use super::rules::Rules;
use super::state::State;

/// Generation, state and two flags in 64 bits, so that one load decides about a call in CLOSED.
///
/// Bits 0–2: the state. Bit 3: a permit is stamped with the time. Bit 4: a ramp, so that even CLOSED asks the rules.
/// Bit 5: recording needs the time. Bit 6, in a permit's word only: it was a probe that has passed since. From bit 8: the generation, of which 56 bits outlast any process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    const STATE: u64 = 0b111;
    const STAMPED: u64 = 1 << 3;
    const RAMPING: u64 = 1 << 4;
    const TIMED: u64 = 1 << 5;
    const PASSED: u64 = 1 << 6;
    const GENERATION_SHIFT: u32 = 8;

    pub(super) fn of(rules: &Rules) -> Self {
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        Self(
            (rules.generation() << Self::GENERATION_SHIFT)
                | code(rules.state())
                | flag(rules.config().measures_calls(), Self::STAMPED)
                | flag(rules.is_ramping(), Self::RAMPING)
                | flag(rules.is_timed(), Self::TIMED),
        )
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn generation(self) -> u64 {
        self.0 >> Self::GENERATION_SHIFT
    }

    #[inline]
    pub(super) fn state(self) -> State {
        match self.0 & Self::STATE {
            0 => State::Closed,
            1 => State::Disabled,
            2 => State::MetricsOnly,
            3 => State::HalfOpen,
            4 => State::Open,
            _ => State::ForcedOpen,
        }
    }

    /// Whether a call is admitted without asking the rules.
    #[inline]
    pub(super) fn admits_at_once(self) -> bool {
        // The three states that admit everything have the lowest codes, and a ramp's bit makes any code higher.
        self.0 & (Self::STATE | Self::RAMPING) <= 2
    }

    #[inline]
    pub(super) fn is_stamped(self) -> bool {
        self.0 & Self::STAMPED != 0
    }

    /// Whether a permit is stamped or recording the outcome needs the time.
    #[inline]
    pub(super) fn needs_time(self) -> bool {
        self.0 & (Self::STAMPED | Self::TIMED) != 0
    }

    /// The word of a probe that has passed before its call has ended.
    pub(super) fn passed(self) -> Self {
        Self(self.0 | Self::PASSED)
    }

    #[inline]
    pub(super) fn has_passed(self) -> bool {
        self.0 & Self::PASSED != 0
    }

    /// Whether recording the outcome needs the time, because the window goes by it.
    #[inline]
    pub(super) fn is_timed(self) -> bool {
        self.0 & Self::TIMED != 0
    }
}

fn code(state: State) -> u64 {
    match state {
        State::Closed => 0,
        State::Disabled => 1,
        State::MetricsOnly => 2,
        State::HalfOpen => 3,
        State::Open => 4,
        State::ForcedOpen => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_is_a_bit_of_its_own() {
        let flags = |bits| {
            let word = Word::from_bits(bits);
            (word.is_stamped(), !word.admits_at_once(), word.is_timed())
        };
        assert_eq!(flags(0), (false, false, false));
        assert_eq!(flags(Word::STAMPED), (true, false, false));
        assert_eq!(flags(Word::RAMPING), (false, true, false));
        assert_eq!(flags(Word::TIMED), (false, false, true));
    }

    #[test]
    fn a_word_that_has_passed_says_so_and_is_otherwise_what_it_was() {
        let word = Word::from_bits(code(State::HalfOpen) | Word::STAMPED | 7 << Word::GENERATION_SHIFT);
        let passed = word.passed();
        assert!(!word.has_passed() && passed.has_passed());
        assert_eq!((passed.state(), passed.generation(), passed.is_stamped()), (State::HalfOpen, 7, true));
        assert_eq!(passed.passed(), passed);
    }

    #[test]
    fn each_state_survives_the_packing_and_three_admit_at_once() {
        for state in State::ALL {
            let word = Word::from_bits(code(state) | 7 << Word::GENERATION_SHIFT);
            assert_eq!((word.state(), word.generation()), (state, 7));
            let open_handed = matches!(state, State::Closed | State::Disabled | State::MetricsOnly);
            assert_eq!(word.admits_at_once(), open_handed, "{state}");
            assert!(!Word::from_bits(word.bits() | Word::RAMPING).admits_at_once());
        }
    }
}
