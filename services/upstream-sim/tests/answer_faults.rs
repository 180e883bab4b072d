//! Faults of the answer: statuses, broken streams, wrong bodies, each in its upstream's shape.
#![allow(clippy::expect_used, reason = "a test may end by a panic")]

mod common;

use std::time::Duration;

use common::{Ended, Reply, Sim, chat_body, error_message, with_prefix};
use serde_json::{Value, json};
use tokio::time::Instant;
use upstream_sim::UpstreamKind::{Max, Ollama};
use upstream_sim::{End, Fault, UpstreamKind, When};

const KINDS: [UpstreamKind; 2] = UpstreamKind::ALL;

async fn ask(sim: &Sim, kind: UpstreamKind, stream: bool) -> Reply {
    Reply::read(sim.chat(kind, stream).await).await
}

fn status(status: u16, retry_after: Option<&str>) -> Fault {
    Fault::Status { status, message: None, retry_after: retry_after.map(str::to_owned) }
}

/// The end of the latest attempt.
fn last_end(sim: &Sim, kind: UpstreamKind) -> End {
    sim.handle.attempts(kind).last().expect("an attempt").end
}

#[tokio::test]
async fn every_error_status_has_the_shape_of_its_upstream() {
    let sim = Sim::start().await;
    let types = [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "invalid_request_error"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "api_error"),
        (504, "api_error"),
        (529, "api_error"),
    ];
    for stream in [true, false] {
        for (code, kind) in types {
            for upstream in KINDS {
                sim.fault(upstream, status(code, None));
                let reply = ask(&sim, upstream, stream).await;
                assert_eq!(reply.status.as_u16(), code);
                assert!(reply.header("content-type").starts_with("application/json"));
                assert!(reply.headers.get("retry-after").is_none());
                assert!(!reply.error_message().is_empty());
                assert_eq!(last_end(&sim, upstream), End::Fault("status"));
                let error = &reply.json()["error"];
                match upstream {
                    Max => {
                        assert_eq!(error["code"], code.to_string());
                        assert_eq!(error["type"], kind);
                    }
                    Ollama => assert!(error.is_string()),
                }
            }
        }
    }
    sim.fault(Ollama, status(503, None));
    let busy = ask(&sim, Ollama, true).await.error_message();
    assert!(busy.starts_with("server busy, please try again."), "{busy}");
}

#[tokio::test]
async fn retry_after_is_sent_as_it_is_given() {
    let sim = Sim::start().await;
    for kind in KINDS {
        for value in ["7", "Wed, 21 Oct 2026 07:28:00 GMT", "soon"] {
            sim.fault(kind, status(429, Some(value)));
            let reply = ask(&sim, kind, true).await;
            assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (429, value));
        }
        let message = Some("the queue is full".to_owned());
        sim.fault(kind, Fault::Status { status: 503, message, retry_after: None });
        assert_eq!(ask(&sim, kind, false).await.error_message(), "the queue is full");
    }
}

#[tokio::test]
async fn named_refusals_have_their_status_and_words() {
    let sim = Sim::start().await;
    let cases = [
        (Max, Fault::ContextLength, 400, "maximum context length"),
        (Ollama, Fault::ContextLength, 400, "exceeds the context length"),
        (Max, Fault::ContentPolicy, 400, "content policy"),
        (Ollama, Fault::ContentPolicy, 400, "content policy"),
        (Max, Fault::ModelNotFound, 404, "`sim-max` does not exist"),
        (Ollama, Fault::ModelNotFound, 404, "model 'sim-ollama' not found"),
    ];
    for (kind, fault, code, words) in cases {
        sim.fault(kind, fault.clone());
        let reply = ask(&sim, kind, true).await;
        assert_eq!(reply.status.as_u16(), code);
        assert!(reply.error_message().contains(words), "{}", reply.text());
        assert_eq!(last_end(&sim, kind), End::Fault(fault.kind()));
    }
}

#[tokio::test]
async fn a_prefix_is_refused_and_other_chats_are_answered() {
    let sim = Sim::start().await;
    for kind in KINDS {
        let when = When::Next { requests: 1 };
        sim.handle.set_fault(kind, Fault::RejectPrefix, when).expect("a good fault");
        assert!(ask(&sim, kind, true).await.is_done());
        let prefixed = with_prefix(chat_body(kind, true), "This is");
        let refused = Reply::read(sim.post(kind, &prefixed).await.expect("headers")).await;
        assert_eq!(refused.status, 400);
        assert!(refused.error_message().contains("assistant"), "{}", refused.text());
        let again = Reply::read(sim.post(kind, &prefixed).await.expect("headers")).await;
        assert!(again.is_done(), "it was for one request with a prefix");
    }
}

#[tokio::test]
async fn a_slow_first_token_comes_late_after_prompt_headers() {
    let sim = Sim::start().await;
    for kind in KINDS {
        sim.fault(kind, Fault::SlowFirstToken { delay_ms: 300 });
        let start = Instant::now();
        let response = sim.chat(kind, true).await;
        assert!(start.elapsed() < Duration::from_millis(200), "headers: {:?}", start.elapsed());
        let reply = Reply::read(response).await;
        assert!(reply.times[0] >= Duration::from_millis(100), "{:?}", reply.times[0]);
        assert!(reply.is_done());
        assert_eq!(last_end(&sim, kind), End::Completed, "late, but whole");

        let start = Instant::now();
        ask(&sim, kind, false).await;
        assert!(start.elapsed() >= Duration::from_millis(300), "unary: {:?}", start.elapsed());
        let attempts = sim.handle.attempts(kind);
        assert!(attempts.iter().all(|attempt| attempt.fault == Some("slow_first_token")));
        assert!(attempts[1].duration_ms >= Some(300));
    }
}

#[tokio::test]
async fn slow_tokens_each_come_late() {
    let sim = Sim::start().await;
    for kind in KINDS {
        let calm = ask(&sim, kind, true).await;
        sim.fault(kind, Fault::SlowTokens { delay_ms: 5 });
        let reply = ask(&sim, kind, true).await;
        let least = Duration::from_millis(5) * u32::try_from(reply.content_events()).expect("few");
        let took = *reply.times.last().expect("parts");
        assert!(took + Duration::from_millis(10) >= least, "{took:?} of {least:?}");
        assert_eq!(reply.content(), calm.content());
        assert_eq!(last_end(&sim, kind), End::Completed);
        let start = Instant::now();
        ask(&sim, kind, false).await;
        assert!(start.elapsed() >= least);
    }
}

#[tokio::test]
async fn a_stream_may_end_well_without_its_done() {
    let sim = Sim::start().await;
    for kind in KINDS {
        sim.fault(kind, Fault::NoDone { finish_reason: true });
        let reply = ask(&sim, kind, true).await;
        assert_eq!(reply.ended, Ended::Whole, "the body itself is whole");
        assert!(reply.content().ends_with('.'));
        assert!(!reply.is_done());
        assert_eq!(last_end(&sim, kind), End::Fault("no_done"));
        if kind == Max {
            let last = reply.json_events().pop().expect("events");
            assert_eq!(last["choices"][0]["finish_reason"], "stop");
        }
        let unary = ask(&sim, kind, false).await.json();
        let finish = if kind == Max { &unary["choices"][0]["finish_reason"] } else { &Value::Null };
        assert_eq!(finish, &Value::Null);
        assert_ne!(unary["done"], true);
    }
}

#[tokio::test]
async fn an_answer_that_is_given_up_ends_like_any_other_but_for_its_reason() {
    let sim = Sim::start().await;
    for kind in KINDS {
        let whole = ask(&sim, kind, true).await;
        sim.fault(kind, Fault::Aborted { after_chunks: 2 });
        let reply = ask(&sim, kind, true).await;
        assert!(reply.is_done() && whole.content().starts_with(&reply.content()));
        assert_eq!(reply.content_events(), 2);
        let last = reply.json_events().pop().expect("events");
        let unary = ask(&sim, kind, false).await.json();
        if kind == Max {
            assert_eq!(last["choices"][0]["finish_reason"], "abort");
            assert_eq!(unary["choices"][0]["finish_reason"], "abort");
            assert_eq!(unary["choices"][0]["message"]["content"], reply.content());
        } else {
            assert_eq!((&last["done_reason"], &unary["done_reason"]), (&json!("unload"), &json!("unload")));
        }
        assert_eq!(last_end(&sim, kind), End::Fault("aborted"));
    }
}

#[tokio::test]
async fn a_stream_may_end_without_a_finish_reason() {
    let sim = Sim::start().await;
    sim.fault(Max, Fault::NoDone { finish_reason: false });
    for limit in [None, Some(3)] {
        let mut body = chat_body(Max, true);
        body["max_tokens"] = json!(limit);
        body["stream_options"] = json!({"include_usage": true});
        let reply = Reply::read(sim.post(Max, &body).await.expect("headers")).await;
        let events = reply.json_events();
        assert!(events.iter().all(|event| event["choices"][0].get("finish_reason").is_none()));
        assert!(events.iter().all(|event| event.get("usage").is_none()));
        assert!(!reply.is_done());
    }
}

#[tokio::test]
async fn one_event_is_malformed_among_good_ones() {
    let sim = Sim::start().await;
    for kind in KINDS {
        let good = ask(&sim, kind, true).await;
        sim.fault(kind, Fault::MalformedEvent { after_chunks: 2 });
        let reply = ask(&sim, kind, true).await;
        let events = reply.events();
        assert_eq!(events.len(), good.events().len() + 1);
        assert!(serde_json::from_str::<Value>(events[1]).is_ok());
        assert!(serde_json::from_str::<Value>(events[2]).is_err(), "{}", events[2]);
        assert!(serde_json::from_str::<Value>(events[3]).is_ok());
        assert_eq!(reply.content(), good.content());
        assert_eq!(last_end(&sim, kind), End::Fault("malformed_event"));

        let unary = ask(&sim, kind, false).await;
        assert_eq!((unary.status.as_u16(), &unary.ended), (200, &Ended::Whole));
        assert!(serde_json::from_slice::<Value>(&unary.body).is_err());
    }
}

#[tokio::test]
async fn an_error_event_ends_the_stream() {
    let sim = Sim::start().await;
    for kind in KINDS {
        for chunks in [0, 3] {
            let message = Some("the worker died".to_owned());
            sim.fault(kind, Fault::ErrorEvent { after_chunks: chunks, message });
            let reply = ask(&sim, kind, true).await;
            assert_eq!((reply.status.as_u16(), &reply.ended), (200, &Ended::Whole));
            let events = reply.json_events();
            assert_eq!(events.len(), chunks as usize + 1);
            let error = events.last().expect("an event");
            assert_eq!(error_message(error), "the worker died");
            if kind == Max {
                assert_eq!(error["error"]["code"], "500");
            }
            assert!(!reply.is_done());
            assert_eq!(last_end(&sim, kind), End::Fault("error_event"));
        }
        let unary = ask(&sim, kind, false).await;
        assert_eq!(unary.status, 500);
        assert_eq!(unary.error_message(), "the worker died");
        sim.fault(kind, Fault::ErrorEvent { after_chunks: 1, message: None });
        let usual = ask(&sim, kind, true).await.json_events().pop().expect("an event");
        assert!(!error_message(&usual).is_empty());
    }
}

#[tokio::test]
async fn a_wrong_content_type_brings_a_page_or_only_a_wrong_name() {
    let sim = Sim::start().await;
    for kind in KINDS {
        for stream in [true, false] {
            let html = "text/html; charset=utf-8".to_owned();
            sim.fault(kind, Fault::WrongContentType { content_type: html });
            let reply = ask(&sim, kind, stream).await;
            assert_eq!(reply.status, 200);
            assert_eq!(reply.header("content-type"), "text/html; charset=utf-8");
            assert!(reply.text().starts_with("<!DOCTYPE html>"), "{}", reply.text());

            let plain = "text/plain".to_owned();
            sim.fault(kind, Fault::WrongContentType { content_type: plain });
            let reply = ask(&sim, kind, stream).await;
            assert_eq!(reply.header("content-type"), "text/plain");
            assert!(reply.text().contains("fjords"), "the answer itself: {}", reply.text());
            assert_eq!(last_end(&sim, kind), End::Fault("wrong_content_type"));
        }
    }
}

#[tokio::test]
async fn a_malformed_body_does_not_parse() {
    let sim = Sim::start().await;
    for kind in KINDS {
        sim.fault(kind, Fault::MalformedBody);
        let stream = ask(&sim, kind, true).await;
        assert_eq!((stream.status.as_u16(), &stream.ended), (200, &Ended::Whole));
        let wanted = if kind == Max { "text/event-stream" } else { "application/x-ndjson" };
        assert!(stream.header("content-type").starts_with(wanted));
        assert!(std::str::from_utf8(&stream.body).is_err());
        let unary = ask(&sim, kind, false).await;
        assert!(unary.header("content-type").starts_with("application/json"));
        assert_eq!((unary.status.as_u16(), &unary.ended), (200, &Ended::Whole));
        assert!(serde_json::from_slice::<Value>(&unary.body).is_err());
        assert_eq!(last_end(&sim, kind), End::Fault("malformed_body"));
    }
}

#[tokio::test]
async fn an_oversize_answer_has_exactly_so_many_bytes_and_parses() {
    let sim = Sim::start().await;
    for kind in KINDS {
        for bytes in [1_usize, 4096, 100_001] {
            for (stream, one_event) in [(true, false), (true, true), (false, false)] {
                sim.fault(kind, Fault::Oversize { bytes: bytes as u64, one_event });
                let reply = ask(&sim, kind, stream).await;
                assert_eq!(reply.ended, Ended::Whole);
                assert_eq!(reply.content().len(), bytes, "{kind:?} {stream} {one_event}");
                if stream {
                    assert!(reply.is_done());
                    let events = if one_event { 1 } else { bytes.div_ceil(4096) };
                    assert_eq!(reply.content_events(), events);
                    let sent = sim.handle.attempts(kind).last().expect("one").chunks_sent;
                    assert_eq!(sent, events as u64);
                }
            }
        }
    }
}

#[tokio::test]
async fn an_oversize_answer_is_not_held_in_memory_and_stops_with_its_reader() {
    let sim = Sim::start().await;
    for kind in KINDS {
        sim.fault(kind, Fault::Oversize { bytes: 1 << 30, one_event: true });
        let response = sim.chat(kind, true).await;
        drop(response);
        assert_eq!(sim.only_attempt(kind).await.end, End::ClientGone);
    }
}

#[tokio::test]
async fn probes_are_answered_while_every_chat_fails() {
    let sim = Sim::start().await;
    for kind in KINDS {
        sim.fault(kind, status(500, None));
        assert_eq!(ask(&sim, kind, true).await.status, 500);
    }
    assert_eq!(sim.get(sim.max, "/health").await.status, 200);
    assert_eq!(sim.get(sim.ollama, "/api/version").await.status, 200);
}

#[tokio::test]
async fn a_fault_of_the_answer_leaves_a_refused_request_alone() {
    let sim = Sim::start().await;
    for kind in KINDS {
        let mut body = chat_body(kind, true);
        body["model"] = json!("no-such-model");
        sim.fault(kind, Fault::Cut { after_chunks: 0 });
        let reply = Reply::read(sim.post(kind, &body).await.expect("headers")).await;
        assert_eq!(reply.ended, Ended::Whole);
        assert!(reply.status.is_client_error());
        assert_eq!(last_end(&sim, kind), End::Rejected);
        sim.fault(kind, Fault::MalformedBody);
        let reply = Reply::read(sim.post(kind, &body).await.expect("headers")).await;
        assert!(serde_json::from_slice::<Value>(&reply.body).is_err());
        sim.fault(kind, status(503, None));
        let reply = Reply::read(sim.post(kind, &body).await.expect("headers")).await;
        assert_eq!(reply.status, 503);
    }
}

#[tokio::test]
async fn a_rate_strikes_some_and_the_same_ones_each_time() {
    let sim = Sim::start().await;
    let mut runs = Vec::new();
    for _ in 0..2 {
        let when = When::Rate { rate: 0.5 };
        sim.handle.set_fault(Max, status(503, None), when).expect("a good fault");
        let mut run = Vec::new();
        for _ in 0..20 {
            run.push(sim.chat(Max, false).await.status().as_u16());
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    let struck = runs[0].iter().filter(|code| **code == 503).count();
    assert!((4..=16).contains(&struck), "{struck}");
    assert_eq!(sim.handle.status(Max).counters.struck, 2 * struck as u64);
}
