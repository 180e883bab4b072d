use super::*;
use crate::{Backoff, OnDrop, RetryPolicy};

#[tokio::test(start_paused = true)]
async fn a_hurried_client_does_not_open_a_breaker() {
    let slow = backend("a", Script::Hang);
    let chain = FallbackChain::new(vec![tier("one", vec![Arc::clone(&slow)])]);
    for (timeout, state) in [(2400, State::Closed), (2600, State::Open)] {
        let error = chain.run(walk(ms(timeout)), play).await.unwrap_err();
        let ChainError::DeadlineExceeded { attempts } = error else { panic!("{error:?}") };
        assert_eq!(outcomes(&attempts), [("a", AttemptOutcome::Timeout)]);
        assert_eq!(slow.breaker().unwrap().state(), state);
    }
}

#[tokio::test(start_paused = true)]
async fn impatient_clients_do_not_take_a_tier_without_a_limit_away_from_everybody() {
    let only = backend("a", Script::Slow(10));
    let chain = FallbackChain::new(vec![Arc::new(Tier::new("one", vec![Arc::clone(&only)]))]);
    for _ in 0..3 {
        let ChainError::DeadlineExceeded { attempts } = chain.run(walk(ms(1)), play).await.unwrap_err()
        else {
            panic!()
        };
        assert_eq!(outcomes(&attempts), [("a", AttemptOutcome::Timeout)]);
        assert_eq!(attempts[0].detail, "no answer within 1.0ms");
    }
    assert_eq!(chain.run(walk(ms(30_000)), play).await.unwrap().answer, "a");
    let totals = only.breaker().unwrap().snapshot().totals;
    assert_eq!((totals.failure, totals.cancelled, totals.success), (0, 3, 1));
}

#[tokio::test(start_paused = true)]
async fn nor_do_those_whose_time_a_retry_has_used_up() {
    let calls = AtomicU32::new(0);
    let flaky_then_slow = |_: Arc<Scripted>, _| {
        let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            tokio::time::sleep(ms(10)).await;
            if first { Err(Failed(Script::Failing(Retry::AtOnce))) } else { Ok(()) }
        }
    };
    let only = guarded("a", Script::Answer, 2);
    let retry = RetryPolicy::new(2, Backoff::default()).unwrap();
    let tier = Tier { retry, ..Tier::new("one", vec![Arc::clone(&only)]) };
    FallbackChain::new(vec![Arc::new(tier)]).run(walk(ms(15)), flaky_then_slow).await.unwrap_err();
    assert_eq!((calls.load(Ordering::Relaxed), only.breaker().unwrap().state()), (2, State::Closed));
}

#[tokio::test(start_paused = true)]
async fn what_a_deadline_without_a_limit_cuts_off_follows_the_breakers_own_rule_for_dropped_calls() {
    let config =
        CircuitBreakerConfig::builder().consecutive_failures(1).on_drop(OnDrop::FailureAfter(ms(5000)));
    let breaker = CircuitBreaker::new("a", config.build().unwrap(), Arc::new(SystemClock::new()));
    let only = Scripted {
        name: "a",
        breaker: Some(breaker.clone()),
        script: Script::Hang,
        calls: AtomicU32::new(0),
        rest: Rest::new(),
        silence: Silence::new(),
    };
    let chain = FallbackChain::new(vec![Arc::new(Tier::new("one", vec![Arc::new(only)]))]);
    for (timeout, state) in [(4999, State::Closed), (5000, State::Open)] {
        chain.run(walk(ms(timeout)), play).await.unwrap_err();
        assert_eq!(breaker.state(), state, "{timeout}");
    }
}
