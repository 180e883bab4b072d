//! Stands in for MAX Serve and Ollama: both protocols on ports of their own, answers that a seed
//! decides, and faults on demand. Tests embed it by [`Simulator`]; the binary `upstream-sim` runs
//! it as a process.
//!
//! ```no_run
//! # async fn example() -> Result<(), upstream_sim::SimError> {
//! use tokio_util::sync::CancellationToken;
//! use upstream_sim::{Fault, SimConfig, Simulator, UpstreamKind, When};
//!
//! let simulator = Simulator::bind(SimConfig::ephemeral()).await?;
//! let (url, handle) = (format!("http://{}", simulator.max_addr()), simulator.handle());
//! let shutdown = CancellationToken::new();
//! let running = simulator.run(shutdown.clone());
//! // … while `running` is polled by a task:
//! handle.set_fault(UpstreamKind::Max, Fault::Cut { after_chunks: 3 }, When::Next { requests: 1 })?;
//! # drop((url, running)); Ok(()) }
//! ```
//!
//! # What it answers
//!
//! | upstream | default port | endpoints |
//! |---|---|---|
//! | `max` | 18000 | `POST /v1/chat/completions` (unary, SSE), `GET /v1/models`, `/v1/models/{id}`, `/health`, `/version` |
//! | `ollama` | 18434 | `POST /api/chat` (NDJSON, unary), `POST /api/generate` without a prompt, `GET /api/tags`, `/api/ps`, `/api/version`, `/` |
//! | control | 18090 | below |
//!
//! Both speak HTTP/1.1 and HTTP/2 without TLS. The same request has the same answer for a seed,
//! whatever the upstream did before: the text names the model and the upstream, echoes the first
//! words of the last user message, and goes on with words. `max_tokens`, `max_completion_tokens`
//! and `num_predict` shorten it to its beginning, with the finish reason `length`.
//!
//! **A prefix is continued.** When the last message is the assistant's and is the beginning of this
//! upstream's own answer, at any byte, the reply is exactly the rest, and nothing when the answer
//! is whole already. Any other prefix of n words is continued with the tokens from number n on of
//! the answer to the messages before it. So a continued answer holds later tokens; one that begins
//! with `This is` again was repeated.
//!
//! A model of the Ollama side is loaded by the first request that needs it, or by one without messages or prompt, in the time of
//! [`SimConfig::ollama_load`]; when that request is given up, so is the loading.
//!
//! Unknown models are refused as the real servers do: 400 `Value error.` by MAX Serve, 404 by
//! Ollama. Tools, sampling parameters, stop sequences and formats are accepted and change nothing;
//! the request's `seed` changes the words.
//!
//! # The control API
//!
//! `{upstream}` is `max` or `ollama`. Every answer is JSON but for `/healthz`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | `ok` |
//! | `GET /upstreams` | `{"upstreams": [status, status]}` |
//! | `GET /upstreams/{upstream}` | the status: address, whether it listens, the fault that is set with the requests left, counters |
//! | `PUT /upstreams/{upstream}/fault` | sets a fault in the place of the one before; the status |
//! | `DELETE /upstreams/{upstream}/fault` | takes it away; the status |
//! | `GET /upstreams/{upstream}/attempts?since=N` | `{"name", "dropped", "attempts": […]}`: the chats that it saw, those after number N |
//! | `DELETE /upstreams/{upstream}/attempts` | forgets them; counters and numbers go on |
//!
//! A fault is set by what goes wrong and when; `when` is `always` unless it is given:
//!
//! ```text
//! curl -X PUT localhost:18090/upstreams/max/fault -d '{
//!   "fault": {"kind": "slow_tokens", "delay_ms": 50},
//!   "when": {"mode": "next", "requests": 3}}'
//! ```
//!
//! | `when` | strikes |
//! |---|---|
//! | `{"mode": "always"}` | every chat until it is taken away |
//! | `{"mode": "next", "requests": 3}` | the next three chats that it can strike, then it is gone |
//! | `{"mode": "rate", "rate": 0.1}` | each chat with that probability, drawn from the seed |
//!
//! | `kind` | fields (default) | what happens |
//! |---|---|---|
//! | `down` | | the port refuses connections, open ones are reset; only `always` |
//! | `reset` | | the connection is reset before any header |
//! | `hang` | | no header ever comes |
//! | `slow_first_token` | `delay_ms` | headers at once, the first token late; a unary answer is late |
//! | `no_first_token` | | headers at once, then silence |
//! | `slow_tokens` | `delay_ms` | every token late, on top of the pace; a unary answer is late by the sum |
//! | `stall` | `after_chunks` (1) | silence after so many chunks; unary: after half of the body |
//! | `cut` | `after_chunks` (1) | the connection is closed in mid-body (HTTP/2: the stream is reset); unary: after half |
//! | `no_done` | `finish_reason` (true) | ends without `[DONE]`, or Ollama's line that is done; `false` (MAX only) leaves out finish reason and usage too; unary: no finish reason |
//! | `aborted` | `after_chunks` (1) | ends after so many chunks as if it were whole, but for the finish reason: `abort`, Ollama's `unload`; unary: their text |
//! | `malformed_event` | `after_chunks` (1) | one event of broken JSON among the good ones; unary: broken JSON |
//! | `error_event` | `after_chunks` (1), `message` | an error event ends the stream, without `[DONE]`; unary: 500 |
//! | `status` | `status`, `message`, `retry_after` | that status, 400 to 599, in the upstream's shape; `retry_after` (seconds, or text as it is) adds the header |
//! | `context_length` | | 400, the prompt does not fit |
//! | `content_policy` | | 400, refused by a policy |
//! | `model_not_found` | | 404 |
//! | `reject_prefix` | | 400 for a chat that ends with an assistant message; others are answered and not counted |
//! | `wrong_content_type` | `content_type` (`text/html; charset=utf-8`) | 200 with that type; as HTML the body is a proxy's page |
//! | `malformed_body` | | 200 and the right type, but a body that does not parse |
//! | `oversize` | `bytes`, `one_event` (false) | a well-formed answer with so many bytes of content |
//!
//! Chunks are events with content. When an answer has fewer than `after_chunks`, the fault comes
//! after the last of them. Faults other than `down` strike chats only, so `/health` still answers
//! while every chat fails. A fault that shapes an answer leaves a refused request alone.
//!
//! What is wrong in a request is named: 400 with
//! `{"error": {"field": "fault.kind", "rule": "…", "did_you_mean": "slow_tokens", "message": "…"}}`;
//! an unknown upstream is 404.
//!
//! # Attempts
//!
//! Each chat is one attempt, logged from its first header on:
//!
//! ```json
//! {"sequence": 1, "time_unix_ms": 1767225600000, "method": "POST", "path": "/v1/chat/completions",
//!  "headers": {"traceparent": "00-…"}, "body": {"model": "sim-max", "messages": []},
//!  "status": 200, "fault": null, "end": "completed", "chunks_sent": 41, "duration_ms": 820}
//! ```
//!
//! `end` is `active`, `completed`, `client_gone` (noticed as soon as the connection ends),
//! `rejected` (by the protocol's own rules), `shutdown`, or the kind of the fault that broke it.
//! `fault` is the kind that struck, also when it only slowed the answer or when the client left
//! first. The log keeps the latest attempts and counts in `dropped` what it let go; counters lose
//! nothing. Credentials are never kept.

mod accept;
mod answer;
mod attempts;
mod body;
mod chat;
mod config;
mod conn;
mod control;
mod error;
mod fault;
mod fault_json;
mod gate;
mod health;
mod ollama;
mod openai;
mod protocol;
mod rng;
mod script;
mod sim;
mod upstream;

pub use attempts::{Attempt, Counters, End};
pub use config::{DEFAULT_MAX_MODEL, DEFAULT_OLLAMA_MODEL, SimConfig};
pub use error::{FieldError, SimError};
pub use fault::{ActiveFault, Fault, MAX_DELAY_MS, MAX_OVERSIZE_BYTES, When};
pub use health::{HealthError, check_health};
pub use sim::{SimHandle, Simulator};
pub use upstream::{UpstreamKind, UpstreamStatus};
