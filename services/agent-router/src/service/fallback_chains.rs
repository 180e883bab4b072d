//! `FallbackChainService`: this replica's chains.

use std::sync::Arc;

use aiplatform_proto::resilience::v1 as wire;
use aiplatform_proto::resilience::v1::fallback_chain_service_server::FallbackChainService;
use aiplatform_proto::time::{to_proto_duration, to_proto_timestamp};
use service_kit::paging::page;
use service_kit::replica::Replica;
use service_kit::status::{Reason, not_served};
use tonic::{Request, Response, Status};

use super::convert;
use crate::agents::{Agent, CurrentAgents};
use crate::backend::kind_of;

/// Shows chains.
#[derive(Debug)]
pub struct FallbackChains {
    agents: CurrentAgents,
    replica: Replica,
}

impl FallbackChains {
    /// The service for these agents.
    pub fn new(agents: CurrentAgents, replica: Replica) -> Self {
        Self { agents, replica }
    }

    fn show(&self, agent: &Agent, default: bool) -> wire::FallbackChain {
        let tiers = agent.chain.tiers().iter().map(|tier| wire::FallbackTier {
            name: tier.name.to_string(),
            kind: kind_of(tier).map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
            circuit_breakers: tier.breakers().iter().map(|breaker| breaker.name().to_owned()).collect(),
            timeout: tier.timeout.map(to_proto_duration),
        });
        wire::FallbackChain {
            agent: agent.name.to_string(),
            tiers: tiers.collect(),
            replica: self.replica.name().to_owned(),
            default,
        }
    }

    fn stats(&self, agent: &Agent) -> wire::FallbackChainStats {
        let stats = agent.chain.stats();
        let served: u64 = stats.tiers.iter().map(|tier| tier.served).sum();
        let tiers = stats.tiers.iter().map(|tier| wire::TierStats {
            tier: tier.tier.to_string(),
            attempts: tier.attempts,
            served: tier.served,
            failures: tier.failures,
            skipped: tier.skipped,
            #[allow(clippy::cast_precision_loss, reason = "a share in percent needs no more than 53 bits")]
            share_percent: (served > 0).then(|| tier.served as f64 * 100.0 / served as f64),
            latency: tier.latency.map(convert::quantiles),
        });
        wire::FallbackChainStats {
            agent: agent.name.to_string(),
            replica: self.replica.name().to_owned(),
            since: Some(to_proto_timestamp(agent.since)),
            requests: stats.requests,
            unanswered: stats.unanswered,
            cancelled: stats.cancelled,
            tiers: tiers.collect(),
        }
    }
}

#[tonic::async_trait]
impl FallbackChainService for FallbackChains {
    async fn list_fallback_chains(
        &self,
        request: Request<wire::ListFallbackChainsRequest>,
    ) -> Result<Response<wire::ListFallbackChainsResponse>, Status> {
        let request = request.into_inner();
        let mine = self.replica.is_asked(&request.replica);
        let agents = self.agents.get();
        let shown = agents.all().filter(|_| mine).map(|agent| self.show(agent, agents.is_default(agent)));
        let chains = shown.collect();
        let (fallback_chains, next_page_token) =
            page(chains, |chain| chain.agent.clone(), request.page_size, &request.page_token)?;
        let replicas = vec![self.replica.status()];
        Ok(Response::new(wire::ListFallbackChainsResponse { fallback_chains, next_page_token, replicas }))
    }

    async fn get_fallback_chain_stats(
        &self,
        request: Request<wire::GetFallbackChainStatsRequest>,
    ) -> Result<Response<wire::GetFallbackChainStatsResponse>, Status> {
        let wire::GetFallbackChainStatsRequest { agent: wanted, replica } = request.into_inner();
        let mine = self.replica.is_asked(&replica);
        let asked = |agent: &&Arc<Agent>| mine && (wanted.is_empty() || *agent.name == *wanted);
        let stats: Vec<_> = self.agents.get().all().filter(asked).map(|agent| self.stats(agent)).collect();
        if stats.is_empty() {
            let message = format!("no fallback chain `{wanted}` here; ListFallbackChains shows them");
            return Err(Reason::FallbackChainNotFound
                .status(message)
                .resource("fallback chain", wanted)
                .build());
        }
        let replicas = vec![self.replica.status()];
        Ok(Response::new(wire::GetFallbackChainStatsResponse { stats, replicas }))
    }

    async fn test_fallback_chain(
        &self,
        _request: Request<wire::TestFallbackChainRequest>,
    ) -> Result<Response<wire::TestFallbackChainResponse>, Status> {
        Err(not_served("TestFallbackChain"))
    }
}
