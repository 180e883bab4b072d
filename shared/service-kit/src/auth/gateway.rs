//! How the suite's own services are known to the agent-router, and the tenant that they ask for.
//!
//! The gateway and the api-server check their callers themselves. They show the router the secret that all of them share,
//! or a client certificate that is named a gateway's, and say for which tenant they ask. From anybody else the router takes
//! no tenant: it would be the key to other people's answers.
//!
//! The file of the secret may have several lines. The first one is shown, each one is accepted: a new secret is added as
//! the last line everywhere, then made the first everywhere, then the old one is removed.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::AuthFailure;
use super::api_key::{KeyHash, KeyHasher};
use super::header::only;
use crate::config::Secret;
use crate::identity::{Caller, Roles};
use crate::tenant::Tenant;

/// The header of the shared secret.
pub const SECRET_HEADER: HeaderName = HeaderName::from_static("x-aip-gateway-secret");
/// The header of the tenant's name.
pub const TENANT_HEADER: HeaderName = HeaderName::from_static("x-aip-tenant");

/// The id of a gateway that is known by the shared secret.
const ID: &str = "gateway";

/// The secrets that gateways may show.
#[derive(Debug)]
pub(super) struct GatewaySecrets {
    hasher: KeyHasher,
    known: Vec<KeyHash>,
}

impl GatewaySecrets {
    pub(super) fn new(secrets: &[Secret]) -> Self {
        // The key only has to be unknown to callers: hashes are compared, so that a length tells nothing.
        let key = secrets.iter().map(Secret::expose).collect::<String>();
        let hasher = KeyHasher::new(&key.into());
        let known = secrets.iter().map(|secret| hasher.hash(secret.expose())).collect();
        Self { hasher, known }
    }

    fn accept(&self, shown: &str) -> bool {
        let hash = self.hasher.hash(shown);
        // Each is compared, whichever fits.
        self.known.iter().fold(false, |found, known| known.is_same(&hash) | found)
    }

    /// The gateway that a request is from. `None` when it shows no secret.
    pub(super) fn find(&self, headers: &HeaderMap) -> Result<Option<Caller>, AuthFailure> {
        let Some(shown) = only(headers, &SECRET_HEADER)? else { return Ok(None) };
        if !self.accept(shown) {
            return Err(AuthFailure::WrongGatewaySecret);
        }
        trusted(headers, ID).map(Some)
    }
}

/// A caller that is known to be a gateway, asking for the tenant that it names. It has checked roles itself.
pub(super) fn trusted(headers: &HeaderMap, id: &str) -> Result<Caller, AuthFailure> {
    let tenant = match only(headers, &TENANT_HEADER)? {
        None | Some("") => Tenant::default(),
        Some(name) if Tenant::is_name(name) => Tenant::new(name),
        Some(_) => return Err(AuthFailure::Malformed),
    };
    Ok(Caller { id: Arc::from(id), tenant, roles: Roles::all(), limits: None })
}

/// What a service of the suite says to a router of itself. Clones follow the same file.
#[derive(Debug, Clone, Default)]
pub struct Introduction {
    secret: Arc<ArcSwapOption<HeaderValue>>,
}

impl Introduction {
    /// An introduction that shows this secret, if there is one.
    pub fn new(secret: Option<&Secret>) -> Self {
        let introduction = Self::default();
        introduction.replace(secret);
        introduction
    }

    /// From now on, shows this secret.
    pub fn replace(&self, secret: Option<&Secret>) {
        let value = secret.and_then(|secret| HeaderValue::from_str(secret.expose()).ok());
        self.secret.store(value.map(|mut value| {
            value.set_sensitive(true);
            Arc::new(value)
        }));
    }

    /// Adds who asks, and for which tenant, to the headers of a call to a router.
    pub fn add_to(&self, headers: &mut HeaderMap, tenant: &Tenant) {
        if let Some(secret) = &*self.secret.load() {
            headers.insert(SECRET_HEADER, HeaderValue::clone(secret));
        }
        if let Ok(name) = HeaderValue::from_str(tenant.name())
            && !name.is_empty()
        {
            headers.insert(TENANT_HEADER, name);
        }
    }
}

/// A secret for services in one process, which nobody else knows; the same one each time. `None` on a system that has no
/// random numbers.
pub fn secret_of_process() -> Option<&'static Secret> {
    static SECRET: OnceLock<Option<Secret>> = OnceLock::new();
    let generate = || {
        let mut bytes = [0_u8; 32];
        SystemRandom::new().fill(&mut bytes).ok()?;
        Some(URL_SAFE_NO_PAD.encode(bytes).into())
    };
    SECRET.get_or_init(generate).as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        text.to_owned().into()
    }

    #[test]
    fn a_gateway_is_known_by_any_line_and_asks_for_its_tenant() {
        let known = GatewaySecrets::new(&[secret("new"), secret("old")]);
        for shown in ["new", "old"] {
            let mut headers = HeaderMap::new();
            Introduction::new(Some(&secret(shown))).add_to(&mut headers, &Tenant::new("acme"));
            assert!(headers[&SECRET_HEADER].is_sensitive());
            let caller = known.find(&headers).unwrap().unwrap();
            assert_eq!(caller.tenant, Tenant::new("acme"));
            assert_eq!(caller.roles, Roles::all());
        }
    }

    #[test]
    fn without_the_secret_no_tenant_is_believed() {
        let known = GatewaySecrets::new(&[secret("new")]);
        let mut headers = HeaderMap::new();
        Introduction::new(None).add_to(&mut headers, &Tenant::new("acme"));
        assert_eq!(known.find(&headers), Ok(None));
        for wrong in ["", "ne", "new ", "old"] {
            headers.insert(SECRET_HEADER, HeaderValue::from_static(wrong));
            assert_eq!(known.find(&headers), Err(AuthFailure::WrongGatewaySecret), "{wrong}");
        }
    }

    #[test]
    fn a_new_secret_is_shown_from_the_next_call_on() {
        let introduction = Introduction::new(Some(&secret("old")));
        introduction.clone().replace(Some(&secret("new")));
        let mut headers = HeaderMap::new();
        introduction.add_to(&mut headers, &Tenant::default());
        assert_eq!(headers[&SECRET_HEADER], "new");
        assert_eq!(headers.get(&TENANT_HEADER), None, "nobody's tenant is not sent");
        assert!(!format!("{introduction:?} {headers:?}").contains("new"), "a Debug shows no secret");
    }

    #[test]
    fn a_process_has_one_secret_of_full_length() {
        let secret = secret_of_process().unwrap();
        assert_eq!(secret.expose().len(), 43);
        assert_eq!(Some(secret), secret_of_process());
    }
}
