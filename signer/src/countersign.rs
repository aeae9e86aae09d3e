//! Signing published releases again: further signatures, the same statements.
//!
//! A statement never changes, so a new key does not make a new release. It signs the bytes that are
//! published, beside the signatures that are there: hosts with the old trust root count those, hosts with the
//! new one these, and what both remember of the version stays true.
//!
//! What is signed here is not checked again. So all that is signed must verify now (`All`), or somebody says by
//! name what he has looked at (`Named`): after the theft of a key its releases verify no more, and to sign
//! them all would be to do the thief's work.

use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed, Status};
use mcpfs_trust::envelope::Signature;
use mcpfs_trust::limits;
use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::release::{RELEASE_TYPE, Release};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::statement::Statement;
use mcpfs_trust::verify;
use serde::Serialize;

use crate::key::SigningKey;
use crate::log::{self, Row};
use crate::revoke::withdrawn;
use crate::sign::{self, SignError};
use crate::site::publish::several::Several;
use crate::site::publish::{Outcome, Publisher};
use crate::site::state::{Published, at};
use crate::site::{Site, SiteError};

/// The log's word for it.
pub const COUNTERSIGN: &str = "countersign";

/// Releases under one head: their rows stay far below what a segment of the log may have.
const BATCH: usize = 1000;

/// What is to be signed.
#[derive(Debug)]
pub enum Which {
    /// Every release that verifies now and is not revoked.
    All,
    /// These, whether they verify or not; without a version all of the server that do.
    Named(Vec<(ServerName, Option<Version>)>),
}

/// A release that got signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignedAgain {
    /// The server.
    pub name: ServerName,
    /// The version.
    pub version: Version,
    /// What is signed, which did not change.
    pub statement: Digest,
    /// What hosts with this trust root still lack, if they do not accept it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
}

/// What it came to.
#[derive(Debug, Serialize)]
pub struct Countersigned {
    /// Releases that got signatures.
    pub signed: Vec<SignedAgain>,
    /// Releases that had them already, or that these keys do not sign.
    pub unchanged: usize,
    /// The last head.
    pub site: Outcome,
}

/// Adds signatures of `keys` to published releases.
///
/// # Errors
/// If a release that is named is not there, is revoked, or is none of these keys' business; if a statement is not
/// what the entry shows; or as [`Publisher::publish`].
pub fn countersign(
    publisher: &mut Publisher<'_>,
    which: &Which,
    keys: &[Box<dyn SigningKey>],
) -> Result<Countersigned, SiteError> {
    if keys.is_empty() {
        return Err(SignError::NoKey.into());
    }
    let (site, root) = (publisher.site, publisher.root);
    let mut names: Vec<ServerName> = match which {
        Which::All => site.published(root)?.servers().map(|server| server.name.clone()).collect(),
        Which::Named(named) => named.iter().map(|(name, _)| name.clone()).collect(),
    };
    names.sort();
    names.dedup();
    let task = publisher.shown.start("servers", crate::progress::Unit::Items, names.len() as u64);
    let (mut signed, mut unchanged, mut last, mut at_name) = (Vec::new(), 0, None, 0);
    while at_name < names.len() || last.is_none() {
        let mut batch = Batch::default();
        let mut taken = 0;
        let outcome = publisher.publish_several(|published| {
            // Asked again if another publisher was faster: by what is there now.
            (batch, taken) = (Batch::default(), 0);
            while batch.signed.len() < BATCH
                && let Some(name) = names.get(at_name + taken)
            {
                taken += 1;
                batch.server(site, published, root, name, which, keys)?;
            }
            let row = Row {
                action: COUNTERSIGN.to_owned(),
                request: format!("{} releases", batch.signed.len()),
                keys: keys.iter().map(|key| key.public().id()).collect(),
                ..Row::default()
            };
            Ok(Several { entries: std::mem::take(&mut batch.entries), rows: (row, std::mem::take(&mut batch.rows)) })
        })?;
        at_name += taken;
        task.add(taken as u64);
        signed.append(&mut batch.signed);
        unchanged += batch.unchanged;
        last = Some(outcome);
    }
    drop(task);
    match last {
        Some(site) => Ok(Countersigned { signed, unchanged, site }),
        // The loop runs once at least.
        None => Err(SiteError::NothingPublished { place: site.place() }),
    }
}

#[derive(Debug, Default)]
struct Batch {
    entries: Vec<Entry>,
    rows: Vec<Row>,
    signed: Vec<SignedAgain>,
    unchanged: usize,
}

impl Batch {
    fn server(
        &mut self,
        site: &Site,
        published: &Published,
        root: &TrustRoot,
        name: &ServerName,
        which: &Which,
        keys: &[Box<dyn SigningKey>],
    ) -> Result<(), SiteError> {
        let entry = site.entry(published, name)?.ok_or_else(|| SiteError::NoServer { name: name.clone() })?;
        let mut entry: Entry = (*entry).clone();
        let present = || entry.releases().map(|one| one.release.version.to_string()).collect::<Vec<_>>().join(", ");
        let named: Vec<Option<&Version>> = match which {
            Which::All => vec![None],
            Which::Named(named) => named.iter().filter(|one| one.0 == *name).map(|one| one.1.as_ref()).collect(),
        };
        if let Some(version) = named.iter().flatten().find(|version| entry.find(version).is_none()) {
            let version = (*version).clone();
            return Err(SiteError::NoVersion { name: name.clone(), version, present: present() });
        }
        let mut own = Vec::new();
        for key in keys {
            let id = key.public().id();
            let counts = root.rule_for(name).is_ok_and(|rule| rule.require.iter().any(|role| role.keys.contains(&id)));
            match (counts, which) {
                (true, _) => own.push(key.as_ref()),
                (false, Which::All) => {}
                (false, Which::Named(_)) => return Err(SignError::NoRole { key: id, name: name.clone() }.into()),
            }
        }
        let before = self.signed.len();
        for listed in std::iter::once(&mut entry.selected).chain(&mut entry.earlier) {
            let by_name = named.contains(&Some(&listed.release.version));
            if !by_name && !named.contains(&None) {
                continue;
            }
            match (listed.status, by_name) {
                (Status::Revoked, true) => return Err(withdrawn(listed)),
                (Status::Revoked, false) => continue,
                _ => {}
            }
            self.release(listed, root, by_name, &own)?;
        }
        if self.signed.len() > before {
            self.entries.push(entry);
        }
        Ok(())
    }

    fn release(
        &mut self,
        listed: &mut Listed,
        root: &TrustRoot,
        by_name: bool,
        keys: &[&dyn SigningKey],
    ) -> Result<(), SiteError> {
        let (name, version) = (listed.release.name.clone(), listed.release.version.clone());
        let verifies = |listed: &Listed| verify::statement(&listed.envelope, &name, &version, root, None);
        if !by_name && verifies(listed).is_err() {
            self.unchanged += 1;
            return Ok(());
        }
        says_what_it_shows(listed, root)?;
        let before = listed.envelope.signatures.clone();
        if before.len() + keys.len() > limits::SIGNATURES {
            // Room is taken only from what counts for no host with this trust root.
            let message = listed.envelope.signed_bytes();
            let mut counted: Vec<Digest> = Vec::new();
            listed.envelope.signatures.retain(|one: &Signature| {
                let signer = root.keys().find(|(_, key, _)| key.verify(&message, &one.sig)).map(|(id, ..)| *id);
                let counts = signer.is_some_and(|id| !counted.contains(&id));
                counted.extend(signer);
                counts
            });
        }
        sign::add_signatures(&mut listed.envelope, &root.registry, keys.iter().copied()).map_err(
            |error| match error {
                Some(error) => SignError::Key(error),
                None => SignError::TooManySignatures {
                    name: name.clone(),
                    version: version.clone(),
                    limit: limits::SIGNATURES,
                },
            },
        )?;
        if listed.envelope.signatures == before {
            self.unchanged += 1;
            return Ok(());
        }
        let statement = listed.envelope.statement();
        self.rows.push(Row {
            action: COUNTERSIGN.to_owned(),
            name: Some(name.clone()),
            version: Some(version.clone()),
            statement: Some(statement),
            signatures: log::signatures(&listed.envelope),
            ..Row::default()
        });
        let lacks = verifies(listed).err().map(|error| error.to_string());
        self.signed.push(SignedAgain { name, version, statement, lacks });
        Ok(())
    }
}

/// Whether the signed bytes are the release that people have looked at.
fn says_what_it_shows(listed: &Listed, root: &TrustRoot) -> Result<(), SiteError> {
    let place = format!("{} {}", listed.release.name, listed.release.version);
    let mismatch = |field: &str| at(&place)(mcpfs_trust::error::VerifyError::EntryMismatch { field: field.to_owned() });
    let statement = Statement::<Release>::parse(&listed.envelope.payload, RELEASE_TYPE).map_err(at(&place))?;
    if statement.predicate.registry != root.registry {
        return Err(mismatch("registry"));
    }
    if statement.subject != statement.predicate.subjects() {
        return Err(mismatch("subject"));
    }
    match verify::difference(&listed.release, &statement.predicate) {
        Some(field) => Err(mismatch(&field)),
        None => Ok(()),
    }
}
