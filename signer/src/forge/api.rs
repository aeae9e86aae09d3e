//! Asking a forge: bounded, in time, and never anywhere else than at the configured address.
//!
//! Pages are counted, not followed: an address in an answer is the server's word, and the token
//! goes only where the operator said.

use std::fmt;
use std::sync::Once;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Method, redirect};
use serde::de::DeserializeOwned;
use url::Url;

use super::Kind;
use crate::check::chain;

/// Longest answer, bytes.
const ANSWER: usize = 8 << 20;
/// Most pages of one list.
const PAGES: usize = 40;
/// For one question.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest chain of reasons, characters.
const CHAIN: usize = 2_000;

/// Why a forge did not answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum ForgeError {
    #[error(
        "{0:?} is not an address of a forge's API such as https://git.example.com/api/v1/ (http only on this machine)"
    )]
    BadAddress(String),
    #[error("the forge's API cannot be asked: {0}")]
    Unreachable(String),
    #[error("the forge answered {status} to {question}{hint}{said}")]
    Status { status: u16, question: String, hint: &'static str, said: String },
    #[error("the forge wants no more questions for {seconds} seconds")]
    RateLimited { seconds: u64 },
    #[error("the forge's answer cannot be used: {what}")]
    Answer { what: String },
}

/// What proves to a forge who asks; never shown.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// From its text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Its text.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A forge's API.
#[derive(Debug)]
pub struct Api {
    kind: Kind,
    base: Url,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Api {
    /// The API at `base`, such as `https://api.github.com/`.
    ///
    /// Must not be made or used within an async runtime: it drives its own.
    ///
    /// # Errors
    /// If the address or a certificate cannot be used.
    pub fn new(kind: Kind, base: &str, token: Option<&Token>, authorities: &[Vec<u8>]) -> Result<Self, ForgeError> {
        let bad = || ForgeError::BadAddress(mcpfs_trust::error::bounded(base));
        let base = Url::parse(&format!("{}/", base.trim_end_matches('/'))).map_err(|_| bad())?;
        let plain = base.username().is_empty() && base.password().is_none() && base.query().is_none();
        if !plain || !(base.scheme() == "https" || (base.scheme() == "http" && is_loopback(&base))) {
            return Err(bad());
        }
        static PROVIDER: Once = Once::new();
        // A second installation fails and changes nothing, so the answer does not matter.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let mut builder = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .https_only(base.scheme() == "https")
            .timeout(DEADLINE)
            .default_headers(
                headers(kind, token)
                    .ok_or_else(|| ForgeError::Answer { what: "the token holds odd characters".to_owned() })?,
            )
            .user_agent(concat!("mcpfs-signer/", env!("CARGO_PKG_VERSION")));
        let mut certificates = Vec::new();
        for pem in authorities {
            certificates.extend(Certificate::from_pem_bundle(pem).map_err(|error| broken(&error))?);
        }
        if !certificates.is_empty() {
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().map_err(|error| broken(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ForgeError::Unreachable(error.to_string()))?;
        Ok(Self { kind, base, client, runtime })
    }

    /// One value.
    ///
    /// # Errors
    /// [`ForgeError`]; 404 is `Status`.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ForgeError> {
        let (_, bytes) = self.ask(Method::GET, path, None)?;
        parse(path, &bytes)
    }

    /// As [`Api::get`]; `None` if there is no such thing.
    ///
    /// # Errors
    /// [`ForgeError`].
    pub(super) fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ForgeError> {
        match self.get(path) {
            Ok(value) => Ok(Some(value)),
            Err(ForgeError::Status { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All pages of a list.
    ///
    /// # Errors
    /// [`ForgeError`], also if it has no end.
    pub(super) fn pages<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ForgeError> {
        let size = if self.kind == Kind::Gitea { "limit=50" } else { "per_page=100" };
        let mut all = Vec::new();
        for page in 1..=PAGES {
            let (headers, bytes) = self.ask(Method::GET, &format!("{path}?{size}&page={page}"), None)?;
            let values: Vec<T> = parse(path, &bytes)?;
            let empty = values.is_empty();
            all.extend(values);
            if empty || self.is_last(&headers, all.len()) {
                return Ok(all);
            }
        }
        Err(ForgeError::Answer { what: format!("{path} has more than {PAGES} pages") })
    }

    /// Whether the forge says that no page follows; one that says nothing is asked again.
    fn is_last(&self, headers: &HeaderMap, so_far: usize) -> bool {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        match self.kind {
            // No header at all means that everything is on one page.
            Kind::Github => !text("link").is_some_and(|link| link.contains("rel=\"next\"")),
            Kind::Gitlab => text("x-next-page").is_some_and(|next| next.trim().is_empty()),
            Kind::Gitea => {
                text("x-total-count").and_then(|total| total.parse().ok()).is_some_and(|total| so_far >= total)
            }
        }
    }

    /// Sends a JSON body.
    ///
    /// # Errors
    /// [`ForgeError`].
    pub(super) fn send(&self, method: &str, path: &str, body: &serde_json::Value) -> Result<Vec<u8>, ForgeError> {
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|error| ForgeError::Unreachable(error.to_string()))?;
        Ok(self.ask(method, path, Some(body.to_string()))?.1)
    }

    fn ask(&self, method: Method, path: &str, body: Option<String>) -> Result<(HeaderMap, Vec<u8>), ForgeError> {
        let url = self.base.join(path).map_err(|error| ForgeError::Unreachable(error.to_string()))?;
        let question = format!("{method} {}", url.path());
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        self.runtime.block_on(async {
            let mut response = request.send().await.map_err(|error| broken(&error))?;
            let (status, headers) = (response.status(), response.headers().clone());
            if let Some(seconds) = rate_limit(status.as_u16(), &headers) {
                return Err(ForgeError::RateLimited { seconds });
            }
            let mut bytes = Vec::new();
            while let Some(part) = response.chunk().await.map_err(|error| broken(&error))? {
                bytes.extend_from_slice(&part);
                if bytes.len() > ANSWER {
                    return Err(ForgeError::Answer { what: format!("more than {ANSWER} bytes for {question}") });
                }
            }
            match status.is_success() {
                true => Ok((headers, bytes)),
                false => Err(ForgeError::Status {
                    status: status.as_u16(),
                    question,
                    hint: hint(status.as_u16()),
                    said: said(&bytes),
                }),
            }
        })
    }
}

fn headers(kind: Kind, token: Option<&Token>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let accept = if kind == Kind::Github { "application/vnd.github+json" } else { "application/json" };
    headers.insert("accept", HeaderValue::from_static(accept));
    if kind == Kind::Github {
        headers.insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
    }
    if let Some(token) = token {
        let (name, text) = match kind {
            Kind::Github => ("authorization", format!("Bearer {}", token.0)),
            Kind::Gitlab => ("private-token", token.0.clone()),
            Kind::Gitea => ("authorization", format!("token {}", token.0)),
        };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(name), value);
    }
    Some(headers)
}

/// How long to wait, if that is what the answer means.
fn rate_limit(status: u16, headers: &HeaderMap) -> Option<u64> {
    let number = |name| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let spent = [number("x-ratelimit-remaining"), number("ratelimit-remaining")].contains(&Some(0));
    let after = number("retry-after");
    // GitHub says 403 where others say 429.
    (status == 429 || (status == 403 && (spent || after.is_some()))).then(|| after.unwrap_or(60).clamp(1, 3_600))
}

fn hint(status: u16) -> &'static str {
    match status {
        401 => "; the token is missing, wrong or has expired",
        403 => "; the token may not do this",
        404 => "; there is no such thing, or the token may not see it",
        _ => "",
    }
}

fn parse<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, ForgeError> {
    serde_json::from_slice(bytes).map_err(|error| ForgeError::Answer { what: format!("{path}: {error}") })
}

/// Whether an address is this machine's own, by its very text.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The forge's own words for a refusal: `message`, or GitLab's `error`.
pub(super) fn said(bytes: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let words = answer.get("message").or_else(|| answer.get("error"));
    let text = words.map(|words| words.as_str().map_or_else(|| words.to_string(), str::to_owned)).unwrap_or_default();
    if text.is_empty() { text } else { format!("; it says: {}", mcpfs_trust::error::bounded(&text)) }
}

/// reqwest's own words stop at "error sending request"; the reason is at the end of the chain
/// below, so the bound is that of a whole chain.
fn broken(error: &reqwest::Error) -> ForgeError {
    ForgeError::Unreachable(mcpfs_trust::error::bounded_to(&chain(error), CHAIN))
}
