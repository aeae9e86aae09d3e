//! Packages of PyPI, by the `METADATA` that their wheels leave behind.

use mcpfs_trust::error::bounded;

use super::{Ecosystem, Package};

/// A package as the `METADATA` of a wheel names it.
pub(crate) fn wheel_package(metadata: &str) -> Option<Package> {
    let (name, version, licence) = wheel(metadata)?;
    Some(Package {
        ecosystem: Ecosystem::Pypi,
        name: bounded(&name),
        version: bounded(&version),
        licence: licence.map(|text| bounded(&text)),
        install_script: false,
    })
}

/// Name, version and licence by the headers of `METADATA`.
pub(super) fn wheel(text: &str) -> Option<(String, String, Option<String>)> {
    let headers = text.lines().take_while(|line| !line.trim().is_empty());
    let headers: Vec<(&str, &str)> = headers.filter_map(|line| line.split_once(": ")).collect();
    let find = |name: &str| {
        let found = headers.iter().find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.trim().is_empty());
        found.map(|(_, value)| value.trim())
    };
    let classified = headers.iter().find_map(|(key, value)| {
        let licence = value.strip_prefix("License :: ")?.rsplit(" :: ").next()?;
        key.eq_ignore_ascii_case("Classifier").then_some(licence)
    });
    let licence = find("License-Expression").or_else(|| find("License")).or(classified);
    Some((find("Name")?.to_owned(), find("Version")?.to_owned(), licence.map(str::to_owned)))
}
