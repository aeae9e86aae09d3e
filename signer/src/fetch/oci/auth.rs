//! Who asks a registry: nobody, somebody with a password, or a bearer of a token.
//!
//! A registry says in its refusal what it wants, and where tokens are to be had. That place is the
//! registry's word, so a password goes there only if the operator's own file has an entry for that
//! very host: an entry is for the host that it names and for no other. Passwords and tokens cross
//! no connection in the clear, but for loopback. A token is asked for pulling from this one
//! repository, whatever the registry proposes.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Response;
use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use url::{Host, Url};

use super::super::http::{self, Ask};
use super::{FetchError, FetchPolicy};
use mcpfs_trust::error::bounded;
use mcpfs_trust::json;

/// The operator's file, bytes.
const FILE_BYTES: u64 = 1 << 20;
/// A token's answer, bytes.
const TOKEN_BYTES: u64 = 64 << 10;

/// Passwords by host, from a file in the form of docker's `config.json`.
#[derive(Clone, Default)]
pub struct Logins(BTreeMap<String, Login>);

#[derive(Clone)]
struct Login {
    user: String,
    password: String,
}

/// A file of logins that is not used.
#[derive(Debug, thiserror::Error)]
pub enum BadLogins {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others could read it.
    #[error("{path} {problem}; make it a file of your own with mode 0600")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// It is not in its form. What is in it is not repeated here.
    #[error("{path}: {problem}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(default)]
    auths: BTreeMap<String, RawLogin>,
}

#[derive(Deserialize)]
struct RawLogin {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never what they are.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Logins {
    /// Those of the named file; else of the systemd credential `mcpfs-registry-auth`, else of the
    /// file that `MCPFS_REGISTRY_AUTH_FILE` names; else nobody's.
    ///
    /// # Errors
    /// As [`Logins::read`].
    pub fn find(file: Option<&Path>) -> Result<Self, BadLogins> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let credential = || variable("CREDENTIALS_DIRECTORY").map(|folder| folder.join("mcpfs-registry-auth"));
        let found = file.map(Path::to_owned).or_else(|| credential().filter(|path| path.exists()));
        match found.or_else(|| variable("MCPFS_REGISTRY_AUTH_FILE")) {
            Some(path) => Self::read(&path),
            None => Ok(Self::default()),
        }
    }

    /// Reads a file that only this user or root can read.
    ///
    /// # Errors
    /// If it is not such a file, or not in its form.
    pub fn read(path: &Path) -> Result<Self, BadLogins> {
        let unreadable = |source| BadLogins::Read { path: path.to_owned(), source };
        let exposed = |problem| BadLogins::Exposed { path: path.to_owned(), problem };
        let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC).bits() as i32;
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
        let facts = file.metadata().map_err(unreadable)?;
        if !facts.is_file() {
            return Err(exposed("is not a regular file"));
        }
        if facts.uid() != rustix::process::geteuid().as_raw() && facts.uid() != 0 {
            return Err(exposed("belongs to another user"));
        }
        if facts.mode() & 0o077 != 0 {
            return Err(exposed("can be read or written by others"));
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        Self::parse(&bytes).map_err(|problem| BadLogins::Form { path: path.to_owned(), problem })
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value = json::value(bytes, FILE_BYTES, "file of logins").map_err(|error| error.to_string())?;
        if !value.is_object() {
            return Err("not of the form {\"auths\": {…}}".to_owned());
        }
        // serde's own words may repeat a value, and values are passwords.
        let raw: RawFile = serde_json::from_value(value).map_err(|_| "not of the form {\"auths\": {…}}".to_owned())?;
        let mut logins = BTreeMap::new();
        for (place, login) in raw.auths {
            let host = host_of(&place).ok_or_else(|| format!("{:?} is not a registry", bounded(&place)))?;
            let Some(login) = login.read().ok_or_else(|| format!("the entry of {host} is not user and password"))?
            else {
                continue;
            };
            logins.insert(host, login);
        }
        Ok(Self(logins))
    }

    fn for_url(&self, url: &Url) -> Option<&Login> {
        self.0.get(&host_and_port(url)?)
    }

    /// The header for the login of this host, if there is one.
    pub(crate) fn basic(&self, url: &Url) -> Result<Option<HeaderValue>, FetchError> {
        let Some(login) = self.for_url(url) else { return Ok(None) };
        if !is_private(url) {
            let origin = url.origin().ascii_serialization();
            return Err(FetchError::Login(format!("no login is sent to {origin}: the connection is not encrypted")));
        }
        secret(&format!("Basic {}", STANDARD.encode(format!("{}:{}", login.user, login.password)))).map(Some)
    }

    /// What to say of a host that wants a login, or another one.
    pub(crate) fn wanted(&self, url: &Url) -> FetchError {
        let host = host_and_port(url).unwrap_or_default();
        let host = host.strip_suffix(":443").unwrap_or(&host);
        FetchError::Login(match self.for_url(url) {
            Some(_) => format!("{host} refuses the login that it has here"),
            None => format!("{host} wants a login: name a file of logins (--registry-auth) with an entry for it"),
        })
    }
}

impl RawLogin {
    /// `Some(None)` is an entry that leaves its password to another program.
    fn read(self) -> Option<Option<Login>> {
        match (self.auth.filter(|auth| !auth.is_empty()), self.username, self.password) {
            (Some(auth), ..) => {
                let text = String::from_utf8(STANDARD.decode(auth).ok()?).ok()?;
                let (user, password) = text.split_once(':')?;
                Some(Some(Login { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() }))
            }
            (None, Some(user), Some(password)) => Some(Some(Login { user, password })),
            (None, None, None) => Some(None),
            _ => None,
        }
    }
}

/// `host:port` of an entry: `registry.example.com`, `localhost:5000`, `https://index.docker.io/v1/`.
fn host_of(place: &str) -> Option<String> {
    let full = if place.contains("://") { place.to_owned() } else { format!("https://{place}") };
    host_and_port(&Url::parse(&full).ok()?)
}

fn host_and_port(url: &Url) -> Option<String> {
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

/// Whether nobody on the way can read what is sent there.
pub(crate) fn is_private(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() == "https" || loopback
}

/// The questions to one repository.
pub(super) struct Session<'a> {
    scope: String,
    policy: &'a FetchPolicy,
    authorization: Option<HeaderValue>,
}

impl<'a> Session<'a> {
    pub(super) fn new(repository: &str, policy: &'a FetchPolicy) -> Self {
        Self { scope: format!("repository:{repository}:pull"), policy, authorization: None }
    }

    /// Asks; if the registry wants to know who, says it and asks once more.
    pub(super) async fn ask(&mut self, url: &Url, accept: Option<&'static str>) -> Result<Response, FetchError> {
        let question = |authorization| Ask { url: url.clone(), accept, authorization, body: None };
        let response = http::ask(question(self.authorization.clone()), self.policy).await?;
        // A redirect's target that says so is not the registry, and knows no login of ours.
        if response.status() != 401 || response.url().origin() != url.origin() {
            return Ok(response);
        }
        let challenges: Vec<String> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let authorization = self.answer(url, &challenges).await?;
        self.authorization = Some(authorization.clone());
        let response = http::ask(question(Some(authorization)), self.policy).await?;
        match response.status().as_u16() {
            401 | 403 => Err(self.policy.logins.wanted(url)),
            _ => Ok(response),
        }
    }

    async fn answer(&self, url: &Url, challenges: &[String]) -> Result<HeaderValue, FetchError> {
        let parsed: Vec<Challenge> = challenges.iter().filter_map(|text| Challenge::parse(text)).collect();
        if let Some(bearer) = parsed.iter().find(|one| one.is("bearer")) {
            return self.token(bearer).await;
        }
        if parsed.iter().any(|one| one.is("basic")) {
            return self.basic(url)?.ok_or_else(|| self.policy.logins.wanted(url));
        }
        let origin = url.origin().ascii_serialization();
        Err(FetchError::Login(format!("{origin} wants to know who asks, in a way that is not known here")))
    }

    /// The header for this host's own login, if there is one.
    pub(super) fn basic(&self, url: &Url) -> Result<Option<HeaderValue>, FetchError> {
        self.policy.logins.basic(url)
    }

    async fn token(&self, challenge: &Challenge) -> Result<HeaderValue, FetchError> {
        let bad = |problem: &str| FetchError::Login(format!("the registry's own word about tokens {problem}"));
        let mut realm = challenge
            .parameter("realm")
            .and_then(|realm| Url::parse(realm).ok())
            .filter(|realm| matches!(realm.scheme(), "http" | "https"))
            .ok_or_else(|| bad("names no place to get one"))?;
        if !realm.username().is_empty() || realm.password().is_some() {
            return Err(bad("has a login in it"));
        }
        realm.set_fragment(None);
        let service = challenge.parameter("service");
        realm
            .query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .append_pair("scope", &self.scope);
        let authorization = self.basic(&realm)?;
        let response =
            http::ask(Ask { url: realm.clone(), accept: None, authorization, body: None }, self.policy).await?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => return Err(self.policy.logins.wanted(&realm)),
            other => return Err(FetchError::Login(format!("the token service answered {other}"))),
        }
        let mut bytes = Vec::new();
        http::receive(response, TOKEN_BYTES, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let value =
            json::value(&bytes, TOKEN_BYTES, "token").map_err(|_| bad("leads to something that is no token"))?;
        let answer: Answer = serde_json::from_value(value).map_err(|_| bad("leads to something that is no token"))?;
        let token = answer.token.or(answer.access_token).ok_or_else(|| bad("leads to an answer without a token"))?;
        secret(&format!("Bearer {token}"))
    }
}

/// A header that no log shows.
fn secret(text: &str) -> Result<HeaderValue, FetchError> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| FetchError::Login("a login that cannot be sent".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `Bearer realm="…",service="…"` of a refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = Vec::new();
        while let Some((name, value)) = rest.trim_start_matches([' ', ',']).split_once('=') {
            let value = value.trim_start();
            let (value, left) = match value.strip_prefix('"') {
                Some(quoted) => unquote(quoted)?,
                None => {
                    let (value, left) = value.split_once(',').unwrap_or((value, ""));
                    (value.trim().to_owned(), left)
                }
            };
            parameters.push((name.trim().to_ascii_lowercase(), value));
            rest = left;
        }
        Some(Self { scheme: scheme.to_ascii_lowercase(), parameters })
    }

    fn is(&self, scheme: &str) -> bool {
        self.scheme == scheme
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        // Twice is ambiguous, so it is as good as absent.
        let mut found = self.parameters.iter().filter(|(own, _)| own == name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }
}

fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            other => value.push(other),
        }
    }
    None
}
