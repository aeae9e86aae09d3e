//! Whether what is at the tip was approved, and by whom: the facts that go into a statement.
//!
//! What must be proven for a recipe:
//!
//! 1. the last commit on the branch that changed it came by a merged request into this branch
//!    (or is signed by a listed key), and that request changes this very path;
//! 2. **the bytes at the tip are those at the request's final head**, compared by object id in
//!    our own mirror. So it does not matter how it was merged (merge, squash, rebase), and
//!    nobody can add something while merging;
//! 3. people on the configured list approved that head, other than who opened the request and
//!    who wrote or committed any of it, and nobody on the list objects;
//! 4. those people are exactly the recipe's `reviewers`.
//!
//! A version that is published already and only selected again (a reverted commit) needs 1 to 3
//! with one approval: its statement names its own reviewers, and a way back must be short.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mcpfs_trust::release::Source;

use crate::forge::{Forge, ForgeError, Request, Reviews};
use crate::mirror::{Commit, GitError, Mirror, Who};

/// How many commits after the one in question are asked about where the forge knows only the
/// last commit of a request.
const FOLLOWING: usize = 64;

/// Why something is not proven.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub(super) enum ProofError {
    #[error("{0}")]
    Unproven(String),
    #[error(transparent)]
    Forge(#[from] ForgeError),
    #[error("the mirror cannot be read")]
    Git(#[from] GitError),
}

/// What is asked about.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// The tip of the branch.
    pub(super) tip: &'a str,
    /// The recipe's path.
    pub(super) path: &'a str,
    /// Its object id at the tip.
    pub(super) blob: &'a str,
    /// The recipe's reviewers.
    pub(super) reviewers: &'a [String],
    /// Whether its version is published already with the same content.
    pub(super) again: bool,
}

/// Who is asked, and who counts.
#[derive(Debug)]
pub(super) struct Witnesses<'a> {
    pub(super) forge: &'a Forge,
    pub(super) mirror: &'a Mirror,
    pub(super) branch: &'a str,
    /// The address that statements name.
    pub(super) repository: &'a str,
    /// Persons by login.
    pub(super) people: &'a BTreeMap<String, String>,
    pub(super) allowed_signers: Option<&'a Path>,
}

/// The proven facts.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) commit: Commit,
    pub(super) source: Source,
}

fn unproven<T>(reason: impl Into<String>) -> Result<T, ProofError> {
    Err(ProofError::Unproven(reason.into()))
}

impl Witnesses<'_> {
    /// Proves a recipe, or says what is missing.
    pub(super) fn prove(&self, question: &Question<'_>) -> Result<Proof, ProofError> {
        let Some(commit) = self.mirror.last_change(question.tip, question.path)? else {
            return unproven(format!("git knows no commit that brought {}", question.path));
        };
        let mut reason = None;
        for request in self.requests(question, &commit)? {
            match self.by_request(question, &commit, &request) {
                Err(ProofError::Unproven(why)) => reason = Some(why),
                other => return other,
            }
        }
        match (reason, self.allowed_signers) {
            (Some(why), _) => unproven(why),
            (None, Some(allowed)) => self.by_signature(question, &commit, allowed),
            (None, None) => unproven(format!(
                "commit {} came to {} without a merged request that changes {}: revert it, and open a request",
                short(&commit.id),
                self.branch,
                question.path
            )),
        }
    }

    /// Merged requests that brought the commit and change the path.
    fn requests(&self, question: &Question<'_>, commit: &Commit) -> Result<Vec<Request>, ProofError> {
        let changing = |id: &str| -> Result<Vec<Request>, ProofError> {
            let mut changing = Vec::new();
            for request in self.forge.merged_requests(id, self.branch)? {
                if self.forge.changed_paths(&request)?.iter().any(|path| path == question.path) {
                    changing.push(request);
                }
            }
            Ok(changing)
        };
        let mut found = changing(&commit.id)?;
        if found.is_empty() && self.forge.finds_by_last_commit() {
            for later in self.mirror.following(&commit.id, question.tip, FOLLOWING)? {
                found = changing(&later)?;
                if !found.is_empty() {
                    break;
                }
            }
        }
        Ok(found)
    }

    fn by_request(&self, question: &Question<'_>, commit: &Commit, request: &Request) -> Result<Proof, ProofError> {
        let number = request.number;
        let head = self.mirror.fetch(&self.forge.head_reference(number))?;
        if head != request.head {
            return unproven(format!(
                "request {number}: git has another head ({}) than the forge's API ({})",
                short(&head),
                short(&request.head)
            ));
        }
        if self.mirror.blob_at(&head, question.path)?.as_deref() != Some(question.blob) {
            return unproven(format!(
                "request {number} was approved with another {} than the one that is on {}: it was changed while or after \
                 merging. Open a request with what shall be released",
                question.path, self.branch
            ));
        }
        let mut authors = self.mirror.people(&head, commit.parent.as_deref(), Who::AuthorsAndCommitters)?;
        if self.mirror.is_ancestor(&commit.id, &head)? {
            // Merged by fast-forward, so the request's earlier commits lie on the branch before this one,
            // and git does not tell where it began. Whoever ever wrote the recipe counts as its author.
            authors.extend(self.mirror.people_at(&head, question.path, Who::AuthorsAndCommitters)?);
        }
        let reviews = self.forge.reviews(request)?;
        let people = self.persons(request, &reviews, &authors)?;
        self.demand(question, &people, &format!("request {number}"))?;
        Ok(self.proof(commit, Some(request.url.clone()), people.proven))
    }

    fn by_signature(&self, question: &Question<'_>, commit: &Commit, allowed: &Path) -> Result<Proof, ProofError> {
        let what = format!("commit {}", short(&commit.id));
        let signer = match self.mirror.signed_by(&commit.id, allowed) {
            Ok(signer) => signer,
            Err(GitError::Failed { said, .. }) => {
                return unproven(format!(
                    "{what} came without a merged request, and is not signed by a listed key ({said})"
                ));
            }
            Err(error) => return Err(error.into()),
        };
        let Some(person) = self.people.values().find(|person| person.to_lowercase() == signer) else {
            return unproven(format!("{what} is signed by {signer}, who is not one of the configured reviewers"));
        };
        // Of a merge the merged branch was written by somebody, and the merge itself must add nothing.
        let written = commit.merged.as_deref().unwrap_or(&commit.id);
        if self.mirror.blob_at(written, question.path)?.as_deref() != Some(question.blob) {
            return unproven(format!("{what} changes {} while it merges", question.path));
        }
        let mut people = People::default();
        if self.mirror.people(written, commit.parent.as_deref(), Who::Authors)?.contains(&signer) {
            people.ignored.push(format!("{person} (wrote it)"));
        } else {
            people.proven.insert(person.clone());
        }
        self.demand(question, &people, &what)?;
        Ok(self.proof(commit, None, people.proven))
    }

    /// Who of those that approved counts.
    fn persons(&self, request: &Request, reviews: &Reviews, authors: &[String]) -> Result<People, ProofError> {
        let person =
            |login: &str| self.people.iter().find(|(own, _)| own.eq_ignore_ascii_case(login)).map(|(_, person)| person);
        if let Some(login) = reviews.objecting.iter().find(|login| person(login).is_some()) {
            return unproven(format!(
                "request {}: {login} requested changes and has not approved since",
                request.number
            ));
        }
        let opened_by = person(&request.author).map(|person| person.to_lowercase());
        let mut people = People::default();
        for (login, why) in &reviews.stale {
            people.ignored.push(format!("{login} ({why})"));
        }
        for login in &reviews.approved {
            let Some(person) = person(login) else {
                people.ignored.push(format!("{login} (is not a configured reviewer)"));
                continue;
            };
            let address = person.to_lowercase();
            let own = login.eq_ignore_ascii_case(&request.author) || opened_by.as_ref() == Some(&address);
            if own || authors.contains(&address) || authors.iter().any(|author| is_no_reply_of(author, login)) {
                people.ignored.push(format!("{login} (wrote or committed it)"));
            } else {
                people.proven.insert(person.clone());
            }
        }
        Ok(people)
    }

    fn demand(&self, question: &Question<'_>, people: &People, what: &str) -> Result<(), ProofError> {
        let folded = |names: &mut dyn Iterator<Item = &String>| -> BTreeSet<String> {
            names.map(|name| name.to_lowercase()).collect()
        };
        let (wanted, proven) = (folded(&mut question.reviewers.iter()), folded(&mut people.proven.iter()));
        let enough = if question.again { !proven.is_empty() } else { wanted == proven && !proven.is_empty() };
        if enough {
            return Ok(());
        }
        let list = |names: Vec<&str>| if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
        let ignored = match people.ignored.is_empty() {
            true => String::new(),
            false => format!("; not counted: {}", people.ignored.join(", ")),
        };
        let proven = list(people.proven.iter().map(String::as_str).collect());
        if question.again {
            return unproven(format!(
                "{what}: selecting a published version again needs the approval of one reviewer{ignored}"
            ));
        }
        unproven(format!(
            "{what}: the recipe's reviewers are {}, but the approvals that count are of {proven}{ignored}",
            list(question.reviewers.iter().map(String::as_str).collect())
        ))
    }

    fn proof(&self, commit: &Commit, pull_request: Option<String>, proven: BTreeSet<String>) -> Proof {
        let source = Source {
            repository: self.repository.to_owned(),
            commit: commit.id.clone(),
            pull_request,
            approvals: proven.into_iter().collect(),
        };
        Proof { commit: commit.clone(), source }
    }
}

/// Who counts, and who does not, with the reason.
#[derive(Debug, Default)]
struct People {
    proven: BTreeSet<String>,
    ignored: Vec<String>,
}

/// Whether an address is one of those that forges write into commits for a login:
/// `123+login@users.noreply.github.com`, `123-login@users.noreply.gitlab.com`, `login@noreply.example.com`.
fn is_no_reply_of(address: &str, login: &str) -> bool {
    let Some((user, domain)) = address.split_once('@') else { return false };
    let numbered = |separator| {
        user.split_once(separator).is_some_and(|(number, name)| {
            number.bytes().all(|byte| byte.is_ascii_digit()) && name.eq_ignore_ascii_case(login)
        })
    };
    domain.contains("noreply") && (user.eq_ignore_ascii_case(login) || numbered('+') || numbered('-'))
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_forges_invent() {
        for (address, login, is) in [
            ("123+alice@users.noreply.github.com", "Alice", true),
            ("alice@users.noreply.github.com", "alice", true),
            ("7-alice@users.noreply.gitlab.com", "alice", true),
            ("alice@noreply.git.example.com", "alice", true),
            ("123+bob@users.noreply.github.com", "alice", false),
            ("alice@example.com", "alice", false),
            ("x+alice@users.noreply.github.com", "alice", false),
            ("alice", "alice", false),
        ] {
            assert_eq!(is_no_reply_of(address, login), is, "{address}");
        }
    }
}
