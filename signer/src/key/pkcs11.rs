//! Ed25519 keys in a PKCS#11 token.
//!
//! What a token promises about a key is read back and asserted each time it is opened:
//! sensitive and never extractable, from its first moment on, and generated inside. A key
//! that was imported, or was extractable for a minute, is refused: nobody can tell where
//! its copies are. Quirks of modules that this file deals with, each seen in the field:
//!
//! - CKA_EC_PARAMS as OID is refused by some, as PrintableString by others: both are tried;
//! - CKA_EC_POINT comes raw (32 bytes) or wrapped in an OCTET STRING (34 bytes);
//! - a login belongs to the application, so "already logged in" is fine;
//! - multi-part signing does not work for EdDSA: one part only;
//! - handles die with their session: on such an error everything is opened again, once;
//! - while another program logs in, SoftHSM rewrites its token: who looks just then is told a
//!   general error, or sees no token; looking is tried again for a moment, a login never is;
//! - a wrong PIN counts towards a lock: it is never tried again.
//!
//! One session behind a mutex: more of them do not sign faster (measured).

mod list;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as TokenError, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use mcpfs_trust::key::{Algorithm, PublicKey};
use mcpfs_trust::name::RegistryName;

pub use list::{Listed, list as list_keys};

use super::{KeyError, KeyUri, Keyring, Pkcs11Uri, SigningKey};

/// How long a token that answers with a passing fault is asked again.
const BUSY: Duration = Duration::from_secs(2);
/// How long a token that is not there is looked for again: one that is really missing is the usual case.
const HIDDEN: Duration = Duration::from_millis(600);
/// About how long to wait before that.
const PAUSE: Duration = Duration::from_millis(50);

/// CKA_EC_PARAMS of Ed25519: the OID 1.3.101.112, and the PrintableString "edwards25519".
const EC_PARAMS: [&[u8]; 2] = [b"\x06\x03\x2b\x65\x70", b"\x13\x0cedwards25519"];

/// A key that stays in its token.
pub struct TokenKey {
    uri: KeyUri,
    public: PublicKey,
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

/// A token that the PIN has opened before, so that it can be opened again.
struct Token {
    uri: Pkcs11Uri,
    name: String,
    module: Pkcs11,
    slot: Slot,
    pin: Option<AuthPin>,
}

/// A module's error in the standard's own terms; the library's texts paraphrase them.
#[derive(Debug)]
pub struct Fault(TokenError);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            TokenError::Pkcs11(code, function) => write!(f, "PKCS#11 {function:?}: {code:?}"),
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// Whether the same question may have an answer a moment later.
    fn may_pass(&self) -> bool {
        use RvError::{DeviceError, FunctionFailed, GeneralError, TokenNotPresent, TokenNotRecognized};
        matches!(
            self.0,
            TokenError::Pkcs11(GeneralError | FunctionFailed | DeviceError | TokenNotPresent | TokenNotRecognized, _)
        )
    }
}

/// What a token answered when it was asked to give a key away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusals {
    /// Reading CKA_VALUE.
    pub read: String,
    /// Setting CKA_EXTRACTABLE.
    pub unlock: String,
}

impl TokenKey {
    pub(super) fn open(keyring: &mut Keyring, uri: &Pkcs11Uri) -> Result<Self, KeyError> {
        let token = Token::find(keyring, uri)?;
        let session = token.session(false)?;
        let (private, public) = token.key_pair(&session)?;
        token.check_attributes(&session, private)?;
        let public = token.public_key(&session, public)?;
        let open = Mutex::new(OpenKey { session, private });
        Ok(Self { uri: KeyUri::Pkcs11(uri.clone()), public, token, open })
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
        let mechanism = || Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
        let signature = match open.session.sign(&mechanism(), open.private, message) {
            Err(error) if lost_session(&error) => {
                tracing::info!(token = self.token.name, "session lost; opening the token again");
                let session = self.token.session(false)?;
                let (private, _) = self.token.key_pair(&session)?;
                self.token.check_attributes(&session, private)?;
                *open = OpenKey { session, private };
                open.session.sign(&mechanism(), private, message)
            }
            first => first,
        };
        signature.map_err(|error| self.token.error("signing", error))
    }
}

/// Makes a key pair in the token and opens it, checked.
///
/// # Errors
/// If the label is taken, the token refuses, or it does not keep the key as it must.
pub fn generate(keyring: &mut Keyring, uri: &Pkcs11Uri) -> Result<TokenKey, KeyError> {
    let Some(label) = &uri.object else {
        let problem = "a new key needs a label: add object=…".to_owned();
        return Err(KeyError::BadUri { uri: uri.to_string(), problem });
    };
    let token = Token::find(keyring, uri)?;
    let session = token.session(true)?;
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        let template = [Attribute::Class(class), Attribute::Label(label.clone().into_bytes())];
        if !token.find_objects(&session, &template)?.is_empty() {
            return Err(KeyError::KeyExists { token: token.name, wanted: label.clone() });
        }
    }
    let id = uri.id.clone().unwrap_or_else(|| rand::random::<[u8; 8]>().to_vec());
    let mut last = None;
    for params in EC_PARAMS {
        let common = [
            Attribute::Token(true),
            Attribute::Label(label.clone().into_bytes()),
            Attribute::Id(id.clone()),
            Attribute::KeyType(KeyType::EC_EDWARDS),
        ];
        let public =
            [&common[..], &[Attribute::Private(false), Attribute::Verify(true), Attribute::EcParams(params.to_vec())]]
                .concat();
        let private = [
            &common[..],
            &[
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Sign(true),
            ],
        ]
        .concat();
        match session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &private) {
            Ok(_) => {
                drop(session);
                return TokenKey::open(keyring, uri);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(error) => token.error("making an Ed25519 key pair", error),
        None => KeyError::KeyExists { token: token.name, wanted: label.clone() },
    })
}

/// Asks the token to give the private key away, in both ways there are, and reports its refusals.
///
/// # Errors
/// [`KeyError::Unfit`] if it does not refuse.
pub fn prove(keyring: &mut Keyring, uri: &Pkcs11Uri) -> Result<Refusals, KeyError> {
    let token = Token::find(keyring, uri)?;
    let session = token.session(true)?;
    let (private, _) = token.key_pair(&session)?;
    token.check_attributes(&session, private)?;
    let read = match session.get_attributes(private, &[AttributeType::Value]) {
        Ok(values) if values.iter().any(|value| matches!(value, Attribute::Value(bytes) if !bytes.is_empty())) => {
            return Err(token.unfit("its private value can be read"));
        }
        Ok(_) => "CKR_ATTRIBUTE_SENSITIVE (no value returned)".to_owned(),
        Err(error) => reply(&error),
    };
    let unlock = match session.update_attributes(private, &[Attribute::Extractable(true)]) {
        Ok(()) => return Err(token.unfit("it can be made extractable, and this test just did: destroy it")),
        Err(error) => reply(&error),
    };
    Ok(Refusals { read, unlock })
}

impl Token {
    /// The token and a login. What is read before the login is read again for a moment if it
    /// fails: another program that uses the token may be writing it just now.
    fn find(keyring: &mut Keyring, uri: &Pkcs11Uri) -> Result<Self, KeyError> {
        let begun = Instant::now();
        let (module, slot, facts) = loop {
            match Self::look(keyring, uri) {
                Ok(found) => break found,
                Err(KeyError::Module { source, .. }) if source.may_pass() && begun.elapsed() < BUSY => {}
                // Only a module that is loaded anew looks for tokens anew; not under open sessions.
                Err(KeyError::TokenMissing { .. }) if keyring.unlocked.is_empty() && begun.elapsed() < HIDDEN => {
                    keyring.modules.clear();
                }
                Err(error) => return Err(error),
            }
            std::thread::sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5)));
        };
        Self::unlock(keyring, uri, module, slot, &facts)
    }

    /// The one slot with the token that the URI names.
    fn look(keyring: &mut Keyring, uri: &Pkcs11Uri) -> Result<(Pkcs11, Slot, TokenInfo), KeyError> {
        let module = module(keyring, uri)?;
        let broken = |source| KeyError::Module { path: uri.module.clone(), source: Fault(source) };
        let (mut found, mut present) = (Vec::new(), Vec::new());
        for slot in module.get_slots_with_initialized_token().map_err(broken)? {
            let facts = module.get_token_info(slot).map_err(broken)?;
            let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
            if is(&uri.token, facts.label()) && is(&uri.serial, facts.serial_number()) {
                found.push((slot, facts));
            } else {
                present.push(facts.label().to_owned());
            }
        }
        let wanted = uri.token_name();
        match (found.len(), found.pop()) {
            (1, Some((slot, facts))) => Ok((module, slot, facts)),
            (0, _) => Err(KeyError::TokenMissing { wanted, present: list(present) }),
            (count, _) => Err(KeyError::TokenAmbiguous { wanted, count }),
        }
    }

    fn unlock(
        keyring: &mut Keyring,
        uri: &Pkcs11Uri,
        module: Pkcs11,
        slot: Slot,
        facts: &TokenInfo,
    ) -> Result<Self, KeyError> {
        let name = facts.label().to_owned();
        if facts.user_pin_locked() {
            return Err(KeyError::PinLocked { token: name });
        }
        let account = (uri.module.clone(), facts.serial_number().to_owned());
        let pin = match keyring.unlocked.get(&account) {
            Some(pin) => Some(pin.clone()),
            None if facts.login_required() && !facts.protected_authentication_path() => Some(keyring.pins.get(&name)?),
            None => None,
        };
        let token = Self { uri: uri.clone(), name, module, slot, pin };
        // The PIN is tried here, once. Only a PIN that was right is kept for further keys and sessions.
        token.session(false)?;
        if let Some(pin) = &token.pin {
            keyring.unlocked.insert(account, pin.clone());
        }
        Ok(token)
    }

    fn session(&self, write: bool) -> Result<Session, KeyError> {
        let session =
            if write { self.module.open_rw_session(self.slot) } else { self.module.open_ro_session(self.slot) };
        let session = session.map_err(|error| self.error("opening a session", error))?;
        match session.login(UserType::User, self.pin.as_ref()) {
            Ok(()) | Err(TokenError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(TokenError::Pkcs11(RvError::PinLocked, _)) => Err(KeyError::PinLocked { token: self.name.clone() }),
            Err(TokenError::Pkcs11(
                RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange | RvError::PinExpired,
                _,
            )) => Err(self.pin_refused()),
            Err(error) => Err(KeyError::LoginFailed { token: self.name.clone(), source: Fault(error) }),
        }
    }

    fn pin_refused(&self) -> KeyError {
        let note = match self.module.get_token_info(self.slot) {
            Ok(facts) if facts.user_pin_locked() => " It is locked now.",
            Ok(facts) if facts.user_pin_final_try() => " One more wrong PIN locks it.",
            Ok(facts) if facts.user_pin_count_low() => " Few tries are left.",
            _ => "",
        };
        KeyError::PinRefused { token: self.name.clone(), note }
    }

    /// The one private and the one public key that the URI names.
    fn key_pair(&self, session: &Session) -> Result<(ObjectHandle, ObjectHandle), KeyError> {
        let one = |class, kind| {
            let found = self.find_objects(session, &self.template(class))?;
            match found.as_slice() {
                [one] => Ok(*one),
                [] => Err(self.key_missing(session)),
                many => Err(KeyError::KeyAmbiguous {
                    token: self.name.clone(),
                    wanted: self.uri.key_name(),
                    kind,
                    count: many.len(),
                }),
            }
        };
        Ok((one(ObjectClass::PRIVATE_KEY, "private")?, one(ObjectClass::PUBLIC_KEY, "public")?))
    }

    /// What the URI says of an object, in its class.
    fn template(&self, class: ObjectClass) -> Vec<Attribute> {
        let mut template = vec![Attribute::Class(class)];
        template.extend(self.uri.object.clone().map(|label| Attribute::Label(label.into_bytes())));
        template.extend(self.uri.id.clone().map(Attribute::Id));
        template
    }

    fn key_missing(&self, session: &Session) -> KeyError {
        let labels = || -> Result<Vec<String>, KeyError> {
            let keys = self.find_objects(session, &[Attribute::Class(ObjectClass::PRIVATE_KEY)])?;
            let label = |key| match session.get_attributes(key, &[AttributeType::Label]).ok()?.pop()? {
                Attribute::Label(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
                _ => None,
            };
            Ok(keys.into_iter().take(20).filter_map(label).collect())
        };
        KeyError::KeyMissing {
            token: self.name.clone(),
            wanted: self.uri.key_name(),
            present: list(labels().unwrap_or_default()),
            uri: self.uri.to_string(),
        }
    }

    /// Invariant 3 made checkable: what the token says about the key must be all of this.
    fn check_attributes(&self, session: &Session, private: ObjectHandle) -> Result<(), KeyError> {
        let required = [
            (AttributeType::KeyType, Attribute::KeyType(KeyType::EC_EDWARDS), "it is not an Edwards-curve key"),
            (AttributeType::Sensitive, Attribute::Sensitive(true), "it is not sensitive: its value can be read"),
            (AttributeType::AlwaysSensitive, Attribute::AlwaysSensitive(true), "it has not always been sensitive"),
            (AttributeType::Extractable, Attribute::Extractable(false), "it is extractable"),
            (AttributeType::NeverExtractable, Attribute::NeverExtractable(true), "it was extractable once"),
            (AttributeType::Local, Attribute::Local(true), "it was not made inside the token"),
        ];
        for (kind, wanted, problem) in required {
            let found =
                session.get_attributes(private, &[kind]).map_err(|error| self.error("reading attributes", error))?;
            if found.as_slice() != [wanted] {
                return Err(self.unfit(problem));
            }
        }
        Ok(())
    }

    fn public_key(&self, session: &Session, public: ObjectHandle) -> Result<PublicKey, KeyError> {
        let point = session
            .get_attributes(public, &[AttributeType::EcPoint])
            .map_err(|error| self.error("reading the public key", error))?;
        let Some(Attribute::EcPoint(point)) = point.first() else {
            return Err(self.unfit("its public key has no CKA_EC_POINT"));
        };
        let bytes = ec_point(point).ok_or_else(|| self.unfit("its CKA_EC_POINT is not an Ed25519 point"))?;
        PublicKey::from_bytes(Algorithm::Ed25519, &bytes).map_err(|source| KeyError::BadPublicKey {
            token: self.name.clone(),
            wanted: self.uri.key_name(),
            source: Box::new(source),
        })
    }

    fn find_objects(&self, session: &Session, template: &[Attribute]) -> Result<Vec<ObjectHandle>, KeyError> {
        session.find_objects(template).map_err(|error| self.error("looking for keys", error))
    }

    fn unfit(&self, problem: &str) -> KeyError {
        KeyError::Unfit { token: self.name.clone(), wanted: self.uri.key_name(), problem: problem.to_owned() }
    }

    fn error(&self, doing: &'static str, source: TokenError) -> KeyError {
        KeyError::Token { token: self.name.clone(), doing, source: Fault(source) }
    }
}

/// Loads a module once: a second C_Initialize of one library fails.
fn module(keyring: &mut Keyring, uri: &Pkcs11Uri) -> Result<Pkcs11, KeyError> {
    let Ok(path) = uri.module.canonicalize() else {
        return Err(KeyError::ModuleMissing { path: uri.module.clone() });
    };
    if let Some(module) = keyring.modules.get(&path) {
        return Ok(module.clone());
    }
    let broken = |source| KeyError::Module { path: uri.module.clone(), source: Fault(source) };
    let module = Pkcs11::new(&path).map_err(broken)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(TokenError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(broken(error)),
    }
    keyring.modules.insert(path, module.clone());
    Ok(module)
}

/// The 32 bytes of an Ed25519 point, raw or in an OCTET STRING; nothing else is guessed at.
fn ec_point(bytes: &[u8]) -> Option<[u8; 32]> {
    match bytes {
        [0x04, 0x20, point @ ..] if point.len() == 32 => point.try_into().ok(),
        point => point.try_into().ok(),
    }
}

/// Errors after which every handle is worthless.
fn lost_session(error: &TokenError) -> bool {
    matches!(
        error,
        TokenError::Pkcs11(
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::ObjectHandleInvalid
                | RvError::KeyHandleInvalid
                | RvError::UserNotLoggedIn
                | RvError::DeviceRemoved
                | RvError::TokenNotPresent,
            _
        )
    )
}

/// A token's answer in the words of the PKCS#11 standard.
fn reply(error: &TokenError) -> String {
    match error {
        TokenError::Pkcs11(RvError::AttributeReadOnly, _) => "CKR_ATTRIBUTE_READ_ONLY".to_owned(),
        TokenError::Pkcs11(RvError::AttributeSensitive, _) => "CKR_ATTRIBUTE_SENSITIVE".to_owned(),
        TokenError::Pkcs11(RvError::ActionProhibited, _) => "CKR_ACTION_PROHIBITED".to_owned(),
        other => other.to_string(),
    }
}

fn list(mut names: Vec<String>) -> String {
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn points() {
        let raw = [7; 32];
        let wrapped = [&[0x04, 0x20][..], &raw].concat();
        assert_eq!(ec_point(&raw), Some(raw));
        assert_eq!(ec_point(&wrapped), Some(raw));
        for bad in [
            &[][..],
            &raw[1..],
            &wrapped[1..],
            &[&[0x04, 0x21][..], &raw].concat(),
            &[&[0x03, 0x20][..], &raw].concat(),
        ] {
            assert_eq!(ec_point(bad), None, "{bad:02x?}");
        }
    }
}
