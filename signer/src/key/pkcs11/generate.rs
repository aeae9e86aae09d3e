//! Making a key pair inside a token: sensitive, and never to be taken out.

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use mcpfs_trust::key::Algorithm;

use super::super::{KeyError, Keyring, Pkcs11Uri};
use super::TokenKey;
use super::attributes::P256_PARAMS;
use super::session::Token;

/// CKA_EC_PARAMS of Ed25519: the OID 1.3.101.112, and the PrintableString "edwards25519".
const ED25519_PARAMS: [&[u8]; 2] = [b"\x06\x03\x2b\x65\x70", b"\x13\x0cedwards25519"];

/// What PKCS#11 calls an algorithm's keys.
struct Kind {
    key_type: KeyType,
    mechanism: MechanismType,
    generate: Mechanism<'static>,
    /// The spellings of its curve, in the order in which they are tried.
    params: &'static [&'static [u8]],
    doing: &'static str,
}

fn kind(algorithm: Algorithm) -> Kind {
    match algorithm {
        Algorithm::Ed25519 => Kind {
            key_type: KeyType::EC_EDWARDS,
            mechanism: MechanismType::ECC_EDWARDS_KEY_PAIR_GEN,
            generate: Mechanism::EccEdwardsKeyPairGen,
            params: &ED25519_PARAMS,
            doing: "making an Ed25519 key pair",
        },
        Algorithm::EcdsaP256 => Kind {
            key_type: KeyType::EC,
            mechanism: MechanismType::ECC_KEY_PAIR_GEN,
            generate: Mechanism::EccKeyPairGen,
            params: &[P256_PARAMS],
            doing: "making a P-256 key pair",
        },
    }
}

/// Makes a key pair in the token and opens it, checked.
///
/// # Errors
/// If the label is taken, the token refuses or has no such keys, or it does not keep the key as it must.
pub fn generate(keyring: &mut Keyring, uri: &Pkcs11Uri, algorithm: Algorithm) -> Result<TokenKey, KeyError> {
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
    let kind = kind(algorithm);
    token.offers(algorithm, kind.mechanism)?;
    let id = uri.id.clone().unwrap_or_else(|| rand::random::<[u8; 8]>().to_vec());
    let mut last = None;
    for params in kind.params {
        let common = [
            Attribute::Token(true),
            Attribute::Label(label.clone().into_bytes()),
            Attribute::Id(id.clone()),
            Attribute::KeyType(kind.key_type),
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
        match session.generate_key_pair(&kind.generate, &public, &private) {
            Ok(_) => {
                drop(session);
                return TokenKey::open(keyring, uri);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(error) => token.error(kind.doing, error),
        None => KeyError::KeyExists { token: token.name, wanted: label.clone() },
    })
}

impl Token {
    /// Whether the token makes such keys; if not, which ones it makes.
    fn offers(&self, algorithm: Algorithm, mechanism: MechanismType) -> Result<(), KeyError> {
        let offered = self.module.get_mechanism_list(self.slot);
        let offered = offered.map_err(|error| self.error("asking for its mechanisms", error))?;
        if offered.contains(&mechanism) {
            return Ok(());
        }
        let mut others = Algorithm::ALL.into_iter().filter(|other| offered.contains(&kind(*other).mechanism));
        let instead = match others.next() {
            Some(other) => format!("It makes {other} keys, which hosts verify as well: add --algorithm {other}"),
            None => "It makes no keys that hosts verify (ed25519, ecdsa-p256); use another token".to_owned(),
        };
        Err(KeyError::AlgorithmMissing { token: self.name.clone(), algorithm, instead })
    }
}
