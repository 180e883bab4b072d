//! The last n outcomes, in two bits each.

use super::{Class, Sums, WindowCounts};

/// Outcomes in a word.
const PER_WORD: u32 = u32::BITS / 2;

/// The words of a small ring, which lies where its breaker does: among thousands of breakers, each cache line that a call
/// need not touch tells.
pub(in crate::breaker) type Inline = [u32; 8];

/// The words of a large ring.
pub(in crate::breaker) type Boxed = Box<[u32]>;

/// The most outcomes for which [`Inline`] has room.
pub(super) const INLINE_CALLS: u32 = 8 * PER_WORD;

/// A ring of outcomes, the oldest of them at `next` once it is full. `W` holds its words.
#[derive(Debug)]
pub(in crate::breaker) struct CountRing<W> {
    next: u32,
    filled: u32,
    size: u32,
    /// Failures, slow successes and slow failures, in the order of [`Class`]. The rest of `filled` are successes.
    counts: [u32; 3],
    words: W,
}

impl CountRing<Inline> {
    /// An empty ring of at most [`INLINE_CALLS`].
    pub(super) fn inline(calls: u32) -> Self {
        Self::new(calls.min(INLINE_CALLS), Inline::default())
    }
}

impl CountRing<Boxed> {
    /// An empty ring of any size.
    pub(super) fn boxed(calls: u32) -> Self {
        Self::new(calls, vec![0; calls.div_ceil(PER_WORD) as usize].into_boxed_slice())
    }
}

impl<W: AsRef<[u32]> + AsMut<[u32]>> CountRing<W> {
    fn new(size: u32, words: W) -> Self {
        Self { next: 0, filled: 0, size, counts: [0; 3], words }
    }

    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "what is added is known where it is called, and little is left of this"
    )]
    pub(super) fn add(&mut self, class: Class) {
        let class = class as u32;
        let shift = self.next % PER_WORD * 2;
        let oldest = self.words.as_ref()[(self.next / PER_WORD) as usize] >> shift & 0b11;
        // Successes are not counted: one in the place of another changes nothing.
        if oldest | class != Class::Success as u32 {
            self.replace(oldest, class);
        }
        if self.filled < self.size {
            self.filled += 1;
        }
        self.next += 1;
        if self.next == self.size {
            self.next = 0;
        }
    }

    #[inline(never)]
    fn replace(&mut self, oldest: u32, class: u32) {
        let shift = self.next % PER_WORD * 2;
        self.words.as_mut()[(self.next / PER_WORD) as usize] ^= (oldest ^ class) << shift;
        let is_full = self.filled == self.size;
        if let Some(count) = self.count_of(oldest).filter(|_| is_full) {
            *count -= 1;
        }
        if let Some(count) = self.count_of(class) {
            *count += 1;
        }
    }

    /// `None` for successes.
    fn count_of(&mut self, class: u32) -> Option<&mut u32> {
        self.counts.get_mut((class as usize).checked_sub(1)?)
    }

    pub(super) fn counts(&self) -> WindowCounts {
        let [failure, slow_success, slow_failure] = self.counts.map(u64::from);
        let success = u64::from(self.filled) - (failure + slow_success + slow_failure);
        WindowCounts { success, failure, slow_success, slow_failure }
    }

    #[inline]
    pub(super) fn sums(&self) -> Sums {
        let [failure, slow_success, slow_failure] = self.counts.map(u64::from);
        Sums { calls: self.filled.into(), failed: failure + slow_failure, slow: slow_success + slow_failure }
    }

    pub(super) fn clear(&mut self) {
        // What the words hold no longer counts once `filled` is zero.
        self.next = 0;
        self.filled = 0;
        self.counts = [0; 3];
    }
}
