//! The control plane over HTTP, for people and scripts.

mod view;

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use service_kit::auth::access::Need;
use service_kit::auth::{AuthLayer, Door};
use service_kit::circuit_breakers::json;
use service_kit::identity::Role;
use service_kit::serving::{Listener, Peer, ServeError};
use service_kit::shutdown::Shutdown;
use service_kit::status::{http_status, reason_of};
use tonic::Status;

use crate::fleet::Fleet;

/// Serves HTTP until the shutdown closes listeners and what was in flight has ended.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: Listener,
    fleet: Arc<Fleet>,
    auth: AuthLayer<RestDoor>,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let router = Router::new()
        .route("/circuit-breakers", get(circuit_breakers))
        .route("/fallback-chain/stats", get(fallback_chain_stats))
        .fallback(async || {
            Failure::not_found("no such path; there are /circuit-breakers and /fallback-chain/stats")
        })
        .with_state(fleet)
        .layer(auth);
    let closing = shutdown.closing().clone();
    let server = axum::serve(listener.incoming(), router.into_make_service_with_connect_info::<Peer>())
        .with_graceful_shutdown(async move { closing.cancelled().await });
    // A client that holds its connection open must not hold the process.
    shutdown.abort().run_until_cancelled(async { server.await }).await.unwrap_or(Ok(()))?;
    Ok(())
}

/// The door of REST: it only looks, so that everything needs a viewer.
#[derive(Debug, Clone, Copy)]
pub struct RestDoor;

impl Door for RestDoor {
    type Body = Body;

    fn need(&self, _head: &Parts) -> Need {
        Need::Role(Role::Viewer)
    }

    fn refuse(&self, _head: &Parts, status: &Status) -> Response {
        Failure::from(status.clone()).into_response()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BreakersQuery {
    replica: String,
}

async fn circuit_breakers(
    State(fleet): State<Arc<Fleet>>,
    query: Result<Query<BreakersQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<json::CircuitBreakers>, Failure> {
    let Query(query) = query.map_err(|error| Failure::bad_request(&error.body_text()))?;
    let found = fleet.circuit_breakers(&query.replica, &[], None).await?;
    Ok(Json(json::CircuitBreakers::of(found.items, found.replicas, SystemTime::now())))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StatsQuery {
    agent: String,
    replica: String,
}

async fn fallback_chain_stats(
    State(fleet): State<Arc<Fleet>>,
    query: Result<Query<StatsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<view::Stats>, Failure> {
    let Query(query) = query.map_err(|error| Failure::bad_request(&error.body_text()))?;
    let found = fleet.fallback_chain_stats(&query.agent, &query.replica, None).await?;
    Ok(Json(found.into()))
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Debug, Serialize)]
struct ErrorDetail {
    reason: String,
    message: String,
}

/// A request that failed.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    body: ErrorBody,
}

impl Failure {
    fn new(status: StatusCode, reason: &str, message: &str) -> Self {
        let error = ErrorDetail { reason: reason.to_owned(), message: message.to_owned() };
        Self { status, body: ErrorBody { error } }
    }

    fn bad_request(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message)
    }

    fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "PATH_NOT_FOUND", message)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let reason = reason_of(&status).unwrap_or_else(|| "INTERNAL".to_owned());
        Self::new(http_status(&status), &reason, status.message())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
