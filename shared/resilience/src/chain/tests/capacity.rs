use super::*;

fn sized(name: &str, capacity: Capacity, backend: Arc<Scripted>) -> Arc<Tier<Scripted>> {
    Arc::new(Tier { capacity, ..Tier::new(name, vec![backend]) })
}

const SKIPPED: AttemptOutcome = AttemptOutcome::Skipped(SkipReason::Request);
const REJECTED: AttemptOutcome = AttemptOutcome::Rejected;

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_large_goes_to_the_next_tier_that_is_known_to_be_larger() {
    let chain = FallbackChain::new(vec![
        sized("small", Capacity::UpTo(8), backend("a", Script::TooLarge)),
        sized("as small", Capacity::UpTo(8), backend("b", Script::Answer)),
        sized("unknown", Capacity::Unknown, backend("c", Script::Answer)),
        sized("large", Capacity::UpTo(9), backend("d", Script::Answer)),
    ]);
    let served = chain.run(walk(ms(1000)), play).await.unwrap();
    let success = AttemptOutcome::Success;
    assert_eq!(outcomes(&served.attempts), [("a", REJECTED), ("", SKIPPED), ("", SKIPPED), ("d", success)]);
}

#[tokio::test(start_paused = true)]
async fn where_no_tier_is_known_to_be_larger_the_request_is_refused() {
    let last = || tier("message", vec![backend("m", Script::Answer)]);
    for (small, large) in [
        (Capacity::UpTo(8), Capacity::UpTo(8)),
        (Capacity::UpTo(8), Capacity::Unknown),
        (Capacity::Unknown, Capacity::UpTo(9)),
    ] {
        let refusing = sized("small", small, backend("a", Script::TooLarge));
        let other = sized("other", large, backend("b", Script::Answer));
        let chain = FallbackChain::new(vec![refusing, other, last()]);
        let error = chain.run(walk(ms(1000)), play).await.unwrap_err();
        let ChainError::Stopped { attempts, .. } = error else { panic!("{error:?}") };
        assert_eq!(outcomes(&attempts), [("a", REJECTED)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_for_a_larger_tier_that_fails_falls_on_like_any_other() {
    let chain = FallbackChain::new(vec![
        sized("small", Capacity::UpTo(8), backend("a", Script::TooLarge)),
        sized("large", Capacity::UpTo(9), backend("b", Script::Fail)),
        tier("message", vec![backend("m", Script::Answer)]),
    ]);
    let served = chain.run(walk(ms(1000)), play).await.unwrap();
    let (failure, success) = (AttemptOutcome::Failure, AttemptOutcome::Success);
    assert_eq!(outcomes(&served.attempts), [("a", REJECTED), ("b", failure), ("m", success)]);
}
