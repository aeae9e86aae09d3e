//! Who we are to AWS, for buckets and for keys; never from arguments.
//!
//! In this order: a systemd credential in the form of `~/.aws/credentials`, the environment
//! (`AWS_ACCESS_KEY_ID` …), the profile in `~/.aws/credentials` and `~/.aws/config`, and what the
//! machine's own identity gives (web identity, container, instance metadata). A bucket's systemd
//! credential has another name than a key's: who publishes and who signs can be two.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AwsCredential, AwsCredentialProvider};
use object_store::{BackoffConfig, ClientOptions, RetryConfig, StaticCredentialProvider};

use crate::files;

/// A credentials or configuration file, bytes.
const BYTES: u64 = 256 << 10;
/// What gives a machine its identity is near.
const NEAR: Duration = Duration::from_secs(3);

/// What was given to this process; without keys there may be the machine's own identity.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) keys: Option<AwsCredential>,
    pub(crate) region: Option<String>,
}

impl Found {
    /// These keys as what a client asks.
    pub(crate) fn provider(&mut self) -> Option<AwsCredentialProvider> {
        Some(Arc::new(StaticCredentialProvider::new(self.keys.take()?)))
    }
}

/// Looks in all places that hold keys; `credential` is the name of systemd's.
pub(crate) fn find(credential: &str) -> Result<Found, String> {
    let found = given(credential)?;
    match found.keys.as_ref().map_or(Ok(()), usable) {
        Ok(()) => Ok(found),
        Err(problem) => Err(problem),
    }
}

/// Web identity, container or instance: asked for when it is first needed, and again when it expires.
pub(crate) fn machine(region: &str) -> Result<AwsCredentialProvider, String> {
    let elsewhere =
        ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
    let off = variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if off && elsewhere.into_iter().all(|name| variable(name).is_none()) {
        return Err("none are in the environment or in a profile".to_owned());
    }
    let client = ClientOptions::new().with_connect_timeout(NEAR).with_timeout(NEAR).with_allow_http(true);
    let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: 1, retry_timeout: 2 * NEAR };
    // A bucket's client knows these sources; no bucket is asked for anything.
    let bucket = AmazonS3Builder::from_env()
        .with_bucket_name("none")
        .with_region(region)
        .with_client_options(client)
        .with_retry(retry)
        .build();
    match bucket {
        Ok(bucket) => Ok(Arc::clone(bucket.credentials())),
        Err(error) => Err(mcpfs_trust::error::bounded(&error.to_string())),
    }
}

/// Keys become headers, and what cannot be in one would end the client.
pub(crate) fn usable(keys: &AwsCredential) -> Result<(), String> {
    let texts = [Some(&keys.key_id), Some(&keys.secret_key), keys.token.as_ref()];
    match texts.into_iter().flatten().all(|text| text.bytes().all(|byte| byte.is_ascii_graphic())) {
        true => Ok(()),
        false => Err("they hold blanks or other bytes that no key has".to_owned()),
    }
}

fn given(credential: &str) -> Result<Found, String> {
    if let Some(folder) = variable("CREDENTIALS_DIRECTORY") {
        let file = Path::new(&folder).join(credential);
        if let Some(text) = read(&file)? {
            let keys = keys(&text, "default").ok_or_else(|| incomplete(&file, "default"))?;
            return Ok(Found { keys: Some(keys), region: value(&text, "default", "region") });
        }
    }
    if let (Some(key_id), Some(secret_key)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        let keys = AwsCredential { key_id, secret_key, token: variable("AWS_SESSION_TOKEN") };
        return Ok(Found { keys: Some(keys), region: None });
    }
    let named = variable("AWS_PROFILE");
    let profile = named.as_deref().unwrap_or("default");
    let file = |name: &str, below: &str| {
        variable(name).map(PathBuf::from).or_else(|| variable("HOME").map(|home| Path::new(&home).join(below)))
    };
    let mut found = Found::default();
    if let Some(path) = file("AWS_CONFIG_FILE", ".aws/config")
        && let Some(text) = read(&path)?
    {
        let section = if profile == "default" { profile.to_owned() } else { format!("profile {profile}") };
        found.region = value(&text, &section, "region");
        found.keys = keys(&text, &section);
    }
    let path = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
    if let Some(path) = &path
        && let Some(text) = read(path)?
    {
        found.keys = keys(&text, profile).or(found.keys);
    }
    // Who names a profile means that one, and no other identity.
    match (found.keys.is_none(), named, path) {
        (true, Some(named), Some(path)) => Err(incomplete(&path, &named)),
        _ => Ok(found),
    }
}

fn incomplete(path: &Path, profile: &str) -> String {
    format!("{} has no aws_access_key_id and aws_secret_access_key in [{profile}]", path.display())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn read(path: &Path) -> Result<Option<String>, String> {
    match files::read_bounded(path, BYTES) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| format!("{} is not UTF-8", path.display())),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }),
    }
}

fn keys(text: &str, section: &str) -> Option<AwsCredential> {
    let value = |name| value(text, section, name);
    Some(AwsCredential {
        key_id: value("aws_access_key_id")?,
        secret_key: value("aws_secret_access_key")?,
        token: value("aws_session_token"),
    })
}

/// The value of `name` in `[section]`; lines that are indented belong to what is above them.
fn value(text: &str, section: &str, name: &str) -> Option<String> {
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with([' ', '\t', '#', ';']) {
            continue;
        }
        let line = line.trim_end();
        if let Some(title) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = title.trim() == section;
        } else if inside
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == name
        {
            return Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_and_no_other_one() {
        let text = "[default]\naws_access_key_id = A\n# x\naws_secret_access_key=s/=\n\n[profile ci]\nregion = eu-west-1\n\
                    s3 =\n  region = nested\naws_access_key_id = B\n[ last ]\naws_access_key_id=C\n\
                    aws_secret_access_key=c\naws_session_token = t\n";
        let found = keys(text, "default");
        assert!(found.is_some_and(|keys| keys.key_id == "A" && keys.secret_key == "s/=" && keys.token.is_none()));
        assert!(keys(text, "profile ci").is_none(), "half a key is none");
        assert!(keys(text, "last").is_some_and(|keys| keys.token.as_deref() == Some("t")));
        assert!(keys(text, "none").is_none());
        assert_eq!(value(text, "profile ci", "region").as_deref(), Some("eu-west-1"));
        assert_eq!(value(text, "default", "region"), None);
    }

    #[test]
    fn keys_that_no_header_can_hold() {
        let keys = |secret: &str, token: Option<&str>| AwsCredential {
            key_id: "A".to_owned(),
            secret_key: secret.to_owned(),
            token: token.map(str::to_owned),
        };
        assert!(usable(&keys("s/+=", Some("t"))).is_ok());
        for bad in [keys("new\nline", None), keys("a blank", None), keys("s", Some("t\u{e9}"))] {
            assert!(usable(&bad).is_err_and(|problem| !problem.contains("line")));
        }
    }
}
