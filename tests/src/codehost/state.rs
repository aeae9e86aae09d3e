//! What a forge's database holds.

use std::collections::BTreeMap;

use super::Merge;

/// What a forge's database holds.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Seconds since the forge was opened: each event is later than the one before.
    pub(super) clock: i64,
    pub(super) last_id: u64,
    pub(super) requests: Vec<Request>,
    pub(super) statuses: Vec<Status>,
    pub(super) unprotected: bool,
    /// GitLab: approvals go when something is pushed.
    pub(super) reset_on_push: bool,
    /// GitLab: it says that they go, and keeps them.
    pub(super) keeps_approvals: bool,
    /// GitLab before 18.5 does not say when.
    pub(super) without_approved_at: bool,
    /// The API answers this instead.
    pub(super) fault: Option<(u16, &'static str)>,
    pub(super) page_limit: Option<usize>,
    pub(super) asked: Vec<String>,
    pub(super) tokens: BTreeMap<String, String>,
    /// Accounts by the addresses that they have at the forge.
    pub(super) accounts: BTreeMap<String, String>,
}

/// A pull or merge request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) title: String,
    pub(super) author: String,
    pub(super) branch: String,
    pub(super) head: String,
    /// Where its commits begin.
    pub(super) base: String,
    /// Heads and when they were pushed.
    pub(super) pushes: Vec<(String, i64)>,
    pub(super) merged: Option<Merged>,
    pub(super) reviews: Vec<Review>,
    pub(super) comments: Vec<Comment>,
    pub(super) paths: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Merged {
    pub(super) how: Merge,
    pub(super) commit: String,
    pub(super) introduced: Vec<String>,
    pub(super) by: String,
    pub(super) at: i64,
}

#[derive(Debug, Clone)]
pub(super) struct Review {
    pub(super) id: u64,
    pub(super) user: String,
    pub(super) verdict: Verdict,
    pub(super) commit: String,
    pub(super) at: i64,
    /// Whether a later push changed what was reviewed.
    pub(super) stale: bool,
    pub(super) dismissed: bool,
}

/// What a reviewer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Approve,
    /// No.
    Reject,
    /// Neither.
    Comment,
}

/// A comment on a request.
#[derive(Debug, Clone)]
pub struct Comment {
    /// Its number.
    pub id: u64,
    /// Who wrote it.
    pub author: String,
    /// What it says.
    pub body: String,
}

/// What somebody shows beside a commit.
#[derive(Debug, Clone)]
pub struct Status {
    /// The commit.
    pub commit: String,
    /// `success` or `failure`, in the forge's word.
    pub state: String,
    /// Under which name.
    pub context: String,
    /// The text.
    pub description: String,
}

impl State {
    pub(super) fn tick(&mut self) -> i64 {
        self.clock += 10;
        self.clock
    }

    pub(super) fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn request(&mut self, number: u64) -> &mut Request {
        self.requests.iter_mut().find(|one| one.number == number).unwrap_or_else(|| panic!("no request {number}"))
    }
}
