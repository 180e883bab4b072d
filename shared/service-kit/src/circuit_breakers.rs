//! `CircuitBreakerService`: the breakers of one replica, whichever service it is of, and what they are in JSON.

mod convert;
pub mod json;

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use aiplatform_proto::resilience::v1 as wire;
use aiplatform_proto::resilience::v1::circuit_breaker_service_server::CircuitBreakerService;
use futures_util::Stream;
use resilience::{CircuitBreaker, CircuitBreakerRegistry};
use tonic::{Request, Response, Status};

pub use self::convert::state;
use crate::paging::page;
use crate::replica::Replica;
use crate::status::{Reason, not_served};

/// The tiers whose calls a breaker of this name guards.
pub type TiersOf = Arc<dyn Fn(&str) -> Vec<String> + Send + Sync>;

/// Shows breakers.
#[derive(Clone)]
pub struct CircuitBreakers {
    breakers: Arc<CircuitBreakerRegistry>,
    tiers: TiersOf,
    replica: Replica,
}

impl std::fmt::Debug for CircuitBreakers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CircuitBreakers").field("replica", &self.replica).finish_non_exhaustive()
    }
}

impl CircuitBreakers {
    /// The service for these breakers.
    pub fn new(breakers: Arc<CircuitBreakerRegistry>, tiers: TiersOf, replica: Replica) -> Self {
        Self { breakers, tiers, replica }
    }

    /// All breakers, in JSON as of `now`.
    pub fn json(&self, now: SystemTime) -> json::CircuitBreakers {
        let breakers = self.breakers.all();
        let shown = breakers.iter().map(|breaker| self.show(breaker)).collect();
        json::CircuitBreakers::of(shown, vec![self.replica.status()], now)
    }

    fn show(&self, breaker: &CircuitBreaker) -> wire::CircuitBreaker {
        convert::breaker(breaker, (self.tiers)(breaker.name()), &self.replica)
    }
}

#[tonic::async_trait]
impl CircuitBreakerService for CircuitBreakers {
    async fn list_circuit_breakers(
        &self,
        request: Request<wire::ListCircuitBreakersRequest>,
    ) -> Result<Response<wire::ListCircuitBreakersResponse>, Status> {
        let request = request.into_inner();
        let mine = self.replica.is_asked(&request.replica);
        let wanted = |breaker: &wire::CircuitBreaker| {
            mine && (request.states.is_empty() || request.states.contains(&breaker.state))
        };
        let breakers = self.breakers.all();
        let breakers = breakers.iter().map(|breaker| self.show(breaker)).filter(wanted).collect();
        let (circuit_breakers, next_page_token) =
            page(breakers, |breaker| breaker.name.clone(), request.page_size, &request.page_token)?;
        let replicas = vec![self.replica.status()];
        Ok(Response::new(wire::ListCircuitBreakersResponse { circuit_breakers, next_page_token, replicas }))
    }

    async fn get_circuit_breaker(
        &self,
        request: Request<wire::GetCircuitBreakerRequest>,
    ) -> Result<Response<wire::GetCircuitBreakerResponse>, Status> {
        let wire::GetCircuitBreakerRequest { name, replica } = request.into_inner();
        let found = self.breakers.get(&name).filter(|_| self.replica.is_asked(&replica));
        let Some(breaker) = found else {
            let message = format!("no circuit breaker `{name}` here; ListCircuitBreakers shows them");
            return Err(Reason::CircuitBreakerNotFound
                .status(message)
                .resource("circuit breaker", name)
                .build());
        };
        let circuit_breakers = vec![self.show(&breaker)];
        let replicas = vec![self.replica.status()];
        Ok(Response::new(wire::GetCircuitBreakerResponse { circuit_breakers, replicas }))
    }

    type WatchCircuitBreakersStream =
        Pin<Box<dyn Stream<Item = Result<wire::WatchCircuitBreakersResponse, Status>> + Send>>;

    async fn watch_circuit_breakers(
        &self,
        _request: Request<wire::WatchCircuitBreakersRequest>,
    ) -> Result<Response<Self::WatchCircuitBreakersStream>, Status> {
        Err(not_served("WatchCircuitBreakers"))
    }

    async fn list_circuit_breaker_events(
        &self,
        _request: Request<wire::ListCircuitBreakerEventsRequest>,
    ) -> Result<Response<wire::ListCircuitBreakerEventsResponse>, Status> {
        Err(not_served("ListCircuitBreakerEvents"))
    }

    async fn reset_circuit_breaker(
        &self,
        _request: Request<wire::ResetCircuitBreakerRequest>,
    ) -> Result<Response<wire::ResetCircuitBreakerResponse>, Status> {
        Err(not_served("ResetCircuitBreaker"))
    }

    async fn set_circuit_breaker_mode(
        &self,
        _request: Request<wire::SetCircuitBreakerModeRequest>,
    ) -> Result<Response<wire::SetCircuitBreakerModeResponse>, Status> {
        Err(not_served("SetCircuitBreakerMode"))
    }
}
