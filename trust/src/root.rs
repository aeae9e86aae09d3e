//! The trust root: whom this host believes, from its own configuration only
//! (docs/format.md section 5).

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::VerifyError;
use crate::json::{self, as_text};
use crate::key::{Algorithm, PublicKey};
use crate::limits;
use crate::name::{RegistryName, ServerName};

/// `schema` of a trust root.
pub const TRUST_SCHEMA: &str = "mcpfs.trust/v1";

/// The content of `/etc/mcpfs/trust.json`, checked as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustRoot {
    /// The registry that this host uses; statements for another one are refused.
    pub registry: RegistryName,
    /// Rises with every change of the file.
    pub version: u64,
    /// Rises when a head key was stolen: older floors are forgotten.
    pub epoch: u64,
    /// No head below this version is ever accepted.
    pub minimum_head: u64,
    /// Who signs heads.
    pub head: Role,
    /// Who signs releases, by scope.
    pub release: Vec<ReleaseRule>,
    comments: Vec<String>,
    order: Vec<Digest>,
    keys: HashMap<Digest, PublicKey>,
}

/// Keys of which `threshold` different ones must sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Key ids.
    pub keys: Vec<Digest>,
    /// How many of them; never zero.
    pub threshold: NonZeroU32,
}

/// Who may sign the names of one scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseRule {
    /// The names.
    pub scope: Scope,
    /// All of these must be met.
    pub require: Vec<Role>,
}

/// An exact server name, or a prefix and one final `*`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Scope(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    schema: String,
    registry: RegistryName,
    version: u64,
    epoch: u64,
    minimum_head: u64,
    keys: Vec<WireKey>,
    head: WireRole,
    release: Vec<WireRule>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRole {
    keys: Vec<Digest>,
    threshold: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRule {
    scope: Scope,
    require: Vec<WireRole>,
}

impl WireRole {
    /// Zero is refused here, so that the message can say whose threshold it is.
    fn read(self, what: &str) -> Result<Role, VerifyError> {
        let threshold = NonZeroU32::new(self.threshold)
            .ok_or_else(|| VerifyError::malformed("trust root", bad_threshold(what, 0, self.keys.len())))?;
        Ok(Role { keys: self.keys, threshold })
    }

    fn write(role: &Role) -> Self {
        Self { keys: role.keys.clone(), threshold: role.threshold.get() }
    }
}

impl WireRule {
    fn read(self) -> Result<ReleaseRule, VerifyError> {
        let require = self.require.into_iter().map(|role| role.read(self.scope.as_str())).collect::<Result<_, _>>()?;
        Ok(ReleaseRule { scope: self.scope, require })
    }

    fn write(rule: &ReleaseRule) -> Self {
        Self { scope: rule.scope.clone(), require: rule.require.iter().map(WireRole::write).collect() }
    }
}

fn bad_threshold(what: &str, threshold: u32, keys: usize) -> String {
    format!("{what}: threshold is {threshold}; it must be from 1 to {keys}, the number of its keys")
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireKey {
    id: Digest,
    algorithm: Algorithm,
    public: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    comment: String,
}

impl TrustRoot {
    /// Puts a root together from keys (with a comment each) and roles.
    ///
    /// # Errors
    /// `TrustRootUnsafe` for anything that docs/format.md section 5 forbids.
    pub fn new(
        registry: RegistryName,
        (version, epoch, minimum_head): (u64, u64, u64),
        keys: Vec<(PublicKey, String)>,
        head: Role,
        release: Vec<ReleaseRule>,
    ) -> Result<Self, VerifyError> {
        let order: Vec<Digest> = keys.iter().map(|(key, _)| key.id()).collect();
        let comments = keys.iter().map(|(_, comment)| comment.clone()).collect();
        let count = keys.len();
        let keys: HashMap<_, _> = order.iter().copied().zip(keys.into_iter().map(|(key, _)| key)).collect();
        let root = Self { registry, version, epoch, minimum_head, head, release, comments, order, keys };
        if root.keys.len() != count {
            return Err(unsafe_root("one key stands there twice"));
        }
        root.check()?;
        Ok(root)
    }

    /// Parses and checks `trust.json`.
    ///
    /// # Errors
    /// `SizeExceeded`, `Malformed` or `TrustRootUnsafe`.
    pub fn parse(bytes: &[u8]) -> Result<Self, VerifyError> {
        let wire: Wire = json::parse(bytes, limits::TRUST_ROOT_BYTES, "trust root")?;
        if wire.schema != TRUST_SCHEMA {
            return Err(VerifyError::malformed("trust root", format!("schema is not {TRUST_SCHEMA}")));
        }
        let mut keys = Vec::new();
        for entry in wire.keys {
            let bytes = STANDARD
                .decode(&entry.public)
                .map_err(|_| unsafe_root(format!("key {}: public is not base64", entry.id.short())))?;
            let key = PublicKey::from_bytes(entry.algorithm, &bytes)?;
            if key.id() != entry.id {
                return Err(unsafe_root(format!("key {}: its id should be {}", entry.id, key.id())));
            }
            keys.push((key, entry.comment));
        }
        let head = wire.head.read("head")?;
        let release = wire.release.into_iter().map(WireRule::read).collect::<Result<_, _>>()?;
        Self::new(wire.registry, (wire.version, wire.epoch, wire.minimum_head), keys, head, release)
    }

    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        let keys = self.keys().map(|(id, key, comment)| WireKey {
            id: *id,
            algorithm: key.algorithm(),
            public: STANDARD.encode(key.to_bytes()),
            comment: comment.to_owned(),
        });
        json::encode(&Wire {
            schema: TRUST_SCHEMA.to_owned(),
            registry: self.registry.clone(),
            version: self.version,
            epoch: self.epoch,
            minimum_head: self.minimum_head,
            keys: keys.collect(),
            head: WireRole::write(&self.head),
            release: self.release.iter().map(WireRule::write).collect(),
        })
    }

    /// Its keys with their ids and comments, in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = (&Digest, &PublicKey, &str)> {
        let known = self.order.iter().zip(&self.comments);
        known.filter_map(|(id, comment)| Some((id, self.keys.get(id)?, comment.as_str())))
    }

    /// The key with this id.
    pub fn key(&self, id: &Digest) -> Option<&PublicKey> {
        self.keys.get(id)
    }

    /// The one rule that decides about `name`: an exact scope, else the longest prefix.
    ///
    /// # Errors
    /// `ScopeDenied` if no scope covers the name.
    pub fn rule_for(&self, name: &ServerName) -> Result<&ReleaseRule, VerifyError> {
        let matching = self.release.iter().filter(|rule| rule.scope.covers(name));
        matching.max_by_key(|rule| rule.scope.rank()).ok_or_else(|| VerifyError::ScopeDenied { name: name.to_string() })
    }

    fn check(&self) -> Result<(), VerifyError> {
        if self.version == 0 || self.epoch == 0 {
            return Err(unsafe_root("version and epoch begin at 1"));
        }
        if self.keys.is_empty() || self.keys.len() > limits::TRUST_ROOT_KEYS {
            return Err(unsafe_root(format!("needs 1 to {} keys", limits::TRUST_ROOT_KEYS)));
        }
        let head: HashSet<_> = self.head.keys.iter().collect();
        let release: HashSet<_> =
            self.release.iter().flat_map(|rule| &rule.require).flat_map(|role| &role.keys).collect();
        if let Some(both) = head.intersection(&release).next() {
            return Err(unsafe_root(format!("key {both} is both a head and a release key")));
        }
        self.check_role("head", &self.head)?;
        let mut scopes = HashSet::new();
        for rule in &self.release {
            if !scopes.insert(&rule.scope) {
                return Err(unsafe_root(format!("scope {} stands there twice", rule.scope)));
            }
            if rule.require.is_empty() {
                return Err(unsafe_root(format!("scope {} requires nobody", rule.scope)));
            }
            rule.require.iter().try_for_each(|role| self.check_role(rule.scope.as_str(), role))?;
        }
        Ok(())
    }

    fn check_role(&self, what: &str, role: &Role) -> Result<(), VerifyError> {
        let unique: HashSet<_> = role.keys.iter().collect();
        if unique.len() != role.keys.len() {
            return Err(unsafe_root(format!("{what}: one key stands there twice")));
        }
        if role.threshold.get() as usize > unique.len() {
            return Err(unsafe_root(bad_threshold(what, role.threshold.get(), unique.len())));
        }
        match unique.iter().find(|id| !self.keys.contains_key(**id)) {
            Some(id) => Err(unsafe_root(format!("{what}: key {id} is not among the keys"))),
            None => Ok(()),
        }
    }
}

fn unsafe_root(detail: impl Into<String>) -> VerifyError {
    VerifyError::TrustRootUnsafe { detail: detail.into() }
}

impl Scope {
    /// The scope as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `name` lies in it.
    pub fn covers(&self, name: &ServerName) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => name.as_str().starts_with(prefix),
            None => name.as_str() == self.0,
        }
    }

    /// Exact names before prefixes, longer prefixes before shorter ones.
    fn rank(&self) -> (bool, usize) {
        (!self.0.ends_with('*'), self.0.len())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let prefix = text.strip_suffix('*').unwrap_or(text);
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
        let exact_needs_a_name = text.ends_with('*') || text.parse::<ServerName>().is_ok();
        match prefix.len() <= 64 && prefix.bytes().all(allowed) && exact_needs_a_name {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "not a scope (a server name, or a prefix and one final *): {:?}",
                crate::error::bounded(text)
            )),
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(Scope, r"^[a-z0-9._-]{0,64}\*?$");
