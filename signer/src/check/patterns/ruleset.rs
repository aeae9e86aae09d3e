//! The rules: ours, and those of folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use mcpfs_trust::digest::Digest;

use super::protocol::RULE_BYTES;
use crate::files::{self, FileError};

/// Most rule files of one folder.
const FILES: usize = 2_000;
/// Most bytes of one folder's rule files.
const TOTAL_BYTES: usize = 16 << 20;
/// Deepest folder below the one that is named.
const DEPTH: usize = 8;

macro_rules! own {
    ($($name:literal)*) => {
        /// Our own rules: docs/patterns.md describes each.
        pub(super) const OWN: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../../rules/", $name)))),*];
    };
}

own! {
    "clipboard.yar" "credentials.yar" "exfiltration.yar" "install.yar" "miners.yar" "obfuscation.yar"
    "persistence.yar" "prompts.yar" "shells.yar"
}

/// Rule files, and what they are called in the record.
#[derive(Debug, Clone)]
pub struct RuleSet {
    files: Arc<[RuleFile]>,
    sources: Vec<String>,
}

/// One rule file.
#[derive(Debug, Clone)]
pub(super) struct RuleFile {
    /// The set and the path in it.
    pub(super) name: String,
    /// Its bytes.
    pub(super) text: Vec<u8>,
}

/// What `--patterns` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleSource {
    /// Our own rules, which are always in.
    Builtin,
    /// A folder of `*.yar` and `*.yara`.
    Folder(PathBuf),
}

impl FromStr for RuleSource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "builtin" { Self::Builtin } else { Self::Folder(text.into()) })
    }
}

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum RuleSetError {
    #[error("{}: cannot list the rules in it; for our own rules alone write --patterns builtin", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("a rule file cannot be read")]
    File(#[from] FileError),
    #[error("{}: no *.yar or *.yara in it; name the folder that has the rules", .0.display())]
    Empty(PathBuf),
    #[error("{}: more than {FILES} rule files, {TOTAL_BYTES} bytes or {DEPTH} levels; name a smaller folder", .0.display())]
    TooMuch(PathBuf),
}

impl RuleSet {
    /// Our own rules, and those of the folders.
    ///
    /// # Errors
    /// If a folder cannot be read, is empty or too large.
    pub fn new(sources: &[RuleSource]) -> Result<Self, RuleSetError> {
        let own =
            OWN.iter().map(|(name, text)| RuleFile { name: format!("mcpfs/{name}"), text: text.as_bytes().to_vec() });
        let mut files: Vec<RuleFile> = own.collect();
        let mut named = vec![source("mcpfs", &files)];
        for folder in sources.iter().filter_map(|source| match source {
            RuleSource::Folder(folder) => Some(folder),
            RuleSource::Builtin => None,
        }) {
            let set =
                folder.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
            let set = set.unwrap_or_else(|| "rules".to_owned());
            let mut more = Vec::new();
            collect(folder, folder, 0, &set, &mut more)?;
            if more.is_empty() {
                return Err(RuleSetError::Empty(folder.clone()));
            }
            more.sort_by(|a, b| a.name.cmp(&b.name));
            named.push(source(&set, &more));
            files.extend(more);
        }
        Ok(Self { files: files.into(), sources: named })
    }

    pub(super) fn files(&self) -> &[RuleFile] {
        &self.files
    }

    /// Each set with its number of files and their digest.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }
}

/// `guarddog: 54 files, sha256:…`
fn source(set: &str, files: &[RuleFile]) -> String {
    let mut all = String::from("mcpfs.patterns/v1\n");
    for file in files {
        all.push_str(&format!("{} {}\n", file.name, Digest::of(&file.text)));
    }
    format!("{set}: {} files sha256:{}", files.len(), Digest::of(all.as_bytes()))
}

fn collect(root: &Path, folder: &Path, depth: usize, set: &str, files: &mut Vec<RuleFile>) -> Result<(), RuleSetError> {
    let unreadable = |source| RuleSetError::Folder { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let kind = fs::metadata(&path).map_err(unreadable)?;
        if kind.is_dir() {
            if depth == DEPTH {
                return Err(RuleSetError::TooMuch(root.to_owned()));
            }
            collect(root, &path, depth + 1, set, files)?;
        } else if path.extension().is_some_and(|ending| ending == "yar" || ending == "yara") {
            let text = files::read_bounded(&path, RULE_BYTES)?;
            let below = path.strip_prefix(root).unwrap_or(&path);
            files.push(RuleFile { name: format!("{set}/{}", below.to_string_lossy()), text });
            if files.len() > FILES || files.iter().map(|file| file.text.len()).sum::<usize>() > TOTAL_BYTES {
                return Err(RuleSetError::TooMuch(root.to_owned()));
            }
        }
    }
    Ok(())
}
