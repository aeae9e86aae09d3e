//! Keys that sign, and the one door through which everything is signed.
//!
//! A signing key is *used*, never held: the real one lives in a PKCS#11 token that keeps it
//! sensitive and non-extractable ([`pkcs11`]) or in a KMS that never gives it away ([`awskms`]),
//! and the other one is worthless by design ([`demo`]). There is no key file: a code path that can
//! read one could leak one, and no later check would notice (docs/threat-model.md, invariant 3).
//!
//! [`sign`] is the only caller of [`SigningKey::raw_signature`]. It bounds the bytes, asks the key
//! whether it may sign for this registry, and verifies each signature with the verifier that
//! hosts use before anybody sees it. SoftHSM 2.6.1 shows why: asked for Ed25519ctx it
//! returns a pure Ed25519 signature and says that all went well.

pub mod awskms;
pub mod demo;
mod ecdsa;
pub mod pkcs11;
pub mod uri;

use std::collections::BTreeMap;
use std::path::PathBuf;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::envelope::{PAYLOAD_TYPE, Signature, pae};
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::key::{Algorithm, PublicKey};
use mcpfs_trust::limits;
use mcpfs_trust::name::RegistryName;

use crate::pin::{PinError, Pins};

pub use uri::{AwsKmsUri, KeyUri, Pkcs11Uri};

/// A key that can sign, in the way of its own algorithm.
pub trait SigningKey {
    /// Its public half.
    fn public(&self) -> &PublicKey;

    /// The reference it was opened by; holds no secret.
    fn uri(&self) -> &KeyUri;

    /// Whether it may sign for `registry`.
    ///
    /// # Errors
    /// [`KeyError::DemoOnly`] for the demo key and a registry that is not `demo/…`.
    fn check_registry(&self, registry: &RegistryName) -> Result<(), KeyError>;

    /// Signs `message`, which is at most 4,096 bytes, in the form that hosts verify for its public
    /// half. Callers use [`sign`].
    ///
    /// # Errors
    /// Whatever the token says.
    fn raw_signature(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum KeyError {
    #[error(
        "not a key: {uri:?}: {problem}; a key is named such as \
             'pkcs11:token=mcpfs;object=release?module-path=/usr/lib/softhsm/libsofthsm2.so' or \
             'awskms:///alias/mcpfs-release?region=eu-central-1'"
    )]
    BadUri { uri: String, problem: String },
    #[error(
        "the PKCS#11 module {path} does not exist; for SoftHSM install the Debian package softhsm2, \
             for other tokens the package of their maker, and name its file in module-path"
    )]
    ModuleMissing { path: PathBuf },
    #[error(
        "cannot use the PKCS#11 module {path}. If another program uses its token just now, repeat the command; \
             otherwise, for SoftHSM, see that SOFTHSM2_CONF is set and that this user may read and write the token folder"
    )]
    Module { path: PathBuf, source: pkcs11::Fault },
    #[error(
        "no token {wanted}; tokens here: {present}. \
             To make one with SoftHSM: softhsm2-util --init-token --free --label {wanted}"
    )]
    TokenMissing { wanted: String, present: String },
    #[error("{count} tokens match {wanted}; add serial=… to the key's URI")]
    TokenAmbiguous { wanted: String, count: usize },
    #[error(
        "the token {token} refused the PIN. It was not tried again: tokens lock after a few wrong ones.{note} \
             Correct the PIN, then repeat the command"
    )]
    PinRefused { token: String, note: &'static str },
    #[error("the PIN of token {token} is locked; unlock it with the token's own tool as its security officer")]
    PinLocked { token: String },
    #[error(transparent)]
    Kms(#[from] awskms::KmsError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(
        "token {token} has no private key {wanted}; keys there: {present}. \
             To make it: mcpfs-signer keys generate --key '{uri}'"
    )]
    KeyMissing { token: String, wanted: String, present: String, uri: String },
    #[error(
        "the token {token} is gone: it had the key {wanted} when this command began, and has not now. Nothing was \
         signed by it. See that it is connected, or with SoftHSM that its token folder is where it was (SOFTHSM2_CONF \
         names it), then repeat the command; do not make a new key"
    )]
    TokenGone { token: String, wanted: String },
    #[error("{count} {kind} keys in token {token} match {wanted}; name one of them with id=… or remove the others")]
    KeyAmbiguous { token: String, wanted: String, kind: &'static str, count: usize },
    #[error("token {token} already has a key {wanted}; choose another object= or use the key that is there")]
    KeyExists { token: String, wanted: String },
    #[error(
        "the key {wanted} in token {token} is not fit to sign releases: {problem}. \
             Make a new one: mcpfs-signer keys generate"
    )]
    Unfit { token: String, wanted: String, problem: String },
    #[error("the public key of {wanted} in token {token} is not usable")]
    BadPublicKey { token: String, wanted: String, source: Box<VerifyError> },
    #[error(
        "token {token}: logging in failed, as it may when another program uses the token just then. \
             The PIN was tried once and is not tried again by itself; repeat the command"
    )]
    LoginFailed { token: String, source: pkcs11::Fault },
    #[error("token {token}: {doing} failed")]
    Token { token: String, doing: &'static str, source: pkcs11::Fault },
    #[error("the token {token} makes no {algorithm} keys. {instead}")]
    AlgorithmMissing { token: String, algorithm: Algorithm, instead: String },
    #[error(
        "the token {token} did not sign, so there is no new head and hosts see what they saw before. \
             See that the token is connected and that its service runs, then repeat the command"
    )]
    NotSigned { token: String, source: pkcs11::Fault },
    #[error(
        "{size} bytes to sign, at most {limit} are allowed (the smallest bound of the key services in use); \
             shorten the recipe's texts or lists"
    )]
    PayloadTooLarge { size: usize, limit: usize },
    #[error(
        "SelfVerifyFailed: {uri} returned a signature that does not verify with its own public key; \
             nothing was published. The token or its driver is faulty, or public and private key are not a pair"
    )]
    SelfVerifyFailed { uri: String },
    #[error(
        "the demo key is known to everybody and signs only for registries named demo/…, not for {registry}; \
             use a PKCS#11 key"
    )]
    DemoOnly { registry: RegistryName },
}

/// Opens keys, each token's module once and each token's PIN once.
#[derive(Debug)]
pub struct Keyring {
    pins: Pins,
    modules: BTreeMap<PathBuf, cryptoki::context::Pkcs11>,
    /// By module and serial number: one question for several keys of a token.
    unlocked: BTreeMap<(PathBuf, String), cryptoki::types::AuthPin>,
}

impl Keyring {
    /// A keyring that takes PINs from `pins`.
    pub fn new(pins: Pins) -> Self {
        Self { pins, modules: BTreeMap::new(), unlocked: BTreeMap::new() }
    }

    /// Opens a key for signing.
    ///
    /// # Errors
    /// If its token, PIN or key is missing, or the token does not keep it as it must.
    pub fn open(&mut self, uri: &KeyUri) -> Result<Box<dyn SigningKey>, KeyError> {
        match uri {
            KeyUri::Demo(name) => Ok(Box::new(demo::DemoKey::new(name)?)),
            KeyUri::Pkcs11(uri) => Ok(Box::new(pkcs11::TokenKey::open(self, uri)?)),
            KeyUri::AwsKms(uri) => Ok(Box::new(awskms::KmsKey::open(uri)?)),
        }
    }
}

/// Signs `payload` for `registry`: the one door.
///
/// # Errors
/// If the bytes are too many, the key may not sign for the registry, the token fails, or the
/// signature does not verify.
pub fn sign(key: &dyn SigningKey, registry: &RegistryName, payload: &[u8]) -> Result<Signature, KeyError> {
    let message = pae(PAYLOAD_TYPE, payload);
    if message.len() > limits::SIGNED_BYTES {
        return Err(KeyError::PayloadTooLarge { size: message.len(), limit: limits::SIGNED_BYTES });
    }
    key.check_registry(registry)?;
    let sig = key.raw_signature(&message)?;
    if !key.public().verify(&message, &sig) {
        return Err(KeyError::SelfVerifyFailed { uri: key.uri().to_string() });
    }
    Ok(Signature { keyid: key.public().id(), sig })
}

/// The ids of `keys`, in order.
pub fn ids(keys: &[Box<dyn SigningKey>]) -> Vec<Digest> {
    keys.iter().map(|key| key.public().id()).collect()
}
