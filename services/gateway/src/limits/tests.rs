use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use resilience::ManualClock;
use service_kit::identity::{Caller, Count, KeyLimits};
use service_kit::metrics::{Registry, encode};
use service_kit::serving::Peer;
use service_kit::status::reason_of;
use service_kit::tenant::Tenant;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

use super::*;

fn count(n: u32) -> Option<Count> {
    Count::new(n)
}

fn caller(n: usize) -> Caller {
    Caller {
        id: Arc::from(format!("key-{n}")),
        tenant: Tenant::new(&format!("tenant-{n}")),
        ..Caller::anonymous()
    }
}

fn request(caller: &Caller) -> Request<Body> {
    let mut request =
        Request::builder().uri("/aiplatform.inference.v1.InferenceService/Chat").body(Body::empty()).unwrap();
    request.extensions_mut().insert(caller.clone());
    request
}

struct Setup {
    clock: ManualClock,
    registry: Registry,
    metrics: LimitMetrics,
    layer: PerCaller,
    callers: Callers,
}

fn setup(limits: KeyLimits) -> Setup {
    let (clock, mut registry) = (ManualClock::new(), Registry::default());
    let metrics = LimitMetrics::register(&mut registry);
    let callers = Callers::new(limits, Arc::new(clock.clone()));
    let layer = PerCaller::new(callers.clone(), metrics.clone());
    Setup { clock, registry, metrics, layer, callers }
}

/// A handler whose answers have a size that is not known before, as those of gRPC have.
async fn answer(_request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let frames = futures_util::stream::iter([Ok::<_, Status>(http_body::Frame::data(
        bytes::Bytes::from_static(b"answer"),
    ))]);
    Ok(Response::new(Body::new(StreamBody::new(frames))))
}

impl Setup {
    async fn call(&self, caller: &Caller) -> Response<Body> {
        self.layer.layer(service_fn(answer)).oneshot(request(caller)).await.unwrap()
    }

    async fn is_admitted(&self, caller: &Caller) -> bool {
        Status::from_header_map(self.call(caller).await.headers()).is_none()
    }
}

/// The acceptance of the gateway: whatever the others ask for, each has its share and no more.
#[tokio::test]
async fn a_hundred_tenants_at_ten_times_their_rate_have_their_shares() {
    const TENANTS: usize = 100;
    // From 60 to 357 requests a minute, each with a burst of ten seconds.
    let per_minute = |n: usize| u32::try_from(60 + 3 * n).unwrap();
    let setup = setup(KeyLimits::default());
    let callers: Vec<Caller> = (0..TENANTS)
        .map(|n| Caller {
            limits: Some(KeyLimits { requests_per_minute: count(per_minute(n)), ..KeyLimits::default() }),
            ..caller(n)
        })
        .collect();
    let mut admitted = [0_u32; TENANTS];
    let mut asked = [0_u32; TENANTS];
    // A minute in steps of 10 ms; each asks ten times as often as it may.
    for step in 0..6_000_u32 {
        for (n, caller) in callers.iter().enumerate() {
            let due = u64::from(step) * u64::from(per_minute(n)) * 10 / 6000;
            while u64::from(asked[n]) < due {
                asked[n] += 1;
                admitted[n] += u32::from(setup.layer.admit_for_test(caller).await);
            }
        }
        setup.clock.advance(Duration::from_millis(10));
    }
    for n in 0..TENANTS {
        let share = per_minute(n) + per_minute(n) / 6;
        assert!(asked[n] > 9 * per_minute(n));
        let off = f64::from(admitted[n].abs_diff(share)) / f64::from(share);
        assert!(off <= 0.05, "tenant {n}: {} of {share}", admitted[n]);
    }
}

#[tokio::test]
async fn a_refusal_says_which_limit_it_was_and_when_to_come_back() {
    let limits = KeyLimits { requests_per_minute: count(60), burst: count(2), ..KeyLimits::default() };
    let setup = setup(limits);
    let first = setup.call(&caller(1)).await;
    let header =
        |response: &Response<Body>, name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header(&first, "x-ratelimit-limit-requests"), "60");
    assert_eq!(header(&first, "x-ratelimit-remaining-requests"), "1");
    assert_eq!(header(&first, "x-ratelimit-reset-requests"), "1.000s");
    assert!(setup.is_admitted(&caller(1)).await);
    let refused = setup.call(&caller(1)).await;
    assert_eq!(header(&refused, "x-ratelimit-remaining-requests"), "0");
    let status = Status::from_header_map(refused.headers()).unwrap();
    assert_eq!(
        (status.code(), reason_of(&status).as_deref()),
        (Code::ResourceExhausted, Some("RATE_LIMITED"))
    );
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().metadata["limit"], "requests");
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
    let violation = &details.quota_failure().unwrap().violations[0];
    assert_eq!(
        (violation.subject.as_str(), violation.description.as_str()),
        ("caller:key-1", "at most 60 requests a minute")
    );
    // Nobody else is concerned, and the time that was named is enough.
    assert!(setup.is_admitted(&caller(2)).await);
    setup.clock.advance(Duration::from_secs(1));
    assert!(setup.is_admitted(&caller(1)).await);
    let text = encode(&setup.registry).unwrap();
    assert!(text.contains("aip_rate_limited_total{limit=\"requests\"} 1"), "{text}");
}

#[tokio::test]
async fn a_request_is_under_way_until_its_answer_was_given_or_dropped() {
    let setup = setup(KeyLimits { concurrent_requests: count(1), ..KeyLimits::default() });
    let under_way = setup.call(&caller(1)).await;
    assert!(!setup.is_admitted(&caller(1)).await);
    assert!(setup.is_admitted(&caller(2)).await);
    drop(under_way);
    let read = setup.call(&caller(1)).await;
    assert_eq!(read.into_body().collect().await.unwrap().to_bytes(), "answer");
    assert!(setup.is_admitted(&caller(1)).await);
}

#[tokio::test]
async fn a_refusal_for_what_is_under_way_says_nothing_of_the_rate() {
    let limits = KeyLimits {
        requests_per_minute: count(600),
        concurrent_requests: count(1),
        tokens_per_minute: count(50),
        ..KeyLimits::default()
    };
    let setup = setup(limits);
    let under_way = setup.call(&caller(1)).await;
    assert_eq!(under_way.headers()["x-ratelimit-remaining-requests"], "99");
    let refused = setup.call(&caller(1)).await;
    assert!(!refused.headers().contains_key("x-ratelimit-remaining-requests"), "{refused:?}");
    assert_eq!(refused.headers()["x-ratelimit-remaining-tokens"], "50");
}

#[tokio::test]
async fn what_is_too_much_for_the_process_is_refused_at_once_but_for_health() {
    let setup = setup(KeyLimits::default());
    let shed = Shed::new(1, setup.metrics.clone());
    let mut service = shed.layer(service_fn(answer));
    let under_way = service.ready().await.unwrap().call(request(&caller(1))).await.unwrap();
    // Another listener has the same places.
    let mut other = shed.layer(service_fn(answer));
    let refused = other.ready().await.unwrap().call(request(&caller(2))).await.unwrap();
    let status = Status::from_header_map(refused.headers()).unwrap();
    assert_eq!((status.code(), reason_of(&status).as_deref()), (Code::Unavailable, Some("OVERLOADED")));
    assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
    let mut health = request(&caller(1));
    *health.uri_mut() = "/grpc.health.v1.Health/Check".parse().unwrap();
    let healthy = other.ready().await.unwrap().call(health).await.unwrap();
    assert!(Status::from_header_map(healthy.headers()).is_none());
    drop(under_way);
    let admitted = other.ready().await.unwrap().call(request(&caller(2))).await.unwrap();
    assert!(Status::from_header_map(admitted.headers()).is_none());
    assert!(encode(&setup.registry).unwrap().contains("aip_requests_shed_total 1"));
}

#[tokio::test]
async fn callers_that_owe_nothing_are_forgotten_and_those_that_do_are_not() {
    let limits = KeyLimits { requests_per_minute: count(60), burst: count(2), ..KeyLimits::default() };
    let Setup { clock, callers, layer, .. } = setup(limits);
    for n in 0..1024 {
        assert!(layer.admit_for_test(&caller(n)).await);
    }
    clock.advance(Duration::from_millis(1500));
    assert!(layer.admit_for_test(&caller(7)).await && layer.admit_for_test(&caller(7)).await);
    clock.advance(Duration::from_millis(501));
    assert!(layer.admit_for_test(&caller(2000)).await);
    assert_eq!(callers.len(), 2, "the one that owes and the new one");
    assert!(!layer.admit_for_test(&caller(7)).await);
}

#[tokio::test]
async fn addresses_beyond_those_that_fit_share_one_limit() {
    let limits = KeyLimits { requests_per_minute: count(60), burst: count(1), ..KeyLimits::default() };
    let Setup { callers, .. } = setup(limits);
    let callers = callers.with_max_addresses(2);
    let mut admitted = 0;
    for host in 1..=100_u8 {
        let mut extensions = http::Extensions::new();
        let peer = std::net::SocketAddr::from(([192, 0, 2, host], 1));
        extensions.insert(Peer::new(peer, None));
        let state = callers.of(&extensions).unwrap();
        admitted += u32::from(state.rate().unwrap().take().is_ok());
    }
    assert_eq!((admitted, callers.len()), (3, 3), "two of their own and one for all others");
}
