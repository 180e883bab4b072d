//! Turns an answer and a fault into the steps of a body.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::body::Step;
use crate::fault::Fault;
use crate::protocol::{AnswerHead, Ending, Events, Protocol};

/// Bytes of filler that are sent at a time.
const FILLER_BLOCK: usize = 4096;
const FILLER_WORDS: &str = "filler text ";
/// Stands for the content while an event is written that filler is then put into.
const PLACE: &str = "<<content>>";

/// The steps of a streamed answer.
pub(crate) fn stream_steps(
    protocol: &dyn Protocol,
    head: &AnswerHead,
    tokens: &[String],
    fault: Option<&Fault>,
) -> VecDeque<Step> {
    let ending = match fault {
        Some(Fault::NoDone { finish_reason }) => Ending { finish_reason: *finish_reason, done: false },
        _ => Ending::WHOLE,
    };
    if let Some(Fault::Oversize { bytes, one_event }) = fault {
        return oversize_stream(protocol, head, *bytes, *one_event);
    }
    let events = protocol.write_stream(head, tokens, ending);
    let mut steps = VecDeque::new();
    let mut pace = head.pace;
    match fault {
        Some(Fault::NoFirstToken) => return [Step::Silence].into(),
        Some(Fault::MalformedBody) => {
            return [Step::Frame(Bytes::from_static(b"\xff\xfe\x00 no event \xff\n\n"))].into();
        }
        Some(Fault::SlowFirstToken { delay_ms }) => {
            steps.push_back(Step::Wait(Duration::from_millis(*delay_ms)));
        }
        Some(Fault::SlowTokens { delay_ms }) => pace += Duration::from_millis(*delay_ms),
        _ => {}
    }
    let broken = match fault {
        Some(
            Fault::Stall { after_chunks }
            | Fault::Cut { after_chunks }
            | Fault::MalformedEvent { after_chunks }
            | Fault::ErrorEvent { after_chunks, .. },
        ) => usize::try_from(*after_chunks).unwrap_or(usize::MAX).min(events.content.len()),
        _ => usize::MAX,
    };
    let Events { content, tail } = events;
    let (before, after) = content.split_at(broken.min(content.len()));
    push_chunks(&mut steps, before, pace);
    match fault {
        Some(Fault::Stall { .. }) => steps.push_back(Step::Silence),
        Some(Fault::Cut { .. }) => steps.extend([Step::Flush, Step::Cut]),
        Some(Fault::ErrorEvent { message, .. }) => {
            let usual = || protocol.usual_message(500);
            let message = message.clone().unwrap_or_else(usual);
            steps.push_back(Step::Frame(protocol.write_error_event(&message)));
        }
        other => {
            if let Some(Fault::MalformedEvent { .. }) = other {
                steps.push_back(Step::Frame(protocol.malformed_event()));
            }
            push_chunks(&mut steps, after, pace);
            steps.extend(tail.into_iter().map(Step::Frame));
        }
    }
    steps
}

fn push_chunks(steps: &mut VecDeque<Step>, chunks: &[Bytes], pace: Duration) {
    for chunk in chunks {
        if !pace.is_zero() {
            steps.push_back(Step::Wait(pace));
        }
        steps.push_back(Step::Chunk(chunk.clone()));
    }
}

/// How long a unary answer takes to make.
pub(crate) fn unary_delay(pace: Duration, tokens: usize, fault: Option<&Fault>) -> Duration {
    let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
    let extra = match fault {
        Some(Fault::SlowFirstToken { delay_ms }) => Duration::from_millis(*delay_ms),
        Some(Fault::SlowTokens { delay_ms }) => Duration::from_millis(*delay_ms).saturating_mul(tokens),
        _ => Duration::ZERO,
    };
    pace.saturating_mul(tokens).saturating_add(extra)
}

/// A unary answer: the length that it promises, and its steps.
pub(crate) fn unary_steps(
    protocol: &dyn Protocol,
    head: &AnswerHead,
    text: &str,
    fault: Option<&Fault>,
) -> (u64, VecDeque<Step>) {
    if let Some(Fault::Oversize { bytes, .. }) = fault {
        let whole = protocol.write_unary(head, PLACE, Ending::WHOLE);
        let steps = filled(&whole, *bytes);
        return (whole.len() as u64 - PLACE.len() as u64 + bytes, steps);
    }
    let ending = match fault {
        Some(Fault::NoDone { .. }) => Ending { finish_reason: false, done: false },
        _ => Ending::WHOLE,
    };
    let whole = protocol.write_unary(head, text, ending);
    let promised = whole.len() as u64;
    let half = whole.slice(..whole.len() / 2);
    match fault {
        Some(Fault::NoFirstToken) => (promised, [Step::Silence].into()),
        Some(Fault::Stall { .. }) => (promised, [Step::Frame(half), Step::Silence].into()),
        Some(Fault::Cut { .. }) => (promised, [Step::Frame(half), Step::Flush, Step::Cut].into()),
        Some(Fault::MalformedEvent { .. } | Fault::MalformedBody) => {
            (half.len() as u64, [Step::Frame(half)].into())
        }
        _ => (promised, [Step::Chunk(whole)].into()),
    }
}

fn oversize_stream(
    protocol: &dyn Protocol,
    head: &AnswerHead,
    bytes: u64,
    one_event: bool,
) -> VecDeque<Step> {
    let events = |text: String| protocol.write_stream(head, &[text], Ending::WHOLE);
    let mut steps = if one_event {
        first_event(events(PLACE.to_owned())).map(|event| filled(&event, bytes)).unwrap_or_default()
    } else {
        let block = FILLER_BLOCK as u64;
        let mut steps = VecDeque::new();
        let mut push = |text: String, times: u64| {
            if let Some(bytes) = first_event(events(text)) {
                steps.push_back(Step::Repeat { bytes, times, content: true });
            }
        };
        push(filler(FILLER_BLOCK), bytes / block);
        let rest = usize::try_from(bytes % block).unwrap_or(0);
        push(filler(rest), u64::from(rest > 0));
        steps
    };
    steps.extend(events(String::new()).tail.into_iter().map(Step::Frame));
    steps
}

fn first_event(events: Events) -> Option<Bytes> {
    events.content.into_iter().next()
}

fn filler(bytes: usize) -> String {
    FILLER_WORDS.chars().cycle().take(bytes).collect()
}

/// `whole` with `bytes` of filler in the content's place, which is never held in memory at once.
fn filled(whole: &Bytes, bytes: u64) -> VecDeque<Step> {
    let place = PLACE.as_bytes();
    let at = whole.windows(place.len()).position(|window| window == place).unwrap_or(whole.len());
    let block = FILLER_BLOCK as u64;
    let rest = usize::try_from(bytes % block).unwrap_or(0);
    let repeat =
        Step::Repeat { bytes: Bytes::from(filler(FILLER_BLOCK)), times: bytes / block, content: false };
    [
        Step::Frame(whole.slice(..at)),
        repeat,
        Step::Frame(Bytes::from(filler(rest))),
        Step::Chunk(whole.slice((at + place.len()).min(whole.len())..)),
    ]
    .into()
}
