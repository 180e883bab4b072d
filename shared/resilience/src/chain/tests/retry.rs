use super::*;
use crate::{Backoff, Jitter, RetryPolicy};

/// Waits of 100, 200, 400 … ms, exactly.
fn policy(max_attempts: u32) -> RetryPolicy {
    let backoff = Backoff::exponential(ms(100), ms(10_000)).unwrap().with_jitter(Jitter::None);
    RetryPolicy::new(max_attempts, backoff).unwrap()
}

fn retrying(name: &str, max_attempts: u32, backends: Vec<Arc<Scripted>>) -> Arc<Tier<Scripted>> {
    Arc::new(Tier {
        timeout: Some(ms(5000)),
        minimum: ms(100),
        retry: policy(max_attempts),
        ..Tier::new(name, backends)
    })
}

fn budget(fraction: f64, floor: u32) -> RetryBudget {
    let config = RetryBudgetConfig::new(fraction, floor, ms(10_000)).unwrap();
    RetryBudget::new(config, Arc::new(SystemClock::new()))
}

fn retries(attempts: &[Attempt]) -> Vec<(&str, AttemptOutcome, u32, u128)> {
    let one = |attempt: &Attempt| attempt.started_after.as_millis();
    attempts.iter().map(|attempt| (&*attempt.backend, attempt.outcome, attempt.retry, one(attempt))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_an_attempt_of_its_own_after_its_wait() {
    let chain = FallbackChain::new(vec![retrying("one", 3, vec![guarded("a", Script::Flaky(2), 9)])]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    assert_eq!(
        retries(&served.attempts),
        [
            ("a", AttemptOutcome::Failure, 0, 0),
            ("a", AttemptOutcome::Failure, 1, 100),
            ("a", AttemptOutcome::Success, 2, 300),
        ]
    );
    let stats = &chain.stats().tiers[0];
    assert_eq!((stats.attempts, stats.retries, stats.failures, stats.served), (3, 2, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn by_default_nothing_is_asked_twice() {
    let flaky = guarded("a", Script::Flaky(1), 9);
    let chain = FallbackChain::new(vec![tier("one", vec![Arc::clone(&flaky)])]);
    chain.run(walk(ms(60_000)), play).await.unwrap_err();
    assert_eq!(flaky.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn when_its_attempts_are_used_up_the_next_backend_has_its_turn() {
    let backends = vec![guarded("a", Script::Flaky(9), 9), guarded("b", Script::Flaky(1), 9)];
    let chain = FallbackChain::new(vec![retrying("one", 2, backends)]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    assert_eq!(
        retries(&served.attempts),
        [
            ("a", AttemptOutcome::Failure, 0, 0),
            ("a", AttemptOutcome::Failure, 1, 100),
            ("b", AttemptOutcome::Failure, 0, 100),
            ("b", AttemptOutcome::Success, 1, 200),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn failures_that_do_not_ask_for_it_are_not_retried() {
    for script in [Script::Fail, Script::Refuse, Script::Miss, Script::Hang] {
        let once = guarded("a", script, 9);
        let chain = FallbackChain::new(vec![retrying("one", 5, vec![Arc::clone(&once)])]);
        chain.run(walk(ms(60_000)), play).await.unwrap_err();
        assert_eq!(once.calls.load(Ordering::Relaxed), 1, "{script:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_opened_ends_the_retries_and_nothing_is_spent() {
    let backends = vec![guarded("a", Script::Flaky(9), 2), guarded("b", Script::Answer, 2)];
    let chain = FallbackChain::new(vec![retrying("one", 5, backends)]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    assert_eq!(
        retries(&served.attempts),
        [
            ("a", AttemptOutcome::Failure, 0, 0),
            ("a", AttemptOutcome::Failure, 1, 100),
            ("b", AttemptOutcome::Success, 0, 100),
        ]
    );
    assert_eq!(chain.retry_budget().snapshot().granted, 1);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_opens_during_the_wait_is_seen_by_the_retry() {
    let flaky = guarded("a", Script::Flaky(9), 2);
    let chain = FallbackChain::new(vec![retrying("one", 5, vec![Arc::clone(&flaky)])]);
    let other = async {
        tokio::time::sleep(ms(50)).await;
        flaky.breaker().unwrap().acquire().unwrap().failure();
    };
    let (error, ()) = tokio::join!(chain.run(walk(ms(60_000)), play), other);
    let ChainError::Exhausted { attempts, .. } = error.unwrap_err() else { panic!() };
    let skipped = AttemptOutcome::Skipped(SkipReason::Breaker);
    assert_eq!(retries(&attempts), [("a", AttemptOutcome::Failure, 0, 0), ("a", skipped, 1, 100)]);
    assert_eq!(chain.stats().tiers[0].retries, 0, "it was not made");
}

#[tokio::test(start_paused = true)]
async fn retries_of_all_requests_draw_on_one_budget() {
    let flaky = guarded("a", Script::Flaky(u32::MAX), 1000);
    let chain = FallbackChain::new(vec![retrying("one", 3, vec![Arc::clone(&flaky)])])
        .with_retry_budget(budget(0.0, 1));
    for _ in 0..20 {
        chain.run(walk(ms(60_000)), play).await.unwrap_err();
    }
    // Ten retries are the floor of ten seconds.
    assert_eq!(flaky.calls.load(Ordering::Relaxed), 30);
    let stats = &chain.stats().tiers[0];
    assert_eq!((stats.attempts, stats.retries, stats.retries_refused), (30, 10, 15));
}

#[tokio::test(start_paused = true)]
async fn successes_fund_retries_and_those_of_a_backend_that_cannot_fail_do_not() {
    let message = Arc::new(Scripted {
        name: "message",
        breaker: None,
        script: Script::Answer,
        calls: AtomicU32::new(0),
        rest: Rest::new(),
    });
    for (tier, funded) in
        [(tier("models", vec![backend("a", Script::Answer)]), 2), (tier("last", vec![message]), 0)]
    {
        let chain = FallbackChain::new(vec![tier]).with_retry_budget(budget(0.5, 0));
        for _ in 0..4 {
            chain.run(walk(ms(60_000)), play).await.unwrap();
        }
        assert_eq!(chain.retry_budget().snapshot().available, funded);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_funds_the_budget_when_it_is_whole() {
    let chain = FallbackChain::new(vec![tier("one", vec![guarded("a", Script::Answer, 9)])]);
    let (mut whole, mut cut) =
        (chain.open(walk(ms(1000)), play).await.unwrap(), chain.open(walk(ms(1000)), play).await.unwrap());
    assert_eq!(chain.retry_budget().snapshot().successes, 0);
    cut.guard.take().unwrap().failure();
    assert_eq!(chain.retry_budget().snapshot().successes, 0);
    whole.guard.take().unwrap().success();
    assert_eq!(chain.retry_budget().snapshot().successes, 1);
}

#[tokio::test(start_paused = true)]
async fn all_calls_to_a_backend_share_the_tiers_time() {
    // Each call takes 2 s and fails: the limit of 5 s leaves the third less than it has asked for.
    let slow = guarded("a", Script::Answer, 9);
    let chain = FallbackChain::new(vec![retrying("one", 9, vec![slow])]);
    let failing = |_: Arc<Scripted>, _| async {
        tokio::time::sleep(ms(2000)).await;
        Err::<(), _>(Failed(Script::Flaky(1)))
    };
    let ChainError::Exhausted { attempts, .. } = chain.run(walk(ms(60_000)), failing).await.unwrap_err()
    else {
        panic!()
    };
    assert_eq!(
        retries(&attempts),
        [
            ("a", AttemptOutcome::Failure, 0, 0),
            ("a", AttemptOutcome::Failure, 1, 2100),
            ("a", AttemptOutcome::Timeout, 2, 4300),
        ]
    );
    assert_eq!(attempts[2].took, ms(700));
}

#[tokio::test(start_paused = true)]
async fn no_retry_is_begun_that_leaves_too_little_time() {
    // The first retry comes at 100 ms; the second would come at 300 ms, which leaves 50 of the 100 that a call needs.
    let flaky = guarded("a", Script::Flaky(9), 9);
    let chain = FallbackChain::new(vec![retrying("one", 9, vec![Arc::clone(&flaky)])]);
    let started = Instant::now();
    chain.run(walk(ms(350)), play).await.unwrap_err();
    assert_eq!(flaky.calls.load(Ordering::Relaxed), 2);
    assert_eq!(started.elapsed().as_millis(), 100, "nobody sleeps towards a call that is not made");
    assert_eq!(chain.retry_budget().snapshot().granted, 1);
}

#[tokio::test(start_paused = true)]
async fn retry_after_lengthens_the_wait_up_to_the_cap() {
    let chain = FallbackChain::new(vec![retrying("one", 2, vec![backend("a", Script::Busy(1500))])]);
    let ChainError::Exhausted { attempts, .. } = chain.run(walk(ms(60_000)), play).await.unwrap_err() else {
        panic!()
    };
    assert_eq!(
        retries(&attempts),
        [("a", AttemptOutcome::Overloaded, 0, 0), ("a", AttemptOutcome::Overloaded, 1, 1500)]
    );
    let chain = FallbackChain::new(vec![retrying("one", 2, vec![backend("a", Script::Busy(10_001))])]);
    let ChainError::Exhausted { attempts, .. } = chain.run(walk(ms(60_000)), play).await.unwrap_err() else {
        panic!()
    };
    assert_eq!(attempts.len(), 1);
}
