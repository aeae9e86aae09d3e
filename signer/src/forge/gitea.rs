//! Gitea's and Forgejo's API v1, as of Gitea 1.22.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::github::Pull;
use super::{Forge, ForgeError, Protection, Request, Reviews, User};

#[derive(Deserialize)]
struct Review {
    id: u64,
    user: Option<User>,
    state: String,
    #[serde(default)]
    stale: bool,
    #[serde(default)]
    dismissed: bool,
}

#[derive(Deserialize)]
struct ChangedFile {
    filename: String,
}

#[derive(Deserialize)]
struct Branch {
    protected: bool,
    #[serde(default)]
    required_approvals: u64,
}

pub(super) fn merged_requests(forge: &Forge, commit: &str, branch: &str) -> Result<Vec<Request>, ForgeError> {
    let pull: Option<Pull> = forge.api.find(&format!("repos/{}/commits/{commit}/pull", forge.repository))?;
    Ok(pull.into_iter().filter_map(|pull| pull.merged_into(&forge.repository, branch)).collect())
}

pub(super) fn changed_paths(forge: &Forge, request: &Request) -> Result<Vec<String>, ForgeError> {
    let path = format!("repos/{}/pulls/{}/files", forge.repository, request.number);
    let files: Vec<ChangedFile> = forge.api.pages(&path)?;
    Ok(files.into_iter().map(|file| file.filename).collect())
}

/// `stale` is the forge's own word on whether a push after the approval changed what was
/// approved: an approval that is not stale still applies, whatever commit it names.
pub(super) fn reviews(forge: &Forge, request: &Request) -> Result<Reviews, ForgeError> {
    let path = format!("repos/{}/pulls/{}/reviews", forge.repository, request.number);
    let mut all: Vec<Review> = forge.api.pages(&path)?;
    all.sort_by_key(|review| review.id);
    let mut last: BTreeMap<String, Review> = BTreeMap::new();
    for review in all {
        let Some(login) = review.user.as_ref().map(|user| user.login.clone()) else { continue };
        if matches!(review.state.as_str(), "APPROVED" | "REQUEST_CHANGES") {
            last.insert(login, review);
        }
    }
    let mut reviews = Reviews::default();
    for (login, review) in last {
        match (review.state.as_str(), review.dismissed, review.stale) {
            (_, true, _) => reviews.stale.push((login, "the review was dismissed")),
            ("APPROVED", false, false) => reviews.approved.push(login),
            ("APPROVED", false, true) => reviews.stale.push((login, "approved an earlier push")),
            _ => reviews.objecting.push(login),
        }
    }
    Ok(reviews)
}

pub(super) fn protection(forge: &Forge, branch: &str) -> Result<Protection, ForgeError> {
    let name = super::gitlab::encode(branch);
    let found: Branch = forge.api.get(&format!("repos/{}/branches/{name}", forge.repository))?;
    let detail = match found.protected {
        true => format!("protected, {} approvals required", found.required_approvals),
        false => "not protected: add a branch protection rule".to_owned(),
    };
    Ok(Protection { protected: found.protected, detail })
}
