//! Keys in a PKCS#11 token: of an HSM, a TPM or SoftHSM.
//!
//! What a token promises about a key is read back and asserted each time it is opened:
//! sensitive and never extractable, from its first moment on, and generated inside. A key
//! that was imported, or was extractable for a minute, is refused: nobody can tell where
//! its copies are. Quirks of modules that these files deal with, each seen in the field:
//!
//! - CKA_EC_PARAMS of Ed25519 as OID is refused by some, as PrintableString by others: both are tried;
//! - CKA_EC_POINT comes raw or wrapped in an OCTET STRING;
//! - a login belongs to the application, so "already logged in" is fine;
//! - multi-part signing does not work for EdDSA: one part only;
//! - handles die with their session: on such an error everything is opened again, once;
//! - while another program logs in, SoftHSM rewrites its token: who looks just then is told a
//!   general error, or sees no token; looking is tried again for a moment, a login never is;
//! - a wrong PIN counts towards a lock: it is never tried again;
//! - ECDSA comes as R and S side by side, and with either S.
//!
//! One session behind a mutex: more of them do not sign faster (measured).

mod attributes;
mod generate;
mod list;
mod prove;
mod session;
mod sign;

use std::sync::Mutex;

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use mcpfs_trust::key::PublicKey;

pub use generate::generate;
pub use list::{Listed, list as list_keys};
pub use prove::{Refusals, prove};
pub use session::Fault;

use self::session::Token;
use self::sign::Scheme;
use super::{KeyError, KeyUri, Keyring, Pkcs11Uri};

/// A key that stays in its token.
pub struct TokenKey {
    uri: KeyUri,
    public: PublicKey,
    scheme: Scheme,
    token: Token,
    open: Mutex<OpenKey>,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// A session with the key's handle in it.
struct OpenKey {
    session: Session,
    private: ObjectHandle,
}

impl TokenKey {
    pub(super) fn open(keyring: &mut Keyring, uri: &Pkcs11Uri) -> Result<Self, KeyError> {
        let token = Token::find(keyring, uri)?;
        let session = token.session(false)?;
        let (private, public) = token.key_pair(&session)?;
        let algorithm = token.check_attributes(&session, private)?;
        let public = token.public_key(&session, public, algorithm)?;
        let scheme = token.scheme(algorithm)?;
        let open = Mutex::new(OpenKey { session, private });
        Ok(Self { uri: KeyUri::Pkcs11(uri.clone()), public, scheme, token, open })
    }
}
