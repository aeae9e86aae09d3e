//! The small values of configuration files in their written form, and where things
//! are by default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::{Pin, PinsDefault};

/// A time span: a number and `s`, `m`, `h` or `d`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Span(pub(super) Duration);

/// A size: a number of bytes, or one with `kB`, `MB`, `GB`, `TB`, `KiB`, `MiB`, `GiB`, `TiB`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "Number")]
pub(super) struct Size(pub(super) u64);

/// TOML lets a size be a bare number too.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a size is such as \"20GiB\" or a whole number of bytes")]
enum Number {
    Bare(u64),
    Text(String),
}

/// One mirror or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "an address, or a list of addresses")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// The mirrors of the site.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "OneOrMany")]
pub(super) struct Mirrors(pub(super) Vec<Url>);

/// An address of this host, and a port.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Listen(pub(super) SocketAddr);

/// A proxy's address.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ProxyAddress(pub(super) String);

/// A value of the pins table: `default` has words, every other key a version.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum PinValue {
    /// Of `default`.
    Default(PinsDefault),
    /// Of a name.
    Pin(Pin),
}

/// The number at the start of `text`, and its unit.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, text[digits..].trim()))
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a time span such as \"30s\", \"5m\", \"12h\" or \"30d\"");
        let (number, unit) = number_and_unit(&text).ok_or_else(bad)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(bad()),
        };
        // A hundred years keeps every sum with a time stamp far from overflow.
        match number.checked_mul(seconds) {
            Some(span @ 1..=3_153_600_000) => Ok(Self(Duration::from_secs(span))),
            _ => Err(bad()),
        }
    }
}

impl TryFrom<Number> for Size {
    type Error = String;

    fn try_from(number: Number) -> Result<Self, String> {
        let text = match number {
            Number::Bare(bytes) => return Ok(Self(bytes)),
            Number::Text(text) => text,
        };
        let bad = || format!("{text:?} is not a size such as \"20GiB\" or \"500MB\"");
        let (number, unit) = number_and_unit(&text).ok_or_else(bad)?;
        let factor = match unit {
            "" | "B" => 1,
            "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(bad()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(bad)
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bad = |_| format!("{text:?} is not an address and a port such as \"127.0.0.1:9911\" or \"[::1]:9911\"");
        text.parse().map(Self).map_err(bad)
    }
}

impl TryFrom<String> for ProxyAddress {
    type Error = String;

    // What was written is not said: it may hold a password.
    fn try_from(text: String) -> Result<Self, String> {
        let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        url.map(|_| Self(text)).ok_or(
            "a proxy is such as \"http://proxy.example.com:3128\"; it is spoken to by http: or https:".to_owned(),
        )
    }
}

impl TryFrom<OneOrMany> for Mirrors {
    type Error = String;

    fn try_from(given: OneOrMany) -> Result<Self, String> {
        let list = match given {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        };
        if list.is_empty() {
            return Err("needs at least one address".to_owned());
        }
        list.iter().map(|text| mirror(text)).collect::<Result<_, _>>().map(Self)
    }
}

/// A site's address as a directory: ending in `/`, so that paths can be joined to it.
pub(crate) fn mirror(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase if !text.is_empty() && !text.starts_with(['/', '.']) => {
            format!("{text:?} is not a whole address: write https://{}/", text.trim_end_matches('/'))
        }
        error => format!("{text:?} is not an address ({error}); it is such as https://mcp.example.com/prod/"),
    })?;
    if !matches!(url.scheme(), "https" | "http" | "file") {
        let such = "it is such as https://mcp.example.com/prod/";
        return Err(format!("{text:?}: a site is reached by https:, http: or file:; {such}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address must not carry a password: use registry.token_file".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{text:?}: a site's address has no query and no fragment"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

impl TryFrom<String> for PinValue {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match PinsDefault::from_word(&text) {
            Some(default) => Ok(Self::Default(default)),
            None => text.parse().map(Self::Pin),
        }
    }
}

impl PinsDefault {
    /// By the word that is written in configuration.
    pub(super) fn from_word(word: &str) -> Option<Self> {
        match word {
            "catalogue" => Some(Self::Catalogue),
            "none" => Some(Self::None),
            _ => None,
        }
    }
}

impl FromStr for Pin {
    type Err = String;

    /// `VERSION` or `VERSION@sha256:DIGEST`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (version, digest) = match text.split_once('@') {
            Some((version, digest)) => (version, Some(digest)),
            None => (text, None),
        };
        let version = version.parse().map_err(|error: mcpfs_trust::name::BadName| error.to_string())?;
        let sha256 = match digest.map(|digest| digest.strip_prefix("sha256:").map(str::parse)) {
            None => None,
            Some(Some(Ok(digest))) => Some(digest),
            Some(_) => return Err(format!("{text:?}: after @ stands sha256: and 64 hexadecimal digits")),
        };
        Ok(Self { version, sha256 })
    }
}

/// Where things are unless configuration says otherwise.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Places {
    pub(super) config: PathBuf,
    pub(super) state: PathBuf,
    pub(super) cache: PathBuf,
    pub(super) rundir: PathBuf,
    pub(super) at: PathBuf,
}

impl Places {
    /// The system's for root, those of the XDG base directories for everybody else.
    pub(super) fn of_this_user() -> Self {
        if rustix::process::geteuid().is_root() {
            return Self {
                config: "/etc/mcpfs/mcpfs.toml".into(),
                state: "/var/lib/mcpfs".into(),
                cache: "/var/cache/mcpfs".into(),
                rundir: "/run/mcpfs".into(),
                at: "/mcp".into(),
            };
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME").unwrap_or_else(|| "/".into());
        let base = |name, otherwise: &str| absolute(name).unwrap_or_else(|| home.join(otherwise)).join("mcpfs");
        Self {
            config: base("XDG_CONFIG_HOME", ".config").join("mcpfs.toml"),
            state: base("XDG_STATE_HOME", ".local/state"),
            cache: base("XDG_CACHE_HOME", ".cache"),
            rundir: runtime_dir(absolute("XDG_RUNTIME_DIR"), rustix::process::geteuid().as_raw())
                .unwrap_or_else(|| home.join(".local/run"))
                .join("mcpfs"),
            at: home.join("mcp"),
        }
    }
}

/// Where this user's sockets lie, whoever asks: a command from cron or over ssh does not have the variable that
/// a desktop sets, and one after `su` has that of another user.
pub(super) fn runtime_dir(named: Option<PathBuf>, uid: u32) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let own = |dir: &PathBuf| dir.metadata().is_ok_and(|found| found.is_dir() && found.uid() == uid);
    named.into_iter().chain([format!("/run/user/{uid}").into()]).find(own)
}

/// The runtimes found in the usual directories, if root alone can change what is there.
pub(super) fn runtimes() -> impl Iterator<Item = (String, PathBuf)> {
    use std::os::unix::fs::MetadataExt;
    let safe = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o022 == 0);
    ["node", "python3"].into_iter().filter_map(move |name| {
        ["/usr/local/bin", "/usr/bin", "/bin"]
            .into_iter()
            .map(|dir| Path::new(dir).join(name))
            .find(|path| path.is_file() && safe(path) && path.parent().is_some_and(safe))
            .map(|path| (name.to_owned(), path))
    })
}
