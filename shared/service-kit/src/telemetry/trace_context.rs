//! The trace context of a span: OpenTelemetry's where spans are exported, one for a whole request where they are not.
//!
//! Spans that nobody collects need no ids, attributes and times of their own, and giving them some costs a request more than
//! its routing. What must work all the same: a caller's trace goes on to whoever is called, with the caller's span as the
//! parent, and the log lines of all services for one request have one trace id. So a request keeps the context that it came
//! with; one that came with none is given one when a log line or a call first needs it, marked as not sampled.

use opentelemetry::trace::{SpanContext, TraceContextExt as _, TraceFlags, TraceState};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};
use tracing::span::Id;
use tracing::{Dispatch, Span, Subscriber};
use tracing_opentelemetry::get_otel_context;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::{LookupSpan as _, Registry, SpanRef};

/// Among the layers of a process that exports no spans.
#[derive(Debug)]
pub(super) struct NotExported;

impl<S: Subscriber> Layer<S> for NotExported {}

/// The trace context of a span. `None` where the span is unknown, or none of ours.
pub(super) fn context_of(id: &Id, dispatch: &Dispatch) -> Option<SpanContext> {
    match not_exported(id, dispatch) {
        Some(span) => Some(kept(&span)),
        None => get_otel_context(id, dispatch)
            .map(|context| context.span().span_context().clone())
            .filter(SpanContext::is_valid),
    }
}

/// Has a span of a process that exports none go on in the trace of its caller. Returns whether it is one.
pub(super) fn keep(span: &Span, caller: &SpanContext) -> bool {
    let kept = span.with_subscriber(|(id, dispatch)| {
        let span = not_exported(id, dispatch)?;
        if caller.is_valid() {
            span.extensions_mut().replace(caller.clone());
        }
        Some(())
    });
    kept.flatten().is_some()
}

fn not_exported<'a>(id: &Id, dispatch: &'a Dispatch) -> Option<SpanRef<'a, Registry>> {
    dispatch.downcast_ref::<NotExported>()?;
    dispatch.downcast_ref::<Registry>()?.span(id)
}

/// The context that the span or the nearest one around it keeps; otherwise a new one, for the outermost to keep.
fn kept(span: &SpanRef<'_, Registry>) -> SpanContext {
    let mut outermost = None;
    for span in span.scope() {
        if let Some(kept) = span.extensions().get::<SpanContext>() {
            return kept.clone();
        }
        outermost = Some(span);
    }
    let ids = RandomIdGenerator::default();
    let (trace, id) = (ids.new_trace_id(), ids.new_span_id());
    let new = SpanContext::new(trace, id, TraceFlags::NOT_SAMPLED, false, TraceState::NONE);
    if let Some(outermost) = outermost {
        // Another task of the same request may have been quicker.
        let mut extensions = outermost.extensions_mut();
        if let Some(kept) = extensions.get_mut::<SpanContext>() {
            return kept.clone();
        }
        extensions.insert(new.clone());
    }
    new
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use tracing::info_span;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::telemetry::propagation::{adopt, inject};

    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn unexported(test: impl FnOnce()) {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(NotExported), test);
    }

    fn injected(span: &Span) -> HeaderMap {
        let mut headers = HeaderMap::new();
        inject(span, &mut headers);
        headers
    }

    #[test]
    fn a_callers_context_goes_on_as_it_came() {
        unexported(|| {
            let mut came = HeaderMap::new();
            came.insert("traceparent", CALLER.parse().unwrap());
            came.insert("tracestate", "vendor=7".parse().unwrap());
            let span = info_span!("request");
            adopt(&span, &came);
            let call = span.in_scope(|| info_span!("call"));
            assert_eq!(injected(&call), came);
        });
    }

    #[test]
    fn a_request_that_came_with_none_or_with_nonsense_has_one_trace_that_is_not_sampled() {
        for came in [None, Some("00-nonsense")] {
            unexported(|| {
                let mut headers = HeaderMap::new();
                headers.extend(
                    came.map(|came| (http::HeaderName::from_static("traceparent"), came.parse().unwrap())),
                );
                let span = info_span!("request");
                adopt(&span, &headers);
                let (first, second) = span.in_scope(|| (info_span!("first"), info_span!("second")));
                let sent = injected(&first);
                assert_eq!(sent, injected(&second));
                assert_eq!(sent, injected(&span));
                assert!(sent["traceparent"].to_str().unwrap().ends_with("-00"), "{sent:?}");
                assert_ne!(sent, injected(&info_span!("another request")));
            });
        }
    }

    #[test]
    fn without_a_subscriber_there_is_no_context() {
        assert!(injected(&info_span!("request")).is_empty());
    }
}
