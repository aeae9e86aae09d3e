//! The sources of `[credentials]`, and the servers that find none there.

use super::finding::{Check, Finding};
use super::{Subject, is_root};
use crate::config::{CredentialConfig, CredentialSource};
use crate::credentials::usable;

pub(super) fn look(subject: &Subject) -> Vec<Finding> {
    let table = &subject.config.credentials;
    if let (false, Some((reference, _))) = (is_root() || !subject.is_roots(), table.first_key_value()) {
        let found = format!("the source of {reference} and the others is root's to look at");
        return vec![Finding::unknown(Check::Credentials, found, "run this as root")];
    }
    let broken = table.iter().find_map(|(reference, entry)| Some((reference, problem(subject, entry)?)));
    if let Some((reference, problem)) = broken {
        let fix = format!("correct that, or [credentials.\"{reference}\"] in {}", subject.config.file.display());
        return vec![Finding::wrong(Check::Credentials, format!("credentials.{reference}: {problem}"), fix)];
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
        None => Finding::ok(Check::Credentials, crate::words::count(table.len() as u64, "source")),
    }]
}

fn problem(subject: &Subject, entry: &CredentialConfig) -> Option<String> {
    match &entry.source {
        CredentialSource::File(path) | CredentialSource::Command { program: path, .. } if !subject.is_near(path) => {
            Some(format!("{} lies on a file system that may hang", path.display()))
        }
        _ => usable(entry).err(),
    }
}
