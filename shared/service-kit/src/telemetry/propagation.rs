//! W3C trace context in and out of HTTP headers, which gRPC metadata are.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::trace_context::{context_of, keep};

/// The header that a trace context comes with.
const TRACEPARENT: &str = "traceparent";
/// The header with what vendors add to it.
const TRACESTATE: &str = "tracestate";

/// Has a span go on in the trace that a request came with. Call it before the span is entered. A request that came with none,
/// or with nonsense, begins a trace.
pub fn adopt(span: &Span, headers: &HeaderMap) {
    if !headers.contains_key(TRACEPARENT) {
        return;
    }
    let caller = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    if !keep(span, caller.span().span_context()) {
        // Fails only when the span is already started or not recorded: then there is no parent to set.
        drop(span.set_parent(caller));
    }
}

/// Gives a request the trace context of a span.
pub fn inject(span: &Span, headers: &mut HeaderMap) {
    let context = span.with_subscriber(|(id, dispatch)| context_of(id, dispatch)).flatten();
    let Some(context) = context else { return };
    // https://www.w3.org/TR/trace-context-2/#traceparent-header, version 00: what `TraceContextPropagator` writes, which takes
    // a dozen allocations for it.
    let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags());
    insert(headers, TRACEPARENT, format!("00-{trace}-{span}-{flags:02x}"));
    let state = context.trace_state().header();
    if !state.is_empty() {
        insert(headers, TRACESTATE, state);
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: String) {
    // Nothing but hexadecimal digits, or what came in a header.
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
