use super::hedge::{chain_of, hedging, slow};
use super::*;

fn walk(trail: &Trail) -> Walk<'_, Scripted> {
    Walk { trail: Some(trail), ..Walk::new(Deadline::after(ms(60_000))) }
}

fn outcomes(attempts: &[Attempt]) -> Vec<(&str, AttemptOutcome, u128)> {
    attempts.iter().map(|attempt| (&*attempt.backend, attempt.outcome, attempt.took.as_millis())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_is_dropped_leaves_every_attempt() {
    let hanging = || Tier::new("two", vec![backend("b", Script::Hang)]);
    let chain = chain_of(vec![Tier::new("one", vec![backend("a", Script::Fail)]), hanging()]);
    let trail = Trail::new();
    assert!(tokio::time::timeout(ms(300), chain.run(walk(&trail), play)).await.is_err());
    let attempts = trail.take();
    assert_eq!(
        outcomes(&attempts),
        [("a", AttemptOutcome::Failure, 0), ("b", AttemptOutcome::Cancelled, 300)]
    );
    let words = "given up with the request";
    assert_eq!((&*attempts[1].detail, &*attempts[1].cause), (words, words));
    assert_eq!((chain.stats().requests, chain.stats().cancelled), (1, 1));
    assert!(trail.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_was_under_way_is_left_too() {
    let chain = chain_of(vec![hedging("one", vec![slow("a", 2000), slow("b", 2000)])]);
    let trail = Trail::new();
    assert!(tokio::time::timeout(ms(700), chain.run(walk(&trail), play)).await.is_err());
    let cancelled = AttemptOutcome::Cancelled;
    assert_eq!(outcomes(&trail.take()), [("a", cancelled, 700), ("b", cancelled, 200)]);
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_ends_leaves_nothing() {
    let trail = Trail::new();
    let chain = chain_of(vec![Tier::new("one", vec![backend("a", Script::Answer)])]);
    assert_eq!(chain.run(walk(&trail), play).await.unwrap().attempts.len(), 1);
    let failing = chain_of(vec![Tier::new("one", vec![backend("a", Script::Fail)])]);
    assert!(failing.run(walk(&trail), play).await.is_err());
    assert!(trail.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_what_this_walk_has_done_is_left() {
    let failing = chain_of(vec![Tier::new("one", vec![backend("a", Script::Fail)])]);
    let Err(ChainError::Exhausted { attempts, .. }) = failing.run(walk(&Trail::new()), play).await else {
        panic!("it fails")
    };
    let chain = chain_of(vec![Tier::new("one", vec![backend("b", Script::Hang)])]);
    let trail = Trail::new();
    let going_on = Walk { attempts, ..walk(&trail) };
    assert!(tokio::time::timeout(ms(300), chain.run(going_on, play)).await.is_err());
    assert_eq!(outcomes(&trail.take()), [("b", AttemptOutcome::Cancelled, 300)]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_answered_elsewhere_is_not_called_cancelled() {
    let chain = chain_of(vec![Tier::new("one", vec![backend("a", Script::Hang)])]);
    let trail = Trail::new();
    let walked = async {
        let walk = std::pin::pin!(chain.run(walk(&trail), play));
        assert!(tokio::time::timeout(ms(300), walk).await.is_err());
        trail.answered_elsewhere();
    };
    walked.await;
    assert_eq!((chain.stats().requests, chain.stats().cancelled), (0, 0));
    assert_eq!(trail.take().len(), 1);
}
