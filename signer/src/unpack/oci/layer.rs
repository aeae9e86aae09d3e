//! One layer: what it adds, and what it hides of the layers below.
//!
//! A whiteout is an empty file called `.wh.` and the name that it hides; `.wh..wh..opq` hides all
//! that lower layers have in its directory. Other names that begin so are leftovers of a file system
//! that nobody uses any more, and are refused: a name that one tool skips and another creates is
//! not one to guess about.

use std::io::Read;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::check_file_name;

use super::super::budget::Budget;
use super::super::entries::{Paths, Receive, Standing, link_target, path, special_bits};
use super::super::{ENTRIES, Remark, Spool, UnpackError};

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// A layer while it is read.
pub(super) struct Layer<'a> {
    taken: Taken,
    spool: &'a mut Spool,
    budget: Budget,
}

/// A layer that was read.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// What stands at each path of this layer.
    pub(super) paths: Paths,
    /// What it adds, in its order.
    pub(super) items: Vec<(String, Item)>,
    /// Paths that it hides.
    pub(super) hidden: Vec<String>,
    /// Directories whose lower content it hides; empty for the root.
    pub(super) opaque: Vec<String>,
    /// What was changed on the way in.
    pub(super) remarks: Vec<Remark>,
}

/// Something that a layer adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Directory,
    File {
        executable: bool,
        size: u64,
        sha256: Digest,
    },
    /// Another name of what stands at that path, in this layer or below.
    HardLink {
        target: String,
    },
    /// The target is as in the archive.
    Link {
        target: String,
    },
}

impl<'a> Layer<'a> {
    pub(super) fn new(spool: &'a mut Spool, budget: Budget) -> Self {
        Self { taken: Taken::default(), spool, budget }
    }

    pub(super) fn finish(self) -> Taken {
        self.taken
    }

    fn add(&mut self, raw: &[u8], path: String, standing: Standing, item: Item) -> Result<(), UnpackError> {
        self.taken.paths.insert(raw, &path, standing)?;
        self.taken.items.push((path, item));
        Ok(())
    }
}

impl Receive for Layer<'_> {
    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn directory(&mut self, raw: &[u8], mode: u32) -> Result<(), UnpackError> {
        let Some(path) = path(raw)? else { return Ok(()) };
        ordinary(raw, &path)?;
        self.taken.remarks.extend(special_bits(&path, mode));
        // One that only stood above others until now is named by itself all the same.
        self.taken.paths.directory(raw, &path)?;
        self.taken.items.push((path, Item::Directory));
        Ok(())
    }

    fn file(&mut self, raw: &[u8], mode: u32, size: u64, content: impl Read) -> Result<(), UnpackError> {
        let path = self.taken.paths.new_path(raw)?;
        let (above, name) = path.rsplit_once('/').map_or(("", path.as_str()), |(above, name)| (above, name));
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if size != 0 {
                return Err(UnpackError::entry(raw, "is a whiteout with content"));
            }
            ordinary(raw, above)?;
            if name == OPAQUE {
                self.taken.opaque.push(above.to_owned());
            } else if hidden.starts_with(WHITEOUT) || check_file_name(hidden).is_err() {
                return Err(UnpackError::entry(raw, "is a whiteout of something that has no name"));
            } else {
                let hidden = if above.is_empty() { hidden.to_owned() } else { format!("{above}/{hidden}") };
                self.taken.hidden.push(hidden);
            }
            // Not one of its paths: builders write whiteouts also below what a layer replaces by a file.
            return match self.taken.hidden.len() + self.taken.opaque.len() > ENTRIES {
                true => Err(UnpackError::Bomb { what: "the number of whiteouts", limit: ENTRIES as u64 }),
                false => Ok(()),
            };
        }
        ordinary(raw, &path)?;
        let sha256 = self.spool.take(raw, size, content, &self.budget)?;
        self.taken.remarks.extend(special_bits(&path, mode));
        let executable = mode & 0o100 != 0;
        let standing = Standing::File { executable, size, sha256 };
        self.add(raw, path, standing, Item::File { executable, size, sha256 })
    }

    fn hard_link(&mut self, raw: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        let own = self.taken.paths.new_path(raw)?;
        ordinary(raw, &own)?;
        let target = path(target)?.ok_or_else(|| UnpackError::entry(raw, "is a hard link to the root"))?;
        self.add(raw, own, Standing::Link, Item::HardLink { target })
    }

    fn link(&mut self, raw: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        let path = self.taken.paths.new_path(raw)?;
        ordinary(raw, &path)?;
        let target = link_target(raw, target)?.to_owned();
        self.add(raw, path, Standing::Link, Item::Link { target })
    }

    /// Left out and told: the sandbox of an image has devices of its own.
    fn device(&mut self, raw: &[u8], _what: &str) -> Result<(), UnpackError> {
        let path = self.taken.paths.new_path(raw)?;
        ordinary(raw, &path)?;
        self.taken.paths.insert(raw, &path, Standing::Link)?;
        // Whatever it covers is not seen through it.
        self.taken.hidden.push(path.clone());
        self.taken.remarks.push(Remark::Device { path });
        Ok(())
    }
}

/// A path without a part that only whiteouts have.
fn ordinary(raw: &[u8], path: &str) -> Result<(), UnpackError> {
    match path.split('/').any(|part| part.starts_with(WHITEOUT)) {
        true => Err(UnpackError::entry(raw, "has a name that only a whiteout may have")),
        false => Ok(()),
    }
}
