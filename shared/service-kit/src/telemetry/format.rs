//! How a log line looks.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, span};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, Scope};

use super::trace_context::context_of;

/// One JSON object a line: time, level, target, message, the fields of the event and of the spans around it, and the
/// ids of the trace.
pub(super) struct Json;

impl<S> FormatEvent<S, SpanFields> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, SpanFields>,
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

impl<S> FormatEvent<S, SpanFields> for Human
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, SpanFields>,
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

/// The fields of a span as JSON objects with spaces between them: one for each time that some were recorded.
///
/// Spans are made and added to by every request, and read only when a line is logged. `tracing_subscriber`'s own JSON
/// formatter keeps one object, which it reads and writes anew for each field that is added.
pub(super) struct SpanFields;

impl<'writer> FormatFields<'writer> for SpanFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut text = String::with_capacity(ROOM);
        object(&mut text, fields)?;
        // At once: the writer's text grows with each piece that it is given.
        writer.write_str(&text)
    }

    fn add_fields(
        &self,
        current: &'writer mut FormattedFields<Self>,
        fields: &span::Record<'_>,
    ) -> fmt::Result {
        current.fields.push(' ');
        object(&mut current.fields, fields)
    }
}

/// What the fields of most spans take, in bytes.
const ROOM: usize = 256;

/// Adds fields as one JSON object.
fn object(text: &mut String, fields: impl RecordFields) -> fmt::Result {
    text.push('{');
    let mut object = Object { text, empty: true, written: Ok(()) };
    fields.record(&mut object);
    object.text.push('}');
    object.written
}

/// The fields of a JSON object that is being written.
struct Object<'a> {
    text: &'a mut String,
    empty: bool,
    written: fmt::Result,
}

impl Object<'_> {
    /// Where the value of this field is to be written. `None` for what is meant for OpenTelemetry alone.
    fn value_of(&mut self, field: &Field) -> Option<&mut String> {
        if field.name().starts_with("otel.") {
            return None;
        }
        self.text.push_str(if self.empty { "\"" } else { ",\"" });
        self.text.push_str(field.name());
        self.text.push_str("\":");
        self.empty = false;
        Some(self.text)
    }

    fn display(&mut self, field: &Field, value: impl fmt::Display) {
        if let Some(text) = self.value_of(field) {
            let written = write!(text, "{value}");
            self.written = self.written.and(written);
        }
    }
}

impl Visit for Object<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinities.
        self.display(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.display(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.display(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.display(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // Names and ids, most of the time: nothing in them has to be escaped.
        if value.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
            self.display(field, Value::from(value));
        } else if let Some(text) = self.value_of(field) {
            text.push('"');
            text.push_str(value);
            text.push('"');
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// A text as it is, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The fields of the spans around an event; those of inner spans win.
fn span_fields<S>(context: &FmtContext<'_, S, SpanFields>) -> Map<String, Value>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let mut all = Map::new();
    for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
        let extensions = span.extensions();
        let Some(fields) = extensions.get::<FormattedFields<SpanFields>>() else { continue };
        let recorded = serde_json::Deserializer::from_str(fields).into_iter::<Map<String, Value>>();
        all.extend(recorded.map_while(Result::ok).flatten());
    }
    all
}

fn ids<S>(
    context: &FmtContext<'_, S, SpanFields>,
    event: &Event<'_>,
) -> impl Iterator<Item = (&'static str, String)>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let id = event.parent().cloned().or_else(|| context.lookup_current().map(|span| span.id()));
    let context = id.and_then(|id| tracing::dispatcher::get_default(|dispatch| context_of(&id, dispatch)));
    context
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing::{info, info_span};
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// The line that is logged.
    fn logged(log: impl FnOnce()) -> Value {
        let lines = Lines::default();
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(SpanFields)
            .event_format(Json)
            .with_writer(lines.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        serde_json::from_slice(&lines.0.lock()).unwrap()
    }

    #[test]
    fn a_line_has_the_fields_of_its_spans_whenever_they_were_recorded() {
        let line = logged(|| {
            let outer = info_span!(
                "outer",
                otel.name = "hidden",
                request_id = "a \"quoted\"\nid",
                count = 7_u64,
                share = f64::INFINITY,
                status = tracing::field::Empty,
                ok = true,
                signed = -1,
                shown = ?Some("x"),
            );
            outer.record("status", "OK");
            outer.record("count", 8_u64);
            let _outer = outer.enter();
            let _bare = info_span!("bare").entered();
            info!(count = 9, "said");
        });
        assert_eq!(line["request_id"], "a \"quoted\"\nid");
        assert_eq!(line["status"], "OK");
        assert_eq!(line["count"], 9, "the event's own field wins");
        assert_eq!(line["share"], Value::Null);
        assert_eq!((&line["ok"], &line["signed"]), (&true.into(), &(-1).into()));
        assert_eq!(line["shown"], "Some(\"x\")");
        assert_eq!(line["message"], "said");
        assert_eq!(line.get("otel.name"), None);
    }

    #[test]
    fn of_what_was_recorded_twice_the_last_counts() {
        let line = logged(|| {
            let span = info_span!("one", step = 1_u64);
            span.record("step", 2_u64);
            span.in_scope(|| info!("said"));
        });
        assert_eq!(line["step"], 2);
    }
}
