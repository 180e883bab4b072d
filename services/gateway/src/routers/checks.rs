//! Finding out whether routers are there, without a request's help.
//!
//! Every replica is asked for its health (grpc.health.v1) once in an interval, over the connection that its calls use. It costs
//! a router nothing, so it is no matter that every gateway asks. What is learnt:
//!
//! * An answer: the replica is there. SERVING makes it ready, anything else means that it is about to end, and gets calls only
//!   when nobody is ready. An open breaker closes: what it waits for is that the replica answers, and that has been seen.
//!   So no request is ever a probe.
//! * No connection: it is not reachable, at once.
//! * Silence. A frozen process keeps its connections open and takes new ones; the machine answers for it. After [`MISSES`]
//!   checks in a row without an answer, while nothing else was heard of it either, it is *silent*: calls that wait for it
//!   go to another one. This is what tells a router that has stopped from one that waits for a slow model, which no limit on
//!   the time of a call could: an answer may take a minute and be well.
//!
//! HTTP/2 keepalive closes the connection of a silent replica after 25 s. Checks are sooner, and see also a process that
//! answers pings and nothing else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use resilience::Permit;
use service_kit::health::Health;
use service_kit::status::{TransportFailure, normalise_client_error, transport_failure};
use tokio::time::MissedTickBehavior;
use tonic::Request;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Routers;
use super::replica::{Replica, Seen};

/// How many checks in a row must be left without an answer before a replica is silent.
const MISSES: u32 = 2;

impl Routers {
    /// Checks all replicas for ever, and keeps the health of `dependency-router` true: well while some router is ready.
    pub(super) async fn check(&self, health: &Health) {
        let mut ticks = tokio::time::interval(self.settings.check_interval.0);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.check_once().await;
            let well = self.pool.members().iter().any(|replica| replica.seen() == Seen::Ready);
            health.set_dependency("router", well).await;
        }
    }

    /// Checks all replicas.
    pub(super) async fn check_once(&self) {
        let timeout = self.settings.check_timeout.0;
        let members = self.pool.members();
        join_all(members.iter().map(|replica| check(replica, timeout))).await;
    }
}

async fn check(replica: &Arc<Replica>, timeout: Duration) {
    let answers = replica.answers();
    let permit = replica.breaker().acquire().ok();
    let mut client = HealthClient::new(replica.link.clone());
    let answer = client.check(Request::new(HealthCheckRequest::default()));
    let Ok(answer) = tokio::time::timeout(timeout, answer).await else {
        // A busy router may be late with its health and still answer calls.
        if replica.answers() == answers {
            missed(replica, permit);
        }
        return;
    };
    let answer = answer.map(|response| response.into_inner().status()).map_err(normalise_client_error);
    match answer.as_ref().map_err(transport_failure) {
        Ok(status) => answered(replica, permit, *status == ServingStatus::Serving),
        // A word of its own, such as that it is shutting down.
        Err(None) => answered(replica, permit, false),
        // The next one has a new connection.
        Err(Some(TransportFailure::NotSent)) => {}
        Err(Some(TransportFailure::NotConnected | TransportFailure::Cut | TransportFailure::Late)) => {
            replica.see(Seen::Unreachable);
            if let Some(permit) = permit {
                permit.failure();
            }
        }
    }
}

fn answered(replica: &Replica, permit: Option<Permit>, ready: bool) {
    replica.hear_as(if ready { Seen::Ready } else { Seen::Draining });
    let permit = permit.or_else(|| {
        replica.breaker().end_wait("health check", "the router answers");
        replica.breaker().acquire().ok()
    });
    if let Some(permit) = permit {
        permit.success();
    }
}

fn missed(replica: &Replica, permit: Option<Permit>) {
    if let Some(permit) = permit {
        permit.failure();
    }
    if replica.miss() >= MISSES {
        replica.see(Seen::Silent);
    }
}
