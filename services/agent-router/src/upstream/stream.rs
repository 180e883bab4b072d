//! A streamed answer of any protocol: bytes in, pieces out, with one end.

use std::fmt;
use std::time::Duration;

use reqwest::Response;
use tracing::Instrument as _;

use super::UpstreamError;
use super::http_client::MAX_ANSWER_BYTES;
use super::span::AttemptSpan;
use crate::answer::{AnswerStream, Origin, Piece, Pieces};

/// What is specific to a protocol: how bytes become pieces. Knows nothing of the network.
pub(super) trait PieceDecoder: fmt::Debug + Send {
    /// Takes bytes, however they were split.
    ///
    /// # Errors
    /// The answer is broken. Pieces that came before are ready all the same.
    fn push(&mut self, bytes: &[u8]) -> Result<(), UpstreamError>;

    /// No more bytes come. Queues [`Piece::End`] when the answer is whole.
    ///
    /// # Errors
    /// It is not.
    fn finish(&mut self) -> Result<(), UpstreamError>;

    /// The next piece that is ready.
    fn pop(&mut self) -> Option<Piece>;

    /// Whether all that matters has come, so that the rest of the body is not waited for.
    fn is_whole(&self) -> bool;

    /// The upstream's own name of the model, once it said it.
    fn model(&self) -> Option<&str>;
}

/// The pieces of a streamed answer. Dropping it closes the connection, which stops the upstream.
#[derive(Debug)]
pub struct UpstreamStream {
    response: Response,
    decoder: Box<dyn PieceDecoder>,
    attempt: AttemptSpan,
    /// How long the upstream may be silent, once the first content has come.
    idle_timeout: Option<Duration>,
    received: usize,
    failure: Option<UpstreamError>,
    ended: bool,
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
        let mut stream =
            Self { response, decoder, attempt, idle_timeout: None, received: 0, failure: None, ended: false };
        let first = stream.next().await?;
        stream.attempt.opened();
        stream.idle_timeout = Some(idle_timeout);
        let first =
            first.ok_or_else(|| UpstreamError::Interrupted("the stream ended before it began".into()))?;
        let origin = Origin::model(stream.decoder.model().unwrap_or(model));
        Ok(AnswerStream { first, rest: Pieces::Upstream(Box::new(stream)), origin })
    }

    /// The next piece; `None` after [`Piece::End`].
    ///
    /// # Errors
    /// The answer stopped before its end, or breaks the protocol.
    pub async fn next(&mut self) -> Result<Option<Piece>, UpstreamError> {
        let next = self.advance().await;
        match &next {
            Ok(Some(Piece::End { finish_reason, usage })) => {
                self.ended = true;
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
            self.failure = match self.idle_timeout {
                None => self.read().await.err(),
                Some(idle) => match tokio::time::timeout(idle, self.read()).await {
                    Ok(read) => read.err(),
                    Err(_elapsed) => Some(UpstreamError::Silent(idle)),
                },
            };
        }
    }

    async fn read(&mut self) -> Result<(), UpstreamError> {
        if self.decoder.is_whole() {
            return self.decoder.finish();
        }
        match self.response.chunk().await {
            Ok(Some(bytes)) => {
                self.received += bytes.len();
                if self.received > MAX_ANSWER_BYTES {
                    return Err(UpstreamError::Protocol(format!("answer over {MAX_ANSWER_BYTES} bytes")));
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a decoder makes of a body that comes in chunks of this size.
    pub(in crate::upstream) fn decode(
        mut decoder: impl PieceDecoder,
        body: &[u8],
        chunk: usize,
    ) -> (Vec<Piece>, Option<UpstreamError>) {
        let mut pieces = Vec::new();
        for bytes in body.chunks(chunk) {
            if decoder.is_whole() {
                break;
            }
            let pushed = decoder.push(bytes);
            pieces.extend(std::iter::from_fn(|| decoder.pop()));
            if let Err(error) = pushed {
                return (pieces, Some(error));
            }
        }
        let error = decoder.finish().err();
        pieces.extend(std::iter::from_fn(|| decoder.pop()));
        (pieces, error)
    }

    /// Checks that any split of a body gives the same pieces, and returns them.
    pub(in crate::upstream) fn decode_all_ways<D: PieceDecoder>(
        decoder: impl Fn() -> D,
        body: &str,
    ) -> (Vec<Piece>, Option<UpstreamError>) {
        let whole = decode(decoder(), body.as_bytes(), body.len().max(1));
        for chunk in 1..body.len() {
            assert_eq!(decode(decoder(), body.as_bytes(), chunk), whole, "in chunks of {chunk}");
        }
        whole
    }
}
