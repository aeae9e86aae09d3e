//! The sources of `[credentials]`, and the servers that find none there.

use std::ops::Not as _;

use super::finding::{Check, Finding};
use super::{Subject, access, is_root};
use crate::config::{CredentialConfig, CredentialSource, Texts};
use crate::credentials::{Unusable, usable};

pub(super) fn look(subject: &Subject) -> Vec<Finding> {
    let table = &subject.config.credentials;
    if let (false, Some((reference, _))) = (is_root() || !subject.is_roots(), table.first_key_value()) {
        let found = format!("the source of {reference} and the others is root's to look at");
        return vec![Finding::unknown(Check::Credentials, found, "run this as root")];
    }
    let broken = table.iter().find_map(|(reference, entry)| Some((reference, problem(subject, entry)?)));
    if let Some((reference, problem)) = broken {
        let setting = format!("credentials.{reference}.{}: {}", problem.key, problem.why);
        let texts = Texts::read(&subject.config.file);
        let found = texts.map_or(setting.clone(), |texts| texts.mistake(setting).to_string());
        return vec![Finding::wrong(Check::Credentials, found, "correct the one or the other")];
    }
    let lacking = subject.status.as_ref().ok().and_then(|status| Some((status.lacking.len(), status.lacking.first()?)));
    vec![match lacking {
        Some((count, first)) => Finding::note(
            Check::Credentials,
            format!(
                "{} cannot start here for want of a credential, the first of them {}: {}",
                crate::words::count(count as u64, "server"),
                first.name,
                first.reason.message
            ),
            format!("name its source under [credentials] in {}", subject.config.file.display()),
        ),
        None => match table.is_empty().not().then(|| strange(subject)).flatten() {
            Some((reference, server)) => Finding::note(
                Check::Credentials,
                format!("credentials.{reference}: the registry has no server {server}"),
                "nothing, if it is still to come; else correct the name",
            ),
            None => Finding::ok(Check::Credentials, crate::words::count(table.len() as u64, "source")),
        },
    }]
}

/// A ref, and a server that may have it and that there is not.
fn strange(subject: &Subject) -> Option<(&str, &str)> {
    let known = access::servers(subject)?;
    let mut named = subject
        .config
        .credentials
        .iter()
        .flat_map(|(reference, entry)| entry.servers.iter().map(|server| (reference.as_str(), server.as_str())));
    named.find(|(_, server)| !known.iter().any(|one| one == server))
}

fn problem(subject: &Subject, entry: &CredentialConfig) -> Option<Unusable> {
    match &entry.source {
        CredentialSource::File(path) | CredentialSource::Command { program: path, .. } if !subject.is_near(path) => {
            let why = format!("{} lies on a file system that may hang", path.display());
            Some(Unusable { key: entry.source.key(), why })
        }
        _ => usable(entry).err(),
    }
}
