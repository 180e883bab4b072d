use super::*;
use crate::{Bulkhead, BulkheadConfig};

const CANCELLED: AttemptOutcome = AttemptOutcome::Cancelled;
const FAILURE: AttemptOutcome = AttemptOutcome::Failure;
const SUCCESS: AttemptOutcome = AttemptOutcome::Success;

pub(super) fn hedging(name: &str, backends: Vec<Arc<Scripted>>) -> Tier<Scripted> {
    Tier {
        timeout: Some(ms(5000)),
        first_item_timeout: Some(ms(3000)),
        minimum: ms(100),
        hedge: Some(Hedge::after(ms(500)).unwrap()),
        takes_hedges: true,
        ..Tier::new(name, backends)
    }
}

pub(super) fn chain_of(tiers: Vec<Tier<Scripted>>) -> FallbackChain<Scripted> {
    FallbackChain::new(tiers.into_iter().map(Arc::new).collect())
}

pub(super) fn slow(name: &'static str, wait: u64) -> Arc<Scripted> {
    guarded(name, Script::Slow(wait), 9)
}

fn times(attempts: &[Attempt]) -> Vec<(&str, AttemptOutcome, bool, u128, u128)> {
    let one = |attempt: &Attempt| (attempt.started_after.as_millis(), attempt.took.as_millis());
    attempts
        .iter()
        .map(|attempt| {
            let (started, took) = one(attempt);
            let hedged = attempt.extra == Some(ExtraCall::Hedge);
            (&*attempt.backend, attempt.outcome, hedged, started, took)
        })
        .collect()
}

/// No permit is out, and this many calls were cancelled.
fn settled(backend: &Scripted, cancelled: u64) {
    let totals = backend.breaker().unwrap().snapshot().totals;
    assert_eq!(totals.cancelled, cancelled, "{}", backend.name);
    let ended = totals.success + totals.failure + totals.ignored + totals.cancelled;
    assert_eq!(ended, u64::from(backend.calls.load(Ordering::Relaxed)), "{}", backend.name);
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_is_hedged_at_the_next_backend_and_the_loser_is_cancelled() {
    let (hanging, well) = (guarded("a", Script::Hang, 9), slow("b", 100));
    let chain = chain_of(vec![hedging("one", vec![Arc::clone(&hanging), Arc::clone(&well)])]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    assert_eq!((served.answer, served.tier), ("b", 0));
    assert_eq!(times(&served.attempts), [("a", CANCELLED, false, 0, 600), ("b", SUCCESS, true, 500, 100)]);
    settled(&hanging, 1);
    settled(&well, 0);
    let stats = &chain.stats().tiers[0];
    assert_eq!((stats.hedges, stats.failures, stats.served, stats.attempts), (1, 0, 1, 2));
    assert_eq!(chain.retry_budget().snapshot().granted, 1, "a hedge draws on the budget");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_answers_in_time_is_not_hedged() {
    let other = slow("b", 1);
    let chain = chain_of(vec![hedging("one", vec![slow("a", 499), Arc::clone(&other)])]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    assert_eq!(times(&served.attempts), [("a", SUCCESS, false, 0, 499)]);
    assert_eq!(other.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn the_slow_call_may_win_still() {
    let hedge = guarded("b", Script::Hang, 9);
    let chain = chain_of(vec![hedging("one", vec![slow("a", 700), Arc::clone(&hedge)])]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    // Who answered comes last, as ever.
    assert_eq!(times(&served.attempts), [("b", CANCELLED, true, 500, 200), ("a", SUCCESS, false, 0, 700)]);
    settled(&hedge, 1);
}

#[tokio::test(start_paused = true)]
async fn where_a_tier_has_no_other_backend_the_next_tier_that_takes_hedges_does_it() {
    let message = Tier { takes_hedges: false, ..hedging("between", vec![slow("m", 1)]) };
    let chain =
        chain_of(vec![hedging("one", vec![slow("a", 9000)]), message, hedging("two", vec![slow("b", 100)])]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    assert_eq!((served.answer, served.tier), ("b", 2));
    assert_eq!(times(&served.attempts), [("a", CANCELLED, false, 0, 600), ("b", SUCCESS, true, 500, 100)]);
}

#[tokio::test(start_paused = true)]
async fn when_the_hedge_fails_the_slow_call_is_waited_for_and_when_both_do_the_walk_goes_on() {
    for (wait, answer) in [(900, "a"), (9000, "c")] {
        let failing = guarded("b", Script::Fail, 9);
        let chain = chain_of(vec![
            hedging("one", vec![slow("a", wait)]),
            hedging("two", vec![Arc::clone(&failing), slow("c", 1)]),
        ]);
        let served = chain.run(walk(ms(60_000)), play).await.unwrap();
        assert_eq!(served.answer, answer);
        assert_eq!(outcomes(&served.attempts)[0], ("b", FAILURE));
        assert_eq!(failing.calls.load(Ordering::Relaxed), 1, "a backend that was hedged to has had its turn");
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_slow_call_fails_its_hedge_is_waited_for() {
    let chain = chain_of(vec![hedging("one", vec![guarded("a", Script::Hang, 9), slow("b", 4900)])]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    let timeout = AttemptOutcome::Timeout;
    assert_eq!(times(&served.attempts), [("a", timeout, false, 0, 5000), ("b", SUCCESS, true, 500, 4900)]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_either_of_two_backends_of_a_tier_ends_the_walk() {
    for (first, second) in [(Script::Hang, Script::Refuse), (Script::Slow(9000), Script::Refuse)] {
        let (one, other) = (guarded("a", first, 9), guarded("b", second, 9));
        let chain = chain_of(vec![hedging("one", vec![Arc::clone(&one), Arc::clone(&other)])]);
        let error = chain.run(walk(ms(60_000)), play).await.unwrap_err();
        let ChainError::Stopped { attempts, .. } = error else { panic!("{error:?}") };
        assert_eq!(outcomes(&attempts), [("a", CANCELLED), ("b", AttemptOutcome::Rejected)]);
        settled(&one, 1);
        settled(&other, 0);
    }
}

const REJECTED: AttemptOutcome = AttemptOutcome::Rejected;
const PASSED_OVER: AttemptOutcome = AttemptOutcome::Skipped(SkipReason::Request);

#[tokio::test(start_paused = true)]
async fn a_hedge_that_a_later_tier_refuses_costs_nobody_the_slow_answer() {
    for script in [Script::Refuse, Script::TooLarge] {
        let refusing = Tier { capacity: Capacity::UpTo(10), ..hedging("two", vec![guarded("b", script, 9)]) };
        let chain = chain_of(vec![hedging("one", vec![slow("a", 800)]), refusing]);
        let served = chain.run(walk(ms(60_000)), play).await.unwrap();
        assert_eq!((served.answer, served.tier), ("a", 0), "{script:?}");
        assert_eq!(times(&served.attempts), [("b", REJECTED, true, 500, 0), ("a", SUCCESS, false, 0, 800)]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_later_tier_refused_as_a_hedge_ends_the_walk_at_its_own_place() {
    // The slow call fails and is asked again, then a message between the two: each has its turn before the refusal counts.
    for script in [Script::Refuse, Script::TooLarge] {
        let between = guarded("m", Script::Miss, 9);
        let refusing = Tier { capacity: Capacity::UpTo(10), ..hedging("two", vec![guarded("b", script, 9)]) };
        let never = guarded("c", Script::Answer, 9);
        let chain = chain_of(vec![
            hedging("one", vec![guarded("a", Script::Hang, 9)]),
            Tier { takes_hedges: false, ..hedging("between", vec![Arc::clone(&between)]) },
            refusing,
            hedging("three", vec![Arc::clone(&never)]),
        ]);
        let error = chain.run(walk(ms(60_000)), play).await.unwrap_err();
        let ChainError::Stopped { attempts, .. } = error else { panic!("{error:?}") };
        let timeout = AttemptOutcome::Timeout;
        assert_eq!(outcomes(&attempts), [("b", REJECTED), ("a", timeout), ("m", AttemptOutcome::Miss)]);
        assert_eq!(never.calls.load(Ordering::Relaxed), 0);
        assert_eq!(chain.stats().unanswered, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn no_hedge_goes_to_a_tier_that_is_known_to_take_less() {
    let smaller = guarded("b", Script::Answer, 9);
    let chain = chain_of(vec![
        Tier { capacity: Capacity::UpTo(100), ..hedging("one", vec![slow("a", 800)]) },
        Tier { capacity: Capacity::UpTo(10), ..hedging("two", vec![Arc::clone(&smaller)]) },
        Tier { capacity: Capacity::UpTo(100), ..hedging("three", vec![slow("c", 100)]) },
    ]);
    assert_eq!(chain.run(walk(ms(60_000)), play).await.unwrap().answer, "c");
    assert_eq!(smaller.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_large_for_the_slow_call_is_left_to_hedges_that_may_take_it() {
    let too_large = |backend: Arc<Scripted>, _| async move {
        tokio::time::sleep(ms(1000)).await;
        if backend.name == "a" { Err(Failed(Script::TooLarge)) } else { Ok(backend.name) }
    };
    let cases = [
        (Capacity::UpTo(9), vec![("a", REJECTED), ("b", SUCCESS)]),
        // It might answer what it has cut down.
        (Capacity::Unknown, vec![("b", CANCELLED), ("a", REJECTED), ("", PASSED_OVER), ("c", SUCCESS)]),
        (Capacity::UpTo(8), vec![("b", CANCELLED), ("a", REJECTED), ("", PASSED_OVER), ("c", SUCCESS)]),
    ];
    for (capacity, expected) in cases {
        let chain = chain_of(vec![
            Tier { capacity: Capacity::UpTo(8), ..hedging("one", vec![slow("a", 0)]) },
            Tier { capacity, hedge: None, ..hedging("two", vec![slow("b", 0)]) },
            Tier { capacity: Capacity::UpTo(16), hedge: None, ..hedging("three", vec![slow("c", 0)]) },
        ]);
        let served = chain.run(walk(ms(60_000)), too_large).await.unwrap();
        assert_eq!(outcomes(&served.attempts), expected, "{capacity:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_made_only_where_it_is_welcome_at_once() {
    let full = Bulkhead::new(BulkheadConfig::new(1).unwrap());
    let _taken = full.try_acquire().unwrap();
    let open = guarded("b", Script::Answer, 1);
    open.breaker().unwrap().acquire().unwrap().failure();
    let resting = guarded("b", Script::Answer, 9);
    resting.rest.begin(ms(60_000));
    let no_hedges = Tier { takes_hedges: false, ..hedging("two", vec![slow("b", 1)]) };
    let cases = [
        ("no slot", Tier { bulkhead: Some(full.clone()), ..hedging("two", vec![slow("b", 1)]) }),
        ("open", hedging("two", vec![open])),
        ("resting", hedging("two", vec![resting])),
        ("not meant for it", no_hedges),
    ];
    for (why, two) in cases {
        let chain = chain_of(vec![hedging("one", vec![slow("a", 800)]), two]);
        let served = chain.run(walk(ms(60_000)), play).await.unwrap();
        assert_eq!(times(&served.attempts), [("a", SUCCESS, false, 0, 800)], "{why}");
        assert_eq!(chain.retry_budget().snapshot().granted, 0, "{why}");
    }
    let config = RetryBudgetConfig::new(0.0, 0, ms(10_000)).unwrap();
    let spent = RetryBudget::new(config, Arc::new(SystemClock::new()));
    let chain = chain_of(vec![hedging("one", vec![slow("a", 800), slow("b", 1)])]).with_retry_budget(spent);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    assert_eq!((served.answer, chain.stats().tiers[0].retries_refused), ("a", 1));
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_not_hedged_and_its_breaker_gets_its_verdict() {
    let clock = ManualClock::new();
    let config = CircuitBreakerConfig::consecutive_failures(1, ms(1000)).unwrap();
    let breaker = CircuitBreaker::new("a", config, Arc::new(clock.clone()));
    breaker.acquire().unwrap().failure();
    clock.advance(ms(1000));
    let probed = Arc::new(Scripted {
        name: "a",
        breaker: Some(breaker.clone()),
        script: Script::Slow(2000),
        calls: AtomicU32::new(0),
        rest: Rest::new(),
        silence: Silence::new(),
    });
    let chain = chain_of(vec![hedging("one", vec![probed, slow("b", 1)])]);
    assert_eq!(chain.run(walk(ms(60_000)), play).await.unwrap().answer, "a");
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_loser_gives_its_slot_back_at_once_and_a_winning_stream_keeps_its_own() {
    let (one, two) =
        (Bulkhead::new(BulkheadConfig::new(1).unwrap()), Bulkhead::new(BulkheadConfig::new(1).unwrap()));
    let chain = chain_of(vec![
        Tier { bulkhead: Some(one.clone()), ..hedging("one", vec![guarded("a", Script::Hang, 9)]) },
        Tier { bulkhead: Some(two.clone()), ..hedging("two", vec![slow("b", 100)]) },
    ]);
    let served = chain.open(Walk { streaming: true, ..walk(ms(60_000)) }, play).await.unwrap();
    assert_eq!((one.snapshot().in_flight, two.snapshot().in_flight), (0, 1));
    served.guard.unwrap().success();
    assert_eq!(two.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_after_a_quantile_follows_what_the_tier_does() {
    let hedge = Some(Hedge::quantile(0.9, ms(20), 10).unwrap());
    let backends = vec![slow("a", 100), slow("b", 10)];
    let chain = chain_of(vec![Tier { hedge, ..hedging("one", backends) }]);
    for _ in 0..10 {
        let served = chain.run(walk(ms(60_000)), play).await.unwrap();
        assert_eq!(served.attempts.len(), 1, "nothing is hedged before enough is known");
    }
    let late = |backend: Arc<Scripted>, _| async move {
        if backend.name == "a" {
            tokio::time::sleep(ms(9000)).await;
        }
        Ok::<_, Failed>(backend.name)
    };
    let served = chain.run(walk(ms(60_000)), late).await.unwrap();
    assert_eq!(times(&served.attempts), [("a", CANCELLED, false, 0, 100), ("b", SUCCESS, true, 100, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_walk_dropped_with_both_calls_out_gives_both_back() {
    let (one, other) = (guarded("a", Script::Hang, 9), guarded("b", Script::Hang, 9));
    let chain = chain_of(vec![hedging("one", vec![Arc::clone(&one), Arc::clone(&other)])]);
    let dropped = tokio::time::timeout(ms(1000), chain.run(walk(ms(60_000)), play)).await;
    assert!(dropped.is_err());
    settled(&one, 1);
    settled(&other, 1);
}
