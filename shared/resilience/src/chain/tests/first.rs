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

/// Two tiers that keep 3 s for each other and have 10 s together, and what each was given.
async fn given(first: &str, hanging: &str) -> (Vec<(&'static str, u128)>, Option<&'static str>) {
    let tier = |name| {
        let limits = Tier {
            reserve: ms(3000),
            minimum: ms(500),
            ..Tier::new(name, vec![backend(name, Script::Hang)])
        };
        Arc::new(limits)
    };
    let given = parking_lot::Mutex::new(Vec::new());
    let call = |backend: Arc<Scripted>, deadline: Deadline| {
        given.lock().push((backend.name, deadline.remaining().as_millis()));
        let hangs = backend.name == hanging;
        async move { if hangs { play(backend, deadline).await } else { Ok(backend.name) } }
    };
    let chain = FallbackChain::new(vec![tier("a"), tier("b")]);
    let walk = Walk { first: Some(first), ..Walk::new(Deadline::after(ms(10_000))) };
    let answer = chain.run(walk, call).await.ok().map(|served| served.answer);
    (given.into_inner(), answer)
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_leaves_time_for_those_that_it_overtook() {
    assert_eq!(given("a", "a").await, (vec![("a", 7000), ("b", 3000)], Some("b")), "in their own order");
    assert_eq!(given("b", "b").await, (vec![("b", 7000), ("a", 3000)], Some("a")));
}

#[tokio::test(start_paused = true)]
async fn time_is_kept_for_it_at_its_own_place_only_if_it_is_asked_there() {
    let times = async |script| {
        let given = parking_lot::Mutex::new(Vec::new());
        let call = |backend: Arc<Scripted>, deadline: Deadline| {
            given.lock().push((backend.name, deadline.remaining().as_millis()));
            play(backend, deadline)
        };
        let tier = |name, script| Tier { reserve: ms(300), ..Tier::new(name, vec![backend(name, script)]) };
        let tiers = [tier("model", Script::Answer), tier("kept", script)];
        let chain = FallbackChain::new(tiers.map(Arc::new).to_vec());
        chain.run(walk("kept"), call).await.unwrap();
        given.into_inner()
    };
    assert_eq!(times(Script::Miss).await, [("kept", 700), ("model", 700)]);
    assert_eq!(times(Script::Fail).await, [("kept", 700), ("model", 1000)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_for_it_goes_to_a_larger_one_that_it_overtook() {
    let tier = |name, capacity, script| {
        Arc::new(Tier { capacity: Capacity::UpTo(capacity), ..Tier::new(name, vec![backend(name, script)]) })
    };
    let tiers = |overtaken| {
        FallbackChain::new(vec![tier("a", overtaken, Script::Answer), tier("kept", 8, Script::TooLarge)])
    };
    assert_eq!(tiers(16).run(walk("kept"), play).await.unwrap().answer, "a");
    let error = tiers(8).run(walk("kept"), play).await.unwrap_err();
    assert!(matches!(error, ChainError::Stopped { .. }), "{error:?}");
}
