//! Who of those that approved something counts.
//!
//! Nobody approves his own work. Who did it is told by three witnesses, and each of them alone is
//! enough: the addresses in the commits (authors, committers, co-authors), the accounts that the
//! forge finds behind those addresses, and who opened the request. What none of them can tell is a
//! person who writes under an address that neither the forge nor the configuration knows.

use std::collections::BTreeSet;

use super::config::People;
use crate::forge::Reviews;

/// Who wrote what was approved.
#[derive(Debug, Default)]
pub(super) struct Writers {
    /// Addresses in commits, in lower case.
    pub(super) addresses: Vec<String>,
    /// Accounts at the forge.
    pub(super) logins: Vec<String>,
}

/// Who counts, and who does not, with the reason.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) proven: BTreeSet<String>,
    pub(super) ignored: Vec<String>,
}

impl Writers {
    /// Whether the person of this name is one of them, under any login or address.
    pub(super) fn include(&self, people: &People, name: &str) -> bool {
        people.addresses(name).any(|own| self.addresses.contains(&own))
            || people.logins(name).any(|own| self.has_login(own))
    }

    fn has_login(&self, login: &str) -> bool {
        self.logins.iter().any(|writer| writer.eq_ignore_ascii_case(login))
            || self.addresses.iter().any(|address| is_no_reply_of(address, login))
    }
}

/// Who of those that approved counts; the reason why nobody does if one of the people objects.
pub(super) fn counted(people: &People, reviews: &Reviews, writers: &Writers) -> Result<Counted, String> {
    if let Some(login) = reviews.objecting.iter().find(|login| people.by_login(login).is_some()) {
        return Err(format!("{login} requested changes and has not approved since"));
    }
    let mut counted = Counted::default();
    for (login, why) in &reviews.stale {
        counted.ignored.push(format!("{login} ({why})"));
    }
    for login in &reviews.approved {
        let Some(person) = people.by_login(login) else {
            counted.ignored.push(format!("{login} (is not a configured reviewer)"));
            continue;
        };
        if writers.has_login(login) || writers.include(people, &person.name) {
            counted.ignored.push(format!("{login} (wrote or committed it)"));
        } else {
            counted.proven.insert(person.name.clone());
        }
    }
    Ok(counted)
}

/// Whether an address is one of those that forges write into commits for a login:
/// `123+login@users.noreply.github.com`, `123-login@users.noreply.gitlab.com`, `login@noreply.example.com`.
fn is_no_reply_of(address: &str, login: &str) -> bool {
    let Some((user, domain)) = address.split_once('@') else { return false };
    let numbered = |separator| {
        user.split_once(separator).is_some_and(|(number, name)| {
            number.bytes().all(|byte| byte.is_ascii_digit()) && name.eq_ignore_ascii_case(login)
        })
    };
    domain.contains("noreply") && (user.eq_ignore_ascii_case(login) || numbered('+') || numbered('-'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn addresses_that_forges_invent() {
        for (address, login, is) in [
            ("123+alice@users.noreply.github.com", "Alice", true),
            ("alice@users.noreply.github.com", "alice", true),
            ("7-alice@users.noreply.gitlab.com", "alice", true),
            ("alice@noreply.git.example.com", "alice", true),
            ("123+bob@users.noreply.github.com", "alice", false),
            ("alice@example.com", "alice", false),
            ("x+alice@users.noreply.github.com", "alice", false),
            ("alice", "alice", false),
        ] {
            assert_eq!(is_no_reply_of(address, login), is, "{address}");
        }
    }

    #[test]
    fn nobody_approves_his_own_work_under_any_name() {
        let people: People = toml::from_str(
            "alice = [\"alice@x\", \"Alice@Home\"]\nalice-too = \"Alice@x\"\nbob = \"bob@x\"\ncarol = \"carol@x\"",
        )
        .unwrap();
        let reviews = |names: &[&str]| Reviews {
            approved: names.iter().map(ToString::to_string).collect(),
            ..Reviews::default()
        };
        let writers = |addresses: &[&str], logins: &[&str]| Writers {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            logins: logins.iter().map(ToString::to_string).collect(),
        };
        let all = reviews(&["alice-too", "bob", "eve"]);
        for (writers, proven) in [
            (writers(&["dora@x"], &["dora"]), vec!["Alice@x", "bob@x"]),
            // By each address and each login of the same person.
            (writers(&["alice@x"], &[]), vec!["bob@x"]),
            (writers(&["alice@home"], &[]), vec!["bob@x"]),
            (writers(&["1+alice@users.noreply.github.com"], &[]), vec!["bob@x"]),
            (writers(&[], &["ALICE"]), vec!["bob@x"]),
            (writers(&[], &["alice-too"]), vec!["bob@x"]),
            (writers(&["alice@home"], &["bob"]), vec![]),
        ] {
            let counted = counted(&people, &all, &writers).unwrap();
            assert_eq!(counted.proven.iter().map(String::as_str).collect::<Vec<_>>(), proven, "{writers:?}");
            assert!(counted.ignored.iter().any(|one| one.starts_with("eve (is not")), "{counted:?}");
        }
        let objecting = Reviews { objecting: vec!["Carol".to_owned()], ..all.clone() };
        assert!(counted(&people, &objecting, &Writers::default()).unwrap_err().contains("Carol requested changes"));
        let objecting = Reviews { objecting: vec!["eve".to_owned()], ..all };
        assert!(counted(&people, &objecting, &Writers::default()).is_ok(), "anybody may object, few are asked");
    }
}
