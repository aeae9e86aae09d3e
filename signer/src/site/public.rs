//! A site's public address: what hosts and CDNs get, read without any right.

use std::fmt;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use tokio::runtime::Runtime;
use url::Url;

use super::store::StoreError;

/// Longest wait for one file.
const DEADLINE: Duration = Duration::from_secs(60);

/// The address that hosts have as `url`.
#[derive(Debug)]
pub struct Public {
    base: Url,
    client: Client,
    runtime: Runtime,
}

impl Public {
    /// Reads below `base`, such as `https://mcp.example.com/prod/`.
    ///
    /// # Errors
    /// If that is no http or https address.
    pub fn new(base: &str) -> Result<Self, StoreError> {
        let unusable = |problem: String| StoreError::Unusable { place: base.to_owned(), problem };
        let mut url = Url::parse(base).map_err(|error| unusable(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.password().is_some() {
            return Err(unusable("it is not a plain http: or https: address".to_owned()));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        crate::fetch::install_crypto();
        let client = Client::builder().timeout(DEADLINE).build().map_err(|error| unusable(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| unusable(error.to_string()))?;
        Ok(Self { base: url, client, runtime })
    }

    /// The bytes of a name, at most `limit`.
    ///
    /// # Errors
    /// If they are not there, too many, or the server says anything but 200.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, StoreError> {
        let (place, name) = (self.to_string(), name.to_owned());
        let unreachable = |error: reqwest::Error| StoreError::Unreachable {
            place: self.to_string(),
            name: name.clone(),
            problem: mcpfs_trust::error::bounded(&error.without_url().to_string()),
        };
        let url = self.base.join(&name).map_err(|_| StoreError::Address(name.clone()))?;
        self.runtime.block_on(async {
            let mut response = self.client.get(url).send().await.map_err(unreachable)?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Err(StoreError::Missing { place, name: name.clone() }),
                other => {
                    return Err(StoreError::Failed {
                        place,
                        name: name.clone(),
                        problem: format!("it answers {other}"),
                    });
                }
            }
            let mut bytes = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(unreachable)? {
                bytes.extend_from_slice(&piece);
                if bytes.len() as u64 > limit {
                    return Err(StoreError::TooLarge { place, name: name.clone(), limit });
                }
            }
            Ok(bytes)
        })
    }
}

impl fmt::Display for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.base.fmt(f)
    }
}
