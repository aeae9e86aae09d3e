//! Whether what is at the tip was approved, and by whom: the facts that go into a statement.
//!
//! Everything in the repository that decides about a release is proven in the same way: the
//! recipe, the lockfiles that it names, and the policy and the waivers by which it is checked.
//! An absent policy decides, too: the removal of a file needs the same proof as a change.
//!
//! 1. the last commit on the branch that changed the file came by a merged request into this
//!    branch (or is signed by a listed key), and that request changes this very path;
//! 2. **the bytes at the tip are those at the request's final head**, compared by object id in
//!    our own mirror. So it does not matter how it was merged (merge, squash, rebase), and
//!    nobody can add something while merging;
//! 3. people on the configured list approved that head, other than who opened the request and
//!    who wrote or committed any of it ([`super::people`]), and nobody on the list objects;
//! 4. those people are as many, or the very ones, that the file needs ([`Demand`]).

use std::collections::BTreeSet;
use std::path::Path;

use mcpfs_trust::release::Source;

use super::config::People;
use super::people::{Counted, Writers, counted};
use crate::forge::{Forge, ForgeError, Request};
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
    /// The file's path.
    pub(super) path: &'a str,
    /// Its object id at the tip; `None` if it is not there.
    pub(super) blob: Option<&'a str>,
    /// Whose approval it needs.
    pub(super) demand: Demand<'a>,
}

/// Whose approval a file needs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Demand<'a> {
    /// Of a recipe: exactly the reviewers that it names.
    Exactly(&'a [String]),
    /// Of a recipe whose version is published already and is only selected again (a reverted
    /// commit): one, since its statement names its own reviewers, and a way back must be short.
    Again,
    /// Of what is no recipe: so many.
    AtLeast(usize),
}

/// Who is asked, and who counts.
#[derive(Debug)]
pub(super) struct Witnesses<'a> {
    pub(super) forge: &'a Forge,
    pub(super) mirror: &'a Mirror,
    pub(super) branch: &'a str,
    /// The address that statements name.
    pub(super) repository: &'a str,
    pub(super) people: &'a People,
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
    /// Proves a file, or says what is missing.
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

    /// Proves a file that decides by what it says or by not being there. One that never was there
    /// needs no proof, nor does one that nobody changed since `start`: there the operator looked himself.
    pub(super) fn prove_beside(&self, question: &Question<'_>, start: Option<&str>) -> Result<(), ProofError> {
        let Some(change) = self.mirror.last_change(question.tip, question.path)? else {
            return match question.blob {
                None => Ok(()),
                Some(_) => unproven(format!("git knows no commit that brought {}", question.path)),
            };
        };
        if let Some(start) = start.filter(|start| self.mirror.holds(start))
            && self.mirror.is_ancestor(start, question.tip)?
            && self.mirror.is_ancestor(&change.id, start)?
            && self.mirror.blob_at(start, question.path)?.as_deref() == question.blob
        {
            return Ok(());
        }
        self.prove(question).map(drop)
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
        if let Some(told) = request.head.as_ref().filter(|told| **told != head) {
            return unproven(format!(
                "request {number}: git has another head ({}) than the forge's API ({})",
                short(&head),
                short(told)
            ));
        }
        if self.mirror.blob_at(&head, question.path)?.as_deref() != question.blob {
            return unproven(format!(
                "request {number} was approved with another {} than the one that is on {}: it was changed while or after \
                 merging. Open a request with what shall be released",
                question.path, self.branch
            ));
        }
        let mut addresses = self.mirror.people(&head, commit.parent.as_deref(), Who::AuthorsAndCommitters)?;
        if self.mirror.is_ancestor(&commit.id, &head)? {
            // Merged by fast-forward, so the request's earlier commits lie on the branch before this one,
            // and git does not tell where it began. Whoever ever wrote the file counts as its author.
            addresses.extend(self.mirror.people_at(&head, question.path, Who::AuthorsAndCommitters)?);
        }
        let Some(mut logins) = self.forge.authors(request)? else {
            return unproven(format!("request {number} has more commits than the forge lists; open smaller ones"));
        };
        logins.push(request.author.clone());
        let reviews = self.forge.reviews(request, &head)?;
        let people = counted(self.people, &reviews, &Writers { addresses, logins })
            .map_err(|why| ProofError::Unproven(format!("request {number}: {why}")))?;
        demand(question, &people, &format!("request {number}"))?;
        Ok(self.proof(commit, Some(request.url.clone()), people.proven))
    }

    fn by_signature(&self, question: &Question<'_>, commit: &Commit, allowed: &Path) -> Result<Proof, ProofError> {
        let what = format!("commit {}", short(&commit.id));
        let signer = match self.mirror.signed_by(&commit.id, allowed) {
            Ok(signer) => signer,
            Err(GitError::Failed { said, .. }) => {
                return unproven(format!(
                    "{what} came without a merged request that changes {}, and is not signed by a listed key ({said})",
                    question.path
                ));
            }
            Err(error) => return Err(error.into()),
        };
        let Some(person) = self.people.by_address(&signer) else {
            return unproven(format!("{what} is signed by {signer}, who is not one of the configured reviewers"));
        };
        // Of a merge the merged branch was written by somebody, and the merge itself must add nothing.
        let written = commit.merged.as_deref().unwrap_or(&commit.id);
        if self.mirror.blob_at(written, question.path)?.as_deref() != question.blob {
            return unproven(format!("{what} changes {} while it merges", question.path));
        }
        let mut people = Counted::default();
        let addresses = self.mirror.people(written, commit.parent.as_deref(), Who::Authors)?;
        match (Writers { addresses, logins: Vec::new() }).include(self.people, &person.name) {
            true => people.ignored.push(format!("{} (wrote it)", person.name)),
            false => drop(people.proven.insert(person.name.clone())),
        }
        demand(question, &people, &what)?;
        Ok(self.proof(commit, None, people.proven))
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

/// Whether these people are enough.
fn demand(question: &Question<'_>, people: &Counted, what: &str) -> Result<(), ProofError> {
    let folded = |names: &mut dyn Iterator<Item = &String>| -> BTreeSet<String> {
        names.map(|name| name.to_lowercase()).collect()
    };
    let list = |names: Vec<&str>| if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
    let proven = list(people.proven.iter().map(String::as_str).collect());
    let problem = match question.demand {
        Demand::Exactly(reviewers) => {
            let (wanted, proven_set) = (folded(&mut reviewers.iter()), folded(&mut people.proven.iter()));
            let reviewers = list(reviewers.iter().map(String::as_str).collect());
            (wanted != proven_set || proven_set.is_empty()).then(|| {
                format!("the recipe's reviewers are {reviewers}, but the approvals that count are of {proven}")
            })
        }
        Demand::Again => people
            .proven
            .is_empty()
            .then(|| "selecting a published version again needs the approval of one reviewer".to_owned()),
        Demand::AtLeast(count) => (people.proven.len() < count).then(|| {
            format!("{} needs approvals of {count} reviewers, but those that count are of {proven}", question.path)
        }),
    };
    let Some(problem) = problem else { return Ok(()) };
    let ignored = match people.ignored.is_empty() {
        true => String::new(),
        false => format!("; not counted: {}", people.ignored.join(", ")),
    };
    unproven(format!("{what}: {problem}{ignored}"))
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}
