//! `mcpfs explain`: why a name, path or process is or is not what somebody expected.

use std::path::Path;

use mcpfs_trust::error::bounded;

use super::{CommandError, Door};
use crate::control::facts::{Explained, GroupFacts, ReleaseFacts};
use crate::control::protocol::{Request, Target};

/// Options of `mcpfs explain`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A path in the mount, a process number, NAME or NAME@VERSION.
    #[arg(value_name = "PATH|PID|NAME[@VER]")]
    pub target: String,
}

/// All that is known about the target.
///
/// # Errors
/// If no daemon answers, or there is no such thing.
pub fn run(door: &Door, args: &Args) -> Result<String, CommandError> {
    let mut explained: Explained = door.ask(&Request::Explain { target: target(&args.target)? })?;
    if let Some(group) = explained.group.as_ref().filter(|group| !group.yours && is_given(group)) {
        let name = bounded(&group.name);
        explained.advice = Some(format!(
            "log in again, or start your MCP host from `newgrp {name}`: this host has you as a member of {name}, and this \
             session is older than that"
        ));
    }
    Ok(door.show(&explained, text))
}

/// Digits are a process, a slash makes a path, all else is a name: no name has a slash, and
/// a name of digits alone is reached as `NAME@VER`.
fn target(text: &str) -> Result<Target, CommandError> {
    if let Ok(pid) = text.parse() {
        return Ok(Target::Pid(pid));
    }
    if !text.contains('/') {
        return Ok(Target::Name(text.to_owned()));
    }
    // Made absolute, but links are not followed: a link in the mount is itself the question.
    let path = std::path::absolute(Path::new(text)).map_err(|error| CommandError::Usage {
        message: format!("{text:?} is not a path: {error}"),
        advice: "give a path in the mount, a process number, or NAME[@VERSION]".to_owned(),
    })?;
    Ok(Target::Path(path))
}

/// Whether this host's database gives the group to this user, though this process has it not.
fn is_given(group: &GroupFacts) -> bool {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    let name = user.as_ref().and_then(|user| std::ffi::CString::new(user.name.as_str()).ok());
    let (Some(user), Some(name), Some(gid)) = (user, name, group.gid) else { return false };
    nix::unistd::getgrouplist(&name, user.gid).is_ok_and(|groups| groups.iter().any(|one| one.as_raw() == gid))
}

fn text(explained: &Explained) -> String {
    let mut text = bounded(&explained.name);
    if let Some(version) = &explained.version {
        text += &format!(" {}", bounded(version));
    }
    text += &match (&explained.refused, &explained.selected, &explained.version) {
        (Some(reason), ..) => format!(": refused: {} ({})\n", bounded(&reason.code), bounded(&reason.message)),
        (None, Some(selected), Some(version)) if selected != version => {
            format!(": admitted; `run` without a version starts {}\n", bounded(selected))
        }
        (None, Some(_), _) => ": admitted; this is what `run` starts\n".to_owned(),
        (None, None, _) => ": admitted; `run` without a version starts nothing\n".to_owned(),
    };
    let mut line = |name: &str, value: &str| text += &format!("  {name:11} {value}\n");
    if let Some(advice) = explained.advice.as_ref().filter(|advice| !advice.is_empty()) {
        line("do", &bounded(advice));
    }
    if let Some(process) = &explained.process {
        line("process", &format!("{} (known by {})", process.pid, bounded(&process.known_by)));
    }
    if let Some(group) = &explained.group {
        let gid = group.gid.map_or_else(|| "of no known number".to_owned(), |gid| gid.to_string());
        line("for members", &format!("of the group {} ({gid}), by {}", bounded(&group.name), bounded(&group.setting)));
    }
    match &explained.pin {
        Some(pin) => line("selected by", &format!("this host's pin {}", bounded(pin))),
        None if explained.selected.is_some() => line("selected by", "the catalogue"),
        None => (),
    }
    if !explained.admitted.is_empty() {
        let versions: Vec<String> = explained.admitted.iter().map(|version| bounded(version)).collect();
        line("admitted", &versions.join(", "));
    }
    if let Some(version) = explained.head_version {
        line("head", &format!("{version}{}", if explained.stale { " (stale)" } else { "" }));
    }
    if let Some(why) = &explained.stale_because {
        line("stale", &format!("{}: it runs until registry.max_stale; mcpfs doctor says what to do", bounded(why)));
    }
    for credential in &explained.credentials {
        let place = credential.env.as_ref().or(credential.file.as_ref()).map(|name| bounded(name)).unwrap_or_default();
        let problem = credential.problem.as_ref().map(|why| format!("; {}", bounded(why))).unwrap_or_default();
        line("credential", &format!("{} as {place}{problem}", bounded(&credential.reference)));
    }
    if let Some(release) = &explained.release {
        release_lines(release, line);
    }
    text
}

fn release_lines(release: &ReleaseFacts, mut line: impl FnMut(&str, &str)) {
    let list = |items: &[String]| items.iter().map(|item| bounded(item)).collect::<Vec<_>>().join(", ");
    if let Some(reason) = &release.yanked {
        line("yanked", &format!("{}; an exact pin keeps it", bounded(reason)));
    }
    line("description", &bounded(&release.description));
    line("maintainer", &bounded(&release.maintainer));
    line("data", &bounded(&release.data_classification));
    if !release.scope.is_empty() {
        line("scope", &list(&release.scope));
    }
    line("reviewed", &format!("{} by {}", release.reviewed_at, list(&release.reviewers)));
    line("issued", &release.issued.to_string());
    line("statement", &release.statement.to_string());
    let (artefact, tree) = (&release.artefact, &release.artefact.tree);
    line("artefact", &format!("{} for {}, {}", artefact.sha256, artefact.platform, bounded(&artefact.url)));
    line("tree", &format!("{}, {} files, {}", tree.sha256, tree.files, crate::words::size(tree.bytes)));
    for key in &release.keys {
        line("signed by", &format!("key {key}"));
    }
    if let Some(source) = &release.source {
        line("source", &format!("{} at {}", bounded(&source.repository), bounded(&source.commit)));
        if let Some(request) = &source.pull_request {
            line("request", &bounded(request));
        }
        if !source.approvals.is_empty() {
            line("approved by", &list(&source.approvals));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::control::facts::{CredentialFacts, Reason};

    #[test]
    fn targets() {
        assert_eq!(target("4242").unwrap(), Target::Pid(4242));
        assert_eq!(target("internal-postgres@1.2.0").unwrap(), Target::Name("internal-postgres@1.2.0".to_owned()));
        assert_eq!(target("/mcp/a/../b/run").unwrap(), Target::Path("/mcp/a/../b/run".into()));
        assert!(matches!(target("a/b").unwrap(), Target::Path(path) if path.is_absolute()));
    }

    fn explained() -> Explained {
        Explained {
            name: "hello".to_owned(),
            version: Some("1.0.0".to_owned()),
            selected: Some("1.1.0".to_owned()),
            admitted: vec!["1.1.0".to_owned(), "1.0.0".to_owned()],
            refused: None,
            advice: None,
            group: None,
            pin: None,
            head_version: Some(7),
            stale: true,
            stale_because: None,
            credentials: vec![],
            release: None,
            process: None,
        }
    }

    #[test]
    fn texts() {
        assert_eq!(
            text(&explained()),
            "hello 1.0.0: admitted; `run` without a version starts 1.1.0\n  selected by the catalogue\n  \
             admitted    1.1.0, 1.0.0\n  head        7 (stale)\n"
        );
        let fact = |problem: Option<&str>| CredentialFacts {
            reference: "dw/ro".to_owned(),
            env: Some("PGPASSWORD".to_owned()),
            file: None,
            problem: problem.map(str::to_owned),
        };
        let needs = Explained { credentials: vec![fact(None), fact(Some("no source"))], ..explained() };
        let lines = text(&needs);
        let ends = "  credential  dw/ro as PGPASSWORD\n  credential  dw/ro as PGPASSWORD; no source\n";
        assert!(lines.ends_with(ends), "{lines}");
        let refused = Explained {
            refused: Some(Reason { code: "Revoked".to_owned(), message: "CVE".to_owned() }),
            advice: Some("current is 1.1.0".to_owned()),
            pin: Some("1.1.0".to_owned()),
            ..explained()
        };
        let lines = text(&refused);
        assert!(lines.starts_with("hello 1.0.0: refused: Revoked (CVE)\n  do          current is 1.1.0\n"), "{lines}");
        assert!(lines.contains("selected by this host's pin 1.1.0\n"), "{lines}");
        let group =
            GroupFacts { name: "finance".to_owned(), gid: Some(60), setting: "access.default".to_owned(), yours: true };
        let text_of = text(&Explained { group: Some(group), ..explained() });
        assert!(text_of.contains("\n  for members of the group finance (60), by access.default\n"), "{text_of}");
        let current = Explained { selected: Some("1.0.0".to_owned()), ..explained() };
        assert!(text(&current).starts_with("hello 1.0.0: admitted; this is what `run` starts\n"));
    }
}
