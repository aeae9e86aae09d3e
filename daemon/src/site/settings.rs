//! What an operator can set about reaching the registry.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`Site`](super::Site). `Default` has no mirror; everything else is usable as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteSettings {
    /// Base URLs (`https:`, `http:`, `file:`) of the same site, best first.
    pub mirrors: Vec<String>,
    /// Until one piece of metadata (head, catalogue, bin, entry) is here or refused, over all mirrors and retries.
    pub metadata_deadline: Duration,
    /// The same for one stored object.
    pub object_deadline: Duration,
    /// Until a connection with its TLS handshake stands.
    pub connect_timeout: Duration,
    /// Fewest bytes a second that a mirror must deliver, measured over each `rate_window`.
    pub min_rate: u64,
    /// How long a mirror may take to show that rate; also the longest wait for a first byte.
    pub rate_window: Duration,
    /// Further tries at one mirror after a connection error, 429 or 5xx.
    pub retries: u32,
    /// Mean pause before the first retry; it doubles with each, and half of it is chance.
    pub backoff: Duration,
    /// How long a mirror that failed is asked only after the others.
    pub sulk: Duration,
    /// Forward proxy for http and https, such as `http://proxy.example:3128`. The environment is not consulted.
    pub proxy: Option<String>,
    /// PEM file of certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with a client certificate and its key, for mutual TLS.
    pub client_certificate: Option<PathBuf>,
    /// File whose first line is sent as bearer token; read again every minute and after a 401.
    pub token_file: Option<PathBuf>,
}

impl Default for SiteSettings {
    fn default() -> Self {
        Self {
            mirrors: Vec::new(),
            metadata_deadline: Duration::from_secs(10),
            object_deadline: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(3),
            min_rate: 4096,
            rate_window: Duration::from_secs(5),
            retries: 2,
            backoff: Duration::from_millis(200),
            sulk: Duration::from_secs(30),
            proxy: None,
            ca_file: None,
            client_certificate: None,
            token_file: None,
        }
    }
}

impl SiteSettings {
    /// The defaults with these mirrors.
    pub fn with_mirrors<T: Into<String>>(mirrors: impl IntoIterator<Item = T>) -> Self {
        Self { mirrors: mirrors.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}
