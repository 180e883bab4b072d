use super::*;

fn walk(first: &str) -> Walk<'_, Scripted> {
    Walk { first: Some(first), ..Walk::new(Deadline::after(ms(1000))) }
}

fn chain(last: Script) -> FallbackChain<Scripted> {
    let tier = |name, script| Arc::new(Tier::new(name, vec![backend(name, script)]));
    FallbackChain::new(vec![tier("model", Script::Fail), tier("kept", last), tier("message", Script::Answer)])
}

fn tiers(attempts: &[Attempt]) -> Vec<&str> {
    attempts.iter().map(|attempt| &*attempt.tier).collect()
}

#[tokio::test(start_paused = true)]
async fn a_tier_can_be_asked_before_all_others() {
    let served = chain(Script::Answer).run(walk("kept"), play).await.unwrap();
    assert_eq!((served.answer, served.tier), ("kept", 1));
    assert_eq!(tiers(&served.attempts), ["kept"]);
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_it_is_asked_at_its_own_place_again() {
    let served = chain(Script::Miss).run(walk("kept"), play).await.unwrap();
    assert_eq!(tiers(&served.attempts), ["kept", "model", "kept", "message"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_failed_is_not_asked_twice_and_one_that_was_not_asked_is_asked_at_its_own_place() {
    for script in [Script::Fail, Script::Hang, Script::Busy(1)] {
        let kept = Tier { timeout: Some(ms(50)), ..Tier::new("kept", vec![guarded("kept", script, 9)]) };
        let model = || Arc::new(Tier::new("model", vec![backend("model", Script::Fail)]));
        let message = || Arc::new(Tier::new("message", vec![backend("message", Script::Answer)]));
        let chain = FallbackChain::new(vec![model(), Arc::new(kept), message()]);
        let started = Instant::now();
        let served = chain.run(walk("kept"), play).await.unwrap();
        assert_eq!(tiers(&served.attempts), ["kept", "model", "message"], "{script:?}");
        assert!(started.elapsed() <= ms(50), "{script:?}");
    }
    let open = backend("kept", Script::Answer);
    open.breaker().unwrap().acquire().unwrap().failure();
    let tier = |name, backend| Arc::new(Tier::new(name, vec![backend]));
    let model = tier("model", backend("model", Script::Fail));
    let chain = FallbackChain::new(vec![model, tier("kept", open)]);
    let ChainError::Exhausted { attempts, .. } = chain.run(walk("kept"), play).await.unwrap_err() else {
        panic!()
    };
    assert_eq!(tiers(&attempts), ["kept", "model", "kept"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_ruled_out_unknown_or_first_anyway_changes_nothing() {
    let served = chain(Script::Miss).run(walk("model"), play).await.unwrap();
    assert_eq!(tiers(&served.attempts), ["model", "kept", "message"]);
    let served = chain(Script::Miss).run(walk("unknown"), play).await.unwrap();
    assert_eq!(tiers(&served.attempts), ["model", "kept", "message"]);
    let exclude = |tier: &Tier<Scripted>| (*tier.name == *"kept").then_some("not wanted");
    let served = chain(Script::Answer).run(Walk { exclude: &exclude, ..walk("kept") }, play).await.unwrap();
    assert_eq!(tiers(&served.attempts), ["model", "kept", "message"]);
    assert_eq!(served.answer, "message");
}
