//! The table of rules, and those that look at the recipe alone.

use std::fmt::Display;
use std::path::Path;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::name::{RegistryName, ServerName};
use mcpfs_trust::release::RELEASE_TYPE;
use mcpfs_trust::statement::{Statement, Subject};
use mcpfs_trust::text::is_invisible;
use mcpfs_trust::time::Timestamp;

use super::finding::{Finding, Findings, Severity};
use crate::recipe::{Position, Recipe};

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its stable id.
    pub id: &'static str,
    /// The weight of what it finds.
    pub severity: Severity,
    /// What it demands.
    pub about: &'static str,
}

macro_rules! rules {
    ($($name:ident = $id:literal, $severity:ident, $about:literal;)*) => {
        $(pub(crate) const $name: Rule = Rule { id: $id, severity: Severity::$severity, about: $about };)*
        /// All rules, in the order of docs/publishing.md.
        pub const RULES: &[Rule] = &[$($name),*];
    };
}

rules! {
    RECIPE = "recipe", Error, "The recipe has the fields and values of the format.";
    RECIPE_INVISIBLE = "recipe-invisible", Error, "A recipe has no invisible or direction-changing characters, written or escaped.";
    STATEMENT_SIZE = "statement-size", Error, "What is signed has at most 4,096 bytes.";
    NAME_SIMILAR = "name-similar", Error, "No other server's name is equal but for '-', '_' and '.'.";
    RECIPE_OVERLOOKED = "recipe-overlooked", Warning, "Recipes end in `.yaml`: nobody looks at one beside it that ends in `.yml`.";
    LAWFUL_BASIS = "lawful-basis", Error, "Confidential and restricted data need a lawful basis.";
    REVIEWED_AT = "reviewed-at", Error, "The review is not in the future.";
    CLASSIFICATION = "classification", Warning, "The data class is one that rules know.";
    LAUNCH_MISSING = "launch-missing", Warning, "Without launch, `run` refuses.";
    PLAIN_HTTP = "plain-http", Warning, "Artefacts come over https.";
    FETCH = "fetch", Error, "The artefact can be fetched from an allowed place.";
    DIGEST = "digest", Error, "The artefact has the pinned digest.";
    TAG_MOVED = "tag-moved", Error, "The tag of a git artefact points to the pinned commit.";
    SOURCE = "source", Note, "What a bundled package or commit says of itself is for the reviewer.";
    ARCHIVE = "archive", Error, "The artefact is an archive that has one meaning, within limits.";
    BUNDLE_MANIFEST = "bundle-manifest", Error, "The manifest of an .mcpb gives the launch that the recipe leaves out.";
    BUNDLE_UNREAD = "bundle-unread", Warning, "The manifest of an .mcpb is readable, also where the recipe has a launch of its own.";
    BUNDLE_CREDENTIAL = "bundle-credential", Error, "A secret setting of an .mcpb is a credential of the recipe.";
    BUNDLE_RESOLVED = "bundle-resolved", Error, "An .mcpb holds all that it starts: nothing is downloaded on a host.";
    BUNDLE_PLATFORM = "bundle-platform", Warning, "An .mcpb runs on Linux, and a binary one is for a named platform.";
    IMAGE_TAG = "image-tag", Warning, "The tag of an image's address still leads to the pinned manifest.";
    IMAGE_PLATFORM = "image-platform", Error, "An image is for the platform that the recipe names.";
    IMAGE_LAUNCH = "image-launch", Error, "The config of an image gives the launch that the recipe leaves out.";
    IMAGE_UNMET = "image-unmet", Warning, "An image asks for no user, no volumes and no ports: a server gets none.";
    IMAGE_DEVICE = "image-device", Note, "Devices and pipes of an image are left out: its sandbox has its own.";
    LAUNCH_DERIVED = "launch-derived", Note, "Without launch in the recipe, what the artefact says of its start is used.";
    LAUNCH_DIFFERS = "launch-differs", Warning, "The recipe's own launch says what the artefact says of its start.";
    LAUNCH_UNLIKE = "launch-unlike", Error, "Artefacts of one release say the same of their start.";
    LAUNCH_COMMAND = "launch-command", Error, "A launch command is an executable file of the tree, or the name of a runtime.";
    LAUNCH_VARIABLE = "launch-variable", Warning, "In args and env only `${TREE}`, `${STATE}` and `${HOME}` expand, and `${CREDENTIALS}` where a credential is a file.";
    LAUNCH_ARGUMENT = "launch-argument", Error, "A path of a file in the tree, given to a runtime of the host, says `${TREE}`.";
    LAUNCH_ARGUMENT_UNCLEAR = "launch-argument-unclear", Warning, "Any other launch argument that names something in the tree is not meant as its path.";
    LINK_DANGLING = "link-dangling", Warning, "Links lead to something.";
    LINK_REWRITTEN = "link-rewritten", Note, "Absolute links become relative to the tree's root.";
    SPECIAL_BITS = "special-bits", Warning, "No set-user, set-group or sticky bits: they are dropped.";
    MADE_EXECUTABLE = "made-executable", Note, "The program of a binary .mcpb becomes executable: packers of MCPB drop the mode.";
    NAME_CASE = "name-case", Warning, "No two paths are equal but for case.";
    NAME_FORM = "name-form", Warning, "File names are in Unicode form NFC.";
    NAME_BIDI = "name-bidi", Warning, "File names have no invisible or direction-changing characters.";
    PUBLISHED = "published", Error, "The site that the release is compared with can be read and verifies.";
    DEPENDENCY_UNREADABLE = "dependency-unreadable", Warning, "Lockfiles and package metadata in the artefact can be read.";
    DEPENDENCY_UNLISTED = "dependency-unlisted", Warning, "Each package below node_modules stands in its lockfile.";
    DEPENDENCY_DIFFERS = "dependency-differs", Warning, "Each package below node_modules is the one that its lockfile names there.";
    INSTALL_SCRIPT = "install-script", Warning, "No dependency runs a script when it is installed.";
    NATIVE_CODE = "native-code", Note, "The artefact holds no machine code.";
    CAPABILITY_NEW = "capability-new", Warning, "No package can do more than in the published version: network, exec, write, eval, native, environment.";
    CAPABILITY_FIRST = "capability-first", Note, "The code of a first release shows nothing of these.";
    CAPABILITY_UNDECLARED = "capability-undeclared", Warning, "Code of a server whose sandbox has no network does not use it.";
    CAPABILITY_UNREAD = "capability-unread", Warning, "Code is small enough to be looked at.";
    VULNERABILITY = "vulnerability", Error, "No package is malicious, or has a known vulnerability of a severity that is denied.";
    VULNERABILITY_LESSER = "vulnerability-lesser", Warning, "No package has a known vulnerability of another severity.";
    VULNERABILITY_UNCLEAR = "vulnerability-unclear", Error, "Of each advisory about a package it can be told whether it concerns its version.";
    ADVISORIES_SNAPSHOT = "advisories-snapshot", Error, "A snapshot of advisories is pinned, readable, not empty and not too old.";
    ADVISORIES_UNKNOWN = "advisories-unknown", Error, "A look-up of advisories was answered, for every package.";
    ADVISORIES_UNCOVERED = "advisories-uncovered", Error, "Where advisories are asked, the packages of every ecosystem are asked about.";
    ADVISORIES_NOTHING = "advisories-nothing", Warning, "Where advisories are asked, an artefact lists packages to ask about.";
    NATIVE_PLATFORM = "native-platform", Warning, "An artefact with machine code is for a named platform.";
    RUN_IMPOSSIBLE = "run-impossible", Error, "A trial that is asked for can be made here.";
    RUN_SKIPPED = "run-skipped", Warning, "Everything that a trial is asked for is tried.";
    RUN_START = "run-start", Error, "The server starts, and answers `initialize` and `tools/list` in time.";
    RUN_STDOUT = "run-stdout", Warning, "The server writes nothing but JSON-RPC to its standard output.";
    RUN_ARGUMENT = "run-argument", Warning, "The server gets the arguments that its usage asks for.";
    RUN_WRITE = "run-write", Warning, "The server writes only to `${STATE}` and `/tmp`.";
    RUN_READ = "run-read", Warning, "The server opens nothing of the host but programs and libraries.";
    RUN_NETWORK = "run-network", Warning, "A server without `sandbox: {network: host}` tries to reach nobody.";
    RUN_PROGRAM = "run-program", Warning, "The server starts no other program.";
    RUN_LIMIT = "run-limit", Error, "The server keeps to bounds of output, processes and memory.";
    RUN_END = "run-end", Warning, "The server ends when its input ends.";
    RUN_UNSEEN = "run-unseen", Warning, "What the server does can be watched.";
    TOOL_CHANGED = "tool-changed", Warning, "No tool's description or schema differs from the published version's.";
    PATTERN = "pattern", Error, "No file looks malicious by a pattern of weight error.";
    PATTERN_SUSPECT = "pattern-suspect", Warning, "No file looks malicious by any other pattern.";
    PATTERN_NOTE = "pattern-note", Note, "No file shows what a pattern of weight note describes.";
    PATTERN_UNSCANNED = "pattern-unscanned", Error, "Each file can be looked at for patterns, within bounds of size and time.";
    PATTERN_RULE = "pattern-rule", Warning, "Each file of pattern rules compiles.";
    PATTERN_ENGINE = "pattern-engine", Error, "When patterns are looked for, the engine is there and does all its work.";
    POLICY_FILE = "policy-file", Error, "The policy and waivers files can be read and have the fields and values of their format.";
    POLICY_REVIEWER = "policy-reviewer", Error, "Each reviewer is one that the policy allows.";
    POLICY_REVIEWERS = "policy-reviewers", Error, "There are as many reviewers as the policy asks for, and not the maintainer alone.";
    POLICY_DATA = "policy-data", Error, "Data class and lawful basis are ones that the policy allows.";
    POLICY_REVIEW_AGE = "policy-review-age", Error, "The review is not older than the policy allows.";
    POLICY_HOST = "policy-host", Error, "Artefacts come from places that the policy allows.";
    POLICY_LICENCE = "policy-licence", Error, "Each dependency has a licence that the policy allows.";
    POLICY_LOOK = "policy-look", Error, "The check has looked for everything that the policy requires.";
    WAIVER_REFUSED = "waiver-refused", Error, "A waiver names a rule that may be waived, and somebody who may review.";
    WAIVER_EXPIRED = "waiver-expired", Warning, "No waiver is past its last day.";
    WAIVER_UNUSED = "waiver-unused", Warning, "Each waiver covers something.";
}

/// The digest of the table: which rules a record was made by.
pub fn policy_digest() -> Digest {
    let mut text = String::from("mcpfs.rules/v1\n");
    for rule in RULES {
        text.push_str(&format!("{} {} {}\n", rule.id, rule.severity, rule.about));
    }
    Digest::of(text.as_bytes())
}

impl Rule {
    /// A finding of this rule.
    pub(crate) fn find(&self, subject: &str, message: impl Display) -> Finding {
        Finding::new(self.severity, self.id, subject, message)
    }
}

/// Errors that may be waived: the company's own demands, and what an author may mean after all.
/// All others are what the format demands, or say that something could not be looked at.
const WAIVABLE_ERRORS: &[Rule] = &[
    LAUNCH_ARGUMENT,
    VULNERABILITY,
    VULNERABILITY_UNCLEAR,
    ADVISORIES_UNCOVERED,
    RUN_START,
    PATTERN,
    PATTERN_UNSCANNED,
    POLICY_REVIEWER,
    POLICY_REVIEWERS,
    POLICY_DATA,
    POLICY_REVIEW_AGE,
    POLICY_HOST,
    POLICY_LICENCE,
];

/// Rules whose subject is an advisory and a package.
pub(crate) const BY_ADVISORY: &[Rule] = &[VULNERABILITY, VULNERABILITY_LESSER, VULNERABILITY_UNCLEAR];

impl Rule {
    /// Whether a waiver may let its findings pass. What is said of waivers themselves stands.
    pub(crate) fn may_be_waived(&self) -> bool {
        match self.severity {
            Severity::Error => WAIVABLE_ERRORS.contains(self),
            _ => ![WAIVER_EXPIRED, WAIVER_UNUSED].contains(self),
        }
    }
}

/// Rules whose findings are observations: signing takes them from the record, since it cannot or
/// need not look again. The policy's weights and the waivers are applied to them at signing too.
const OBSERVED: &[Rule] = &[
    CAPABILITY_NEW,
    CAPABILITY_FIRST,
    RUN_IMPOSSIBLE,
    RUN_SKIPPED,
    RUN_START,
    RUN_STDOUT,
    RUN_ARGUMENT,
    RUN_WRITE,
    RUN_READ,
    RUN_NETWORK,
    RUN_PROGRAM,
    RUN_LIMIT,
    RUN_END,
    RUN_UNSEEN,
    TOOL_CHANGED,
    PATTERN,
    PATTERN_SUSPECT,
    PATTERN_NOTE,
    PATTERN_UNSCANNED,
    PATTERN_RULE,
    // Of the folder that the recipe lay in, which does not travel with it.
    RECIPE_OVERLOOKED,
];

/// Whether a finding of this rule is an observation.
pub(crate) fn is_observed(id: &str) -> bool {
    OBSERVED.iter().any(|rule| rule.id == id)
}

/// The classes that rules know.
const CLASSES: [&str; 4] = ["public", "internal", "confidential", "restricted"];

/// Rules that need nothing but the recipe.
pub(super) fn recipe(recipe: &Recipe, registry: Option<&RegistryName>, now: Timestamp, findings: &mut Findings) {
    let found = |rule: &Rule, field: &str, message: String, fix: &str| {
        rule.find(field, message).fix(fix).at(recipe.file(), Some(recipe.place(field)))
    };
    let class = recipe.data_classification.to_lowercase();
    if matches!(class.as_str(), "confidential" | "restricted") && recipe.lawful_basis.is_none() {
        let message = format!("missing (required because data_classification is {class})");
        let fix = "add lawful_basis, such as contract, legal obligation or legitimate interests";
        // The line of the class: that is what makes the other field necessary.
        let finding = found(&LAWFUL_BASIS, "lawful_basis", message, fix);
        findings.push(finding.at(recipe.file(), Some(recipe.place("data_classification"))));
    }
    if !CLASSES.contains(&class.as_str()) {
        let message = format!("{:?} is not one of: {}", recipe.data_classification, CLASSES.join(", "));
        let fix = "use one of them, so that the rules for a class apply";
        findings.push(found(&CLASSIFICATION, "data_classification", message, fix));
    }
    if recipe.reviewed_at > now.date() {
        let message = format!("{} is in the future (today is {})", recipe.reviewed_at, now.date());
        findings.push(found(&REVIEWED_AT, "reviewed_at", message, "write the day of the review"));
    }
    if recipe.launch.is_none() {
        let message = "missing: hosts can list and read this server, but not start it".to_owned();
        findings.push(found(&LAUNCH_MISSING, "launch", message, "add launch with a command"));
    }
    for (index, source) in recipe.artefact.iter().enumerate() {
        if source.url.starts_with("http:") {
            let field = format!("{}.url", recipe.artefact_field(index));
            let message = "fetched without encryption; only the digest protects it".to_owned();
            findings.push(found(&PLAIN_HTTP, &field, message, "use https"));
        }
    }
    variables(recipe, findings);
    invisible(recipe, findings);
    statement_size(recipe, registry, findings);
}

/// What is signed must be what a reviewer saw, also where YAML writes a character by its number.
fn invisible(recipe: &Recipe, findings: &mut Findings) {
    let Some(draft) = "r".parse().ok().and_then(|registry| recipe.draft(&registry).ok()) else { return };
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(draft) else { return };
    for (field, value) in fields {
        if let Some(found) = value.to_string().chars().find(|c| is_invisible(*c)) {
            let message = format!("has the invisible character U+{:04X}", u32::from(found));
            let finding = RECIPE_INVISIBLE.find(&field, message).fix("remove it: what people see is not what it is");
            findings.push(finding.at(recipe.file(), Some(recipe.place(&field))));
        }
    }
}

/// The same in the recipe's text, comments included: a change there reads differently from what it is.
pub(super) fn invisible_text(text: &str, file: &str, findings: &mut Findings) {
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(found) = line.chars().find(|c| is_invisible(*c)) {
            let message = format!("line {number} has the invisible character U+{:04X}", u32::from(found));
            let place = Position { line: number, column: 1 };
            findings.push(RECIPE_INVISIBLE.find("", message).fix("remove it").at(file, Some(place)));
        }
    }
}

/// What looks like a variable and is none reaches the server as it stands.
fn variables(recipe: &Recipe, findings: &mut Findings) {
    let Some(launch) = &recipe.launch else { return };
    let files = recipe.credentials.iter().any(|credential| credential.file.is_some());
    let args = launch.args.iter().enumerate().map(|(index, text)| (format!("launch.args[{index}]"), text));
    let env = launch.env.iter().map(|(name, text)| (format!("launch.env.{name}"), text));
    for (field, text) in args.chain(env) {
        for name in text.split("${").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0)) {
            if ["TREE", "STATE", "HOME"].contains(&name)
                || (files && name == "CREDENTIALS")
                || name.is_empty()
                || !name.chars().all(is_name)
            {
                continue;
            }
            let message = format!("${{{name}}} is no variable here: the server would get it as it stands");
            let fix = "use ${TREE}, ${STATE} or ${HOME}, or ${CREDENTIALS} where a credential is a file; a secret is a \
                 credential; leave it if the server itself expands it";
            findings.push(LAUNCH_VARIABLE.find(&field, message).fix(fix).at(recipe.file(), Some(recipe.place(&field))));
        }
    }
}

/// What the names of variables are made of, those of desktop clients (`user_config.key`) included.
fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-')
}

/// The statement with the largest sizes that artefacts can have.
fn statement_size(recipe: &Recipe, registry: Option<&RegistryName>, findings: &mut Findings) {
    let longest = "r".repeat(128).parse();
    let Some(registry) = registry.cloned().or(longest.ok()) else { return };
    let draft = match recipe.draft(&registry) {
        Ok(draft) => draft,
        Err(errors) => return findings.push_recipe(&errors),
    };
    let subject = draft.artefact.all().iter().flat_map(|artefact| {
        let name = |kind: &str| format!("{kind}/{}", artefact.platform);
        let tree = Subject { name: name("tree"), digest: artefact.tree.sha256 };
        [Subject { name: name("artefact"), digest: artefact.sha256 }, tree]
    });
    let statement = Statement { subject: subject.collect(), predicate: draft };
    if let Err(error) = Envelope::new(statement.encode(RELEASE_TYPE)) {
        let finding = STATEMENT_SIZE.find("", error).fix("shorten description, scope, reviewers, args or env");
        findings.push(finding.at(recipe.file(), Some(Position::START)));
    }
}

/// Names of one registry must differ by more than punctuation.
pub(super) fn similar_names(recipe: &Recipe, file: &Path, findings: &mut Findings) {
    let folded = recipe.name.folded();
    for other in super::neighbours(file, ".yml") {
        let finding = RECIPE_OVERLOOKED.find(&format!("{other}.yml"), "is looked at by nobody");
        findings.push(finding.fix(format!("call it {other}.yaml, or remove it")).at(recipe.file(), None));
    }
    for other in super::neighbours(file, ".yaml") {
        let Ok(other) = other.parse::<ServerName>() else { continue };
        if other != recipe.name && other.folded() == folded {
            let message = format!("{} and {other} differ only in '-', '_' or '.'", recipe.name);
            let finding = NAME_SIMILAR.find("name", message).fix("choose a name that nobody mistakes for the other");
            findings.push(finding.at(recipe.file(), Some(recipe.place("name"))));
        }
    }
}
