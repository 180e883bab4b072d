use futures_util::stream;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use service_kit::status::reason_of;
use tonic::Code;

use super::*;

fn event(event: Event) -> wire::StreamChatResponse {
    wire::StreamChatResponse { event: Some(event) }
}

fn start() -> wire::StreamChatResponse {
    let served_by = wire::ServedBy { tier: "max".into(), ..wire::ServedBy::default() };
    event(Event::Start(wire::StreamStart {
        id: "chat-1".into(),
        model: "assistant".into(),
        created_at: Some(aiplatform_proto::Timestamp { seconds: 17, nanos: 0 }),
        served_by: Some(served_by),
        attempts: vec![],
    }))
}

fn text(text: &str) -> wire::StreamChatResponse {
    event(Event::Delta(wire::StreamDelta { text: text.into(), ..wire::StreamDelta::default() }))
}

fn end() -> wire::StreamChatResponse {
    event(Event::End(wire::StreamEnd {
        finish_reason: wire::FinishReason::Length.into(),
        usage: Some(wire::Usage { input_tokens: 3, output_tokens: 4, ..wire::Usage::default() }),
        ..wire::StreamEnd::default()
    }))
}

/// The events as texts, and the status in the trailers.
async fn written(
    events: Vec<wire::StreamChatResponse>,
    include_usage: bool,
    error: Option<Status>,
) -> (Vec<String>, Option<Status>) {
    let events = stream::iter(events.into_iter().map(Ok).chain(error.map(Err)));
    let response = response(Box::pin(events), include_usage).await.unwrap();
    assert_eq!(response.headers()[aip::SERVED_BY], "max");
    let collected = response.into_body().collect().await.unwrap();
    let status = collected.trailers().and_then(Status::from_header_map);
    let text = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
    let events = text.strip_suffix("\n\n").unwrap().split("\n\n").map(str::to_owned).collect();
    (events, status)
}

fn chunk(event: &str) -> Value {
    serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()
}

#[tokio::test]
async fn a_stream_opens_with_the_role_and_ends_with_a_reason_and_done() {
    let (events, status) = written(vec![start(), text("a"), text(""), text("b"), end()], false, None).await;
    assert!(status.is_none());
    assert_eq!(events.last().unwrap(), "data: [DONE]");
    let chunks: Vec<Value> = events[..events.len() - 1].iter().map(|event| chunk(event)).collect();
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let expected = [
        json!({"role": "assistant", "content": ""}),
        json!({"content": "a"}),
        json!({"content": "b"}),
        json!({}),
    ];
    assert_eq!(deltas, expected.iter().collect::<Vec<_>>());
    assert_eq!(chunks[0]["id"], "chat-1");
    assert_eq!(chunks[0]["object"], "chat.completion.chunk");
    assert_eq!((chunks[0]["created"].as_u64(), &chunks[0]["model"]), (Some(17), &json!("assistant")));
    assert_eq!(chunks[0]["choices"][0]["finish_reason"], json!(null));
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "length");
    assert!(chunks[3]["aip"]["attempts"].is_array() && chunks[0].get("aip").is_none());
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn tokens_are_counted_in_a_chunk_of_their_own_where_that_was_asked_for() {
    let (events, _) = written(vec![start(), text("a"), end()], true, None).await;
    let counted = chunk(&events[events.len() - 2]);
    assert_eq!((&counted["choices"], &counted["usage"]["total_tokens"]), (&json!([]), &json!(7)));
    for event in &events[..events.len() - 2] {
        assert_eq!(chunk(event)["usage"], json!(null));
        assert!(chunk(event).as_object().unwrap().contains_key("usage"));
    }
    for (reason, word) in
        [(wire::FinishReason::Stop, json!("stop")), (wire::FinishReason::Unspecified, json!(null))]
    {
        let end = wire::StreamEnd { finish_reason: reason.into(), ..wire::StreamEnd::default() };
        let (events, _) = written(vec![start(), event(Event::End(end))], true, None).await;
        assert_eq!(chunk(&events[events.len() - 2])["choices"][0]["finish_reason"], word, "uncounted");
    }
}

#[tokio::test]
async fn a_refusal_comes_in_pieces() {
    let refused = wire::StreamDelta { refusal: "no".into(), ..wire::StreamDelta::default() };
    let (events, _) = written(vec![start(), event(Event::Delta(refused)), end()], false, None).await;
    assert_eq!(chunk(&events[1])["choices"][0]["delta"], json!({"refusal": "no"}));
}

#[tokio::test]
async fn tool_calls_come_in_pieces_and_a_handover_in_a_comment() {
    let piece = |id: &str, name: &str, arguments: &str| {
        let call =
            wire::ToolCallDelta { index: 1, id: id.into(), name: name.into(), arguments: arguments.into() };
        event(Event::Delta(wire::StreamDelta { tool_calls: vec![call], ..wire::StreamDelta::default() }))
    };
    let handover = wire::StreamHandover {
        from: Some(wire::ServedBy { tier: "max".into(), ..wire::ServedBy::default() }),
        served_by: Some(wire::ServedBy { tier: "olla\nma".into(), ..wire::ServedBy::default() }),
        ..wire::StreamHandover::default()
    };
    let events =
        vec![start(), piece("c", "f", ""), piece("", "", "{}"), event(Event::Handover(handover)), end()];
    let (events, _) = written(events, false, None).await;
    let calls = |event: &str| chunk(event)["choices"][0]["delta"]["tool_calls"].clone();
    let first =
        json!([{"index": 1, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]);
    assert_eq!(calls(&events[1]), first);
    assert_eq!(calls(&events[2]), json!([{"index": 1, "function": {"arguments": "{}"}}]));
    assert_eq!(events[3], ": handover from max to olla ma");
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_in_its_status_and_is_not_done() {
    let lost = Reason::StreamInterrupted.status("lost").build();
    let (events, status) = written(vec![start(), text("a")], false, Some(lost)).await;
    assert_eq!(status.unwrap().code(), Code::Unavailable);
    assert!(events.iter().all(|event| event != "data: [DONE]"));
    // A router that just stops is no better.
    let (_, status) = written(vec![start(), text("a")], false, None).await;
    assert_eq!(reason_of(&status.unwrap()).as_deref(), Some("STREAM_INTERRUPTED"));
    // What goes wrong behind the end is nobody's concern.
    let (events, status) = written(vec![start(), end()], false, Some(Status::internal("x"))).await;
    assert!(status.is_none() && events.last().unwrap() == "data: [DONE]");
}

#[tokio::test]
async fn what_fails_before_its_first_content_has_no_head() {
    let refused = Reason::Overloaded.status("full").build();
    let status = response(Box::pin(stream::iter([Err(refused)])), false).await.unwrap_err();
    assert_eq!(reason_of(&status).as_deref(), Some("OVERLOADED"));
    let status = response(Box::pin(stream::empty()), false).await.unwrap_err();
    assert_eq!(reason_of(&status).as_deref(), Some("STREAM_INTERRUPTED"));
}

#[tokio::test(start_paused = true)]
async fn silence_is_filled_with_comments() {
    let late = stream::once(async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        text("late")
    });
    let events = stream::iter([start()]).chain(late).chain(stream::iter([end()])).map(Ok);
    let body =
        response(Box::pin(events), false).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!(body.matches(": keep-alive\n\n").count(), 2, "{body}");
    assert!(body.contains("late") && body.ends_with("data: [DONE]\n\n"));
}
