//! The proof that a private key cannot leave its token: both ways are tried.

use cryptoki::error::{Error as TokenError, RvError};
use cryptoki::object::{Attribute, AttributeType};

use super::super::{KeyError, Keyring, Pkcs11Uri};
use super::session::Token;

/// What a token answered when it was asked to give a key away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusals {
    /// Reading CKA_VALUE.
    pub read: String,
    /// Setting CKA_EXTRACTABLE.
    pub unlock: String,
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

/// A token's answer in the words of the PKCS#11 standard.
fn reply(error: &TokenError) -> String {
    match error {
        TokenError::Pkcs11(RvError::AttributeReadOnly, _) => "CKR_ATTRIBUTE_READ_ONLY".to_owned(),
        TokenError::Pkcs11(RvError::AttributeSensitive, _) => "CKR_ATTRIBUTE_SENSITIVE".to_owned(),
        TokenError::Pkcs11(RvError::ActionProhibited, _) => "CKR_ACTION_PROHIBITED".to_owned(),
        other => other.to_string(),
    }
}
