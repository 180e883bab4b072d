//! A backend that is waited for in vain, by those who cannot wait long enough to tell.
//!
//! A timeout that a healthy backend could not have kept says nothing about it, and a client that goes away or is answered by a
//! hedge says as little. But where all of them do so, a backend that hangs would never be found out, and each would lose on it
//! all the time that it has, or a hedge. So what each of them waited is added up until the backend answers anybody. Once that comes to the time that a
//! call may take, nobody has had an answer for as long as a patient client would have waited, and that is a failure like
//! that client's.
//!
//! Waits at the same time count once: a hundred clients that leave after a second have seen the backend silent for a second,
//! not for a hundred.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// For how long a backend has been waited for without an answer to anybody. Clones share one count.
///
/// Follows tokio's clock.
#[derive(Debug, Clone, Default)]
pub struct Silence {
    counted: Arc<Mutex<Counted>>,
}

#[derive(Debug, Default)]
struct Counted {
    total: Duration,
    /// What lies before this is counted, or was answered.
    until: Option<Instant>,
}

impl Silence {
    /// Of a backend that nobody has waited for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Somebody had an answer.
    fn end(&self, at: Instant) {
        let mut counted = self.counted.lock();
        counted.total = Duration::ZERO;
        counted.until = counted.until.max(Some(at));
    }

    /// Somebody waited for nothing. Says whether it has been silent for `limit` by that; then the count begins anew.
    fn add(&self, since: Instant, until: Instant, limit: Duration) -> bool {
        let mut counted = self.counted.lock();
        let since = counted.until.map_or(since, |counted| counted.max(since));
        counted.total = counted.total.saturating_add(until.saturating_duration_since(since));
        counted.until = counted.until.max(Some(until));
        let is_over = counted.total >= limit;
        if is_over {
            counted.total = Duration::ZERO;
        }
        is_over
    }
}

/// A wait for a backend, from the beginning of a call.
#[derive(Debug)]
pub(super) struct Wait {
    silence: Silence,
    since: Instant,
    limit: Duration,
}

impl Wait {
    /// One for a call that may take `limit`.
    pub(super) fn begin(silence: Silence, limit: Duration) -> Self {
        Self { silence, since: Instant::now(), limit }
    }

    /// The backend has answered.
    pub(super) fn answered(self) {
        self.silence.end(Instant::now());
    }

    /// It has not, and is not waited for any longer. Says whether that is a failure by now.
    pub(super) fn given_up(self) -> bool {
        self.silence.add(self.since, Instant::now(), self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Waits of 400 ms at a backend that may take 1 s: whether each of them makes a failure.
    async fn waits(silence: &Silence, times: usize) -> Vec<bool> {
        let mut failures = Vec::new();
        for _ in 0..times {
            let wait = Wait::begin(silence.clone(), ms(1000));
            tokio::time::advance(ms(400)).await;
            failures.push(wait.given_up());
            // Nobody waits now, and that is nobody's fault.
            tokio::time::advance(ms(60_000)).await;
        }
        failures
    }

    #[tokio::test(start_paused = true)]
    async fn waits_one_after_the_other_add_up_to_a_failure_and_again() {
        let expected = [false, false, true, false, false, true];
        assert_eq!(waits(&Silence::new(), 6).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_anybody_ends_the_silence() {
        let silence = Silence::new();
        waits(&silence, 2).await;
        let (long, other) = (Wait::begin(silence.clone(), ms(1000)), Wait::begin(silence.clone(), ms(1000)));
        tokio::time::advance(ms(700)).await;
        other.answered();
        tokio::time::advance(ms(900)).await;
        assert!(!long.given_up(), "of its wait only what came after the answer counts");
        assert_eq!(waits(&silence, 1).await, [true]);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_at_the_same_time_count_once() {
        let silence = Silence::new();
        let crowd: Vec<_> = (0..100).map(|_| Wait::begin(silence.clone(), ms(1000))).collect();
        tokio::time::advance(ms(600)).await;
        let late = Wait::begin(silence.clone(), ms(1000));
        assert!(crowd.into_iter().all(|wait| !wait.given_up()));
        tokio::time::advance(ms(400)).await;
        assert!(late.given_up(), "600 ms and 400 ms");
    }
}
