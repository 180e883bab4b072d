use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};

use super::super::api_key::KeyHasher;
use super::super::gateway::{SECRET_HEADER, TENANT_HEADER};
use super::*;

const KEY: &str = "aip_a_secret";

fn config() -> SecurityConfig {
    let known = |name: &str, gateway: bool| CertificateCaller {
        name: name.into(),
        tenant: if gateway { String::new() } else { "by-certificate".into() },
        roles: if gateway { Vec::new() } else { vec![Role::Viewer] },
        gateway,
    };
    SecurityConfig {
        client_certificates: vec![known("gateway.internal", true), known("someone.example", false)],
        gateway_secret: Some("the shared secret".to_owned().into()),
        ..SecurityConfig::default()
    }
}

fn credentials(config: &SecurityConfig, audience: Audience) -> Credentials {
    Credentials::read(config, audience, &mut Problems::default()).unwrap()
}

fn with_keys(config: &SecurityConfig) -> Credentials {
    let hasher = KeyHasher::new(&"server".to_owned().into());
    let line = format!(
        r#"{{"id":"a","hash":"{}","tenant":"acme","roles":["inference","operator"]}}"#,
        hasher.hash(KEY)
    );
    let anonymous = config.allow_anonymous.then(|| [Role::Inference, Role::Viewer].into_iter().collect());
    let keys = Some(KeyRing::read(&line, hasher).unwrap());
    Credentials { keys, anonymous, ..credentials(config, Audience::Callers) }
}

fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
}

fn peer(names: &[&str]) -> PeerNames {
    PeerNames(names.iter().map(|name| (*name).to_owned()).collect())
}

fn identify(
    credentials: &Credentials,
    pairs: &[(HeaderName, &'static str)],
    peer: Option<&PeerNames>,
) -> Result<(String, String), AuthFailure> {
    let caller = credentials.identify(&headers(pairs), peer, SystemTime::UNIX_EPOCH)?;
    Ok((caller.id.to_string(), caller.tenant.name().to_owned()))
}

fn known(id: &str, tenant: &str) -> (String, String) {
    (id.to_owned(), tenant.to_owned())
}

#[test]
fn where_nothing_is_configured_nothing_is_looked_at() {
    for audience in [Audience::Callers, Audience::Gateways] {
        let open = credentials(&SecurityConfig::default(), audience);
        let shown = [(AUTHORIZATION, "Bearer sk-anything"), (SECRET_HEADER, "x"), (TENANT_HEADER, "acme")];
        assert_eq!(identify(&open, &shown, None), Ok(known("", "")), "{audience:?}");
        let caller = open.identify(&HeaderMap::new(), None, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(caller, Caller::anonymous());
    }
}

#[test]
fn callers_are_known_by_key_or_certificate() {
    let callers = with_keys(&config());
    let someone = peer(&["alias.example", "someone.example"]);
    assert_eq!(identify(&callers, &[(AUTHORIZATION, "Bearer aip_a_secret")], None), Ok(known("a", "acme")));
    let both = identify(&callers, &[(AUTHORIZATION, "Bearer aip_a_secret")], Some(&someone));
    assert_eq!(both, Ok(known("a", "acme")), "a key says more than the connection that it comes by");
    assert_eq!(identify(&callers, &[], Some(&someone)), Ok(known("someone.example", "by-certificate")));
    let missing = Err(AuthFailure::Missing);
    assert_eq!(identify(&callers, &[], None), missing);
    assert_eq!(
        identify(&callers, &[(SECRET_HEADER, "the shared secret"), (TENANT_HEADER, "x")], None),
        missing
    );
    let unknown = Err(AuthFailure::UnknownCertificate);
    assert_eq!(identify(&callers, &[], Some(&peer(&["nobody"]))), unknown);
    assert_eq!(identify(&callers, &[], Some(&peer(&["gateway.internal"]))), unknown);
    for (shown, failure) in [
        ("Bearer aip_a_wrong", AuthFailure::WrongKey),
        ("Bearer aip_b_secret", AuthFailure::UnknownKey),
        ("Bearer sk-anything", AuthFailure::Malformed),
    ] {
        let found = identify(&callers, &[(AUTHORIZATION, shown)], Some(&someone));
        assert_eq!(found, Err(failure), "a wrong key is not made good by a certificate");
    }
}

#[test]
fn anonymous_callers_are_let_in_by_name_and_change_nothing() {
    let callers = with_keys(&SecurityConfig { allow_anonymous: true, ..config() });
    let caller = callers.identify(&HeaderMap::new(), None, SystemTime::UNIX_EPOCH).unwrap();
    assert!(caller.is_anonymous() && caller.roles.allow(Role::Inference));
    assert!(!caller.roles.allow(Role::Operator));
    let wrong = identify(&callers, &[(AUTHORIZATION, "Bearer aip_a_wrong")], None);
    assert_eq!(wrong, Err(AuthFailure::WrongKey), "who shows something means it");
}

#[test]
fn the_router_takes_a_tenant_from_gateways_alone() {
    let router = credentials(&config(), Audience::Gateways);
    let tenant = [(TENANT_HEADER, "acme")];
    let secret = (SECRET_HEADER, "the shared secret");
    assert_eq!(identify(&router, &[secret, tenant[0].clone()], None), Ok(known("gateway", "acme")));
    let gateway = peer(&["gateway.internal"]);
    assert_eq!(identify(&router, &tenant, Some(&gateway)), Ok(known("gateway.internal", "acme")));
    let someone = identify(&router, &tenant, Some(&peer(&["someone.example"])));
    assert_eq!(someone, Ok(known("someone.example", "by-certificate")));
    assert_eq!(identify(&router, &tenant, None), Err(AuthFailure::Missing));
    let wrong = identify(&router, &[(SECRET_HEADER, "another"), tenant[0].clone()], Some(&gateway));
    assert_eq!(wrong, Err(AuthFailure::WrongGatewaySecret));

    let lenient = credentials(&SecurityConfig { allow_anonymous: true, ..config() }, Audience::Gateways);
    assert_eq!(identify(&lenient, &tenant, None), Ok(known("", "")), "but nobody's tenant");
}

#[test]
fn new_credentials_are_in_force_from_the_next_request_on() {
    let authenticator = Authenticator::new(with_keys(&config()));
    let asked = |authenticator: &Authenticator| {
        let shown = headers(&[(AUTHORIZATION, "Bearer aip_a_secret")]);
        authenticator.identify(&shown, None, SystemTime::UNIX_EPOCH).is_ok()
    };
    assert!(asked(&authenticator));
    let hasher = KeyHasher::new(&"server".to_owned().into());
    let none = Some(KeyRing::read("# all revoked", hasher).unwrap());
    authenticator.clone().replace(Credentials { keys: none, ..with_keys(&config()) });
    assert!(!asked(&authenticator));
}
