//! Packages as people and reports name them: `npm:lodash@4.17.20`.
//!
//! Whoever asks which releases carry a package asks twice, a registry for what it offers and a host for
//! what ran there. Both must mean the same package by the same words.

use crate::details::Package;

/// The ecosystems whose packages are listed, in the order of reports.
pub const ECOSYSTEMS: [&str; 4] = ["npm", "pypi", "cargo", "go"];

/// A name as it is compared: PyPI takes runs of `-_.` and cases for one ("Names and normalization" of
/// the Python Packaging User Guide), the others take names as they are.
pub fn canonical(ecosystem: &str, name: &str) -> String {
    match ecosystem {
        "pypi" => {
            let words: Vec<&str> = name.split(['-', '_', '.']).filter(|word| !word.is_empty()).collect();
            words.join("-").to_lowercase()
        }
        _ => name.to_owned(),
    }
}

/// The package that is looked for: `lodash`, `npm:lodash`, `npm:lodash@4.17.20`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageQuery {
    ecosystem: Option<String>,
    name: String,
    version: Option<String>,
}

impl std::str::FromStr for PackageQuery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ecosystem, rest) = match text.split_once(':') {
            Some((word, rest)) if ECOSYSTEMS.contains(&word) => (Some(word.to_owned()), rest),
            Some((word, _)) => return Err(format!("{word:?} is not one of: {}", ECOSYSTEMS.join(", "))),
            None => (None, text),
        };
        // A scope of npm begins with an @ of its own.
        let split = rest.char_indices().skip(1).find(|(_, c)| *c == '@').map(|(at, _)| at);
        let (name, version) = match split {
            Some(at) => (&rest[..at], Some(rest[at + 1..].to_owned())),
            None => (rest, None),
        };
        match name.is_empty() || version.as_deref() == Some("") {
            true => Err("write a package such as lodash, npm:lodash or npm:lodash@4.17.20".to_owned()),
            false => Ok(Self { ecosystem, name: name.to_owned(), version }),
        }
    }
}

impl PackageQuery {
    /// Whether it is the package of this ecosystem, name and version.
    pub fn is(&self, ecosystem: &str, name: &str, version: &str) -> bool {
        self.ecosystem.as_ref().is_none_or(|wanted| wanted == ecosystem)
            && canonical(ecosystem, &self.name) == canonical(ecosystem, name)
            && self.version.as_ref().is_none_or(|wanted| wanted == version)
    }

    /// Whether it is the package that details name.
    pub fn is_detailed(&self, package: &Package) -> bool {
        self.is(&package.ecosystem, &package.name, &package.version)
    }

    /// Whether it is the package of this id ([`Package::id`]).
    pub fn is_id(&self, id: &str) -> bool {
        let parts = id.split_once(':').and_then(|(ecosystem, rest)| Some((ecosystem, rest.rsplit_once('@')?)));
        parts.is_some_and(|(ecosystem, (name, version))| self.is(ecosystem, name, version))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn packages_are_told_apart() {
        let is = |wanted: &str, id: &str| wanted.parse::<PackageQuery>().unwrap().is_id(id);
        for (wanted, id) in [
            ("lodash", "npm:lodash@4.17.20"),
            ("npm:lodash", "npm:lodash@4.17.20"),
            ("lodash@4.17.20", "npm:lodash@4.17.20"),
            ("npm:lodash@4.17.20", "npm:lodash@4.17.20"),
            ("@s/x@1", "npm:@s/x@1"),
            ("npm:@s/x@1.0.0", "npm:@s/x@1.0.0"),
            ("Zope_Interface", "pypi:zope.interface@5"),
        ] {
            assert!(is(wanted, id), "{wanted} {id}");
        }
        for (wanted, id) in [
            ("lodash", "npm:lodash.merge@1"),
            ("npm:lodash.merge", "npm:lodash@4.17.20"),
            ("npm:lodash@4.17.2", "npm:lodash@4.17.20"),
            ("pypi:lodash", "npm:lodash@4.17.20"),
            ("Lodash", "npm:lodash@4.17.20"),
            ("lodash", "lodash"),
        ] {
            assert!(!is(wanted, id), "{wanted} {id}");
        }
    }

    #[test]
    fn packages_are_named_as_reports_name_them() {
        let read = |text: &str| text.parse::<PackageQuery>().map(|one| (one.ecosystem, one.name, one.version));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("lodash"), Ok((None, "lodash".to_owned(), None)));
        assert_eq!(read("npm:@s/x@1.0.0"), Ok((some("npm"), "@s/x".to_owned(), some("1.0.0"))));
        assert_eq!(read("@s/x"), Ok((None, "@s/x".to_owned(), None)));
        assert_eq!(read("go:golang.org/x/net"), Ok((some("go"), "golang.org/x/net".to_owned(), None)));
        for bad in ["", "npm:", "lodash@", "gem:rails"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
