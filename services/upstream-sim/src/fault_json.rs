//! Reads a fault from the control API's JSON, naming the field and the rule of whatever is wrong.

use serde_json::{Map, Value};

use crate::error::FieldError;
use crate::fault::{Fault, When};
use crate::upstream::UpstreamKind;

/// Content type that `wrong_content_type` sends unless told otherwise.
const HTML: &str = "text/html; charset=utf-8";

/// Reads `{"fault": {…}, "when": {…}}`; `when` may be left out and is then `always`.
pub(crate) fn parse(body: &Value, upstream: UpstreamKind) -> Result<(Fault, When), FieldError> {
    let mut top = Fields::new("", body)?;
    let fault =
        top.take("fault").ok_or_else(|| FieldError::new("fault", "is required: an object with a `kind`"))?;
    let when = top.take("when");
    top.finish(&["fault", "when"])?;

    let fault = parse_fault(fault)?;
    let when = when.map_or(Ok(When::Always), parse_when)?;
    fault.validate(when, upstream)?;
    Ok((fault, when))
}

fn parse_fault(value: &Value) -> Result<Fault, FieldError> {
    let mut fields = Fields::new("fault", value)?;
    let kind = fields.name("kind", &Fault::KINDS)?;
    let (fault, known): (Fault, &[&str]) = match kind {
        "down" => (Fault::Down, &[]),
        "reset" => (Fault::Reset, &[]),
        "hang" => (Fault::Hang, &[]),
        "slow_first_token" => {
            (Fault::SlowFirstToken { delay_ms: fields.required_u64("delay_ms")? }, &["delay_ms"])
        }
        "no_first_token" => (Fault::NoFirstToken, &[]),
        "slow_tokens" => (Fault::SlowTokens { delay_ms: fields.required_u64("delay_ms")? }, &["delay_ms"]),
        "stall" => (Fault::Stall { after_chunks: fields.after_chunks()? }, &["after_chunks"]),
        "cut" => (Fault::Cut { after_chunks: fields.after_chunks()? }, &["after_chunks"]),
        "no_done" => {
            (Fault::NoDone { finish_reason: fields.bool("finish_reason", true)? }, &["finish_reason"])
        }
        "aborted" => (Fault::Aborted { after_chunks: fields.after_chunks()? }, &["after_chunks"]),
        "malformed_event" => {
            (Fault::MalformedEvent { after_chunks: fields.after_chunks()? }, &["after_chunks"])
        }
        "error_event" => (
            Fault::ErrorEvent { after_chunks: fields.after_chunks()?, message: fields.text("message")? },
            &["after_chunks", "message"],
        ),
        "status" => (
            Fault::Status {
                status: fields.status()?,
                message: fields.text("message")?,
                retry_after: fields.retry_after()?,
            },
            &["status", "message", "retry_after"],
        ),
        "context_length" => (Fault::ContextLength, &[]),
        "content_policy" => (Fault::ContentPolicy, &[]),
        "model_not_found" => (Fault::ModelNotFound, &[]),
        "reject_prefix" => (Fault::RejectPrefix, &[]),
        "wrong_content_type" => (
            Fault::WrongContentType {
                content_type: fields.text("content_type")?.unwrap_or_else(|| HTML.to_owned()),
            },
            &["content_type"],
        ),
        "malformed_body" => (Fault::MalformedBody, &[]),
        "oversize" => (
            Fault::Oversize {
                bytes: fields.required_u64("bytes")?,
                one_event: fields.bool("one_event", false)?,
            },
            &["bytes", "one_event"],
        ),
        other => return Err(FieldError::unknown_name("fault.kind", other, &Fault::KINDS)),
    };
    fields.finish(known)?;
    Ok(fault)
}

fn parse_when(value: &Value) -> Result<When, FieldError> {
    let mut fields = Fields::new("when", value)?;
    let mode = fields.name("mode", &When::MODES)?;
    let (when, known): (When, &[&str]) = match mode {
        "always" => (When::Always, &[]),
        "next" => {
            let requests = fields.required_u64("requests")?;
            let requests = u32::try_from(requests)
                .map_err(|_| FieldError::new("when.requests", format!("must be at most {}", u32::MAX)))?;
            (When::Next { requests }, &["requests"])
        }
        "rate" => (When::Rate { rate: fields.rate()? }, &["rate"]),
        other => return Err(FieldError::unknown_name("when.mode", other, &When::MODES)),
    };
    fields.finish(known)?;
    Ok(when)
}

/// The fields of one object, each taken once, so that what is left over is unknown.
struct Fields<'a> {
    path: &'static str,
    left: Map<String, Value>,
    source: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn new(path: &'static str, value: &'a Value) -> Result<Self, FieldError> {
        let Value::Object(source) = value else {
            let field = if path.is_empty() { "body" } else { path };
            return Err(FieldError::new(field, "must be a JSON object"));
        };
        Ok(Self { path, left: source.clone(), source })
    }

    fn path_of(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    fn error(&self, field: &str, rule: impl Into<String>) -> FieldError {
        FieldError::new(self.path_of(field), rule)
    }

    fn take(&mut self, field: &str) -> Option<&'a Value> {
        self.left.remove(field);
        self.source.get(field).filter(|value| !value.is_null())
    }

    fn name(&mut self, field: &'static str, known: &[&str]) -> Result<&'a str, FieldError> {
        let rule = || format!("is required: a string, one of {}", known.join(", "));
        let name = self.take(field).and_then(Value::as_str).ok_or_else(|| self.error(field, rule()))?;
        if known.contains(&name) {
            Ok(name)
        } else {
            Err(FieldError::unknown_name(&self.path_of(field), name, known))
        }
    }

    fn u64(&mut self, field: &str) -> Result<Option<u64>, FieldError> {
        match self.take(field) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .map(Some)
                .ok_or_else(|| self.error(field, format!("must be a whole number, not {value}"))),
        }
    }

    fn required_u64(&mut self, field: &str) -> Result<u64, FieldError> {
        self.u64(field)?.ok_or_else(|| self.error(field, "is required: a whole number"))
    }

    fn after_chunks(&mut self) -> Result<u32, FieldError> {
        let chunks = self.u64("after_chunks")?.unwrap_or(1);
        u32::try_from(chunks).map_err(|_| self.error("after_chunks", format!("must be at most {}", u32::MAX)))
    }

    fn status(&mut self) -> Result<u16, FieldError> {
        let status = self.required_u64("status")?;
        u16::try_from(status)
            .map_err(|_| self.error("status", format!("must be from 400 to 599, not {status}")))
    }

    fn rate(&mut self) -> Result<f64, FieldError> {
        self.take("rate")
            .and_then(Value::as_f64)
            .ok_or_else(|| self.error("rate", "is required: a number from 0 to 1"))
    }

    fn bool(&mut self, field: &str, default: bool) -> Result<bool, FieldError> {
        match self.take(field) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(self.error(field, format!("must be true or false, not {other}"))),
        }
    }

    fn text(&mut self, field: &str) -> Result<Option<String>, FieldError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.error(field, format!("must be a string, not {other}"))),
        }
    }

    /// Seconds as a number, or any text, since a header may also hold a date or nonsense.
    fn retry_after(&mut self) -> Result<Option<String>, FieldError> {
        match self.take("retry_after") {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(seconds)) if seconds.is_u64() => Ok(Some(seconds.to_string())),
            Some(other) => Err(self.error(
                "retry_after",
                format!("must be whole seconds, or a string to send as it is, not {other}"),
            )),
        }
    }

    fn finish(self, known: &[&str]) -> Result<(), FieldError> {
        let Some(unknown) = self.left.keys().next() else { return Ok(()) };
        let candidates: Vec<&str> =
            if self.path == "fault" { [&["kind"], known].concat() } else { known.to_vec() };
        let candidates: Vec<&str> =
            if self.path == "when" { [&["mode"], known].concat() } else { candidates };
        Err(FieldError::unknown_name(&self.path_of(unknown), unknown, &candidates))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<(Fault, When), FieldError> {
        parse(body, UpstreamKind::Max)
    }

    fn refused(body: &Value) -> FieldError {
        read(body).expect_err("should be refused")
    }

    #[test]
    fn what_is_written_is_read_back() {
        let faults = [
            json!({"kind": "down"}),
            json!({"kind": "reset"}),
            json!({"kind": "hang"}),
            json!({"kind": "slow_first_token", "delay_ms": 5}),
            json!({"kind": "no_first_token"}),
            json!({"kind": "slow_tokens", "delay_ms": 5}),
            json!({"kind": "stall", "after_chunks": 2}),
            json!({"kind": "cut", "after_chunks": 0}),
            json!({"kind": "no_done", "finish_reason": false}),
            json!({"kind": "aborted", "after_chunks": 2}),
            json!({"kind": "malformed_event", "after_chunks": 1}),
            json!({"kind": "error_event", "after_chunks": 1, "message": "worker died"}),
            json!({"kind": "status", "status": 429, "message": "slow down", "retry_after": "7"}),
            json!({"kind": "context_length"}),
            json!({"kind": "content_policy"}),
            json!({"kind": "model_not_found"}),
            json!({"kind": "reject_prefix"}),
            json!({"kind": "wrong_content_type", "content_type": "text/plain"}),
            json!({"kind": "malformed_body"}),
            json!({"kind": "oversize", "bytes": 10, "one_event": true}),
        ];
        assert_eq!(faults.len(), Fault::KINDS.len());
        for (fault, kind) in faults.iter().zip(Fault::KINDS) {
            let (read, when) = read(&json!({"fault": fault})).expect("a good fault");
            assert_eq!(when, When::Always);
            assert_eq!(read.kind(), kind);
            assert_eq!(&serde_json::to_value(&read).expect("a fault is JSON"), fault);
        }
    }

    #[test]
    fn fields_have_defaults() {
        let fault = |fault| read(&json!({"fault": fault, "when": null})).map(|(fault, _)| fault);
        assert_eq!(fault(json!({"kind": "cut"})), Ok(Fault::Cut { after_chunks: 1 }));
        assert_eq!(fault(json!({"kind": "no_done"})), Ok(Fault::NoDone { finish_reason: true }));
        assert_eq!(
            fault(json!({"kind": "status", "status": 429, "retry_after": 2})),
            Ok(Fault::Status { status: 429, message: None, retry_after: Some("2".to_owned()) })
        );
        assert_eq!(
            fault(json!({"kind": "wrong_content_type"})),
            Ok(Fault::WrongContentType { content_type: HTML.to_owned() })
        );
    }

    #[test]
    fn an_unknown_name_brings_the_nearest_known_one() {
        let error = refused(&json!({"fault": {"kind": "slow_token", "delay_ms": 5}}));
        assert_eq!(error.field, "fault.kind");
        assert_eq!(error.did_you_mean.as_deref(), Some("slow_tokens"));
        let error = refused(&json!({"fault": {"kind": "slow_tokens", "delay": 5, "delay_ms": 5}}));
        assert_eq!(error.field, "fault.delay");
        assert_eq!(error.did_you_mean.as_deref(), Some("delay_ms"));
        let error = refused(&json!({"fault": {"kind": "hang"}, "when": {"mode": "alway"}}));
        assert_eq!(error.did_you_mean.as_deref(), Some("always"));
        let error = refused(&json!({"fault": {"kind": "hang"}, "wen": {}}));
        assert_eq!((error.field.as_str(), error.did_you_mean.as_deref()), ("wen", Some("when")));
        let error = refused(&json!({"fault": {"kind": "zzz"}}));
        assert_eq!(error.did_you_mean, None);
    }

    #[test]
    fn each_rule_names_its_field() {
        let cases = [
            (json!([]), "body"),
            (json!({}), "fault"),
            (json!({"fault": "hang"}), "fault"),
            (json!({"fault": {}}), "fault.kind"),
            (json!({"fault": {"kind": 5}}), "fault.kind"),
            (json!({"fault": {"kind": "slow_tokens"}}), "fault.delay_ms"),
            (json!({"fault": {"kind": "slow_tokens", "delay_ms": 0}}), "fault.delay_ms"),
            (json!({"fault": {"kind": "slow_tokens", "delay_ms": -1}}), "fault.delay_ms"),
            (json!({"fault": {"kind": "slow_tokens", "delay_ms": 1e9}}), "fault.delay_ms"),
            (json!({"fault": {"kind": "status"}}), "fault.status"),
            (json!({"fault": {"kind": "status", "status": 200}}), "fault.status"),
            (json!({"fault": {"kind": "status", "status": 70000}}), "fault.status"),
            (json!({"fault": {"kind": "status", "status": 429, "retry_after": "a\nb"}}), "fault.retry_after"),
            (json!({"fault": {"kind": "oversize", "bytes": 0}}), "fault.bytes"),
            (json!({"fault": {"kind": "cut", "after_chunks": "two"}}), "fault.after_chunks"),
            (json!({"fault": {"kind": "no_done", "finish_reason": 1}}), "fault.finish_reason"),
            (json!({"fault": {"kind": "hang"}, "when": {}}), "when.mode"),
            (json!({"fault": {"kind": "hang"}, "when": {"mode": "next"}}), "when.requests"),
            (json!({"fault": {"kind": "hang"}, "when": {"mode": "next", "requests": 0}}), "when.requests"),
            (json!({"fault": {"kind": "hang"}, "when": {"mode": "rate", "rate": 1.5}}), "when.rate"),
            (json!({"fault": {"kind": "down"}, "when": {"mode": "next", "requests": 1}}), "when.mode"),
        ];
        for (body, field) in cases {
            assert_eq!(refused(&body).field, field, "{body}");
        }
    }

    #[test]
    fn ollama_has_no_finish_reason_of_its_own() {
        let body = json!({"fault": {"kind": "no_done", "finish_reason": false}});
        let error = parse(&body, UpstreamKind::Ollama).expect_err("should be refused");
        assert_eq!(error.field, "fault.finish_reason");
        assert!(parse(&body, UpstreamKind::Max).is_ok());
    }
}
