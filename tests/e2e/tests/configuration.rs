//! The promise: a setting has one value, everybody can see where it came from, and a wrong one is refused at start.

use std::io::Write as _;

use e2e::process::command;

struct Ran {
    code: Option<i32>,
    output: String,
    errors: String,
}

async fn run(name: &str, file: Option<&str>, variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let mut path = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    path.write_all(file.unwrap_or_default().as_bytes()).unwrap();
    let mut command = command(name);
    command.args(arguments).envs(variables.iter().copied());
    if file.is_some() {
        command.arg("--config").arg(path.path());
    }
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), command.output());
    let output = ended.await.expect("it ends by itself").unwrap();
    Ran {
        code: output.status.code(),
        output: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

const THRESHOLD: &str = "CIRCUIT_BREAKER_FAILURE_THRESHOLD";

#[tokio::test]
async fn the_file_wins_over_the_environment_and_that_over_the_default() {
    let print = async |file, variables: &[(&str, &str)]| {
        let ran = run("ai-platform", file, variables, &["--print-config"]).await;
        assert_eq!(ran.code, Some(0), "{}", ran.errors);
        let line =
            ran.output.lines().find(|line| line.starts_with("circuit_breaker.failure_threshold")).unwrap();
        line.to_owned()
    };
    assert_eq!(print(None, &[]).await, "circuit_breaker.failure_threshold = 3   # default");
    let by_environment = print(None, &[(THRESHOLD, "7")]).await;
    assert_eq!(by_environment, format!("circuit_breaker.failure_threshold = 7   # environment {THRESHOLD}"));
    let by_file = print(Some("circuit_breaker: {failure_threshold: 9}"), &[(THRESHOLD, "7")]).await;
    assert!(by_file.starts_with("circuit_breaker.failure_threshold = 9   # file "), "{by_file}");
}

#[tokio::test]
async fn secrets_are_printed_by_nobody() {
    let variables =
        [("REDIS_URL", "redis://user:hunter2@cache:6379"), ("AIP__TIERS__MAX__API_KEY", "sk-hunter2")];
    let ran = run("agent-router", None, &variables, &["--print-config"]).await;
    assert_eq!(ran.code, Some(0));
    assert!(ran.output.contains("cache.redis_url = redis://user:redacted@cache:6379"), "{}", ran.output);
    assert!(ran.output.contains("tiers.max.api_key = [redacted]"), "{}", ran.output);
    assert!(!ran.output.contains("hunter2"));
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_key_value_and_rule() {
    type Case<'a> = (&'a str, Option<&'a str>, &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 11] = [
        ("ai-platform", Some("gateway: {grpc_lisen: x}"), &[], "unknown key; did you mean `grpc_listen`?"),
        ("gateway", Some("gatewy: {}"), &[], "gatewy: unknown key; did you mean `gateway`?"),
        ("agent-router", None, &[("AIP__TIERS__MAX__MODLE", "x")], "did you mean `model`?"),
        (
            "agent-router",
            None,
            &[("MAX_SERVE_ENDPOINT", "max:8000")],
            "tiers.max.endpoints = max:8000 (environment MAX_SERVE_ENDPOINT): must be a URL such as http://host:8000",
        ),
        (
            "agent-router",
            None,
            &[("CIRCUIT_BREAKER_TIMEOUT_SECONDS", "0")],
            "circuit_breaker.call_timeout = 0s (environment CIRCUIT_BREAKER_TIMEOUT_SECONDS): must be longer than 0",
        ),
        (
            "agent-router",
            None,
            &[(THRESHOLD, "many")],
            "CIRCUIT_BREAKER_FAILURE_THRESHOLD = many: must be a whole number",
        ),
        (
            "api-server",
            None,
            &[("AIP__API_SERVER__HTTP_LISTEN", "0.0.0.0:8081")],
            "must be a loopback address unless there are credentials",
        ),
        ("gateway", None, &[("PRESTOP_DELAY_SECONDS", "28")], "shutdown.termination_grace_period = 30s"),
        ("gateway", Some("gateway: ["), &[], "configuration file "),
        (
            "gateway",
            None,
            &[("AIP__GATEWAY__ROUTERS", "http://a:1,http://a:1")],
            "gateway.routers = http://a:1 (environment AIP__GATEWAY__ROUTERS): must name each agent-router once",
        ),
        (
            "gateway",
            None,
            &[("AIP__GATEWAY__BALANCING__NAME_SERVERS", "dns.example")],
            "must be the IP address of a name server",
        ),
    ];
    for (name, file, variables, expected) in cases {
        let ran = run(name, file, variables, &[]).await;
        assert_eq!(ran.code, Some(2), "{name} {expected}: {}", ran.errors);
        assert!(ran.errors.starts_with(&format!("{name}: ")), "{}", ran.errors);
        assert!(ran.errors.contains(expected), "{expected} is not in {}", ran.errors);
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = run("gateway", None, &[("AIP__GATEWAY__GRPC_LISTEN", &address)], &[]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.errors.contains(&format!("cannot listen on {address} for gRPC")), "{}", ran.errors);
}

#[tokio::test]
async fn the_annotated_example_is_accepted_by_every_service_and_says_the_defaults() {
    let example = include_str!("../../../deploy/config/ai-platform.yaml");
    for name in ["gateway", "agent-router", "api-server", "ai-platform"] {
        let with = run(name, Some(example), &[], &["--print-config"]).await;
        assert_eq!(with.code, Some(0), "{name}: {}", with.errors);
        let values = |ran: &Ran| -> Vec<String> {
            ran.output.lines().map(|line| line.split("   # ").next().unwrap_or_default().to_owned()).collect()
        };
        if name != "ai-platform" {
            let without = run(name, None, &[], &["--print-config"]).await;
            assert_eq!(values(&with), values(&without), "{name}");
        }
    }
}

/// The settings of the annotated example as the manual writes them: `agents[].name`, `tiers.X.model`. Those in comments too.
fn settings(example: &str) -> Vec<String> {
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut found = Vec::new();
    for line in example.lines() {
        let key = line.trim_start_matches([' ', '#', '-']);
        let Some((key_name, value)) = key.split_once(':') else { continue };
        let is_key = key_name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_key || !(value.is_empty() || value.starts_with(' ')) {
            continue;
        }
        // A comment's mark and the space behind it stand where the key would.
        let indent = line.len() - key.len() - if line.trim_start().starts_with('#') { 2 } else { 0 };
        path.retain(|(outer, _)| *outer < indent);
        path.push((indent, key_name));
        if value.split('#').next().is_some_and(|value| !value.trim().is_empty()) {
            let names: Vec<&str> = path.iter().map(|(_, name)| *name).collect();
            found.push(match names.as_slice() {
                ["agents", rest @ ..] => format!("agents[].{}", rest.join(".")),
                ["tiers", _, rest @ ..] => format!("tiers.X.{}", rest.join(".")),
                names => names.join("."),
            });
        }
    }
    found
}

#[test]
fn the_manual_lists_every_setting_of_the_annotated_example() {
    let settings = settings(include_str!("../../../deploy/config/ai-platform.yaml"));
    for known in
        ["gateway.routers", "agents[].sampling.max_tokens", "tiers.X.dns.interval", "telemetry.service_name"]
    {
        assert!(settings.iter().any(|setting| setting == known), "{known} is not in {settings:?}");
    }
    let manual = include_str!("../../../docs/configuration.md");
    let unlisted: Vec<_> =
        settings.iter().filter(|setting| !manual.contains(&format!("| `{setting}` |"))).collect();
    assert!(unlisted.is_empty(), "{unlisted:?}");
}

#[tokio::test]
async fn help_and_version_are_there() {
    for name in ["gateway", "agent-router", "api-server", "ai-platform", "upstream-sim"] {
        let help = run(name, None, &[], &["--help"]).await;
        assert_eq!(help.code, Some(0));
        assert!(help.output.contains("Usage: ") && help.output.contains("healthcheck"), "{}", help.output);
        let version = run(name, None, &[], &["--version"]).await;
        assert_eq!(version.output.trim(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
    }
}
