//! What `--site` says: a folder, or a prefix in a bucket.

use std::fmt;
use std::path::PathBuf;

use super::store::StoreError;

/// A site's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A folder.
    Folder(PathBuf),
    /// A prefix in a bucket.
    S3(S3Address),
}

/// A prefix in a bucket, and where the bucket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Address {
    /// The bucket.
    pub bucket: String,
    /// The prefix, without slashes around it; may be empty.
    pub prefix: String,
    /// The server, if it is not Amazon's.
    pub endpoint: Option<String>,
    /// The region, if it is not the profile's.
    pub region: Option<String>,
    /// How often a request that got lost is sent again.
    pub retries: usize,
}

impl Address {
    /// Reads `DIR` or `s3://bucket/prefix`.
    ///
    /// # Errors
    /// `Address` for another scheme, or a bucket or prefix that cannot be one.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let Some(rest) = text.strip_prefix("s3://") else {
            // A slash too few would make a folder called "s3:".
            return match text.contains("://") || text.starts_with("s3:") || text.is_empty() {
                true => Err(StoreError::Address(text.to_owned())),
                false => Ok(Self::Folder(text.into())),
            };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        let parts = prefix.split('/').all(|part| plain(part) && !matches!(part, "" | "." | ".."));
        if bucket.is_empty() || !plain(bucket) || !(prefix.is_empty() || parts) {
            return Err(StoreError::Address(text.to_owned()));
        }
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        Ok(Self::S3(S3Address { bucket, prefix, endpoint: None, region: None, retries: 5 }))
    }
}

impl fmt::Display for S3Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.as_str() {
            "" => write!(f, "s3://{}", self.bucket),
            prefix => write!(f, "s3://{}/{prefix}", self.bucket),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [("s3://b", "s3://b"), ("s3://b/", "s3://b"), ("s3://b.c/mcp/prod/", "s3://b.c/mcp/prod")]
        {
            let Address::S3(address) = Address::parse(text).unwrap() else { unreachable!("{text}") };
            assert_eq!(address.to_string(), shown);
        }
        assert_eq!(Address::parse("/srv/mcp").unwrap(), Address::Folder("/srv/mcp".into()));
        for text in [
            "",
            "s3://",
            "s3:///x",
            "s3://b//x",
            "s3://b/../x",
            "s3://u:p@b/x",
            "s3:/b",
            "s3:b",
            "https://example.com/",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
