use super::*;
use crate::{Backoff, Bulkhead, BulkheadConfig, Jitter, RetryPolicy};

fn bulkhead(slots: u32, waiting: u32, wait: u64) -> Bulkhead {
    let config = BulkheadConfig::new(slots).unwrap();
    Bulkhead::new(if waiting == 0 { config } else { config.with_queue(waiting, ms(wait)).unwrap() })
}

fn bounded(bulkhead: &Bulkhead, backends: Vec<Arc<Scripted>>) -> Arc<Tier<Scripted>> {
    Arc::new(Tier {
        timeout: Some(ms(5000)),
        minimum: ms(100),
        bulkhead: Some(bulkhead.clone()),
        ..Tier::new("bounded", backends)
    })
}

const FULL: AttemptOutcome = AttemptOutcome::Skipped(SkipReason::Bulkhead);

#[tokio::test(start_paused = true)]
async fn a_full_tier_is_passed_over_as_a_whole_and_says_why() {
    let bulkhead = bulkhead(1, 0, 0);
    let chain = FallbackChain::new(vec![
        bounded(&bulkhead, vec![backend("a", Script::Answer), backend("b", Script::Answer)]),
        tier("next", vec![backend("c", Script::Answer)]),
    ]);
    let _taken = bulkhead.try_acquire().unwrap();
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    assert_eq!(outcomes(&served.attempts), [("a", FULL), ("c", AttemptOutcome::Success)]);
    assert_eq!(served.attempts[0].detail, "bulkhead is full: all 1 slots are taken and 0 callers wait");
    assert_eq!(served.attempts[0].breaker_state, None);
    let stats = &chain.stats().tiers[0];
    assert_eq!((stats.skipped, stats.skipped_by.bulkhead, stats.attempts), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_its_slot_and_its_own_time_begins_after_that() {
    let bulkhead = bulkhead(1, 1, 3000);
    let chain = FallbackChain::new(vec![bounded(&bulkhead, vec![backend("a", Script::Slow(4500))])]);
    let taken = bulkhead.try_acquire().unwrap();
    let release = async {
        tokio::time::sleep(ms(2000)).await;
        drop(taken);
    };
    let (served, ()) = tokio::join!(chain.run(walk(ms(60_000)), play), release);
    let served = served.unwrap();
    assert_eq!(served.attempts[0].started_after, ms(2000));
    assert_eq!(served.attempts[0].took, ms(4500));
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_slot_ends_while_a_call_is_still_worth_making() {
    let bulkhead = bulkhead(1, 1, 30_000);
    let last = Tier { reserve: ms(400), ..Tier::new("last", vec![backend("b", Script::Answer)]) };
    let chain =
        FallbackChain::new(vec![bounded(&bulkhead, vec![backend("a", Script::Answer)]), Arc::new(last)]);
    let _taken = bulkhead.try_acquire().unwrap();
    let served = chain.run(walk(ms(1000)), play).await.unwrap();
    assert_eq!(outcomes(&served.attempts), [("a", FULL), ("b", AttemptOutcome::Success)]);
    // 1000 ms, less 400 for the next tier, less 100 that a call needs.
    let waited = served.attempts[1].started_after;
    assert!((ms(500)..ms(502)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_in_line_for_an_open_breaker() {
    let bulkhead = bulkhead(1, 1, 3000);
    let open = backend("a", Script::Answer);
    open.breaker().unwrap().acquire().unwrap().failure();
    let chain = FallbackChain::new(vec![bounded(&bulkhead, vec![open])]);
    let _taken = bulkhead.try_acquire().unwrap();
    let started = Instant::now();
    let error = chain.run(walk(ms(60_000)), play).await.unwrap_err();
    let ChainError::Exhausted { attempts, retry_after } = error else { panic!("{error:?}") };
    assert_eq!(outcomes(&attempts), [("a", AttemptOutcome::Skipped(SkipReason::Breaker))]);
    assert_eq!((retry_after, started.elapsed()), (Some(ms(30_000)), ms(0)));
}

#[tokio::test(start_paused = true)]
async fn a_probe_in_line_holds_no_permit() {
    let bulkhead = bulkhead(1, 1, 3000);
    let clock = ManualClock::new();
    let config = CircuitBreakerConfig::consecutive_failures(1, ms(1000)).unwrap();
    let breaker = CircuitBreaker::new("a", config, Arc::new(clock.clone()));
    breaker.acquire().unwrap().failure();
    clock.advance(ms(1000));
    let backend = Scripted {
        name: "a",
        breaker: Some(breaker.clone()),
        script: Script::Answer,
        calls: AtomicU32::new(0),
        rest: Rest::new(),
        silence: Silence::new(),
    };
    let chain = FallbackChain::new(vec![bounded(&bulkhead, vec![Arc::new(backend)])]);
    let taken = bulkhead.try_acquire().unwrap();
    let release = async {
        tokio::time::sleep(ms(100)).await;
        assert_eq!((breaker.state(), breaker.snapshot().half_open_permits), (State::Open, 0));
        drop(taken);
    };
    let (served, ()) = tokio::join!(chain.run(walk(ms(60_000)), play), release);
    assert_eq!(served.unwrap().attempts[0].breaker_state, Some(State::HalfOpen));
    assert_eq!((breaker.state(), breaker.snapshot().totals.cancelled), (State::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_before_a_breaker_that_wants_a_probe_tells_the_breaker_nothing() {
    let bulkhead = bulkhead(1, 1, 10);
    for due in [true, false] {
        let clock = ManualClock::new();
        let config = CircuitBreakerConfig::consecutive_failures(1, ms(1000)).unwrap();
        let breaker = CircuitBreaker::new("a", config, Arc::new(clock.clone()));
        breaker.open("test", "to begin with");
        clock.advance(ms(1000));
        if !due {
            // Half-open, with its place free again.
            drop(breaker.acquire().unwrap());
        }
        let before = breaker.snapshot();
        let backend = Scripted {
            name: "a",
            breaker: Some(breaker.clone()),
            script: Script::Answer,
            calls: AtomicU32::new(0),
            rest: Rest::new(),
            silence: Silence::new(),
        };
        let chain = FallbackChain::new(vec![bounded(&bulkhead, vec![Arc::new(backend)])]);
        let _taken = bulkhead.try_acquire().unwrap();
        for _ in 0..10 {
            let error = chain.run(walk(ms(60_000)), play).await.unwrap_err();
            let ChainError::Exhausted { attempts, .. } = error else { panic!("{error:?}") };
            assert_eq!(outcomes(&attempts), [("a", FULL)]);
        }
        let after = breaker.snapshot();
        assert_eq!((after.totals, after.state), (before.totals, before.state));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_holds_its_slot_to_its_end() {
    let bulkhead = bulkhead(1, 0, 0);
    let streaming = backend("a", Script::Answer);
    let chain = FallbackChain::new(vec![bounded(&bulkhead, vec![Arc::clone(&streaming)])]);
    for end in [CallGuard::success, CallGuard::ignored, drop, CallGuard::failure] {
        let mut served = chain.open(walk(ms(1000)), play).await.unwrap();
        assert_eq!(bulkhead.snapshot().in_flight, 1);
        let ChainError::Exhausted { attempts, .. } = chain.open(walk(ms(1000)), play).await.unwrap_err()
        else {
            panic!()
        };
        assert_eq!(outcomes(&attempts), [("a", FULL)]);
        let guard = served.guard.take().unwrap();
        assert_eq!(guard.state(), Some(State::Closed));
        end(guard);
        assert_eq!(bulkhead.snapshot().in_flight, 0);
    }
    let totals = streaming.breaker().unwrap().snapshot().totals;
    // A client that goes away from an answer that has begun leaves a success.
    assert_eq!((totals.success, totals.ignored, totals.cancelled, totals.failure), (2, 1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_gives_its_slot_back_and_so_does_one_that_waits_for_its_retry() {
    let bulkhead = bulkhead(1, 0, 0);
    let backoff = Backoff::exponential(ms(100), ms(100)).unwrap().with_jitter(Jitter::None);
    let tier = Tier {
        bulkhead: Some(bulkhead.clone()),
        retry: RetryPolicy::new(2, backoff).unwrap(),
        ..Tier::new("bounded", vec![guarded("a", Script::Flaky(1), 9)])
    };
    let chain = FallbackChain::new(vec![Arc::new(tier)]);
    let other = async {
        tokio::time::sleep(ms(50)).await;
        drop(bulkhead.try_acquire().unwrap());
    };
    let (served, ()) = tokio::join!(chain.run(walk(ms(60_000)), play), other);
    assert_eq!(served.unwrap().attempts.len(), 2);
    assert_eq!(bulkhead.snapshot().admitted, 3);
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_its_slot_within_the_time_of_its_visit() {
    let bulkhead = bulkhead(1, 1, 30_000);
    let backoff = Backoff::exponential(ms(100), ms(100)).unwrap().with_jitter(Jitter::None);
    let tier = Tier {
        timeout: Some(ms(1000)),
        minimum: ms(100),
        bulkhead: Some(bulkhead.clone()),
        retry: RetryPolicy::new(2, backoff).unwrap(),
        ..Tier::new("bounded", vec![guarded("a", Script::Flaky(1), 9)])
    };
    let chain = FallbackChain::new(vec![Arc::new(tier)]);
    let started = Instant::now();
    let taker = async {
        tokio::time::sleep(ms(50)).await;
        let slot = bulkhead.try_acquire().unwrap();
        tokio::time::sleep(ms(10_000)).await;
        drop(slot);
    };
    let walking = async {
        let ended = chain.run(walk(ms(60_000)), play).await;
        (ended, started.elapsed())
    };
    let ((ended, took), ()) = tokio::join!(walking, taker);
    let ChainError::Exhausted { attempts, .. } = ended.unwrap_err() else { panic!() };
    assert_eq!(outcomes(&attempts), [("a", AttemptOutcome::Failure), ("a", FULL)]);
    assert_eq!((attempts[0].retry, attempts[1].retry), (0, 1));
    assert!((ms(900)..ms(902)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn chains_that_share_a_tier_share_its_bulkhead() {
    let bulkhead = bulkhead(1, 0, 0);
    let shared = bounded(&bulkhead, vec![backend("a", Script::Answer)]);
    let one = FallbackChain::new(vec![Arc::clone(&shared)]);
    let other = FallbackChain::new(vec![shared]);
    let _held = one.open(walk(ms(1000)), play).await.unwrap();
    other.run(walk(ms(1000)), play).await.unwrap_err();
    assert_eq!(other.stats().tiers[0].skipped_by.bulkhead, 1);
}
