//! Signatures of tokens, verified by ring: the one implementation of cryptography in these binaries.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: |algorithm, key| Ok(Box::new(Verifier { algorithm: *algorithm, key: key.clone() })),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has tokens verified by ring.
pub(super) fn install() {
    // A second installation, by another service of the same process, changes nothing.
    PROVIDER.install_default().unwrap_or(());
}

struct Verifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Verifier {
    fn by_rsa(&self, parameters: &RsaParameters, message: &[u8], signed: &[u8]) -> Option<()> {
        let DecodingKeyKind::RsaModulusExponent { n, e } = self.key.kind() else { return None };
        RsaPublicKeyComponents { n, e }.verify(parameters, message, signed).ok()
    }

    fn by_curve(
        &self,
        curve: &'static dyn VerificationAlgorithm,
        message: &[u8],
        signed: &[u8],
    ) -> Option<()> {
        let key = self.key.try_get_as_bytes().ok()?;
        UnparsedPublicKey::new(curve, key).verify(message, signed).ok()
    }
}

impl ::signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> Result<(), ::signature::Error> {
        let verified = match self.algorithm {
            Algorithm::RS256 => self.by_rsa(&signature::RSA_PKCS1_2048_8192_SHA256, message, signed),
            Algorithm::RS384 => self.by_rsa(&signature::RSA_PKCS1_2048_8192_SHA384, message, signed),
            Algorithm::RS512 => self.by_rsa(&signature::RSA_PKCS1_2048_8192_SHA512, message, signed),
            Algorithm::PS256 => self.by_rsa(&signature::RSA_PSS_2048_8192_SHA256, message, signed),
            Algorithm::PS384 => self.by_rsa(&signature::RSA_PSS_2048_8192_SHA384, message, signed),
            Algorithm::PS512 => self.by_rsa(&signature::RSA_PSS_2048_8192_SHA512, message, signed),
            Algorithm::ES256 => self.by_curve(&signature::ECDSA_P256_SHA256_FIXED, message, signed),
            Algorithm::ES384 => self.by_curve(&signature::ECDSA_P384_SHA384_FIXED, message, signed),
            Algorithm::EdDSA => self.by_curve(&signature::ED25519, message, signed),
            // Whoever can verify with a shared secret can sign with it.
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 | _ => None,
        };
        verified.ok_or_else(::signature::Error::new)
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
