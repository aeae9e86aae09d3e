//! The details of a release: making them from what was checked, and finding them in a site.

use mcpfs_trust::catalogue::Blob;
use mcpfs_trust::details::{Carried, Checked, DETAILS_SCHEMA, Details, Package};
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::Listed;
use mcpfs_trust::limits;
use mcpfs_trust::name::Platform;
use mcpfs_trust::site as path;

use crate::check::{Inventory, Severity};
use crate::site::state::at;
use crate::site::{Site, SiteError};
use crate::staging::Staging;

/// Most tools that are told of a release.
pub const TOOLS: usize = 128;
/// Most characters of a tool's description.
pub const TOOL_TEXT: usize = 300;

/// The details of what is staged and carries these packages.
pub fn of(staging: &Staging, dependencies: &[(Platform, Inventory)]) -> Details {
    let record = &staging.record;
    let count = |severity| staging.findings.all().iter().filter(|one| one.severity == severity).count() as u64;
    let check = Checked {
        at: record.checked_at,
        by: record.checker.clone(),
        warnings: count(Severity::Warning),
        notes: count(Severity::Note),
        waivers: record.waivers.clone(),
        looks: record.observations.iter().map(|one| format!("{}: {}", one.kind.word(), one.tool)).collect(),
        tools: record.tools.clone(),
    };
    told(Some(check), dependencies)
}

/// Details of a check and of packages. A list that is too long is left out whole: with a hole it
/// would look like a short one.
pub fn told(check: Option<Checked>, dependencies: &[(Platform, Inventory)]) -> Details {
    let mut carried: Vec<Carried> =
        dependencies.iter().map(|(platform, inventory)| carried(platform, inventory)).collect();
    carried.sort_by(|a, b| a.platform.cmp(&b.platform));
    let details = Details { schema: DETAILS_SCHEMA.to_owned(), check, carried };
    match details.encode().len() as u64 > limits::DETAILS_BYTES {
        true => Details { carried: Vec::new(), ..details },
        false => details,
    }
}

fn carried(platform: &Platform, inventory: &Inventory) -> Carried {
    let package = |one: &crate::check::dependencies::Package| Package {
        ecosystem: one.ecosystem.to_string(),
        name: one.name.clone(),
        version: one.version.clone(),
        licence: one.licence.clone().filter(|text| !text.is_empty()),
    };
    let mut packages: Vec<Package> = inventory.packages.iter().map(package).collect();
    packages.sort();
    packages.dedup();
    Carried { platform: platform.clone(), packages, unreadable: inventory.unread() as u64 }
}

impl Site {
    /// Puts the details of a release beside its chunks.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn put_details(&self, details: &Details) -> Result<Blob, SiteError> {
        let bytes = details.encode();
        let blob = Blob { sha256: Digest::of(&bytes), size: bytes.len() as u64 };
        self.put(&path::details(&blob.sha256), &bytes)?;
        Ok(blob)
    }

    /// The details that an entry names; `None` of a release that was published without.
    ///
    /// # Errors
    /// If they are missing or are something else.
    pub fn details(&self, listed: &Listed) -> Result<Option<Details>, SiteError> {
        let Some(blob) = listed.details else { return Ok(None) };
        let name = path::details(&blob.sha256);
        let bytes = self.read(&name, blob.size.min(limits::DETAILS_BYTES))?;
        Ok(Some(Details::read(&bytes, &blob.sha256).map_err(at(&name))?))
    }
}
