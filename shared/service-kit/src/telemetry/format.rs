//! How a log line looks.

use std::fmt;
use std::time::SystemTime;

use opentelemetry::trace::TraceContextExt as _;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, Scope};

/// One JSON object a line: time, level, target, message, the fields of the event and of the spans around it, and the
/// ids of the trace.
pub(super) struct Json;

impl<S> FormatEvent<S, JsonFields> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = span_fields(context);
        let metadata = event.metadata();
        line.insert(
            "timestamp".into(),
            humantime::format_rfc3339_micros(SystemTime::now()).to_string().into(),
        );
        line.insert("level".into(), metadata.level().as_str().into());
        line.insert("target".into(), metadata.target().into());
        event.record(&mut Fields(&mut line));
        for (name, value) in ids(context, event) {
            line.insert(name.into(), value.into());
        }
        let text = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{text}")
    }
}

/// Time, level, message, fields, and the ids to look further with, for a person at a terminal.
pub(super) struct Human;

impl<S> FormatEvent<S, JsonFields> for Human
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let clock = now.get(11..23).unwrap_or(&now);
        let mut fields = Map::new();
        event.record(&mut Fields(&mut fields));
        let message = fields.remove("message").unwrap_or_default();
        write!(writer, "{clock} {:>5} {}", event.metadata().level(), plain(&message))?;
        for (name, value) in &fields {
            write!(writer, " {name}={}", plain(value))?;
        }
        if let Some(request_id) = span_fields(context).get("request_id") {
            write!(writer, " request_id={}", plain(request_id))?;
        }
        if let Some((_, trace_id)) = ids(context, event).next() {
            write!(writer, " trace_id={trace_id}")?;
        }
        writeln!(writer)
    }
}

/// A text as it is, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The fields of the spans around an event; those of inner spans win.
fn span_fields<S>(context: &FmtContext<'_, S, JsonFields>) -> Map<String, Value>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let mut all = Map::new();
    for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
        let extensions = span.extensions();
        let Some(fields) = extensions.get::<FormattedFields<JsonFields>>() else { continue };
        if let Ok(Value::Object(fields)) = serde_json::from_str(fields) {
            all.extend(fields.into_iter().filter(|(name, _)| !name.starts_with("otel.")));
        }
    }
    all
}

fn ids<S>(
    context: &FmtContext<'_, S, JsonFields>,
    event: &Event<'_>,
) -> impl Iterator<Item = (&'static str, String)>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let id = event.parent().cloned().or_else(|| context.lookup_current().map(|span| span.id()));
    let ids = id.and_then(|id| {
        tracing::dispatcher::get_default(|dispatch| tracing_opentelemetry::get_otel_context(&id, dispatch))
    });
    let span_context = ids
        .map(|context| context.span().span_context().clone())
        .filter(opentelemetry::trace::SpanContext::is_valid);
    span_context
        .into_iter()
        .flat_map(|span| [("trace_id", span.trace_id().to_string()), ("span_id", span.span_id().to_string())])
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let causes = std::iter::successors(Some(value), |cause| cause.source());
        let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        self.insert(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }
}
