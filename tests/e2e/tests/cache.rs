//! The promise: whatever becomes of Redis (or Valkey), answers keep coming, and none is slower than its 50 ms because of it.

use aiplatform_proto::inference::v1::{AttemptOutcome, ChatResponse};
use e2e::answers::Router;
use e2e::chat::{outcomes, served_by, text};
use e2e::eventually;
use e2e::redis::{Program, Redis, Servers};

use AttemptOutcome::{CacheMiss, Failure, SkippedBreaker, Success};

fn cache_outcome(answer: &ChatResponse) -> Option<AttemptOutcome> {
    outcomes(&answer.attempts).into_iter().find(|(tier, _)| *tier == "cache").map(|(_, outcome)| outcome)
}

e2e::with_redis_and_valkey!(
    killed_in_mid_run_and_started_again_empty,
    frozen_and_thawed,
    frozen_before_the_first_request,
    out_of_memory,
    a_wrong_password_is_told_and_put_right_without_a_restart,
    a_value_that_is_no_answer,
);

async fn start(redis: &Redis) -> Router {
    Router::start(&[("REDIS_URL", redis.url())]).await
}

/// Asks until the breaker spares requests the store, every answer in time and degraded.
async fn until_spared(router: &Router, known: &str) {
    eventually("the breaker", || async {
        let answer = router.ask(known).await;
        assert!(served_by(&answer).degraded, "{answer:?}");
        let outcome = cache_outcome(&answer);
        assert!(matches!(outcome, Some(Failure | SkippedBreaker)), "{answer:?}");
        (outcome == Some(SkippedBreaker)).then_some(())
    })
    .await;
}

/// Asks until the known question is answered from the store.
async fn until_cached(router: &Router, known: &str) -> ChatResponse {
    eventually("the answer from the cache", || async {
        let answer = router.ask(known).await;
        served_by(&answer).cached.then_some(answer)
    })
    .await
}

async fn killed_in_mid_run_and_started_again_empty(program: Program) {
    let redis = Servers::of(program).start().await;
    let router = start(&redis).await;
    router.keep("a known question").await;
    router.models_down().await;
    assert_eq!(
        text(&until_cached(&router, "a known question").await),
        text(&router.ask("a known question").await)
    );
    let port = redis.port();
    redis.kill().await;
    until_spared(&router, "a known question").await;
    // The models' answers do not wait for the store either.
    router.models_up().await;
    assert_eq!(served_by(&router.ask("another question").await).tier, "max");
    let _redis = Servers::of(program).start_on(port).await;
    router.models_down().await;
    eventually("a miss of the empty store", || async {
        let answer = router.ask("a known question").await;
        assert!(served_by(&answer).degraded, "{answer:?}");
        (cache_outcome(&answer) == Some(CacheMiss)).then_some(())
    })
    .await;
    router.models_up().await;
    router.keep("a known question").await;
    router.models_down().await;
    until_cached(&router, "a known question").await;
}

async fn frozen_and_thawed(program: Program) {
    let redis = Servers::of(program).start().await;
    let router = start(&redis).await;
    router.keep("a known question").await;
    redis.signal("STOP").await;
    for _ in 0..20 {
        assert_eq!(served_by(&router.ask("a question of the frozen time").await).tier, "max");
    }
    router.models_down().await;
    until_spared(&router, "a known question").await;
    redis.signal("CONT").await;
    until_cached(&router, "a known question").await;
}

async fn frozen_before_the_first_request(program: Program) {
    let redis = Servers::of(program).start().await;
    redis.signal("STOP").await;
    let router = start(&redis).await;
    router.models_down().await;
    until_spared(&router, "a question").await;
    redis.signal("CONT").await;
    router.models_up().await;
    router.keep("a known question").await;
}

async fn out_of_memory(program: Program) {
    let redis = Servers::of(program).start().await;
    let router = start(&redis).await;
    router.keep("a known question").await;
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for round in 0..10 {
        let answer = router.ask(&format!("question {round}")).await;
        assert_eq!(outcomes(&answer.attempts), [("max", Success)]);
    }
    eventually("the counted failures", || async { (router.writes("failed").await == 10).then_some(()) })
        .await;
    router.models_down().await;
    until_cached(&router, "a known question").await;
    assert_eq!(cache_outcome(&router.ask("question 1").await), Some(CacheMiss), "reads go on");
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]).await;
    router.models_up().await;
    router.keep("a question after it").await;
}

async fn a_wrong_password_is_told_and_put_right_without_a_restart(program: Program) {
    let redis = Servers::of(program).start_with(&["--requirepass", "hunter2"]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hunter1\n").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let router =
        Router::start(&[("REDIS_URL", redis.url()), ("AIP__CACHE__REDIS__PASSWORD_FILE", path)]).await;
    let answer = router.ask("a known question").await;
    assert_eq!(outcomes(&answer.attempts), [("max", Success)]);
    router.models_down().await;
    until_spared(&router, "a known question").await;
    let told = |word: &str| router.process.output().contains(word);
    assert!(
        told("no connection to the answer cache") && told("authentication failed"),
        "{}",
        router.process.output()
    );
    assert!(!told("hunter"), "{}", router.process.output());

    std::fs::write(file.path(), "hunter2\n").unwrap();
    router.models_up().await;
    router.keep("a known question").await;
    router.models_down().await;
    until_cached(&router, "a known question").await;
}

async fn a_value_that_is_no_answer(program: Program) {
    let redis = Servers::of(program).start().await;
    let router = start(&redis).await;
    router.keep("a known question").await;
    let key = redis.cli(&["KEYS", "aip:answer:*"]).await;
    assert_eq!(key.len(), "aip:answer:".len() + 64, "one key: {key}");
    let spoil: [&[&str]; 6] = [
        &["SET", &key, "poison"],
        &["SET", &key, ""],
        &["APPEND", &key, "x"],
        &["SETRANGE", &key, "40", "x"],
        &["EVAL", "redis.call('SET', KEYS[1], redis.call('GETRANGE', KEYS[1], 0, -9))", "1", &key],
        &["EVAL", "redis.call('SET', KEYS[1], string.rep('x', 20000000))", "1", &key],
    ];
    let mut unusable = 0;
    for command in spoil {
        router.models_up().await;
        router.keep("a known question").await;
        redis.cli(command).await;
        router.models_down().await;
        eventually("the spoiled value is read", || async {
            let answer = router.ask("a known question").await;
            assert!(served_by(&answer).degraded, "{command:?}: {answer:?}");
            (cache_outcome(&answer) == Some(CacheMiss)).then_some(())
        })
        .await;
        let counted = router.reads("unusable").await;
        assert!(counted > unusable || command[2].is_empty(), "{command:?} is not counted");
        unusable = counted;
    }
    // Another type under the key is no answer either, and no fault of the server's.
    redis.cli(&["DEL", &key]).await;
    redis.cli(&["LPUSH", &key, "x"]).await;
    assert_eq!(cache_outcome(&router.ask("a known question").await), Some(CacheMiss));
    router.models_up().await;
    router.keep("a known question").await;
    router.models_down().await;
    until_cached(&router, "a known question").await;
}
