//! What a code forge says about a commit: which merged request brought it, and who approved that.
//!
//! Three APIs, one set of questions. The answers are facts for [`crate::serve`] to judge; here
//! only the forge's own words are turned into ours: which approvals still hold for the final
//! head (a review that was dismissed, or given to an earlier push, does not, unless the forge
//! itself says that it still applies), and who still objects. Shapes follow GitHub's REST API
//! 2022-11-28, GitLab's REST API v4 (`approved_at` since 18.5) and Gitea 1.22's API v1, which
//! Forgejo shares.
//!
//! An API that cannot be asked is an error, never an empty list: no answer is not "nobody".

pub mod api;
mod gitea;
mod github;
mod gitlab;
mod pulls;

use serde::Deserialize;

pub use api::{Api, ForgeError, Token};

/// Whose API it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// GitHub, also Enterprise Server.
    Github,
    /// GitLab.
    Gitlab,
    /// Gitea and Forgejo.
    #[serde(alias = "forgejo")]
    #[value(alias = "forgejo")]
    Gitea,
}

/// One repository at a forge.
#[derive(Debug)]
pub struct Forge {
    kind: Kind,
    api: Api,
    repository: String,
}

/// A merged request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its number in the repository.
    pub number: u64,
    /// Its address for people.
    pub url: String,
    /// The login of who opened it.
    pub author: String,
    /// The commit that was at its head when it was merged, if the API can tell.
    pub head: Option<String>,
}

/// The reviews of a request that count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reviews {
    /// Logins whose approval holds for the final head.
    pub approved: Vec<String>,
    /// Logins whose approval does not hold any more, with the reason.
    pub stale: Vec<(String, &'static str)>,
    /// Logins whose last word was no.
    pub objecting: Vec<String>,
}

/// Whether a branch is protected, and how the forge says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protection {
    /// Protected against pushes past review.
    pub protected: bool,
    /// For people.
    pub detail: String,
}

/// What is shown beside a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Signed and published.
    Success,
    /// Refused.
    Failure,
}

impl Forge {
    /// The repository `owner/name` (or `group/…/name`) at `api`.
    pub fn new(kind: Kind, api: Api, repository: &str) -> Self {
        Self { kind, api, repository: repository.to_owned() }
    }

    /// Whose API it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The reference at which the forge keeps a request's head, also after its branch is gone.
    pub fn head_reference(&self, number: u64) -> String {
        match self.kind {
            Kind::Github | Kind::Gitea => format!("refs/pull/{number}/head"),
            Kind::Gitlab => format!("refs/merge-requests/{number}/head"),
        }
    }

    /// Whether a request is found by the last of its commits only. Then a rebase merge of several
    /// commits is found by looking at the commits after the one in question.
    pub fn finds_by_last_commit(&self) -> bool {
        self.kind == Kind::Gitea
    }

    /// The requests that were merged into `branch` and brought `commit`.
    ///
    /// # Errors
    /// If the API cannot be asked.
    pub fn merged_requests(&self, commit: &str, branch: &str) -> Result<Vec<Request>, ForgeError> {
        let found = match self.kind {
            Kind::Github => github::merged_requests(self, commit, branch),
            Kind::Gitlab => gitlab::merged_requests(self, commit, branch),
            Kind::Gitea => gitea::merged_requests(self, commit, branch),
        }?;
        for request in &found {
            let known = request.head.as_deref().is_none_or(crate::mirror::is_commit_id);
            if !known
                || request.url.len() > 512
                || !request.url.starts_with("http")
                || request.url.chars().any(|sign| sign.is_control() || sign == ' ')
            {
                return Err(ForgeError::Answer {
                    what: format!("request {} has no usable head or address", request.number),
                });
            }
        }
        Ok(found)
    }

    /// The paths that a request changes.
    ///
    /// # Errors
    /// If the API cannot be asked, or there are more than it lists.
    pub fn changed_paths(&self, request: &Request) -> Result<Vec<String>, ForgeError> {
        match self.kind {
            Kind::Github | Kind::Gitea => pulls::changed_paths(self, request),
            Kind::Gitlab => gitlab::changed_paths(self, request),
        }
    }

    /// The logins of those who wrote or committed what a request holds, as far as the forge knows
    /// them: it knows addresses of a person that nobody configured. GitLab does not tell. `None` if
    /// there may be more commits than it lists.
    ///
    /// # Errors
    /// If the API cannot be asked.
    pub fn authors(&self, request: &Request) -> Result<Option<Vec<String>>, ForgeError> {
        match self.kind {
            Kind::Github | Kind::Gitea => pulls::authors(self, request),
            Kind::Gitlab => Ok(Some(Vec::new())),
        }
    }

    /// The reviews of a request with this final head.
    ///
    /// # Errors
    /// If the API cannot be asked.
    pub fn reviews(&self, request: &Request, head: &str) -> Result<Reviews, ForgeError> {
        match self.kind {
            Kind::Github => github::reviews(self, request, head),
            Kind::Gitlab => gitlab::reviews(self, request, head),
            Kind::Gitea => gitea::reviews(self, request),
        }
    }

    /// Whether `branch` is protected.
    ///
    /// # Errors
    /// If the API cannot be asked.
    pub fn protection(&self, branch: &str) -> Result<Protection, ForgeError> {
        match self.kind {
            Kind::Github => github::protection(self, branch),
            Kind::Gitlab => gitlab::protection(self, branch),
            Kind::Gitea => gitea::protection(self, branch),
        }
    }

    /// Shows `text` beside a commit, under the name `mcpfs-signer/NAME`.
    ///
    /// # Errors
    /// If the API cannot be asked or does not allow it.
    pub fn set_status(&self, commit: &str, name: &str, state: State, text: &str) -> Result<(), ForgeError> {
        let word = match (self.kind, state) {
            (_, State::Success) => "success",
            (Kind::Gitlab, State::Failure) => "failed",
            (_, State::Failure) => "failure",
        };
        // GitHub takes 140 characters, GitLab 255.
        let text: String = text.chars().take(140).collect();
        let context = format!("mcpfs-signer/{name}");
        let body = serde_json::json!({"state": word, "description": text, "context": context});
        let path = match self.kind {
            Kind::Gitlab => format!("{}/statuses/{commit}", gitlab::project(self)),
            Kind::Github | Kind::Gitea => format!("repos/{}/statuses/{commit}", self.repository),
        };
        self.api.send("POST", &path, &body).map(drop)
    }

    /// Writes a comment on an open request, or the earlier one that begins with `marker` anew.
    ///
    /// # Errors
    /// If the API cannot be asked or does not allow it.
    pub fn comment(&self, number: u64, marker: &str, text: &str) -> Result<Commented, ForgeError> {
        #[derive(Deserialize)]
        struct Comment {
            id: u64,
            body: Option<String>,
        }
        let (list, one) = match self.kind {
            Kind::Gitlab => {
                let list = format!("{}/merge_requests/{number}/notes", gitlab::project(self));
                (list.clone(), list)
            }
            Kind::Github | Kind::Gitea => {
                let issues = format!("repos/{}/issues", self.repository);
                (format!("{issues}/{number}/comments"), format!("{issues}/comments"))
            }
        };
        let comments: Vec<Comment> = self.api.pages(&list)?;
        let body = serde_json::json!({"body": format!("{marker}\n{text}")});
        let own =
            comments.iter().filter(|comment| comment.body.as_deref().is_some_and(|body| body.starts_with(marker)));
        let method = if self.kind == Kind::Gitlab { "PUT" } else { "PATCH" };
        for comment in own {
            match self.api.send(method, &format!("{one}/{}", comment.id), &body) {
                // Somebody else wrote the marker: theirs stays theirs.
                Err(ForgeError::Status { status: 403 | 404, .. }) => {}
                other => return other.map(|_| Commented::Again),
            }
        }
        self.api.send("POST", &list, &body).map(|_| Commented::New)
    }
}

/// What became of a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Commented {
    /// There was none.
    New,
    /// The earlier one says something new.
    Again,
}

/// A user as all three write it, but for the name of the name.
#[derive(Debug, Deserialize)]
struct User {
    #[serde(alias = "username")]
    login: String,
}

#[cfg(test)]
mod tests;
