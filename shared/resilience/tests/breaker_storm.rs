//! The cancellation storm: in Rust a future can be dropped at any await. A hundred thousand calls under a breaker, dropped at
//! random ones in every state that calls lead to, must leave no permit out, and the breaker must still recover.
//!
//! The calls are tasks of a tokio runtime with a paused clock and one thread, so that a seed always gives the same storm.
//! `chain_cancellation.rs` does the same to whole walks of a fallback chain.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use resilience::{
    AfterHalfOpen, CircuitBreaker, CircuitBreakerConfig, OpenWait, SplitMix64, State, SystemClock,
};
use tokio::task::{AbortHandle, JoinSet};

const DROPS: u64 = 100_000;
const SEED: u64 = 0x5EED;
/// Calls under way at once.
const CROWD: usize = 8;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What the calls themselves know.
#[derive(Debug, Default)]
struct Seen {
    /// Calls that the breaker let begin.
    begun: u64,
    /// Calls that were dropped before they ended, by the state of the breaker at that moment.
    dropped: BTreeMap<State, u64>,
}

/// A call under way, which notices when it is dropped before its end.
struct UnderWay<'a> {
    storm: &'a Storm,
    ended: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.ended {
            *self.storm.seen.lock().dropped.entry(self.storm.breaker.state()).or_default() += 1;
        }
    }
}

struct Storm {
    breaker: CircuitBreaker,
    random: SplitMix64,
    seen: Mutex<Seen>,
}

impl Storm {
    fn new() -> Arc<Self> {
        let config = CircuitBreakerConfig::tier()
            .open_wait(OpenWait::fixed(ms(3)))
            .consecutive_failures(2)
            .half_open_calls(3)
            .half_open_max_wait(ms(50), AfterHalfOpen::Open)
            .build()
            .unwrap();
        let breaker = CircuitBreaker::new("storm", config, Arc::new(SystemClock::new()));
        Arc::new(Self { breaker, random: SplitMix64::seeded(SEED), seen: Mutex::default() })
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    /// A backend's work: some awaits, and mostly a failure.
    async fn work(&self) -> Result<(), ()> {
        self.seen.lock().begun += 1;
        let mut under_way = UnderWay { storm: self, ended: false };
        for _ in 0..self.below(5) {
            match self.below(3) {
                0 => tokio::task::yield_now().await,
                _ => tokio::time::sleep(ms(self.below(4))).await,
            }
        }
        under_way.ended = true;
        if self.below(4) == 0 { Ok(()) } else { Err(()) }
    }

    /// One call, which its task's abort, a timeout or nobody ends early.
    async fn call(self: Arc<Self>) {
        let call = self.breaker.call(self.work());
        if self.below(3) == 0 {
            drop(tokio::time::timeout(ms(self.below(6)), call).await);
        } else {
            drop(call.await);
        }
    }

    fn dropped(&self) -> u64 {
        self.seen.lock().dropped.values().sum()
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_calls_dropped_at_random_awaits_leave_no_permit_out_and_the_breaker_recovers() {
    let storm = Storm::new();
    let mut calls = JoinSet::new();
    let mut latest: VecDeque<AbortHandle> = VecDeque::new();
    while storm.dropped() < DROPS {
        latest.push_back(calls.spawn(Arc::clone(&storm).call()));
        match storm.below(8) {
            0 => tokio::time::sleep(ms(storm.below(3))).await,
            1..=3 => tokio::task::yield_now().await,
            _ => {}
        }
        while latest.len() > CROWD || (!latest.is_empty() && storm.below(2) == 0) {
            let which = usize::try_from(storm.below(latest.len() as u64)).unwrap();
            latest.swap_remove_back(which).unwrap().abort();
        }
        while calls.try_join_next().is_some() {}
    }
    calls.shutdown().await;

    let snapshot = storm.breaker.snapshot();
    let totals = snapshot.totals;
    let settled = totals.success + totals.failure + totals.ignored + totals.cancelled + totals.late;
    let Seen { begun, dropped } = std::mem::take(&mut *storm.seen.lock());
    assert_eq!(begun - settled, 0, "permits out; seed {SEED:#x}");
    let used = if snapshot.state == State::HalfOpen { snapshot.window.calls() } else { 0 };
    assert_eq!(u64::from(snapshot.half_open_permits), used, "no probe is out; seed {SEED:#x}");
    for state in [State::Closed, State::Open, State::HalfOpen] {
        assert!(dropped[&state] > 1000, "the storm goes through every state: {dropped:?}");
    }

    for _ in 0..10 {
        tokio::time::sleep(ms(60)).await;
        while storm.breaker.state() != State::Closed
            && storm.breaker.call(async { Ok::<_, ()>(()) }).await.is_ok()
        {}
    }
    assert_eq!(
        storm.breaker.state(),
        State::Closed,
        "a healthy backend leads back to closed; seed {SEED:#x}"
    );
}
