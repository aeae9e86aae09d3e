//! The signer's own copy of the registry's repository, and what git says of it.
//!
//! Nothing that is signed may come from a message, so the signing server looks for itself: a
//! bare mirror, fetched from the configured address, read by object ids. There is no checkout:
//! no filters, hooks, attributes or submodules of a repository that others write ever run here.
//! git is started with no configuration but what stands in this file, an empty home, one allowed
//! protocol, no redirects and a deadline. Its token travels in the environment of the child
//! (`GIT_CONFIG_VALUE_n`), never in an argument that everybody on the machine can list.

mod git;

use std::path::{Path, PathBuf};

use mcpfs_trust::time::Timestamp;

pub use git::GitError;
use git::{Auth, Git};

/// Longest list of a tip, entries.
const ENTRIES: usize = 10_000;
/// Most commits of one request whose authors are read.
const COMMITS: usize = 2_000;

/// A bare repository that follows another.
#[derive(Debug)]
pub struct Mirror {
    git: Git,
    url: String,
}

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its path.
    pub path: String,
    /// Its object id.
    pub id: String,
    /// Whether it is an ordinary file: links and submodules are not.
    pub ordinary: bool,
}

/// A commit on the branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its full id.
    pub id: String,
    /// When it was committed.
    pub committed: Timestamp,
    /// The commit before it on the branch; `None` for the first.
    pub parent: Option<String>,
    /// The commit that it merged.
    pub merged: Option<String>,
}

/// Whose addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Those who wrote.
    Authors,
    /// Those who wrote, and those who put it into the branch.
    AuthorsAndCommitters,
}

impl Mirror {
    /// The mirror in `folder` of the repository at `url`; made if it is not there.
    ///
    /// # Errors
    /// If git is missing or the folder cannot be written.
    pub fn open(
        folder: &Path,
        url: &str,
        token: Option<(&str, &str)>,
        authority: Option<&Path>,
    ) -> Result<Self, GitError> {
        let auth = token.map(|(user, token)| Auth::new(url, user, token));
        let git = Git::new(folder, url, auth, authority.map(PathBuf::from));
        if !folder.join("HEAD").is_file() {
            std::fs::create_dir_all(folder).map_err(|source| GitError::Folder { path: folder.to_owned(), source })?;
            git.run(&["init", "--quiet", "--bare", "--template=", "."], &[])?;
        }
        Ok(Self { git, url: url.to_owned() })
    }

    /// The commit that one reference of the remote is at, without fetching it.
    ///
    /// # Errors
    /// If it cannot be reached or has no such reference.
    pub fn remote_tip(&self, reference: &str) -> Result<String, GitError> {
        let bytes = self.git.remote(&["ls-remote", "--quiet", "--exit-code", "--", &self.url, reference])?;
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines().filter_map(|line| line.split_once('\t'));
        let found = lines.find(|(id, name)| *name == reference && is_commit_id(id)).map(|(id, _)| id.to_owned());
        found.ok_or_else(|| GitError::TooMuch { what: format!("git does not tell where {reference} is") })
    }

    /// Fetches one reference of the remote, such as `refs/heads/main`, and gives the commit it is at.
    ///
    /// # Errors
    /// If it cannot be reached or has no such reference.
    pub fn fetch(&self, reference: &str) -> Result<String, GitError> {
        let own = format!("refs/mcpfs/{}", reference.strip_prefix("refs/").unwrap_or(reference));
        let spec = format!("+{reference}:{own}");
        let fetch =
            ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-gc"];
        self.git.remote(&[&fetch[..], &["--", &self.url, &spec]].concat())?;
        self.commit_id(&own)
    }

    /// The files directly in `folder`, and the named ones beside it.
    ///
    /// # Errors
    /// If the commit is not there, or holds more than anybody reviews.
    pub fn files(&self, commit: &str, folder: &str, beside: &[&str]) -> Result<Vec<Blob>, GitError> {
        let inside = format!("{folder}/");
        let text = self.git.text(&[&["ls-tree", "-z", commit, "--", &inside][..], beside].concat())?;
        let blobs: Vec<Blob> = text.split('\0').filter(|line| !line.is_empty()).filter_map(parse_entry).collect();
        if blobs.len() > ENTRIES {
            return Err(GitError::TooMuch { what: format!("{folder} has more than {ENTRIES} entries") });
        }
        Ok(blobs)
    }

    /// The object id of a path in a commit; `None` if it is not there.
    ///
    /// # Errors
    /// If git fails.
    pub fn blob_at(&self, commit: &str, path: &str) -> Result<Option<String>, GitError> {
        let text = self.git.text(&["ls-tree", "-z", commit, "--", path])?;
        Ok(text.split('\0').filter_map(parse_entry).find(|blob| blob.path == path && blob.ordinary).map(|blob| blob.id))
    }

    /// The bytes of a blob, at most `limit`.
    ///
    /// # Errors
    /// If it is not there or larger.
    pub fn read(&self, blob: &str, limit: u64) -> Result<Vec<u8>, GitError> {
        let size = self.git.text(&["cat-file", "-s", blob])?;
        match size.trim().parse::<u64>() {
            Ok(size) if size <= limit => self.git.run(&["cat-file", "blob", blob], &[]),
            _ => Err(GitError::TooMuch { what: format!("the file {blob} is larger than {limit} bytes") }),
        }
    }

    /// The last commit on the branch itself that changed `path`: of a merge the merge commit,
    /// whatever stands in the merged branch.
    ///
    /// # Errors
    /// If git fails.
    pub fn last_change(&self, tip: &str, path: &str) -> Result<Option<Commit>, GitError> {
        let log = ["log", "-1", "--first-parent", "--diff-merges=first-parent", "--format=%H %ct %P", tip, "--", path];
        Ok(parse_commit(&self.git.text(&log)?))
    }

    /// Commits of the branch itself that follow `commit`, oldest first, at most `most`.
    ///
    /// # Errors
    /// If git fails.
    pub fn following(&self, commit: &str, tip: &str, most: usize) -> Result<Vec<String>, GitError> {
        let range = format!("{commit}..{tip}");
        let text = self.git.text(&["rev-list", "--first-parent", "--reverse", &range])?;
        Ok(text.lines().take(most).map(str::to_owned).collect())
    }

    /// Whether `older` is `newer` or one of its ancestors.
    ///
    /// # Errors
    /// If git fails for another reason than that it is not.
    pub fn is_ancestor(&self, older: &str, newer: &str) -> Result<bool, GitError> {
        match self.git.run(&["merge-base", "--is-ancestor", older, newer], &[]) {
            Ok(_) => Ok(true),
            Err(GitError::Failed { code: Some(1), .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the mirror holds this commit.
    pub fn holds(&self, commit: &str) -> bool {
        is_commit_id(commit) && self.git.run(&["cat-file", "-e", &format!("{commit}^{{commit}}")], &[]).is_ok()
    }

    /// The addresses of the people who made what `head` has and `base` has not.
    ///
    /// # Errors
    /// If git fails, or there are more commits than anybody reviews.
    pub fn people(&self, head: &str, base: Option<&str>, who: Who) -> Result<Vec<String>, GitError> {
        self.people_of(head, base, None, who)
    }

    /// The addresses of everybody who ever changed a path.
    ///
    /// # Errors
    /// As [`Mirror::people`].
    pub fn people_at(&self, head: &str, path: &str, who: Who) -> Result<Vec<String>, GitError> {
        self.people_of(head, None, Some(path), who)
    }

    fn people_of(&self, head: &str, base: Option<&str>, path: Option<&str>, who: Who) -> Result<Vec<String>, GitError> {
        let most = format!("--max-count={}", COMMITS + 1);
        let mut args = vec!["log", &most, "--format=<%ae>%n<%ce>%n%B%x00", head];
        args.extend(base.map(|_| "--not"));
        args.extend(base);
        args.push("--");
        args.extend(path);
        // A message in another encoding is no reason to stop: only its addresses are read.
        let bytes = self.git.run(&args, &[])?;
        let text = String::from_utf8_lossy(&bytes);
        let commits: Vec<&str> = text.split('\0').filter(|one| !one.trim().is_empty()).collect();
        if commits.len() > COMMITS {
            return Err(GitError::TooMuch { what: format!("the request has more than {COMMITS} commits") });
        }
        let mut addresses: Vec<String> = commits.into_iter().flat_map(|commit| addresses(commit, who)).collect();
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }

    /// The principal of `allowed_signers` (ssh-keygen's format) who signed the commit.
    ///
    /// # Errors
    /// If it is not signed, or by a key that is not listed.
    pub fn signed_by(&self, commit: &str, allowed_signers: &Path) -> Result<String, GitError> {
        let file = format!("gpg.ssh.allowedSignersFile={}", allowed_signers.display());
        self.git.run(&["-c", "gpg.format=ssh", "-c", &file, "verify-commit", "--", commit], &[])?;
        let show = ["-c", "gpg.format=ssh", "-c", &file, "log", "-1", "--format=%G?%x00%GS", commit, "--"];
        let text = self.git.text(&show)?;
        match text.trim_end().split_once('\0') {
            // Good, and of a principal that the file names.
            Some(("G", principal)) if !principal.is_empty() => Ok(principal.to_lowercase()),
            _ => Err(GitError::Failed {
                doing: "verify-commit".to_owned(),
                code: None,
                said: "not signed by a listed key".to_owned(),
            }),
        }
    }

    fn commit_id(&self, name: &str) -> Result<String, GitError> {
        let text =
            self.git.text(&["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{name}^{{commit}}")])?;
        let id = text.trim();
        match is_commit_id(id) {
            true => Ok(id.to_owned()),
            false => Err(GitError::TooMuch { what: format!("git calls {name} {}", mcpfs_trust::error::bounded(id)) }),
        }
    }
}

/// A full object id, SHA-1 or SHA-256.
pub fn is_commit_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The addresses in a commit (author, committer, message), in lower case. Co-authors are authors, also
/// where their lines are not at the message's end: forges show them all the same.
fn addresses(commit: &str, who: Who) -> Vec<String> {
    const CO_AUTHOR: &str = "co-authored-by:";
    let mut lines = commit.trim_start_matches('\n').lines();
    let (author, committer) = (lines.next(), lines.next());
    let co_authors = lines.filter_map(|line| {
        let line = line.trim();
        let named = line.get(..CO_AUTHOR.len()).is_some_and(|word| word.eq_ignore_ascii_case(CO_AUTHOR));
        let (_, address) = line.get(CO_AUTHOR.len()..).filter(|_| named)?.rsplit_once('<')?;
        Some(address.split('>').next().unwrap_or_default())
    });
    let committer = committer.filter(|_| who == Who::AuthorsAndCommitters);
    let all = author.into_iter().chain(committer).chain(co_authors);
    all.map(|address| address.trim_matches(['<', '>', ' ', '\t']).to_lowercase())
        .filter(|address| !address.is_empty())
        .collect()
}

fn parse_entry(line: &str) -> Option<Blob> {
    let (facts, path) = line.split_once('\t')?;
    let mut facts = facts.split(' ');
    let (mode, kind, id) = (facts.next()?, facts.next()?, facts.next()?);
    let ordinary = kind == "blob" && matches!(mode, "100644" | "100755");
    Some(Blob { path: path.to_owned(), id: id.to_owned(), ordinary })
}

fn parse_commit(text: &str) -> Option<Commit> {
    let mut words = text.lines().next()?.split(' ');
    let (id, time) = (words.next()?, words.next()?);
    let committed = Timestamp::from_unix(time.parse().ok()?)?;
    let mut parents = words.filter(|parent| is_commit_id(parent)).map(str::to_owned);
    let (parent, merged) = (parents.next(), parents.next());
    is_commit_id(id).then(|| Commit { id: id.to_owned(), committed, parent, merged })
}

#[cfg(test)]
mod tests;
