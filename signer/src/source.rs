//! Where a recipe comes from, by git: the last commit that changed it.
//!
//! That commit, not the branch's tip, so that a rebuild from a later checkout gives the same
//! statement. `git` itself is asked, with its hooks and monitors off; a recipe that is not
//! exactly what was committed has no source.

use std::path::Path;
use std::process::Command;

use mcpfs_trust::release::Source;
use mcpfs_trust::time::Timestamp;

/// A recipe's source, its time, and what a person should know about them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// The commit; absent outside git.
    pub source: Option<Source>,
    /// The commit's time.
    pub committed: Option<Timestamp>,
    /// Why there is no source.
    pub warning: Option<String>,
}

/// Asks git about `recipe`.
pub fn origin(recipe: &Path) -> Origin {
    let warn =
        |text: &str| Origin { warning: Some(format!("{text}; the release names no source")), ..Origin::default() };
    let folder = recipe.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(file) = recipe.file_name() else { return Origin::default() };
    if git(folder, &["rev-parse", "--is-inside-work-tree"], None).as_deref() != Some("true") {
        return Origin::default();
    }
    let file = Path::new(file);
    match git(folder, &["status", "--porcelain", "--ignored", "--"], Some(file)) {
        Some(status) if status.is_empty() => {}
        Some(_) => return warn("the recipe has changes that are not committed"),
        None => return warn("git cannot tell whether the recipe is committed"),
    }
    let commit = git(folder, &["log", "-1", "--format=%H %ct", "--"], Some(file));
    let parsed = commit.as_deref().and_then(|text| {
        let (commit, time) = text.split_once(' ')?;
        Some((commit.to_owned(), Timestamp::from_unix(time.parse().ok()?)?))
    });
    let Some((commit, committed)) = parsed else { return warn("git knows no commit of the recipe") };
    let Some(remote) = git(folder, &["config", "--get", "remote.origin.url"], None).filter(|url| !url.is_empty())
    else {
        return Origin { committed: Some(committed), ..warn("the repository has no remote named origin") };
    };
    let source = Source { repository: without_credentials(&remote), commit, pull_request: None, approvals: Vec::new() };
    Origin { source: Some(source), committed: Some(committed), warning: None }
}

fn git(folder: &Path, args: &[&str], file: Option<&Path>) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "log.showSignature=false"])
        .args(args)
        .args(file)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_LITERAL_PATHSPECS", "1")
        .stdin(std::process::Stdio::null())
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A remote's address is signed and published: a token in it must not be.
fn without_credentials(remote: &str) -> String {
    match url::Url::parse(remote) {
        Ok(mut url) if url.has_host() && !url.username().is_empty() | url.password().is_some() => {
            let cleared = url.set_username("").is_ok() && url.set_password(None).is_ok();
            if cleared { url.into() } else { "unknown".to_owned() }
        }
        _ => remote.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_not_published() {
        for (remote, shown) in [
            ("https://user:token@git.example.com/x.git", "https://git.example.com/x.git"),
            ("https://token@git.example.com/x.git", "https://git.example.com/x.git"),
            ("https://git.example.com/x.git", "https://git.example.com/x.git"),
            ("git@git.example.com:x.git", "git@git.example.com:x.git"),
        ] {
            assert_eq!(without_credentials(remote), shown);
        }
    }
}
