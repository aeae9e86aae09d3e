//! Gitea's and Forgejo's API v1, as of Gitea 1.22.
//!
//! As long as the branch of a merged request is there, the API gives the branch's commit of now as
//! the request's head, which whoever may push to it can move. The reference that git serves
//! (`refs/pull/N/head`) ends with the merge, and nobody can push to it: that is the head here.

use serde::Deserialize;

use super::pulls::{self, Pull};
use super::{Forge, ForgeError, Protection, Request, Reviews};

#[derive(Deserialize)]
struct Branch {
    protected: bool,
    #[serde(default)]
    required_approvals: u64,
}

pub(super) fn merged_requests(forge: &Forge, commit: &str, branch: &str) -> Result<Vec<Request>, ForgeError> {
    let pull: Option<Pull> = forge.api.find(&format!("repos/{}/commits/{commit}/pull", forge.repository))?;
    let merged = pull.and_then(|pull| pull.merged_into(&forge.repository, branch));
    Ok(merged.map(|request| Request { head: None, ..request }).into_iter().collect())
}

/// `stale` is the forge's own word on whether a push after the approval changed what was
/// approved: an approval that is not stale still applies, whatever commit it names.
pub(super) fn reviews(forge: &Forge, request: &Request) -> Result<Reviews, ForgeError> {
    let mut reviews = Reviews::default();
    for (login, review) in pulls::last_reviews(forge, request, &["APPROVED", "REQUEST_CHANGES"])? {
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
