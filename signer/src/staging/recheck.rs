//! Signing believes nothing that lies in staging: it is computed again, from the recipe and the
//! artefacts.

use std::collections::HashMap;
use std::io;

use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::{Digest, Hasher};
use mcpfs_trust::name::Platform;
use mcpfs_trust::release::Launch;
use mcpfs_trust::time::Timestamp;

use super::folder::at;
use super::{Places, StagedArtefact, Staging, StagingError};
use crate::check::record::{CheckRecord, CheckedArtefact, RECORD_SCHEMA, Verdict};
use crate::check::{self, Finding, Findings, Inventory, advisories};
use crate::files;
use crate::pack::{self, PackError};
use crate::recipe::{ArtefactSource, Recipe};
use crate::unpack;

/// What staging comes to when nothing in it is believed.
#[derive(Debug)]
pub struct Rechecked {
    /// The recipe, with its launch.
    pub recipe: Recipe,
    /// What each platform's artefact carries.
    pub dependencies: Vec<(Platform, Inventory)>,
}

impl Staging {
    /// Recomputes everything from the recipe and the artefacts: digests, trees, chunks, layouts
    /// and the record, and asks the rules again. Returns the parsed recipe, with the launch that
    /// its artefacts say if it has none, and what they carry. This is what signing relies on. Three
    /// things are the checker's word alone: the time of the check, that no other recipe has a similar
    /// name, and the observations with the tools of a trial. Reviews and waivers must hold `now` too, not only when it was checked.
    ///
    /// # Errors
    /// The first difference.
    pub fn recheck(&self, now: Timestamp) -> Result<Rechecked, StagingError> {
        let mut recipe = Recipe::parse(&self.recipe, &self.recipe_file).map_err(StagingError::Recipe)?;
        let differs = |what: String| Err(StagingError::Differs(what));
        if recipe.artefact.len() != self.artefacts.len() {
            return differs("another number of artefacts".to_owned());
        }
        let mut findings = Findings::new();
        let mut launches = Vec::with_capacity(self.artefacts.len());
        let mut dependencies = Vec::with_capacity(self.artefacts.len());
        for (index, source) in recipe.artefact.iter().enumerate() {
            let Some(staged) = self.artefacts.iter().find(|staged| staged.platform == source.platform) else {
                return differs(format!("no artefact for {}", source.platform));
            };
            if staged.sha256 != source.sha256 {
                return differs(format!("the artefact for {} is not the one the recipe pins", source.platform));
            }
            let field = recipe.artefact_field(index);
            let (launch, inventory) = self.recheck_artefact(staged, &recipe, source, &field, &mut findings)?;
            launches.push(launch);
            dependencies.push((staged.platform.clone(), inventory));
        }
        self.answers.again(&dependencies, &Places::new(&self.folder).snapshots()).map_err(StagingError::Differs)?;
        let answered = self.record.observations.iter().filter(|one| advisories::is_look(one.kind));
        if !answered.eq(self.answers.observations().iter()) {
            return differs("its check record names other look-ups of advisories than staging holds".to_owned());
        }
        check::settle_again(&mut recipe, launches, &mut findings);
        check::again(&recipe, self.record.checked_at, &mut findings);
        let observed = self.findings.all().iter().filter(|one| check::rules::is_observed(&one.rule));
        observed.for_each(|one| findings.push(Finding { waiver: None, ..one.clone() }));
        let settled = |now| {
            let mut findings = findings.clone();
            let policy = self.gate.policy();
            self.answers.check(&recipe, &dependencies, policy, now, &mut findings);
            self.gate.check(&recipe, now, &self.record.observations, &mut findings);
            self.gate.settle(&recipe, now, &mut findings);
            findings
        };
        let at_check = settled(self.record.checked_at);
        for findings in [&at_check, &settled(now)] {
            if let Some(error) = findings.open_errors().next() {
                return differs(format!("a rule finds {error}"));
            }
        }
        if self.record.waivers != at_check.waivers() {
            return differs("its check record names other waivers than those that apply".to_owned());
        }
        let expected = CheckRecord { checked_at: self.record.checked_at, ..self.expected_record() };
        if self.findings.has_errors() || self.record != expected {
            return differs("its check record is for something else, or did not pass".to_owned());
        }
        Ok(Rechecked { recipe, dependencies })
    }

    /// The record that this staging must carry, but for its time.
    pub(crate) fn expected_record(&self) -> CheckRecord {
        CheckRecord {
            schema: RECORD_SCHEMA.to_owned(),
            recipe: self.recipe_sha256,
            artefacts: self
                .artefacts
                .iter()
                .map(|artefact| CheckedArtefact {
                    platform: artefact.platform.clone(),
                    sha256: artefact.sha256,
                    tree: artefact.tree.summary().sha256,
                })
                .collect(),
            verdict: if self.findings.has_errors() { Verdict::Fail } else { Verdict::Pass },
            policy: self.gate.digest(),
            findings: Digest::of(&self.findings.json()),
            checked_at: self.record.checked_at,
            checker: concat!("mcpfs-signer ", env!("CARGO_PKG_VERSION")).to_owned(),
            waivers: self.findings.waivers(),
            sources: [self.gate.sources(), self.answers.sources()].concat(),
            observations: self.record.observations.clone(),
            tools: self.record.tools.clone(),
        }
    }

    fn recheck_artefact(
        &self,
        staged: &StagedArtefact,
        recipe: &Recipe,
        source: &ArtefactSource,
        field: &str,
        findings: &mut Findings,
    ) -> Result<(Option<Launch>, Inventory), StagingError> {
        let differs = |what: &str| StagingError::Differs(format!("{what} for {}", staged.platform));
        let mut file = files::open_file(&staged.file).map_err(at(&staged.file))?;
        let mut hasher = Hasher::new();
        let size = io::copy(&mut file, &mut hasher).map_err(at(&staged.file))?;
        if hasher.finish() != staged.sha256 || size != staged.size {
            return Err(differs("another artefact"));
        }
        // The same open file is read again: what was hashed is what is unpacked.
        let artefacts = Places::new(&self.folder).artefacts();
        let archive = unpack::of_source(source, file, &artefacts, &self.folder).map_err(StagingError::Unpack)?;
        if archive.parts != staged.parts {
            return Err(differs("other parts"));
        }
        let tree = pack::tree(&archive.entries).map_err(StagingError::Tree)?;
        if tree != staged.tree {
            return Err(differs("another tree"));
        }
        let launch = check::launch_again(recipe, source, field, (&archive, &tree), findings);
        let started = recipe.started_by(launch.as_ref());
        check::content_again(&started, field, &tree, &archive.remarks, findings);
        let carried = check::carried(recipe, field, (&tree, &archive.spool), self.gate.policy(), findings);
        let expected: HashMap<Digest, Chunk> =
            staged.all_chunks().into_iter().map(|chunk| (chunk.plain_sha256, chunk)).collect();
        let mut put = |plain: &[u8]| {
            let digest = Digest::of(plain);
            let chunk = expected.get(&digest).copied().ok_or(PackError::Unexpected(digest))?;
            // A chunk of this folder is decoded; one that is published is decoded by publish.
            match self.chunk(&chunk) {
                Ok(_) => Ok(chunk),
                Err(_) => Err(PackError::Unexpected(digest)),
            }
        };
        let packed = pack::pack(&staged.platform, &tree, &archive.spool, launch.as_ref(), &mut put)
            .map_err(StagingError::Pack)?;
        match packed.layout == staged.layout && packed.listed == staged.listed {
            true => Ok((launch, carried.inventory)),
            false => Err(differs("another layout")),
        }
    }
}
