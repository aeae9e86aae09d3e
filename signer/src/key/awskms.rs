//! Keys in AWS KMS: `awskms:///alias/NAME?region=REGION`.
//!
//! What a PKCS#11 token says by a key's attributes, KMS says in DescribeKey: that it was made
//! inside (an imported key has copies nobody knows of), that it is for signing, and enabled. KMS
//! has no call that gives a private key away. It gets the message itself (MessageType RAW), which
//! Ed25519 needs and ECDSA allows: 4,096 bytes at most is KMS's own limit and therefore ours.
//!
//! Nothing that KMS answers is believed: a signature counts when it verifies with the public key
//! that the trust root names ([`super::sign`]), so another key's, a cut or a forged one is refused.

mod client;
mod error;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpfs_trust::error::bounded;
use mcpfs_trust::key::{Algorithm, PublicKey};
use mcpfs_trust::name::RegistryName;
use serde::Deserialize;
use serde_json::json;

pub use error::KmsError;

use self::client::Client;
use super::uri::AwsKmsUri;
use super::{KeyError, KeyUri, SigningKey, ecdsa};

/// A key that stays in AWS KMS.
pub struct KmsKey {
    uri: KeyUri,
    /// Its ARN: an alias could point elsewhere a moment later.
    id: String,
    public: PublicKey,
    client: Client,
}

impl std::fmt::Debug for KmsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KmsKey").field("uri", &self.uri).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    key_metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    arn: String,
    key_state: String,
    key_usage: String,
    key_spec: String,
    origin: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PublicHalf {
    public_key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Signed {
    signature: String,
}

impl KmsKey {
    pub(super) fn open(uri: &AwsKmsUri) -> Result<Self, KeyError> {
        let client = Client::new(uri)?;
        let described: Described = client.ask("DescribeKey", &json!({"KeyId": uri.key}))?;
        let facts = described.key_metadata;
        let unfit = |problem: String| KmsError::Unfit { key: uri.key.clone(), problem };
        if facts.key_state != "Enabled" {
            return Err(
                unfit(format!("its state is {}; enable it, or use another key", bounded(&facts.key_state))).into()
            );
        }
        if facts.key_usage != "SIGN_VERIFY" {
            return Err(unfit(format!("it is for {}, not for SIGN_VERIFY", bounded(&facts.key_usage))).into());
        }
        if !matches!(facts.origin.as_str(), "AWS_KMS" | "AWS_CLOUDHSM") {
            return Err(unfit(format!("it was not made inside KMS (its origin is {})", bounded(&facts.origin))).into());
        }
        let algorithm = match facts.key_spec.as_str() {
            "ECC_NIST_P256" => Algorithm::EcdsaP256,
            "ECC_NIST_EDWARDS25519" => Algorithm::Ed25519,
            other => {
                let problem =
                    format!("it is a {} key; hosts verify ECC_NIST_P256 and ECC_NIST_EDWARDS25519", bounded(other));
                return Err(unfit(problem).into());
            }
        };
        let found: PublicHalf = client.ask("GetPublicKey", &json!({"KeyId": facts.arn}))?;
        let public = STANDARD.decode(found.public_key).ok().and_then(|der| PublicKey::from_spki_der(&der).ok());
        let public = public.filter(|public| public.algorithm() == algorithm);
        let public = public.ok_or_else(|| unfit(format!("its public half is not a {algorithm} key")))?;
        Ok(Self { uri: KeyUri::AwsKms(uri.clone()), id: facts.arn, public, client })
    }
}

impl SigningKey for KmsKey {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn uri(&self) -> &KeyUri {
        &self.uri
    }

    fn check_registry(&self, _: &RegistryName) -> Result<(), KeyError> {
        Ok(())
    }

    fn raw_signature(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let algorithm = match self.public.algorithm() {
            Algorithm::EcdsaP256 => "ECDSA_SHA_256",
            Algorithm::Ed25519 => "ED25519_SHA_512",
        };
        let message = STANDARD.encode(message);
        let request =
            json!({"KeyId": self.id, "Message": message, "MessageType": "RAW", "SigningAlgorithm": algorithm});
        let answer: Signed = self.client.ask("Sign", &request)?;
        let signature = STANDARD.decode(answer.signature).ok();
        let signature = match self.public.algorithm() {
            Algorithm::EcdsaP256 => signature.and_then(|der| ecdsa::from_der(&der)),
            Algorithm::Ed25519 => signature,
        };
        signature.ok_or_else(|| KeyError::SelfVerifyFailed { uri: self.uri.to_string() })
    }
}
