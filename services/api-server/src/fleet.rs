//! The replicas of the agent-router, asked together.

use std::future::Future;
use std::time::Duration;

use aiplatform_proto::resilience::v1 as wire;
use aiplatform_proto::resilience::v1::circuit_breaker_service_client::CircuitBreakerServiceClient;
use aiplatform_proto::resilience::v1::fallback_chain_service_client::FallbackChainServiceClient;
use futures_util::future::join_all;
use resilience::Deadline;
use service_kit::auth::gateway::Introduction;
use service_kit::config::Endpoint;
use service_kit::grpc::channel;
use service_kit::serving::ServeError;
use service_kit::status::{Reason, normalise_client_error};
use service_kit::telemetry::propagation;
use service_kit::tenant::Tenant;
use service_kit::tls::ClientTls;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tracing::{Span, warn};

/// Breakers and chains are asked for in pages of this size, the largest there is.
const PAGE_SIZE: u32 = 1000;

/// What is kept of a caller's deadline for putting the answers together.
const MARGIN: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Replica {
    address: String,
    channel: Channel,
}

/// All replicas.
#[derive(Debug)]
pub struct Fleet {
    replicas: Vec<Replica>,
    timeout: Duration,
    introduction: Introduction,
}

/// What all replicas said together.
#[derive(Debug)]
pub struct View<T> {
    /// What those said that answered.
    pub items: Vec<T>,
    /// Who was asked, and who answered.
    pub replicas: Vec<wire::ReplicaStatus>,
}

impl Fleet {
    /// The replicas at these addresses. They are connected to when they are first needed.
    ///
    /// # Errors
    /// An address cannot be used.
    pub fn new(
        endpoints: &[Endpoint],
        timeout: Duration,
        introduction: Introduction,
        tls: Option<&ClientTls>,
    ) -> Result<Self, ServeError> {
        let replicas = endpoints
            .iter()
            .map(|endpoint| {
                Ok(Replica { address: endpoint.authority(), channel: channel(endpoint, None, tls)? })
            })
            .collect::<Result<_, ServeError>>()?;
        Ok(Self { replicas, timeout, introduction })
    }

    /// The breakers of all replicas, by service, replica and name.
    ///
    /// # Errors
    /// No replica answered.
    pub async fn circuit_breakers(
        &self,
        replica: &str,
        states: &[i32],
        deadline: Option<Deadline>,
    ) -> Result<View<wire::CircuitBreaker>, Status> {
        let request = wire::ListCircuitBreakersRequest {
            replica: replica.to_owned(),
            states: states.to_vec(),
            page_size: PAGE_SIZE,
            page_token: String::new(),
        };
        let timeout = self.patience(deadline);
        let call = |channel| {
            let (mut client, mut request) = (CircuitBreakerServiceClient::new(channel), request.clone());
            async move {
                let mut breakers = Vec::new();
                loop {
                    let page =
                        client.list_circuit_breakers(self.with(request.clone(), timeout)).await?.into_inner();
                    breakers.extend(page.circuit_breakers);
                    request.page_token = page.next_page_token;
                    if request.page_token.is_empty() {
                        return Ok((breakers, page.replicas));
                    }
                }
            }
        };
        let mut view = self.ask(call).await?;
        view.items.sort_by_cached_key(breaker_key);
        Ok(view)
    }

    /// The breaker of this name, once for each replica that has it.
    ///
    /// # Errors
    /// No replica answered, or none has it.
    pub async fn circuit_breaker(
        &self,
        name: &str,
        replica: &str,
        deadline: Option<Deadline>,
    ) -> Result<View<wire::CircuitBreaker>, Status> {
        let request = wire::GetCircuitBreakerRequest { name: name.to_owned(), replica: replica.to_owned() };
        let timeout = self.patience(deadline);
        let call = |channel| {
            let (mut client, request) = (CircuitBreakerServiceClient::new(channel), request.clone());
            async move {
                let response = client.get_circuit_breaker(self.with(request, timeout)).await?.into_inner();
                Ok((response.circuit_breakers, response.replicas))
            }
        };
        let mut view = self.ask(call).await?;
        if view.items.is_empty() {
            let message = format!("no replica that answered has a circuit breaker `{name}`");
            return Err(Reason::CircuitBreakerNotFound
                .status(message)
                .resource("circuit breaker", name)
                .build());
        }
        view.items.sort_by_cached_key(breaker_key);
        Ok(view)
    }

    /// The chains of all replicas, by agent and replica.
    ///
    /// # Errors
    /// No replica answered.
    pub async fn fallback_chains(
        &self,
        replica: &str,
        deadline: Option<Deadline>,
    ) -> Result<View<wire::FallbackChain>, Status> {
        let request = wire::ListFallbackChainsRequest {
            page_size: PAGE_SIZE,
            page_token: String::new(),
            replica: replica.to_owned(),
        };
        let timeout = self.patience(deadline);
        let call = |channel| {
            let (mut client, mut request) = (FallbackChainServiceClient::new(channel), request.clone());
            async move {
                let mut chains = Vec::new();
                loop {
                    let page =
                        client.list_fallback_chains(self.with(request.clone(), timeout)).await?.into_inner();
                    chains.extend(page.fallback_chains);
                    request.page_token = page.next_page_token;
                    if request.page_token.is_empty() {
                        return Ok((chains, page.replicas));
                    }
                }
            }
        };
        let mut view = self.ask(call).await?;
        view.items.sort_by_cached_key(chain_key);
        Ok(view)
    }

    /// The statistics of the chains of all replicas, by agent and replica.
    ///
    /// # Errors
    /// No replica answered, or none has the agent.
    pub async fn fallback_chain_stats(
        &self,
        agent: &str,
        replica: &str,
        deadline: Option<Deadline>,
    ) -> Result<View<wire::FallbackChainStats>, Status> {
        let request =
            wire::GetFallbackChainStatsRequest { agent: agent.to_owned(), replica: replica.to_owned() };
        let timeout = self.patience(deadline);
        let call = |channel| {
            let (mut client, request) = (FallbackChainServiceClient::new(channel), request.clone());
            async move {
                let response =
                    client.get_fallback_chain_stats(self.with(request, timeout)).await?.into_inner();
                Ok((response.stats, response.replicas))
            }
        };
        let mut view = self.ask(call).await?;
        if view.items.is_empty() {
            let message = format!("no replica that answered has an agent `{agent}`");
            return Err(Reason::FallbackChainNotFound
                .status(message)
                .resource("fallback chain", agent)
                .build());
        }
        view.items.sort_by(|one, other| (&one.agent, &one.replica).cmp(&(&other.agent, &other.replica)));
        Ok(view)
    }

    /// A request to a router, with what is left of the caller's time.
    fn with<M>(&self, message: M, timeout: Duration) -> Request<M> {
        let mut headers = axum::http::HeaderMap::new();
        propagation::inject(&Span::current(), &mut headers);
        // Operators look at the whole fleet, on nobody's behalf.
        self.introduction.add_to(&mut headers, &Tenant::default());
        let metadata = MetadataMap::from_headers(headers);
        let mut request = Request::from_parts(metadata, tonic::Extensions::new(), message);
        request.set_timeout(timeout);
        request
    }

    /// How long a replica may take, so that the others' word still reaches the caller.
    fn patience(&self, deadline: Option<Deadline>) -> Duration {
        let left = deadline.map(|deadline| deadline.remaining().saturating_sub(MARGIN));
        left.map_or(self.timeout, |left| left.min(self.timeout))
    }

    async fn ask<T, F, Fut>(&self, call: F) -> Result<View<T>, Status>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<(Vec<T>, Vec<wire::ReplicaStatus>), Status>>,
    {
        let calls: Vec<Fut> = self.replicas.iter().map(|replica| call(replica.channel.clone())).collect();
        let mut view = View { items: Vec::new(), replicas: Vec::new() };
        for (replica, result) in self.replicas.iter().zip(join_all(calls).await) {
            match result.map_err(normalise_client_error) {
                Ok((items, replicas)) => {
                    view.items.extend(items);
                    let named = replicas
                        .into_iter()
                        .map(|status| wire::ReplicaStatus { address: replica.address.clone(), ..status });
                    view.replicas.extend(named);
                }
                // It answered, and does not have what was asked for: another may.
                Err(status) if status.code() == Code::NotFound => {
                    view.replicas.push(replica.status(true, String::new()));
                }
                Err(status) => {
                    warn!(address = replica.address, error = status.message(), "replica did not answer");
                    view.replicas.push(replica.status(false, status.message().to_owned()));
                }
            }
        }
        if view.replicas.iter().any(|replica| replica.reachable) {
            return Ok(view);
        }
        let one = |replica: &wire::ReplicaStatus| format!("{} ({})", replica.address, replica.error);
        let all = view.replicas.iter().map(one).collect::<Vec<_>>().join(", ");
        let status =
            Reason::NoReplicaReachable.status(format!("no replica of the agent-router answered: {all}"));
        Err(status.retry_after(Some(self.timeout)).build())
    }
}

impl Replica {
    fn status(&self, reachable: bool, error: String) -> wire::ReplicaStatus {
        wire::ReplicaStatus {
            service: "agent-router".to_owned(),
            replica: self.address.clone(),
            address: self.address.clone(),
            reachable,
            error,
        }
    }
}

/// What breakers are sorted by.
pub fn breaker_key(breaker: &wire::CircuitBreaker) -> String {
    format!("{}\n{}\n{}", breaker.service, breaker.replica, breaker.name)
}

/// What chains are sorted by.
pub fn chain_key(chain: &wire::FallbackChain) -> String {
    format!("{}\n{}", chain.agent, chain.replica)
}
