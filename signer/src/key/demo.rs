//! The demo key: in memory, fixed, and known to everybody.
//!
//! A demonstration needs a key that several commands can use and that no one has to set up.
//! A key made at random would have to be written down between commands, and no code here
//! writes key material, so the demo key is derived from its public name. Whoever reads this
//! file can sign with it: it is worth nothing, and it is refused for every registry that is
//! not named `demo/…`.

use ed25519_dalek::Signer as _;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::key::{Algorithm, PublicKey};
use mcpfs_trust::name::RegistryName;

use super::{KeyError, KeyUri, SigningKey};

/// A key that everybody has.
#[derive(Debug)]
pub struct DemoKey {
    uri: KeyUri,
    key: ed25519_dalek::SigningKey,
    public: PublicKey,
}

impl DemoKey {
    /// The demo key called `name`; a registry needs one for heads and one for releases.
    ///
    /// # Errors
    /// `BadPublicKey` if the name happens to give a weak key.
    pub fn new(name: &str) -> Result<Self, KeyError> {
        let seed = Digest::of(format!("mcpfs demo key, worthless, known to everybody: {name}").as_bytes());
        let key = ed25519_dalek::SigningKey::from_bytes(seed.as_bytes());
        let uri = KeyUri::Demo(name.to_owned());
        match PublicKey::from_bytes(Algorithm::Ed25519, key.verifying_key().as_bytes()) {
            Ok(public) => Ok(Self { uri, key, public }),
            Err(source) => {
                let source = Box::new(source);
                Err(KeyError::BadPublicKey { token: "demo".to_owned(), wanted: name.to_owned(), source })
            }
        }
    }
}

impl SigningKey for DemoKey {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn uri(&self) -> &KeyUri {
        &self.uri
    }

    fn check_registry(&self, registry: &RegistryName) -> Result<(), KeyError> {
        if registry.is_demo() { Ok(()) } else { Err(KeyError::DemoOnly { registry: registry.clone() }) }
    }

    fn raw_signature(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(self.key.sign(message).to_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::key::sign;

    #[test]
    fn only_for_demo_registries_and_only_small_payloads() {
        let key = DemoKey::new("release").unwrap();
        let demo: RegistryName = "demo/here".parse().unwrap();
        let real: RegistryName = "mcp.example.com/prod".parse().unwrap();
        assert!(matches!(sign(&key, &real, b"x"), Err(KeyError::DemoOnly { .. })));
        assert!(sign(&key, &demo, &[b' '; 4000]).is_ok());
        assert!(matches!(sign(&key, &demo, &[b' '; 4096]), Err(KeyError::PayloadTooLarge { .. })));
        assert_ne!(key.public().id(), DemoKey::new("head").unwrap().public().id());
    }

    /// A token that returns something else than it was asked for.
    struct Faulty(DemoKey);
    impl SigningKey for Faulty {
        fn public(&self) -> &PublicKey {
            self.0.public()
        }
        fn uri(&self) -> &KeyUri {
            self.0.uri()
        }
        fn check_registry(&self, registry: &RegistryName) -> Result<(), KeyError> {
            self.0.check_registry(registry)
        }
        fn raw_signature(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
            self.0.raw_signature(&[message, b"."].concat())
        }
    }

    #[test]
    fn a_faulty_signature_is_never_returned() {
        let demo: RegistryName = "demo/here".parse().unwrap();
        let faulty = Faulty(DemoKey::new("release").unwrap());
        assert!(matches!(sign(&faulty, &demo, b"x"), Err(KeyError::SelfVerifyFailed { .. })));
    }
}
