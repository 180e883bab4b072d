use futures_util::StreamExt as _;
use resilience::{BulkheadConfig, CircuitBreakerRegistry};
use service_kit::config::Problems;
use service_kit::metrics::Registry;

use super::super::coalesce::Landed;
use super::*;
use crate::agents::Agents;
use crate::answer::{Origin, assistant_message};
use crate::chat::tests::user;
use crate::config::Config;
use crate::settings::Settings;

/// The service of the default agents, which answers one chat at a time.
fn one_at_a_time() -> Inference {
    let settings = Settings::of(&Config::default(), &mut Problems::default()).unwrap();
    let breakers = Arc::new(CircuitBreakerRegistry::new(Arc::new(resilience::SystemClock::new())));
    let agents = CurrentAgents::new(Agents::build(&settings, None, &breakers, None).unwrap());
    let metrics = ChainMetrics::register(&mut Registry::default());
    Inference::new(agents, None, metrics, Bulkhead::new(BulkheadConfig::new(1).unwrap()), 1 << 20)
}

fn admit(inference: &Inference) -> Result<Asked, Status> {
    let request = wire::ChatRequest { messages: vec![user("hi")], ..wire::ChatRequest::default() };
    inference.admit(request, &tonic::Extensions::default())
}

#[tokio::test]
async fn a_stream_of_anothers_answer_keeps_its_place_until_it_is_read() {
    let inference = one_at_a_time();
    let asked = admit(&inference).unwrap();
    let landed = Landed {
        tier: Arc::clone(&asked.agent.chain.tiers()[0]),
        answer: Answer {
            message: assistant_message("hello".into()),
            finish_reason: wire::FinishReason::Stop,
            usage: None,
            origin: Origin::model("m"),
        },
        served_by: wire::ServedBy::default(),
    };
    let mut stream = shared_stream(asked, &landed, Vec::new(), &inference.shared.metrics);
    stream.next().await.unwrap().unwrap();
    assert_eq!(admit(&inference).err().unwrap().code(), tonic::Code::Unavailable);
    while stream.next().await.is_some() {}
    assert!(admit(&inference).is_ok());
}
