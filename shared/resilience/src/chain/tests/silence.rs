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

#[tokio::test(start_paused = true)]
async fn a_call_that_lost_against_its_hedge_says_nothing() {
    let hanging = guarded("a", Script::Hang, 1);
    let one = Tier {
        timeout: Some(ms(1000)),
        hedge: Some(Hedge::after(ms(500)).unwrap()),
        ..Tier::new("one", vec![Arc::clone(&hanging), guarded("b", Script::Answer, 1)])
    };
    let chain = FallbackChain::new(vec![Arc::new(one)]);
    for _ in 0..5 {
        assert_eq!(chain.run(walk(ms(60_000)), play).await.unwrap().answer, "b");
    }
    let totals = hanging.breaker().unwrap().snapshot().totals;
    assert_eq!((totals.failure, totals.cancelled), (0, 5));
}
