//! Errors as OpenAI's clients know them: an object, a status code, and when to come back.
//!
//! The status code is chosen by `service_kit::status`, where each reason has its codes. Here it gets the words that OpenAI has
//! for it, and the names of fields turn into those of OpenAI's requests.

use std::collections::HashMap;

use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use service_kit::status::{PUSHBACK, Reason, http_status, reason_of};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// OpenAI's clients prefer it to `retry-after`, which knows whole seconds only.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// OpenAI's clients do as it says, whatever the status code.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Headers that speak gRPC, or of a body that is replaced.
const REPLACED: [&str; 6] =
    ["content-type", "content-length", "grpc-status", "grpc-message", "grpc-status-details-bin", PUSHBACK];

/// What is said of an error.
#[derive(Debug, Serialize)]
struct ErrorBody {
    error: ErrorObject,
    aip: Details,
}

#[derive(Debug, Serialize)]
struct ErrorObject {
    message: String,
    r#type: &'static str,
    param: Option<String>,
    code: String,
}

/// What gRPC's ErrorInfo says.
#[derive(Debug, Serialize)]
struct Details {
    reason: String,
    metadata: HashMap<String, String>,
}

/// The JSON of an error.
pub(super) fn json(status: &Status) -> Vec<u8> {
    let (param, message) = field(status);
    let details = status.get_error_details();
    let metadata = details.error_info().map(|info| info.metadata.clone()).unwrap_or_default();
    let reason =
        reason_of(status).unwrap_or_else(|| service_kit::status::code_name(status.code()).to_owned());
    let error = ErrorObject { message, r#type: kind(status), param, code: code(status, &reason) };
    let body = ErrorBody { error, aip: Details { reason, metadata } };
    // Texts and maps of texts: there is nothing in it that could not be written.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// A response of nothing but an error, with what other layers said in headers.
pub(super) fn response(status: &Status, mut headers: HeaderMap) -> Response<Body> {
    for name in REPLACED {
        headers.remove(name);
    }
    let code = http_status(status);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(wait) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        headers.insert(RETRY_AFTER, HeaderValue::from(milliseconds.div_ceil(1000).max(1)));
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(milliseconds));
    }
    if status.metadata().get(PUSHBACK).is_some_and(|wait| wait == "-1") {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if code == StatusCode::UNAUTHORIZED {
        headers.entry(WWW_AUTHENTICATE).or_insert(HeaderValue::from_static("Bearer"));
    }
    let mut response = Response::new(Body::new(http_body_util::Full::from(json(status))));
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    response
}

/// OpenAI's `type`.
fn kind(status: &Status) -> &'static str {
    let code = http_status(status);
    if code == StatusCode::TOO_MANY_REQUESTS {
        "rate_limit_error"
    } else if code == StatusCode::FORBIDDEN {
        "permission_error"
    } else if code.is_client_error() {
        "invalid_request_error"
    } else {
        "server_error"
    }
}

/// OpenAI's `code`: its own word where it has one, else our reason.
fn code(status: &Status, reason: &str) -> String {
    match (Reason::of(status), status.code()) {
        (Some(Reason::ContentPolicy), _) => "content_policy_violation".to_owned(),
        (_, Code::Unauthenticated) => "invalid_api_key".to_owned(),
        (_, Code::ResourceExhausted) if http_status(status) == StatusCode::TOO_MANY_REQUESTS => {
            "rate_limit_exceeded".to_owned()
        }
        _ => reason.to_ascii_lowercase(),
    }
}

/// The first field that broke a rule, by its name in OpenAI's request, and the message with that name.
fn field(status: &Status) -> (Option<String>, String) {
    let details = status.get_error_details();
    let violation = details.bad_request().and_then(|request| request.field_violations.first());
    let message = status.message();
    let Some(violation) = violation.filter(|violation| !violation.field.is_empty()) else {
        return match Reason::of(status) {
            // A model that is not there is OpenAI's best known wrong field.
            Some(Reason::ModelNotFound) => {
                (Some("model".to_owned()), message.replace("ListModels", "GET /v1/models"))
            }
            Some(Reason::TierNotFound) => named("tier", message),
            _ => (None, message.to_owned()),
        };
    };
    named(&violation.field, message)
}

/// A field by its name in OpenAI's request, and the message about it with that name.
fn named(field: &str, message: &str) -> (Option<String>, String) {
    let param = openai_name(field);
    let said = message.strip_prefix(field).filter(|rest| rest.starts_with(": "));
    let message = said.map_or_else(|| message.to_owned(), |rest| format!("{param}{rest}"));
    (Some(param), message)
}

/// A field of our API by its name in OpenAI's request. One that has that name already keeps it.
fn openai_name(field: &str) -> String {
    if let Some(name) = ["sampling.", "extra_body.", "extra_body_json."]
        .into_iter()
        .find_map(|prefix| field.strip_prefix(prefix))
    {
        return name.to_owned();
    }
    // JSON has a field more with us: its text.
    let field = field.strip_suffix("_json").unwrap_or(field);
    match field {
        "tool_choice.mode" => return "tool_choice".to_owned(),
        "tool_choice.function" => return "tool_choice.function.name".to_owned(),
        "tier" | "cache" | "allow_degraded" | "session" => return format!("aip.{field}"),
        _ => {}
    }
    if let Some((tool, rest)) = field.split_once("].")
        && tool.starts_with("tools[")
        && !rest.starts_with("function")
        && rest != "type"
    {
        return format!("{tool}].function.{rest}");
    }
    if field.ends_with("].image_url") { format!("{field}.url") } else { field.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn read(status: &Status) -> (u16, serde_json::Value, HeaderMap) {
        let response = response(status, HeaderMap::new());
        let json = serde_json::from_slice(&json(status)).unwrap();
        (response.status().as_u16(), json, response.headers().clone())
    }

    /// The manual's row of an error: status code, type, code.
    fn documented(reason: &str) -> Option<[&'static str; 3]> {
        let manual = include_str!("../../../../docs/openai.md");
        let rows = manual.lines().filter(|line| line.starts_with('|'));
        rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`')).collect::<Vec<_>>())
            .find_map(|cells| (*cells.get(4)? == reason).then(|| [cells[1], cells[2], cells[3]]))
    }

    #[test]
    fn each_reason_is_what_the_manual_says() {
        for reason in Reason::ALL {
            let (status, json, _) = read(&reason.status("what happened").build());
            let Some(row) = documented(reason.as_str()) else {
                // Those are the control plane's.
                let elsewhere = [
                    Reason::CircuitBreakerNotFound,
                    Reason::FallbackChainNotFound,
                    Reason::NoReplicaReachable,
                    Reason::NotServed,
                ];
                assert!(elsewhere.contains(&reason), "{reason:?} is not in docs/openai.md");
                continue;
            };
            let error = &json["error"];
            let told =
                [&status.to_string(), error["type"].as_str().unwrap(), error["code"].as_str().unwrap()];
            assert_eq!(told, row, "{reason:?}");
            assert_eq!(json["aip"]["reason"], reason.as_str());
            assert_eq!(error["message"], "what happened");
        }
    }

    #[test]
    fn credentials_and_quotas_have_openais_own_words() {
        for (code, status, kind, word) in [
            (Code::Unauthenticated, 401, "invalid_request_error", "invalid_api_key"),
            (Code::PermissionDenied, 403, "permission_error", "permission_denied"),
            (Code::ResourceExhausted, 429, "rate_limit_error", "rate_limit_exceeded"),
            (Code::Unknown, 500, "server_error", "unknown"),
        ] {
            let (found, json, headers) = read(&Status::new(code, "no"));
            assert_eq!(
                (found, json["error"]["type"].as_str(), json["error"]["code"].as_str()),
                (status, Some(kind), Some(word))
            );
            assert_eq!(headers.contains_key(WWW_AUTHENTICATE), status == 401);
        }
    }

    #[test]
    fn a_wait_is_told_in_seconds_and_milliseconds_and_minus_one_is_never() {
        let wait =
            |millis| Reason::Overloaded.status("x").retry_after(Some(Duration::from_millis(millis))).build();
        let (_, _, headers) = read(&wait(1200));
        assert_eq!(
            (&headers["retry-after"], &headers["retry-after-ms"]),
            (&HeaderValue::from(2), &HeaderValue::from(1200))
        );
        let (_, _, headers) = read(&wait(0));
        assert_eq!(
            (&headers["retry-after"], &headers["retry-after-ms"]),
            (&HeaderValue::from(1), &HeaderValue::from(0))
        );
        let (_, _, headers) = read(&Reason::StreamInterrupted.status("x").build());
        assert_eq!(headers["x-should-retry"], "false");
        assert!(!headers.contains_key("retry-after") && !headers.contains_key(PUSHBACK));
    }

    #[test]
    fn a_field_has_its_name_in_openais_request() {
        for (field, name) in [
            ("sampling.temperature", "temperature"),
            ("extra_body.n", "n"),
            ("tools[3].name", "tools[3].function.name"),
            ("tools[0].parameters", "tools[0].function.parameters"),
            ("tools[0].parameters_json", "tools[0].function.parameters"),
            ("extra_body_json.min_json", "min_json"),
            ("response_format.json_schema.schema_json", "response_format.json_schema.schema"),
            ("tools[0].function.name", "tools[0].function.name"),
            ("tools[0].type", "tools[0].type"),
            ("tools", "tools"),
            ("tool_choice.mode", "tool_choice"),
            ("tool_choice.function", "tool_choice.function.name"),
            ("messages[1].content[0].image_url", "messages[1].content[0].image_url.url"),
            ("messages[1].role", "messages[1].role"),
            ("response_format.json_schema.schema", "response_format.json_schema.schema"),
            ("tier", "aip.tier"),
        ] {
            let status = Reason::InvalidRequest
                .status(format!("{field}: must be so"))
                .field(field, "must be so")
                .build();
            let (_, json, _) = read(&status);
            assert_eq!(json["error"]["param"], name);
            assert_eq!(json["error"]["message"], format!("{name}: must be so"));
        }
        for (reason, said, param, told) in [
            (
                Reason::ModelNotFound,
                "model: `x` is no model; ListModels shows them",
                "model",
                "model: `x` is no model; GET /v1/models shows them",
            ),
            (Reason::TierNotFound, "tier: `x` is not in it", "aip.tier", "aip.tier: `x` is not in it"),
        ] {
            let (_, json, _) = read(&reason.status(said).build());
            assert_eq!((&json["error"]["param"], &json["error"]["message"]), (&param.into(), &told.into()));
        }
    }
}
