//! Names, validated where they are made: an unvalidated name cannot be expressed.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::json::as_text;
use crate::limits;

/// A server's name: `[a-z0-9][a-z0-9._-]{0,63}`, not reserved (docs/format.md section 4).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName(String);

/// A version: `[0-9][0-9A-Za-z.+-]{0,63}`. The reviewed YAML says which is used and `issued` which is older;
/// only among releases of the same second is it [`Version::precedence`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(String);

/// A registry's name, such as `mcp.example.com/prod`: `[a-z0-9][a-z0-9._/-]{0,127}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryName(String);

/// `any`, or an operating system and architecture such as `linux/amd64`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform(String);

/// A text that cannot be such a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not a server name.
    #[error("not a server name (1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit): {0:?}")]
    Server(String),
    /// A name that the mount or a module loader looks for.
    #[error("the name {0:?} is reserved: the mount or a module loader would take it for something else")]
    Reserved(String),
    /// Not a version.
    #[error("not a version (1 to 64 of 0-9 A-Z a-z . + -, beginning with a digit): {0:?}")]
    Version(String),
    /// Not a registry name.
    #[error("not a registry name (1 to 128 of a-z 0-9 . _ / -, beginning with a letter or digit): {0:?}")]
    Registry(String),
    /// Not a platform.
    #[error("not a platform (any, linux/amd64, linux/arm64, …): {0:?}")]
    Platform(String),
    /// Not a file name.
    #[error("not a file name (UTF-8 of at most 255 bytes without control characters or '/', not . or ..): {0:?}")]
    File(String),
}

/// Names a server cannot have: entries of the mount, and what Node, Python and
/// their tools look for in every folder above a file.
pub const RESERVED: [&str; 12] = [
    "node_modules",
    "package.json",
    "package-lock.json",
    "tsconfig.json",
    "jsconfig.json",
    "pyproject.toml",
    "pyvenv.cfg",
    "setup.cfg",
    "tox.ini",
    "run",
    "tree",
    "release.json",
];

/// Checks `text` against a first-byte and a following-byte class and a length in bytes.
fn matches(text: &str, longest: usize, first: fn(u8) -> bool, rest: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    (1..=longest).contains(&bytes.len()) && first(bytes[0]) && bytes.iter().all(|&byte| rest(byte))
}

const fn lower_or_digit(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9')
}

const fn server_byte(byte: u8) -> bool {
    lower_or_digit(byte) || matches!(byte, b'.' | b'_' | b'-')
}

const fn registry_byte(byte: u8) -> bool {
    server_byte(byte) || byte == b'/'
}

const fn digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

const fn version_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-')
}

fn echo(text: &str) -> String {
    text.chars().take(80).collect()
}

impl ServerName {
    /// The name with `-`, `_` and `.` made equal: two servers of one registry may not share it.
    pub fn folded(&self) -> String {
        self.0.replace(['_', '.'], "-")
    }
}

impl FromStr for ServerName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if !matches(text, 64, lower_or_digit, server_byte) {
            return Err(BadName::Server(echo(text)));
        }
        if RESERVED.contains(&text) {
            return Err(BadName::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Version {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        match matches(text, 64, digit, version_byte) {
            true => Ok(Self(text.to_owned())),
            false => Err(BadName::Version(echo(text))),
        }
    }
}

impl Version {
    /// As people read versions, where nothing else says which is older: numbers by their value, what is behind a `-`
    /// before the same without it, `+` and what follows last (docs/decisions/0027).
    pub fn precedence(&self, other: &Self) -> Ordering {
        let key = |version: &Self| {
            let (rest, build) = version.0.split_once('+').unwrap_or((&version.0, ""));
            let (core, before) = rest.split_once('-').unwrap_or((rest, ""));
            (parts(core), before.is_empty(), parts(before), parts(build))
        };
        key(self).cmp(&key(other)).then_with(|| self.cmp(other))
    }
}

/// A run of digits or of other characters. Words come before numbers: `1.a` is older than `1.1`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Word(String),
    /// Without leading zeros; a longer one is the greater.
    Number(usize, String),
}

fn parts(text: &str) -> Vec<Part> {
    let runs = text
        .split(['.', '-', '+'])
        .flat_map(|part| part.as_bytes().chunk_by(|one, next| one.is_ascii_digit() == next.is_ascii_digit()));
    let runs = runs.map(|run| String::from_utf8_lossy(run));
    runs.map(|run| match run.starts_with(|first: char| first.is_ascii_digit()) {
        true => {
            let number = run.trim_start_matches('0');
            Part::Number(number.len(), number.to_owned())
        }
        false => Part::Word(run.into_owned()),
    })
    .collect()
}

impl RegistryName {
    /// Whether the in-memory demo key may sign for this registry (`demo/…`).
    pub fn is_demo(&self) -> bool {
        self.0.starts_with("demo/")
    }
}

impl FromStr for RegistryName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        match matches(text, 128, lower_or_digit, registry_byte) {
            true => Ok(Self(text.to_owned())),
            false => Err(BadName::Registry(echo(text))),
        }
    }
}

impl Platform {
    /// The platform of artefacts that run anywhere.
    pub fn any() -> Self {
        Self("any".to_owned())
    }

    /// Whether this is `any`.
    pub fn is_any(&self) -> bool {
        self.0 == "any"
    }

    /// From Rust's names (`std::env::consts`): `x86_64` is `amd64`, `aarch64` is `arm64`.
    pub fn from_rust(os: &str, arch: &str) -> Self {
        let arch = match arch {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self(format!("{os}/{arch}"))
    }
}

impl FromStr for Platform {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let part = |part: &str| matches(part, 31, lower_or_digit, lower_or_digit);
        match text.split_once('/') {
            None if text == "any" => Ok(Self::any()),
            Some((os, arch)) if part(os) && part(arch) => Ok(Self(text.to_owned())),
            _ => Err(BadName::Platform(echo(text))),
        }
    }
}

/// Checks one component of a tree's path: UTF-8 is given by the type.
///
/// # Errors
/// `BadName::File` for an empty name, `.`, `..`, a `/`, a control character or above 255 bytes.
pub fn check_file_name(text: &str) -> Result<(), BadName> {
    let bad = text.is_empty()
        || text.len() > limits::NAME_BYTES
        || text == "."
        || text == ".."
        || text.chars().any(|c| c == '/' || c.is_control());
    if bad { Err(BadName::File(echo(text))) } else { Ok(()) }
}

macro_rules! name {
    ($type:ident, $pattern:literal) => {
        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        as_text!($type, $pattern);
    };
}
name!(ServerName, "^[a-z0-9][a-z0-9._-]{0,63}$");
name!(Version, "^[0-9][0-9A-Za-z.+-]{0,63}$");
name!(RegistryName, "^[a-z0-9][a-z0-9._/-]{0,127}$");
name!(Platform, "^(any|[a-z0-9]{1,31}/[a-z0-9]{1,31})$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names() {
        for good in ["a", "internal-postgres", "0x.y_z", &"a".repeat(64)] {
            assert!(good.parse::<ServerName>().is_ok(), "{good}");
        }
        for bad in ["", "..", ".a", "-a", "A", "a/b", "a\0", "a b", "é", "run", "node_modules", &"a".repeat(65)] {
            assert!(bad.parse::<ServerName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions() {
        for good in ["1", "1.2.0", "2026.8.31", "1.0.0+r2", "1.0.0-rc.1"] {
            assert!(good.parse::<Version>().is_ok(), "{good}");
        }
        for bad in ["", "v1", "1/2", "..", "1 ", "1_0", &"1".repeat(65)] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_in_the_order_of_people() {
        let order = [
            "0.9",
            "1",
            "1.0",
            "1.0.0-a",
            "1.0.0-alpha.2",
            "1.0.0-rc.2",
            "1.0.0-rc.10",
            "1.0.0",
            "1.0.0+r2",
            "1.0.0+r10",
            "1.0.1",
            "1.0.2rc1",
            "1.2",
            "1.10",
            "2",
            "2026.8.31",
            "2026.08.32",
            "20260101",
        ];
        for (at, one) in order.iter().enumerate() {
            for (other_at, other) in order.iter().enumerate() {
                let (one, other) = (Version(one.to_string()), Version(other.to_string()));
                assert_eq!(one.precedence(&other), at.cmp(&other_at), "{one} and {other}");
            }
        }
    }

    #[test]
    fn file_names() {
        for good in ["a", "...", "ünï", " ", "a\\b", ".hidden"] {
            assert!(check_file_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a\nb", "a\u{7f}", "a\u{9f}", &"é".repeat(128)] {
            assert!(check_file_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn platforms_and_registries() {
        assert_eq!("linux/amd64".parse(), Ok(Platform::from_rust("linux", "x86_64")));
        for bad in ["", "linux", "linux/", "/amd64", "linux/amd64/v3", "Linux/amd64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        assert!("demo/hello".parse::<RegistryName>().is_ok_and(|name| name.is_demo()));
        assert!("demolition".parse::<RegistryName>().is_ok_and(|name| !name.is_demo()));
    }
}
