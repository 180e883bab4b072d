//! How many calls were rejected, counted so that no core waits for another.
//!
//! Where a backend is gone, rejecting is all that its breaker does, on all cores at once. One counter would be the place where
//! they wait for each other, so there are several, each on a cache line of its own, and a thread keeps to one of them. Their
//! sum leaves nothing out.
//!
//! Many rejections are one story, told in few events: one for each whose number in its generation is a power of two. Nobody
//! knows that number without adding up. A thread does so when its own counter has come to a number of at most three
//! significant bits: to 1, 2, … 8, 10, 12, 14, 16, 20 and so on. A thread that is alone meets every power of two by that.
//! Among many, no counter has grown by more than a quarter since it was last looked at, and so neither has their sum: a power
//! of two is told before there are a quarter more rejections, or when its generation ends.
//!
//! Looks take the breaker's lock. That is why none is told twice, and why relaxed counters will do: the later of two looks
//! sees all that the earlier one's thread had counted before it.

use std::time::SystemTime;

use super::events::EventKind;
use super::state::State;
use super::sync::{AtomicU64, Ordering, thread_number};
use super::word::Word;
use super::{CircuitBreaker, Guarded, Inner, OwnLines};

/// Two are enough to disagree, and loom walks through every order of looking at them.
const COUNTERS: usize = if cfg!(loom) { 2 } else { 8 };

/// The rejections of this generation.
pub(super) struct Rejections {
    counters: [OwnLines<AtomicU64>; COUNTERS],
}

impl Rejections {
    pub(super) fn new() -> Self {
        Self { counters: std::array::from_fn(|_| OwnLines(AtomicU64::new(0))) }
    }

    /// Counts one. Says whether to look at the sum.
    #[inline]
    fn count(&self) -> bool {
        is_due(self.counter_of(thread_number()).fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn counter_of(&self, thread: usize) -> &AtomicU64 {
        &self.counters[thread % COUNTERS].0
    }

    fn sum(&self) -> u64 {
        self.counters.iter().map(|counter| counter.0.load(Ordering::Relaxed)).sum()
    }

    /// The sum, which then begins anew. Each rejection is in exactly one of these sums.
    fn take(&self) -> u64 {
        self.counters.iter().map(|counter| counter.0.swap(0, Ordering::Relaxed)).sum()
    }
}

fn is_due(count: u64) -> bool {
    count.checked_shr(count.trailing_zeros()).is_some_and(|significant| significant <= 0b111)
}

/// What the lock guards of them.
pub(super) struct Tally {
    /// In the generations before this one.
    before: u64,
    /// The power of two that is told next.
    next: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self { before: 0, next: 1 }
    }

    /// All rejections since the breaker was made.
    pub(super) fn total(&self, rejections: &Rejections) -> u64 {
        self.before + rejections.sum()
    }

    /// The next power of two to be told of that `sum` has reached.
    fn reached(&mut self, sum: u64) -> Option<u64> {
        let reached = self.next;
        (reached <= sum).then(|| {
            self.next = reached.saturating_mul(2);
            reached
        })
    }
}

impl CircuitBreaker {
    /// Counts a rejection in `state`.
    pub(super) fn count_rejection(&self, state: State) {
        if self.inner.rejections.count() {
            self.look_at_rejections(state);
        }
    }

    #[cold]
    fn look_at_rejections(&self, state: State) {
        let inner = &*self.inner;
        let mut guarded = inner.guarded.0.lock();
        // One that a new state has overtaken is counted with what the new one rejects, and is not what to speak of.
        if inner.word_inside().state() == state {
            inner.tell_rejections(&mut guarded, inner.rejections.sum(), inner.clock.wall());
            drop(guarded);
            inner.wake();
        }
    }
}

impl Inner {
    /// Ends a generation, before its word is replaced.
    pub(super) fn end_rejections(&self, guarded: &mut Guarded, at: SystemTime) {
        let sum = self.rejections.take();
        guarded.tally.before += sum;
        // A state that admits everything has overtaken what is counted in it, unless it is one whose ramp is over.
        if !self.word_inside().admits_at_once() || guarded.tally.next > 1 {
            self.tell_rejections(guarded, sum, at);
            guarded.tally.next = 1;
        }
    }

    fn tell_rejections(&self, guarded: &mut Guarded, sum: u64, at: SystemTime) {
        let word = self.word_inside();
        while let Some(count) = guarded.tally.reached(sum) {
            let kind = EventKind::CallRejected { state: word.state(), count };
            self.push(guarded, at, Some(word.generation()), kind);
        }
    }

    /// The word as the lock's holder sees it.
    fn word_inside(&self) -> Word {
        Word::from_bits(self.word.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::{CircuitBreakerConfig, ManualClock, OpenWait};

    fn breaker() -> CircuitBreaker {
        CircuitBreaker::new("b", CircuitBreakerConfig::tier().build().unwrap(), Arc::new(ManualClock::new()))
    }

    /// Has threads reject so often, without a look.
    fn unseen(breaker: &CircuitBreaker, counts: &[u64]) {
        for (counter, count) in breaker.inner.rejections.counters.iter().zip(counts) {
            counter.0.fetch_add(*count, Ordering::Relaxed);
        }
    }

    /// The rejections that were told, each with its generation and state.
    fn told(breaker: &CircuitBreaker) -> Vec<(u64, State, u64)> {
        let told = breaker.history().into_iter().filter_map(|event| match event.kind {
            EventKind::CallRejected { state, count } => Some((event.generation, state, count)),
            EventKind::StateChanged { .. }
            | EventKind::Reset { .. }
            | EventKind::WaitEnded { .. }
            | EventKind::ConfigChanged { .. } => None,
        });
        told.collect()
    }

    #[test]
    fn a_counter_is_due_at_each_power_of_two_and_at_quarters_between_them() {
        let due: Vec<u64> = (0..=80).filter(|count| is_due(*count)).collect();
        let expected = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80];
        assert_eq!(due, expected);
        assert!((0..64).all(|power| is_due(1 << power)));
        assert!(!is_due(u64::MAX));
    }

    #[test]
    fn as_many_threads_as_there_are_counters_never_meet() {
        let rejections = Rejections::new();
        for first in 0..3 * COUNTERS {
            for other in first + 1..first + COUNTERS {
                assert!(!std::ptr::eq(rejections.counter_of(first), rejections.counter_of(other)));
            }
            assert!(std::ptr::eq(rejections.counter_of(first), rejections.counter_of(first + COUNTERS)));
        }
    }

    #[test]
    fn all_threads_rejections_add_up_in_every_generation() {
        let breaker = breaker();
        breaker.force_open("test", "");
        let reject = || assert!(breaker.acquire().is_err());
        for total in [27, 54] {
            std::thread::scope(|scope| {
                for _ in 0..9 {
                    scope.spawn(|| (0..3).for_each(|_| reject()));
                }
            });
            assert_eq!((breaker.inner.rejections.sum(), breaker.snapshot().totals.rejected), (27, total));
            breaker.open("test", "");
        }
    }

    #[test]
    fn a_look_tells_each_power_of_two_that_the_sum_has_reached_once() {
        let breaker = breaker();
        breaker.open("test", "");
        let looks =
            [(0, [].as_slice()), (1, &[1]), (8, &[2, 4, 8]), (6, &[]), (1, &[16]), (15, &[]), (1, &[32])];
        for (more, expected) in looks {
            let before = told(&breaker).len();
            unseen(&breaker, &[more / 2, more - more / 2]);
            breaker.look_at_rejections(State::Open);
            let counts: Vec<u64> = told(&breaker)[before..].iter().map(|(_, _, count)| *count).collect();
            assert_eq!(counts, expected);
        }
    }

    #[test]
    fn what_nobody_has_looked_at_is_told_when_the_generation_ends() {
        let breaker = breaker();
        breaker.open("test", "");
        assert!(breaker.acquire().is_err());
        unseen(&breaker, &[1, 2, 1]);
        breaker.force_open("test", "");
        let mut expected = vec![(1, State::Open, 1), (1, State::Open, 2), (1, State::Open, 4)];
        assert_eq!(told(&breaker), expected);
        unseen(&breaker, &[0, 1]);
        breaker.reset("test", "");
        expected.push((2, State::ForcedOpen, 1));
        assert_eq!((told(&breaker), breaker.snapshot().totals.rejected), (expected, 6));
    }

    #[test]
    fn what_a_ramp_rejected_is_told_though_the_ramp_ends_before_the_generation() {
        let clock = ManualClock::new();
        let (wait, step) = (Duration::from_secs(1), Duration::from_secs(10));
        let config = CircuitBreakerConfig::tier().open_wait(OpenWait::fixed(wait)).half_open_ramp(&[1], step);
        let breaker = CircuitBreaker::new("b", config.build().unwrap(), Arc::new(clock.clone()));
        breaker.open("test", "");
        clock.advance(wait);
        breaker.acquire().unwrap().success();
        breaker.acquire().unwrap().success();
        assert!(breaker.acquire().is_err());
        unseen(&breaker, &[0, 1]);
        clock.advance(step);
        breaker.acquire().unwrap().success();
        breaker.open("test", "");
        assert_eq!(told(&breaker), [(3, State::Closed, 1), (3, State::Closed, 2)]);
    }

    #[test]
    fn a_rejection_that_a_new_state_has_overtaken_is_counted_and_not_told() {
        let breaker = breaker();
        breaker.count_rejection(State::Open);
        breaker.reset("test", "");
        assert_eq!((told(&breaker), breaker.snapshot().totals.rejected), (vec![], 1));
    }
}
