//! Where the keys of a bucket come from; never from arguments.
//!
//! In this order: the systemd credential `mcpfs-s3`, the environment (`AWS_ACCESS_KEY_ID` …), the
//! profile in `~/.aws/credentials` and `~/.aws/config`, and what the machine's own identity gives
//! (web identity, container, instance metadata), which the client asks by itself. The credential
//! has the form of `~/.aws/credentials`.

use std::path::{Path, PathBuf};

use crate::files;

/// A credentials or configuration file, bytes.
const BYTES: u64 = 256 << 10;
/// The credential's name.
const CREDENTIAL: &str = "mcpfs-s3";

/// What was found; without keys the client looks for the machine's own identity.
#[derive(Default)]
pub(super) struct Found {
    pub(super) keys: Option<Keys>,
    pub(super) region: Option<String>,
}

/// A key of a bucket. It has no `Debug`: nothing prints it.
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
}

/// Looks in all places.
pub(super) fn find() -> Result<Found, String> {
    let profile = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    if let Some(folder) = variable("CREDENTIALS_DIRECTORY") {
        let file = Path::new(&folder).join(CREDENTIAL);
        if let Some(text) = read(&file)? {
            let keys = keys(&text, "default").ok_or_else(|| incomplete(&file, "default"))?;
            return Ok(Found { keys: Some(keys), region: value(&text, "default", "region") });
        }
    }
    if let (Some(id), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        return Ok(Found { keys: Some(Keys { id, secret, token: variable("AWS_SESSION_TOKEN") }), region: None });
    }
    let file = |name: &str, below: &str| {
        variable(name).map(PathBuf::from).or_else(|| variable("HOME").map(|home| Path::new(&home).join(below)))
    };
    let mut found = Found::default();
    if let Some(path) = file("AWS_CONFIG_FILE", ".aws/config")
        && let Some(text) = read(&path)?
    {
        let section = if profile == "default" { profile.clone() } else { format!("profile {profile}") };
        found.region = value(&text, &section, "region");
        found.keys = keys(&text, &section);
    }
    if let Some(path) = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")
        && let Some(text) = read(&path)?
    {
        found.keys = keys(&text, &profile).or(found.keys);
        if found.keys.is_none() && variable("AWS_PROFILE").is_some() {
            return Err(incomplete(&path, &profile));
        }
    }
    Ok(found)
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

fn keys(text: &str, section: &str) -> Option<Keys> {
    let value = |name| value(text, section, name);
    Some(Keys {
        id: value("aws_access_key_id")?,
        secret: value("aws_secret_access_key")?,
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
                    s3 =\n  region = nested\naws_access_key_id = B\n";
        let found = keys(text, "default");
        assert!(found.is_some_and(|keys| keys.id == "A" && keys.secret == "s/=" && keys.token.is_none()));
        assert!(keys(text, "profile ci").is_none(), "half a key is none");
        assert_eq!(value(text, "profile ci", "region").as_deref(), Some("eu-west-1"));
        assert_eq!(value(text, "default", "region"), None);
    }
}
