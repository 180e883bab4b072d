//! How long an answer is waited for, on a clock that stands still.

use std::convert::Infallible;

use aiplatform_proto::inference::v1::FinishReason;
use bytes::Bytes;
use futures_util::stream;
use resilience::Deadline;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::*;
use crate::upstream::ollama::{CallIds, OllamaDecoder};
use crate::upstream::openai::OpenAiDecoder;

const IDLE: Duration = Duration::from_secs(10);
const CONTENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
const FINISH: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"completion_tokens\":1}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A stream whose bytes come by the sender; it ends when that is dropped.
async fn open(decoder: Box<dyn PieceDecoder>, first: &str) -> (UpstreamStream, mpsc::Sender<Bytes>) {
    let (sender, receiver) = mpsc::channel(16);
    sender.send(Bytes::from(first.to_owned())).await.unwrap();
    let chunks = stream::unfold(receiver, |mut receiver| async {
        Some((Ok::<_, Infallible>(receiver.recv().await?), receiver))
    });
    let response = Response::from(http::Response::new(reqwest::Body::wrap_stream(chunks)));
    let attempt = AttemptSpan::new("p", "m", "host:1", true, Deadline::after(IDLE));
    let opened = UpstreamStream::open(attempt, async { Ok(response) }, decoder, "m", IDLE).await;
    let Pieces::Upstream(stream) = opened.unwrap().rest else { panic!("not from an upstream") };
    (*stream, sender)
}

async fn openai(rest: &str) -> (UpstreamStream, mpsc::Sender<Bytes>) {
    open(Box::<OpenAiDecoder>::default(), &format!("{CONTENT}{rest}")).await
}

fn ended(piece: Result<Option<Piece>, UpstreamError>) -> End {
    match piece {
        Ok(Some(Piece::End(end))) => end,
        other => panic!("not ended: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_finish_reason_is_the_end_even_when_nothing_more_ever_comes() {
    let (mut stream, _open) = openai(FINISH).await;
    let began = Instant::now();
    let end = ended(stream.next().await);
    assert_eq!((end.finish_reason, end.usage), (FinishReason::Stop, None));
    assert_eq!(began.elapsed(), USAGE_GRACE);
    assert_eq!(stream.next().await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_do_not_prolong_the_wait_for_the_usage() {
    let (mut stream, sender) = openai(FINISH).await;
    let began = Instant::now();
    let alive = async {
        while sender.send(Bytes::from_static(b": still here\n\n")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    };
    let end = tokio::select! {
        end = stream.next() => end,
        () = alive => panic!("the stream let go"),
    };
    assert_eq!(ended(end).finish_reason, FinishReason::Stop);
    assert_eq!(began.elapsed(), USAGE_GRACE);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_body_is_the_end_at_once() {
    let (mut stream, sender) = openai(FINISH).await;
    drop(sender);
    let began = Instant::now();
    ended(stream.next().await);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_usage_is_waited_for_and_nothing_behind_it() {
    let (mut stream, sender) = openai(FINISH).await;
    let began = Instant::now();
    let late = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sender.send(Bytes::from_static(USAGE.as_bytes())).await.unwrap();
    };
    let (end, ()) = tokio::join!(stream.next(), late);
    assert_eq!(ended(end).usage.unwrap().output_tokens, 1);
    assert_eq!(began.elapsed(), Duration::from_millis(300) + LINGER);
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_ends_a_stream_whose_connection_stays_open() {
    let (mut stream, _open) = openai(&format!("{FINISH}{DONE}")).await;
    let began = Instant::now();
    ended(stream.next().await);
    assert_eq!(began.elapsed(), LINGER);
    let (mut cut, _open) = openai(DONE).await;
    assert_eq!(cut.next().await.unwrap_err().kind(), "interrupted");
}

#[tokio::test(start_paused = true)]
async fn silence_before_a_finish_reason_is_a_failure() {
    let (mut stream, _open) = openai("").await;
    let began = Instant::now();
    assert_eq!(stream.next().await, Err(UpstreamError::Silent(IDLE)));
    assert_eq!(began.elapsed(), IDLE);
    assert_eq!(stream.next().await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_are_no_content() {
    let (mut stream, sender) = openai("").await;
    let began = Instant::now();
    let alive = async {
        for event in [": ping\n\n", "data:\n\n", "data: {\"choices\":[{\"delta\":{}}]}\n\n"].iter().cycle() {
            tokio::time::sleep(IDLE / 4).await;
            if sender.send(Bytes::from_static(event.as_bytes())).await.is_err() {
                break;
            }
        }
    };
    let failed = tokio::select! {
        next = stream.next() => next,
        () = alive => panic!("nobody listens any more"),
    };
    assert_eq!(failed, Err(UpstreamError::Silent(IDLE)));
    assert_eq!(began.elapsed(), IDLE);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_its_time_is_no_silence() {
    let (mut stream, sender) = openai("").await;
    for _ in 0..3 {
        tokio::time::sleep(2 * IDLE).await;
        sender.send(Bytes::from_static(CONTENT.as_bytes())).await.unwrap();
        assert!(matches!(stream.next().await, Ok(Some(Piece::Delta(_)))));
    }
}

#[tokio::test(start_paused = true)]
async fn ollama_says_everything_in_its_last_line() {
    let body = "{\"message\":{\"content\":\"a\"}}\n{\"done\":true,\"eval_count\":1}\n";
    let (mut stream, _open) = open(Box::new(OllamaDecoder::new(CallIds::new(Uuid::nil()))), body).await;
    let began = Instant::now();
    assert_eq!(ended(stream.next().await).usage.unwrap().output_tokens, 1);
    assert_eq!(began.elapsed(), LINGER);
}

#[tokio::test(start_paused = true)]
async fn an_answer_over_the_limit_is_a_failure_and_what_stands_around_its_tokens_does_not_count() {
    let (mut stream, sender) = openai("").await;
    let event = |bytes: usize, around: usize| {
        let (text, padding) = ("x".repeat(bytes), " ".repeat(around));
        Bytes::from(format!("data: {padding}{{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"))
    };
    for _ in 0..5 {
        sender.send(event(1, 900_000)).await.unwrap();
        assert!(matches!(stream.next().await, Ok(Some(Piece::Delta(_)))));
    }
    let mut taken = 6;
    let error = loop {
        sender.send(event(100_000, 0)).await.unwrap();
        match stream.next().await {
            Ok(_) => taken += 100_000,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), "protocol");
    assert_eq!((taken + 100_000) / 100_000, MAX_ANSWER_BYTES / 100_000 + 1);
}
