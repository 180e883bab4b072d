//! A streamed answer of any protocol: bytes in, pieces out, with one end.
//!
//! An answer is whole when its upstream has said why it ends. From there on nothing that is missing can break it: the
//! usage that some servers send behind is waited for, but not for long, and a connection that breaks or falls silent
//! is an end like any other. Before that, each of these is a failure. When all that matters is there, the end of the
//! body is given a moment more, since only a connection whose last answer was read to its end is used again.

use std::fmt;
use std::time::Duration;

use aiplatform_proto::inference::v1::{StreamDelta, Usage};
use reqwest::Response;
use resilience::InFlight;
use tokio::time::Instant;
use tracing::{Instrument as _, warn};

use super::UpstreamError;
use super::http_client::MAX_ANSWER_BYTES;
use super::span::AttemptSpan;
use crate::answer::{AnswerStream, End, Origin, Piece, Pieces};

/// How long the usage is waited for, once the upstream has said why its answer ends.
const USAGE_GRACE: Duration = Duration::from_millis(500);
/// How long the end of the body is waited for, once all that matters has come.
const LINGER: Duration = Duration::from_millis(10);
/// The most bytes that are read for an answer of at most [`MAX_ANSWER_BYTES`]: what stands around each token is many
/// times as long as the token.
const MAX_BODY_BYTES: usize = 16 * MAX_ANSWER_BYTES;

/// How far the decoding of an answer has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// More of the answer may come.
    #[default]
    Going,
    /// The upstream has said why its answer ends. Its usage may still come.
    Finished,
    /// All that matters has come.
    Whole,
}

/// Counts the events that made no sense.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Malformed(u32);

impl Malformed {
    /// Passes one over. Only the first of a stream is worth a line in the log.
    pub(super) fn pass_over(&mut self, error: &serde_json::Error) {
        if self.0 == 0 {
            warn!(line = error.line(), column = error.column(), "malformed event in a stream passed over");
        }
        self.0 = self.0.saturating_add(1);
    }

    /// How many there were.
    pub(super) fn count(self) -> u32 {
        self.0
    }
}

/// What is specific to a protocol: how bytes become pieces. Knows nothing of the network.
pub(super) trait PieceDecoder: fmt::Debug + Send {
    /// Takes bytes, however they were split. Those that come after [`Stage::Whole`] are passed over.
    ///
    /// # Errors
    /// The answer is broken. Pieces that came before are ready all the same.
    fn push(&mut self, bytes: &[u8]) -> Result<(), UpstreamError>;

    /// No more bytes come. Queues [`Piece::End`], once, when the answer is whole.
    ///
    /// # Errors
    /// It is not.
    fn finish(&mut self) -> Result<(), UpstreamError>;

    /// The next piece that is ready.
    fn pop(&mut self) -> Option<Piece>;

    /// How far the answer has come.
    fn stage(&self) -> Stage;

    /// The upstream's own name of the model, once it said it.
    fn model(&self) -> Option<&str>;

    /// The tokens that the upstream counted so far, once it said it.
    fn usage(&self) -> Option<Usage>;

    /// Events so far that made no sense.
    fn malformed_events(&self) -> u32;
}

/// The pieces of a streamed answer. Dropping it closes the connection, which stops the upstream.
#[derive(Debug)]
pub struct UpstreamStream {
    response: Response,
    decoder: Box<dyn PieceDecoder>,
    attempt: AttemptSpan,
    /// How long the upstream may have nothing to say, once the first content has come. Comments, keep-alives and chunks without
    /// content are nothing: a server can send them for ever whose model has stopped.
    idle_timeout: Option<Duration>,
    /// The stage that is waited out, and until when.
    waiting: (Stage, Instant),
    /// Until when the next piece is waited for, while somebody does.
    quiet_until: Option<Instant>,
    received: usize,
    /// Bytes of content.
    content: usize,
    failure: Option<UpstreamError>,
    ended: bool,
    /// The backend's load counts the call while the stream is there.
    call: Option<InFlight>,
}

impl UpstreamStream {
    /// Sends a request and waits for the first content of its answer.
    pub(super) async fn open(
        mut attempt: AttemptSpan,
        request: impl Future<Output = Result<Response, UpstreamError>>,
        decoder: Box<dyn PieceDecoder>,
        model: &str,
        idle_timeout: Duration,
    ) -> Result<AnswerStream, UpstreamError> {
        let response = match request.instrument(attempt.span().clone()).await {
            Ok(response) => response,
            Err(error) => {
                attempt.fail(&error);
                return Err(error);
            }
        };
        let mut stream = Self {
            response,
            decoder,
            attempt,
            idle_timeout: None,
            waiting: (Stage::Going, Instant::now()),
            quiet_until: None,
            received: 0,
            content: 0,
            failure: None,
            ended: false,
            call: None,
        };
        let first = stream.next().await?;
        stream.attempt.opened();
        stream.idle_timeout = Some(idle_timeout);
        let first =
            first.ok_or_else(|| UpstreamError::Interrupted("the stream ended before it began".into()))?;
        let origin = Origin::model(stream.decoder.model().unwrap_or(model));
        Ok(AnswerStream { first, rest: Pieces::Upstream(Box::new(stream)), origin })
    }

    /// The call lasts as long as this stream.
    pub(crate) fn hold(&mut self, call: InFlight) {
        self.call = Some(call);
    }

    /// The next piece; `None` after [`Piece::End`].
    ///
    /// # Errors
    /// The answer stopped before its end, is too long, or breaks the protocol.
    pub async fn next(&mut self) -> Result<Option<Piece>, UpstreamError> {
        let next = self.advance().await.and_then(|piece| self.measure(piece));
        self.quiet_until = None;
        match &next {
            Ok(Some(Piece::End(End { finish_reason, usage, cold_start, .. }))) => {
                self.ended = true;
                if let Some(mut call) = self.call.take() {
                    call.ended(*cold_start);
                }
                self.attempt.succeed(*finish_reason, usage.as_ref());
            }
            Ok(_) => {}
            Err(error) => {
                self.ended = true;
                self.attempt.fail(error);
            }
        }
        next
    }

    /// Events so far that were passed over because they made no sense.
    pub fn malformed_events(&self) -> u32 {
        self.decoder.malformed_events()
    }

    /// The tokens that the upstream counted so far, where it said so.
    pub fn usage(&self) -> Option<Usage> {
        self.decoder.usage()
    }

    async fn advance(&mut self) -> Result<Option<Piece>, UpstreamError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if let Some(piece) = self.decoder.pop() {
                return Ok(Some(piece));
            }
            // What came before the failure has been given by now, however the bytes were split.
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            self.failure = self.read().await.err();
        }
    }

    fn measure(&mut self, piece: Option<Piece>) -> Result<Option<Piece>, UpstreamError> {
        if let Some(Piece::Delta(delta)) = &piece {
            self.content += bytes_of(delta);
            if self.content > MAX_ANSWER_BYTES {
                return Err(UpstreamError::Protocol(format!("answer over {MAX_ANSWER_BYTES} bytes")));
            }
        }
        Ok(piece)
    }

    /// Until when bytes are waited for; `None` before the first content, where the chain sets the limit.
    fn patience(&mut self) -> Option<Instant> {
        let stage = self.decoder.stage();
        let limit = match stage {
            Stage::Going => {
                let idle = self.idle_timeout?;
                return Some(*self.quiet_until.get_or_insert_with(|| Instant::now() + idle));
            }
            Stage::Finished => self.idle_timeout.map_or(USAGE_GRACE, |idle| idle.min(USAGE_GRACE)),
            Stage::Whole => LINGER,
        };
        if self.waiting.0 != stage {
            self.waiting = (stage, Instant::now() + limit);
        }
        Some(self.waiting.1)
    }

    async fn read(&mut self) -> Result<(), UpstreamError> {
        let chunk = match self.patience() {
            None => self.response.chunk().await,
            Some(until) => match tokio::time::timeout_at(until, self.response.chunk()).await {
                Ok(chunk) => chunk,
                Err(_elapsed) if self.decoder.stage() == Stage::Going => {
                    return Err(UpstreamError::Silent(self.idle_timeout.unwrap_or_default()));
                }
                Err(_elapsed) => return self.decoder.finish(),
            },
        };
        match chunk {
            Ok(Some(bytes)) => {
                self.received += bytes.len();
                if self.received > MAX_BODY_BYTES {
                    return Err(UpstreamError::Protocol(format!("body over {MAX_BODY_BYTES} bytes")));
                }
                self.decoder.push(&bytes)
            }
            Ok(None) => self.decoder.finish(),
            // A connection that breaks is an end like another when the answer is whole; when it is not, what broke says
            // more than what is missing.
            Err(error) => self.decoder.finish().map_err(|_incomplete| UpstreamError::of_client(&error)),
        }
    }
}

fn bytes_of(delta: &StreamDelta) -> usize {
    let calls = delta.tool_calls.iter().map(|call| call.id.len() + call.name.len() + call.arguments.len());
    delta.text.len() + delta.reasoning.len() + delta.refusal.len() + calls.sum::<usize>()
}

#[cfg(test)]
mod tests;
