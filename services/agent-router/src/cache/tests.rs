use aiplatform_proto::inference::v1::FinishReason;
use prometheus_client::registry::Registry;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::answer::{Origin, assistant_message};
use crate::settings::StoreSettings;

fn settings(write_queue: usize) -> CacheSettings {
    CacheSettings {
        store: StoreSettings::Memory { bytes: 1024 * 1024 },
        max_value_bytes: 1024,
        compress_from_bytes: 512,
        write_queue,
    }
}

fn answer(text: String, finish_reason: FinishReason) -> Answer {
    Answer { message: assistant_message(text), finish_reason, usage: None, origin: Origin::model("m") }
}

fn key(question: &str) -> CacheKey {
    CacheKey::of_digest(Sha256::digest(question).into())
}

const TTL: Duration = Duration::from_secs(60);

#[tokio::test]
async fn only_whole_answers_of_a_bearable_size_are_stored() {
    let mut registry = Registry::default();
    let metrics = CacheMetrics::register(&mut registry);
    let (cache, upkeep) = AnswerCache::open(&settings(8), metrics);
    cache.store_soon(key("whole"), &answer("hello".into(), FinishReason::Stop), TTL);
    cache.store_soon(key("cut"), &answer("hel".into(), FinishReason::Unspecified), TTL);
    cache.store_soon(key("empty"), &answer(String::new(), FinishReason::Stop), TTL);
    let mut refused = answer(String::new(), FinishReason::Stop);
    refused.message.refusal = "no".into();
    cache.store_soon(key("refused"), &refused, TTL);
    cache.store_soon(key("large"), &answer("x".repeat(2000), FinishReason::Stop), TTL);
    let stop = CancellationToken::new();
    stop.cancel();
    upkeep.run(stop).await;
    let found = cache.read(key("whole")).await.unwrap();
    assert_eq!(crate::answer::text_of(&found.message), "hello");
    for absent in ["cut", "empty", "refused", "large", "never asked"] {
        assert_eq!(cache.read(key(absent)).await.unwrap_err(), UpstreamError::CacheMiss, "{absent}");
    }
    let text = service_kit::metrics::encode(&registry).unwrap();
    for line in [
        "aip_cache_requests_total{result=\"hit\"} 1",
        "aip_cache_requests_total{result=\"miss\"} 5",
        "aip_cache_writes_total{result=\"stored\"} 1",
        "aip_cache_writes_total{result=\"too_large\"} 1",
    ] {
        assert!(text.contains(line), "{line} not in {text}");
    }
}

#[tokio::test]
async fn a_full_queue_drops_and_counts_and_never_waits() {
    let mut registry = Registry::default();
    let metrics = CacheMetrics::register(&mut registry);
    let (cache, _upkeep) = AnswerCache::open(&settings(1), metrics);
    for _ in 0..3 {
        cache.store_soon(key("q"), &answer("a".into(), FinishReason::Stop), TTL);
    }
    let text = service_kit::metrics::encode(&registry).unwrap();
    assert!(text.contains("aip_cache_writes_total{result=\"dropped\"} 2"), "{text}");
}

#[tokio::test]
async fn the_queue_is_bounded_by_bytes_too() {
    let mut registry = Registry::default();
    let metrics = CacheMetrics::register(&mut registry);
    let (cache, _upkeep) = AnswerCache::open(&settings(1000), metrics);
    for _ in 0..100 {
        cache.store_soon(key("q"), &answer("x".repeat(1000), FinishReason::Stop), TTL);
    }
    let text = service_kit::metrics::encode(&registry).unwrap();
    assert!(text.contains("aip_cache_writes_total{result=\"dropped\"} 35"), "{text}");
}

#[tokio::test]
async fn a_value_that_is_no_answer_is_a_counted_miss() {
    let mut registry = Registry::default();
    let (cache, _upkeep) = AnswerCache::open(&settings(1), CacheMetrics::register(&mut registry));
    cache.stored.set(key("poisoned"), b"poison".to_vec(), TTL).await.unwrap();
    assert_eq!(cache.read(key("poisoned")).await.unwrap_err(), UpstreamError::CacheMiss);
    let text = service_kit::metrics::encode(&registry).unwrap();
    for line in
        ["aip_cache_requests_total{result=\"unusable\"} 1", "aip_cache_requests_total{result=\"miss\"} 1"]
    {
        assert!(text.contains(line), "{line} not in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_writer_rests_between_answers_and_then_stores_all_that_came() {
    let metrics = CacheMetrics::register(&mut Registry::default());
    let (cache, upkeep) = AnswerCache::open(&settings(64), metrics);
    let stop = CancellationToken::new();
    let asks = async {
        let whole = answer("hello".into(), FinishReason::Stop);
        cache.store_soon(key("first"), &whole, TTL);
        while cache.read(key("first")).await.is_err() {
            tokio::task::yield_now().await;
        }
        let questions: Vec<CacheKey> = (0..40).map(|n| key(&n.to_string())).collect();
        for question in &questions {
            cache.store_soon(*question, &whole, TTL);
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(cache.read(questions[0]).await.unwrap_err(), UpstreamError::CacheMiss, "it rests");
        sleep(2 * REST).await;
        for question in &questions {
            cache.read(*question).await.unwrap();
        }
        stop.cancel();
    };
    tokio::join!(asks, upkeep.run(stop.clone()));
}
