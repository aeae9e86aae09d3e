//! Editing a trust root: one set of changes, one version.
//!
//! `trust.json` could be edited by hand, and hosts would refuse what breaks docs/format.md section 5.
//! They would refuse it everywhere at once, though, and a root that is only unwise (a version that was not
//! raised, one person in two groups, releases that stop verifying) they would take. So the whole edit is
//! made in memory and put to the same parser as a host's; then the step from the old root to the new one is
//! judged ([`super::transition`]). The file is replaced whole, or not at all.
//!
//! Rejected: one command for each change, each with a version of its own. A rotation is several changes that
//! belong together, and hosts must never see half of them.

use std::num::NonZeroU32;
use std::path::Path;
use std::str::FromStr;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::key::PublicKey;
use mcpfs_trust::limits;
use mcpfs_trust::root::{ReleaseRule, Role, Scope, TrustRoot};

use super::transition::{self, Remark, Transition};
use super::{TrustError, public};
use crate::files;
use crate::key::Keyring;

/// The fewest digits that name a key of the root.
const ID_DIGITS: usize = 8;

/// What to change. A key is named by its URI, its public half, or an id of the root (8 digits are enough).
#[derive(Debug, Default)]
pub struct Edit {
    /// Scopes whose groups are replaced by these.
    pub scopes: Vec<ScopeSpec>,
    /// Scopes that go.
    pub remove_scopes: Vec<Scope>,
    /// Keys that sign heads from now on.
    pub add_head: Vec<String>,
    /// Keys that sign releases from now on.
    pub add_release: Vec<String>,
    /// Keys that sign nothing any more.
    pub remove: Vec<String>,
    /// How many head keys must sign.
    pub head_threshold: Option<NonZeroU32>,
    /// How many release keys must sign.
    pub release_threshold: Option<NonZeroU32>,
    /// Where the two above count.
    pub within: Option<GroupName>,
    /// What stands beside keys that are new.
    pub comment: Option<String>,
    /// A head key was stolen.
    pub raise_epoch: bool,
    /// Hosts believe no head below this one.
    pub minimum_head: Option<u64>,
    /// The new version, if it is to rise by more than one.
    pub version: Option<u64>,
}

/// `SCOPE`, or `SCOPE:N` for the scope's N-th group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupName {
    scope: Scope,
    number: Option<usize>,
}

/// `SCOPE = N of KEY… and N of KEY…`: who signs a scope's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeSpec {
    scope: Scope,
    groups: Vec<(NonZeroU32, Vec<String>)>,
}

/// An edit that may be written.
#[derive(Debug)]
pub struct Edited {
    /// The root as it was.
    pub before: TrustRoot,
    /// The root as it will be; the same if the edit changes nothing.
    pub after: TrustRoot,
    /// What changes, and what to know about it.
    pub transition: Transition,
    read: Vec<u8>,
}

impl FromStr for GroupName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scope, number) = match text.split_once(':') {
            Some((scope, number)) => {
                let number = number.parse().ok().filter(|number| *number > 0);
                (scope, Some(number.ok_or("behind the : stands the number of a group, from 1")?))
            }
            None => (text, None),
        };
        Ok(Self { scope: scope.parse()?, number })
    }
}

impl FromStr for ScopeSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write 'SCOPE = N of KEY…', with 'and N of KEY…' for each further group";
        let (scope, groups) = text.split_once('=').ok_or(FORM)?;
        let scope = scope.trim().parse()?;
        let words: Vec<&str> = groups.split_ascii_whitespace().collect();
        let group = |words: &[&str]| match words {
            [number, "of", keys @ ..] if !keys.is_empty() => {
                let threshold =
                    number.parse().map_err(|_| format!("{number:?} is no number of keys from 1; {FORM}"))?;
                Ok((threshold, keys.iter().map(|&key| key.to_owned()).collect()))
            }
            _ => Err(FORM.to_owned()),
        };
        let groups = words.split(|word| *word == "and").map(group).collect::<Result<_, _>>()?;
        Ok(Self { scope, groups })
    }
}

/// Makes the edit of the root at `path`, and judges it; nothing is written yet.
///
/// # Errors
/// `Unsafe` with everything that stands against it; or if a key cannot be read or is not there.
pub fn edit(keyring: &mut Keyring, path: &Path, edit: &Edit) -> Result<Edited, TrustError> {
    let read = files::read_bounded(path, limits::TRUST_ROOT_BYTES)?;
    let unusable = |source| TrustError::Root { path: path.to_owned(), source: Box::new(source) };
    let before = TrustRoot::parse(&read).map_err(unusable)?;
    let mut draft = Draft::of(&before);
    draft.apply(keyring, &before, edit)?;
    let mut hazards = draft.hazards();
    let scopes: Vec<&Scope> = edit.scopes.iter().map(|spec| &spec.scope).collect();
    if let Some(twice) = scopes.iter().enumerate().find(|(at, scope)| scopes[..*at].contains(scope)) {
        let detail = format!("scope {} is given twice: which of them is meant?", twice.1);
        hazards.push(Remark::new("scope-twice", detail));
    }
    if !hazards.is_empty() {
        return Err(TrustError::Unsafe { problems: hazards });
    }
    let after = draft.finish(&before, edit).map_err(unusable)?;
    // What hosts will read is these bytes, not the value they were made from.
    let after = TrustRoot::parse(&after.encode()).map_err(unusable)?;
    let transition = transition::between(&before, &after);
    match transition.problems.is_empty() {
        true => Ok(Edited { before, after, transition, read }),
        false => Err(TrustError::Unsafe { problems: transition.problems }),
    }
}

impl Edited {
    /// Whether it changes anything.
    pub fn changes(&self) -> bool {
        self.before != self.after
    }

    /// Writes the new root to `out`, whole or not at all. If that is the file that was edited, it must be as it was.
    ///
    /// # Errors
    /// If it cannot be written, or somebody else changed it meanwhile.
    pub fn write(&self, path: &Path, out: &Path) -> Result<(), TrustError> {
        if out == path && files::read_bounded(path, limits::TRUST_ROOT_BYTES)? != self.read {
            return Err(TrustError::Meanwhile { path: path.to_owned() });
        }
        Ok(files::write_durably(out, &self.after.encode(), true)?)
    }
}

/// A root that need not be whole yet.
struct Draft {
    keys: Vec<(PublicKey, String)>,
    head: Role,
    release: Vec<ReleaseRule>,
}

impl Draft {
    fn of(root: &TrustRoot) -> Self {
        let keys = root.keys().map(|(_, key, comment)| (*key, comment.to_owned())).collect();
        Self { keys, head: root.head.clone(), release: root.release.clone() }
    }

    fn apply(&mut self, keyring: &mut Keyring, before: &TrustRoot, edit: &Edit) -> Result<(), TrustError> {
        let comment = edit.comment.as_deref();
        // First, so that a key that is removed and added moves to its new place.
        for name in &edit.remove {
            let gone = present(keyring, before, name)?;
            for role in self.roles() {
                role.keys.retain(|id| *id != gone);
            }
        }
        for scope in &edit.remove_scopes {
            let at = self.release.iter().position(|rule| rule.scope == *scope);
            self.release.remove(at.ok_or_else(|| self.no_scope(scope))?);
        }
        for spec in &edit.scopes {
            let mut require = Vec::new();
            for (threshold, names) in &spec.groups {
                let mut role = Role { keys: Vec::new(), threshold: *threshold };
                for name in names {
                    let id = self.key(keyring, before, name, comment, spec.scope.as_str())?;
                    role.add(id);
                }
                require.push(role);
            }
            match self.release.iter_mut().find(|rule| rule.scope == spec.scope) {
                Some(rule) => rule.require = require,
                None => self.release.push(ReleaseRule { scope: spec.scope.clone(), require }),
            }
        }
        for name in &edit.add_head {
            let id = self.key(keyring, before, name, comment, "head")?;
            self.head.add(id);
        }
        for name in &edit.add_release {
            let id = self.key(keyring, before, name, comment, "release")?;
            self.group(edit.within.as_ref())?.add(id);
        }
        if let Some(threshold) = edit.head_threshold {
            self.head.threshold = threshold;
        }
        if let Some(threshold) = edit.release_threshold {
            self.group(edit.within.as_ref())?.threshold = threshold;
        }
        // A key without a role says nothing, and hosts would carry it for ever.
        let used: Vec<Digest> = self.roles().flat_map(|role| role.keys.clone()).collect();
        self.keys.retain(|(key, _)| used.contains(&key.id()));
        Ok(())
    }

    fn roles(&mut self) -> impl Iterator<Item = &mut Role> {
        std::iter::once(&mut self.head).chain(self.release.iter_mut().flat_map(|rule| &mut rule.require))
    }

    /// The id of a key, which joins the root if it is not there yet.
    fn key(
        &mut self,
        keyring: &mut Keyring,
        before: &TrustRoot,
        name: &str,
        comment: Option<&str>,
        role: &str,
    ) -> Result<Digest, TrustError> {
        if let Some(id) = known(before, name) {
            return Ok(id);
        }
        let key = public(keyring, name, &before.registry)?;
        let id = key.id();
        if self.keys.iter().all(|(known, _)| *known != key) {
            self.keys.push((key, comment.unwrap_or(role).to_owned()));
        }
        Ok(id)
    }

    fn group(&mut self, within: Option<&GroupName>) -> Result<&mut Role, TrustError> {
        let (scope, number) = match within {
            Some(GroupName { scope, number }) => (scope.to_string(), *number),
            None => ("*".to_owned(), None),
        };
        let Some(rule) = self.release.iter().position(|rule| rule.scope.as_str() == scope) else {
            let scopes = self.release.iter().map(|rule| rule.scope.to_string()).collect::<Vec<_>>().join(", ");
            return Err(TrustError::NoScope { scope, scopes });
        };
        let groups = self.release[rule].require.len();
        let at = match number {
            None if groups > 1 => return Err(TrustError::WhichGroup { scope, groups }),
            None => 0,
            Some(number) => number - 1,
        };
        match self.release[rule].require.get_mut(at) {
            Some(role) => Ok(role),
            None => Err(TrustError::WhichGroup { scope, groups }),
        }
    }

    fn no_scope(&self, scope: &Scope) -> TrustError {
        let scopes = self.release.iter().map(|rule| rule.scope.to_string()).collect::<Vec<_>>().join(", ");
        TrustError::NoScope { scope: scope.to_string(), scopes }
    }

    /// What no host would take, all of it at once.
    fn hazards(&self) -> Vec<Remark> {
        let mut hazards = Vec::new();
        let mut role = |what: String, role: &Role| {
            let (threshold, keys) = (role.threshold.get(), role.keys.len());
            if keys == 0 {
                let detail = format!("{what}: its last key would go, and nobody could sign; add another one with it");
                hazards.push(Remark::new("no-key", detail));
            } else if threshold as usize > keys {
                let detail = format!(
                    "{what}: {threshold} signatures of {} can never come together; add a key or lower the threshold",
                    if keys == 1 { "1 key".to_owned() } else { format!("{keys} keys") }
                );
                hazards.push(Remark::new("threshold-unmet", detail));
            }
        };
        role("heads".to_owned(), &self.head);
        for rule in &self.release {
            for (index, group) in rule.require.iter().enumerate() {
                role(transition::group_word(&rule.scope, index, rule.require.len()), group);
            }
        }
        let release: Vec<&Digest> =
            self.release.iter().flat_map(|rule| &rule.require).flat_map(|one| &one.keys).collect();
        for both in self.head.keys.iter().filter(|id| release.contains(id)) {
            let detail = format!(
                "key {} would sign heads and releases: whoever steals it needs nothing else. Make another key for one of them",
                both.short()
            );
            hazards.push(Remark::new("both-roles", detail));
        }
        if self.release.is_empty() {
            hazards.push(Remark::new("no-scope", "no scope would be left, and nobody could sign a release"));
        }
        hazards
    }

    fn finish(self, before: &TrustRoot, edit: &Edit) -> Result<TrustRoot, mcpfs_trust::error::VerifyError> {
        let epoch = before.epoch.saturating_add(u64::from(edit.raise_epoch));
        let minimum_head = edit.minimum_head.unwrap_or(before.minimum_head);
        let root = |version, draft: Self| {
            let numbers = (version, epoch, minimum_head);
            TrustRoot::new(before.registry.clone(), numbers, draft.keys, draft.head, draft.release)
        };
        let same = root(
            before.version,
            Self { keys: self.keys.clone(), head: self.head.clone(), release: self.release.clone() },
        )?;
        match (same == *before, edit.version) {
            (true, None) => Ok(same),
            (_, version) => root(version.unwrap_or_else(|| before.version.saturating_add(1)), self),
        }
    }
}

trait AddKey {
    fn add(&mut self, id: Digest);
}

impl AddKey for Role {
    fn add(&mut self, id: Digest) {
        if !self.keys.contains(&id) {
            self.keys.push(id);
        }
    }
}

/// The key of the root that an id, or the beginning of one, names.
fn known(root: &TrustRoot, name: &str) -> Option<Digest> {
    let mut found = root.keys().map(|(id, ..)| *id).filter(|id| is_id(name) && id.to_string().starts_with(name));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// A key of the root, by any of its names.
fn present(keyring: &mut Keyring, root: &TrustRoot, name: &str) -> Result<Digest, TrustError> {
    let none = || TrustError::NoSuchKey(name.chars().take(200).collect());
    match known(root, name) {
        Some(id) => Ok(id),
        None if is_id(name) => Err(none()),
        None => {
            let id = public(keyring, name, &root.registry)?.id();
            root.key(&id).map(|_| id).ok_or_else(none)
        }
    }
}

fn is_id(name: &str) -> bool {
    name.len() >= ID_DIGITS && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests;
