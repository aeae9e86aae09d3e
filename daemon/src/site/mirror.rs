//! One base URL of the site, and one attempt to read from it.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use mcpfs_trust::error::{Code, bounded};
use reqwest::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, IF_NONE_MATCH, PRAGMA};
use reqwest::{Client, Response, StatusCode};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::SiteError;
use super::courtesy::{self, Kept};
use crate::registry::now;

/// What one attempt asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want<'a> {
    /// Relative to the base URL.
    pub(super) path: &'a str,
    /// Most bytes to accept.
    pub(super) limit: u64,
    /// For people: what is being read.
    pub(super) what: &'static str,
    /// Ask caches on the way to fetch it anew.
    pub(super) fresh: bool,
    /// Ask for it only if it is another one than last time.
    pub(super) changed: bool,
}

/// What came.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// The server called it a web page.
    pub(super) html: bool,
    /// By which the server knows it again.
    pub(super) tag: Option<HeaderValue>,
}

/// Why an attempt brought nothing.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) code: Code,
    pub(super) detail: String,
    /// The same mirror may do better soon.
    pub(super) transient: bool,
    /// The server did not accept the bearer token.
    pub(super) unauthorised: bool,
    /// How long the server wants to be left alone.
    pub(super) rest: Option<Duration>,
}

impl Fault {
    pub(super) fn lasting(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), transient: false, unauthorised: false, rest: None }
    }

    fn passing(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), transient: true, unauthorised: false, rest: None }
    }
}

/// One base URL.
#[derive(Debug)]
pub(super) struct Mirror {
    place: Place,
    /// Asked after the others until then. Guarded for the moment of a copy.
    sulks_until: Mutex<Option<Instant>>,
    /// Not asked before then, as it wished.
    rests_until: Mutex<Option<Instant>>,
    /// Its last answer of the kind that seldom changes.
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
enum Place {
    Web(Url),
    Directory(PathBuf),
}

impl Mirror {
    pub(super) fn parse(text: &str) -> Result<Self, SiteError> {
        let bad = |detail: &str| SiteError::BadUrl { detail: detail.to_owned() };
        let mut url = Url::parse(text).map_err(|error| bad(&format!("not a URL ({error})")))?;
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("a base URL has no query and no fragment"));
        }
        let place = match url.scheme() {
            "http" | "https" => Place::Web(url),
            // The parser would take "file:relative" for "/relative".
            "file" if !text["file:".len()..].starts_with('/') => return Err(bad("file: needs an absolute path")),
            "file" => {
                Place::Directory(url.to_file_path().map_err(|()| bad("file: needs an absolute path on this host"))?)
            }
            other => return Err(bad(&format!("{other:?} is none of https, http and file"))),
        };
        Ok(Self { place, sulks_until: Mutex::new(None), rests_until: Mutex::new(None), kept: Mutex::new(None) })
    }

    /// Whether reading needs certificate authorities.
    pub(super) fn is_tls(&self) -> bool {
        matches!(&self.place, Place::Web(url) if url.scheme() == "https")
    }

    /// Whether a secret sent there can be read on the way.
    pub(super) fn is_open_to_eavesdroppers(&self) -> bool {
        let Place::Web(url) = &self.place else { return false };
        let loopback = match url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        url.scheme() != "https" && !loopback
    }

    /// The address of `path`, fit for messages: without user name and password.
    pub(super) fn address(&self, path: &str) -> String {
        match &self.place {
            Place::Directory(root) => root.join(path).display().to_string(),
            Place::Web(url) => {
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                format!("{}://{}{port}{}{path}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
            }
        }
    }

    pub(super) fn sulks(&self, now: Instant) -> bool {
        self.sulks_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| now < until)
    }

    pub(super) fn sulk(&self, until: Option<Instant>) {
        *self.sulks_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Until when the server wants to be left alone.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rest(&self, until: Option<Instant>) {
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Remembers an answer that passed its check.
    pub(super) fn keep(&self, kept: Kept) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
    }

    fn kept(&self, want: Want<'_>) -> Option<Kept> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        kept.filter(|kept| {
            want.changed && !want.fresh && kept.path == want.path && kept.bytes.len() as u64 <= want.limit
        })
    }

    /// One attempt. The caller sets the overall deadline by dropping it.
    pub(super) async fn read(
        &self,
        client: &Client,
        token: Option<HeaderValue>,
        pace: Pace,
        runtime: &Handle,
        want: Want<'_>,
    ) -> Result<Body, Fault> {
        match &self.place {
            Place::Web(base) => read_web(client, base, token, pace, want, self.kept(want)).await,
            Place::Directory(root) => {
                let file = root.join(want.path);
                let (limit, what) = (want.limit, want.what);
                let read = runtime.spawn_blocking(move || read_file(&file, limit, what));
                let lost = |error| Fault::lasting(Code::Unreachable, format!("reading was interrupted ({error})"));
                read.await.unwrap_or_else(|error| Err(lost(error)))
            }
        }
    }
}

/// Refuses a mirror that delivers less than a minimum rate, window by window.
#[derive(Debug)]
pub(super) struct Pace {
    window: Duration,
    min_rate: u64,
    ends: Instant,
    got: u64,
}

impl Pace {
    pub(super) fn new(window: Duration, min_rate: u64) -> Self {
        Self { window, min_rate, ends: Instant::now() + window, got: 0 }
    }

    async fn keep<F: Future>(&mut self, future: F) -> Result<F::Output, Fault> {
        let mut future = pin!(future);
        loop {
            if let Ok(output) = timeout_at(self.ends, &mut future).await {
                return Ok(output);
            }
            let (got, seconds) = (self.got, self.window.as_secs_f64());
            if (got as f64) < self.min_rate as f64 * seconds {
                return Err(Fault::lasting(Code::TooSlow, format!("only {got} bytes came in {seconds} s")));
            }
            self.got = 0;
            self.ends = Instant::now() + self.window;
        }
    }
}

async fn read_web(
    client: &Client,
    base: &Url,
    token: Option<HeaderValue>,
    mut pace: Pace,
    want: Want<'_>,
    kept: Option<Kept>,
) -> Result<Body, Fault> {
    let url = base.join(want.path).map_err(|_| Fault::lasting(Code::Malformed, "makes no URL"))?;
    let mut request = client.get(url);
    if want.fresh {
        let no_cache = HeaderValue::from_static("no-cache");
        request = request.header(CACHE_CONTROL, no_cache.clone()).header(PRAGMA, no_cache);
    }
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token);
    }
    if let Some(kept) = &kept {
        request = request.header(IF_NONE_MATCH, kept.tag.clone());
    }
    let mut response = pace.keep(request.send()).await?.map_err(transport)?;
    let html = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if let (StatusCode::NOT_MODIFIED, Some(kept)) = (response.status(), kept) {
        return Ok(Body { bytes: kept.bytes.to_vec(), html: false, tag: Some(kept.tag) });
    }
    if response.status() != StatusCode::OK {
        let fault = status(&response, html);
        // A web server that wants a certificate says so with a page, under a status that means nothing.
        if response.status() == StatusCode::BAD_REQUEST && base.scheme() == "https" && wants_certificate(response).await
        {
            return Err(Fault::lasting(Code::Unreachable, format!("the server (400) {CERTIFICATE_WANTED}")));
        }
        return Err(fault);
    }
    let tag = courtesy::tag(response.headers());
    let too_large = || Fault::lasting(Code::SizeExceeded, format!("larger than {} bytes", want.limit));
    if response.content_length().is_some_and(|claimed| claimed > want.limit) {
        return Err(too_large());
    }
    // What was announced fits the limit; growing to it would take twice as much for a moment.
    let expected = response.content_length().unwrap_or(want.limit.min(64 << 10));
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or_default());
    while let Some(piece) = pace.keep(response.chunk()).await?.map_err(transport)? {
        if (bytes.len() + piece.len()) as u64 > want.limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&piece);
        pace.got += piece.len() as u64;
    }
    Ok(Body { bytes, html, tag })
}

/// What to do where mutual TLS was not fulfilled.
const CERTIFICATE_WANTED: &str = "wants a client certificate of yours: set registry.client_certificate to a file with one that it accepts and its key";

/// Words of an error whose cause may be the clock.
pub(crate) const BY_THE_CLOCK: &str = "by this host's clock";

/// What to do where a proxy asks who we are.
const LOGIN_WANTED: &str = "the proxy wants a login (407): write registry.proxy = \"http://USER:PASSWORD@HOST:PORT\", in a file of conf.d that others cannot read";

/// Whether the page of a refused request speaks of a client certificate: nginx's does, and names it either way
/// ("No required SSL certificate was sent", "The SSL certificate error").
async fn wants_certificate(mut response: Response) -> bool {
    let mut page = Vec::new();
    while page.len() < PAGE_BYTES
        && let Ok(Some(piece)) = response.chunk().await
    {
        page.extend_from_slice(&piece);
    }
    String::from_utf8_lossy(&page).contains("SSL certificate")
}

/// How much of an error's page is looked at.
const PAGE_BYTES: usize = 4096;

/// An error below HTTP, with its causes but without its URL, which may hold a password.
fn transport(error: reqwest::Error) -> Fault {
    let error = error.without_url();
    let code = if error.is_timeout() { Code::TooSlow } else { Code::Unreachable };
    let mut text = error.to_string();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    // Of a tunnel for TLS.
    if text.contains("proxy authorization required") {
        return Fault::lasting(Code::Unreachable, LOGIN_WANTED);
    }
    // The alert of TLS 1.3 for it.
    if text.contains("CertificateRequired") {
        return Fault::lasting(Code::Unreachable, format!("the server {CERTIFICATE_WANTED}"));
    }
    for (said, what) in [("certificate expired", "has expired"), ("certificate not valid yet", "is not valid yet")] {
        if text.contains(said) {
            return Fault::passing(code, format!("the server's certificate {what} {BY_THE_CLOCK}, {}", now()));
        }
    }
    Fault::passing(code, bounded(&text))
}

fn status(response: &Response, html: bool) -> Fault {
    let mut fault = status_alone(response, html);
    if fault.transient {
        fault.rest = courtesy::rest(response.headers(), SystemTime::now());
    }
    if let Some(rest) = fault.rest {
        fault.detail = format!("{}, it asks to be left alone for {} s", fault.detail, rest.as_secs());
    }
    fault
}

fn status_alone(response: &Response, html: bool) -> Fault {
    let status = response.status();
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Fault::lasting(Code::Unreachable, "not there (404); is the registry URL right, and was it published?")
        }
        // Web servers say this with a page, which does not make it a captive portal.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let detail = format!("access refused ({status}); check token and client certificate");
            let unauthorised = status == StatusCode::UNAUTHORIZED;
            Fault { unauthorised, ..Fault::lasting(Code::Unreachable, detail) }
        }
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => Fault::lasting(Code::Unreachable, LOGIN_WANTED),
        StatusCode::TOO_MANY_REQUESTS => Fault::passing(Code::Unreachable, "asked too often (429)"),
        _ if status.is_server_error() && status != StatusCode::NETWORK_AUTHENTICATION_REQUIRED => {
            Fault::passing(Code::Unreachable, format!("the server failed ({status})"))
        }
        _ if status.is_redirection() => {
            let target = response.headers().get("location").and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            let target = Url::parse(target).ok().and_then(|url| url.host_str().map(str::to_owned));
            let target = bounded(&target.unwrap_or_else(|| "another place".to_owned()));
            let advice = "not followed; log in to the network, or name the final address as registry URL";
            Fault::lasting(Code::Unreachable, format!("redirected ({status}) to {target}: {advice}"))
        }
        _ if html => Fault::lasting(
            Code::NotARegistry,
            format!("a web page ({status}), not registry data (captive portal or wrong address?)"),
        ),
        _ => Fault::lasting(Code::Unreachable, format!("unexpected status {status}")),
    }
}

fn read_file(path: &Path, limit: u64, what: &str) -> Result<Body, Fault> {
    let fault = |error: std::io::Error| Fault::lasting(Code::Unreachable, format!("{what} cannot be read ({error})"));
    // A pipe would hold this thread for ever, and with enough of them all threads; a file does not know the flag.
    let at_once = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(at_once).open(path).map_err(fault)?;
    let metadata = file.metadata().map_err(fault)?;
    if !metadata.is_file() {
        return Err(Fault::lasting(Code::Unreachable, "not a regular file"));
    }
    let mut bytes = Vec::with_capacity(metadata.len().min(limit) as usize);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > limit {
        return Err(Fault::lasting(Code::SizeExceeded, format!("larger than {limit} bytes")));
    }
    Ok(Body { bytes, html: false, tag: None })
}
