//! GitHub's REST API, version 2022-11-28.

use serde_json::{Value, json};

use super::http::{Answer, Asked};
use super::{BRANCH, Comment, REPOSITORY, Request, Shared, Status, Verdict, time};

pub(super) fn answer(shared: &Shared, asked: &Asked, path: &str, login: &str) -> Answer {
    let Some(path) = path.strip_prefix(&format!("repos/{REPOSITORY}/")) else { return Answer::not_found() };
    let parts: Vec<&str> = path.split('/').collect();
    match (asked.method.as_str(), parts.as_slice()) {
        // Every merged request that brought the commit, however it was merged.
        ("GET", ["commits", sha, "pulls"]) => {
            let pulls =
                shared.state().requests.iter().filter(|one| brought(one, sha)).map(|one| pull(shared, one)).collect();
            asked.page(shared, pulls)
        }
        ("GET", ["pulls", number, "files"]) => {
            let Some(request) = find(shared, number) else { return Answer::not_found() };
            let file = |path: &String| {
                json!({"sha": shared.bare(&["rev-parse", &format!("{}:{path}", request.head)]).run().stdout.trim(),
                    "filename": path, "status": "modified", "additions": 1, "deletions": 1, "changes": 2})
            };
            asked.page(shared, request.paths.iter().map(file).collect())
        }
        ("GET", ["pulls", number, "commits"]) => match find(shared, number) {
            Some(request) => asked.page(shared, commits(shared, &request)),
            None => Answer::not_found(),
        },
        ("GET", ["pulls", number, "reviews"]) => {
            let Some(request) = find(shared, number) else { return Answer::not_found() };
            let review = |one: &super::Review| {
                let state = match (one.dismissed, one.verdict) {
                    (true, _) => "DISMISSED",
                    (false, Verdict::Approve) => "APPROVED",
                    (false, Verdict::Reject) => "CHANGES_REQUESTED",
                    (false, Verdict::Comment) => "COMMENTED",
                };
                json!({"id": one.id, "user": user(&one.user), "body": "", "state": state, "commit_id": one.commit,
                    "submitted_at": time(one.at), "author_association": "MEMBER",
                    "html_url": format!("{}/{REPOSITORY}/pull/{number}#pullrequestreview-{}", shared.url(), one.id)})
            };
            asked.page(shared, request.reviews.iter().map(review).collect())
        }
        ("GET", ["branches", branch]) if *branch == BRANCH => {
            let protected = !shared.state().unprotected;
            let sha = shared.rev(&format!("refs/heads/{BRANCH}"));
            Answer::ok(json!({"name": BRANCH, "commit": {"sha": sha}, "protected": protected,
                "protection": {"enabled": protected, "required_status_checks": {"enforcement_level": "off", "contexts": []}}}))
        }
        ("GET", ["rules", "branches", _]) => asked.page(shared, Vec::new()),
        ("POST", ["statuses", sha]) => {
            let body = asked.json();
            Answer::created(keep_status(shared, sha, &body, "context"))
        }
        _ => issues(shared, asked, &parts, login),
    }
}

/// The commits of a request, with the accounts that have the addresses in them; Gitea's are the same.
pub(super) fn commits(shared: &Shared, request: &Request) -> Vec<Value> {
    let range = format!("{}..{}", request.base, request.head);
    let log = shared.bare(&["log", "--reverse", "--format=%H %ae %ce", &range]).ok().stdout;
    let account = |address: &str| shared.state().accounts.get(&address.to_lowercase()).map(|login| user(login));
    let commit = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        json!({"sha": words[0], "author": account(words[1]), "committer": account(words[2]),
            "commit": {"author": {"email": words[1]}, "committer": {"email": words[2]}}})
    };
    log.lines().map(commit).collect()
}

/// Comments, whose addresses GitHub and Gitea share.
pub(super) fn issues(shared: &Shared, asked: &Asked, parts: &[&str], login: &str) -> Answer {
    let comment =
        |one: &Comment| json!({"id": one.id, "body": one.body, "user": user(&one.author), "html_url": shared.url()});
    match (asked.method.as_str(), parts) {
        ("GET", ["issues", number, "comments"]) => match find(shared, number) {
            Some(request) => asked.page(shared, request.comments.iter().map(comment).collect()),
            None => Answer::not_found(),
        },
        ("POST", ["issues", number, "comments"]) => match number.parse() {
            Ok(number) => Answer::created(comment(&keep_comment(shared, number, login, &asked.json()))),
            Err(_) => Answer::not_found(),
        },
        ("PATCH", ["issues", "comments", id]) => change_comment(shared, id, login, &asked.json(), comment),
        _ => Answer::not_found(),
    }
}

pub(super) fn keep_comment(shared: &Shared, number: u64, login: &str, body: &Value) -> Comment {
    let mut state = shared.state();
    let id = state.id();
    let body = body["body"].as_str().expect("a body").to_owned();
    let comment = Comment { id, author: login.to_owned(), body };
    state.request(number).comments.push(comment.clone());
    comment
}

pub(super) fn change_comment(
    shared: &Shared,
    id: &str,
    login: &str,
    body: &Value,
    show: impl Fn(&Comment) -> Value,
) -> Answer {
    let mut state = shared.state();
    let comments = state.requests.iter_mut().flat_map(|request| &mut request.comments);
    let Some(comment) = comments.into_iter().find(|one| one.id.to_string() == id) else { return Answer::not_found() };
    if comment.author != login {
        return Answer { status: 403, headers: Vec::new(), body: json!({"message": "not yours"}) };
    }
    comment.body = body["body"].as_str().expect("a body").to_owned();
    Answer::ok(show(comment))
}

pub(super) fn keep_status(shared: &Shared, sha: &str, body: &Value, name: &str) -> Value {
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let status =
        Status { commit: sha.to_owned(), state: text("state"), context: text(name), description: text("description") };
    let id = {
        let mut state = shared.state();
        state.statuses.push(status.clone());
        state.id()
    };
    json!({"id": id, "state": status.state, name: status.context, "description": status.description})
}

pub(super) fn find(shared: &Shared, number: &str) -> Option<Request> {
    let number: u64 = number.parse().ok()?;
    shared.state().requests.iter().find(|one| one.number == number).cloned()
}

pub(super) fn user(login: &str) -> Value {
    json!({"login": login, "id": login.len(), "type": "User", "site_admin": false})
}

fn brought(request: &Request, sha: &str) -> bool {
    request.merged.as_ref().is_some_and(|merged| merged.commit == sha || merged.introduced.iter().any(|one| one == sha))
}

/// A pull request; Gitea writes it in much the same way.
pub(super) fn pull(shared: &Shared, request: &Request) -> Value {
    let repo = json!({"id": 1, "name": "mcp-registry", "full_name": REPOSITORY, "private": true});
    let merged = request.merged.as_ref();
    let base_sha = merged.map_or_else(String::new, |merged| merged.introduced.last().cloned().unwrap_or_default());
    json!({
        "id": 1000 + request.number,
        "number": request.number,
        "state": if merged.is_some() { "closed" } else { "open" },
        "title": request.title,
        "html_url": format!("{}/{REPOSITORY}/pull/{}", shared.url(), request.number),
        "user": user(&request.author),
        "merged_at": merged.map(|merged| time(merged.at)),
        "merge_commit_sha": merged.map(|merged| merged.commit.clone()),
        "merged_by": merged.map(|merged| user(&merged.by)),
        "head": {"label": format!("acme:{}", request.branch), "ref": request.branch, "sha": request.head, "repo": repo},
        "base": {"label": format!("acme:{BRANCH}"), "ref": BRANCH, "sha": base_sha, "repo": repo},
    })
}
