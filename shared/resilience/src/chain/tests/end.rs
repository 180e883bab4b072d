use super::*;

#[tokio::test(start_paused = true)]
async fn an_attempt_says_what_it_came_to_and_what_that_came_from() {
    let chain = FallbackChain::new(vec![tier("one", vec![backend("a", Script::Fail)])]);
    for said in ["Fail", "circuit breaker is open, next probe in 30.0s"] {
        let error = chain.run(walk(ms(1000)), play).await.unwrap_err();
        let ChainError::Exhausted { attempts, .. } = error else { panic!("{error:?}") };
        assert_eq!((&*attempts[0].detail, &*attempts[0].cause), (said, said));
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_answer_is_whole_counts_as_a_probe_and_not_among_the_calls_that_follow() {
    let (chain, breaker, _) = recovering(1);
    chain.run(walk(ms(1000)), play).await.unwrap();
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.state, snapshot.totals.success, snapshot.window.calls()), (State::Closed, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_backend_has_ended_breaks_its_silence_unless_it_may_not_have_been_the_backend() {
    for (end, failures) in [(Script::Refuse, 0), (Script::Miss, 0), (Script::Fail, 2)] {
        let hanging = guarded("a", Script::Hang, 3);
        let last = Tier { reserve: ms(10), ..Tier::new("last", vec![backend("m", Script::Answer)]) };
        let chain = FallbackChain::new(vec![tier("one", vec![Arc::clone(&hanging)]), Arc::new(last)]);
        // Each waits for 1990 ms: three in a row make 5 s full.
        for call in [None, None, Some(end), None] {
            let make = |backend: Arc<Scripted>, deadline| async move {
                match call {
                    Some(end) if backend.name == "a" => Err(Failed(end)),
                    _ => play(backend, deadline).await,
                }
            };
            let ended = chain.run(walk(ms(2000)), make).await;
            assert_eq!(ended.is_err(), matches!(call, Some(Script::Refuse)));
        }
        assert_eq!(hanging.breaker().unwrap().snapshot().totals.failure, failures, "{end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_given_too_little_time_names_the_deadline_whatever_comes_after_it() {
    let last = Tier { reserve: ms(500), ..Tier::new("last", vec![backend("b", Script::Fail)]) };
    let chain = FallbackChain::new(vec![tier("one", vec![backend("a", Script::Hang)]), Arc::new(last)]);
    let error = chain.run(walk(ms(2000)), play).await.unwrap_err();
    let ChainError::DeadlineExceeded { attempts } = error else { panic!("{error:?}") };
    assert_eq!(outcomes(&attempts), [("a", AttemptOutcome::Timeout), ("b", AttemptOutcome::Failure)]);
}

#[tokio::test(start_paused = true)]
async fn a_tier_whose_own_limit_is_less_than_what_a_call_needs_is_passed_over() {
    for (timeout, answer) in [(99, "m"), (100, "a"), (105, "a")] {
        let limited = Tier {
            timeout: Some(ms(timeout)),
            minimum: ms(100),
            ..Tier::new("one", vec![backend("a", Script::Answer)])
        };
        let last = Tier { reserve: ms(10), ..Tier::new("last", vec![backend("m", Script::Answer)]) };
        let chain = FallbackChain::new(vec![Arc::new(limited), Arc::new(last)]);
        assert_eq!(chain.run(walk(ms(1000)), play).await.unwrap().answer, answer, "{timeout}");
    }
}
