//! Who may approve, and under which addresses they write.
//!
//! A forge knows people by login, git by whatever address a commit says, and recipes by the one
//! name that reviewers have in them. Whoever wrote something must not be counted as another
//! person than who approved it, so a person may list all the addresses that he commits with.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// `[reviewers]`: persons by login.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct People(BTreeMap<String, Person>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Addresses")]
pub struct Person {
    /// The name that recipes use.
    pub name: String,
    /// Other addresses of the same person.
    pub others: Vec<String>,
}

/// One address, or a list whose first is the name.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected an address, or a list of them")]
enum Addresses {
    One(String),
    Several(Vec<String>),
}

impl From<Addresses> for Person {
    fn from(addresses: Addresses) -> Self {
        let mut all = match addresses {
            Addresses::One(name) => vec![name],
            Addresses::Several(all) => all,
        }
        .into_iter();
        Self { name: all.next().unwrap_or_default(), others: all.collect() }
    }
}

impl People {
    /// What is wrong with them.
    pub(super) fn judge(&self) -> Result<(), String> {
        if self.0.is_empty() {
            return Err("is empty: nobody could approve anything".to_owned());
        }
        let named = |text: &String| !text.trim().is_empty() && text.len() <= 256;
        let good = |(login, person): (&String, &Person)| {
            super::is_plain(login) && named(&person.name) && person.others.iter().all(named)
        };
        match self.0.iter().all(good) {
            true => Ok(()),
            false => Err("is not a table of logins and names such as alice = \"alice@example.com\"".to_owned()),
        }
    }

    /// How many logins.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many different persons.
    pub(super) fn persons(&self) -> usize {
        self.0.values().map(|person| person.name.to_lowercase()).collect::<BTreeSet<_>>().len()
    }

    /// The person behind a login.
    pub fn by_login(&self, login: &str) -> Option<&Person> {
        self.0.iter().find(|(own, _)| own.eq_ignore_ascii_case(login)).map(|(_, person)| person)
    }

    /// The person who has this address.
    pub fn by_address(&self, address: &str) -> Option<&Person> {
        self.0.values().find(|person| person.addresses().any(|own| own == address.to_lowercase()))
    }

    /// Every login of the person of this name.
    pub fn logins<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(_, person)| person.is(name)).map(|(login, _)| login.as_str())
    }

    /// Every address of the person of this name, in lower case.
    pub fn addresses<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> {
        self.0.values().filter(move |person| person.is(name)).flat_map(Person::addresses)
    }
}

impl Person {
    /// Whether it is the one of this name.
    pub fn is(&self, name: &str) -> bool {
        self.name.to_lowercase() == name.to_lowercase()
    }

    fn addresses(&self) -> impl Iterator<Item = String> {
        std::iter::once(&self.name).chain(&self.others).map(|address| address.to_lowercase())
    }
}
