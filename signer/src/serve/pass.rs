//! One pass: look at the branch, and bring the site to what it says.
//!
//! A pass takes no input but configuration, branch, forge and site, so it may be run at any time
//! and any number of times; what is done already is not done again. Each release is published
//! with a head of its own rather than all of them with one: a recipe that fails holds up nobody,
//! a crash between two of them leaves a whole site, and each segment of the log tells of one
//! decision. It costs one more signature for each release of a batch.
//!
//! Two kinds of no: a recipe is **refused** for what it is, put off, and the others go on; or the
//! pass **waits**, because forge, git, token or site cannot be used now, and nothing is held
//! against any recipe.

use std::time::Instant;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;

use super::config::Config;
use super::guard::Guard;
use super::journal::{Attempt, Journal};
use super::plan::{Pending, Plan, Tip};
use super::proof::Proof;
use super::status::Waiting;
use super::trouble::{Refused, Trouble, Wait, shown};
use super::{Clock, Shared};
use crate::check::chain;
use crate::files::FileError;
use crate::forge::{Forge, State};
use crate::log::{self, Row, SignerState};
use crate::mirror::Mirror;
use crate::site::Site;
use crate::site::public::Public;
use crate::site::state::Published;

/// Everything a pass uses.
pub(super) struct Pass<'a> {
    pub(super) config: &'a Config,
    pub(super) root: &'a TrustRoot,
    pub(super) forge: &'a Forge,
    pub(super) mirror: &'a Mirror,
    pub(super) site: &'a Site,
    pub(super) public: Option<&'a Public>,
    pub(super) state: &'a SignerState,
    pub(super) journal: &'a mut Journal,
    pub(super) shared: &'a Shared,
    pub(super) clock: Clock,
    /// What the last pass found that reached its end.
    pub(super) settled: &'a mut Option<Settled>,
    /// A tip that may be read although it does not follow the one before.
    pub(super) accept: Option<&'a str>,
}

/// Branch and site as a pass left them that reached its end: as long as both are so, and no failed
/// recipe's time has come, there is nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    tip: String,
    head: Option<Digest>,
}

impl Pass<'_> {
    /// Runs it; everything that could be done is done.
    pub(super) fn run(&mut self) -> Result<(), Wait> {
        let now = self.now()?;
        self.shared.update(|status| status.began = Some(now));
        // An old head is renewed also while the forge is away.
        let result = self.releases();
        let renewed = self.renew();
        result.and(renewed)
    }

    fn releases(&mut self) -> Result<(), Wait> {
        let branch = &self.config.repository.branch;
        let reference = format!("refs/heads/{branch}");
        let keys = [&self.config.keys.head[..], &self.config.keys.release].concat();
        let seen = Settled { tip: self.mirror.remote_tip(&reference)?, head: self.head_digest()? };
        let now = self.now()?;
        if self.settled.as_ref() == Some(&seen) && self.journal.next_due().is_none_or(|due| due > now) {
            // A token that is gone is told before it is needed.
            drop(self.open(&keys)?);
            return Ok(());
        }
        *self.settled = None;
        self.protection()?;
        let commit = self.mirror.fetch(&reference)?;
        let published = self.site.published(self.root)?;
        self.follows(&commit, &published)?;
        let work = self.config.state.join("work");
        std::fs::create_dir_all(&work).map_err(FileError::write(&work))?;
        let tip = Tip::read(self.mirror, &commit, &work)?;
        self.journal.set_tip(&commit)?;
        let plan = tip.plan(self.site, &published, self.root)?;
        self.journal.keep(|file| plan.pending.iter().any(|pending| pending.file == file))?;
        self.tell_plan(&commit, &plan);
        drop(self.open(&keys)?);
        let now = self.now()?;
        let is_due = |one: &&Pending| self.journal.is_due(&one.file, &one.digest, &tip.commit, now);
        let mut pending: Vec<&Pending> = plan.pending.iter().filter(is_due).collect();
        if !pending.is_empty() {
            self.prove_gate(&tip)?;
        }
        pending.sort_by_key(|one| (self.journal.attempt(&one.file).map_or(0, |attempt| attempt.failures), &one.file));
        for one in pending {
            if self.shared.stopping() {
                return Ok(());
            }
            self.attempt(&tip, one)?;
        }
        let head = self.head_digest()?;
        let published = self.site.published(self.root)?;
        self.tell_plan(&commit, &tip.plan(self.site, &published, self.root)?);
        *self.settled = Some(Settled { tip: commit, head });
        Ok(())
    }

    /// Of the head's file: enough to see that somebody moved it.
    fn head_digest(&self) -> Result<Option<Digest>, Wait> {
        let head = self.site.find(mcpfs_trust::site::HEAD, mcpfs_trust::limits::HEAD_BYTES)?;
        Ok(head.map(|bytes| Digest::of(&bytes)))
    }

    /// The clock, each time it is needed: a pass may take an hour.
    pub(super) fn now(&self) -> Result<Timestamp, Wait> {
        (self.clock)().ok_or(Wait::Clock)
    }

    fn protection(&self) -> Result<(), Wait> {
        let branch = &self.config.repository.branch;
        let found = self.forge.protection(branch)?;
        self.shared.update(|status| status.protection = Some(found.detail.clone()));
        match found.protected || !self.config.repository.require_protection {
            true => Ok(()),
            false => Err(Wait::Unprotected { branch: branch.clone(), detail: found.detail }),
        }
    }

    fn follows(&self, tip: &str, published: &Published) -> Result<(), Wait> {
        if self.accept == Some(tip) {
            return Ok(());
        }
        let repository = &self.config.repository;
        let guard = Guard {
            mirror: self.mirror,
            branch: &repository.branch,
            repository: &repository.url,
            known: self.journal.tip(),
        };
        guard.follows(tip, self.site, published)
    }

    fn tell_plan(&self, tip: &str, plan: &Plan) {
        let waiting = |one: &Pending| {
            let attempt = self.journal.attempt(&one.file);
            Waiting {
                recipe: one.file.clone(),
                reason: attempt.map(|attempt| attempt.reason.clone()),
                failures: attempt.map_or(0, |attempt| attempt.failures),
                next: attempt.map(|attempt| attempt.next),
            }
        };
        self.shared.update(|status| {
            status.tip = Some(tip.to_owned());
            status.recipes = plan.recipes;
            status.pending = plan.pending.iter().map(waiting).collect();
            status.unlisted = plan.unlisted.iter().map(ToString::to_string).collect();
        });
    }

    /// Tries one recipe, with a note before and after.
    fn attempt(&mut self, tip: &Tip, pending: &Pending) -> Result<(), Wait> {
        let (now, began) = (self.now()?, Instant::now());
        let before = self.journal.begin(&pending.file, pending.digest, &tip.commit, now)?;
        let mut proof = None;
        match self.release(tip, pending, &mut proof) {
            Ok(said) => {
                self.journal.restore(&pending.file, None)?;
                self.shared.update(|status| {
                    status.counts.releases += 1;
                    status.pending.retain(|one| one.recipe != pending.file);
                    status.counts.release_seconds += began.elapsed().as_secs_f64();
                });
                self.shared.say(&format!("{}: {said}", pending.file));
                self.report(pending, proof.as_ref(), State::Success, &said);
                Ok(())
            }
            Err(Trouble::Wait(wait)) => {
                self.journal.restore(&pending.file, before)?;
                Err(wait)
            }
            Err(Trouble::Refused(refused)) => self.refuse(pending, before.as_ref(), proof.as_ref(), refused, now),
        }
    }

    /// Notes a refusal; people are told of each once, not at every try.
    fn refuse(
        &mut self,
        pending: &Pending,
        before: Option<&Attempt>,
        proof: Option<&Proof>,
        refused: Refused,
        now: Timestamp,
    ) -> Result<(), Wait> {
        // For the log and the forge, which others read.
        let reason = shown(&log::public::without_paths(&refused.reason, &[]));
        self.shared.update(|status| *status.counts.refused.entry(refused.kind).or_default() += 1);
        let known = before.is_some_and(|before| before.recipe == pending.digest && before.reason == reason);
        self.journal.refuse(&pending.file, &reason, now)?;
        if known {
            return Ok(());
        }
        self.shared.say(&format!("{}: refused: {reason}", pending.file));
        let recipe = pending.recipe.as_ref().ok();
        self.state.refuse(Row {
            time: Some(now),
            action: "release".to_owned(),
            request: pending.path.clone(),
            name: recipe.map(|recipe| recipe.name.clone()),
            version: recipe.map(|recipe| recipe.version.clone()),
            commit: proof.map(|proof| proof.commit.id.clone()),
            approvals: proof.map(|proof| proof.source.approvals.clone()).unwrap_or_default(),
            recipe: Some(pending.digest),
            reason: Some(reason.clone()),
            ..Row::default()
        })?;
        self.report(pending, proof, State::Failure, &reason);
        Ok(())
    }

    /// Shows the outcome at the forge, if that is wanted; a forge that does not take it loses nothing.
    fn report(&self, pending: &Pending, proof: Option<&Proof>, state: State, text: &str) {
        let last = || self.mirror.last_change(self.journal.tip()?, &pending.path).ok()?.map(|commit| commit.id);
        let commit = proof.map(|proof| proof.commit.id.clone()).or_else(last);
        let Some(commit) = commit.filter(|_| self.config.report) else { return };
        let name = pending.file.trim_end_matches(".yaml");
        if let Err(error) = self.forge.set_status(&commit, name, state, text) {
            self.shared.say(&format!("the forge does not take the outcome of {}: {}", pending.file, chain(&error)));
        }
    }
}
