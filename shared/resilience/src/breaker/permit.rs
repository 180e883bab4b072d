//! The right to make one call, and the duty to say how it ended.

use std::borrow::Borrow;
use std::fmt;
use std::time::Duration;

use super::CircuitBreaker;
use super::rules::Settlement;
use super::state::{Outcome, State};
use super::word::Word;

/// How a call ended, and what else its caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a report says nothing until it is recorded"]
pub struct CallReport {
    outcome: Outcome,
    took: Option<Duration>,
    cold_start: Duration,
    retry_after: Option<Duration>,
}

impl CallReport {
    /// Just the outcome.
    pub fn new(outcome: Outcome) -> Self {
        Self { outcome, took: None, cold_start: Duration::ZERO, retry_after: None }
    }

    /// The caller measured how long the call took; the breaker's own clock is not asked.
    pub fn took(mut self, took: Duration) -> Self {
        self.took = Some(took);
        self
    }

    /// So much of that time, whoever measured it, the backend took to start, such as to load its model. That is no slowness: it is
    /// taken off.
    pub fn cold_start(mut self, took: Duration) -> Self {
        self.cold_start = took;
        self
    }

    /// The backend asks to be left alone for so long. Where the breaker opens from the state that heard it, its wait is at least
    /// what is left of that, up to the cap of the open wait. Only failures carry it.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl From<Outcome> for CallReport {
    fn from(outcome: Outcome) -> Self {
        Self::new(outcome)
    }
}

/// An admitted call. Settles exactly once.
///
/// Dropped without an outcome it is cancelled, unless [`OnDrop`](crate::OnDrop) says otherwise: nothing is recorded, and a
/// probe's slot is given back. In Rust a future can be dropped at any await, so this is how an abandoned call ends. Dropped
/// by a panic, it is a failure.
///
/// A permit for a stream is held to the stream's end: see [`Permit::first_chunk`].
///
/// `B` is how it holds its breaker: by itself (a clone), or by reference as a [`BorrowedPermit`].
#[must_use = "a permit that is dropped at once cancels the call"]
pub struct Permit<B: Borrow<CircuitBreaker> = CircuitBreaker> {
    breaker: B,
    /// The breaker's word at admission: generation, state, and what the permit has to measure.
    word: Word,
    started: Option<Duration>,
    /// Whether it is for a stream that has begun, and the time that took where it was measured.
    has_begun: bool,
    first_chunk: Option<Duration>,
    settled: bool,
}

/// A permit that borrows its breaker, and so costs no reference count.
pub type BorrowedPermit<'a> = Permit<&'a CircuitBreaker>;

impl<B: Borrow<CircuitBreaker>> Permit<B> {
    #[inline]
    pub(super) fn new(breaker: B, word: Word, started: Option<Duration>) -> Self {
        Self { breaker, word, started, has_begun: false, first_chunk: None, settled: false }
    }

    /// The breaker that admitted the call.
    pub fn breaker(&self) -> &CircuitBreaker {
        self.breaker.borrow()
    }

    /// The state in which the call was admitted.
    pub fn state(&self) -> State {
        self.word.state()
    }

    /// The generation in which the call was admitted.
    pub fn generation(&self) -> u64 {
        self.word.generation()
    }

    /// The first chunk of a stream has arrived.
    ///
    /// From here on slowness is decided: by the time up to now, because a long answer is not a slow backend. And a drop
    /// is a success: the client went away from a backend that did its work. A second call changes nothing.
    ///
    /// A probe holds half-open to the end of its stream all the same. Where that may come later than the configuration's
    /// [`half_open_max_wait`](crate::CircuitBreakerConfigBuilder::half_open_max_wait), which is the open wait unless it is set,
    /// call [`pass_probe`](Self::pass_probe) instead: else the breaker opens again before the stream has ended, its success is
    /// late, and a backend that is well stays out for as long as its answers are long.
    pub fn first_chunk(&mut self) {
        if !self.has_begun {
            self.has_begun = true;
            self.first_chunk =
                self.started.map(|started| self.breaker.borrow().now().saturating_sub(started));
        }
    }

    /// The first chunk of a stream has arrived, and if the call is a probe, that is enough for it to pass.
    ///
    /// Its slot no longer keeps others out: it counts as one of the probes that succeeded, and may close the breaker. But only
    /// for the time being. If the stream then fails before any call has ended well in the closed state that followed, its
    /// success becomes a failure, and where the probes would not have passed with that, the breaker opens again as if it had
    /// never closed. Whatever its end is, it counts in that closed state like any other call's.
    ///
    /// For a permit that is no probe this is [`first_chunk`](Self::first_chunk). A second call changes nothing.
    pub fn pass_probe(&mut self) {
        self.first_chunk();
        let is_probe = self.word.state() == State::HalfOpen && !self.word.has_passed();
        if is_probe && self.breaker.borrow().pass(self.word, self.first_chunk) {
            self.word = self.word.passed();
        }
    }

    /// The same, but a probe whose first chunk was slow does not pass: only its end says whether the time was that of a cold start
    /// ([`CallReport::cold_start`]).
    pub fn pass_quick_probe(&mut self) {
        self.first_chunk();
        if !self.breaker.borrow().config().is_slow(self.first_chunk) {
            self.pass_probe();
        }
    }

    /// The call succeeded. For a stream: its terminal chunk arrived.
    #[inline]
    pub fn success(self) {
        self.record(Outcome::Success);
    }

    /// The call failed. For a stream: an error or a timeout came before its terminal chunk.
    #[inline]
    pub fn failure(self) {
        self.record(Outcome::Failure);
    }

    /// The call's end says nothing about the backend.
    #[inline]
    pub fn ignored(self) {
        self.record(Outcome::Ignored);
    }

    /// Records an outcome, or a whole [`CallReport`].
    ///
    /// The call's duration is the report's, else the time to the first chunk, else what the breaker's clock says; and the
    /// clock is asked only where slow calls or a time window need it.
    #[inline]
    pub fn record(mut self, report: impl Into<CallReport>) {
        let CallReport { outcome, took, cold_start, retry_after } = report.into();
        self.settled = true;
        self.settle(took, |took| Settlement::Outcome {
            outcome,
            took: took.map(|took| took.saturating_sub(cold_start)),
            retry_after,
        });
    }

    #[inline]
    fn settle(&self, took: Option<Duration>, settlement: impl FnOnce(Option<Duration>) -> Settlement) {
        let breaker = self.breaker.borrow();
        let known = took.or(self.first_chunk);
        if !self.word.needs_time() {
            // Asked at once, so that nothing of the time is left in the way of a call that needs none.
            return breaker.settle(self.word, None, settlement(known));
        }
        let now = (known.is_none() || self.word.is_timed()).then(|| breaker.now());
        let measured = || Some(now?.saturating_sub(self.started?));
        breaker.settle(self.word, now, settlement(known.or_else(measured)));
    }
}

impl<B: Borrow<CircuitBreaker>> Drop for Permit<B> {
    #[inline]
    fn drop(&mut self) {
        if !self.settled {
            self.abandon();
        }
    }
}

impl<B: Borrow<CircuitBreaker>> Permit<B> {
    /// Out of line, so that the drop of a settled permit leaves no trace in its caller's code.
    #[cold]
    fn abandon(&self) {
        let outcome = |outcome| move |took| Settlement::Outcome { outcome, took, retry_after: None };
        if std::thread::panicking() {
            self.settle(None, outcome(Outcome::Failure));
        } else if self.has_begun {
            self.settle(None, outcome(Outcome::Success));
        } else {
            self.settle(None, |held| Settlement::Dropped { held });
        }
    }
}

impl<B: Borrow<CircuitBreaker>> fmt::Debug for Permit<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("breaker", &self.breaker.borrow().name())
            .field("state", &self.state())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}
