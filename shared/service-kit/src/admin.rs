//! The admin endpoint: `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::health::Health;
use crate::metrics::{self, Registry};
use crate::serving::{Listener, ServeError};

/// What the admin endpoint shows.
#[derive(Debug, Clone)]
struct Shown {
    health: Health,
    registry: Arc<Registry>,
}

/// Serves the admin endpoint until `stop`. It outlives the other listeners, so that a draining process can be watched.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: Listener,
    health: Health,
    registry: Arc<Registry>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Shown { health, registry });
    let server = axum::serve(listener.incoming(), router);
    // Idle scrapers keep their connections open: they must not delay the end.
    stop.run_until_cancelled(async { server.await }).await.unwrap_or(Ok(()))?;
    Ok(())
}

async fn livez(State(shown): State<Shown>) -> Response {
    answer(shown.health.is_live(), "live", "the runtime is stuck")
}

async fn readyz(State(shown): State<Shown>) -> Response {
    answer(shown.health.is_ready(), "ready", "starting or draining")
}

fn answer(well: bool, yes: &'static str, no: &'static str) -> Response {
    if well {
        (StatusCode::OK, yes).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, no).into_response()
    }
}

async fn scrape(State(shown): State<Shown>) -> Response {
    match metrics::encode(&shown.registry) {
        Ok(body) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], body).into_response()
        }
        Err(error) => {
            error!(%error, "metrics cannot be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
