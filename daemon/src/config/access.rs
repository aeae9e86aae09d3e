//! `[access]`: which group of this host may use which server.
//!
//! A rule is one group and not a list of users, since it becomes the group of `/mcp/<name>`, by which the
//! kernel itself decides about every path. Groups are turned into numbers once, by whoever reads the files:
//! root's process, in a mount of root's. The numbers go with the text of the configuration
//! ([`Texts::with_groups`](super::Texts::with_groups)), so that a worker that takes another's place has those
//! that were in force, whatever a directory service says by then, or does not say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mcpfs_trust::error::bounded;
use mcpfs_trust::name::ServerName;
use serde::Deserialize;
use serde_json::json;

use super::numbers::usable;

/// Longest name of a group, bytes.
const NAME_BYTES: usize = 256;
/// Longest `access.contact`, bytes.
const CONTACT_BYTES: usize = 200;
/// Who may use which server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// `default`: the group of all servers that `servers` does not name; "*", which is everybody, without it.
    default: Rule,
    /// `servers`: by a name, or a prefix and one final `*`; a name wins, else the longer prefix.
    servers: BTreeMap<String, Rule>,
    /// Those of its keys that are prefixes, the longest first.
    prefixes: Vec<String>,
    /// `contact`: whom to ask for membership, as people without it are told.
    contact: Option<String>,
    /// The numbers of the groups that are named.
    numbers: BTreeMap<String, u32>,
}

/// Who may use a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Rule {
    /// "*"
    #[default]
    Everybody,
    /// A group's name.
    Named(String),
    /// Its number.
    Numbered(u32),
}

/// The group that a server is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name; of one that configuration numbers, the number.
    pub name: String,
    /// Its number; none if it was never looked up, and then it has no members.
    pub gid: Option<u32>,
    /// The setting that says so.
    pub setting: String,
}

/// What is known of somebody and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Membership {
    /// Has it.
    Member,
    /// Has it not.
    Stranger,
    /// The host does not say, and why.
    Unknown(&'static str),
}

impl Access {
    /// The group that `name` is for; `None` is everybody.
    pub fn group_of(&self, name: &ServerName) -> Option<Group> {
        let covers = |key: &&String| key.strip_suffix('*').is_some_and(|prefix| name.as_str().starts_with(prefix));
        let named = self.servers.get_key_value(name.as_str());
        let found = named.or_else(|| self.servers.get_key_value(self.prefixes.iter().find(covers)?));
        match found {
            Some((key, rule)) => self.group(rule, || format!("access.servers.{key}")),
            None => self.group(&self.default, || "access.default".to_owned()),
        }
    }

    fn group(&self, rule: &Rule, setting: impl FnOnce() -> String) -> Option<Group> {
        let (name, gid) = match rule {
            Rule::Everybody => return None,
            Rule::Named(name) => (name.clone(), self.numbers.get(name).copied()),
            Rule::Numbered(gid) => (gid.to_string(), Some(*gid)),
        };
        Some(Group { name, gid, setting: setting() })
    }

    /// Whether somebody may use `name`. `uid` and `gid` are the kernel's word; what further groups he has is
    /// asked only if it matters. Root may use everything, as everywhere.
    ///
    /// # Errors
    /// Which group it is for, for people.
    pub(crate) fn admits(
        &self,
        name: &ServerName,
        (uid, gid): (u32, u32),
        further: impl FnOnce(u32) -> Membership,
    ) -> Result<(), String> {
        let Some(group) = self.group_of(name) else { return Ok(()) };
        if uid == 0 {
            return Ok(());
        }
        let membership = match group.gid {
            None => Membership::Unknown("its number is not known"),
            Some(wanted) if wanted == gid => Membership::Member,
            Some(wanted) => further(wanted),
        };
        let rule = format!("{name} is for members of the group {} ({})", bounded(&group.name), group.setting);
        match membership {
            Membership::Member => Ok(()),
            Membership::Stranger => Err(rule),
            Membership::Unknown(why) => Err(format!("{rule}; whether it may be opened cannot be told: {why}")),
        }
    }

    /// What somebody without the group can do.
    pub(crate) fn advice(&self, name: &ServerName) -> String {
        let whom = self.contact.as_deref().unwrap_or("your administrator");
        let group = self.group_of(name).map(|group| group.name).unwrap_or_default();
        format!("ask {whom} to make you a member of {}; it counts from your next log-in on", bounded(&group))
    }

    /// Whether any server is for a group.
    pub fn is_open(&self) -> bool {
        self.default == Rule::Everybody && self.servers.values().all(|rule| *rule == Rule::Everybody)
    }

    /// The exact names of servers that have a rule of their own.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.servers.keys().map(String::as_str).filter(|key| !key.ends_with('*'))
    }

    /// The names of all groups.
    pub(crate) fn groups(&self) -> BTreeSet<&str> {
        let rules = self.servers.values().chain([&self.default]);
        rules.filter_map(|rule| if let Rule::Named(name) = rule { Some(name.as_str()) } else { None }).collect()
    }

    /// A setting that names this group.
    pub(super) fn setting_of(&self, group: &str) -> String {
        let names = |rule: &Rule| matches!(rule, Rule::Named(name) if name == group);
        let key = self.servers.iter().find_map(|(key, rule)| names(rule).then_some(key));
        key.map_or_else(|| "access.default".to_owned(), |key| format!("access.servers.{key}"))
    }

    /// The rules as facts: for each its group, or "*".
    pub(crate) fn facts(&self) -> serde_json::Value {
        let fact = |rule: &Rule| match self.group(rule, String::new) {
            None => json!("*"),
            Some(Group { name, gid, .. }) => json!({"group": name, "gid": gid}),
        };
        let servers: BTreeMap<_, _> = self.servers.iter().map(|(key, rule)| (key, fact(rule))).collect();
        json!({"default": fact(&self.default), "servers": servers, "contact": self.contact})
    }

    /// The same rules with the numbers of their groups.
    pub(super) fn with(self, numbers: BTreeMap<String, u32>) -> Self {
        Self { numbers, ..self }
    }
}

impl fmt::Display for Access {
    /// Each rule, the one for all others last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |rule: &Rule| match self.group(rule, String::new) {
            None => "everybody".to_owned(),
            Some(Group { name, gid: Some(gid), .. }) if name != gid.to_string() => format!("{name} ({gid})"),
            Some(Group { name, .. }) => name,
        };
        for (key, rule) in &self.servers {
            write!(f, "{key}: {}; ", words(rule))?;
        }
        write!(f, "{}: {}", if self.servers.is_empty() { "all" } else { "others" }, words(&self.default))
    }
}

/// `[access]` as it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PartialAccess {
    default: Rule,
    servers: BTreeMap<Covered, Rule>,
    contact: Option<Contact>,
}

impl From<PartialAccess> for Access {
    fn from(written: PartialAccess) -> Self {
        let servers: BTreeMap<_, _> = written.servers.into_iter().map(|(key, rule)| (key.0, rule)).collect();
        let mut prefixes: Vec<String> = servers.keys().filter(|key| key.ends_with('*')).cloned().collect();
        prefixes.sort_by_key(|key| std::cmp::Reverse(key.len()));
        let contact = written.contact.map(|contact| contact.0);
        Self { default: written.default, servers, prefixes, contact, numbers: BTreeMap::new() }
    }
}

/// A key of `servers`.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
struct Covered(String);

impl TryFrom<String> for Covered {
    type Error = String;

    fn try_from(key: String) -> Result<Self, String> {
        let prefix = match key.strip_suffix('*') {
            None => return key.parse::<ServerName>().map(|_| Self(key)).map_err(|error| error.to_string()),
            Some("") => return Err("\"*\" as a name: what holds for all others is access.default".to_owned()),
            // Reserved names can begin others.
            Some(prefix) => format!("{prefix}0"),
        };
        match prefix.parse::<ServerName>() {
            Ok(_) => Ok(Self(key)),
            Err(_) => Err(format!(
                "{} is not how names of servers begin: a key of access.servers is a name, or a prefix and one final *",
                bounded(&key)
            )),
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Contact(String);

impl TryFrom<String> for Contact {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.is_empty() || text.len() > CONTACT_BYTES || text.chars().any(char::is_control) {
            true => {
                Err(format!("access.contact is whom to ask for membership, one line of at most {CONTACT_BYTES} bytes"))
            }
            false => Ok(Self(text)),
        }
    }
}

/// TOML's own types of a rule.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "one group: its name such as \"finance\", its number such as 5000, or \"*\" for everybody"
)]
enum Written {
    Number(u32),
    Text(String),
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        rule(Written::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn rule(written: Written) -> Result<Rule, String> {
    match written {
        Written::Text(text) if text == "*" => Ok(Rule::Everybody),
        Written::Text(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("{text:?} would be a group's name; a group's number stands without quotes"))
        }
        Written::Text(text) if text.is_empty() || text.len() > NAME_BYTES || text.chars().any(char::is_control) => {
            Err("that is no group: write its name, its number without quotes, or \"*\" for everybody".to_owned())
        }
        Written::Text(name) => Ok(Rule::Named(name)),
        Written::Number(gid) => usable(gid).map(|()| Rule::Numbered(gid)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn access(text: &str) -> Access {
        Access::from(toml::from_str::<PartialAccess>(text).unwrap())
    }

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    const RULES: &str = "default = \"staff\"\ncontact = \"it@example.com\"\n[servers]\nnotes = \"*\"\nledger = 5000\n\
                         \"finance-*\" = \"finance\"\n\"finance-pub*\" = \"*\"\nfinance-pubs = \"audit\"\n";

    #[test]
    fn the_nearest_rule_decides() {
        let numbers = [("staff", 50), ("finance", 60), ("audit", 70)].map(|(name, gid)| (name.to_owned(), gid));
        let access = access(RULES).with(numbers.into());
        let of = |server: &str| access.group_of(&name(server)).map(|group| (group.name, group.gid, group.setting));
        let is = |group: &str, gid, setting: &str| Some((group.to_owned(), Some(gid), setting.to_owned()));
        assert_eq!(of("other"), is("staff", 50, "access.default"));
        assert_eq!(of("notes"), None);
        assert_eq!(of("ledger"), is("5000", 5000, "access.servers.ledger"));
        assert_eq!(of("finance-dw"), is("finance", 60, "access.servers.finance-*"));
        assert_eq!(of("finance"), is("staff", 50, "access.default"));
        assert_eq!(of("finance-public"), None);
        assert_eq!(of("finance-pubs"), is("audit", 70, "access.servers.finance-pubs"));
        assert_eq!(access.groups().into_iter().collect::<Vec<_>>(), ["audit", "finance", "staff"]);
        assert_eq!(access.names().collect::<Vec<_>>(), ["finance-pubs", "ledger", "notes"]);
        assert!(!access.is_open() && Access::default().is_open());
        assert_eq!(Access::default().group_of(&name("other")), None);
        assert_eq!(
            access.to_string(),
            "finance-*: finance (60); finance-pub*: everybody; finance-pubs: audit (70); ledger: 5000; notes: everybody; \
             others: staff (50)"
        );
        assert_eq!(Access::default().to_string(), "all: everybody");
        let facts = access.facts();
        assert_eq!(facts["default"], json!({"group": "staff", "gid": 50}));
        assert_eq!((&facts["servers"]["notes"], &facts["contact"]), (&json!("*"), &json!("it@example.com")));
    }

    #[test]
    fn the_manual_is_right() {
        let manual = include_str!("../../../docs/operating.md");
        let block = manual.split("conf.d/20-access.toml\n").nth(1).unwrap().split("```").next().unwrap();
        #[derive(Deserialize)]
        struct Whole {
            access: PartialAccess,
        }
        let access = Access::from(toml::from_str::<Whole>(block).unwrap().access);
        let of = |server: &str| access.group_of(&name(server)).map(|group| group.name);
        assert_eq!(of("internal-postgres").as_deref(), Some("finance"));
        assert_eq!(of("payroll-2026").as_deref(), Some("hr"));
        assert_eq!((of("notes"), of("another").as_deref()), (None, Some("mcp-users")));
        assert!(access.advice(&name("another")).contains("it@example.com"));
    }

    #[test]
    fn who_is_admitted() {
        let access = access(RULES).with([("finance".to_owned(), 60)].into());
        let nobody = |_| -> Membership { panic!("nothing to ask") };
        let dw = name("finance-dw");
        assert_eq!(access.admits(&name("notes"), (7, 7), nobody), Ok(()));
        assert_eq!(access.admits(&dw, (0, 0), nobody), Ok(()));
        assert_eq!(access.admits(&dw, (7, 60), nobody), Ok(()));
        assert_eq!(
            access.admits(&dw, (7, 7), |gid| {
                assert_eq!(gid, 60);
                Membership::Member
            }),
            Ok(())
        );
        let refused = access.admits(&dw, (7, 7), |_| Membership::Stranger).unwrap_err();
        assert_eq!(refused, "finance-dw is for members of the group finance (access.servers.finance-*)");
        let unknown = access.admits(&dw, (7, 7), |_| Membership::Unknown("it is hidden")).unwrap_err();
        assert!(unknown.ends_with("cannot be told: it is hidden"), "{unknown}");
        // A group that nobody has looked up has no members, not all of them.
        assert!(access.admits(&name("other"), (7, 7), nobody).is_err());
        assert!(access.advice(&dw).starts_with("ask it@example.com to make you a member of finance"));
    }

    #[test]
    fn what_is_no_rule() {
        for (text, says) in [
            ("default = \"\"", "no group"),
            ("default = \"5000\"", "without quotes"),
            ("default = [\"a\", \"b\"]", "one group"),
            ("default = -1", "one group"),
            ("default = 4294967295", "no group's number"),
            ("default = 65534", "cannot name"),
            ("default = \"a\\nb\"", "no group"),
            ("contact = \"\"", "whom to ask"),
            ("[servers]\nHELLO = \"x\"", "not a server name"),
            ("[servers]\n\"*\" = \"x\"", "access.default"),
            ("[servers]\n\"a*b\" = \"x\"", "not a server name"),
            ("[servers]\n\"A*\" = \"x\"", "one final *"),
            ("hello = \"x\"", "unknown field"),
        ] {
            let error = toml::from_str::<PartialAccess>(text).map(drop).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(toml::from_str::<PartialAccess>("[servers]\n\"run*\" = \"x\"").is_ok());
    }
}
