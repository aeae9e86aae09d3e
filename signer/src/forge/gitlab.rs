//! GitLab's REST API v4.
//!
//! GitLab does not tie an approval to a commit. It is tied here: an approval counts if it was
//! given after the push of the final head (`approved_at`, since 18.5). Where the forge does not say
//! when, it counts only if the project removes all approvals at each push, so that those which are
//! left were given after it.
//!
//! Whoever requested changes is a reviewer in that state. An open thread is no such word: anybody
//! may open one, also after the merge, and whether threads keep a request from being merged is the
//! project's own setting, which GitLab itself applies.

use jiff::Timestamp;
use serde::Deserialize;

use super::{Forge, ForgeError, Protection, Request, Reviews, User};

#[derive(Deserialize)]
struct MergeRequest {
    iid: u64,
    web_url: String,
    state: String,
    target_branch: String,
    sha: Option<String>,
    author: Option<User>,
}

#[derive(Deserialize)]
struct Diff {
    old_path: String,
    new_path: String,
}

#[derive(Deserialize)]
struct Approvals {
    #[serde(default)]
    approved_by: Vec<Approval>,
}

#[derive(Deserialize)]
struct Approval {
    user: User,
    approved_at: Option<String>,
}

#[derive(Deserialize)]
struct Reviewer {
    user: User,
    state: String,
}

#[derive(Deserialize)]
struct DiffVersion {
    head_commit_sha: String,
    created_at: String,
}

#[derive(Deserialize)]
struct ProjectApprovals {
    #[serde(default)]
    reset_approvals_on_push: bool,
}

#[derive(Deserialize)]
struct ProtectedBranch {
    #[serde(default)]
    allow_force_push: bool,
}

/// The project's path in the API.
pub(super) fn project(forge: &Forge) -> String {
    format!("projects/{}", encode(&forge.repository))
}

/// One path component.
pub(super) fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

pub(super) fn merged_requests(forge: &Forge, commit: &str, branch: &str) -> Result<Vec<Request>, ForgeError> {
    let path = format!("{}/repository/commits/{commit}/merge_requests", project(forge));
    let found: Vec<MergeRequest> = forge.api.pages(&path)?;
    let merged = found.into_iter().filter(|one| one.state == "merged" && one.target_branch == branch);
    Ok(merged
        .map(|one| Request {
            number: one.iid,
            url: one.web_url,
            author: one.author.map(|user| user.login).unwrap_or_default(),
            head: Some(one.sha.unwrap_or_default()),
        })
        .collect())
}

pub(super) fn changed_paths(forge: &Forge, request: &Request) -> Result<Vec<String>, ForgeError> {
    let diffs: Vec<Diff> = forge.api.pages(&format!("{}/merge_requests/{}/diffs", project(forge), request.number))?;
    Ok(diffs.into_iter().flat_map(|diff| [diff.new_path, diff.old_path]).collect())
}

pub(super) fn reviews(forge: &Forge, request: &Request, head: &str) -> Result<Reviews, ForgeError> {
    let base = format!("{}/merge_requests/{}", project(forge), request.number);
    let approvals: Approvals = forge.api.get(&format!("{base}/approvals"))?;
    let versions: Vec<DiffVersion> = forge.api.pages(&format!("{base}/versions"))?;
    let pushed = pushed_at(&versions, head)?;
    let reset = match forge.api.get::<ProjectApprovals>(&format!("{}/approvals", project(forge))) {
        Ok(project) => project.reset_approvals_on_push,
        // GitLab Free has no such settings.
        Err(ForgeError::Status { status: 403 | 404, .. }) => false,
        Err(error) => return Err(error),
    };
    let reviewers: Vec<Reviewer> = forge.api.pages(&format!("{base}/reviewers"))?;
    let objecting = reviewers.into_iter().filter(|reviewer| reviewer.state == "requested_changes");
    let mut reviews = Reviews { objecting: objecting.map(|one| one.user.login).collect(), ..Reviews::default() };
    for approval in approvals.approved_by {
        let at = approval.approved_at.as_deref().map(time).transpose()?;
        match at {
            Some(at) if at >= pushed => reviews.approved.push(approval.user.login),
            Some(_) => reviews.stale.push((approval.user.login, "approved an earlier push")),
            // Still there after the last push: the forge itself says that it applies.
            None if reset => reviews.approved.push(approval.user.login),
            None => reviews.stale.push((
                approval.user.login,
                "the forge does not say when: use GitLab 18.5 or later, or let the project remove approvals at each push",
            )),
        }
    }
    Ok(reviews)
}

/// When the final head was pushed for the last time.
fn pushed_at(versions: &[DiffVersion], head: &str) -> Result<Timestamp, ForgeError> {
    let times = versions.iter().map(|version| Ok((version.head_commit_sha == head, time(&version.created_at)?)));
    let times: Vec<(bool, Timestamp)> = times.collect::<Result<_, ForgeError>>()?;
    let last = times.iter().max_by_key(|(_, at)| *at);
    match last {
        Some((true, at)) => Ok(*at),
        _ => Err(ForgeError::Answer { what: "the newest version of the request is not its head".to_owned() }),
    }
}

/// A time of the API, such as `2016-07-26T14:44:48.926Z`, also with an offset.
fn time(text: &str) -> Result<Timestamp, ForgeError> {
    text.parse().map_err(|_| ForgeError::Answer { what: format!("{:?} is no time", mcpfs_trust::error::bounded(text)) })
}

pub(super) fn protection(forge: &Forge, branch: &str) -> Result<Protection, ForgeError> {
    let found: Option<ProtectedBranch> =
        forge.api.find(&format!("{}/protected_branches/{}", project(forge), encode(branch)))?;
    let (protected, detail) = match found {
        Some(found) if found.allow_force_push => (false, "protected, but force pushes are allowed: forbid them"),
        Some(_) => (true, "protected"),
        None => (false, "not protected: protect it under Settings, Repository"),
    };
    Ok(Protection { protected, detail: detail.to_owned() })
}
