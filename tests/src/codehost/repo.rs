//! The git side: working copies, pushes, and the three ways to merge.

use std::path::PathBuf;

use super::{BRANCH, CodeHost, Merged, Shared};
use crate::command::Run;
use crate::scratch;

/// How a request is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// A merge commit.
    Commit,
    /// One new commit with everything.
    Squash,
    /// Each commit anew on top of the branch.
    Rebase,
    /// The commits as they are, where the branch has no others: not every forge has it.
    FastForward,
}

impl Merge {
    /// Those that every forge has.
    pub const ALL: [Self; 3] = [Self::Commit, Self::Squash, Self::Rebase];
}

/// Somebody's working copy; gone on drop.
#[derive(Debug)]
pub struct Clone {
    dir: tempfile::TempDir,
    login: String,
    email: String,
}

impl Clone {
    pub(super) fn new(url: &str, login: &str, token: &str) -> Self {
        let clone = Self { dir: scratch::dir(), login: login.to_owned(), email: format!("{login}@example.com") };
        let with_token = url.replace("http://", &format!("http://{login}:{token}@"));
        clone.git(["clone", "--quiet", &with_token, "."]).ok();
        clone
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Who it belongs to.
    pub fn login(&self) -> &str {
        &self.login
    }

    /// Commits under another address from now on.
    pub fn writes_as(&mut self, email: &str) {
        self.email = email.to_owned();
    }

    /// git in it, as its owner.
    pub fn git<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        git(&self.login, &self.email).dir(self.dir.path()).args(args)
    }

    /// A new branch at the newest protected one.
    pub fn branch(&self, name: &str) {
        self.git(["fetch", "--quiet", "origin"]).ok();
        self.git(["checkout", "--quiet", "-B", name, &format!("origin/{BRANCH}")]).ok();
    }

    /// Writes a file and commits it.
    pub fn commit(&self, file: &str, text: &str, message: &str) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().expect("below")).expect("own directory");
        std::fs::write(path, text).expect("own directory");
        self.git(["add", "--all"]).ok();
        self.git(["commit", "--quiet", "-m", message]).ok();
    }

    /// Pushes the branch over HTTP.
    pub fn push(&self, branch: &str) -> Run {
        self.git(["push", "--quiet", "--force", "origin", &format!("HEAD:refs/heads/{branch}")])
    }
}

/// git as somebody, whatever the machine's own configuration is.
fn git(login: &str, email: &str) -> Run {
    Run::new(scratch::need("git", "git"))
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_NAME", login)
        .env("GIT_AUTHOR_EMAIL", email)
        .env("GIT_COMMITTER_NAME", login)
        .env("GIT_COMMITTER_EMAIL", email)
}

impl Shared {
    /// git in the bare repository.
    pub(super) fn bare(&self, args: &[&str]) -> Run {
        git("forge", "noreply@forge.example.com").arg("--git-dir").arg(self.repository()).args(args)
    }

    pub(super) fn rev(&self, name: &str) -> Option<String> {
        let ran = self.bare(&["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")]).run();
        (ran.code == 0).then(|| ran.stdout.trim().to_owned())
    }

    /// What a push changes in the database: heads of open requests, and reviews that are stale now.
    pub(super) fn pushed(&self) {
        let open: Vec<(u64, String, String)> = {
            let state = self.state();
            let open = state.requests.iter().filter(|one| one.merged.is_none());
            open.map(|one| (one.number, one.branch.clone(), one.head.clone())).collect()
        };
        for (number, branch, before) in open {
            let Some(head) = self.rev(&format!("refs/heads/{branch}")).filter(|head| *head != before) else { continue };
            let (paths, base) = (self.changed_paths(&head), self.base(&head));
            self.bare(&["update-ref", &self.head_reference(number), &head]).ok();
            let mut state = self.state();
            let (at, reset) = (state.tick(), state.reset_on_push && !state.keeps_approvals);
            let request = state.request(number);
            request.head.clone_from(&head);
            request.base = base;
            request.pushes.push((head, at));
            request.paths = paths;
            for review in &mut request.reviews {
                review.stale = true;
            }
            if reset {
                request.reviews.clear();
            }
        }
    }

    /// Where a head and the branch parted.
    pub(super) fn base(&self, head: &str) -> String {
        self.bare(&["merge-base", &format!("refs/heads/{BRANCH}"), head]).ok().stdout.trim().to_owned()
    }

    /// Paths that differ between the branch and a head, since they parted.
    pub(super) fn changed_paths(&self, head: &str) -> Vec<String> {
        let range = format!("refs/heads/{BRANCH}...{head}");
        self.bare(&["diff", "--name-only", &range]).ok().stdout.lines().map(str::to_owned).collect()
    }

    pub(super) fn head_reference(&self, number: u64) -> String {
        match self.kind {
            super::Kind::Gitlab => format!("refs/merge-requests/{number}/head"),
            _ => format!("refs/pull/{number}/head"),
        }
    }
}

impl CodeHost {
    /// The protected branch's commit.
    pub fn tip(&self) -> String {
        self.commit(&format!("refs/heads/{BRANCH}"))
    }

    pub(super) fn commit(&self, name: &str) -> String {
        self.shared.rev(name).unwrap_or_else(|| panic!("no such commit: {name}"))
    }

    pub(super) fn changed(&self, head: &str) -> Vec<String> {
        self.shared.changed_paths(head)
    }

    pub(super) fn keep_head(&self, number: u64, head: &str) {
        self.shared.bare(&["update-ref", &self.shared.head_reference(number), head]).ok();
    }

    /// Merges a request as `by`, and removes its branch.
    pub fn merge(&self, number: u64, by: &str, how: Merge) {
        self.merge_with(number, by, how, |_| {});
    }

    /// The same, while `meddle` changes what will be committed.
    pub fn merge_with(&self, number: u64, by: &str, how: Merge, meddle: impl FnOnce(&std::path::Path)) {
        let request = self.shared.state().request(number).clone();
        let (old, work) = (self.tip(), scratch::dir());
        // The forge commits, as GitHub does; the author of a merge is who pressed the button.
        let forge = |author: &str| {
            let run = git("Forge", "noreply@forge.example.com").dir(work.path());
            run.env("GIT_AUTHOR_NAME", author).env("GIT_AUTHOR_EMAIL", format!("{author}@example.com"))
        };
        forge(by).args(["clone", "--quiet", "--no-hardlinks"]).arg(self.repository()).arg(".").ok();
        forge(by).args(["fetch", "--quiet", "origin", &self.shared.head_reference(number)]).ok();
        let title = format!("{} (#{number})", request.title);
        match how {
            Merge::Commit => {
                forge(by).args(["merge", "--quiet", "--no-ff", "--no-commit", &request.head]).ok();
                meddle(work.path());
                forge(by).args(["add", "--all"]).ok();
                forge(by).args(["commit", "--quiet", "-m", &format!("Merge pull request #{number}")]).ok();
            }
            Merge::Squash => {
                forge(by).args(["merge", "--quiet", "--squash", &request.head]).ok();
                meddle(work.path());
                forge(by).args(["add", "--all"]).ok();
                forge(&request.author).args(["commit", "--quiet", "-m", &title]).ok();
            }
            Merge::FastForward => {
                forge(by).args(["merge", "--quiet", "--ff-only", &request.head]).ok();
            }
            Merge::Rebase => {
                forge(by).args(["checkout", "--quiet", "--detach", &request.head]).ok();
                // Also where it could be fast-forwarded: forges make new commits all the same.
                forge(by).args(["rebase", "--quiet", "--force-rebase", &format!("origin/{BRANCH}")]).ok();
                meddle(work.path());
                if !forge(by).args(["status", "--porcelain"]).ok().stdout.is_empty() {
                    forge(by).args(["commit", "--quiet", "--all", "--amend", "--no-edit"]).ok();
                }
            }
        }
        forge(by).args(["push", "--quiet", "origin", &format!("HEAD:refs/heads/{BRANCH}")]).ok();
        let commit = self.tip();
        let introduced = self.shared.bare(&["rev-list", &format!("{old}..{commit}")]).ok().stdout;
        let introduced = introduced.lines().map(str::to_owned).collect();
        self.shared.bare(&["update-ref", "-d", &format!("refs/heads/{}", request.branch)]).ok();
        let mut state = self.shared.state();
        let at = state.tick();
        state.request(number).merged = Some(Merged { how, commit, introduced, by: by.to_owned(), at });
    }

    /// What an administrator can do: a commit on the protected branch without a request.
    pub fn push_past_review(&self, file: &str, text: &str, email: &str, message: &str) {
        self.push_past_review_with(file, text, email, message, &[]);
    }

    /// The same with more options for `git commit`, such as those that sign it.
    pub fn push_past_review_with(&self, file: &str, text: &str, email: &str, message: &str, options: &[&str]) {
        let write = |work: &std::path::Path| {
            let path = work.join(file);
            std::fs::create_dir_all(path.parent().expect("below")).expect("own directory");
            std::fs::write(path, text).expect("own directory");
        };
        self.commit_past_review(email, message, options, write);
    }

    /// Removes a file in the same way.
    pub fn remove_past_review(&self, file: &str) {
        let remove = |work: &std::path::Path| std::fs::remove_file(work.join(file)).expect("it is there");
        self.commit_past_review("root@example.com", &format!("Remove {file}"), &[], remove);
    }

    fn commit_past_review(&self, email: &str, message: &str, options: &[&str], change: impl FnOnce(&std::path::Path)) {
        let work = scratch::dir();
        let admin = || git("admin", email).dir(work.path());
        admin().args(["clone", "--quiet", "--no-hardlinks"]).arg(self.repository()).arg(".").run();
        admin().args(["symbolic-ref", "HEAD", &format!("refs/heads/{BRANCH}")]).ok();
        change(work.path());
        admin().args(["add", "--all"]).ok();
        admin().args(options).args(["commit", "--quiet", "-m", message]).ok();
        admin().args(["push", "--quiet", "origin", &format!("HEAD:refs/heads/{BRANCH}")]).ok();
    }

    /// What an administrator should never do: set the protected branch to another commit.
    pub fn rewrite(&self, commit: &str) {
        self.shared.bare(&["update-ref", &format!("refs/heads/{BRANCH}"), commit]).ok();
    }
}
