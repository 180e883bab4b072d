use parking_lot::Mutex;

use super::*;

/// A pool whose order is the affinity's, and whose members come and go.
#[derive(Debug)]
struct Turning(Mutex<Vec<Arc<Scripted>>>);

impl Pool<Scripted> for Turning {
    fn members(&self) -> Arc<[Arc<Scripted>]> {
        self.0.lock().clone().into()
    }

    fn candidates(&self, affinity: Option<u64>) -> Vec<Arc<Scripted>> {
        let mut backends = self.0.lock().clone();
        let first = usize::try_from(affinity.unwrap_or_default()).unwrap() % backends.len();
        backends.rotate_left(first);
        backends
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_says_who_is_asked_and_in_which_order() {
    let pool = Turning(Mutex::new(vec![backend("a", Script::Fail), backend("b", Script::Answer)]));
    let pool = Arc::new(pool);
    let chain = FallbackChain::new(vec![Arc::new(Tier::of_pool("one", Arc::clone(&pool) as _))]);
    let served = chain.run(Walk { affinity: Some(1), ..walk(ms(1000)) }, play).await.unwrap();
    assert_eq!(outcomes(&served.attempts), [("b", AttemptOutcome::Success)]);
    let served = chain.run(walk(ms(1000)), play).await.unwrap();
    assert_eq!(outcomes(&served.attempts), [("a", AttemptOutcome::Failure), ("b", AttemptOutcome::Success)]);

    pool.0.lock().push(backend("c", Script::Answer));
    let names = |breakers: Vec<CircuitBreaker>| -> Vec<String> {
        breakers.iter().map(|breaker| breaker.name().to_owned()).collect()
    };
    assert_eq!(names(chain.tiers()[0].breakers()), ["a", "b", "c"]);
    let served = chain.run(Walk { affinity: Some(2), ..walk(ms(1000)) }, play).await.unwrap();
    assert_eq!(served.answer, "c");
}

#[tokio::test(start_paused = true)]
async fn a_request_can_rule_single_backends_out() {
    let chain = FallbackChain::new(vec![tier(
        "one",
        vec![backend("a", Script::Answer), backend("b", Script::Answer)],
    )]);
    let not_a = |backend: &Scripted| (backend.name == "a").then_some("it has had its turn");
    let served = chain.run(Walk { skip_backend: &not_a, ..walk(ms(1000)) }, play).await.unwrap();
    let skipped = AttemptOutcome::Skipped(SkipReason::Request);
    assert_eq!(outcomes(&served.attempts), [("a", skipped), ("b", AttemptOutcome::Success)]);
    assert_eq!(served.attempts[0].detail, "it has had its turn");
}

#[tokio::test(start_paused = true)]
async fn a_second_walk_goes_on_in_the_record_of_the_first() {
    let chain = FallbackChain::new(vec![
        tier("one", vec![backend("a", Script::Answer)]),
        tier("two", vec![backend("b", Script::Answer)]),
    ]);
    let started = Instant::now();
    let first = chain.run(Walk { started, ..walk(ms(5000)) }, play).await.unwrap();
    tokio::time::advance(ms(300)).await;
    let not_one = |tier: &Tier<Scripted>| (&*tier.name == "one").then_some("it broke off");
    let walk = Walk { started, exclude: &not_one, attempts: first.attempts, ..walk(ms(5000)) };
    let second = chain.run(walk, play).await.unwrap();
    let skipped = AttemptOutcome::Skipped(SkipReason::Request);
    let success = AttemptOutcome::Success;
    assert_eq!(outcomes(&second.attempts), [("a", success), ("", skipped), ("b", success)]);
    assert_eq!(second.attempts[2].started_after, ms(300));
    assert_eq!(chain.stats().tiers[0].attempts, 1, "the first walk's attempt is counted once");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_wants_rest_gets_it_from_everybody() {
    let busy = guarded("a", Script::Busy(7000), 1);
    let chain = FallbackChain::new(vec![
        tier("one", vec![Arc::clone(&busy)]),
        tier("two", vec![backend("b", Script::Answer)]),
    ]);
    let told = chain.run(walk(ms(5000)), play).await.unwrap();
    assert_eq!(outcomes(&told.attempts), [("a", AttemptOutcome::Overloaded), ("b", AttemptOutcome::Success)]);
    tokio::time::advance(ms(6000)).await;
    let other = chain.run(walk(ms(5000)), play).await.unwrap();
    let resting = AttemptOutcome::Skipped(SkipReason::Resting);
    assert_eq!(outcomes(&other.attempts), [("a", resting), ("b", AttemptOutcome::Success)]);
    assert_eq!(other.attempts[0].detail, "asked to be left alone for 1.0s more");
    assert_eq!(chain.stats().tiers[0].skipped_by, SkipCounts { resting: 1, ..SkipCounts::default() });

    let only_one = |tier: &Tier<Scripted>| (&*tier.name != "one").then_some("pinned to `one`");
    let pinned = || Walk { exclude: &only_one, ..walk(ms(5000)) };
    let ChainError::Exhausted { retry_after, .. } = chain.run(pinned(), play).await.unwrap_err() else {
        panic!()
    };
    assert_eq!(retry_after, Some(ms(1000)), "the caller is told when it is over");
    tokio::time::advance(ms(1000)).await;
    chain.run(pinned(), play).await.unwrap_err();
    assert_eq!(busy.calls.load(Ordering::Relaxed), 2, "asked again once it is over");
    assert_eq!(busy.breaker().unwrap().state(), State::Closed, "and its breaker knows of no failure");
}
