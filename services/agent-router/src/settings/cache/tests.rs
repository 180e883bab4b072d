use service_kit::redis::RedisMode;

use super::*;
use crate::settings::Settings;

#[test]
fn what_belongs_to_redis_is_refused_without_one() {
    let mut config = Config::default();
    config.cache.redis.mode = RedisMode::Cluster;
    let mut problems = Problems::default();
    assert!(Settings::of(&config, &mut problems).is_none());
    let found: Vec<String> = problems.found().iter().map(ToString::to_string).collect();
    assert_eq!(found, ["cache.redis.mode: has no effect without cache.redis_url"]);
}

#[test]
fn sizes_have_limits() {
    for (bytes, fits) in [(0, false), (1, true), (512 << 20, true), ((512 << 20) + 1, false)] {
        let mut config = Config::default();
        config.cache.max_value_bytes = bytes;
        assert_eq!(Settings::of(&config, &mut Problems::default()).is_some(), fits, "{bytes}");
    }
}
