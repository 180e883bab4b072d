//! In Rust a future can be dropped at any await. A hundred thousand walks, dropped at random ones, must leave nothing
//! behind: no permit, no slot, no place in line; and what was counted must add up. The walks retry, wait for backends that rest, and
//! hedge, so that up to two calls of one walk are dropped together.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use resilience::{
    Backend, Backoff, Bulkhead, BulkheadConfig, CallError, CallGuard, ChainError, CircuitBreaker,
    CircuitBreakerConfig, Deadline, FallbackChain, Hedge, Rest, Retry, RetryBudget, RetryBudgetConfig,
    RetryPolicy, Served, Silence, SplitMix64, State, SystemClock, Tier, Verdict, Walk,
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A backend whose every call takes a random way, with a random number of awaits.
#[derive(Debug)]
struct Moody {
    name: String,
    breaker: CircuitBreaker,
    random: Arc<SplitMix64>,
    calls: AtomicU64,
    rest: Rest,
    silence: Silence,
}

impl Backend for Moody {
    fn name(&self) -> &str {
        &self.name
    }

    fn breaker(&self) -> Option<&CircuitBreaker> {
        Some(&self.breaker)
    }

    fn rest(&self) -> Option<&Rest> {
        Some(&self.rest)
    }

    fn silence(&self) -> Option<&Silence> {
        Some(&self.silence)
    }
}

#[derive(Debug)]
struct Mood(Verdict);

impl fmt::Display for Mood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.outcome.as_str())
    }
}

impl CallError for Mood {
    fn verdict(&self) -> Verdict {
        self.0
    }
}

async fn call(backend: Arc<Moody>, _deadline: Deadline) -> Result<(), Mood> {
    backend.calls.fetch_add(1, Ordering::Relaxed);
    let random = &backend.random;
    for _ in 0..random.next_u64() % 4 {
        if random.next_u64().is_multiple_of(2) {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(ms(random.next_u64() % 20)).await;
        }
    }
    match random.next_u64() % 8 {
        0..=2 => Ok(()),
        3 => Err(Mood(Verdict::TRANSIENT)),
        4 => Err(Mood(Verdict::FAILURE.retried(Retry::AtOnce))),
        5 => Err(Mood(Verdict::FAILURE)),
        6 => Err(Mood(Verdict::overloaded(Some(ms(5))).retryable())),
        _ => std::future::pending().await,
    }
}

struct Suite {
    chain: Arc<FallbackChain<Moody>>,
    bulkheads: Vec<Bulkhead>,
    random: Arc<SplitMix64>,
}

fn suite(seed: u64) -> Suite {
    let random = Arc::new(SplitMix64::seeded(seed));
    let clock = Arc::new(SystemClock::new());
    let breaker =
        CircuitBreakerConfig::consecutive_failures(3, ms(60)).unwrap().with_half_open_calls(2).unwrap();
    let backend = |name: String| {
        let breaker = CircuitBreaker::new(&name, breaker.clone(), clock.clone());
        Arc::new(Moody {
            name,
            breaker,
            random: Arc::clone(&random),
            calls: AtomicU64::new(0),
            rest: Rest::new(),
            silence: Silence::new(),
        })
    };
    let bulkheads: Vec<_> = (2..=3)
        .map(|slots| Bulkhead::new(BulkheadConfig::new(slots).unwrap().with_queue(2, ms(30)).unwrap()))
        .collect();
    let tiers = bulkheads.iter().enumerate().map(|(index, bulkhead)| {
        let backends = (0..2).map(|number| backend(format!("{index}.{number}"))).collect();
        let mut tier = Tier::new(&format!("tier {index}"), backends);
        tier.timeout = Some(ms(40));
        tier.first_item_timeout = Some(ms(30));
        tier.minimum = ms(2);
        tier.reserve = ms(10);
        tier.bulkhead = Some(bulkhead.clone());
        tier.hedge = Some(Hedge::after(ms(3)).unwrap());
        tier.takes_hedges = true;
        tier.retry = RetryPolicy::new(3, Backoff::exponential(ms(2), ms(10)).unwrap()).unwrap();
        Arc::new(tier)
    });
    let chain = FallbackChain::new(tiers.collect())
        .with_randomness(Arc::clone(&random) as Arc<_>)
        .with_retry_budget(RetryBudget::new(
            RetryBudgetConfig::new(0.2, 2, Duration::from_secs(1)).unwrap(),
            Arc::new(SystemClock::new()),
        ));
    Suite { chain: Arc::new(chain), bulkheads, random }
}

type Answer = Result<Served<()>, ChainError<Mood>>;
type Walking = Pin<Box<dyn Future<Output = Answer>>>;

fn poll(walking: &mut Walking) -> Poll<Answer> {
    walking.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

impl Suite {
    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.random.next_u64() % 1_000_000).unwrap() % bound
    }

    fn start(&self) -> Walking {
        let chain = Arc::clone(&self.chain);
        let streaming = self.below(2) == 0;
        let deadline = Deadline::after(ms(self.random.next_u64() % 150));
        Box::pin(async move {
            let mut walk = Walk::new(deadline);
            walk.streaming = streaming;
            if streaming { chain.open(walk, call).await } else { chain.run(walk, call).await }
        })
    }

    fn end(&self, guard: CallGuard) {
        match self.below(5) {
            0 => guard.success(),
            1 => guard.failure(),
            2 => guard.ignored(),
            _ => drop(guard),
        }
    }

    /// Walks begin, go on, and are dropped at random; streams that began are held, and end at random.
    async fn storm(&self, walks: u64) -> u64 {
        let (mut under_way, mut held): (Vec<Walking>, Vec<CallGuard>) = (Vec::new(), Vec::new());
        let (mut started, mut dropped) = (0, 0);
        while started < walks {
            match self.below(16) {
                0..=3 if under_way.len() < 12 => {
                    // A future that was never polled is no walk yet.
                    let mut walking = self.start();
                    match poll(&mut walking) {
                        Poll::Ready(answer) => held.extend(answer.ok().and_then(|served| served.guard)),
                        Poll::Pending => under_way.push(walking),
                    }
                    started += 1;
                }
                4..=11 if !under_way.is_empty() => {
                    let which = self.below(under_way.len());
                    if let Poll::Ready(answer) = poll(&mut under_way[which]) {
                        drop(under_way.swap_remove(which));
                        held.extend(answer.ok().and_then(|served| served.guard));
                    }
                }
                12 if !under_way.is_empty() => {
                    drop(under_way.swap_remove(self.below(under_way.len())));
                    dropped += 1;
                }
                13 if !held.is_empty() => self.end(held.swap_remove(self.below(held.len()))),
                _ => tokio::time::advance(ms(self.random.next_u64() % 8)).await,
            }
            for bulkhead in &self.bulkheads {
                let (counts, config) = (bulkhead.snapshot(), bulkhead.config());
                assert!(
                    counts.in_flight <= config.max_concurrent() && counts.waiting <= config.max_waiting()
                );
            }
        }
        dropped + u64::try_from(under_way.len()).unwrap()
    }
}

/// Says how many walks were dropped.
fn play(seed: u64, walks: u64) -> u64 {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let suite = suite(seed);
        let dropped = suite.storm(walks).await;

        let stats = suite.chain.stats();
        let served: u64 = stats.tiers.iter().map(|tier| tier.served).sum();
        assert_eq!((stats.requests, stats.cancelled), (walks, dropped), "seed {seed}");
        assert_eq!(served + stats.unanswered + stats.cancelled, walks, "seed {seed}");
        for bulkhead in &suite.bulkheads {
            let counts = bulkhead.snapshot();
            assert_eq!((counts.in_flight, counts.waiting), (0, 0), "seed {seed}: a slot or a place leaked");
        }
        for backend in suite.chain.tiers().iter().flat_map(|tier| tier.pool.members().to_vec()) {
            let breaker = &backend.breaker;
            let totals = breaker.snapshot().totals;
            let settled = totals.success + totals.failure + totals.ignored + totals.cancelled + totals.late;
            assert!(settled >= backend.calls.load(Ordering::Relaxed), "seed {seed}: a permit is out");
            // Two probes close it; a half-open that has lasted too long costs one more wait.
            for _ in 0..6 {
                match breaker.acquire() {
                    Ok(permit) => permit.success(),
                    Err(_) => tokio::time::advance(ms(100)).await,
                }
            }
            assert_eq!(breaker.state(), State::Closed, "seed {seed}: a healthy backend leads back to closed");
        }
        // The storm was one: it went everywhere.
        let sum = |of: fn(&resilience::TierStats) -> u64| stats.tiers.iter().map(of).sum::<u64>();
        assert!(served > 0 && stats.unanswered > 0 && dropped > 0);
        assert!(sum(|tier| tier.retries) > 0 && sum(|tier| tier.skipped_by.bulkhead) > 0);
        assert!(sum(|tier| tier.skipped_by.breaker) > 0 && sum(|tier| tier.skipped_by.resting) > 0);
        assert!(sum(|tier| tier.hedges) > 0 && sum(|tier| tier.retries_refused) > 0);
        dropped
    })
}

#[test]
fn a_hundred_thousand_walks_dropped_at_random_awaits_leave_nothing_behind() {
    let (mut dropped, mut seed) = (0, 0);
    while dropped < 100_000 {
        dropped += play(seed, 4000);
        seed += 1;
    }
}
