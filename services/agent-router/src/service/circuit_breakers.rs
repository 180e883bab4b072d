//! `CircuitBreakerService`: this replica's breakers.

use std::pin::Pin;
use std::sync::Arc;

use aiplatform_proto::resilience::v1 as wire;
use aiplatform_proto::resilience::v1::circuit_breaker_service_server::CircuitBreakerService;
use futures_util::Stream;
use resilience::{CircuitBreaker, CircuitBreakerRegistry};
use service_kit::paging::page;
use service_kit::status::{Reason, not_served};
use tonic::{Request, Response, Status};

use super::convert;
use crate::agents::{Agents, CurrentAgents};
use crate::identity::Identity;

/// Shows breakers.
#[derive(Debug)]
pub struct CircuitBreakers {
    breakers: Arc<CircuitBreakerRegistry>,
    agents: CurrentAgents,
    identity: Identity,
}

impl CircuitBreakers {
    /// The service for these breakers.
    pub fn new(breakers: Arc<CircuitBreakerRegistry>, agents: CurrentAgents, identity: Identity) -> Self {
        Self { breakers, agents, identity }
    }

    fn show(&self, breaker: &CircuitBreaker, agents: &Agents) -> wire::CircuitBreaker {
        let tiers = agents.tiers().iter();
        let users = tiers.filter(|tier| tier.breakers().iter().any(|guard| guard.name() == breaker.name()));
        let tiers = users.map(|tier| tier.name.to_string());
        convert::breaker(breaker, tiers.collect(), Identity::SERVICE, self.identity.replica())
    }
}

#[tonic::async_trait]
impl CircuitBreakerService for CircuitBreakers {
    async fn list_circuit_breakers(
        &self,
        request: Request<wire::ListCircuitBreakersRequest>,
    ) -> Result<Response<wire::ListCircuitBreakersResponse>, Status> {
        let request = request.into_inner();
        let mine = self.identity.is_asked(&request.replica);
        let wanted = |breaker: &wire::CircuitBreaker| {
            mine && (request.states.is_empty() || request.states.contains(&breaker.state))
        };
        let agents = self.agents.get();
        let breakers = self.breakers.all();
        let breakers = breakers.iter().map(|breaker| self.show(breaker, &agents)).filter(wanted).collect();
        let (circuit_breakers, next_page_token) =
            page(breakers, |breaker| breaker.name.clone(), request.page_size, &request.page_token)?;
        let replicas = vec![self.identity.status()];
        Ok(Response::new(wire::ListCircuitBreakersResponse { circuit_breakers, next_page_token, replicas }))
    }

    async fn get_circuit_breaker(
        &self,
        request: Request<wire::GetCircuitBreakerRequest>,
    ) -> Result<Response<wire::GetCircuitBreakerResponse>, Status> {
        let wire::GetCircuitBreakerRequest { name, replica } = request.into_inner();
        let found = self.breakers.get(&name).filter(|_| self.identity.is_asked(&replica));
        let Some(breaker) = found else {
            let message = format!("no circuit breaker `{name}` here; ListCircuitBreakers shows them");
            return Err(Reason::CircuitBreakerNotFound
                .status(message)
                .resource("circuit breaker", name)
                .build());
        };
        let circuit_breakers = vec![self.show(&breaker, &self.agents.get())];
        let replicas = vec![self.identity.status()];
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
