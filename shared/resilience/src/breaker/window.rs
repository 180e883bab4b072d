//! The sliding windows: what the last calls, or the calls of the last seconds, came to.
//!
//! Both keep running sums beside a ring of fixed size, so that adding an outcome costs the same for a window of ten and
//! of ten thousand, and emptying a window touches no slot. The shape follows resilience4j's `FixedSizeSlidingWindowMetrics`
//! and `SlidingTimeWindowMetrics` in behaviour, not in code.

mod count;

use std::time::Duration;

use count::CountRing;

/// Calls in a window, in four classes: slow and failed are independent of each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WindowCounts {
    /// Succeeded in time.
    pub success: u64,
    /// Failed in time.
    pub failure: u64,
    /// Succeeded, but slowly.
    pub slow_success: u64,
    /// Failed, and slowly.
    pub slow_failure: u64,
}

impl WindowCounts {
    /// All calls.
    pub fn calls(&self) -> u64 {
        self.success + self.failure + self.slow_success + self.slow_failure
    }

    /// All that failed, slow or not.
    pub fn failed(&self) -> u64 {
        self.failure + self.slow_failure
    }

    /// All that were slow, failed or not.
    pub fn slow(&self) -> u64 {
        self.slow_success + self.slow_failure
    }

    /// What a verdict is about.
    pub(super) fn sums(&self) -> Sums {
        Sums { calls: self.calls(), failed: self.failed(), slow: self.slow() }
    }

    pub(super) fn add(&mut self, class: Class) {
        *self.of(class) += 1;
    }

    /// What seemed a success was a failure: preferably a slow one, or one in time.
    pub(super) fn turn_to_failure(&mut self, slow: bool) {
        let slow = if *self.of(Class::new(false, slow)) > 0 { slow } else { !slow };
        let success = self.of(Class::new(false, slow));
        if let Some(fewer) = success.checked_sub(1) {
            *success = fewer;
            self.add(Class::new(true, slow));
        }
    }

    fn of(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Success => &mut self.success,
            Class::Failure => &mut self.failure,
            Class::SlowSuccess => &mut self.slow_success,
            Class::SlowFailure => &mut self.slow_failure,
        }
    }

    fn subtract(&mut self, other: &Self) {
        self.success -= other.success;
        self.failure -= other.failure;
        self.slow_success -= other.slow_success;
        self.slow_failure -= other.slow_failure;
    }
}

/// Calls, and how many of them failed and were slow. A call may be both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) calls: u64,
    pub(super) failed: u64,
    pub(super) slow: u64,
}

/// The class that a call falls into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Success,
    Failure,
    SlowSuccess,
    SlowFailure,
}

impl Class {
    pub(super) fn new(failed: bool, slow: bool) -> Self {
        match (failed, slow) {
            (false, false) => Self::Success,
            (true, false) => Self::Failure,
            (false, true) => Self::SlowSuccess,
            (true, true) => Self::SlowFailure,
        }
    }
}

/// The shape of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Window {
    /// The last n calls.
    Count(u32),
    /// The calls of the current, partial second and of the n − 1 seconds before it, by the whole seconds of the
    /// breaker's clock.
    Time {
        /// n.
        seconds: u32,
    },
}

impl Window {
    /// The largest window: a million calls, or eleven days. A count window keeps two bits a call and a time window
    /// 48 bytes a second, so that a mistyped size cannot exhaust the memory.
    pub const MAX: u32 = 1_000_000;

    /// The number of calls or seconds.
    pub fn size(self) -> u32 {
        match self {
            Self::Count(size) | Self::Time { seconds: size } => size,
        }
    }
}

/// A window's contents.
#[derive(Debug)]
pub(super) enum Ring {
    FewCalls(CountRing<count::Inline>),
    ManyCalls(CountRing<count::Boxed>),
    Time(TimeRing),
}

impl Ring {
    /// An empty window.
    pub(super) fn new(shape: Window) -> Self {
        match shape {
            Window::Count(calls) if calls <= count::INLINE_CALLS => Self::FewCalls(CountRing::inline(calls)),
            Window::Count(calls) => Self::ManyCalls(CountRing::boxed(calls)),
            Window::Time { seconds } => Self::Time(TimeRing::new(u64::from(seconds))),
        }
    }

    /// Whether adding an outcome needs the time.
    pub(super) fn is_timed(&self) -> bool {
        matches!(self, Self::Time(_))
    }

    /// Adds an outcome; a count window does not ask for the time.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "see `CountRing::add`")]
    pub(super) fn add(&mut self, class: Class, now: impl FnOnce() -> Duration) {
        match self {
            Self::FewCalls(ring) => ring.add(class),
            Self::ManyCalls(ring) => ring.add(class),
            Self::Time(ring) => ring.add(class, now().as_secs()),
        }
    }

    /// What a verdict is about, as it stood after the last outcome.
    #[inline]
    pub(super) fn sums(&self) -> Sums {
        match self {
            Self::FewCalls(ring) => ring.sums(),
            Self::ManyCalls(ring) => ring.sums(),
            Self::Time(ring) => ring.counts.sums(),
        }
    }

    /// What the window holds, as it stood after the last outcome.
    pub(super) fn counts(&self) -> WindowCounts {
        match self {
            Self::FewCalls(ring) => ring.counts(),
            Self::ManyCalls(ring) => ring.counts(),
            Self::Time(ring) => ring.counts,
        }
    }

    /// What the window holds now: a time window loses what has grown too old.
    pub(super) fn counts_at(&mut self, now: Duration) -> WindowCounts {
        if let Self::Time(ring) = self {
            ring.slide(now.as_secs());
        }
        self.counts()
    }

    /// Forgets everything, at a cost that does not depend on the size.
    pub(super) fn clear(&mut self) {
        match self {
            Self::FewCalls(ring) => ring.clear(),
            Self::ManyCalls(ring) => ring.clear(),
            Self::Time(ring) => ring.clear(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// The second whose calls it holds. Buckets are reused, and emptied only then.
    second: u64,
    /// The life of the ring that it belongs to: `clear` starts a new one and so disowns every bucket at once.
    life: u64,
    counts: WindowCounts,
}

/// One bucket for each of the last n seconds.
#[derive(Debug)]
pub(super) struct TimeRing {
    buckets: Box<[Bucket]>,
    /// The newest second. Time that seems to go back, as when two threads read the clock and take the lock in the other
    /// order, counts as this second.
    newest: u64,
    life: u64,
    counts: WindowCounts,
}

impl TimeRing {
    fn new(seconds: u64) -> Self {
        let buckets = (0..seconds).map(|_| Bucket::default()).collect();
        // Life 0 is that of buckets never used.
        Self { buckets, newest: 0, life: 1, counts: WindowCounts::default() }
    }

    fn index(&self, second: u64) -> usize {
        // The remainder is smaller than a length, and so fits.
        usize::try_from(second % self.buckets.len() as u64).unwrap_or(0)
    }

    #[inline(never)]
    fn add(&mut self, class: Class, second: u64) {
        self.slide(second);
        let index = self.index(self.newest);
        let bucket = &mut self.buckets[index];
        if bucket.second != self.newest || bucket.life != self.life {
            *bucket = Bucket { second: self.newest, life: self.life, counts: WindowCounts::default() };
        }
        bucket.counts.add(class);
        self.counts.add(class);
    }

    /// Drops the seconds that leave the window as `second` becomes the newest. Costs one step for each second that has
    /// passed since the last call, and one in all when the whole window has passed.
    fn slide(&mut self, second: u64) {
        let size = self.buckets.len() as u64;
        if second >= self.newest.saturating_add(size) {
            self.clear();
            self.newest = second;
            return;
        }
        while self.newest < second {
            self.newest += 1;
            let Some(leaving) = self.newest.checked_sub(size) else { continue };
            let bucket = &self.buckets[self.index(leaving)];
            if bucket.second == leaving && bucket.life == self.life {
                self.counts.subtract(&bucket.counts);
            }
        }
    }

    fn clear(&mut self) {
        self.life += 1;
        self.counts = WindowCounts::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_success_turns_into_a_failure_of_its_kind_or_else_of_the_other_and_never_out_of_nothing() {
        let of = |classes: &[Class]| {
            let mut counts = WindowCounts::default();
            for class in classes {
                counts.add(*class);
            }
            counts
        };
        let cases: [(&[Class], bool, &[Class]); 5] = [
            (&[Class::Success, Class::SlowSuccess], true, &[Class::Success, Class::SlowFailure]),
            (&[Class::Success, Class::SlowSuccess], false, &[Class::Failure, Class::SlowSuccess]),
            (&[Class::Success], true, &[Class::Failure]),
            (&[Class::SlowSuccess], false, &[Class::SlowFailure]),
            (&[Class::Failure], true, &[Class::Failure]),
        ];
        for (before, slow, after) in cases {
            let mut counts = of(before);
            counts.turn_to_failure(slow);
            assert_eq!(counts, of(after), "{before:?}, {slow}");
        }
    }

    #[test]
    fn a_count_window_holds_the_last_n_outcomes_and_no_more() {
        let all = [Class::Failure, Class::SlowFailure, Class::Success, Class::SlowSuccess];
        // Sizes on either side of a word's, and of what lies inline.
        let sizes: &[u32] = if cfg!(miri) { &[1, 17, 129] } else { &[1, 3, 15, 16, 17, 127, 128, 129, 1000] };
        for &size in sizes {
            let mut ring = Ring::new(Window::Count(size));
            // The second time, on what the first has left behind.
            for _ in 0..2 {
                let mut history = Vec::new();
                for call in 0..3 * size as usize {
                    let class = all[call * call / 3 % 4];
                    ring.add(class, || unreachable!("a count window needs no time"));
                    history.push(class);
                    let mut expected = WindowCounts::default();
                    for class in history.iter().rev().take(size as usize) {
                        expected.add(*class);
                    }
                    assert_eq!(ring.counts(), expected, "window of {size}, call {call}");
                    assert_eq!(ring.sums(), expected.sums(), "window of {size}, call {call}");
                }
                ring.clear();
                assert_eq!(ring.counts(), WindowCounts::default());
            }
        }
    }

    #[test]
    fn a_time_window_is_the_current_partial_second_and_the_n_minus_1_before_it() {
        let mut ring = Ring::new(Window::Time { seconds: 2 });
        ring.add(Class::Failure, || at(10.9));
        assert_eq!(ring.counts_at(at(11.99)).calls(), 1);
        assert_eq!(ring.counts_at(at(12.0)).calls(), 0);
    }

    #[test]
    fn a_time_window_is_empty_after_a_gap_of_its_whole_length() {
        for gap in 1..12 {
            let mut ring = Ring::new(Window::Time { seconds: 4 });
            ring.add(Class::Failure, || at(1.0));
            ring.add(Class::Success, || at(3.0));
            ring.add(Class::Success, || at(3.0 + f64::from(gap)));
            let old = u64::from(gap < 4) + u64::from(gap < 2);
            assert_eq!(ring.counts().calls(), 1 + old, "gap {gap}");
        }
    }

    #[test]
    fn a_second_that_leaves_takes_its_calls_of_every_class_along() {
        let mut ring = Ring::new(Window::Time { seconds: 2 });
        let classes = [Class::Success, Class::Failure, Class::SlowSuccess, Class::SlowFailure];
        for (second, times) in [(0.0, 3), (1.0, 1)] {
            for class in classes {
                (0..times).for_each(|_| ring.add(class, || at(second)));
            }
        }
        let left = WindowCounts { success: 1, failure: 1, slow_success: 1, slow_failure: 1 };
        assert_eq!(ring.counts_at(at(2.0)), left);
    }

    #[test]
    fn a_cleared_time_window_forgets_even_the_current_second() {
        let mut ring = Ring::new(Window::Time { seconds: 3 });
        ring.add(Class::Failure, || at(5.0));
        ring.clear();
        ring.add(Class::Success, || at(5.5));
        assert_eq!(ring.counts(), WindowCounts { success: 1, ..WindowCounts::default() });
        ring.add(Class::SlowFailure, || at(6.5));
        // The second that leaves takes along what was added since, and nothing of before.
        assert_eq!(ring.counts_at(at(8.0)), WindowCounts { slow_failure: 1, ..WindowCounts::default() });
        assert_eq!(ring.counts_at(at(9.0)).calls(), 0);
    }

    #[test]
    fn a_second_leaves_only_once_though_its_bucket_is_not_used_again() {
        let mut ring = Ring::new(Window::Time { seconds: 2 });
        ring.add(Class::Failure, || at(0.0));
        ring.add(Class::Success, || at(1.0));
        ring.add(Class::Success, || at(3.0));
        assert_eq!(ring.counts_at(at(4.0)), WindowCounts { success: 1, ..WindowCounts::default() });
    }

    #[test]
    fn a_clear_disowns_the_seconds_that_have_not_left_yet() {
        let mut ring = Ring::new(Window::Time { seconds: 3 });
        ring.add(Class::Failure, || at(5.0));
        ring.clear();
        ring.add(Class::Success, || at(6.0));
        assert_eq!(ring.counts_at(at(8.0)), WindowCounts { success: 1, ..WindowCounts::default() });
    }

    #[test]
    fn time_that_seems_to_go_back_counts_as_the_newest_second() {
        let mut ring = Ring::new(Window::Time { seconds: 1 });
        ring.add(Class::Success, || at(5.0));
        ring.add(Class::Success, || at(4.0));
        assert_eq!(ring.counts().calls(), 2);
    }
}
