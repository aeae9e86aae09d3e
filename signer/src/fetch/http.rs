//! http: and https:, with the connection's address decided here and not by the client.

use std::net::{IpAddr, SocketAddr};
use std::sync::Once;
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Certificate, Client, Response, header, redirect};
use tokio::time::Instant;
use url::{Host, Url};

use super::address::is_public;
use super::{FetchError, FetchPolicy, Sink};

/// Redirects followed; release downloads of the large forges take one or two.
const REDIRECTS: usize = 5;
/// Longest silence before the transfer is given up.
const SILENCE: Duration = Duration::from_secs(30);

/// One question to a server.
pub(super) struct Ask {
    /// Where.
    pub(super) url: Url,
    /// The media types that are wanted, if it matters.
    pub(super) accept: Option<&'static str>,
    /// Who asks. It goes to the origin of `url` alone and is dropped by a redirect to another.
    pub(super) authorization: Option<HeaderValue>,
    /// What is posted; such a question is never redirected.
    pub(super) body: Option<Body>,
}

/// What is posted.
pub(super) struct Body {
    pub(super) media_type: &'static str,
    pub(super) bytes: String,
}

pub(super) fn fetch(url: Url, policy: &FetchPolicy, sink: &mut Sink<'_>) -> Result<(), FetchError> {
    within(policy, async {
        let response = ask(Ask { url, accept: None, authorization: None, body: None }, policy).await?;
        match response.status().as_u16() {
            200 => receive(response, policy.limit, &mut |bytes| sink.write(bytes)).await,
            other => Err(FetchError::Status(other)),
        }
    })
}

/// Drives `work` to its end or the policy's deadline.
pub(super) fn within<T>(
    policy: &FetchPolicy,
    work: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| FetchError::Transfer(error.to_string()))?;
    runtime.block_on(async {
        tokio::time::timeout(policy.deadline, work).await.map_err(|_| FetchError::TooSlow(policy.deadline))?
    })
}

/// The addresses that `url` may be asked at; for a program that connects by itself.
pub(crate) fn resolve(url: &Url, policy: &FetchPolicy) -> Result<Vec<SocketAddr>, FetchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| FetchError::Transfer(error.to_string()))?;
    runtime.block_on(addresses(url, policy))
}

/// Hands the body's bytes to `take`; one that says or turns out to be longer than `limit` is refused.
pub(super) async fn receive(
    mut response: Response,
    limit: u64,
    take: &mut dyn FnMut(&[u8]) -> Result<(), FetchError>,
) -> Result<(), FetchError> {
    if response.content_length().is_some_and(|size| size > limit) {
        return Err(FetchError::TooLarge(limit));
    }
    let mut left = limit;
    while let Some(bytes) = response.chunk().await.map_err(broken)? {
        left = left.checked_sub(bytes.len() as u64).ok_or(FetchError::TooLarge(limit))?;
        take(&bytes)?;
    }
    Ok(())
}

/// The first answer that is no redirect, whatever its status.
pub(super) async fn ask(ask: Ask, policy: &FetchPolicy) -> Result<Response, FetchError> {
    let Ask { mut url, accept, mut authorization, body } = ask;
    let origin = url.origin();
    for _ in 0..=REDIRECTS {
        let addresses = addresses(&url, policy).await?;
        let client = client(&url, &addresses, policy)?;
        // Identity only: the digest is of the file as it is stored.
        let mut request = match &body {
            None => client.get(url.clone()),
            Some(body) => {
                client.post(url.clone()).header(header::CONTENT_TYPE, body.media_type).body(body.bytes.clone())
            }
        };
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        if url.origin() != origin {
            authorization = None;
        }
        if let Some(authorization) = &authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        let response = request.send().await.map_err(broken)?;
        if !response.status().is_redirection() {
            return Ok(response);
        }
        if body.is_some() {
            return Err(FetchError::Redirects);
        }
        let place = response.headers().get(header::LOCATION).and_then(|place| place.to_str().ok());
        url = place.and_then(|place| url.join(place).ok()).ok_or(FetchError::Redirects)?;
    }
    Err(FetchError::Redirects)
}

/// Resolves the host once; every address it has must be allowed.
async fn addresses(url: &Url, policy: &FetchPolicy) -> Result<Vec<SocketAddr>, FetchError> {
    let origin = url.origin().ascii_serialization();
    let rule = policy.hosts.iter().find(|host| host.covers(url)).ok_or_else(|| {
        let name = origin.strip_prefix("https://").unwrap_or(&origin);
        FetchError::NotAllowed(format!("host {origin} is not listed; if it may be asked, add --allow-host {name}"))
    })?;
    let port = url.port_or_known_default().unwrap_or(443);
    let found: Vec<SocketAddr> = match url.host() {
        Some(Host::Ipv4(address)) => vec![(address, port).into()],
        Some(Host::Ipv6(address)) => vec![(address, port).into()],
        Some(Host::Domain(name)) => {
            let deadline = Instant::now() + SILENCE;
            let lookup = tokio::time::timeout_at(deadline, tokio::net::lookup_host((name, port)));
            let looked_up = lookup.await.map_err(|_| FetchError::TooSlow(SILENCE))?;
            looked_up.map_err(|error| FetchError::Transfer(format!("cannot resolve {name}: {error}")))?.collect()
        }
        None => return Err(FetchError::Url(url.to_string())),
    };
    let allowed = |address: IpAddr| {
        is_public(address) || rule.is_address(address) || policy.networks.iter().any(|net| net.contains(address))
    };
    match found.iter().find(|address| !allowed(address.ip())) {
        Some(address) => Err(FetchError::NotAllowed(format!(
            "{origin} is at the private address {ip}; if it may be asked, add --allow-network {ip}/{bits}",
            ip = address.ip(),
            bits = if address.is_ipv4() { 32 } else { 128 }
        ))),
        None if found.is_empty() => Err(FetchError::Transfer(format!("{origin} has no address"))),
        None => Ok(found),
    }
}

/// Makes ring what TLS uses; every client of this process needs it.
pub(crate) fn install_crypto() {
    static PROVIDER: Once = Once::new();
    // A second installation fails and changes nothing, so the answer does not matter.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

fn client(url: &Url, addresses: &[SocketAddr], policy: &FetchPolicy) -> Result<Client, FetchError> {
    install_crypto();
    let mut builder = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .https_only(url.scheme() == "https")
        .connect_timeout(SILENCE)
        .read_timeout(SILENCE)
        .user_agent(concat!("mcpfs-signer/", env!("CARGO_PKG_VERSION")));
    if let Some(name) = url.domain() {
        builder = builder.resolve_to_addrs(name, addresses);
    }
    let mut authorities = Vec::new();
    for pem in &policy.authorities {
        authorities.extend(Certificate::from_pem_bundle(pem).map_err(broken)?);
    }
    if !authorities.is_empty() {
        builder = builder.tls_certs_merge(authorities);
    }
    builder.build().map_err(broken)
}

/// reqwest's own words stop at "error sending request"; the reason is in the chain below.
fn broken(error: reqwest::Error) -> FetchError {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    FetchError::Transfer(mcpfs_trust::error::bounded(&text))
}
