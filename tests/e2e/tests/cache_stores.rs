//! The promise: answers are kept in one Redis (or Valkey), in the master that Sentinels name, or in a cluster; encrypted, and by
//! a user who may do no more than that.

use std::time::Duration;

use e2e::answers::Router;
use e2e::certificates::Certificates;
use e2e::chat::served_by;
use e2e::eventually;
use e2e::redis::{Program, Servers, Settings, variables};

/// What the operator's guide gives the cache's user.
const RULES: &str = "~aip:answer:* resetchannels -@all +getrange +set +ping +select +role +cluster|slots";

e2e::with_redis_and_valkey!(
    a_new_master_is_found_by_the_sentinels,
    a_new_master_is_found_by_the_sentinels_encrypted_and_with_users,
    a_cluster_spreads_answers_over_its_nodes_and_may_lose_one,
    a_cluster_spreads_answers_over_its_nodes_encrypted_and_with_a_user,
    tls_with_an_authority_of_our_own_and_a_client_certificate,
    a_user_with_no_more_than_the_guides_rules,
);

/// What a handshake may hold other requests up: it is some ten milliseconds of computing in a build without optimisation, which a
/// busy machine makes ten times as much of. How fast Redis is given up is a promise of `cache.rs`.
const HANDSHAKES: Duration = Duration::from_secs(1);

async fn start(settings: Settings) -> Router {
    let encrypted = settings.iter().any(|(_, value)| value.starts_with("rediss:"));
    let mut router = Router::start(&variables("cache", settings)).await;
    if encrypted {
        router.limit += HANDSHAKES;
    }
    router
}

async fn until_cached(router: &Router, known: &str) {
    eventually("the answer from the cache", || async {
        served_by(&router.ask(known).await).cached.then_some(())
    })
    .await;
}

fn no_secret_is_told(router: &Router) {
    let told = router.process.output();
    assert!(!told.contains("secret@") && !told.contains("watch"), "{told}");
}

async fn a_new_master_is_found_by_the_sentinels(program: Program) {
    a_new_master_is_found(Servers::of(program)).await;
}

async fn a_new_master_is_found_by_the_sentinels_encrypted_and_with_users(program: Program) {
    a_new_master_is_found(Servers::of(program).encrypted().with_user(RULES)).await;
}

async fn a_new_master_is_found(servers: Servers) {
    let mut sentinels = servers.sentinels().await;
    let router = start(sentinels.settings()).await;
    router.keep("a known question").await;
    eventually("the replica's copy", || async {
        (sentinels.replica.cli(&["DBSIZE"]).await == "1").then_some(())
    })
    .await;
    sentinels.kill_master().await;
    sentinels.failed_over().await;
    router.models_down().await;
    until_cached(&router, "a known question").await;
    router.models_up().await;
    eventually("an answer that the new master stores", || async {
        router.ask("a new question").await;
        (sentinels.replica.cli(&["DBSIZE"]).await != "1").then_some(())
    })
    .await;
    no_secret_is_told(&router);
}

async fn a_cluster_spreads_answers_over_its_nodes_and_may_lose_one(program: Program) {
    answers_are_spread(Servers::of(program)).await;
}

async fn a_cluster_spreads_answers_over_its_nodes_encrypted_and_with_a_user(program: Program) {
    answers_are_spread(Servers::of(program).encrypted().with_user(RULES)).await;
}

async fn answers_are_spread(servers: Servers) {
    let mut cluster = servers.cluster().await;
    let router = start(cluster.settings()).await;
    let questions: Vec<String> = (0..12).map(|number| format!("question {number}")).collect();
    for question in &questions {
        router.keep(question).await;
    }
    let kept = cluster.keys().await;
    assert!(kept.iter().all(|kept| *kept > 0), "{kept:?}");
    router.models_down().await;
    for question in &questions {
        until_cached(&router, question).await;
    }
    cluster.nodes.remove(0).kill().await;
    for question in &questions {
        let answer = router.ask(question).await;
        assert!(served_by(&answer).cached || served_by(&answer).degraded);
    }
    no_secret_is_told(&router);
}

async fn tls_with_an_authority_of_our_own_and_a_client_certificate(program: Program) {
    let redis = Servers::of(program).encrypted().start().await;
    let router = start(redis.settings()).await;
    router.keep("a known question").await;
    assert_eq!(redis.cli(&["DBSIZE"]).await, "1");
    router.models_down().await;
    until_cached(&router, "a known question").await;

    let foreign = Certificates::new();
    let distrust = |(field, value)| match field {
        "redis.ca_file" => (field, foreign.authority()),
        _ => (field, value),
    };
    let router = start(redis.settings().into_iter().map(distrust).collect()).await;
    router.models_down().await;
    let answer = router.ask("a known question").await;
    assert!(served_by(&answer).degraded, "{answer:?}");
    eventually("a word about the certificate", || async {
        router.process.output().contains("invalid peer certificate").then_some(())
    })
    .await;
}

async fn a_user_with_no_more_than_the_guides_rules(program: Program) {
    let redis = Servers::of(program).with_user(RULES).start().await;
    let router = Router::start(&[("REDIS_URL", redis.url() + "/2")]).await;
    router.keep("a known question").await;
    router.models_down().await;
    until_cached(&router, "a known question").await;
    no_secret_is_told(&router);

    // The same user without a right to our keys: told, and no answer held up.
    let router =
        Router::start(&[("REDIS_URL", redis.url()), ("AIP__CACHE__KEY_PREFIX", "other:".into())]).await;
    router.ask("a known question").await;
    eventually("the refused write", || async { (router.writes("failed").await > 0).then_some(()) }).await;
    router.models_down().await;
    assert!(served_by(&router.ask("a known question").await).degraded);
    assert!(router.reads("error").await > 0);
}
