//! The registry's static site, read over https, http or from a directory.
//!
//! Everything that comes from here is hostile until somebody else has verified it, so this
//! room promises about time and size only, and nothing about content:
//!
//! * no read takes longer than the deadline of its class, over all mirrors and retries; a
//!   mirror that trickles is left after one rate window, so that the next gets its chance;
//! * no answer occupies more memory than the caller's limit, whatever its header claims;
//! * no redirect leads to another host or away from TLS, no environment variable names a proxy.
//!
//! Mirrors hold the same immutable files, so a failed *check* is as good a reason to ask the
//! next one as a failed connection: the check is part of the read. A cache on the way may
//! keep a torn copy, so a mirror whose bytes failed the check is asked once more with
//! `Cache-Control: no-cache` before it counts as wrong. What servers ask of us (`Retry-After`,
//! entity tags) is in `courtesy`.
//!
//! Rejected: racing two mirrors (doubles everybody's load for the sake of the worst second),
//! and Range requests (chunks are small enough, and plain objects pass through every cache).

mod client;
mod courtesy;
mod mirror;
mod settings;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod toxic;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use mcpfs_trust::error::{Code, VerifyError, bounded};
use reqwest::Client;
use reqwest::header::HeaderValue;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::metrics::COUNTS;
use crate::owned::OwnedError;
use crate::refusal::{Refusal, with_cause};
use crate::supervisor::wire::Secret;
pub use client::Secrets;
use client::{client, unusable};
use courtesy::Kept;
pub(crate) use mirror::BY_THE_CLOCK;
use mirror::{Fault, Mirror, Pace, Want};
pub use settings::SiteSettings;

/// How long a bearer token is used before its file is read again.
const TOKEN_AGE: Duration = Duration::from_secs(60);

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// No mirror at all.
    #[error("no registry URL is configured; set registry.url")]
    NoMirror,
    /// A mirror's URL, which is not repeated because it may hold a password.
    #[error("a registry URL cannot be used: {detail}")]
    BadUrl {
        /// Why.
        detail: String,
    },
    /// A secret would cross the network in the clear.
    #[error("a bearer token would be sent unencrypted to {url}; use https")]
    TokenInTheClear {
        /// The mirror.
        url: String,
    },
    /// A file that the settings name.
    #[error("cannot read the {what} {path}")]
    Unreadable {
        /// Which setting.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that the settings name, which others could have written or, if it is a secret, read.
    #[error("cannot use the {what}")]
    Unsafe {
        /// Which setting.
        what: &'static str,
        /// What is wrong with the file, and what to do.
        source: OwnedError,
    },
    /// A CA file in which there is no certificate: no server would be believed.
    #[error("the CA file {path} holds no certificate; it is a PEM file, -----BEGIN CERTIFICATE-----")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Certificates, keys or proxy were not accepted.
    #[error("cannot use the {what}")]
    Client {
        /// Which setting.
        what: &'static str,
        /// Why.
        source: reqwest::Error,
    },
}

/// A registry's site. Clones share connections and what is known about mirrors, and stay
/// the same site when one of them is told to become another.
#[derive(Debug, Clone)]
pub struct Site(Arc<RwLock<Result<Arc<Shared>, Refusal>>>);

#[derive(Debug)]
struct Shared {
    settings: SiteSettings,
    mirrors: Vec<Mirror>,
    client: Client,
    runtime: Handle,
    /// The token and when it was read. Never held across an await.
    token: Mutex<Option<(Instant, HeaderValue)>>,
    secrets: Secrets,
}

impl Site {
    /// Builds the client; connects to nothing. Reads the files the settings name.
    ///
    /// # Errors
    /// When a setting cannot be used.
    pub fn new(settings: SiteSettings, runtime: Handle) -> Result<Self, SiteError> {
        Self::with_secrets(settings, runtime, Secrets::Own)
    }

    /// The same, with the secret files opened by somebody else.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_secrets(settings: SiteSettings, runtime: Handle, secrets: Secrets) -> Result<Self, SiteError> {
        let mirrors = settings.mirrors.iter().map(|url| Mirror::parse(url)).collect::<Result<Vec<_>, _>>()?;
        if mirrors.is_empty() {
            return Err(SiteError::NoMirror);
        }
        if let (Some(_), Some(open)) = (&settings.token_file, mirrors.iter().find(|m| m.is_open_to_eavesdroppers())) {
            return Err(SiteError::TokenInTheClear { url: open.address("") });
        }
        let client = client(&settings, mirrors.iter().any(Mirror::is_tls), &secrets)?;
        let shared = Shared { settings, mirrors, client, runtime, token: Mutex::new(None), secrets };
        if let Some(path) = &shared.settings.token_file {
            let file = shared.secrets.read(Secret::Token, path).map_err(|error| unusable("token file", error))?;
            shared.store_token(file);
        }
        Ok(Self(Arc::new(RwLock::new(Ok(Arc::new(shared))))))
    }

    /// A site that cannot be asked, which is said to whoever asks; until it becomes like another.
    pub fn unusable(why: Refusal) -> Self {
        Self(Arc::new(RwLock::new(Err(why))))
    }

    /// Lets this site and all its clones be `other`: what is asked from now on is asked there.
    /// A read under way ends where it began.
    pub fn become_like(&self, other: Site) {
        let other = other.shared();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = other;
    }

    fn shared(&self) -> Result<Arc<Shared>, Refusal> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The mirrors' addresses without credentials, in configured order.
    pub fn mirrors(&self) -> Vec<String> {
        self.shared().map_or_else(|_| vec![], |shared| shared.mirrors.iter().map(|mirror| mirror.address("")).collect())
    }

    /// Reads `path`, called `what` in messages, of at most `limit` bytes.
    ///
    /// # Errors
    /// `Unreachable`, `TooSlow`, `SizeExceeded`, `NotARegistry`.
    pub async fn get(&self, path: &str, limit: u64, what: &'static str) -> Result<Vec<u8>, Refusal> {
        self.get_checked(path, limit, what, Ok).await
    }

    /// Reads `path` and returns what `check` makes of it. When `check` refuses one mirror's
    /// bytes, the next mirror is asked.
    ///
    /// # Errors
    /// Those of [`Site::get`], or the last refusal of `check` if it came to that.
    pub async fn get_checked<T>(
        &self,
        path: &str,
        limit: u64,
        what: &'static str,
        check: impl Fn(Vec<u8>) -> Result<T, VerifyError>,
    ) -> Result<T, Refusal> {
        self.get_through(path, limit, what, |bytes, _| std::future::ready(check(bytes).map_err(Refusal::from))).await
    }

    /// [`Site::get_checked`] for checks that work elsewhere, such as on a thread for
    /// blocking work; they also learn the address that the bytes came from.
    ///
    /// # Errors
    /// As [`Site::get_checked`].
    pub async fn get_through<T, F, Checked>(
        &self,
        path: &str,
        limit: u64,
        what: &'static str,
        check: F,
    ) -> Result<T, Refusal>
    where
        F: Fn(Vec<u8>, String) -> Checked,
        Checked: Future<Output = Result<T, Refusal>>,
    {
        if !is_site_path(path) {
            return Err(Refusal::new(Code::Malformed, format!("{what}: {:?} is no path of a site", bounded(path))));
        }
        let shared = self.shared()?;
        let allowed = match path.starts_with("objects/") || path.starts_with("artefacts/") {
            true => shared.settings.object_deadline,
            false => shared.settings.metadata_deadline,
        };
        let want = Want { path, limit, what, fresh: false, changed: path == mcpfs_trust::site::HEAD };
        let mut faults = Faults::default();
        let deadline = Instant::now() + allowed;
        match timeout_at(deadline, shared.ask(want, deadline, &check, &mut faults)).await {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(faults.refusal(what)),
            Err(_) => {
                let detail = format!("did not arrive within {} s", allowed.as_secs_f64());
                faults.add(shared.mirrors[0].address(path), Fault::lasting(Code::TooSlow, detail));
                Err(faults.refusal(what))
            }
        }
    }
}

/// A mirror that may still be asked.
struct Turn<'a> {
    mirror: &'a Mirror,
    tries: u32,
    fresh: bool,
    /// Not before.
    ready: Instant,
}

impl Shared {
    /// Asks mirror after mirror, whoever's turn is next, until one's answer passes the check.
    async fn ask<T, F, Checked>(&self, want: Want<'_>, deadline: Instant, check: &F, faults: &mut Faults) -> Option<T>
    where
        F: Fn(Vec<u8>, String) -> Checked,
        Checked: Future<Output = Result<T, Refusal>>,
    {
        let tries = self.settings.retries + 1;
        let now = Instant::now();
        let (late, ready): (Vec<_>, Vec<_>) = self.mirrors.iter().partition(|mirror| mirror.sulks(now));
        let turns = ready.into_iter().chain(late);
        let mut turns: Vec<_> = turns.map(|mirror| Turn { mirror, tries, fresh: false, ready: now }).collect();
        // The first of the earliest.
        while let Some(next) = (0..turns.len()).min_by_key(|index| turns[*index].ready) {
            let Turn { mirror, tries, fresh, ready } = turns.remove(next);
            let address = mirror.address(want.path);
            let now = Instant::now();
            let ready = ready.max(mirror.rests_until().unwrap_or(ready));
            if ready >= deadline {
                let seconds = (ready - now).as_secs().max(1);
                faults.add_first(address, resting(seconds));
                continue;
            }
            if ready > now {
                // Another one may be earlier.
                if turns.iter().any(|turn| turn.ready < ready) {
                    turns.push(Turn { mirror, tries, fresh, ready });
                    continue;
                }
                sleep_until(ready).await;
            }
            let fault = match self.attempt(mirror, Want { fresh, ..want }).await {
                Ok(body) => {
                    let kept = body.tag.filter(|_| want.changed).map(|tag| Kept {
                        path: want.path.to_owned(),
                        tag,
                        bytes: body.bytes.as_slice().into(),
                    });
                    match check(body.bytes, address.clone()).await {
                        Ok(value) => {
                            mirror.sulk(None);
                            mirror.rest(None);
                            kept.into_iter().for_each(|kept| mirror.keep(kept));
                            return Some(value);
                        }
                        Err(refusal) => {
                            COUNTS.refused_content(&mirror.address(""), refusal.code);
                            if !fresh {
                                turns.push(Turn { mirror, tries: 1, fresh: true, ready: Instant::now() });
                            }
                            failed_check(refusal, body.html)
                        }
                    }
                }
                Err(fault) => {
                    let now = Instant::now();
                    if fault.transient || fault.code == Code::TooSlow {
                        mirror.sulk(Some(now + self.settings.sulk));
                    }
                    if let Some(rest) = fault.rest {
                        mirror.rest(Some(now + rest));
                    }
                    if fault.transient && tries > 1 {
                        let ready = now + self.pause(tries) + fault.rest.unwrap_or_default();
                        turns.push(Turn { mirror, tries: tries - 1, fresh, ready });
                    }
                    fault
                }
            };
            faults.add(address, fault);
        }
        None
    }

    /// How long to wait with so many tries left: doubled with each, and half of it is chance.
    fn pause(&self, tries: u32) -> Duration {
        let doubled = self.settings.retries.saturating_add(1).saturating_sub(tries).min(16);
        self.settings.backoff.saturating_mul(1 << doubled).mul_f64(rand::random_range(0.5..1.5))
    }

    async fn attempt(&self, mirror: &Mirror, want: Want<'_>) -> Result<mirror::Body, Fault> {
        let pace = Pace::new(self.settings.rate_window, self.settings.min_rate);
        let token = self.token().await;
        let begun = Instant::now();
        let result = mirror.read(&self.client, token, pace, &self.runtime, want).await;
        let outcome = result.as_ref().map(|body| body.bytes.len()).map_err(|fault| fault.code);
        COUNTS.fetch(&mirror.address(""), begun.elapsed(), outcome);
        if matches!(&result, Err(fault) if fault.unauthorised) {
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        result
    }

    /// The bearer token; the old one if its file cannot be read just now.
    async fn token(&self) -> Option<HeaderValue> {
        let path = self.settings.token_file.clone()?;
        let kept = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let secrets = self.secrets.clone();
        match kept {
            Some((read, token)) if read.elapsed() < TOKEN_AGE => Some(token),
            kept => match self.runtime.spawn_blocking(move || secrets.read(Secret::Token, &path)).await {
                Ok(Ok(bytes)) => self.store_token(bytes),
                Ok(Err(error)) => {
                    let error = with_cause(&error);
                    tracing::warn!(%error, "the token file cannot be used; the token read before stays");
                    kept.map(|(_, token)| token)
                }
                Err(_) => kept.map(|(_, token)| token),
            },
        }
    }

    fn store_token(&self, file: Vec<u8>) -> Option<HeaderValue> {
        let line = file.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
        let mut token = HeaderValue::from_bytes(&[b"Bearer ", line].concat()).ok()?;
        token.set_sensitive(true);
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), token.clone()));
        Some(token)
    }
}

fn resting(seconds: u64) -> Fault {
    let detail = format!("asked to be left alone for {seconds} s more (Retry-After)");
    Fault::lasting(Code::Unreachable, detail)
}

fn failed_check(refusal: Refusal, html: bool) -> Fault {
    if html && refusal.code == Code::DigestMismatch {
        let detail = "a web page, not registry data (captive portal or wrong address?)";
        return Fault::lasting(Code::NotARegistry, detail);
    }
    Fault::lasting(refusal.code, refusal.message)
}

/// The last fault of each mirror.
#[derive(Default)]
struct Faults(Vec<(String, Fault)>);

impl Faults {
    fn add(&mut self, address: String, fault: Fault) {
        self.0.retain(|(known, _)| *known != address);
        self.0.push((address, fault));
    }

    /// The same if nothing is known of that mirror yet.
    fn add_first(&mut self, address: String, fault: Fault) {
        if self.0.iter().all(|(known, _)| *known != address) {
            self.0.push((address, fault));
        }
    }

    /// One mirror with wrong bytes says more than another that did not answer.
    fn refusal(mut self, what: &str) -> Refusal {
        let silent = |code| matches!(code, Code::Unreachable | Code::TooSlow);
        self.0.sort_by_key(|(_, fault)| silent(fault.code));
        let code = self.0.first().map_or(Code::Unreachable, |(_, fault)| fault.code);
        let told: Vec<_> = self.0.iter().take(3).map(|(at, fault)| format!("{at}: {}", fault.detail)).collect();
        Refusal::new(code, format!("{what} could not be fetched: {}", told.join("; ")))
    }
}

/// Relative, without dot segments, in the characters that site paths are made of.
fn is_site_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    path.bytes().all(plain) && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}
