//! Gitea's API v1, as of 1.22; Forgejo's is the same here.

use serde_json::json;

use super::http::{Answer, Asked};
use super::{BRANCH, REPOSITORY, Shared, Verdict, github, time};

pub(super) fn answer(shared: &Shared, asked: &Asked, path: &str, login: &str) -> Answer {
    let Some(path) = path.strip_prefix(&format!("repos/{REPOSITORY}/")) else { return Answer::not_found() };
    let parts: Vec<&str> = path.split('/').collect();
    match (asked.method.as_str(), parts.as_slice()) {
        // By the last commit of a request only.
        ("GET", ["commits", sha, "pull"]) => {
            let state = shared.state();
            let found =
                state.requests.iter().find(|one| one.merged.as_ref().is_some_and(|merged| merged.commit == *sha));
            let found = found.cloned();
            drop(state);
            match found {
                Some(request) => {
                    let mut pull = github::pull(shared, &request);
                    pull["merged"] = json!(request.merged.is_some());
                    pull["url"] = json!(format!("{}/{REPOSITORY}/pulls/{}", shared.url(), request.number));
                    pull["html_url"] = pull["url"].clone();
                    // As long as its branch is there, the branch's commit of now, also after the merge.
                    if let Some(now) = shared.rev(&format!("refs/heads/{}", request.branch)) {
                        pull["head"]["sha"] = json!(now);
                    }
                    Answer::ok(pull)
                }
                None => Answer::not_found(),
            }
        }
        ("GET", ["pulls", number, "files"]) => {
            let Some(request) = github::find(shared, number) else { return Answer::not_found() };
            let file = |path: &String| json!({"filename": path, "status": "changed", "additions": 1, "deletions": 1, "changes": 2});
            asked.page(shared, request.paths.iter().map(file).collect())
        }
        ("GET", ["pulls", number, "commits"]) => match github::find(shared, number) {
            Some(request) => asked.page(shared, github::commits(shared, &request)),
            None => Answer::not_found(),
        },
        ("GET", ["pulls", number, "reviews"]) => {
            let Some(request) = github::find(shared, number) else { return Answer::not_found() };
            let review = |one: &super::Review| {
                let state = match one.verdict {
                    Verdict::Approve => "APPROVED",
                    Verdict::Reject => "REQUEST_CHANGES",
                    Verdict::Comment => "COMMENT",
                };
                json!({"id": one.id, "user": github::user(&one.user), "team": null, "state": state, "body": "",
                    "commit_id": one.commit, "stale": one.stale, "official": true, "dismissed": one.dismissed,
                    "comments_count": 0, "submitted_at": time(one.at), "updated_at": time(one.at),
                    "pull_request_url": format!("{}/{REPOSITORY}/pulls/{number}", shared.url())})
            };
            asked.page(shared, request.reviews.iter().map(review).collect())
        }
        ("GET", ["branches", branch]) if *branch == BRANCH => {
            let protected = !shared.state().unprotected;
            let id = shared.rev(&format!("refs/heads/{BRANCH}"));
            Answer::ok(json!({"name": BRANCH, "commit": {"id": id}, "protected": protected, "required_approvals": 1,
                "enable_status_check": false, "status_check_contexts": [], "user_can_push": false, "user_can_merge": true,
                "effective_branch_protection_name": if protected { BRANCH } else { "" }}))
        }
        ("POST", ["statuses", sha]) => {
            let body = asked.json();
            Answer::created(github::keep_status(shared, sha, &body, "context"))
        }
        _ => github::issues(shared, asked, &parts, login),
    }
}
