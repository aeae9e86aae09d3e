//! Which of two versions is the later one, by the rules of each ecosystem.
//!
//! A version that does not follow its ecosystem's rules has no place in that order. Guessing one
//! would make a vulnerable package look mended, so it is told apart instead.

use std::cmp::Ordering;
use std::str::FromStr as _;

use super::super::dependencies::Ecosystem;

/// A version that has a place in the order of its ecosystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ordered {
    /// Before all others: `introduced: "0"`.
    First,
    /// npm, crates.io and Go.
    Semver(semver::Version),
    /// PyPI.
    Pep440(pep440_rs::Version),
}

impl Ordered {
    /// Longer texts are no versions.
    const BYTES: usize = 256;

    /// A version of a package.
    pub(super) fn parse(ecosystem: Ecosystem, text: &str) -> Option<Self> {
        if text.len() > Self::BYTES {
            return None;
        }
        match ecosystem {
            Ecosystem::Pypi => pep440_rs::Version::from_str(text).ok().map(Self::Pep440),
            Ecosystem::Npm | Ecosystem::Cargo | Ecosystem::Go => semver(text).map(Self::Semver),
        }
    }

    /// A version in an advisory's events.
    pub(super) fn of_event(ecosystem: Ecosystem, text: &str) -> Option<Self> {
        if text == "0" { Some(Self::First) } else { Self::parse(ecosystem, text) }
    }

    pub(super) fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            // What is built differently is the same version: build metadata has no order.
            (Self::Semver(a), Self::Semver(b)) => a.cmp_precedence(b),
            (Self::Pep440(a), Self::Pep440(b)) => a.cmp(b),
            (Self::First, Self::First) => Ordering::Equal,
            (Self::First, _) => Ordering::Less,
            (_, Self::First) => Ordering::Greater,
            // Never both in one ecosystem.
            (Self::Semver(_), Self::Pep440(_)) | (Self::Pep440(_), Self::Semver(_)) => Ordering::Equal,
        }
    }
}

/// `1.2.3`, `v1.2.3` as Go writes it, and `1.2` as people do.
fn semver(text: &str) -> Option<semver::Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    match numbers.split('.').count() {
        1 => semver::Version::parse(&format!("{numbers}.0.0{rest}")).ok(),
        2 => semver::Version::parse(&format!("{numbers}.0{rest}")).ok(),
        _ => semver::Version::parse(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn later_ones_come_last() {
        let sorted = [
            (Ecosystem::Npm, &["1.2.3-alpha.9", "1.2.3-alpha.10", "1.2.3-rc.1", "1.2.3", "1.10.0", "2"][..]),
            (Ecosystem::Cargo, &["0.9.0", "0.10.0-pre", "0.10.0"]),
            (
                Ecosystem::Go,
                &[
                    "v0.0.0-20210101000000-abcdefabcdef",
                    "v0.0.1",
                    "1.20.0-0",
                    "1.20.0-rc.1",
                    "v1.20.0+incompatible",
                    "1.20.1",
                ],
            ),
            (Ecosystem::Pypi, &["1.0.dev1", "1.0a1", "1.0rc1", "1.0", "1.0.post1", "1.0.1", "1.10", "2018.4", "1!0.1"]),
        ];
        for (ecosystem, versions) in sorted {
            let parsed: Vec<Ordered> = versions.iter().map(|text| Ordered::parse(ecosystem, text).unwrap()).collect();
            for pair in parsed.windows(2) {
                assert_eq!(pair[0].order(&pair[1]), Ordering::Less, "{pair:?}");
                assert_eq!(Ordered::First.order(&pair[0]), Ordering::Less);
            }
        }
        let same = |ecosystem, a, b| {
            Ordered::parse(ecosystem, a).unwrap().order(&Ordered::parse(ecosystem, b).unwrap()) == Ordering::Equal
        };
        assert!(same(Ecosystem::Pypi, "1.0", "1.0.0") && same(Ecosystem::Npm, "1.0.0+a", "1.0.0+b"));
    }

    #[test]
    fn what_has_no_place_is_told() {
        for (ecosystem, text) in [
            (Ecosystem::Npm, "unknown"),
            (Ecosystem::Npm, "1.2.3.4"),
            (Ecosystem::Npm, "1.02.0"),
            (Ecosystem::Npm, "99999999999999999999.0.0"),
            (Ecosystem::Go, "(devel)"),
            (Ecosystem::Pypi, "2004d"),
            (Ecosystem::Cargo, ""),
        ] {
            assert_eq!(Ordered::parse(ecosystem, text), None, "{text}");
        }
        assert_eq!(Ordered::parse(Ecosystem::Pypi, &"1.".repeat(1_000)), None);
    }
}
