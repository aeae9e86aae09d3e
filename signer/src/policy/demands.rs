//! `policy.yaml`: what a release must be in this company.

use std::collections::{BTreeMap, BTreeSet};

use mcpfs_trust::time::Timestamp;
use url::Url;

use crate::check::{Findings, Look, Observation, RULES, Rule, Severity, rules};
use crate::recipe::Recipe;
use crate::recipe::fields::{Fields, Reading};
use crate::recipe::yaml::Node;

use super::licences::{self, Licences};
use super::vulnerabilities::{self, Vulnerabilities};

/// What a policy demands; what is absent demands nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(deny_unknown_fields, title = "mcpfs policy")]
pub struct Policy {
    /// Who may review, and how many must.
    pub reviewers: Option<Reviewers>,
    /// The data classes that servers may touch.
    pub data_classification: Option<Vec<String>>,
    /// The lawful bases that a recipe may name.
    pub lawful_basis: Option<Vec<String>>,
    /// Days after which a review is too old to sign by.
    pub review_max_days: Option<u32>,
    /// Hosts that artefacts may come from, such as `artefacts.example.com` or `localhost:5000`;
    /// `file:` (or another scheme without a host) allows those.
    pub hosts: Option<Vec<String>>,
    /// Licences that dependencies may have.
    pub licences: Option<Licences>,
    /// What the check must have looked for, such as `advisories` or `trial`.
    #[schemars(default)]
    pub require: Vec<Look>,
    /// Known vulnerabilities that dependencies may not have.
    pub vulnerabilities: Option<Vulnerabilities>,
    /// Rules that weigh more than their table says, by id. A rule is never made lighter.
    #[schemars(default)]
    pub severity: BTreeMap<String, Severity>,
}

/// Who may review.
#[derive(Debug, Clone, Default, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Reviewers {
    /// Addresses such as `security@example.com`, or `@example.com` for a whole domain; all if absent.
    pub allowed: Option<Vec<String>>,
    /// How many different ones a recipe needs.
    pub minimum: Option<u32>,
    /// Whether one of them must be somebody else than the maintainer.
    #[schemars(default)]
    pub independent: bool,
}

pub(super) const POLICY: &[&str] = &[
    "reviewers",
    "data_classification",
    "lawful_basis",
    "review_max_days",
    "hosts",
    "licences",
    "require",
    "vulnerabilities",
    "severity",
];
pub(super) const REVIEWERS: &[&str] = &["allowed", "minimum", "independent"];

pub(super) fn read(reading: &mut Reading, root: &Node) -> Option<Policy> {
    let fields = reading.fields(root, "", POLICY)?;
    let reviewers = fields.optional("reviewers").and_then(|node| reviewers(reading, node));
    let data_classification = words(reading, &fields, "data_classification");
    let lawful_basis = words(reading, &fields, "lawful_basis");
    let review_max_days = number(reading, &fields, "review_max_days");
    let hosts = words(reading, &fields, "hosts");
    for (index, host) in hosts.iter().flatten().enumerate() {
        let field = format!("hosts[{index}]");
        if Host::parse(host).is_none() {
            let at = reading.places[&field];
            reading.problem(
                at,
                &field,
                "not a host such as artefacts.example.com or host:5000, nor a scheme such as file:",
            );
        }
    }
    let licences = fields.optional("licences").and_then(|node| licences::read(reading, node));
    let require = looks(reading, &fields);
    let vulnerabilities = fields.optional("vulnerabilities").and_then(|node| vulnerabilities::read(reading, node));
    let severity = fields.optional("severity").map(|node| severities(reading, node)).unwrap_or_default();
    Some(Policy {
        reviewers,
        data_classification,
        lawful_basis,
        review_max_days,
        hosts,
        licences,
        require,
        vulnerabilities,
        severity,
    })
}

fn reviewers(reading: &mut Reading, node: &Node) -> Option<Reviewers> {
    let fields = reading.fields(node, "reviewers", REVIEWERS)?;
    let allowed = words(reading, &fields, "allowed");
    for (index, one) in allowed.iter().flatten().enumerate() {
        let field = format!("reviewers.allowed[{index}]");
        if !is_address(one) && !one.strip_prefix('@').is_some_and(is_domain) {
            let at = reading.places[&field];
            reading.problem(
                at,
                &field,
                "neither an address such as a@example.com nor a domain such as \"@example.com\"",
            );
        }
    }
    let minimum = number(reading, &fields, "minimum");
    let words = [("true", true), ("false", false)];
    let independent = fields.optional("independent").and_then(|node| match node.value {
        crate::recipe::yaml::Value::Bool(value) => Some(value),
        _ => reading.word(node, "reviewers.independent", &words),
    });
    Some(Reviewers { allowed, minimum, independent: independent.unwrap_or_default() })
}

/// A list that is not empty: an empty one would allow nothing, and is a slip.
pub(super) fn words(reading: &mut Reading, fields: &Fields, name: &str) -> Option<Vec<String>> {
    let node = fields.optional(name)?;
    let field = fields.path(name);
    let texts = reading.texts(node, &field);
    if texts.is_empty() {
        reading.problem(node.at, &field, "must list at least one; leave the field out to demand nothing");
    }
    Some(texts)
}

fn looks(reading: &mut Reading, fields: &Fields) -> Vec<Look> {
    let mut looks = Vec::new();
    for (index, word) in words(reading, fields, "require").iter().flatten().enumerate() {
        match Look::ALL.into_iter().find(|look| look.word() == word) {
            Some(look) => looks.push(look),
            None => {
                let field = format!("require[{index}]");
                let at = reading.places[&field];
                let all: Vec<&str> = Look::ALL.iter().map(|look| look.word()).collect();
                reading.problem(at, &field, format!("{word:?} is not one of: {}", all.join(", ")));
            }
        }
    }
    looks
}

pub(super) fn number(reading: &mut Reading, fields: &Fields, name: &str) -> Option<u32> {
    let node = fields.optional(name)?;
    let field = fields.path(name);
    let number = reading.text(node, &field)?.parse().ok().filter(|number| *number > 0);
    if number.is_none() {
        reading.problem(node.at, &field, "must be a whole number from 1");
    }
    number
}

fn severities(reading: &mut Reading, node: &Node) -> BTreeMap<String, Severity> {
    let mut severities = BTreeMap::new();
    for (id, word) in reading.pairs(node, "severity") {
        let field = format!("severity.{id}");
        let at = reading.places[&field];
        let severity = match word.as_str() {
            "error" => Severity::Error,
            "warning" => Severity::Warning,
            "note" => Severity::Note,
            _ => {
                reading.problem(at, &field, format!("{word:?} is not one of: error, warning, note"));
                continue;
            }
        };
        match RULES.iter().find(|rule| rule.id == id) {
            None => reading.problem(at, &field, "no rule has this id; docs/publishing.md lists them"),
            Some(rule) if severity > rule.severity => {
                let message = format!(
                    "its weight is {}, and a policy makes no rule lighter: waive single findings",
                    rule.severity
                );
                reading.problem(at, &field, message);
            }
            Some(_) => {
                severities.insert(id, severity);
            }
        }
    }
    severities
}

impl Policy {
    /// What a recipe lacks by this policy.
    pub(super) fn check(&self, recipe: &Recipe, now: Timestamp, observations: &[Observation], findings: &mut Findings) {
        let mut found = |rule: &Rule, field: &str, message: String, fix: &str| {
            let finding = rule.find(field, message).at(recipe.file(), Some(recipe.place(field)));
            findings.push(if fix.is_empty() { finding } else { finding.fix(fix) });
        };
        if let Some(reviewers) = &self.reviewers {
            reviewers.check(recipe, &mut found);
        }
        let class = &recipe.data_classification;
        if let Some(allowed) = self.data_classification.as_ref().filter(|allowed| !lists(allowed, class)) {
            let message = format!("{class:?} is not one that the policy allows: {}", allowed.join(", "));
            found(&rules::POLICY_DATA, "data_classification", message, "ask for another policy, or for less data");
        }
        if let (Some(allowed), Some(basis)) = (&self.lawful_basis, &recipe.lawful_basis)
            && !lists(allowed, basis)
        {
            let message = format!("{basis:?} is not one that the policy allows: {}", allowed.join(", "));
            found(&rules::POLICY_DATA, "lawful_basis", message, "write one of them");
        }
        let age = (now.unix() - recipe.reviewed_at.start().unix()).div_euclid(86_400);
        if let Some(most) = self.review_max_days.filter(|most| age > i64::from(*most)) {
            let message = format!("the review of {} is {age} days old; the policy allows {most}", recipe.reviewed_at);
            found(&rules::POLICY_REVIEW_AGE, "reviewed_at", message, "review it again and write the new day");
        }
        if let Some(hosts) = &self.hosts {
            let allowed: Vec<Host> = hosts.iter().filter_map(|host| Host::parse(host)).collect();
            for (index, source) in recipe.artefact.iter().enumerate() {
                if !allowed.iter().any(|host| host.allows(&source.url)) {
                    let field = format!("{}.url", recipe.artefact_field(index));
                    let message =
                        format!("{:?} is not from a place that the policy allows: {}", source.url, hosts.join(", "));
                    found(&rules::POLICY_HOST, &field, message, "publish the artefact at one of them");
                }
            }
        }
        for look in self.require.iter().filter(|look| !observations.iter().any(|one| one.kind == **look)) {
            let message = format!("the policy requires a look for {}, and this check had none", look.word());
            found(&rules::POLICY_LOOK, "name", message, &format!("check again with {}", look.option()));
        }
    }

    /// The first demand of this policy that only the checker's word meets: signing does not look again.
    pub(crate) fn rests_on(&self, observations: &[Observation]) -> Option<String> {
        if !self.require.is_empty() {
            return Some("require".to_owned());
        }
        if let Some(rule) = self.severity.keys().find(|rule| rules::is_observed(rule)) {
            return Some(format!("severity of {rule}"));
        }
        // A snapshot is read again; what a service answered is written down.
        let answered = |one: &Observation| matches!(one.kind, Look::AuditNpm | Look::AuditPypi);
        let asked = self.vulnerabilities.is_some() && observations.iter().any(answered);
        asked.then(|| "vulnerabilities".to_owned())
    }

    /// Whether this person may review.
    pub(super) fn may_review(&self, who: &str) -> bool {
        self.reviewers.as_ref().is_none_or(|reviewers| reviewers.allows(who))
    }
}

impl Reviewers {
    fn allows(&self, who: &str) -> bool {
        let Some(allowed) = &self.allowed else { return true };
        // A name around the address, or two addresses, could hide who it is.
        let Some((_, domain)) = who.split_once('@').filter(|_| is_address(who)) else { return false };
        allowed.iter().any(|one| match one.strip_prefix('@') {
            Some(allowed) => allowed.eq_ignore_ascii_case(domain),
            None => one.eq_ignore_ascii_case(who),
        })
    }

    fn check(&self, recipe: &Recipe, found: &mut impl FnMut(&Rule, &str, String, &str)) {
        for (index, who) in recipe.reviewers.iter().enumerate() {
            if !self.allows(who) {
                let message = format!("{who:?} is not a reviewer that the policy allows");
                let fix = "name a reviewer by the address that the policy lists";
                found(&rules::POLICY_REVIEWER, &format!("reviewers[{index}]"), message, fix);
            }
        }
        // Written twice, or in capitals, it is the same person.
        let different: BTreeSet<String> = recipe.reviewers.iter().map(|who| who.trim().to_lowercase()).collect();
        if let Some(least) = self.minimum.filter(|least| different.len() < *least as usize) {
            let message = format!("{} reviewed it; the policy asks for {least}", different.len());
            found(&rules::POLICY_REVIEWERS, "reviewers", message, "ask for another review");
        }
        if self.independent && different.iter().all(|who| *who == recipe.maintainer.trim().to_lowercase()) {
            let message = "nobody but the maintainer reviewed it".to_owned();
            found(&rules::POLICY_REVIEWERS, "reviewers", message, "ask somebody else for a review");
        }
    }
}

fn lists(allowed: &[String], word: &str) -> bool {
    allowed.iter().any(|one| one.trim().to_lowercase() == word.trim().to_lowercase())
}

/// One `@`, something before it, a domain behind it, and nothing that only looks like one.
fn is_address(text: &str) -> bool {
    text.split_once('@').is_some_and(|(local, domain)| {
        let word = |c: char| c.is_ascii_graphic() && !"<>()[],;:\\\"@".contains(c);
        !local.is_empty() && local.chars().all(word) && is_domain(domain)
    })
}

fn is_domain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}

/// A place that artefacts may come from.
enum Host {
    /// A scheme without a host, such as `file`.
    Scheme(String),
    /// A host; with a port only that one, without one the scheme's own.
    Named { host: String, port: Option<u16> },
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        if let Some(scheme) = text.strip_suffix(':') {
            let word = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_lowercase() || c == '+');
            return word.then(|| Self::Scheme(scheme.to_owned()));
        }
        if text.contains(['/', '@', '?', '#', '*']) || text.contains(char::is_whitespace) {
            return None;
        }
        // Of a scheme without a port of its own, so that :443 is kept.
        let url = Url::parse(&format!("oci://{text}")).ok()?;
        Some(Self::Named { host: url.host_str()?.to_lowercase(), port: url.port() })
    }

    fn allows(&self, url: &str) -> bool {
        let Ok(url) = Url::parse(url) else { return false };
        match (self, url.host_str().filter(|host| !host.is_empty() && url.scheme() != "file")) {
            (Self::Scheme(scheme), None) => scheme == url.scheme(),
            (Self::Named { host, port }, Some(named)) => {
                let usual = if url.scheme() == "oci" { Some(443) } else { url.port_or_known_default() };
                let same_port = match port {
                    Some(port) => url.port().or(usual) == Some(*port),
                    None => url.port().is_none(),
                };
                host.eq_ignore_ascii_case(named) && same_port
            }
            _ => false,
        }
    }
}
