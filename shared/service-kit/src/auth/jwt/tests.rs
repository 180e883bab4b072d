use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::json;

use super::*;

/// The public half of a key that nobody kept, and a token that it signed, good until 2100.
const RSA_N: &str = "\
    soD0b0P1mTp1R_ulJyFSxezR4bPCJuKKuH9vKmeALynmqd5K2yBYwiuDp0Jfgbe483M1uBHREG1Q9yUKEr1gMPSpnH4fxu2itzMn\
    tl-O4mXaBWXat0zS2nRylZe6BIcbxqHjnXL9uN6NCbYM3LUXQX_dk1V60mB3pw4ZMVlGCKuUh_SeAnXaYxZ1YlslQpqpLdfw5TJy\
    Ki1RaliIXxTBsQnDloHcaDYCb2_fEPtJJG7AtJvETnmKSbJFGrIwhtgLTrOyywJsTHOqckoMmsOpGf4BDrMe6sH0Dcs1u5C-BQ03\
    llRMHNvPcqi00QJTIDriLOrOMkiNYEm9tGFUNnvNxw";
const RSA_TOKEN: &str = "\
    eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXV\
    kIjoiYWktcGxhdGZvcm0iLCJzdWIiOiJyc2EtY2FsbGVyIiwiZXhwIjo0MTAyNDQ0ODAwLCJ0ZW5hbnQiOiJhY21lIiwicm9sZXM\
    iOlsiaW5mZXJlbmNlIl19.aQyYqDNe8eQqyRQq6ecvGGfz7XJ9mRBvWWwt7lo_3kldr6caf-pGpRjkFD184P_JCnDaaTq3KzWtF7\
    gCrH0a2pmN1O4xULJBNuLz-xLrSZD8YNGvmzW6soV18-ICU41CshPiWGGzlLxr6hSplN0DhzRgfYuYYMWSGEkHlnIdpezfTDFSBO\
    ti1g9h8MaYS-zWsnXL2yiH9VZ2Uk2KCrTyHBmGXCDiSrWMc75XEfInhT-KcSEyBDn1Irwcjm9BMOsqWQzKQVFoA0oeTUzLtJu769\
    0q9uoppHlsKZ_vOjkMNo_8hJg0E1giItuJVIA2ikljNwo39IxLUY5otD5mrgXCRQ";

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn claims() -> Value {
    json!({
        "iss": "https://issuer.example", "aud": ["other", "ai-platform"], "sub": "someone", "exp": now() + 60,
        "tenant": "acme", "roles": ["inference", "viewer", "astronaut"],
    })
}

/// An issuer with a key of each curve.
struct Issuer {
    p256: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

impl Issuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random);
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self { p256: p256.unwrap(), ed25519: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap() }
    }

    fn keys(&self) -> String {
        let (point, ed) = (self.p256.public_key().as_ref(), self.ed25519.public_key().as_ref());
        json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": base64(&point[1..33]), "y": base64(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA", "x": base64(ed)},
            {"kty": "RSA", "kid": "rsa", "n": RSA_N, "e": "AQAB"},
            {"kty": "EC", "crv": "P-256", "kid": "enc", "use": "enc", "x": base64(&point[1..33]), "y": base64(&point[33..])},
            {"kty": "oct", "kid": "shared", "k": base64(b"secret")},
        ]})
        .to_string()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message =
            format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let signed = match header["alg"].as_str() {
            Some("ES256") => {
                self.p256.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
            }
            Some("EdDSA") => self.ed25519.sign(message.as_bytes()).as_ref().to_vec(),
            Some("HS256") => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"secret");
                ring::hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
            }
            _ => Vec::new(),
        };
        format!("{message}.{}", base64(&signed))
    }
}

fn config() -> JwtConfig {
    JwtConfig {
        issuer: Some("https://issuer.example".into()),
        audience: Some("ai-platform".into()),
        ..JwtConfig::default()
    }
}

fn es256() -> Value {
    json!({"alg": "ES256", "kid": "ec"})
}

#[test]
fn a_token_of_each_kind_of_key_names_its_caller() {
    let issuer = Issuer::new();
    let tokens = Tokens::new(&config(), issuer.keys().parse().unwrap());
    for header in [es256(), json!({"alg": "EdDSA", "kid": "ed"})] {
        let caller = tokens.find(&issuer.sign(&header, &claims())).unwrap();
        assert_eq!((&*caller.id, caller.tenant.name()), ("someone", "acme"));
        assert_eq!(caller.roles, [Role::Inference, Role::Viewer].into_iter().collect());
    }
    assert_eq!(&*tokens.find(RSA_TOKEN).unwrap().id, "rsa-caller");
    let mut spaced = claims();
    spaced["roles"] = "operator astronaut".into();
    let caller = tokens.find(&issuer.sign(&es256(), &spaced)).unwrap();
    assert_eq!(caller.roles, [Role::Operator].into_iter().collect());
}

#[test]
fn a_claim_that_is_missing_or_wrong_is_refused() {
    let issuer = Issuer::new();
    let tokens = Tokens::new(&config(), issuer.keys().parse().unwrap());
    let with = |claim: &str, value: Value| {
        let mut claims = claims();
        if value.is_null() {
            drop(claims.as_object_mut().unwrap().remove(claim));
        } else {
            claims[claim] = value;
        }
        tokens.find(&issuer.sign(&es256(), &claims)).map(drop)
    };
    for (claim, value) in [
        ("iss", Value::Null),
        ("iss", json!("https://another.example")),
        ("aud", Value::Null),
        ("aud", json!("another")),
        ("exp", Value::Null),
        ("nbf", json!(now() + 60)),
        ("sub", Value::Null),
        ("tenant", Value::Null),
        ("tenant", json!("")),
        ("tenant", json!("a b")),
    ] {
        assert_eq!(with(claim, value.clone()), Err(AuthFailure::BadToken), "{claim} = {value}");
    }
    assert_eq!(with("exp", json!(now() - 60)), Err(AuthFailure::Expired));
    assert_eq!(with("exp", json!(now() - 10)), Ok(()), "clocks may differ");
    assert_eq!(with("nbf", json!(now() + 10)), Ok(()));
    assert_eq!(with("roles", Value::Null), Ok(()), "without roles, it may do nothing that needs one");
}

#[test]
fn what_signs_is_a_key_of_the_issuer_by_an_algorithm_of_ours() {
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let tokens = Tokens::new(&config(), issuer.keys().parse().unwrap());
    let of = |issuer: &Issuer, header: Value| tokens.find(&issuer.sign(&header, &claims())).unwrap_err();
    assert_eq!(of(&stranger, es256()), AuthFailure::BadToken);
    for (alg, kid) in
        [("none", "ec"), ("HS256", "shared"), ("HS256", "ec"), ("ES384", "ec"), ("RS384", "rsa")]
    {
        assert_eq!(of(&issuer, json!({"alg": alg, "kid": kid})), AuthFailure::BadToken, "{alg} {kid}");
    }
    for (alg, kid) in [("ES256", "nobody"), ("ES256", "ed"), ("EdDSA", "ec"), ("ES256", "enc")] {
        assert_eq!(of(&issuer, json!({"alg": alg, "kid": kid})), AuthFailure::UnknownTokenKey, "{alg} {kid}");
    }
    assert_eq!(of(&issuer, json!({"alg": "ES256"})), AuthFailure::UnknownTokenKey, "which one is meant?");
    for wrong in ["..", "a.b.c", "", RSA_TOKEN.rsplit_once('.').unwrap().0] {
        assert_eq!(tokens.find(wrong).unwrap_err(), AuthFailure::BadToken, "{wrong}");
    }
    assert!(
        Tokens::is_token(RSA_TOKEN) && !Tokens::is_token("aip_a_b") && !Tokens::is_token(&"..x".repeat(9000))
    );
}

#[test]
fn a_set_without_a_usable_key_is_refused() {
    for wrong in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","kid":"a","k":"c2VjcmV0"}]}"#] {
        assert!(wrong.parse::<TokenKeys>().is_err(), "{wrong}");
    }
}
