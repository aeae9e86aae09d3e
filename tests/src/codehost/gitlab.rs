//! GitLab's REST API v4, as of 18.5.

use serde_json::{Value, json};

use super::http::{Answer, Asked};
use super::{BRANCH, Comment, Merge, REPOSITORY, Request, Shared, Verdict, github, time};

pub(super) fn answer(shared: &Shared, asked: &Asked, path: &str, login: &str) -> Answer {
    let project = format!("projects/{}/", REPOSITORY.replace('/', "%2F"));
    let Some(path) = path.strip_prefix(&project) else { return Answer::not_found() };
    let parts: Vec<&str> = path.split('/').collect();
    match (asked.method.as_str(), parts.as_slice()) {
        ("GET", ["repository", "commits", sha, "merge_requests"]) => {
            let state = shared.state();
            let brought = |one: &&Request| {
                one.head == *sha
                    || one.merged.as_ref().is_some_and(|merged| merged.introduced.iter().any(|own| own == sha))
            };
            let found: Vec<Request> = state.requests.iter().filter(brought).cloned().collect();
            drop(state);
            asked.page(shared, found.iter().map(|one| merge_request(shared, one)).collect())
        }
        ("GET", ["merge_requests", iid, "diffs"]) => {
            let Some(request) = github::find(shared, iid) else { return Answer::not_found() };
            let diff = |path: &String| {
                json!({"old_path": path, "new_path": path, "a_mode": "100644", "b_mode": "100644", "diff": "@@",
                    "new_file": false, "renamed_file": false, "deleted_file": false, "generated_file": false})
            };
            asked.page(shared, request.paths.iter().map(diff).collect())
        }
        ("GET", ["merge_requests", iid, "approvals"]) => {
            let Some(request) = github::find(shared, iid) else { return Answer::not_found() };
            let without = shared.state().without_approved_at;
            let given = request.reviews.iter().filter(|one| one.verdict == Verdict::Approve && !one.dismissed);
            let by = given.map(|one| match without {
                true => json!({"user": user(&one.user)}),
                false => json!({"user": user(&one.user), "approved_at": time(one.at)}),
            });
            Answer::ok(
                json!({"id": 500 + request.number, "iid": request.number, "project_id": 1, "title": request.title,
                "state": state(&request), "approved": true, "approvals_required": 0, "approvals_left": 0,
                "approved_by": by.collect::<Vec<Value>>()}),
            )
        }
        // Reviewers, each with the last thing that he did.
        ("GET", ["merge_requests", iid, "reviewers"]) => {
            let Some(request) = github::find(shared, iid) else { return Answer::not_found() };
            let mut last = std::collections::BTreeMap::new();
            for one in request.reviews.iter().filter(|one| !one.dismissed) {
                last.insert(&one.user, one);
            }
            let reviewer = |one: &super::Review| {
                let state = match one.verdict {
                    Verdict::Approve => "approved",
                    Verdict::Reject => "requested_changes",
                    Verdict::Comment => "reviewed",
                };
                json!({"user": user(&one.user), "state": state, "created_at": time(one.at)})
            };
            asked.page(shared, last.into_values().map(reviewer).collect())
        }
        ("GET", ["merge_requests", iid, "versions"]) => {
            let Some(request) = github::find(shared, iid) else { return Answer::not_found() };
            let version = |(index, (sha, at)): (usize, &(String, i64))| {
                json!({"id": 100 + index, "head_commit_sha": sha, "base_commit_sha": sha, "start_commit_sha": sha,
                    "created_at": time(*at), "merge_request_id": 500 + request.number, "state": "collected", "real_size": "1"})
            };
            // The newest first.
            let mut versions: Vec<Value> = request.pushes.iter().enumerate().map(version).collect();
            versions.reverse();
            asked.page(shared, versions)
        }
        ("GET", ["approvals"]) => {
            let reset = shared.state().reset_on_push;
            Answer::ok(json!({"approvals_before_merge": 0, "reset_approvals_on_push": reset,
                "selective_code_owner_removals": false, "merge_requests_author_approval": false,
                "merge_requests_disable_committers_approval": true}))
        }
        ("GET", ["protected_branches", branch]) if *branch == BRANCH => match shared.state().unprotected {
            true => Answer { body: json!({"message": "404 Not found"}), ..Answer::not_found() },
            false => Answer::ok(
                json!({"id": 1, "name": BRANCH, "allow_force_push": false, "code_owner_approval_required": true,
                "push_access_levels": [{"access_level": 0, "access_level_description": "No one"}],
                "merge_access_levels": [{"access_level": 40, "access_level_description": "Maintainers"}]}),
            ),
        },
        ("POST", ["statuses", sha]) => {
            let mut body = asked.json();
            // `context` is another word for `name`.
            body["name"] = body["context"].clone();
            Answer::created(github::keep_status(shared, sha, &body, "name"))
        }
        ("GET", ["merge_requests", iid, "notes"]) => match github::find(shared, iid) {
            Some(request) => asked.page(shared, request.comments.iter().map(note).collect()),
            None => Answer::not_found(),
        },
        ("POST", ["merge_requests", iid, "notes"]) => match iid.parse() {
            Ok(iid) => Answer::created(note(&github::keep_comment(shared, iid, login, &asked.json()))),
            Err(_) => Answer::not_found(),
        },
        ("PUT", ["merge_requests", _, "notes", id]) => github::change_comment(shared, id, login, &asked.json(), note),
        _ => Answer::not_found(),
    }
}

fn note(one: &Comment) -> Value {
    json!({"id": one.id, "body": one.body, "author": user(&one.author), "system": false, "noteable_type": "MergeRequest"})
}

fn user(login: &str) -> Value {
    json!({"id": login.len(), "username": login, "name": login, "state": "active"})
}

fn state(request: &Request) -> &'static str {
    if request.merged.is_some() { "merged" } else { "opened" }
}

fn merge_request(shared: &Shared, request: &Request) -> Value {
    let merged = request.merged.as_ref();
    let commit = |how: Merge| merged.filter(|merged| merged.how == how).map(|merged| merged.commit.clone());
    json!({
        "id": 500 + request.number,
        "iid": request.number,
        "project_id": 1,
        "title": request.title,
        "state": state(request),
        "target_branch": BRANCH,
        "source_branch": request.branch,
        "author": user(&request.author),
        "sha": request.head,
        "merge_commit_sha": commit(Merge::Commit),
        "squash_commit_sha": commit(Merge::Squash),
        "merged_at": merged.map(|merged| time(merged.at)),
        "merge_user": merged.map(|merged| user(&merged.by)),
        "web_url": format!("{}/{REPOSITORY}/-/merge_requests/{}", shared.url(), request.number),
    })
}
