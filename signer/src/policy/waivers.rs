//! `waivers.yaml`: findings that somebody lets pass, with a reason and a last day.

use mcpfs_trust::error::bounded;
use mcpfs_trust::name::ServerName;
use mcpfs_trust::time::{Date, Timestamp};

use super::Policy;
use crate::check::{Finding, Findings, RULES, Rule, rules};
use crate::recipe::fields::{Fields, Reading};
use crate::recipe::yaml::{Node, Value};
use crate::recipe::{Position, Recipe};

/// All waivers of a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(deny_unknown_fields, title = "mcpfs waivers")]
pub struct Waivers {
    /// One for each exception.
    pub waivers: Vec<Waiver>,
    /// The file, for findings about the waivers themselves.
    #[schemars(skip)]
    file: String,
}

/// One exception.
#[derive(Debug, Clone, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Waiver {
    /// The rule's id, as `check` prints it.
    pub rule: String,
    /// The server.
    pub server: ServerName,
    /// The finding's subject as `check` prints it; one that ends in `*` stands for all that begin so.
    pub subject: String,
    /// Why it may pass.
    pub reason: String,
    /// Who decided it.
    pub by: String,
    /// The last day it holds.
    pub expires: Date,
    /// Where it stands.
    #[schemars(skip)]
    at: Position,
}

pub(super) const WAIVERS: &[&str] = &["waivers"];
pub(super) const WAIVER: &[&str] = &["rule", "server", "subject", "reason", "by", "expires"];

pub(super) fn read(reading: &mut Reading, root: &Node, file: &str) -> Option<Waivers> {
    let fields = reading.fields(root, "", WAIVERS)?;
    let node = fields.required("waivers", reading)?;
    let Value::List(items) = &node.value else {
        reading.problem(node.at, "waivers", format!("expected a list, found {}", node.value.kind()));
        return None;
    };
    let waivers = items.iter().enumerate().filter_map(|(index, item)| waiver(reading, item, index)).collect();
    Some(Waivers { waivers, file: file.to_owned() })
}

fn waiver(reading: &mut Reading, node: &Node, index: usize) -> Option<Waiver> {
    let fields = reading.fields(node, &format!("waivers[{index}]"), WAIVER)?;
    let rule = text(reading, &fields, "rule");
    let server = fields.required("server", reading);
    let server = server.and_then(|node| reading.parsed(node, &fields.path("server")));
    let subject = text(reading, &fields, "subject");
    let reason = text(reading, &fields, "reason");
    let by = text(reading, &fields, "by");
    let expires = fields.required("expires", reading);
    let expires = expires.and_then(|node| reading.parsed(node, &fields.path("expires")));
    Some(Waiver {
        rule: rule?,
        server: server?,
        subject: subject?,
        reason: reason?,
        by: by?,
        expires: expires?,
        at: node.at,
    })
}

/// One line that says something.
fn text(reading: &mut Reading, fields: &Fields, name: &str) -> Option<String> {
    let node = fields.required(name, reading)?;
    let text = reading.text(node, &fields.path(name))?;
    if text.trim().is_empty() || text.len() > 1024 || text.contains(char::is_control) {
        reading.problem(node.at, &fields.path(name), "must be one line of 1 to 1024 bytes");
    }
    Some(text)
}

impl Waivers {
    /// Marks what is waived, and says which waivers of this server are not in order.
    pub(super) fn apply(&self, recipe: &Recipe, policy: Option<&Policy>, now: Timestamp, findings: &mut Findings) {
        for waiver in self.waivers.iter().filter(|waiver| waiver.server == recipe.name) {
            let subject = format!("{} {}", waiver.rule, waiver.subject);
            let mut found = |rule: &Rule, message: String, fix: &str| {
                findings.push(rule.find(&subject, message).fix(fix).at(&self.file, Some(waiver.at)));
            };
            if let Some(problem) = waiver.refused(policy) {
                found(&rules::WAIVER_REFUSED, problem, "remove the waiver, and mend what it should have covered");
                continue;
            }
            if waiver.expires < now.date() {
                let message = format!("held until {}; what it covered stands again", waiver.expires);
                found(&rules::WAIVER_EXPIRED, message, "mend what it covers, or have it decided again");
                continue;
            }
            let mut used = false;
            for finding in findings.all_mut().filter(|finding| waiver.covers(finding)) {
                finding.waiver.get_or_insert_with(|| waiver.shown());
                used = true;
            }
            if !used {
                let message = "covers nothing that was found".to_owned();
                findings.push(
                    rules::WAIVER_UNUSED.find(&subject, message).fix("remove it").at(&self.file, Some(waiver.at)),
                );
            }
        }
    }
}

impl Waiver {
    /// Why it has no effect.
    fn refused(&self, policy: Option<&Policy>) -> Option<String> {
        let Some(rule) = RULES.iter().find(|rule| rule.id == self.rule) else {
            return Some(format!("no rule is called {:?}", self.rule));
        };
        if !rule.may_be_waived() {
            return Some(format!("what {} demands cannot be waived", rule.id));
        }
        // `GO-2024-1*` would cover advisories that nobody has written yet.
        let names_advisory = !self.subject.ends_with('*') || self.subject.contains(' ');
        if rules::BY_ADVISORY.contains(rule) && !names_advisory {
            return Some("must name one advisory whole, such as \"GHSA-jf85-cpcp-j695 npm:lodash@*\"".to_owned());
        }
        match policy.is_some_and(|policy| !policy.may_review(&self.by)) {
            true => Some(format!("{:?} is not somebody whom the policy allows to review", self.by)),
            false => None,
        }
    }

    fn covers(&self, finding: &Finding) -> bool {
        let subject = match self.subject.strip_suffix('*') {
            Some(prefix) => finding.subject.starts_with(prefix),
            None => finding.subject == self.subject,
        };
        subject && finding.rule == self.rule
    }

    /// As reports and the check record show it.
    fn shown(&self) -> String {
        format!("until {} by {}: {}", self.expires, bounded(&self.by), bounded(&self.reason))
    }
}
