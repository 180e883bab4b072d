//! Puts load on a way: as much as its lanes can (closed loop), or at a fixed rate (open loop).
//!
//! At a fixed rate each call has an intended start, set by a clock that does not look at the answers. Its latency is
//! counted from there, however long it had to wait for a free lane: a server that stalls is charged for every call that
//! should have begun meanwhile (no coordinated omission).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::caller::Caller;
use crate::error::CallFailure;
use crate::summary::Latencies;

/// What each call does.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// A whole answer, by this tier.
    Ask(&'static str),
    /// A streamed answer, read to its end.
    Stream,
}

/// When calls start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// Each lane calls again as soon as it has its answer.
    Saturated,
    /// So many calls start each second.
    PerSecond(u32),
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) latencies: Latencies,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) chunks: u64,
    pub(crate) elapsed: Duration,
    pub(crate) first_failure: Option<CallFailure>,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.latencies.add(&other.latencies);
        self.answered += other.answered;
        self.failed += other.failed;
        self.chunks += other.chunks;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }

    fn note(&mut self, intended: Instant, result: Result<u64, CallFailure>) {
        match result {
            Ok(chunks) => {
                self.latencies.record(intended.elapsed());
                self.answered += 1;
                self.chunks += chunks;
            }
            Err(failure) => {
                self.failed += 1;
                self.first_failure.get_or_insert(failure);
            }
        }
    }

    /// Answers each second.
    pub(crate) fn per_second(&self) -> f64 {
        rate(self.answered, self.elapsed)
    }

    /// Chunks of streams each second.
    pub(crate) fn chunks_per_second(&self) -> f64 {
        rate(self.chunks, self.elapsed)
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of a run of seconds are far below 2^52")]
fn rate(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

/// Calls for so long, with one lane for each caller.
pub(crate) async fn drive(callers: Vec<Caller>, work: &Work, pace: Pace, duration: Duration) -> Outcome {
    let began = Instant::now();
    let mut lanes = JoinSet::new();
    match pace {
        Pace::Saturated => {
            for caller in callers {
                lanes.spawn(saturate(caller, work.clone(), began + duration));
            }
        }
        Pace::PerSecond(rate) => {
            let (sender, receiver) = unbounded_channel();
            let starts = Arc::new(Mutex::new(receiver));
            for caller in callers {
                lanes.spawn(follow(caller, work.clone(), Arc::clone(&starts)));
            }
            // A thread of its own, because tokio's timers are as coarse as a millisecond.
            let clock = std::thread::spawn(move || tick(&sender, Instant::now(), rate, duration));
            drop(clock);
        }
    }
    let mut outcome = Outcome::default();
    while let Some(lane) = lanes.join_next().await {
        match lane {
            Ok(lane) => outcome.add(lane),
            Err(_panicked) => outcome.failed += 1,
        }
    }
    outcome.elapsed = began.elapsed();
    outcome
}

async fn saturate(mut caller: Caller, work: Work, until: Instant) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let start = Instant::now();
        if start >= until {
            return outcome;
        }
        let result = one(&mut caller, &work).await;
        let failed = result.is_err();
        outcome.note(start, result);
        if failed {
            // What refuses at once must not be asked a million times.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn follow(mut caller: Caller, work: Work, starts: Arc<Mutex<UnboundedReceiver<Instant>>>) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let next = starts.lock().await.recv().await;
        let Some(intended) = next else { return outcome };
        let result = one(&mut caller, &work).await;
        outcome.note(intended, result);
    }
}

async fn one(caller: &mut Caller, work: &Work) -> Result<u64, CallFailure> {
    match work {
        Work::Ask(tier) => caller.ask(tier).await.map(|()| 0),
        Work::Stream => caller.stream().await,
    }
}

/// Sends the intended start of each call when it has come.
fn tick(starts: &UnboundedSender<Instant>, began: Instant, rate: u32, duration: Duration) {
    for due in schedule(rate, duration) {
        let intended = began + due;
        #[allow(clippy::disallowed_methods, reason = "this thread belongs to no runtime")]
        std::thread::sleep(intended.saturating_duration_since(Instant::now()));
        if starts.send(intended).is_err() {
            return;
        }
    }
}

/// When calls start, counted from the beginning: evenly, and without an error that adds up.
fn schedule(rate: u32, duration: Duration) -> impl Iterator<Item = Duration> {
    (0u32..)
        .map(move |number| Duration::from_secs(1) * number / rate.max(1))
        .take_while(move |due| *due < duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_even_and_exact() {
        let times: Vec<_> = schedule(3, Duration::from_secs(2)).collect();
        assert_eq!(times.len(), 6);
        assert_eq!(times[3], Duration::from_secs(1), "thirds do not add up to an error");
        assert_eq!(schedule(1000, Duration::from_secs(60)).count(), 60_000);
        assert_eq!(schedule(0, Duration::from_millis(500)).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_is_charged_from_its_intended_start() {
        let mut outcome = Outcome::default();
        let intended = Instant::now();
        tokio::time::advance(Duration::from_millis(40)).await;
        outcome.note(intended, Ok(2));
        outcome.note(intended, Err(CallFailure::Cut));
        assert_eq!((outcome.answered, outcome.failed, outcome.chunks), (1, 1, 2));
        assert!(outcome.latencies.quantile_us(0.5) >= 39_900.0);
    }

    #[test]
    fn rates_are_over_the_time_that_it_took() {
        let outcome =
            Outcome { answered: 100, chunks: 400, elapsed: Duration::from_secs(2), ..Outcome::default() };
        assert!((outcome.per_second() - 50.0).abs() < 1e-9);
        assert!((outcome.chunks_per_second() - 200.0).abs() < 1e-9);
        assert!(Outcome::default().per_second().abs() < 1e-9);
    }
}
