//! Which pages of other origins browsers let read what the HTTP port says.
//!
//! Callers show a key and no cookie, so that a page which is let in brings nothing but what it already has.

use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method};
use service_kit::layer::REQUEST_ID_HEADER;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::aip;
use crate::config::CorsConfig;

/// How long a browser may remember that it asked for leave: the most that Chromium does.
const MAX_AGE: Duration = Duration::from_secs(2 * 3600);

/// Response headers that a page may read.
fn exposed() -> Vec<HeaderName> {
    let named = [
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "grpc-retry-pushback-ms",
        "retry-after-ms",
        "x-should-retry",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
        REQUEST_ID_HEADER,
    ];
    let named = named.map(HeaderName::from_static);
    named
        .into_iter()
        .chain([CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, aip::SERVED_BY, aip::DEGRADED, aip::ATTEMPTS])
        .collect()
}

/// Tells browsers who is let in: nobody, where no origin is configured.
pub(crate) fn layer(config: &CorsConfig) -> CorsLayer {
    let origins = &config.allowed_origins;
    let origin = if origins.iter().any(crate::config::Origin::is_any) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin.as_str()).ok()))
    };
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST])
        // A wildcard would leave out `authorization`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(exposed())
        .max_age(MAX_AGE)
}
