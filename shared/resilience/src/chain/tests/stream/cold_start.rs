use super::super::*;
use crate::{AdaptiveConfig, Bulkhead, BulkheadConfig, SystemClock};

/// A backend that takes a second and a half to its first item, and says at its end how much of that it was loading.
#[derive(Debug)]
struct Loading {
    breaker: CircuitBreaker,
    tells: bool,
}

impl Backend for Loading {
    fn name(&self) -> &'static str {
        "loading"
    }

    fn breaker(&self) -> Option<&CircuitBreaker> {
        Some(&self.breaker)
    }

    fn tells_cold_starts(&self) -> bool {
        self.tells
    }
}

struct Fixture {
    chain: FallbackChain<Loading>,
    breaker: CircuitBreaker,
}

/// Its breaker calls more than a second slow.
fn loading(tells: bool) -> Fixture {
    let config = CircuitBreakerConfig::builder()
        .without_failure_rate()
        .slow_call(ms(1000))
        .slow_call_rate_percent(80.0)
        .minimum_calls(3)
        .open_wait(OpenWait::fixed(ms(30_000)))
        .half_open_calls(1)
        .build()
        .unwrap();
    let breaker = CircuitBreaker::new("loading", config, Arc::new(SystemClock::new()));
    let bounds = AdaptiveConfig::new(1, 4, 4).unwrap();
    let tier = Tier {
        bulkhead: Some(Bulkhead::new(BulkheadConfig::adaptive(bounds).unwrap())),
        ..Tier::new("one", vec![Arc::new(Loading { breaker: breaker.clone(), tells })])
    };
    Fixture { chain: FallbackChain::new(vec![Arc::new(tier)]), breaker }
}

impl Fixture {
    async fn begin(&self, streaming: bool) -> CallGuard {
        let walk = Walk { streaming, ..Walk::new(Deadline::after(ms(20_000))) };
        let slow = |_, _| async {
            tokio::time::sleep(ms(1500)).await;
            Ok::<_, Failed>(())
        };
        let guard = self.chain.open(walk, slow).await.unwrap().guard.unwrap();
        // More of it comes.
        tokio::time::sleep(ms(5000)).await;
        guard
    }

    /// Three calls, each of which was loading for so long.
    async fn three(&self, streaming: bool, cold_start: u64) {
        for _ in 0..3 {
            let mut guard = self.begin(streaming).await;
            guard.cold_start(ms(cold_start));
            guard.success();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_is_no_slow_call() {
    for streaming in [false, true] {
        let fixture = loading(true);
        fixture.three(streaming, 1400).await;
        assert_eq!(fixture.breaker.state(), State::Closed);
        let fixture = loading(true);
        fixture.three(streaming, 100).await;
        assert_eq!(fixture.breaker.state(), State::Open, "the rest of the time is one");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_given_up_before_it_tells_is_not_called_slow() {
    let fixture = loading(true);
    for _ in 0..3 {
        drop(fixture.begin(true).await);
    }
    assert_eq!((fixture.breaker.state(), fixture.breaker.snapshot().totals.success), (State::Closed, 3));
    let fixture = loading(false);
    for _ in 0..3 {
        drop(fixture.begin(true).await);
    }
    assert_eq!(fixture.breaker.state(), State::Open, "of one that never tells, all is known");
}

#[tokio::test(start_paused = true)]
async fn a_slow_probe_passes_when_its_end_says_that_it_was_a_cold_start() {
    let fixture = loading(true);
    fixture.breaker.open("a test", "to be probed");
    tokio::time::sleep(ms(40_000)).await;
    let mut probe = fixture.begin(true).await;
    assert_eq!(fixture.breaker.state(), State::HalfOpen, "its end decides");
    probe.cold_start(ms(1400));
    probe.success();
    assert_eq!(fixture.breaker.state(), State::Closed);
}
