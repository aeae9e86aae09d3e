//! A site's public address: what hosts and CDNs get, read without any right.
//!
//! As a [`Store`] it can only be read, by name: a web server lists nothing, and says no size before
//! it is asked for the whole.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use tokio::runtime::Runtime;
use url::Url;

use mcpfs_trust::digest::Digest;

use super::store::{Facts, Listing, Lock, Store, StoreError, Stored};

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

impl Public {
    fn read_only(&self, name: &str) -> StoreError {
        let problem = "a web address can only be read; give the folder or s3://bucket/prefix behind it".to_owned();
        StoreError::Failed { place: self.to_string(), name: name.to_owned(), problem }
    }
}

impl Store for Public {
    fn place(&self) -> String {
        self.to_string()
    }

    fn lock(&self) -> Result<Option<Lock>, StoreError> {
        Err(self.read_only(""))
    }

    fn get(&self, name: &str, limit: u64) -> Result<Option<Stored>, StoreError> {
        match self.read(name, limit) {
            Ok(bytes) => Ok(Some(Stored { bytes, tag: None })),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn stat(&self, name: &str) -> Result<Option<Facts>, StoreError> {
        Err(self.read_only(name))
    }

    fn copy_out(&self, name: &str, _: &mut dyn Write) -> Result<bool, StoreError> {
        Err(self.read_only(name))
    }

    fn create(&self, name: &str, _: &[u8]) -> Result<bool, StoreError> {
        Err(self.read_only(name))
    }

    fn create_from(&self, name: &str, _: &Path, _: &Digest) -> Result<bool, StoreError> {
        Err(self.read_only(name))
    }

    fn replace(&self, name: &str, _: &[u8]) -> Result<(), StoreError> {
        Err(self.read_only(name))
    }

    fn swap(&self, name: &str, _: Option<&Stored>, _: &[u8]) -> Result<bool, StoreError> {
        Err(self.read_only(name))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listing>, StoreError> {
        Err(self.read_only(prefix))
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        Err(self.read_only(name))
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        // Asked where there is no head: then nobody publishes there.
        Ok(true)
    }

    fn is_flat(&self) -> bool {
        false
    }

    fn is_near(&self) -> bool {
        false
    }

    fn workers(&self) -> usize {
        8
    }
}

impl fmt::Display for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.base.fmt(f)
    }
}
