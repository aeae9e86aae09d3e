//! Which known vulnerabilities are refused, and what must have been asked.

use mcpfs_trust::digest::Digest;
use mcpfs_trust::time::Timestamp;

use crate::check::advisories::Level;
use crate::recipe::fields::{Fields, Reading};
use crate::recipe::yaml::{Node, Value};

use super::demands::number;

/// What is demanded of look-ups of known vulnerabilities.
#[derive(Debug, Clone, Default, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Vulnerabilities {
    /// Severities that are refused; critical, high and unrated if absent. Malicious packages
    /// always are.
    pub deny: Option<Vec<Level>>,
    /// Snapshots of the OSV databases that must be asked, by SHA-256.
    pub snapshots: Option<Vec<Digest>>,
    /// Days after which the newest advisory of an ecosystem, or the answer of a program, is too old
    /// to sign by.
    pub max_age_days: Option<u32>,
}

pub(super) const VULNERABILITIES: &[&str] = &["deny", "snapshots", "max_age_days"];

pub(super) fn read(reading: &mut Reading, node: &Node) -> Option<Vulnerabilities> {
    let fields = reading.fields(node, "vulnerabilities", VULNERABILITIES)?;
    let deny = list(reading, &fields, "deny", |reading, node, field| reading.word(node, field, &Level::WORDS));
    let snapshots = list(reading, &fields, "snapshots", Reading::parsed);
    let max_age_days = number(reading, &fields, "max_age_days");
    Some(Vulnerabilities { deny, snapshots, max_age_days })
}

/// A list that is not empty: an empty one would deny nothing, and is a slip.
fn list<T>(
    reading: &mut Reading,
    fields: &Fields,
    name: &str,
    mut one: impl FnMut(&mut Reading, &Node, &str) -> Option<T>,
) -> Option<Vec<T>> {
    let node = fields.optional(name)?;
    let field = fields.path(name);
    let Value::List(items) = &node.value else {
        reading.problem(node.at, &field, format!("expected a list, found {}", node.value.kind()));
        return None;
    };
    if items.is_empty() {
        reading.problem(node.at, &field, "must list at least one; leave the field out to demand nothing");
    }
    let mut values = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        values.extend(one(reading, item, &format!("{field}[{index}]")));
    }
    Some(values)
}

impl Vulnerabilities {
    /// Whether a policy, or the lack of one, refuses this severity.
    pub(crate) fn denies(policy: Option<&Self>, level: Level) -> bool {
        let denied = policy.and_then(|policy| policy.deny.as_deref()).unwrap_or(&Level::DENIED);
        level == Level::Malicious || denied.contains(&level)
    }

    /// Whether it names this snapshot.
    pub(crate) fn pins(&self, sha256: &Digest) -> bool {
        self.snapshots.iter().flatten().any(|pin| pin == sha256)
    }

    /// Why what was asked is too old.
    pub(crate) fn too_old(&self, newest: Timestamp, now: Timestamp) -> Option<String> {
        let age = (now.unix() - newest.unix()).div_euclid(86_400);
        let most = self.max_age_days.filter(|most| age > i64::from(*most))?;
        Some(format!("what was asked is of {}, {age} days ago; the policy allows {most}", newest.date()))
    }
}
