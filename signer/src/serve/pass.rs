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

use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;

use super::config::Config;
use super::journal::{Attempt, Journal};
use super::plan::{Pending, Plan, Tip};
use super::proof::{Proof, ProofError, Question, Witnesses};
use super::status::{Head, Waiting};
use super::trouble::{Refused, Trouble, Wait, refused, sort};
use super::{Clock, Shared};
use crate::check::{CheckOptions, Lookups, chain};
use crate::files::FileError;
use crate::forge::{Forge, State};
use crate::key::{KeyError, KeyUri, Keyring, SigningKey};
use crate::log::{self, Row, SignerState};
use crate::mirror::Mirror;
use crate::pack::ChunkStore;
use crate::pin::Pins;
use crate::policy::Gate;
use crate::progress::Progress;
use crate::release;
use crate::site::Site;
use crate::site::public::Public;
use crate::site::publish::{Publisher, Step};
use crate::source::Origin;

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
    /// A tip that may be read although it does not follow the one before.
    pub(super) accept: Option<&'a str>,
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
        self.protection()?;
        let branch = &self.config.repository.branch;
        let commit = self.mirror.fetch(&format!("refs/heads/{branch}"))?;
        self.follows(&commit)?;
        let work = self.config.state.join("work");
        std::fs::create_dir_all(&work).map_err(FileError::write(&work))?;
        let tip = Tip::read(self.mirror, &commit, &work)?;
        self.journal.set_tip(&commit)?;
        let published = self.site.published(self.root)?;
        let plan = tip.plan(self.site, &published, self.root)?;
        self.journal.keep(|file| plan.pending.iter().any(|pending| pending.file == file))?;
        self.tell_plan(&commit, &plan);
        // Also without work: a token that is gone is told before it is needed.
        drop(self.open(&[&self.config.keys.head[..], &self.config.keys.release].concat())?);
        let mut pending: Vec<&Pending> = plan.pending.iter().collect();
        pending.sort_by_key(|one| (self.journal.attempt(&one.file).map_or(0, |attempt| attempt.failures), &one.file));
        for one in pending {
            if self.shared.stopping() {
                break;
            }
            if self.journal.is_due(&one.file, &one.digest, &tip.commit, self.now()?) {
                self.attempt(&tip, one)?;
            }
        }
        let published = self.site.published(self.root)?;
        self.tell_plan(&commit, &tip.plan(self.site, &published, self.root)?);
        Ok(())
    }

    /// The clock, each time it is needed: a pass may take an hour.
    fn now(&self) -> Result<Timestamp, Wait> {
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

    /// A branch only ever grows.
    fn follows(&self, tip: &str) -> Result<(), Wait> {
        let Some(known) = self.journal.tip().filter(|known| self.accept != Some(tip) && *known != tip) else {
            return Ok(());
        };
        if self.mirror.holds(known) && self.mirror.is_ancestor(known, tip)? {
            return Ok(());
        }
        let branch = self.config.repository.branch.clone();
        Err(Wait::Rewritten { branch, tip: tip.to_owned(), known: known.to_owned() })
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
        let reason = mcpfs_trust::error::bounded(&log::public::without_paths(&refused.reason, &[]));
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

    /// Proof, check, signature, publication.
    fn release(&mut self, tip: &Tip, pending: &Pending, proved: &mut Option<Proof>) -> Result<String, Trouble> {
        let recipe = match &pending.recipe {
            Ok(recipe) => recipe,
            Err(reason) => return Err(Trouble::Refused(refused("recipe", reason))),
        };
        // First: nothing is fetched for somebody whose recipe nobody approved.
        let proof = self.prove(tip, pending, &recipe.reviewers)?;
        let origin =
            Origin { source: Some(proof.source.clone()), committed: Some(proof.commit.committed), warning: None };
        let request = proof.source.pull_request.clone().unwrap_or_else(|| pending.path.clone());
        *proved = Some(proof);
        let known = release::known_chunks(self.site, self.root, &recipe.name)?;
        let file = tip.recipe(&pending.file);
        let options = CheckOptions {
            registry: Some(self.root.registry.clone()),
            fetch: self.config.fetch_policy().map_err(|reason| Trouble::Refused(refused("configuration", reason)))?,
            known,
            level: ChunkStore::LEVEL,
            now: self.now()?,
            published: release::compared(self.site, self.root)?,
            gate: Gate::load(Some(&file), None, None),
            lookups: Lookups::default(),
            trial: None,
            patterns: None,
        };
        let work = self.config.state.join("work");
        let folder = tempfile::Builder::new().prefix("staging-").tempdir_in(&work).map_err(Wait::Temporary)?;
        let staging = release::ingest(&file, folder.path(), &options).map_err(sort)?;
        let (head_keys, keys) = (self.open(&self.config.keys.head)?, self.open(&self.config.keys.release)?);
        let shared = self.shared;
        let mut progress = |step: Step| {
            if step == Step::Signed {
                shared.update(|status| status.counts.signatures += head_keys.len() as u64);
            }
        };
        let mut publisher = Publisher {
            site: self.site,
            root: self.root,
            state: self.state,
            head_keys: &head_keys,
            now: self.now()?,
            lifetime: self.lifetime(),
            progress: &mut progress,
            shown: Progress::silent(),
            public: self.public,
        };
        let released = release::publish(&mut publisher, &staging, &origin, &keys, &request).map_err(sort)?;
        self.shared.update(|status| {
            if released.site.changed {
                status.counts.signatures += if pending.again { 0 } else { keys.len() as u64 };
                *status.counts.heads.entry("release").or_default() += 1;
            }
        });
        Ok(format!("released {} {} with head {}", released.name, released.version, released.site.head_version))
    }

    fn prove(&self, tip: &Tip, pending: &Pending, reviewers: &[String]) -> Result<Proof, Trouble> {
        let repository = &self.config.repository;
        let witnesses = Witnesses {
            forge: self.forge,
            mirror: self.mirror,
            branch: &repository.branch,
            repository: &repository.url,
            people: &self.config.reviewers,
            allowed_signers: self.config.approvals.allowed_signers.as_deref(),
        };
        let question =
            Question { tip: &tip.commit, path: &pending.path, blob: &pending.blob, reviewers, again: pending.again };
        witnesses.prove(&question).map_err(|error| match error {
            ProofError::Unproven(reason) => Trouble::Refused(refused("unproven", reason)),
            ProofError::Forge(error) => Trouble::Wait(error.into()),
            ProofError::Git(error) => Trouble::Wait(error.into()),
        })
    }

    /// Signs the head again when it is old; the first one of an empty site comes with a release.
    fn renew(&mut self) -> Result<(), Wait> {
        let head = self.head()?;
        let now = self.now()?;
        let age = i64::try_from(self.config.site.resign_after).unwrap_or(i64::MAX);
        if head.is_some_and(|head| now.unix().saturating_sub(head.issued.unix()) >= age) {
            let head_keys = self.open(&self.config.keys.head)?;
            let mut publisher = Publisher {
                site: self.site,
                root: self.root,
                state: self.state,
                head_keys: &head_keys,
                now,
                lifetime: self.lifetime(),
                progress: &mut |_| {},
                shown: Progress::silent(),
                public: self.public,
            };
            let outcome = publisher.resign(Row { action: "resign".to_owned(), ..Row::default() })?;
            self.shared.say(&format!("signed the head again: {}, expires {}", outcome.head_version, outcome.expires));
            self.shared.update(|status| {
                status.counts.signatures += head_keys.len() as u64;
                *status.counts.heads.entry("renewal").or_default() += 1;
            });
        }
        let head = self.head()?;
        self.shared.update(|status| status.head = head);
        Ok(())
    }

    fn head(&self) -> Result<Option<Head>, Wait> {
        let published = self.site.published(self.root)?;
        Ok(published.head.map(|(_, accepted)| Head {
            version: accepted.head.version,
            issued: accepted.head.issued,
            expires: accepted.head.expires,
        }))
    }

    fn lifetime(&self) -> i64 {
        i64::from(self.config.site.expires_days.get()) * 86_400
    }

    /// Opens keys anew, each time: a session that was lost meanwhile is nobody's trouble, and
    /// between two uses the token is locked. A PIN that was refused is not tried again.
    fn open(&mut self, uris: &[KeyUri]) -> Result<Vec<Box<dyn SigningKey>>, Wait> {
        let pins = Pins { ask: false, ..Pins::from_environment() };
        let stamp = uris.iter().find_map(|uri| match uri {
            KeyUri::Pkcs11(uri) => pins.stamp(uri.token.as_deref().unwrap_or_default()),
            KeyUri::AwsKms(_) | KeyUri::Demo(_) => None,
        });
        if stamp.is_some() && self.journal.pin_refused() == stamp.as_deref() {
            self.shared.update(|status| status.token = Some(false));
            return Err(Wait::SamePin);
        }
        let mut keyring = Keyring::new(pins);
        let opened: Result<Vec<_>, KeyError> = uris.iter().map(|uri| keyring.open(uri)).collect();
        self.shared.update(|status| status.token = Some(opened.is_ok()));
        if matches!(opened, Err(KeyError::PinRefused { .. } | KeyError::PinLocked { .. })) {
            self.journal.set_pin_refused(stamp)?;
        }
        Ok(opened?)
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
