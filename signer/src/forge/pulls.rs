//! What GitHub's and Gitea's APIs have in common: pull requests, their files, commits and reviews.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Forge, ForgeError, Request, User};

/// As many commits of a request as GitHub lists.
const COMMITS: usize = 250;

#[derive(Deserialize)]
pub(super) struct Pull {
    number: u64,
    html_url: String,
    user: Option<User>,
    merged_at: Option<String>,
    head: Side,
    base: Side,
}

#[derive(Deserialize)]
struct Side {
    #[serde(rename = "ref")]
    name: String,
    sha: String,
    repo: Option<Repository>,
}

#[derive(Deserialize)]
struct Repository {
    full_name: String,
}

#[derive(Deserialize)]
struct ChangedFile {
    filename: String,
}

/// A commit, and the accounts behind its addresses.
#[derive(Deserialize)]
struct Commit {
    author: Option<Account>,
    committer: Option<Account>,
}

#[derive(Deserialize)]
struct Account {
    login: Option<String>,
}

/// What only one of the two has is absent with the other.
#[derive(Deserialize)]
pub(super) struct Review {
    id: u64,
    user: Option<User>,
    pub(super) state: String,
    pub(super) commit_id: Option<String>,
    #[serde(default)]
    pub(super) stale: bool,
    #[serde(default)]
    pub(super) dismissed: bool,
}

impl Pull {
    /// As ours, if it was merged into this branch of this repository.
    pub(super) fn merged_into(self, repository: &str, branch: &str) -> Option<Request> {
        let here = self.base.repo.is_some_and(|repo| repo.full_name.eq_ignore_ascii_case(repository));
        (here && self.base.name == branch && self.merged_at.is_some()).then(|| Request {
            number: self.number,
            url: self.html_url,
            // A deleted account is nobody; whoever approved is somebody else.
            author: self.user.map(|user| user.login).unwrap_or_default(),
            head: Some(self.head.sha),
        })
    }
}

fn path(forge: &Forge, request: &Request, what: &str) -> String {
    format!("repos/{}/pulls/{}/{what}", forge.repository, request.number)
}

pub(super) fn changed_paths(forge: &Forge, request: &Request) -> Result<Vec<String>, ForgeError> {
    let files: Vec<ChangedFile> = forge.api.pages(&path(forge, request, "files"))?;
    Ok(files.into_iter().map(|file| file.filename).collect())
}

pub(super) fn authors(forge: &Forge, request: &Request) -> Result<Option<Vec<String>>, ForgeError> {
    let commits: Vec<Commit> = forge.api.pages(&path(forge, request, "commits"))?;
    if commits.len() >= COMMITS {
        return Ok(None);
    }
    let accounts = commits.into_iter().flat_map(|commit| [commit.author, commit.committer]).flatten();
    Ok(Some(accounts.filter_map(|account| account.login).collect()))
}

/// The last word of each reviewer among these `words`; others, such as comments, change nothing.
pub(super) fn last_reviews(
    forge: &Forge,
    request: &Request,
    words: &[&str],
) -> Result<BTreeMap<String, Review>, ForgeError> {
    let mut all: Vec<Review> = forge.api.pages(&path(forge, request, "reviews"))?;
    all.sort_by_key(|review| review.id);
    let mut last = BTreeMap::new();
    for review in all {
        let Some(login) = review.user.as_ref().map(|user| user.login.clone()) else { continue };
        if words.contains(&review.state.as_str()) {
            last.insert(login, review);
        }
    }
    Ok(last)
}
