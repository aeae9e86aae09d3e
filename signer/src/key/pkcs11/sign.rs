//! Signing with a key in its token.
//!
//! ECDSA is asked for over a SHA-256 made here (CKM_ECDSA), which every token with P-256 has;
//! one that wants to hash by itself gets the message (CKM_ECDSA_SHA256).

use cryptoki::error::Error as TokenError;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::{Mechanism, MechanismType};
use mcpfs_trust::key::{Algorithm, PublicKey};
use mcpfs_trust::name::RegistryName;

use super::super::{KeyError, KeyUri, SigningKey, ecdsa};
use super::session::{Fault, Token, lost_session};
use super::{OpenKey, TokenKey};

/// What a token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Ed25519,
    EcdsaOfHash,
    EcdsaOfMessage,
}

impl Token {
    /// How this token signs with keys of `algorithm`.
    pub(super) fn scheme(&self, algorithm: Algorithm) -> Result<Scheme, KeyError> {
        if algorithm == Algorithm::Ed25519 {
            return Ok(Scheme::Ed25519);
        }
        let offered = self.module.get_mechanism_list(self.slot);
        let offered = offered.map_err(|error| self.error("asking for its mechanisms", error))?;
        let schemes =
            [(MechanismType::ECDSA, Scheme::EcdsaOfHash), (MechanismType::ECDSA_SHA256, Scheme::EcdsaOfMessage)];
        let found = schemes.into_iter().find(|(mechanism, _)| offered.contains(mechanism));
        let scheme = found.map(|(_, scheme)| scheme);
        scheme.ok_or_else(|| self.unfit("its token offers neither CKM_ECDSA nor CKM_ECDSA_SHA256"))
    }
}

impl OpenKey {
    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        match scheme {
            Scheme::Ed25519 => {
                let pure = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
                self.session.sign(&pure, self.private, message)
            }
            Scheme::EcdsaOfHash => self.session.sign(&Mechanism::Ecdsa, self.private, &ecdsa::hashed(message)),
            Scheme::EcdsaOfMessage => self.session.sign(&Mechanism::EcdsaSha256, self.private, message),
        }
    }
}

impl TokenKey {
    fn reopened(&self) -> Result<OpenKey, KeyError> {
        let session = self.token.session(false)?;
        let (private, _) = self.token.key_pair(&session).map_err(|error| match error {
            // It was there: this is no key that nobody made.
            KeyError::KeyMissing { token, wanted, .. } => KeyError::TokenGone { token, wanted },
            other => other,
        })?;
        self.token.check_attributes(&session, private)?;
        Ok(OpenKey { session, private })
    }
}

impl SigningKey for TokenKey {
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
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let signature = match open.sign(self.scheme, message) {
            Err(error) if lost_session(&error) => {
                tracing::info!(token = self.token.name, "session lost; opening the token again");
                *open = self.reopened().map_err(|error| match error {
                    KeyError::Token { token, source, .. } | KeyError::LoginFailed { token, source } => {
                        KeyError::NotSigned { token, source }
                    }
                    other => other,
                })?;
                open.sign(self.scheme, message)
            }
            first => first,
        };
        let signature =
            signature.map_err(|error| KeyError::NotSigned { token: self.token.name.clone(), source: Fault(error) })?;
        match self.scheme {
            Scheme::Ed25519 => Ok(signature),
            Scheme::EcdsaOfHash | Scheme::EcdsaOfMessage => {
                ecdsa::from_raw(&signature).ok_or_else(|| KeyError::SelfVerifyFailed { uri: self.uri.to_string() })
            }
        }
    }
}
