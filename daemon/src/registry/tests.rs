#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ed25519_dalek::{Signer, SigningKey};
use mcpfs_trust::envelope::{Envelope, Signature};
use mcpfs_trust::key::PublicKey;
use mcpfs_trust::root::{ReleaseRule, Role, TrustRoot};

/// The keys of RFC 8032, section 7.1: for tests only, as everybody has them.
pub(crate) fn key(number: usize) -> SigningKey {
    let seed = [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
    ][number - 1];
    let bytes: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&seed[2 * at..2 * at + 2], 16).unwrap()).collect();
    SigningKey::from_bytes(&bytes.try_into().unwrap())
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().to_bytes()).unwrap()
}

/// A trust root of (version, epoch, minimum head) with one head key and one release key for all names.
pub(crate) fn root(registry: &str, numbers: (u64, u64, u64), head: &SigningKey, release: &SigningKey) -> TrustRoot {
    let role = |key: &SigningKey| Role { keys: vec![public(key).id()], threshold: 1.try_into().unwrap() };
    let keys = [head, release].map(|key| (public(key), String::new())).to_vec();
    let rules = vec![ReleaseRule { scope: "*".parse().unwrap(), require: vec![role(release)] }];
    TrustRoot::new(registry.parse().unwrap(), numbers, keys, role(head), rules).unwrap()
}

/// An envelope around a statement's bytes.
pub(crate) fn sign(payload: Vec<u8>, key: &SigningKey) -> Envelope {
    let mut envelope = Envelope::new(payload).unwrap();
    let sig = key.sign(&envelope.signed_bytes()).to_bytes();
    envelope.signatures.push(Signature { keyid: public(key).id(), sig });
    envelope
}
