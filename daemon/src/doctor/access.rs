//! `[access]`: whether what it names is there, and whether its groups can be told.

use std::collections::BTreeMap;

use super::finding::{Check, Finding, State};
use super::{Subject, walls};
use crate::config::{Access, NoNumber, look_up};
use crate::control::client;
use crate::control::facts::Page;
use crate::control::protocol::Request;

/// Pages of the list of servers that are asked for, at most.
const PAGES: usize = 256;

pub(super) fn look(subject: &Subject) -> Vec<Finding> {
    let access = &subject.config.access;
    let hidden = walls::hidepid(&subject.mounts).state == State::Wrong;
    if access.is_open() && !subject.is_roots() {
        return vec![Finding::ok(Check::Access, "whoever sees this user's mount may use every server that is shown")];
    }
    vec![judge(access, &look_up(access.groups()), hidden, servers(subject).as_deref())]
}

/// The names that the registry has; none if the daemon does not say.
pub(super) fn servers(subject: &Subject) -> Option<Vec<String>> {
    // Without a head it knows no names at all.
    subject.status.as_ref().ok()?.head.as_ref()?;
    let mut names = Vec::new();
    let mut after = None;
    for _ in 0..PAGES {
        let page: Page = client::ask(&subject.config.rundir, &Request::List { all: true, after }).ok()?;
        names.extend(page.servers.into_iter().map(|row| row.name));
        after = page.next;
        if after.is_none() {
            return Some(names);
        }
    }
    None
}

/// From the rules, the numbers of their groups, whether `/proc` hides processes from the worker, and the names that
/// there are.
pub(super) fn judge(
    access: &Access,
    groups: &BTreeMap<String, Result<u32, NoNumber>>,
    hidden: bool,
    servers: Option<&[String]>,
) -> Finding {
    if access.is_open() {
        return Finding::ok(Check::Access, "every user of this host may use every server that is shown");
    }
    let wrong = groups.iter().find_map(|(name, number)| Some((name, number.as_ref().err()?)));
    if let Some((name, NoNumber::Wrong(why) | NoNumber::Unanswered(why))) = wrong {
        return Finding::wrong(
            Check::Access,
            format!("[access] names the group {name}: {why}; what runs keeps the number it had"),
            "make the group, or correct [access]; until then nothing can be reloaded, and no start succeeds",
        );
    }
    if hidden {
        return Finding::wrong(
            Check::Access,
            "/proc hides processes: whose primary group is not the server's is refused, member or not",
            "see hidepid above",
        );
    }
    let unknown = |name: &&str| servers.is_some_and(|servers| !servers.iter().any(|one| one == name));
    match access.names().find(unknown) {
        Some(name) => Finding::note(
            Check::Access,
            format!("access.servers.{name}: the registry has no such server"),
            "nothing, if it is still to come; else correct the name: what was meant is open to others",
        ),
        None => Finding::ok(Check::Access, access.to_string()),
    }
}
