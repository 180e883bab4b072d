use super::*;

/// A backend that hangs, behind the limit of 5 s of [`tier`]. Its breaker opens at the second failure.
fn hanging() -> (Arc<Scripted>, FallbackChain<Scripted>) {
    let hanging = guarded("a", Script::Hang, 2);
    let last = Tier { reserve: ms(10), ..Tier::new("last", vec![backend("m", Script::Answer)]) };
    let chain = FallbackChain::new(vec![tier("one", vec![Arc::clone(&hanging)]), Arc::new(last)]);
    (hanging, chain)
}

fn failures(backend: &Scripted) -> u64 {
    backend.breaker().unwrap().snapshot().totals.failure
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_is_found_out_by_clients_in_a_hurry_too() {
    let (hanging, chain) = hanging();
    // Each waits for 1990 ms: the third makes 5 s full.
    for (request, expected) in [0, 0, 1, 1, 1, 2].into_iter().enumerate() {
        let served = chain.run(walk(ms(2000)), play).await.unwrap();
        assert_eq!(served.answer, "m");
        assert_eq!(served.attempts[0].outcome, AttemptOutcome::Timeout);
        assert_eq!(failures(&hanging), expected, "request {request}");
        let detail = &served.attempts[0].detail;
        let words = if request % 3 == 2 {
            "no answer within 2.0s, as nobody else had in 5.0s"
        } else {
            "no answer within 2.0s, too short to blame the backend: its limit is 5.0s"
        };
        assert_eq!(detail, words);
    }
    assert_eq!(hanging.breaker().unwrap().state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn so_it_is_by_clients_that_go_away() {
    for streaming in [false, true] {
        let (hanging, chain) = hanging();
        // The limit is 5 s, and 3 s to the first content.
        for expected in if streaming { [0, 1, 1, 2] } else { [0, 0, 1, 1] } {
            let walking = chain.open(Walk { streaming, ..walk(ms(60_000)) }, play);
            assert!(tokio::time::timeout(ms(2000), walking).await.is_err());
            assert_eq!(failures(&hanging), expected, "{streaming}");
        }
        let totals = hanging.breaker().unwrap().snapshot().totals;
        assert_eq!(totals.failure + totals.cancelled, 4, "each call settles once");
    }
}

#[tokio::test(start_paused = true)]
async fn one_answer_is_enough_to_clear_it() {
    let (backend, chain) = hanging();
    let slow = |wait| {
        move |backend: Arc<Scripted>, deadline| async move {
            if backend.name == "a" {
                tokio::time::sleep(ms(wait)).await;
                return Ok(backend.name);
            }
            play(backend, deadline).await
        }
    };
    for _ in 0..5 {
        // It takes 2.2 s. Those who have 2 s for it never know, but for one who waits.
        chain.run(walk(ms(2000)), slow(2200)).await.unwrap();
        chain.run(walk(ms(2000)), slow(2200)).await.unwrap();
        assert_eq!(chain.run(walk(ms(60_000)), slow(2200)).await.unwrap().answer, "a");
    }
    assert_eq!(failures(&backend), 0);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_in_a_hurry_is_one_wait() {
    let (hanging, chain) = hanging();
    let crowd = async |timeout| {
        let one = || chain.run(walk(ms(timeout)), play);
        let (one, two, three) = tokio::join!(one(), one(), one());
        assert!(one.is_ok() && two.is_ok() && three.is_ok());
    };
    crowd(2400).await;
    crowd(2400).await;
    assert_eq!(failures(&hanging), 0, "4.8 s");
    crowd(2400).await;
    assert_eq!(failures(&hanging), 1);
}

/// A tier of these two, in this order, with a limit of 1 s and hedges after 500 ms.
fn hedging(one: &Arc<Scripted>, other: &Arc<Scripted>) -> FallbackChain<Scripted> {
    let tier = Tier {
        timeout: Some(ms(1000)),
        hedge: Some(Hedge::after(ms(500)).unwrap()),
        ..Tier::new("one", vec![Arc::clone(one), Arc::clone(other)])
    };
    FallbackChain::new(vec![Arc::new(tier)])
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_is_found_out_behind_hedges_that_always_win_too() {
    let hanging = guarded("a", Script::Hang, 2);
    let chain = hedging(&hanging, &guarded("b", Script::Answer, 1));
    // Each waits for 500 ms: the second makes 1 s full.
    for (request, expected) in [0, 1, 1, 2].into_iter().enumerate() {
        let served = chain.run(walk(ms(60_000)), play).await.unwrap();
        assert_eq!((served.answer, failures(&hanging)), ("b", expected), "request {request}");
        let (outcome, detail) = if request % 2 == 0 {
            (AttemptOutcome::Cancelled, "another attempt was faster")
        } else {
            (AttemptOutcome::Timeout, "no answer within 500.0ms, as nobody else had in 1.0s")
        };
        assert_eq!((served.attempts[0].outcome, &*served.attempts[0].detail), (outcome, detail));
    }
    assert_eq!(hanging.breaker().unwrap().state(), State::Open);
    assert_eq!(hanging.breaker().unwrap().snapshot().totals.cancelled, 2);
    assert_eq!(chain.stats().tiers[0].failures, 2);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    assert_eq!(served.attempts[1].took, ms(0), "and nobody waits for it any longer");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_only_slower_than_its_hedge_and_answers_some_is_not() {
    let (slow, other) = (guarded("a", Script::Hang, 1), guarded("b", Script::Answer, 1));
    let chain = hedging(&slow, &other);
    let calls = AtomicU32::new(0);
    let every_other_is_quick = |backend: Arc<Scripted>, deadline| {
        let quick = backend.name == "a" && calls.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        async move { if quick { Ok(backend.name) } else { play(backend, deadline).await } }
    };
    for _ in 0..10 {
        for expected in ["b", "a"] {
            let served = chain.run(walk(ms(60_000)), every_other_is_quick).await.unwrap();
            assert_eq!(served.answer, expected);
            tokio::time::advance(ms(10_000)).await;
        }
    }
    assert_eq!(failures(&slow), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_loses_was_never_given_its_time_and_says_nothing() {
    let hedge = guarded("b", Script::Slow(900), 1);
    let chain = hedging(&guarded("a", Script::Slow(800), 1), &hedge);
    for _ in 0..10 {
        assert_eq!(chain.run(walk(ms(60_000)), play).await.unwrap().answer, "a");
    }
    let totals = hedge.breaker().unwrap().snapshot().totals;
    assert_eq!((totals.failure, totals.cancelled), (0, 10));
}
