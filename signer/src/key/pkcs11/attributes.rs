//! Which objects of a token a URI names, and what the token says about them.

use cryptoki::error::Error as TokenError;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use mcpfs_trust::key::{Algorithm, PublicKey};

use super::super::KeyError;
use super::session::{Token, list};

/// CKA_EC_PARAMS of P-256: the OID 1.2.840.10045.3.1.7.
pub(super) const P256_PARAMS: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";

impl Token {
    /// The one private and the one public key that the URI names.
    pub(super) fn key_pair(&self, session: &Session) -> Result<(ObjectHandle, ObjectHandle), KeyError> {
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
    pub(super) fn template(&self, class: ObjectClass) -> Vec<Attribute> {
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
    /// Gives the key's algorithm.
    pub(super) fn check_attributes(&self, session: &Session, private: ObjectHandle) -> Result<Algorithm, KeyError> {
        let reading = |error| self.error("reading attributes", error);
        let algorithm = algorithm(session, private).map_err(reading)?;
        let algorithm = algorithm.ok_or_else(|| self.unfit("it is neither an Ed25519 nor a P-256 key"))?;
        let required = [
            (AttributeType::Sensitive, Attribute::Sensitive(true), "it is not sensitive: its value can be read"),
            (AttributeType::AlwaysSensitive, Attribute::AlwaysSensitive(true), "it has not always been sensitive"),
            (AttributeType::Extractable, Attribute::Extractable(false), "it is extractable"),
            (AttributeType::NeverExtractable, Attribute::NeverExtractable(true), "it was extractable once"),
            (AttributeType::Local, Attribute::Local(true), "it was not made inside the token"),
        ];
        for (kind, wanted, problem) in required {
            let found = session.get_attributes(private, &[kind]).map_err(reading)?;
            if found.as_slice() != [wanted] {
                return Err(self.unfit(problem));
            }
        }
        Ok(algorithm)
    }

    pub(super) fn public_key(
        &self,
        session: &Session,
        public: ObjectHandle,
        algorithm: Algorithm,
    ) -> Result<PublicKey, KeyError> {
        let point = session
            .get_attributes(public, &[AttributeType::EcPoint])
            .map_err(|error| self.error("reading the public key", error))?;
        let Some(Attribute::EcPoint(point)) = point.first() else {
            return Err(self.unfit("its public key has no CKA_EC_POINT"));
        };
        let problem = match algorithm {
            Algorithm::Ed25519 => "its CKA_EC_POINT is not an Ed25519 point",
            Algorithm::EcdsaP256 => "its CKA_EC_POINT is not an uncompressed point of P-256",
        };
        let bytes = ec_point(algorithm, point).ok_or_else(|| self.unfit(problem))?;
        PublicKey::from_bytes(algorithm, bytes).map_err(|source| KeyError::BadPublicKey {
            token: self.name.clone(),
            wanted: self.uri.key_name(),
            source: Box::new(source),
        })
    }

    pub(super) fn find_objects(
        &self,
        session: &Session,
        template: &[Attribute],
    ) -> Result<Vec<ObjectHandle>, KeyError> {
        session.find_objects(template).map_err(|error| self.error("looking for keys", error))
    }

    pub(super) fn unfit(&self, problem: &str) -> KeyError {
        KeyError::Unfit { token: self.name.clone(), wanted: self.uri.key_name(), problem: problem.to_owned() }
    }
}

/// What a key's type and curve are to hosts; nothing for those that hosts do not know.
pub(super) fn algorithm(session: &Session, key: ObjectHandle) -> Result<Option<Algorithm>, TokenError> {
    let one = |kind| session.get_attributes(key, &[kind]).map(|mut found| found.pop());
    Ok(match one(AttributeType::KeyType)? {
        // Ed448 has this type too, and points of another length.
        Some(Attribute::KeyType(KeyType::EC_EDWARDS)) => Some(Algorithm::Ed25519),
        Some(Attribute::KeyType(KeyType::EC)) => match one(AttributeType::EcParams)? {
            Some(Attribute::EcParams(params)) if params == P256_PARAMS => Some(Algorithm::EcdsaP256),
            _ => None,
        },
        _ => None,
    })
}

/// The bytes of a point, raw or in an OCTET STRING; nothing else is guessed at.
fn ec_point(algorithm: Algorithm, bytes: &[u8]) -> Option<&[u8]> {
    let length = match algorithm {
        Algorithm::Ed25519 => 32,
        Algorithm::EcdsaP256 => 65,
    };
    match bytes {
        [0x04, told, point @ ..] if point.len() == length => (usize::from(*told) == length).then_some(point),
        point => (point.len() == length).then_some(point),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn points() {
        for (algorithm, length) in [(Algorithm::Ed25519, 32_u8), (Algorithm::EcdsaP256, 65)] {
            let raw = [&[4][..], &vec![7; usize::from(length) - 1]].concat();
            let wrapped = [&[0x04, length][..], &raw].concat();
            assert_eq!(ec_point(algorithm, &raw), Some(raw.as_slice()));
            assert_eq!(ec_point(algorithm, &wrapped), Some(raw.as_slice()));
            for bad in [
                &[][..],
                &raw[1..],
                &wrapped[1..wrapped.len() - 2],
                &[&[0x04, length + 1][..], &raw].concat(),
                &[&[0x03, length][..], &raw].concat(),
            ] {
                assert_eq!(ec_point(algorithm, bad), None, "{bad:02x?}");
            }
        }
    }
}
