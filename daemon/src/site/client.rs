//! One client for all mirrors: proxy, certificates and redirects are what the settings say, and nothing else's.

use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Certificate, Client, Identity, Proxy};
use url::Url;

use super::{SiteError, SiteSettings};
use crate::owned::{self, OwnedError};
use crate::supervisor::wire::Secret;
use crate::worker::Link;

/// Redirects followed within one host.
pub(super) const REDIRECTS: usize = 4;
/// Bytes of a file that the settings name; a bundle of all certificate authorities is a quarter of it.
const SETTING_BYTES: u64 = 1 << 20;

/// Who opens the files that nobody else may read.
#[derive(Debug, Clone, Default)]
pub enum Secrets {
    /// This process: they are its user's.
    #[default]
    Own,
    /// The supervisor: they are root's.
    Roots(Arc<Link>),
}

impl Secrets {
    pub(super) fn read(&self, secret: Secret, path: &Path) -> Result<Vec<u8>, OwnedError> {
        match self {
            Self::Own => owned::read_secret(path, SETTING_BYTES),
            Self::Roots(link) => {
                let file = link.secret(secret);
                let file = file.map_err(|source| OwnedError::Unreadable { path: path.to_owned(), source })?;
                owned::read_open(path, file, SETTING_BYTES)
            }
        }
    }
}

/// A client for these settings; `tls` if any mirror needs it.
pub(super) fn client(settings: &SiteSettings, tls: bool, secrets: &Secrets) -> Result<Client, SiteError> {
    static PROVIDER: Once = Once::new();
    // An error means that the process already has a provider, which is as good.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));

    let wrong = |what| move |source: reqwest::Error| SiteError::Client { what, source: source.without_url() };
    let mut builder = Client::builder()
        .user_agent(concat!("mcpfs/", env!("CARGO_PKG_VERSION")))
        .default_headers(HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]))
        .connect_timeout(settings.connect_timeout)
        .pool_idle_timeout(Duration::from_secs(90))
        .tcp_keepalive(Duration::from_secs(15))
        .http2_initial_stream_window_size(4 << 20)
        .http2_initial_connection_window_size(16 << 20)
        .redirect(Policy::custom(redirect))
        .no_proxy();
    if let Some(proxy) = &settings.proxy {
        builder = builder.proxy(Proxy::all(proxy).map_err(wrong("proxy"))?);
    }
    if let Some(path) = &settings.ca_file {
        let pem = read_setting("CA file", path)?;
        let authorities = Certificate::from_pem_bundle(&pem).map_err(wrong("CA file"))?;
        if authorities.is_empty() {
            return Err(SiteError::NoCertificate { path: path.clone() });
        }
        builder = builder.tls_certs_only(authorities);
    } else if !tls {
        // A host without any certificate authority can still read a plain site.
        builder = builder.tls_certs_only([]);
    }
    if let Some(path) = &settings.client_certificate {
        let what = "client certificate (it holds a key)";
        let pem = secrets.read(Secret::ClientCertificate, path).map_err(|error| unusable(what, error))?;
        builder = builder.identity(Identity::from_pem(&pem).map_err(wrong("client certificate"))?);
    }
    builder.build().map_err(wrong("TLS settings of this host"))
}

fn redirect(attempt: Attempt<'_>) -> Action {
    let follow = attempt.previous().last().is_some_and(|from| stays(from, attempt.url()));
    if follow && attempt.previous().len() <= REDIRECTS { attempt.follow() } else { attempt.stop() }
}

/// The same server, or the same host's step up to TLS.
pub(super) fn stays(from: &Url, to: &Url) -> bool {
    let same = from.scheme() == to.scheme() && from.port_or_known_default() == to.port_or_known_default();
    let up = from.scheme() == "http" && to.scheme() == "https";
    from.host_str().is_some() && from.host_str() == to.host_str() && (same || up)
}

fn read_setting(what: &'static str, path: &Path) -> Result<Vec<u8>, SiteError> {
    owned::read(path, SETTING_BYTES).map_err(|error| unusable(what, error))
}

pub(super) fn unusable(what: &'static str, error: OwnedError) -> SiteError {
    match error {
        OwnedError::Unreadable { path, source } => SiteError::Unreadable { what, path, source },
        source => SiteError::Unsafe { what, source },
    }
}
