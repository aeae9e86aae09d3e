//! A site in an S3-compatible bucket.
//!
//! S3 has no lock and no rename, and needs neither: an upload is not seen before it is whole,
//! names of content are put with `If-None-Match: *`, and the head with `If-Match`, so of two
//! publishers one is told that it was too late and begins again. A request that got lost is sent
//! again by the client, with growing pauses; an answer that got lost looks like somebody else's
//! upload, and is told from it by what is there.
//!
//! What was read says little about the bucket: a missing `head.json` in a missing bucket gives
//! the same answer as in an empty one, so an empty site is only believed after a listing.

use std::io::{Read as _, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use mcpfs_trust::digest::{Digest, Hasher};
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, GetOptions, ObjectStore, PutMode, PutMultipartOptions,
    PutOptions, RetryConfig, UpdateVersion,
};
use tokio::runtime::Runtime;

use super::address::S3Address;
use super::store::{Facts, Listing, Lock, Store, StoreError, Stored, headers};
use crate::aws;
use crate::files::FileError;

/// Files above this are uploaded in parts, bytes.
const ONE_PUT: u64 = 16 << 20;
/// A part, bytes; S3 takes ten thousand of them, an artefact has at most 2 GiB.
const PART: usize = 16 << 20;
/// The name of systemd's credential for buckets.
const CREDENTIAL: &str = "mcpfs-s3";
/// Longest silence of the server.
const SILENCE: Duration = Duration::from_secs(30);

/// A prefix in a bucket.
#[derive(Debug)]
pub(super) struct S3 {
    bucket: AmazonS3,
    prefix: String,
    place: String,
    runtime: Arc<Runtime>,
}

impl S3 {
    /// Connects to nothing yet.
    pub(super) fn new(address: &S3Address) -> Result<Self, StoreError> {
        crate::fetch::install_crypto();
        let place = address.to_string();
        let unusable = |problem: String| StoreError::Unusable { place: place.clone(), problem };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let mut found = aws::find(CREDENTIAL).map_err(|problem| unusable(format!("AWS credentials: {problem}")))?;
        let client = ClientOptions::new()
            .with_user_agent(http_agent())
            .with_timeout_disabled()
            .with_read_timeout(SILENCE)
            .with_connect_timeout(SILENCE);
        let backoff = BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            ..BackoffConfig::default()
        };
        let retry = RetryConfig { backoff, max_retries: address.retries, retry_timeout: Duration::from_secs(60) };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&address.bucket)
            // The server compares what arrived with the digest that was signed.
            .with_checksum_algorithm(Checksum::SHA256)
            .with_client_options(client)
            .with_retry(retry);
        if let Some(endpoint) = &address.endpoint {
            builder =
                builder.with_endpoint(endpoint.trim_end_matches('/')).with_allow_http(endpoint.starts_with("http:"));
        }
        if let Some(region) = address.region.as_ref().or(found.region.as_ref()) {
            builder = builder.with_region(region);
        }
        if let Some(keys) = found.provider() {
            builder = builder.with_credentials(keys);
        }
        let bucket = builder.build().map_err(|error| unusable(reason(&error)))?;
        Ok(Self { bucket, prefix: address.prefix.clone(), place, runtime: Arc::new(runtime) })
    }

    fn key(&self, name: &str) -> Key {
        // Empty parts are left out.
        Key::from(format!("{}/{name}", self.prefix))
    }

    fn put(&self, name: &str, bytes: &[u8], mode: PutMode) -> Result<(), object_store::Error> {
        let options = PutOptions { mode, attributes: attributes(name), ..PutOptions::default() };
        let payload = bytes.to_vec().into();
        self.runtime.block_on(self.bucket.put_opts(&self.key(name), payload, options)).map(drop)
    }

    /// Uploads in parts and names the whole only if it is what it should be.
    async fn upload(&self, name: &str, file: &mut std::fs::File, sha256: &Digest) -> Result<bool, Upload> {
        let options = PutMultipartOptions { attributes: attributes(name), ..PutMultipartOptions::default() };
        let mut upload = self.bucket.put_multipart_opts(&self.key(name), options).await.map_err(Upload::Store)?;
        let mut hasher = Hasher::new();
        let sent = async {
            loop {
                let mut part = Vec::with_capacity(PART);
                std::io::Read::by_ref(file).take(PART as u64).read_to_end(&mut part).map_err(Upload::File)?;
                if part.is_empty() {
                    return Ok(());
                }
                hasher.update(&part);
                upload.put_part(part.into()).await.map_err(Upload::Store)?;
            }
        };
        let sent: Result<(), Upload> = sent.await;
        let matched = hasher.finish() == *sha256;
        if let (Ok(()), true) = (&sent, matched) {
            upload.complete().await.map_err(Upload::Store)?;
            return Ok(true);
        }
        // Parts that stay behind are found by the bucket's own rule for unfinished uploads.
        let _ = upload.abort().await;
        sent.map(|()| false)
    }

    fn failed(&self, name: &str, error: &object_store::Error) -> StoreError {
        use object_store::Error;
        let (place, problem) = (self.place.clone(), reason(error));
        let name = if name.is_empty() { "a listing".to_owned() } else { name.to_owned() };
        match error {
            Error::NotFound { .. } if problem.contains("NoSuchBucket") => StoreError::NoBucket { place },
            Error::NotFound { .. } => StoreError::Missing { place, name },
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                StoreError::Refused { place, name, problem }
            }
            Error::Generic { .. } => StoreError::Unreachable { place, name, problem },
            _ => StoreError::Failed { place, name, problem },
        }
    }
}

/// Why an upload in parts failed.
enum Upload {
    File(std::io::Error),
    Store(object_store::Error),
}

impl Store for S3 {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn lock(&self) -> Result<Option<Lock>, StoreError> {
        Ok(None)
    }

    fn get(&self, name: &str, limit: u64) -> Result<Option<Stored>, StoreError> {
        let read = async {
            let found = self.bucket.get_opts(&self.key(name), GetOptions::default()).await?;
            let tag = found.meta.e_tag.clone();
            let mut bytes = Vec::new();
            if found.meta.size > limit {
                return Ok(None);
            }
            let mut stream = found.into_stream();
            while let Some(piece) = stream.next().await {
                bytes.extend_from_slice(&piece?);
                if bytes.len() as u64 > limit {
                    return Ok(None);
                }
            }
            Ok(Some(Stored { bytes, tag }))
        };
        match self.runtime.block_on(read) {
            Ok(Some(stored)) => Ok(Some(stored)),
            Ok(None) => Err(StoreError::TooLarge { place: self.place(), name: name.to_owned(), limit }),
            Err(error) => absent(self.failed(name, &error)),
        }
    }

    fn stat(&self, name: &str) -> Result<Option<Facts>, StoreError> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.runtime.block_on(self.bucket.get_opts(&self.key(name), options)) {
            Ok(found) => Ok(Some(Facts { size: found.meta.size, modified: found.meta.last_modified.timestamp() })),
            Err(error) => absent(self.failed(name, &error)),
        }
    }

    fn copy_out(&self, name: &str, out: &mut dyn Write) -> Result<bool, StoreError> {
        let copied = self.runtime.block_on(async {
            let found = match self.bucket.get_opts(&self.key(name), GetOptions::default()).await {
                Ok(found) => found,
                Err(error) => return absent(self.failed(name, &error)).map(|none: Option<()>| none.is_some()),
            };
            let mut stream = found.into_stream();
            while let Some(piece) = stream.next().await {
                let piece = piece.map_err(|error| self.failed(name, &error))?;
                out.write_all(&piece).map_err(|error| StoreError::Failed {
                    place: self.place(),
                    name: name.to_owned(),
                    problem: format!("what was read cannot be written: {error}"),
                })?;
            }
            Ok(true)
        })?;
        Ok(copied)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        match self.put(name, bytes, PutMode::Create) {
            Ok(()) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    fn create_from(&self, name: &str, from: &Path, sha256: &Digest) -> Result<bool, StoreError> {
        let read = FileError::read(from);
        let mut file = std::fs::File::open(from).map_err(&read)?;
        if file.metadata().map_err(&read)?.len() > ONE_PUT {
            return match self.runtime.block_on(self.upload(name, &mut file, sha256)) {
                Ok(matched) => Ok(matched),
                Err(Upload::File(error)) => Err(read(error).into()),
                Err(Upload::Store(error)) => Err(self.failed(name, &error)),
            };
        }
        let mut bytes = Vec::new();
        file.take(ONE_PUT + 1).read_to_end(&mut bytes).map_err(&read)?;
        if Digest::of(&bytes) != *sha256 {
            return Ok(false);
        }
        self.put(name, &bytes, PutMode::Overwrite).map_err(|error| self.failed(name, &error))?;
        Ok(true)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.put(name, bytes, PutMode::Overwrite).map_err(|error| self.failed(name, &error))
    }

    fn swap(&self, name: &str, read: Option<&Stored>, bytes: &[u8]) -> Result<bool, StoreError> {
        let mode = match read {
            None => PutMode::Create,
            Some(stored) => PutMode::Update(UpdateVersion { e_tag: stored.tag.clone(), version: None }),
        };
        match self.put(name, bytes, mode) {
            Ok(()) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                // Ours, if only the answer was lost.
                let found = self.get(name, bytes.len() as u64);
                Ok(matches!(found, Ok(Some(found)) if found.bytes == bytes))
            }
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listing>, StoreError> {
        let below = self.key(prefix.trim_end_matches('/'));
        let own = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let objects = self.bucket.list(Some(&below)).map_ok(|object| Listing {
            name: object.location.as_ref().strip_prefix(&own).unwrap_or_default().to_owned(),
            size: object.size,
            modified: object.last_modified.timestamp(),
        });
        self.runtime.block_on(objects.try_collect()).map_err(|error| self.failed("", &error))
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let keys = futures_util::stream::iter([Ok(self.key(name))]).boxed();
        let removed: Result<Vec<_>, _> = self.runtime.block_on(self.bucket.delete_stream(keys).try_collect());
        match removed {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        let below = self.key("");
        let first = self.runtime.block_on(async { self.bucket.list(Some(&below)).next().await });
        match first {
            None => Ok(true),
            Some(Ok(_)) => Ok(false),
            Some(Err(error)) => Err(self.failed("", &error)),
        }
    }

    fn is_flat(&self) -> bool {
        true
    }

    fn is_near(&self) -> bool {
        false
    }

    fn workers(&self) -> usize {
        // Of a chunk's 4 MiB each: 64 MiB in memory.
        16
    }
}

/// What is missing is no error, but a bucket that is missing is.
fn absent<T>(error: StoreError) -> Result<Option<T>, StoreError> {
    match error {
        StoreError::Missing { .. } => Ok(None),
        other => Err(other),
    }
}

fn attributes(name: &str) -> Attributes {
    let (content, cache) = headers(name);
    Attributes::from_iter([(Attribute::ContentType, content), (Attribute::CacheControl, cache)])
}

fn http_agent() -> reqwest::header::HeaderValue {
    reqwest::header::HeaderValue::from_static(concat!("mcpfs-signer/", env!("CARGO_PKG_VERSION")))
}

/// The innermost reason in one line, bounded: of a server's answer only its code.
fn reason(error: &object_store::Error) -> String {
    let mut last = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        last = inner.to_string();
        source = inner.source();
    }
    let code = last.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    mcpfs_trust::error::bounded(code.unwrap_or(&last))
}
