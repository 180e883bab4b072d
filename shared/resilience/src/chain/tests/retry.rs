use super::*;
use crate::{Backoff, Bulkhead, BulkheadConfig, Jitter, RetryPolicy};

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
async fn another_backend_is_asked_before_the_same_one_again() {
    let backends = vec![guarded("a", Script::Flaky(9), 9), guarded("b", Script::Flaky(1), 9)];
    let chain = FallbackChain::new(vec![retrying("one", 4, backends)]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    assert_eq!(
        retries(&served.attempts),
        [
            ("a", AttemptOutcome::Failure, 0, 0),
            ("b", AttemptOutcome::Failure, 0, 0),
            ("a", AttemptOutcome::Failure, 1, 100),
            ("b", AttemptOutcome::Success, 1, 100),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn each_backend_is_asked_as_often_as_the_policy_says_and_the_tier_as_often_as_it_says() {
    let asked = async |names: &[&'static str], max_calls| {
        let backends = names.iter().map(|name| guarded(name, Script::Flaky(99), 99)).collect();
        let tier = Tier { max_calls, retry: policy(3), ..Tier::new("one", backends) };
        let error = FallbackChain::new(vec![Arc::new(tier)]).run(walk(ms(60_000)), play).await.unwrap_err();
        let ChainError::Exhausted { attempts, .. } = error else { panic!("{error:?}") };
        attempts.iter().map(|attempt| attempt.backend.to_string()).collect::<String>()
    };
    assert_eq!(asked(&["a"], u32::MAX).await, "aaa");
    assert_eq!(asked(&["a", "b"], u32::MAX).await, "ababab");
    assert_eq!(asked(&["a", "b", "c"], u32::MAX).await, "abcabcabc");
    assert_eq!(asked(&["a", "b", "c"], 4).await, "abca");
    assert_eq!(asked(&["a", "b", "c"], 2).await, "ab");
}

#[tokio::test(start_paused = true)]
async fn one_retry_is_one_call_more_at_the_tier() {
    // The second call is it, whoever makes it, and whatever the first one failed of.
    for (retry, other) in [(Retry::AtOnce, Retry::AtOnce), (Retry::Backoff, Retry::Once)] {
        let backends = vec![guarded("a", Script::Failing(retry), 9), guarded("b", Script::Failing(other), 9)];
        let chain = FallbackChain::new(vec![Arc::new(Tier {
            max_calls: 9,
            retry: policy(2),
            ..Tier::new("one", backends)
        })]);
        let ChainError::Exhausted { attempts, .. } = chain.run(walk(ms(60_000)), play).await.unwrap_err()
        else {
            panic!()
        };
        let calls_of = |name| attempts.iter().filter(|attempt| &*attempt.backend == name).count();
        assert_eq!(calls_of("b"), 1, "{retry:?}: {attempts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tier_is_asked_no_more_often_than_it_may_be() {
    let backends: Vec<_> = ["a", "b", "c"].map(|name| guarded(name, Script::Flaky(9), 9)).to_vec();
    let one = Tier { max_calls: 2, retry: policy(9), ..Tier::new("one", backends) };
    let chain = FallbackChain::new(vec![Arc::new(one), tier("two", vec![backend("d", Script::Answer)])]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    let failure = AttemptOutcome::Failure;
    assert_eq!(outcomes(&served.attempts), [("a", failure), ("b", failure), ("d", AttemptOutcome::Success)]);
}

/// The walk of a tier that fails in this way and has other backends, or none.
async fn failing(retry: Retry, others: Vec<Arc<Scripted>>) -> Vec<(String, Option<ExtraCall>, u128)> {
    let backends = [vec![guarded("a", Script::Failing(retry), 9)], others].concat();
    let next = tier("two", vec![backend("next", Script::Answer)]);
    let chain = FallbackChain::new(vec![retrying("one", 5, backends), next]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    let one =
        |attempt: Attempt| (attempt.backend.to_string(), attempt.extra, attempt.started_after.as_millis());
    served.attempts.into_iter().map(one).collect()
}

fn told(expected: &[(&str, Option<ExtraCall>, u128)]) -> Vec<(String, Option<ExtraCall>, u128)> {
    expected.iter().map(|(name, extra, at)| ((*name).to_owned(), *extra, *at)).collect()
}

#[tokio::test(start_paused = true)]
async fn what_broke_on_the_way_is_asked_again_at_once_and_once_and_elsewhere_where_there_is_an_elsewhere() {
    let again = Some(ExtraCall::AtOnce);
    let alone = failing(Retry::AtOnce, vec![]).await;
    assert_eq!(alone, told(&[("a", None, 0), ("a", again, 0), ("next", None, 0)]));
    let other = guarded("b", Script::Failing(Retry::AtOnce), 9);
    let with_other = failing(Retry::AtOnce, vec![other]).await;
    assert_eq!(with_other, told(&[("a", None, 0), ("b", None, 0), ("next", None, 0)]));
}

#[tokio::test(start_paused = true)]
async fn what_failed_at_its_work_is_asked_again_once_after_a_wait() {
    let again = Some(ExtraCall::Backoff);
    let alone = failing(Retry::Once, vec![]).await;
    assert_eq!(alone, told(&[("a", None, 0), ("a", again, 100), ("next", None, 100)]));
    let other = guarded("b", Script::Failing(Retry::Once), 9);
    let with_other = failing(Retry::Once, vec![other]).await;
    assert_eq!(with_other, told(&[("a", None, 0), ("b", None, 0), ("next", None, 0)]));
}

#[tokio::test(start_paused = true)]
async fn what_was_silent_is_not_asked_again_but_others_are() {
    let backends = vec![guarded("a", Script::Hang, 9), guarded("b", Script::Hang, 9)];
    let next = tier("two", vec![backend("next", Script::Answer)]);
    let chain = FallbackChain::new(vec![retrying("one", 5, backends), next]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    let timeout = AttemptOutcome::Timeout;
    assert_eq!(
        retries(&served.attempts),
        [("a", timeout, 0, 0), ("b", timeout, 0, 5000), ("next", AttemptOutcome::Success, 0, 10_000)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_failover_draws_on_the_budget_unless_the_backend_was_never_reached() {
    for (retry, asked) in [(Retry::Never, 0), (Retry::AtOnce, 1)] {
        let other = guarded("b", Script::Answer, 9);
        let backends = vec![guarded("a", Script::Failing(retry), 9), Arc::clone(&other)];
        let chain = FallbackChain::new(vec![retrying("one", 5, backends)]).with_retry_budget(budget(0.0, 0));
        let served = chain.run(walk(ms(60_000)), play).await;
        assert_eq!((served.is_ok(), other.calls.load(Ordering::Relaxed)), (asked == 1, asked), "{retry:?}");
        let stats = &chain.stats().tiers[0];
        let refused = u64::from(1 - asked);
        assert_eq!((stats.retries_refused, stats.skipped_by.budget), (refused, refused));
    }
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
    let next = tier("two", vec![guarded("b", Script::Answer, 2)]);
    let chain = FallbackChain::new(vec![retrying("one", 5, vec![guarded("a", Script::Flaky(9), 2)]), next]);
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
    assert_eq!(chain.retry_budget().snapshot().granted, 0, "and costs nothing");
}

const UNPAID: AttemptOutcome = AttemptOutcome::Skipped(SkipReason::Budget);

#[tokio::test(start_paused = true)]
async fn what_the_budget_refuses_is_in_the_record_and_nobody_waits_for_it() {
    let others = [vec![], vec![guarded("b", Script::Answer, 9)]];
    for (other, refused) in others.into_iter().zip([("a", UNPAID, 1, 0), ("b", UNPAID, 0, 0)]) {
        let backends = [vec![guarded("a", Script::Flaky(9), 9)], other].concat();
        let chain = FallbackChain::new(vec![
            retrying("one", 5, backends),
            tier("two", vec![backend("next", Script::Answer)]),
        ])
        .with_retry_budget(budget(0.0, 0));
        let served = chain.run(walk(ms(60_000)), play).await.unwrap();
        let (failure, success) = (AttemptOutcome::Failure, AttemptOutcome::Success);
        assert_eq!(retries(&served.attempts), [("a", failure, 0, 0), refused, ("next", success, 0, 0)]);
        assert_eq!(served.attempts[1].detail, "the budget for retries is spent");
    }
}

#[tokio::test(start_paused = true)]
async fn an_extra_call_that_is_not_made_costs_nothing() {
    // The bulkhead is full by the time of the retry, the backend rests, its probes are out, or the request is given up.
    let bulkhead = Bulkhead::new(BulkheadConfig::new(1).unwrap());
    let flaky = guarded("a", Script::Flaky(9), 9);
    let bounded = Tier {
        bulkhead: Some(bulkhead.clone()),
        retry: policy(2),
        ..Tier::new("one", vec![Arc::clone(&flaky)])
    };
    let chain = FallbackChain::new(vec![Arc::new(bounded)]);
    let granted = || chain.retry_budget().snapshot().granted;
    let during_the_wait = async |interfere: &dyn Fn() -> Option<crate::BulkheadPermit>| {
        let walking = async { chain.run(walk(ms(60_000)), play).await.unwrap_err() };
        let other = async {
            tokio::time::sleep(ms(50)).await;
            let held = interfere();
            tokio::time::sleep(ms(100)).await;
            drop(held);
        };
        let (error, ()) = tokio::join!(walking, other);
        let ChainError::Exhausted { attempts, .. } = error else { panic!("{error:?}") };
        attempts[1].outcome
    };
    let skipped = AttemptOutcome::Skipped;
    assert_eq!(during_the_wait(&|| bulkhead.try_acquire()).await, skipped(SkipReason::Bulkhead));
    let rests = || {
        flaky.rest.begin(ms(200));
        None
    };
    assert_eq!(during_the_wait(&rests).await, skipped(SkipReason::Resting));
    tokio::time::advance(ms(1000)).await;
    let given_up = tokio::time::timeout(ms(50), chain.run(walk(ms(60_000)), play)).await;
    assert!(given_up.is_err());
    assert_eq!(granted(), 0);

    let clock = Arc::new(ManualClock::new());
    let config = CircuitBreakerConfig::consecutive_failures(1, ms(1000)).unwrap();
    let breaker = CircuitBreaker::new("b", config, clock.clone());
    breaker.acquire().unwrap().failure();
    clock.advance(ms(1000));
    let _probe = breaker.acquire().unwrap();
    let probed = Arc::new(Scripted {
        name: "b",
        breaker: Some(breaker),
        script: Script::Answer,
        calls: AtomicU32::new(0),
        rest: Rest::new(),
        silence: Silence::new(),
    });
    let chain = FallbackChain::new(vec![tier("one", vec![guarded("a", Script::Fail, 9), probed])]);
    let error = chain.run(walk(ms(60_000)), play).await.unwrap_err();
    let ChainError::Exhausted { attempts, .. } = error else { panic!("{error:?}") };
    assert_eq!(outcomes(&attempts)[1], ("b", skipped(SkipReason::Breaker)));
    assert_eq!(chain.retry_budget().snapshot().granted, 0);
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
        silence: Silence::new(),
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
async fn a_backend_that_names_a_time_is_asked_again_then_if_it_is_not_too_far_away() {
    let chain = FallbackChain::new(vec![retrying("one", 2, vec![backend("a", Script::Busy(1500))])]);
    let ChainError::Exhausted { attempts, .. } = chain.run(walk(ms(60_000)), play).await.unwrap_err() else {
        panic!()
    };
    assert_eq!(
        retries(&attempts),
        [("a", AttemptOutcome::Overloaded, 0, 0), ("a", AttemptOutcome::Overloaded, 1, 1600)]
    );
    assert_eq!(attempts[1].extra, Some(ExtraCall::RetryAfter));
    let chain = FallbackChain::new(vec![retrying("one", 2, vec![backend("a", Script::Busy(10_001))])]);
    let ChainError::Exhausted { attempts, .. } = chain.run(walk(ms(60_000)), play).await.unwrap_err() else {
        panic!()
    };
    assert_eq!(attempts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_chain_may_be_less_patient_than_its_tiers() {
    for (longest, calls) in [(1500, 2), (1499, 1)] {
        let busy = backend("a", Script::Busy(1500));
        let chain = FallbackChain::new(vec![retrying("one", 2, vec![Arc::clone(&busy)])])
            .with_longest_rest(ms(longest));
        chain.run(walk(ms(60_000)), play).await.unwrap_err();
        assert_eq!(busy.calls.load(Ordering::Relaxed), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_named_time_leaves_the_later_tiers_what_they_need() {
    let busy = guarded("a", Script::Busy(1000), 9);
    let next = tier("two", vec![backend("next", Script::Answer)]);
    let chain = FallbackChain::new(vec![retrying("one", 2, vec![Arc::clone(&busy)]), next]);
    // 1000 ms and the backoff of 100 ms, the 100 ms that a call needs, and the 1000 ms of the next tier.
    for (timeout, calls) in [(2200, 1), (2300, 2)] {
        tokio::time::advance(ms(5000)).await;
        busy.calls.store(0, Ordering::Relaxed);
        let served = chain.run(walk(ms(timeout)), play).await.unwrap();
        assert_eq!((served.answer, busy.calls.load(Ordering::Relaxed)), ("next", calls));
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_at_a_named_time_has_all_of_its_tiers_time() {
    // Refused for 4 s of the tier's 5 s, it has them all again: the wait was the backend's own wish.
    let chain = FallbackChain::new(vec![retrying("one", 2, vec![guarded("a", Script::Answer, 9)])]);
    let calls = AtomicU32::new(0);
    let busy_then_slow = |_: Arc<Scripted>, _| {
        let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if first {
                return Err(Failed(Script::Busy(4000)));
            }
            tokio::time::sleep(ms(4500)).await;
            Ok(())
        }
    };
    let served = chain.run(walk(ms(60_000)), busy_then_slow).await.unwrap();
    assert_eq!(served.attempts[1].took, ms(4500));
}
