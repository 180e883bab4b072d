//! What every ai-platform binary needs to be a good citizen.
//!
//! * [`auth`]: who may call, and what they may do
//! * [`config`]: one YAML document over the environment over defaults, parsed into types, refused with key, value and rule
//! * [`cli`]: `--config`, `--print-config`, `healthcheck`, and the life of a process from start to drain
//! * [`telemetry`]: logs, OTLP traces, W3C context
//! * [`metrics`]: the Prometheus registry and the metrics of every RPC server
//! * [`health`]: grpc.health.v1 and the state behind `/livez` and `/readyz`
//! * [`admin`]: the admin endpoint
//! * [`shutdown`]: the order in which a process ends
//! * [`layer`]: deadline, trace, metrics and drain around every RPC
//! * [`grpc`]: a gRPC server with all of it
//! * [`held_body`]: a response's body that holds something while there is work behind it
//! * [`in_process`]: the same server, called by the code of its own process
//! * [`dns`]: the addresses of names
//! * [`status`]: error reasons and their status codes
//! * [`paging`]: pages of lists
//! * `redis` (a feature): one Redis, behind Sentinels, or a cluster, and a connection that is kept
//! * [`replica`]: which of a service's processes this is
//! * [`circuit_breakers`]: its circuit breakers over gRPC and in JSON
//! * [`security`]: what may be reached from outside, and by whom
//! * [`serving`]: listeners and the tasks behind them
//! * [`identity`]: who makes a request, and what it may do
//! * [`tenant`]: on whose behalf a request is made
//! * [`tls`]: TLS of our own listeners, and towards our own services

pub mod admin;
mod allocator;
pub mod auth;
pub mod circuit_breakers;
pub mod cli;
pub mod config;
pub mod dns;
pub mod grpc;
pub mod health;
pub mod held_body;
pub mod identity;
pub mod in_process;
pub mod layer;
pub mod metrics;
pub mod paging;
#[cfg(feature = "redis")]
pub mod redis;
pub mod replica;
pub mod security;
pub mod serving;
pub mod shutdown;
pub mod status;
pub mod telemetry;
pub mod tenant;
pub mod tls;
