//! What keys a token holds, also those that are not fit to sign: a list that left them out
//! would hide why a label is taken.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::bounded;
use serde::Serialize;

use super::super::uri::hex;
use super::attributes::algorithm;
use super::session::Token;
use super::{KeyError, Keyring, Pkcs11Uri};

/// One key of a token: a pair, or the half that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its CKA_LABEL; what `object=` names.
    pub label: String,
    /// Its CKA_ID in hexadecimal digits; what `id=` names, there as `%XX`.
    pub id: String,
    /// `ed25519`, `ecdsa-p256`, or the standard's name for another type, such as `CKK_RSA`.
    pub algorithm: String,
    /// SHA-256 of its SubjectPublicKeyInfo, its id in trust.json; absent for keys of other algorithms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_id: Option<Digest>,
    /// Whether its private half is there.
    pub private: bool,
    /// Whether the token says that it can be taken out; absent if it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extractable: Option<bool>,
    /// Whether it may sign releases and heads: all that `keys show` asks of it.
    pub fit: bool,
}

/// All keys of the token that `uri` names, by label; only some if it names an object or id.
///
/// # Errors
/// If the token or its PIN is missing or refused.
pub fn list(keyring: &mut Keyring, uri: &Pkcs11Uri) -> Result<Vec<Listed>, KeyError> {
    let token = Token::find(keyring, uri)?;
    let session = token.session(false)?;
    let objects = |class| token.find_objects(&session, &token.template(class));
    let (private, public) = (objects(ObjectClass::PRIVATE_KEY)?, objects(ObjectClass::PUBLIC_KEY)?);
    let mut pairs: Vec<(Option<ObjectHandle>, Option<ObjectHandle>)> =
        private.into_iter().map(|private| (Some(private), None)).collect();
    for public in public {
        // A pair has one label and one id.
        let name = named(&session, public);
        let same = |key: &ObjectHandle| named(&session, *key) == name;
        match pairs.iter_mut().find(|(key, other)| other.is_none() && key.as_ref().is_some_and(same)) {
            Some(pair) => pair.1 = Some(public),
            None => pairs.push((None, Some(public))),
        }
    }
    let mut listed: Vec<Listed> = pairs.into_iter().filter_map(|pair| token.listed(&session, pair)).collect();
    listed.sort_by(|a, b| (&a.label, &a.id).cmp(&(&b.label, &b.id)));
    Ok(listed)
}

/// A key's label and id.
fn named(session: &Session, key: ObjectHandle) -> (Vec<u8>, Vec<u8>) {
    let (mut label, mut id) = (Vec::new(), Vec::new());
    for attribute in session.get_attributes(key, &[AttributeType::Label, AttributeType::Id]).unwrap_or_default() {
        match attribute {
            Attribute::Label(bytes) => label = bytes,
            Attribute::Id(bytes) => id = bytes,
            _ => {}
        }
    }
    (label, id)
}

impl Token {
    fn listed(&self, session: &Session, pair: (Option<ObjectHandle>, Option<ObjectHandle>)) -> Option<Listed> {
        let (private, public) = pair;
        let (label, id) = named(session, private.or(public)?);
        let one = |key, kind| session.get_attributes(key, &[kind]).ok()?.pop();
        let kind = match one(private.or(public)?, AttributeType::KeyType) {
            Some(Attribute::KeyType(kind)) => Some(kind),
            _ => None,
        };
        let extractable = match private.and_then(|key| one(key, AttributeType::Extractable)) {
            Some(Attribute::Extractable(value)) => Some(value),
            _ => None,
        };
        let known = algorithm(session, private.or(public)?).ok().flatten();
        let public_key = public.zip(known).and_then(|(key, known)| self.public_key(session, key, known).ok());
        let public_id = public_key.map(|key| key.id());
        let algorithm = match (public_key, kind) {
            (Some(key), _) => key.algorithm().to_string(),
            (None, Some(kind)) => kind.to_string(),
            (None, None) => "not told".to_owned(),
        };
        Some(Listed {
            label: bounded(&String::from_utf8_lossy(&label)),
            id: hex(&id),
            algorithm,
            fit: public_id.is_some() && private.is_some_and(|key| self.check_attributes(session, key).is_ok()),
            public_id,
            private: private.is_some(),
            extractable,
        })
    }
}
