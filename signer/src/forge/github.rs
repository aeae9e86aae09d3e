//! GitHub's REST API, version 2022-11-28.

use serde::Deserialize;

use super::pulls::{self, Pull};
use super::{Forge, ForgeError, Protection, Request, Reviews};

#[derive(Deserialize)]
struct Branch {
    protected: bool,
}

#[derive(Deserialize)]
struct BranchRule {
    r#type: String,
}

pub(super) fn merged_requests(forge: &Forge, commit: &str, branch: &str) -> Result<Vec<Request>, ForgeError> {
    let pulls: Vec<Pull> = forge.api.pages(&format!("repos/{}/commits/{commit}/pulls", forge.repository))?;
    Ok(pulls.into_iter().filter_map(|pull| pull.merged_into(&forge.repository, branch)).collect())
}

/// An approval is of the commit that it names.
pub(super) fn reviews(forge: &Forge, request: &Request, head: &str) -> Result<Reviews, ForgeError> {
    let mut reviews = Reviews::default();
    for (login, review) in pulls::last_reviews(forge, request, &["APPROVED", "CHANGES_REQUESTED", "DISMISSED"])? {
        match review.state.as_str() {
            "APPROVED" if review.commit_id.as_deref() == Some(head) => reviews.approved.push(login),
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
