//! The span of one attempt at a model, by OpenTelemetry's conventions for generative AI.

use aiplatform_proto::inference::v1::{FinishReason, Usage};
use resilience::Deadline;
use tracing::{Instrument as _, Span, field, info_span};

use super::UpstreamError;
use crate::answer::Answer;

/// A span that says how its attempt ended, also when the attempt is dropped.
#[derive(Debug)]
pub(super) struct AttemptSpan {
    span: Span,
    /// Until the first content has come.
    deadline: Option<Deadline>,
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
        Self { span, deadline: Some(deadline), ended: false }
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
    }

    /// The attempt gave a whole answer.
    pub(super) fn succeed(&mut self, finish_reason: FinishReason, usage: Option<&Usage>) {
        self.ended = true;
        self.span.record("gen_ai.response.finish_reasons", finish_reason.as_str_name());
        if let Some(usage) = usage {
            self.span.record("gen_ai.usage.input_tokens", usage.input_tokens);
            self.span.record("gen_ai.usage.output_tokens", usage.output_tokens);
        }
    }

    /// The attempt failed.
    pub(super) fn fail(&mut self, error: &UpstreamError) {
        self.ended = true;
        self.error(error.kind());
        self.span.record("error.message", field::display(error));
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
