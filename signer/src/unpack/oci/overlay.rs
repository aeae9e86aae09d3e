//! What layers make together.
//!
//! A layer is applied in three steps, so that the order of its entries decides as little as
//! possible: what it hides goes first (a whiteout is about lower layers only, wherever it stands),
//! then its directories, then all else in its order. A directory is merged with a lower one and
//! replaces anything else; whatever else replaces what was there, a whole directory too.
//!
//! An entry `bin/tool` where a lower layer made `bin` a link is put where the link leads, as engines
//! do it: inside the image, whose root nothing climbs above. What depends on an order that tools do
//! not share is refused: two entries of one layer that meet at one place through links, an entry
//! below a link of its own layer, below a file, or below a link to nothing.
//!
//! Nothing is ever written to a disk under a name from a layer: this is a map in memory.

use std::collections::BTreeMap;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::limits;

use super::super::entries::{Standing, relative};
use super::super::{Archive, ENTRIES, Remark, Spool, UnpackError, Unpacked, UnpackedKind};
use super::layer::{Item, Taken};
use crate::image::{Config, Part};

/// The layers so far.
#[derive(Debug)]
pub(super) struct Overlay {
    root: Directory,
    nodes: usize,
    /// The layer that is being applied, from 1.
    layer: usize,
    /// Steps along links that may still be taken.
    steps: usize,
    spool: Spool,
    remarks: Vec<Remark>,
}

type Directory = BTreeMap<String, Node>;

#[derive(Debug)]
struct Node {
    /// The layer that it is of.
    layer: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Directory(Directory),
    File { executable: bool, size: u64, sha256: Digest },
    Link { target: String },
}

/// Where the directories of a path really are.
struct Place {
    /// The deepest one that exists.
    at: Vec<String>,
    /// Those below it that do not.
    missing: Vec<String>,
}

/// One name to walk.
enum Step {
    /// Of the path itself; the number is where its prefix ends.
    Own(String, usize),
    /// Of a link on the way.
    Linked(String),
}

impl Overlay {
    pub(super) fn new(spool: Spool) -> Self {
        Self { root: Directory::new(), nodes: 0, layer: 0, steps: limits::LINK_STEPS, spool, remarks: Vec::new() }
    }

    pub(super) fn spool(&mut self) -> &mut Spool {
        &mut self.spool
    }

    pub(super) fn apply(&mut self, taken: Taken) -> Result<(), UnpackError> {
        self.layer += 1;
        self.remarks.extend(taken.remarks.iter().cloned());
        let explicit: std::collections::HashSet<&str> = {
            let directories = taken.items.iter().filter(|(_, item)| *item == Item::Directory);
            directories.map(|(path, _)| path.as_str()).collect()
        };
        let replaced = |path: &str| explicit.contains(path);
        for path in &taken.opaque {
            self.empty(path, &replaced)?;
        }
        for path in &taken.hidden {
            self.hide(path, &replaced)?;
        }
        let mut directories: Vec<&str> = explicit.iter().copied().collect();
        directories.sort_unstable();
        for path in directories {
            self.directory(path)?;
        }
        for (path, item) in taken.items.iter() {
            let kind = match item {
                Item::Directory => continue,
                Item::File { executable, size, sha256 } => {
                    Kind::File { executable: *executable, size: *size, sha256: *sha256 }
                }
                Item::Link { target } => Kind::Link { target: target.clone() },
                Item::HardLink { target } => self.linked(path, target, &taken)?,
            };
            self.put(path, kind)?;
        }
        Ok(())
    }

    pub(super) fn finish(self, config: Config, parts: Vec<Part>) -> Result<Archive, UnpackError> {
        if self.root.is_empty() {
            return Err(UnpackError::archive("the image is empty"));
        }
        let mut entries = Vec::with_capacity(self.nodes);
        flatten(&mut String::new(), self.root, &mut entries);
        // A path that a later layer replaced or hid is nobody's concern any more.
        let there: std::collections::HashSet<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        let concerns = |remark: &Remark| match remark {
            Remark::SpecialBits { path, .. } => there.contains(path.as_str()),
            _ => true,
        };
        let remarks = self.remarks.into_iter().filter(concerns).collect();
        Ok(Archive { entries, spool: self.spool, remarks, format: "image", manifest: None, parts, image: Some(config) })
    }

    /// Hides all that lower layers have in a directory.
    fn empty(&mut self, path: &str, replaced: &dyn Fn(&str) -> bool) -> Result<(), UnpackError> {
        // A path below it has it as its last directory.
        let below = if path.is_empty() { "x".to_owned() } else { format!("{path}/x") };
        let Some(place) = self.hidden(&below, replaced)? else { return Ok(()) };
        if place.missing.is_empty() {
            let gone = std::mem::take(self.at(&place.at, path)?);
            self.nodes -= count(&gone);
        }
        Ok(())
    }

    fn hide(&mut self, path: &str, replaced: &dyn Fn(&str) -> bool) -> Result<(), UnpackError> {
        let Some(place) = self.hidden(path, replaced)? else { return Ok(()) };
        if place.missing.is_empty() {
            let gone = self.at(&place.at, path)?.remove(name_of(path));
            self.nodes -= gone.map_or(0, |gone| gone.count());
        }
        Ok(())
    }

    /// Where something is hidden; where nothing can be, nothing has to.
    fn hidden(&mut self, path: &str, replaced: &dyn Fn(&str) -> bool) -> Result<Option<Place>, UnpackError> {
        match self.place(path, replaced) {
            Ok(place) => Ok(Some(place)),
            Err(UnpackError::Entry { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn directory(&mut self, path: &str) -> Result<(), UnpackError> {
        let (layer, name) = (self.layer, name_of(path));
        let parent = self.parent(path)?;
        match parent.get_mut(name) {
            Some(Node { layer: own, kind: Kind::Directory(_) }) => {
                *own = layer;
                Ok(())
            }
            Some(node) if node.layer == layer => Err(twice(path)),
            _ => self.insert(path, Kind::Directory(Directory::new())),
        }
    }

    fn put(&mut self, path: &str, kind: Kind) -> Result<(), UnpackError> {
        let (layer, name) = (self.layer, name_of(path));
        match self.parent(path)?.get(name) {
            Some(node) if node.is_of(layer) => Err(twice(path)),
            _ => self.insert(path, kind),
        }
    }

    /// Puts a node of this layer in the place of whatever is there.
    fn insert(&mut self, path: &str, kind: Kind) -> Result<(), UnpackError> {
        let node = Node { layer: self.layer, kind };
        let gone = self.parent(path)?.insert(name_of(path).to_owned(), node);
        self.nodes += 1;
        self.nodes -= gone.map_or(0, |gone| gone.count());
        self.bounded()
    }

    fn bounded(&self) -> Result<(), UnpackError> {
        match self.nodes > ENTRIES {
            true => Err(UnpackError::Bomb { what: "the number of entries", limit: ENTRIES as u64 }),
            false => Ok(()),
        }
    }

    /// What a hard link stands for.
    fn linked(&mut self, path: &str, target: &str, taken: &Taken) -> Result<Kind, UnpackError> {
        let place = self.place(target, &|_| false)?;
        let found = match place.missing.is_empty() {
            true => self.at(&place.at, target)?.get(name_of(target)),
            false => None,
        };
        let (layer, kind) = match found {
            Some(Node { layer, kind: Kind::File { executable, size, sha256 } }) => {
                (*layer, Kind::File { executable: *executable, size: *size, sha256: *sha256 })
            }
            Some(Node { layer, kind: Kind::Link { target } }) => (*layer, Kind::Link { target: target.clone() }),
            Some(_) => return Err(entry(path, "is a hard link to a directory")),
            None => return Err(entry(path, "is a hard link to something that is not there")),
        };
        // One tool would link to the lower one, another to that of its own layer.
        let own = taken.paths.get(target).is_some_and(|standing| standing != Standing::Directory);
        match own && layer != self.layer {
            true => Err(entry(path, "is a hard link to an entry that stands behind it")),
            false => Ok(kind),
        }
    }

    /// The directory that `path` lies in; those that are missing are made.
    fn parent(&mut self, path: &str) -> Result<&mut Directory, UnpackError> {
        let place = self.place(path, &|_| false)?;
        if place.at.len() + place.missing.len() >= limits::TREE_DEPTH {
            return Err(entry(path, "is too deep"));
        }
        self.nodes += place.missing.len();
        self.bounded()?;
        let layer = self.layer;
        let mut directory = self.at(&place.at, path)?;
        for name in place.missing {
            let made = Node { layer, kind: Kind::Directory(Directory::new()) };
            match &mut directory.entry(name).or_insert(made).kind {
                Kind::Directory(next) => directory = next,
                _ => return Err(entry(path, "lies below something that is no directory")),
            }
        }
        Ok(directory)
    }

    fn at(&mut self, names: &[String], path: &str) -> Result<&mut Directory, UnpackError> {
        let mut directory = &mut self.root;
        for name in names {
            match directory.get_mut(name) {
                Some(Node { kind: Kind::Directory(next), .. }) => directory = next,
                _ => return Err(entry(path, "lies below something that is no directory")),
            }
        }
        Ok(directory)
    }

    /// Follows the directories of `path` through the links of lower layers. One of them that this
    /// layer is about to make a directory of (`replaced`) is as good as missing.
    fn place(&mut self, path: &str, replaced: &dyn Fn(&str) -> bool) -> Result<Place, UnpackError> {
        let mut ahead: Vec<Step> = path.match_indices('/').map(|(end, _)| Step::Own(String::new(), end)).collect();
        let mut begin = 0;
        for step in &mut ahead {
            if let Step::Own(name, end) = step {
                *name = path[begin..*end].to_owned();
                begin = *end + 1;
            }
        }
        ahead.reverse();
        let mut at: Vec<(String, &Directory)> = Vec::new();
        let mut followed = 0;
        while let Some(step) = ahead.pop() {
            let directory = at.last().map_or(&self.root, |(_, directory)| *directory);
            let (name, own) = match &step {
                Step::Own(name, end) => (name.as_str(), Some(*end)),
                Step::Linked(name) => (name.as_str(), None),
            };
            if own.is_none() {
                self.steps = self
                    .steps
                    .checked_sub(1)
                    .ok_or(UnpackError::Bomb { what: "the steps along links", limit: limits::LINK_STEPS as u64 })?;
            }
            match name {
                "" | "." => continue,
                ".." => {
                    at.pop();
                    continue;
                }
                _ => {}
            }
            match directory.get(name) {
                None if own.is_none() => return Err(entry(path, "lies below a link that leads nowhere")),
                None => {
                    let rest = ahead.into_iter().rev().filter_map(|step| match step {
                        Step::Own(name, _) => Some(name),
                        Step::Linked(_) => None,
                    });
                    let missing = std::iter::once(name.to_owned()).chain(rest).collect();
                    return Ok(Place { at: at.into_iter().map(|(name, _)| name).collect(), missing });
                }
                Some(Node { kind: Kind::Directory(next), .. }) => at.push((name.to_owned(), next)),
                Some(Node { kind: Kind::File { .. }, .. }) => return Err(entry(path, "lies below a file")),
                Some(Node { layer, .. }) if *layer == self.layer => {
                    return Err(entry(path, "lies below a link of its own layer"));
                }
                Some(Node { kind: Kind::Link { target }, .. }) => {
                    if own.is_some_and(|end| replaced(&path[..end])) {
                        return Ok(Place { at: Vec::new(), missing: vec![name.to_owned()] });
                    }
                    followed += 1;
                    if followed > limits::LINK_DEPTH {
                        return Err(entry(path, "lies below a loop of links, or a chain of more than 40"));
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    ahead.extend(target.rsplit('/').map(|name| Step::Linked(name.to_owned())));
                }
            }
        }
        Ok(Place { at: at.into_iter().map(|(name, _)| name).collect(), missing: Vec::new() })
    }
}

impl Node {
    fn count(&self) -> usize {
        match &self.kind {
            Kind::Directory(entries) => 1 + count(entries),
            _ => 1,
        }
    }

    /// Whether it, or something in it, is of this layer.
    fn is_of(&self, layer: usize) -> bool {
        match &self.kind {
            Kind::Directory(entries) => self.layer == layer || entries.values().any(|node| node.is_of(layer)),
            _ => self.layer == layer,
        }
    }
}

fn count(directory: &Directory) -> usize {
    directory.values().map(Node::count).sum()
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn entry(path: &str, problem: &str) -> UnpackError {
    UnpackError::entry(path.as_bytes(), problem)
}

fn twice(path: &str) -> UnpackError {
    entry(path, "meets another entry of its layer through a link")
}

/// Depth is bounded by `parent`, so this recursion is.
fn flatten(path: &mut String, directory: Directory, entries: &mut Vec<Unpacked>) {
    for (name, node) in directory {
        let length = path.len();
        if length > 0 {
            path.push('/');
        }
        path.push_str(&name);
        let (kind, inner) = match node.kind {
            Kind::Directory(inner) => (UnpackedKind::Directory, inner),
            Kind::File { executable, size, sha256 } => {
                (UnpackedKind::File { executable, size, sha256 }, Directory::new())
            }
            Kind::Link { target } => (UnpackedKind::Link { target: inside(path, &target) }, Directory::new()),
        };
        entries.push(Unpacked { path: path.clone(), kind });
        flatten(path, inner, entries);
        path.truncate(length);
    }
}

/// A link's target relative to its directory. In an image `..` of the root is the root, so that
/// steps above it are none; the directories above the link are real ones, so they can be counted.
fn inside(path: &str, target: &str) -> String {
    let target = relative(path, target);
    let depth = path.matches('/').count();
    let up = target.split('/').take_while(|part| matches!(*part, ".." | "." | ""));
    let steps = up.clone().filter(|part| *part == "..").count();
    if steps <= depth {
        return target;
    }
    let parts = up.count();
    let rest: Vec<&str> = target.split('/').skip(parts).collect();
    let kept = std::iter::repeat_n("..", depth).chain(rest).collect::<Vec<_>>().join("/");
    if kept.is_empty() { ".".to_owned() } else { kept }
}
