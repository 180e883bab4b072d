//! The span of one attempt at a model, by OpenTelemetry's conventions for generative AI.

use aiplatform_proto::inference::v1::{FinishReason, Usage};
use resilience::{CallError as _, Deadline};
use tokio::time::Instant;
use tracing::{Instrument as _, Span, field, info_span};

use super::UpstreamError;
use crate::answer::Answer;

/// A span that says how its attempt ended, also when the attempt is dropped.
#[derive(Debug)]
pub(super) struct AttemptSpan {
    span: Span,
    /// Until the first content has come.
    deadline: Option<Deadline>,
    started: Instant,
    ended: bool,
}

impl AttemptSpan {
    /// Opens the span of an attempt.
    pub(super) fn new(
        provider: &'static str,
        model: &str,
        authority: &str,
        streaming: bool,
        deadline: Deadline,
    ) -> Self {
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
        let span = info_span!(
            "chat",
            otel.name = format!("chat {model}"),
            otel.kind = "client",
            otel.status_code = field::Empty,
            error.type = field::Empty,
            error.message = field::Empty,
            gen_ai.response.time_to_first_chunk = field::Empty,
            gen_ai.operation.name = "chat",
            gen_ai.provider.name = provider,
            gen_ai.request.model = model,
            gen_ai.request.stream = streaming,
            gen_ai.response.finish_reasons = field::Empty,
            gen_ai.usage.input_tokens = field::Empty,
            gen_ai.usage.output_tokens = field::Empty,
            server.address = host,
            server.port = port.parse::<u64>().ok(),
        );
        Self { span, deadline: Some(deadline), started: Instant::now(), ended: false }
    }

    /// The span.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Makes the attempt at a whole answer, and says how it ended.
    pub(super) async fn whole(
        mut self,
        ask: impl Future<Output = Result<Answer, UpstreamError>>,
    ) -> Result<Answer, UpstreamError> {
        let result = ask.instrument(self.span.clone()).await;
        match &result {
            Ok(answer) => self.succeed(answer.finish_reason, answer.usage.as_ref()),
            Err(error) => self.fail(error),
        }
        result
    }

    /// The first content has come: what is dropped from now on was not too slow.
    pub(super) fn opened(&mut self) {
        self.deadline = None;
        self.span.record("gen_ai.response.time_to_first_chunk", self.started.elapsed().as_secs_f64());
    }

    /// The attempt gave a whole answer.
    pub(super) fn succeed(&mut self, finish_reason: FinishReason, usage: Option<&Usage>) {
        self.ended = true;
        self.span.record("gen_ai.response.finish_reasons", name_of(finish_reason));
        if let Some(usage) = usage {
            self.span.record("gen_ai.usage.input_tokens", usage.input_tokens);
            self.span.record("gen_ai.usage.output_tokens", usage.output_tokens);
        }
    }

    /// The attempt failed.
    pub(super) fn fail(&mut self, error: &UpstreamError) {
        self.ended = true;
        self.error(error.kind());
        self.span.record("error.message", error.cause());
    }

    fn error(&self, kind: &'static str) {
        self.span.record("otel.status_code", "ERROR");
        self.span.record("error.type", kind);
    }
}

impl Drop for AttemptSpan {
    fn drop(&mut self) {
        if !self.ended {
            let late = self.deadline.is_some_and(Deadline::has_passed);
            self.error(if late { "timeout" } else { "cancelled" });
        }
    }
}

/// The name of a finish reason in OpenTelemetry's conventions.
fn name_of(finish_reason: FinishReason) -> &'static str {
    match finish_reason {
        FinishReason::Unspecified => "unknown",
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::ContentFilter => "content_filter",
    }
}
