//! What breaker and chain cost by themselves: a walk to a backend that answers at once, in this process.

use std::future::{Ready, ready};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use resilience::{
    Backend, CallError, CircuitBreaker, CircuitBreakerConfig, Deadline, FallbackChain, SystemClock, Tier,
    Verdict, Walk,
};
use tokio::time::Instant;

use crate::report::ChainRow;
use crate::summary::Latencies;

/// Walks between two looks at the clock that ends the measurement.
const BATCH: u32 = 256;
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Prompt {
    name: &'static str,
    breaker: Option<CircuitBreaker>,
}

impl Backend for Prompt {
    fn name(&self) -> &str {
        self.name
    }

    fn breaker(&self) -> Option<&CircuitBreaker> {
        self.breaker.as_ref()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

impl CallError for Never {
    fn verdict(&self) -> Verdict {
        Verdict::FAILURE
    }
}

/// Measures each case for so long.
pub(crate) async fn measure(each: Duration) -> Vec<ChainRow> {
    let chain = chain();
    let alone = prompt("alone");
    let ask = |backend: Arc<Prompt>, _deadline| answer(&backend);
    let called = sample(each, async || {
        drop(black_box(ask(Arc::clone(&alone), Deadline::after(PATIENCE)).await));
    })
    .await;
    let first = sample(each, async || {
        drop(black_box(chain.run(walk(), ask).await));
    })
    .await;
    // As with a backend whose breaker is open, but without the end of its wait in the middle.
    let later = sample(each, async || {
        drop(black_box(chain.run(later_walk(), ask).await));
    })
    .await;
    let row = |case: &'static str, latencies: &Latencies| ChainRow {
        case,
        calls: latencies.count(),
        p50_us: latencies.quantile_us(0.5),
        p99_us: latencies.quantile_us(0.99),
        p999_us: latencies.quantile_us(0.999),
    };
    vec![
        row("the backend alone", &called),
        row("the first of four tiers answers", &first),
        row("the first is passed over, the second answers", &later),
    ]
}

fn chain() -> FallbackChain<Prompt> {
    let tier = |name| {
        let mut tier = Tier::new(name, vec![prompt(name)]);
        tier.timeout = Some(PATIENCE);
        tier.reserve = Duration::from_millis(100);
        Arc::new(tier)
    };
    FallbackChain::new(["first", "second", "third", "last"].map(tier).to_vec())
}

fn prompt(name: &'static str) -> Arc<Prompt> {
    let config = CircuitBreakerConfig::tier().build().ok();
    let breaker = config.map(|config| CircuitBreaker::new(name, config, Arc::new(SystemClock::new())));
    Arc::new(Prompt { name, breaker })
}

fn walk() -> Walk<'static, Prompt> {
    Walk::new(Deadline::after(PATIENCE))
}

fn later_walk() -> Walk<'static, Prompt> {
    let mut walk = walk();
    walk.exclude = &pass_over_first;
    walk
}

fn pass_over_first(tier: &Tier<Prompt>) -> Option<&'static str> {
    (&*tier.name == "first").then_some("passed over")
}

fn answer(backend: &Prompt) -> Ready<Result<&'static str, Never>> {
    ready(Ok(backend.name))
}

async fn sample(each: Duration, call: impl AsyncFn()) -> Latencies {
    let mut latencies = Latencies::default();
    for _ in 0..BATCH {
        call().await;
    }
    let until = Instant::now() + each;
    while Instant::now() < until {
        for _ in 0..BATCH {
            let began = Instant::now();
            call().await;
            latencies.record(began.elapsed());
        }
        tokio::task::yield_now().await;
    }
    latencies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_tier_that_is_meant_answers() {
        let chain = chain();
        let ask = |backend: Arc<Prompt>, _deadline| answer(&backend);
        let first = chain.run(walk(), ask).await.unwrap();
        assert_eq!(first.answer, "first");
        let later = chain.run(later_walk(), ask).await.unwrap();
        assert_eq!((later.answer, later.attempts.len()), ("second", 2));
        assert!(chain.tiers().iter().all(|tier| tier.breakers().len() == 1));
    }
}
