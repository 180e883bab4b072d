use std::io::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gateway {
    listen: ListenAddress,
    timeout: Seconds,
    #[serde(deserialize_with = "comma_separated")]
    routers: Vec<Endpoint>,
    redis_url: Option<SecretUrl>,
    enabled: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    gateway: Gateway,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            gateway: Gateway {
                listen: ListenAddress::loopback(50051),
                timeout: Seconds::new(5),
                routers: vec!["http://127.0.0.1:50052".parse().unwrap()],
                redis_url: None,
                enabled: true,
            },
        }
    }
}

impl ServiceConfig for Config {
    const ENVIRONMENT: &'static [&'static [EnvVar]] = &[&[
        EnvVar::new("TIMEOUT_SECONDS", "gateway.timeout", Parse::Seconds),
        EnvVar::new("REDIS_URL", "gateway.redis_url", Parse::Text),
        EnvVar::new("ENABLED", "gateway.enabled", Parse::Bool),
    ]];

    fn check(&self, problems: &mut Problems) {
        let timeout = self.gateway.timeout;
        problems.require(timeout.0 > Duration::ZERO, "gateway.timeout", timeout, "must be longer than 0");
        problems.require(
            !self.gateway.routers.is_empty(),
            "gateway.routers",
            "[]",
            "must name at least one router",
        );
    }
}

fn read(file: &str, variables: &[(&str, &str)]) -> Result<Loaded<Config>, String> {
    let environment: Environment = variables.iter().copied().collect();
    let mut path = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    path.write_all(file.as_bytes()).unwrap();
    let name = path.path().display().to_string();
    load(Some(path.path()), &environment).map_err(|error| error.to_string().replace(&name, "FILE"))
}

fn refusal(file: &str, variables: &[(&str, &str)]) -> String {
    read(file, variables).unwrap_err()
}

#[test]
fn the_file_wins_over_the_environment_and_that_over_the_default() {
    let variables = [("TIMEOUT_SECONDS", "7")];
    let by_default = read("", &[]).unwrap();
    assert_eq!(by_default.config.gateway.timeout, Seconds::new(5));
    let by_environment = read("gateway:\n", &variables).unwrap();
    assert_eq!(by_environment.config.gateway.timeout, Seconds::new(7));
    let by_file = read("gateway: {timeout: 250ms}", &variables).unwrap();
    assert_eq!(by_file.config.gateway.timeout.0, Duration::from_millis(250));
}

#[test]
fn each_value_is_printed_with_its_source_and_secrets_are_not() {
    let variables = [("REDIS_URL", "redis://user:hunter2@cache:6379/0"), ("AIP__GATEWAY__LISTEN", "[::1]:1")];
    let text = read("gateway: {timeout: 9}", &variables).unwrap().to_text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.contains(&"gateway.enabled = true   # default"), "{text}");
    assert!(lines.contains(&"gateway.listen = [::1]:1   # environment AIP__GATEWAY__LISTEN"), "{text}");
    assert!(
        text.contains("gateway.redis_url = redis://user:redacted@cache:6379/0   # environment REDIS_URL")
    );
    assert!(text.contains("gateway.timeout = 9s   # file "), "{text}");
    assert!(!text.contains("hunter2"));
    let config = read("", &variables).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn other_services_sections_are_left_alone() {
    let config = read("tiers: {max: {}}\ngateway: {enabled: false}", &[("AIP__CACHE__TTL", "1h")]).unwrap();
    assert!(!config.config.gateway.enabled);
}

#[test]
fn lists_may_be_written_with_commas() {
    let variables = [("AIP__GATEWAY__ROUTERS", "http://a:1, http://b:2/")];
    let routers = read("", &variables).unwrap().config.gateway.routers;
    assert_eq!(routers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["http://a:1", "http://b:2"]);
    let routers = read("gateway: {routers: ['http://c:3']}", &variables).unwrap().config.gateway.routers;
    assert_eq!(routers[0].authority(), "c:3");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known() {
    assert_eq!(
        refusal("gateway: {timout: 5s}", &[]),
        "gateway.timout (file FILE): unknown key; did you mean `timeout`?"
    );
    assert_eq!(refusal("gatway: {}", &[]), "gatway: unknown key; did you mean `gateway`?");
    let by_environment = refusal("", &[("AIP__GATEWAY__TIMOUT", "5s")]);
    assert_eq!(
        by_environment,
        "gateway.timout (environment AIP__GATEWAY__TIMOUT): unknown key; did you mean `timeout`?"
    );
    assert_eq!(
        refusal("", &[("AIP__GATWAY__X", "1")]),
        "AIP__GATWAY__X: unknown key; did you mean `gateway`?"
    );
}

#[test]
fn a_wrong_value_is_refused_with_key_value_source_and_rule() {
    let cases = [
        (
            "gateway: {timeout: soon}",
            "gateway.timeout = soon (file FILE): must be a time such as 5s or 250ms, or a number of seconds",
        ),
        ("gateway: {timeout: 11years}", "gateway.timeout = 11years (file FILE): must be at most ten years"),
        ("gateway: {timeout: -1}", "gateway.timeout = -1 (file FILE): must not be negative"),
        (
            "gateway: {listen: here}",
            "gateway.listen = here (file FILE): must be an IP address and a port, such as 127.0.0.1:50051 or [::]:50051",
        ),
        (
            "gateway: {routers: [localhost]}",
            "gateway.routers.0 = localhost (file FILE): must be a URL such as http://host:8000",
        ),
        (
            "gateway: {routers: ['http://me:hunter2@host:1']}",
            "gateway.routers.0 = http://[redacted]@host:1 (file FILE): must be a URL without user and password",
        ),
        (
            "gateway: {timeout: 0s, routers: []}",
            "gateway.timeout = 0s (file FILE): must be longer than 0\ngateway.routers = [] (file FILE): must name at least one router",
        ),
    ];
    for (file, expected) in cases {
        assert_eq!(refusal(file, &[]), expected);
    }
    assert_eq!(refusal("", &[("ENABLED", "maybe")]), "ENABLED = maybe: must be true or false");
    assert_eq!(
        refusal("", &[("TIMEOUT_SECONDS", "NaN")]),
        "TIMEOUT_SECONDS = NaN: must be a number of seconds of at least 0"
    );
}

#[test]
fn a_wrong_secret_is_not_shown() {
    let error = refusal("", &[("REDIS_URL", "hunter2")]);
    assert_eq!(error, "gateway.redis_url (environment REDIS_URL): must be a URL");
}

#[test]
fn a_file_that_is_not_yaml_is_refused_with_its_name() {
    let error = refusal("gateway: [", &[]);
    assert!(error.starts_with("configuration file FILE: "), "{error}");
}

#[test]
fn all_values_of_wrong_types_are_told_in_one_run() {
    let file =
        "gateway: {timeout: soon, timout: 1s, listen: here, routers: [localhost, alsohost], enabled: 7}";
    let refusal = refusal(file, &[("AIP__GATEWAY__REDIS_URL", "hunter2")]);
    let mut lines: Vec<&str> = refusal.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "gateway.enabled = 7 (file FILE): must be a boolean, not unsigned int `7`",
            "gateway.listen = here (file FILE): must be an IP address and a port, such as 127.0.0.1:50051 or [::]:50051",
            "gateway.redis_url (environment AIP__GATEWAY__REDIS_URL): must be a URL",
            "gateway.routers.0 = localhost (file FILE): must be a URL such as http://host:8000",
            "gateway.timeout = soon (file FILE): must be a time such as 5s or 250ms, or a number of seconds",
            "gateway.timout (file FILE): unknown key; did you mean `timeout`?",
        ]
    );
}

#[test]
fn a_key_that_is_given_twice_is_refused() {
    for file in ["gateway: {enabled: true, enabled: false}", "gateway: {}\ngateway: {}"] {
        let error = refusal(file, &[]);
        assert!(error.contains("duplicate entry"), "{error}");
    }
}
