//! Routers in this process, which can be frozen, killed and brought back.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aiplatform_proto::inference::v1 as wire;
use aiplatform_proto::inference::v1::inference_service_server::{InferenceService, InferenceServiceServer};
use futures_util::stream::{self, Empty};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use resilience::{Deadline, SplitMix64, SystemClock};
use service_kit::config::Endpoint;
use service_kit::dns::{Resolver, Resolving};
use service_kit::serving::ServeError;
use service_kit::tenant::Tenant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, copy_bidirectional};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::transport::{Endpoint as Way, Server};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::config::BalancingConfig;
use crate::routers::{Answered, CallError, Client, Connect, Link, Outside, Passed, Routers};

/// What a router does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// Takes calls and answers nothing.
    Frozen,
    /// Says that it is ending, and still answers.
    Draining,
    /// Gives up what it has.
    ShuttingDown,
    /// Answers health checks alone.
    Thinking,
    /// Answers with this error.
    Refusing(Code),
}

/// What becomes of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    /// Nobody listens.
    Shut,
    /// The next connection is closed by these frames instead of an answer; then it is open.
    Says(&'static [u8]),
}

/// Empty SETTINGS, and GOAWAY without an error: no stream was processed.
pub(super) const GOAWAY: &[u8] =
    &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Empty SETTINGS, the first stream refused, and GOAWAY after it.
pub(super) const REFUSED: &[u8] = &[
    0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1,
    0, 0, 0, 0,
];

#[derive(Debug, Clone)]
struct Fake {
    name: String,
    mood: watch::Sender<Mood>,
    asked: Arc<Mutex<u32>>,
}

impl Fake {
    async fn until_not(&self, moods: &[Mood]) -> Mood {
        let mut mood = self.mood.subscribe();
        *mood.wait_for(|mood| !moods.contains(mood)).await.unwrap()
    }
}

#[tonic::async_trait]
impl InferenceService for Fake {
    type StreamChatStream = Empty<Result<wire::StreamChatResponse, Status>>;

    async fn chat(&self, _: Request<wire::ChatRequest>) -> Result<Response<wire::ChatResponse>, Status> {
        *self.asked.lock() += 1;
        if self.until_not(&[Mood::Frozen, Mood::Thinking]).await == Mood::ShuttingDown {
            return Err(service_kit::status::Reason::ShuttingDown.status("ending").build());
        }
        if let Mood::Refusing(code) = *self.mood.borrow() {
            return Err(Status::new(code, "this router's own word"));
        }
        Ok(Response::new(wire::ChatResponse { model: self.name.clone(), ..wire::ChatResponse::default() }))
    }

    async fn stream_chat(
        &self,
        _: Request<wire::StreamChatRequest>,
    ) -> Result<Response<Self::StreamChatStream>, Status> {
        Ok(Response::new(stream::empty()))
    }

    async fn list_models(
        &self,
        _: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        Err(Status::invalid_argument("this router's own word"))
    }
}

#[tonic::async_trait]
impl Health for Fake {
    type WatchStream = Empty<Result<HealthCheckResponse, Status>>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let serving = match self.until_not(&[Mood::Frozen]).await {
            Mood::Well | Mood::Frozen | Mood::Thinking | Mood::Refusing(_) => 1,
            Mood::Draining | Mood::ShuttingDown => 2,
        };
        Ok(Response::new(HealthCheckResponse { status: serving }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(stream::empty()))
    }
}

#[derive(Debug)]
struct Host {
    fake: Fake,
    door: Door,
    incoming: mpsc::UnboundedSender<DuplexStream>,
    links: JoinSet<()>,
    _server: JoinSet<()>,
}

/// All routers that can be reached, and the addresses of names.
#[derive(Debug, Clone, Default)]
pub(super) struct Network {
    hosts: Arc<Mutex<BTreeMap<String, Host>>>,
    names: Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>,
}

impl Network {
    /// With a router at each of these addresses.
    pub(super) fn of(addresses: &[&str]) -> Self {
        let network = Self::default();
        for address in addresses {
            network.add(address);
        }
        network
    }

    pub(super) fn add(&self, address: &str) {
        let (mood, _) = watch::channel(Mood::Well);
        let fake = Fake { name: address.to_owned(), mood, asked: Arc::default() };
        let (incoming, connections) = mpsc::unbounded_channel();
        let connections = stream::unfold(connections, |mut connections| async {
            let connection = connections.recv().await?;
            Some((Ok::<DuplexStream, io::Error>(connection), connections))
        });
        let router = Server::builder()
            .add_service(HealthServer::new(fake.clone()))
            .add_service(InferenceServiceServer::new(fake.clone()))
            .serve_with_incoming(connections);
        let mut server = JoinSet::new();
        server.spawn(async move { router.await.unwrap() });
        let host = Host { fake, door: Door::Open, incoming, links: JoinSet::new(), _server: server };
        self.hosts.lock().insert(address.to_owned(), host);
    }

    pub(super) fn mood(&self, address: &str, mood: Mood) {
        self.hosts.lock()[address].fake.mood.send_replace(mood);
    }

    pub(super) fn door(&self, address: &str, door: Door) {
        self.hosts.lock().get_mut(address).unwrap().door = door;
    }

    /// Ends a router's connections, and refuses new ones.
    pub(super) fn kill(&self, address: &str) {
        self.cut(address);
        self.door(address, Door::Shut);
    }

    /// Ends a router's connections.
    pub(super) fn cut(&self, address: &str) {
        self.hosts.lock().get_mut(address).unwrap().links.abort_all();
    }

    /// How many chats a router has taken.
    pub(super) fn asked(&self, address: &str) -> u32 {
        *self.hosts.lock()[address].fake.asked.lock()
    }

    pub(super) fn name(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.names.lock().insert(name.to_owned(), addresses);
    }

    pub(super) fn forget(&self, name: &str) {
        self.names.lock().remove(name);
    }

    fn open(&self, address: &str) -> io::Result<DuplexStream> {
        let mut hosts = self.hosts.lock();
        let host = hosts.get_mut(address).ok_or(io::ErrorKind::ConnectionRefused)?;
        let (ours, mut near) = tokio::io::duplex(64 * 1024);
        match host.door {
            Door::Shut => return Err(io::ErrorKind::ConnectionRefused.into()),
            Door::Says(frames) => {
                host.door = Door::Open;
                host.links.spawn(async move {
                    // Behind the preface come the settings and the request, which nobody reads.
                    near.read_exact(&mut [0; 24]).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    near.write_all(frames).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                });
            }
            Door::Open => {
                let (mut far, theirs) = tokio::io::duplex(64 * 1024);
                host.incoming.send(theirs).unwrap();
                host.links.spawn(async move {
                    copy_bidirectional(&mut near, &mut far).await.ok();
                });
            }
        }
        Ok(ours)
    }

    /// The routers at these endpoints.
    pub(super) fn routers(&self, endpoints: &[&str]) -> Arc<Routers> {
        self.routers_with(endpoints, &BalancingConfig::default())
    }

    /// The routers at these endpoints, with settings of their own.
    pub(super) fn routers_with(&self, endpoints: &[&str], settings: &BalancingConfig) -> Arc<Routers> {
        let endpoints: Vec<Endpoint> = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
        let outside = Outside {
            connector: Arc::new(self.clone()),
            resolver: Arc::new(self.clone()),
            clock: Arc::new(SystemClock::new()),
            randomness: Arc::new(SplitMix64::seeded(7)),
        };
        let routers = Routers::new(&endpoints, settings, outside, 4096, &mut Registry::default());
        Arc::new(routers.unwrap())
    }
}

impl Connect for Network {
    fn connect(&self, endpoint: &Endpoint, address: Option<IpAddr>) -> Result<Link, ServeError> {
        let host = endpoint.url().host_str().unwrap_or_default();
        let at = address.map_or_else(|| host.to_owned(), |address| address.to_string());
        let network = self.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let opened = network.open(&at);
            async move { opened.map(TokioIo::new) }
        });
        Ok(Link::Network(Way::from_static("http://router").connect_with_connector_lazy(connector)))
    }
}

impl Resolver for Network {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        let answer = self.names.lock().get(host).cloned();
        Box::pin(async move { answer.ok_or_else(|| io::ErrorKind::NotFound.into()) })
    }
}

/// Asks a chat of the routers, for at most a minute. Says which one answered.
pub(super) async fn ask(routers: &Routers) -> Result<String, CallError> {
    ask_within(routers, Duration::from_secs(60)).await
}

pub(super) async fn ask_within(routers: &Routers, limit: Duration) -> Result<String, CallError> {
    let passed = Passed { deadline: Deadline::after(limit), request_id: None, tenant: Tenant::default() };
    let call = |mut client: Client, request| async move { client.chat(request).await };
    let Answered { answer, call } = routers.call("Chat", &wire::ChatRequest::default(), passed, call).await?;
    call.answered();
    Ok(answer.into_inner().model)
}
