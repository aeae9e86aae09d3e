//! What a pass does with one recipe: prove, check, sign, publish; and the head's renewal.

use super::pass::Pass;
use super::plan::{BESIDE, Pending, Tip};
use super::proof::{Demand, Proof, ProofError, Question, Witnesses};
use super::status::Head;
use super::trouble::{Refused, Trouble, Wait, refused, sort};
use crate::check::CheckOptions;
use crate::key::{KeyError, KeyUri, Keyring, SigningKey};
use crate::log::{BranchTip, Row};
use crate::mirror::GitError;
use crate::pack::ChunkStore;
use crate::pin::Pins;
use crate::policy::Gate;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::release;
use crate::site::publish::{Publisher, Step};
use crate::source::Origin;

impl Pass<'_> {
    /// Proof, check, signature, publication.
    pub(super) fn release(
        &mut self,
        tip: &Tip,
        pending: &Pending,
        proved: &mut Option<Proof>,
    ) -> Result<String, Trouble> {
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
        self.prove_locks(tip, recipe)?;
        let known = release::known_chunks(self.site, self.root, &recipe.name)?;
        let file = tip.recipe(&pending.file);
        let options = CheckOptions {
            registry: Some(self.root.registry.clone()),
            fetch: self.config.artefacts.fetch_policy().map_err(configuration)?,
            known,
            level: ChunkStore::LEVEL,
            now: self.now()?,
            published: release::compared(self.site, self.root)?,
            gate: Gate::load(Some(&file), None, None),
            lookups: self.config.artefacts.lookups(&self.config.check).map_err(configuration)?,
            trial: self.config.check.trial(),
            patterns: self.config.check.patterns().map_err(configuration)?,
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
        let row = Row { action: "release".to_owned(), request, tip: self.branch_tip(), ..Row::default() };
        let released = release::publish_as(&mut publisher, &staging, &origin, &keys, row).map_err(sort)?;
        self.shared.update(|status| {
            if released.site.changed {
                status.counts.signatures += if pending.again { 0 } else { keys.len() as u64 };
                *status.counts.heads.entry("release").or_default() += 1;
            }
        });
        Ok(format!("released {} {} with head {}", released.name, released.version, released.site.head_version))
    }

    fn prove(&self, tip: &Tip, pending: &Pending, reviewers: &[String]) -> Result<Proof, Trouble> {
        let demand = if pending.again { Demand::Again } else { Demand::Exactly(reviewers) };
        let question = Question { tip: &tip.commit, path: &pending.path, blob: Some(&pending.blob), demand };
        self.witnesses().prove(&question).map_err(unproven)
    }

    /// Whether policy and waivers at the tip were approved. They are everybody's, so nothing is signed until
    /// they are.
    pub(super) fn prove_gate(&self, tip: &Tip) -> Result<(), Wait> {
        for path in BESIDE {
            self.prove_beside(tip, path, tip.beside(path)).map_err(|trouble| match trouble {
                Trouble::Refused(Refused { reason, .. }) => Wait::Unapproved { path: path.to_owned(), reason },
                Trouble::Wait(wait) => wait,
            })?;
        }
        Ok(())
    }

    /// The lockfiles that a recipe names, and whether they were approved.
    fn prove_locks(&self, tip: &Tip, recipe: &Recipe) -> Result<(), Trouble> {
        for lock in recipe.artefact.iter().filter_map(|source| source.inputs.lock.as_deref()) {
            let (path, blob) = tip.bring(self.mirror, lock)?;
            let Some(blob) = blob else {
                let reason = format!("{path}, which the recipe names, is not on the branch");
                return Err(Trouble::Refused(refused("recipe", reason)));
            };
            self.prove_beside(tip, &path, Some(&blob))?;
        }
        Ok(())
    }

    fn prove_beside(&self, tip: &Tip, path: &str, blob: Option<&str>) -> Result<(), Trouble> {
        let approvals = &self.config.approvals;
        let demand = Demand::AtLeast(approvals.policy.get().into());
        let question = Question { tip: &tip.commit, path, blob, demand };
        self.witnesses().prove_beside(&question, approvals.start.as_deref()).map_err(unproven)
    }

    fn witnesses(&self) -> Witnesses<'_> {
        let repository = &self.config.repository;
        Witnesses {
            forge: self.forge,
            mirror: self.mirror,
            branch: &repository.branch,
            repository: &repository.url,
            people: &self.config.reviewers,
            allowed_signers: self.config.approvals.allowed_signers.as_deref(),
        }
    }

    /// The tip that was read last, for the log.
    fn branch_tip(&self) -> Option<BranchTip> {
        let commit = self.journal.tip()?.to_owned();
        Some(BranchTip { repository: self.config.repository.url.clone(), commit })
    }

    /// Signs the head again when it is old; the first one of an empty site comes with a release.
    pub(super) fn renew(&mut self) -> Result<(), Wait> {
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
            let row = Row { action: "resign".to_owned(), tip: self.branch_tip(), ..Row::default() };
            let outcome = publisher.resign(row)?;
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
        Ok(self.site.head(self.root)?.map(|accepted| Head {
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
    pub(super) fn open(&mut self, uris: &[KeyUri]) -> Result<Vec<Box<dyn SigningKey>>, Wait> {
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
}

fn unproven(error: ProofError) -> Trouble {
    match error {
        ProofError::Unproven(reason) => Trouble::Refused(refused("unproven", reason)),
        // More than anybody reviews is this request's own trouble.
        ProofError::Git(GitError::TooMuch { what }) => Trouble::Refused(refused("unproven", what)),
        ProofError::Forge(error) => Trouble::Wait(error.into()),
        ProofError::Git(error) => Trouble::Wait(error.into()),
    }
}

/// A file that the configuration names changed since it was read.
fn configuration(reason: String) -> Trouble {
    Trouble::Refused(refused("configuration", reason))
}
