//! Finding a token, logging in, and the words for what goes wrong.

use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as TokenError, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;

use super::super::{KeyError, Keyring, Pkcs11Uri};

/// How long a token that answers with a passing fault is asked again.
const BUSY: Duration = Duration::from_secs(2);
/// How long a token that is not there is looked for again: one that is really missing is the usual case.
const HIDDEN: Duration = Duration::from_millis(600);
/// About how long to wait before that.
const PAUSE: Duration = Duration::from_millis(50);

/// A token that the PIN has opened before, so that it can be opened again.
pub(super) struct Token {
    pub(super) uri: Pkcs11Uri,
    pub(super) name: String,
    pub(super) module: Pkcs11,
    pub(super) slot: Slot,
    pin: Option<AuthPin>,
}

/// A module's error in the standard's own terms; the library's texts paraphrase them.
#[derive(Debug)]
pub struct Fault(pub(super) TokenError);

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

impl Token {
    /// The token and a login. What is read before the login is read again for a moment if it
    /// fails: another program that uses the token may be writing it just now.
    pub(super) fn find(keyring: &mut Keyring, uri: &Pkcs11Uri) -> Result<Self, KeyError> {
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

    pub(super) fn session(&self, write: bool) -> Result<Session, KeyError> {
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

    pub(super) fn error(&self, doing: &'static str, source: TokenError) -> KeyError {
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

/// Errors after which every handle is worthless.
pub(super) fn lost_session(error: &TokenError) -> bool {
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

pub(super) fn list(mut names: Vec<String>) -> String {
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
