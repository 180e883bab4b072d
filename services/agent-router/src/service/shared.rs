//! What a request gets of the answer of an identical one.

use std::sync::Arc;

use aiplatform_proto::inference::v1 as wire;
use aiplatform_proto::time::to_proto_timestamp;
use resilience::{Attempt, Tier};

use super::coalesce::{Landed, Lead};
use super::convert;
use super::inference::{Asked, new_id};
use super::stream::{ResponseStream, Streamed};
use crate::agents::Agent;
use crate::answer::{Answer, AnswerStream};
use crate::backend::Backend;
use crate::metrics::ChainMetrics;

/// Gives the followers of a request its whole answer.
pub(super) fn land(
    lead: Option<Lead>,
    agent: &Agent,
    tier: &Arc<Tier<Backend>>,
    answer: &Answer,
    served_by: Option<&wire::ServedBy>,
) {
    if let Some(lead) = lead.filter(|_| answer.is_whole()) {
        agent.landings.add(lead.departure());
        lead.land(|| Landed {
            tier: Arc::clone(tier),
            answer: answer.clone(),
            served_by: served_by.cloned().unwrap_or_default(),
        });
    }
}

/// The answer of an identical request that was under way. `own` are the attempts of its own that it gave up for that.
pub(super) fn shared_answer(
    asked: &Asked,
    landed: &Landed,
    own: Vec<Attempt>,
    metrics: &ChainMetrics,
) -> wire::ChatResponse {
    let attempts = all_attempts(asked, landed, own, metrics);
    let Answer { message, finish_reason, usage, origin } = landed.answer.clone();
    wire::ChatResponse {
        id: new_id(),
        model: asked.agent.name.to_string(),
        created_at: Some(to_proto_timestamp(origin.created_at)),
        message: Some(message),
        finish_reason: finish_reason.into(),
        usage,
        served_by: Some(landed.served_by()),
        attempts: convert::attempts(&attempts),
    }
}

/// What it says of how it came by its answer, which is counted.
fn all_attempts(asked: &Asked, landed: &Landed, own: Vec<Attempt>, metrics: &ChainMetrics) -> Vec<Attempt> {
    metrics.record_shared(&own, &landed.tier.name);
    let mut attempts = own;
    attempts.push(landed.attempt(asked.started));
    attempts
}

/// The same as a stream, which keeps its place in the router to its end.
pub(super) fn shared_stream(
    asked: Asked,
    landed: &Landed,
    own: Vec<Attempt>,
    metrics: &ChainMetrics,
) -> ResponseStream {
    let answer = AnswerStream::from(landed.answer.clone());
    let attempts = all_attempts(&asked, landed, own, metrics);
    let start = wire::StreamStart {
        id: new_id(),
        model: asked.agent.name.to_string(),
        created_at: Some(to_proto_timestamp(answer.origin.created_at)),
        served_by: Some(landed.served_by()),
        attempts: convert::attempts(&attempts),
    };
    let streamed = Streamed {
        tier: Arc::clone(&landed.tier),
        answer,
        guard: None,
        attempts,
        start,
        successors: None,
        metrics: metrics.clone(),
        on_whole: Box::new(move |_| drop(asked)),
    };
    streamed.into_stream()
}
