//! GitHub's REST API, version 2022-11-28.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Forge, ForgeError, Protection, Request, Reviews, User};

#[derive(Deserialize)]
pub(super) struct Pull {
    pub(super) number: u64,
    pub(super) html_url: String,
    pub(super) user: Option<User>,
    pub(super) merged_at: Option<String>,
    pub(super) head: Side,
    pub(super) base: Side,
}

#[derive(Deserialize)]
pub(super) struct Side {
    #[serde(rename = "ref")]
    pub(super) name: String,
    pub(super) sha: String,
    pub(super) repo: Option<Repository>,
}

#[derive(Deserialize)]
pub(super) struct Repository {
    pub(super) full_name: String,
}

#[derive(Deserialize)]
struct Review {
    user: Option<User>,
    state: String,
    commit_id: Option<String>,
}

#[derive(Deserialize)]
struct ChangedFile {
    filename: String,
}

#[derive(Deserialize)]
struct Branch {
    protected: bool,
}

#[derive(Deserialize)]
struct BranchRule {
    r#type: String,
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
            head: self.head.sha,
        })
    }
}

pub(super) fn merged_requests(forge: &Forge, commit: &str, branch: &str) -> Result<Vec<Request>, ForgeError> {
    let pulls: Vec<Pull> = forge.api.pages(&format!("repos/{}/commits/{commit}/pulls", forge.repository))?;
    Ok(pulls.into_iter().filter_map(|pull| pull.merged_into(&forge.repository, branch)).collect())
}

pub(super) fn changed_paths(forge: &Forge, request: &Request) -> Result<Vec<String>, ForgeError> {
    let path = format!("repos/{}/pulls/{}/files", forge.repository, request.number);
    let files: Vec<ChangedFile> = forge.api.pages(&path)?;
    Ok(files.into_iter().map(|file| file.filename).collect())
}

/// The last word of each reviewer; comments change nothing.
pub(super) fn reviews(forge: &Forge, request: &Request) -> Result<Reviews, ForgeError> {
    let path = format!("repos/{}/pulls/{}/reviews", forge.repository, request.number);
    let mut last: BTreeMap<String, Review> = BTreeMap::new();
    // The API lists them in the order of time.
    for review in forge.api.pages::<Review>(&path)? {
        let Some(login) = review.user.as_ref().map(|user| user.login.clone()) else { continue };
        if matches!(review.state.as_str(), "APPROVED" | "CHANGES_REQUESTED" | "DISMISSED") {
            last.insert(login, review);
        }
    }
    let mut reviews = Reviews::default();
    for (login, review) in last {
        match review.state.as_str() {
            "APPROVED" if review.commit_id.as_deref() == Some(&request.head) => reviews.approved.push(login),
            "APPROVED" => reviews.stale.push((login, "approved an earlier push")),
            "CHANGES_REQUESTED" => reviews.objecting.push(login),
            _ => reviews.stale.push((login, "the review was dismissed")),
        }
    }
    Ok(reviews)
}

/// A branch is protected by a classic rule or by a ruleset; the second is seen by its rules.
pub(super) fn protection(forge: &Forge, branch: &str) -> Result<Protection, ForgeError> {
    let name = super::gitlab::encode(branch);
    let found: Branch = forge.api.get(&format!("repos/{}/branches/{name}", forge.repository))?;
    let rules = forge.api.pages::<BranchRule>(&format!("repos/{}/rules/branches/{name}", forge.repository));
    // Enterprise Server before 3.11 has no rulesets.
    let rules = match rules {
        Err(ForgeError::Status { status: 404, .. }) => Vec::new(),
        other => other?,
    };
    let reviewed = rules.iter().any(|rule| rule.r#type == "pull_request");
    let detail = match (found.protected, reviewed) {
        (_, true) => "a ruleset demands pull requests",
        (true, false) => "protected",
        (false, false) => "not protected: add a branch protection rule or a ruleset that demands pull requests",
    };
    Ok(Protection { protected: found.protected || reviewed, detail: detail.to_owned() })
}
