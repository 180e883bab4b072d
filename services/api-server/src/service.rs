//! The gRPC services of the control plane.

use std::pin::Pin;
use std::sync::Arc;

use aiplatform_proto::resilience::v1 as wire;
use aiplatform_proto::resilience::v1::circuit_breaker_service_server::CircuitBreakerService;
use aiplatform_proto::resilience::v1::fallback_chain_service_server::FallbackChainService;
use futures_util::Stream;
use service_kit::paging::page;
use service_kit::status::not_served;
use tonic::{Request, Response, Status};

use crate::fleet::{Fleet, breaker_key, chain_key};

/// The fleet over gRPC.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    fleet: Arc<Fleet>,
}

impl ControlPlane {
    /// The services for this fleet.
    pub fn new(fleet: Arc<Fleet>) -> Self {
        Self { fleet }
    }
}

#[tonic::async_trait]
impl CircuitBreakerService for ControlPlane {
    async fn list_circuit_breakers(
        &self,
        request: Request<wire::ListCircuitBreakersRequest>,
    ) -> Result<Response<wire::ListCircuitBreakersResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let deadline = extensions.get().copied();
        let view = self.fleet.circuit_breakers(&request.replica, &request.states, deadline).await?;
        let (circuit_breakers, next_page_token) =
            page(view.items, breaker_key, request.page_size, &request.page_token)?;
        let replicas = view.replicas;
        Ok(Response::new(wire::ListCircuitBreakersResponse { circuit_breakers, next_page_token, replicas }))
    }

    async fn get_circuit_breaker(
        &self,
        request: Request<wire::GetCircuitBreakerRequest>,
    ) -> Result<Response<wire::GetCircuitBreakerResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let deadline = extensions.get().copied();
        let view = self.fleet.circuit_breaker(&request.name, &request.replica, deadline).await?;
        let response =
            wire::GetCircuitBreakerResponse { circuit_breakers: view.items, replicas: view.replicas };
        Ok(Response::new(response))
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

#[tonic::async_trait]
impl FallbackChainService for ControlPlane {
    async fn list_fallback_chains(
        &self,
        request: Request<wire::ListFallbackChainsRequest>,
    ) -> Result<Response<wire::ListFallbackChainsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let deadline = extensions.get().copied();
        let view = self.fleet.fallback_chains(&request.replica, deadline).await?;
        let (fallback_chains, next_page_token) =
            page(view.items, chain_key, request.page_size, &request.page_token)?;
        let replicas = view.replicas;
        Ok(Response::new(wire::ListFallbackChainsResponse { fallback_chains, next_page_token, replicas }))
    }

    async fn get_fallback_chain_stats(
        &self,
        request: Request<wire::GetFallbackChainStatsRequest>,
    ) -> Result<Response<wire::GetFallbackChainStatsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let deadline = extensions.get().copied();
        let view = self.fleet.fallback_chain_stats(&request.agent, &request.replica, deadline).await?;
        let response = wire::GetFallbackChainStatsResponse { stats: view.items, replicas: view.replicas };
        Ok(Response::new(response))
    }

    async fn test_fallback_chain(
        &self,
        _request: Request<wire::TestFallbackChainRequest>,
    ) -> Result<Response<wire::TestFallbackChainResponse>, Status> {
        Err(not_served("TestFallbackChain"))
    }
}
