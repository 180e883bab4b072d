use super::*;

const LONG: &str = "0123456789abcdef0123456789abcdef";

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn problems_of(config: &SecurityConfig) -> Vec<(String, String)> {
    let mut problems = Problems::default();
    config.check(Audience::Callers, &mut problems);
    problems.found().iter().map(|problem| (problem.key.clone(), problem.rule.clone())).collect()
}

#[test]
fn each_file_has_a_rule_and_no_secret_is_told() {
    let files = Files::new();
    let keys = |text: &str| SecurityConfig {
        api_keys_file: Some(files.write("keys", text)),
        key_hash_secret_file: Some(files.write("hash", LONG)),
        ..SecurityConfig::default()
    };
    assert_eq!(problems_of(&keys("# nobody")), []);
    let found = problems_of(&keys("hunter2"));
    assert_eq!(found[0].0, KEYS);
    assert!(found[0].1.starts_with("line 1 ") && !found[0].1.contains("hunter2"), "{found:?}");

    let unset = SecurityConfig { key_hash_secret_file: None, ..keys("# nobody") };
    assert_eq!(problems_of(&unset)[0].0, HASH_SECRET);
    let short = SecurityConfig { key_hash_secret_file: Some(files.write("short", "hunter2\n")), ..keys("#") };
    assert_eq!(problems_of(&short), [(HASH_SECRET.to_owned(), "must hold at least 32 bytes".to_owned())]);
    let missing = SecurityConfig { api_keys_file: Some("/nonexistent".into()), ..keys("#") };
    assert!(problems_of(&missing)[0].1.starts_with("must be a file of text"));

    let gateways = |text: &str| SecurityConfig {
        gateway_secret_file: Some(files.write("gateways", text)),
        ..SecurityConfig::default()
    };
    assert_eq!(problems_of(&gateways(&format!("{LONG}\n\n{LONG}x\n"))), []);
    for wrong in ["", "hunter2", &format!("{LONG}\nhunter2"), &format!("{LONG} {LONG}")] {
        let found = problems_of(&gateways(wrong));
        assert_eq!(found.len(), 1, "{wrong}");
        assert!(found[0].0 == GATEWAY_SECRET && !found[0].1.contains("hunter2"), "{found:?}");
    }
}

#[test]
fn the_first_gateway_secret_is_the_one_that_is_shown() {
    let files = Files::new();
    let file = files.write("gateways", &format!("{LONG}1\n{LONG}2\n"));
    let config = SecurityConfig { gateway_secret_file: Some(file), ..SecurityConfig::default() };
    assert_eq!(config.shown_secret(&mut Problems::default()).unwrap().expose(), format!("{LONG}1"));
    assert!(SecurityConfig::default().shown_secret(&mut Problems::default()).is_none());
}

#[test]
fn an_address_that_others_reach_needs_somebody_at_the_door() {
    let refused = |config: &SecurityConfig, address: &str, audience| {
        let mut problems = Problems::default();
        config.check_listener("x.listen", address.parse().unwrap(), audience, &mut problems);
        !problems.is_empty()
    };
    let open = SecurityConfig::default();
    let keys = SecurityConfig { api_keys_file: Some("keys".into()), ..SecurityConfig::default() };
    let secret = SecurityConfig { gateway_secret_file: Some("s".into()), ..SecurityConfig::default() };
    let anonymous = SecurityConfig { allow_anonymous: true, ..SecurityConfig::default() };
    for (config, callers, gateways) in
        [(&open, true, true), (&keys, false, true), (&secret, true, false), (&anonymous, false, false)]
    {
        assert_eq!(refused(config, "0.0.0.0:1", Audience::Callers), callers, "{config:?}");
        assert_eq!(refused(config, "[::]:1", Audience::Gateways), gateways, "{config:?}");
        assert!(!refused(config, "127.0.0.1:1", Audience::Callers));
        assert!(!refused(config, "[::1]:1", Audience::Gateways));
    }
    let mut problems = Problems::default();
    keys.check_unguarded("x.listen", "0.0.0.0:1".parse().unwrap(), &mut problems);
    assert!(!problems.is_empty(), "keys guard nothing where nobody asks for them");
}

#[test]
fn a_name_in_a_certificate_stands_for_one_caller() {
    let wrong = |callers: Vec<CertificateCaller>| {
        problems_of(&SecurityConfig { client_certificates: callers, ..SecurityConfig::default() })
    };
    let gateway =
        CertificateCaller { name: "gateway.internal".into(), gateway: true, ..CertificateCaller::default() };
    let acme = CertificateCaller {
        name: "acme".into(),
        tenant: "acme".into(),
        roles: vec![crate::identity::Role::Inference],
        gateway: false,
    };
    assert_eq!(wrong(vec![gateway.clone(), acme.clone()]), []);
    assert_eq!(wrong(vec![acme.clone(), acme.clone()]).len(), 1);
    assert_eq!(wrong(vec![CertificateCaller { tenant: "acme".into(), ..gateway }]).len(), 1);
    assert_eq!(wrong(vec![CertificateCaller { roles: vec![], ..acme.clone() }]).len(), 1);
    assert_eq!(wrong(vec![CertificateCaller { tenant: String::new(), ..acme.clone() }]).len(), 1);
    assert_eq!(wrong(vec![CertificateCaller { name: String::new(), ..acme }]).len(), 1);
}

#[test]
fn a_gateway_that_tells_callers_apart_must_be_able_to_tell_routers() {
    let refused = |config: SecurityConfig| {
        let mut problems = Problems::default();
        config.check_tenants(&ClientTlsConfig::default(), &[], &mut problems);
        !problems.is_empty()
    };
    let keys = SecurityConfig { api_keys_file: Some("keys".into()), ..SecurityConfig::default() };
    assert!(refused(keys.clone()));
    let certificate = ClientTlsConfig { cert_file: Some("cert".into()), ..ClientTlsConfig::default() };
    for (routers, shown) in [(&["https://one:1"][..], true), (&["https://one:1", "http://other:1"], false)] {
        let routers: Vec<Endpoint> = routers.iter().map(|url| url.parse().unwrap()).collect();
        let mut problems = Problems::default();
        keys.check_tenants(&certificate, &routers, &mut problems);
        assert_eq!(problems.is_empty(), shown, "a certificate is shown behind https alone: {routers:?}");
    }
    assert!(!refused(SecurityConfig { gateway_secret_file: Some("secret".into()), ..keys.clone() }));
    assert!(!refused(SecurityConfig { gateway_secret: Some("secret".to_owned().into()), ..keys }));
    assert!(!refused(SecurityConfig::default()));
}
