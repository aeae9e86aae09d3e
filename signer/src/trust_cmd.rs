//! Keys and trust roots: making them and showing them. What is shown is public.

pub mod cut_off;
pub mod edit;
pub mod transition;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::key::{Algorithm, PublicKey};
use mcpfs_trust::limits;
use mcpfs_trust::name::RegistryName;
use mcpfs_trust::root::{ReleaseRule, Role, TrustRoot};
use serde::Serialize;

use self::cut_off::CutOff;
use self::transition::Remark;
use crate::files::{self, FileError};
use crate::key::pkcs11::{self, Listed, Refusals};
use crate::key::{KeyError, KeyUri, Keyring, Pkcs11Uri, SigningKey};
use crate::site::SiteError;

/// The largest PEM file of a public key that is read.
const PEM_BYTES: u64 = 4096;

/// Why a key or trust root was not made or shown.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum TrustError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path}: not a usable trust root")]
    Root { path: PathBuf, source: Box<VerifyError> },
    #[error(
        "{0:?} is neither a key's URI nor a public key: give the base64 that `keys show` prints as public, the base64 \
             of a SubjectPublicKeyInfo, or a file NAME.pem; of Ed25519 (32 bytes) or P-256 (65 bytes, not compressed)"
    )]
    NotAKey(String),
    #[error("a demo key needs no making and no proof: everybody has it. Use a PKCS#11 URI here")]
    DemoKey,
    #[error(
        "AWS KMS makes, lists and guards its keys by its own means; to make one: \
             aws kms create-key --key-spec ECC_NIST_P256 --key-usage SIGN_VERIFY, then mcpfs-signer keys show"
    )]
    NotAToken,
    #[error("the demo key {key} may stand only in the trust root of a registry named demo/…, not of {registry}")]
    DemoRoot { key: String, registry: RegistryName },
    #[error(
        "{path} exists; hosts may trust it already. Choose another --out, or --force to replace it \
             (then raise --version, since hosts refuse a changed root of the same version)"
    )]
    Exists { path: PathBuf },
    #[error("the trust root would not be safe; nothing was written:{}", lines(problems))]
    Unsafe { problems: Vec<Remark> },
    #[error("{path} changed while this command worked; nothing was written, run it again")]
    Meanwhile { path: PathBuf },
    #[error("{0:?} is no key of this trust root; `trust show` lists them")]
    NoSuchKey(String),
    #[error("there is no scope {scope}; there is {scopes}. --scope makes one")]
    NoScope { scope: String, scopes: String },
    #[error("scope {scope} has {groups} group(s): say which one, --in '{scope}:N' with N from 1 to {groups}")]
    WhichGroup { scope: String, groups: usize },
    #[error(
        "hosts with the new trust root would refuse what the site offers; nothing was written:{}\nSign them again \
             before (`countersign`, or `publish --resign` for the head), or add --cut-off if that is what you want, as \
             after a theft",
        lines(cut_off)
    )]
    CutOff { cut_off: Vec<CutOff> },
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error("a threshold of {threshold} {role} keys needs at least as many keys; there are {keys}")]
    Threshold { role: &'static str, threshold: u32, keys: usize },
}

/// Some of these in lines below a message, and how many there are besides.
fn lines(items: &[impl std::fmt::Display]) -> String {
    const SHOWN: usize = 20;
    let mut text: String = items.iter().take(SHOWN).map(|item| format!("\n  {item}")).collect();
    if items.len() > SHOWN {
        text.push_str(&format!("\n  and {} more; --json has all of them", items.len() - SHOWN));
    }
    text
}

/// What people may know about a key.
#[derive(Debug, Clone, Serialize)]
pub struct KeyFacts {
    /// How it is named on command lines.
    pub uri: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub id: Digest,
    /// `ed25519` or `ecdsa-p256`.
    pub algorithm: &'static str,
    /// Base64 of its bytes, as trust.json has it.
    pub public: String,
    /// The same key as openssl and node read it.
    pub pem: String,
}

impl KeyFacts {
    /// The facts of an opened key.
    pub fn of(key: &dyn SigningKey) -> Self {
        Self {
            uri: key.uri().to_string(),
            id: key.public().id(),
            algorithm: key.public().algorithm().as_str(),
            public: STANDARD.encode(key.public().to_bytes()),
            pem: pem(key.public()),
        }
    }
}

/// A public key in PEM.
pub fn pem(key: &PublicKey) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(key.spki_der()))
}

/// A key in a token, which alone is made, listed and tried here.
fn in_token(uri: &KeyUri) -> Result<&Pkcs11Uri, TrustError> {
    match uri {
        KeyUri::Pkcs11(uri) => Ok(uri),
        KeyUri::AwsKms(_) => Err(TrustError::NotAToken),
        KeyUri::Demo(_) => Err(TrustError::DemoKey),
    }
}

/// Makes a key in its token.
///
/// # Errors
/// Everything that [`pkcs11::generate`] refuses.
pub fn generate(keyring: &mut Keyring, uri: &KeyUri, algorithm: Algorithm) -> Result<KeyFacts, TrustError> {
    let uri = in_token(uri)?;
    Ok(KeyFacts::of(&pkcs11::generate(keyring, uri, algorithm)?))
}

/// Opens a key, with every check, and shows its public half.
///
/// # Errors
/// As [`Keyring::open`].
pub fn show(keyring: &mut Keyring, uri: &KeyUri) -> Result<KeyFacts, TrustError> {
    Ok(KeyFacts::of(keyring.open(uri)?.as_ref()))
}

/// Lists the keys of a token.
///
/// # Errors
/// As [`Keyring::open`], but for what the keys themselves lack.
pub fn list(keyring: &mut Keyring, uri: &KeyUri) -> Result<Vec<Listed>, TrustError> {
    let uri = in_token(uri)?;
    Ok(pkcs11::list_keys(keyring, uri)?)
}

/// The listed keys in columns, for people.
pub fn table(keys: &[Listed]) -> String {
    if keys.is_empty() {
        return "no keys\n".to_owned();
    }
    let heading = ["label", "id", "algorithm", "extractable", "public key (SHA-256)"].map(str::to_owned);
    let mut rows = vec![heading];
    rows.extend(keys.iter().map(|key| {
        let extractable = match (key.private, key.extractable) {
            (false, _) => "no private key".to_owned(),
            (true, Some(false)) if key.fit => "never".to_owned(),
            (true, Some(false)) => "no, but not fit".to_owned(),
            (true, Some(true)) => "yes".to_owned(),
            (true, None) => "not told".to_owned(),
        };
        let public = key.public_id.map_or("none".to_owned(), |id| id.to_string());
        [key.label.clone(), key.id.clone(), key.algorithm.clone(), extractable, public]
    }));
    let mut text = String::new();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [0, 1, 2, 3].map(width);
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(&row[4]);
        text.push('\n');
    }
    text
}

/// Tries to get the private key out of its token.
///
/// # Errors
/// If the token lets it.
pub fn prove(keyring: &mut Keyring, uri: &KeyUri) -> Result<Refusals, TrustError> {
    let uri = in_token(uri)?;
    Ok(pkcs11::prove(keyring, uri)?)
}

/// What a new trust root says.
#[derive(Debug)]
pub struct NewRoot {
    /// The registry.
    pub registry: RegistryName,
    /// 1 for the first; more for each change.
    pub version: u64,
    /// 1, until a head key was stolen.
    pub epoch: u64,
    /// The lowest head that hosts believe.
    pub minimum_head: u64,
    /// Head keys: URIs, or public keys as base64 or PEM files.
    pub head: Vec<String>,
    /// How many head keys must sign.
    pub head_threshold: NonZeroU32,
    /// Release keys, for every name.
    pub release: Vec<String>,
    /// How many release keys must sign.
    pub release_threshold: NonZeroU32,
}

/// Writes a trust root; never over another one without `force`.
///
/// # Errors
/// If a key cannot be read, the root would be unsafe, or the file exists.
pub fn init(keyring: &mut Keyring, new: NewRoot, out: &Path, force: bool) -> Result<TrustRoot, TrustError> {
    if !force && out.symlink_metadata().is_ok() {
        return Err(TrustError::Exists { path: out.to_owned() });
    }
    let unsafe_root = |source| TrustError::Root { path: out.to_owned(), source: Box::new(source) };
    let mut keys = Vec::new();
    let mut role = |what, names: &[String], threshold: NonZeroU32| {
        if (threshold.get() as usize) > names.len() {
            return Err(TrustError::Threshold { role: what, threshold: threshold.get(), keys: names.len() });
        }
        let mut ids = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let public = public(keyring, name, &new.registry)?;
            ids.push(public.id());
            // A key of both roles is told apart from a key given twice by TrustRoot's own check.
            if keys.iter().all(|(known, _)| *known != public) {
                keys.push((public, format!("{what} {}", index + 1)));
            }
        }
        Ok(Role { keys: ids, threshold })
    };
    let head = role("head", &new.head, new.head_threshold)?;
    let release = role("release", &new.release, new.release_threshold)?;
    let everything = "*".parse().map_err(|problem| unsafe_root(VerifyError::malformed("trust root", problem)))?;
    let rules = vec![ReleaseRule { scope: everything, require: vec![release] }];
    let numbers = (new.version, new.epoch, new.minimum_head);
    let root = TrustRoot::new(new.registry, numbers, keys, head, rules).map_err(unsafe_root)?;
    // What hosts will read is these bytes, not the value they were made from.
    let bytes = root.encode();
    let root = TrustRoot::parse(&bytes).map_err(unsafe_root)?;
    files::write_durably(out, &bytes, force)?;
    Ok(root)
}

/// A key by URI, or by its public half (of a colleague's token elsewhere).
fn public(keyring: &mut Keyring, name: &str, registry: &RegistryName) -> Result<PublicKey, TrustError> {
    if ["pkcs11:", "awskms:", "demo:"].iter().any(|scheme| name.starts_with(scheme)) {
        let key = keyring.open(&name.parse()?)?;
        if key.check_registry(registry).is_err() {
            return Err(TrustError::DemoRoot { key: key.uri().to_string(), registry: registry.clone() });
        }
        return Ok(*key.public());
    }
    let text = if name.ends_with(".pem") {
        let bytes = files::read_bounded(Path::new(name), PEM_BYTES)?;
        unarmoured(&String::from_utf8_lossy(&bytes))
    } else {
        Some(name.to_owned())
    };
    let bytes = text.and_then(|text| STANDARD.decode(text).ok());
    bytes.and_then(|bytes| public_key(&bytes)).ok_or_else(|| TrustError::NotAKey(name.chars().take(80).collect()))
}

/// A public key in any of the forms that people have: each has a length of its own.
fn public_key(bytes: &[u8]) -> Option<PublicKey> {
    let spki = PublicKey::from_spki_der(bytes);
    let raw = || Algorithm::ALL.into_iter().find_map(|algorithm| PublicKey::from_bytes(algorithm, bytes).ok());
    spki.ok().or_else(raw)
}

/// What stands between the lines of a PEM public key; of several none is meant.
fn unarmoured(pem: &str) -> Option<String> {
    const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
    let (_, rest) = pem.split_once(BEGIN)?;
    let (body, after) = rest.split_once("-----END PUBLIC KEY-----")?;
    (!after.contains(BEGIN)).then(|| body.split_ascii_whitespace().collect())
}

/// Reads and checks a trust root. The signer takes any readable file: hosts check its owner.
///
/// # Errors
/// If it cannot be read or is unsafe.
pub fn read(path: &Path) -> Result<TrustRoot, TrustError> {
    let bytes = files::read_bounded(path, limits::TRUST_ROOT_BYTES)?;
    TrustRoot::parse(&bytes).map_err(|source| TrustError::Root { path: path.to_owned(), source: Box::new(source) })
}

/// A trust root for people.
pub fn describe(root: &TrustRoot) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let role = |role: &Role| {
        let ids: Vec<_> = role.keys.iter().map(Digest::short).collect();
        format!("{} of {}", role.threshold, ids.join(", "))
    };
    let _ = writeln!(out, "registry      {}", root.registry);
    let _ = writeln!(out, "version       {}  (epoch {}, minimum head {})", root.version, root.epoch, root.minimum_head);
    let _ = writeln!(out, "heads         {}", role(&root.head));
    for rule in &root.release {
        let groups: Vec<_> = rule.require.iter().map(role).collect();
        let _ = writeln!(out, "releases      {:<20} {}", rule.scope.to_string(), groups.join("  and  "));
    }
    for (id, key, comment) in root.keys() {
        let comment = mcpfs_trust::error::bounded(comment);
        let _ = writeln!(out, "key           {id}  {:<10}  {comment}", key.algorithm());
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::pin::Pins;

    fn new_root(registry: &str, head: &[&str], release: &[&str]) -> NewRoot {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        NewRoot {
            registry: registry.parse().unwrap(),
            version: 1,
            epoch: 1,
            minimum_head: 1,
            head: list(head),
            head_threshold: NonZeroU32::MIN,
            release: list(release),
            release_threshold: NonZeroU32::MIN,
        }
    }

    #[test]
    fn a_root_is_checked_and_never_replaced_silently() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("trust.json");
        let mut keyring = Keyring::new(Pins::default());
        let root = init(&mut keyring, new_root("demo/x", &["demo:head"], &["demo:release"]), &out, false).unwrap();
        assert_eq!(read(&out).unwrap(), root);
        assert!(describe(&root).contains("demo/x"));
        let again = init(&mut keyring, new_root("demo/x", &["demo:head"], &["demo:release"]), &out, false);
        assert!(matches!(again, Err(TrustError::Exists { .. })));
        init(&mut keyring, new_root("demo/y", &["demo:head"], &["demo:release"]), &out, true).unwrap();
        assert_eq!(read(&out).unwrap().registry.as_str(), "demo/y");
    }

    #[test]
    fn a_file_of_two_keys_names_neither() {
        let mut keyring = Keyring::new(Pins::default());
        let registry = "demo/x".parse().unwrap();
        let one = keyring.open(&"demo:one".parse().unwrap()).unwrap().public().to_owned();
        assert!(unarmoured(&pem(&one)).is_some());
        assert_eq!(unarmoured(&pem(&one).repeat(2)), None);
        let file = tempfile::Builder::new().suffix(".pem").tempfile().unwrap();
        std::fs::write(file.path(), pem(&one)).unwrap();
        assert_eq!(public(&mut keyring, file.path().to_str().unwrap(), &registry).unwrap(), one);
    }

    #[test]
    fn unsafe_roots_are_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("trust.json");
        let mut keyring = Keyring::new(Pins::default());
        let mut attempt = |new| init(&mut keyring, new, &out, false);
        let both = attempt(new_root("demo/x", &["demo:one"], &["demo:one"]));
        assert!(matches!(both, Err(TrustError::Root { .. })));
        let real = attempt(new_root("mcp.example.com/prod", &["demo:head"], &["demo:release"]));
        assert!(matches!(real, Err(TrustError::DemoRoot { .. })));
        let weak = STANDARD.encode([0; 32]);
        assert!(matches!(attempt(new_root("demo/x", &["demo:head"], &[&weak])), Err(TrustError::NotAKey(_))));
        let mut high = new_root("demo/x", &["demo:head"], &["demo:release"]);
        high.release_threshold = NonZeroU32::new(2).unwrap();
        assert!(matches!(attempt(high), Err(TrustError::Threshold { .. })));
        assert!(!out.exists());
    }
}
