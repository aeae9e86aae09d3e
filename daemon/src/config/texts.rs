//! The files of a configuration, as they were read once.
//!
//! Whoever reads them may not be the one who decides by them: the supervisor reads, as root, and each of
//! its workers gets the same text. So a worker that takes another's place has what that one had in force,
//! whatever has been written to the disk since and not yet been taken over.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::place::place;
use super::value::Places;
use super::{Access, Config, ConfigError, file, numbers};
use crate::owned::{self, OwnedError};

/// Bytes of one configuration file.
const FILE_BYTES: u64 = 1 << 20;

/// The main file, then the files of `conf.d` beside it in name order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Texts {
    main: PathBuf,
    files: Vec<Text>,
    /// The numbers of the groups that `[access]` names, once they were looked up.
    #[serde(default)]
    groups: BTreeMap<String, u32>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Text {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// Whether every user of this host can read it.
    pub(super) public: bool,
}

impl Texts {
    /// Reads `main`, then `conf.d/*.toml` beside it.
    ///
    /// # Errors
    /// If a file is missing, is not text, or could have been written by others.
    pub fn read(main: &Path) -> Result<Self, ConfigError> {
        // The defaults beside it must not depend on where the daemon goes to.
        let absolute = std::path::absolute(main);
        let main = absolute.map_err(|source| OwnedError::Unreadable { path: main.to_owned(), source })?;
        let first = read(&main).map_err(|error| match error {
            ConfigError::File(OwnedError::Unreadable { path, source }) if source.kind() == ErrorKind::NotFound => {
                let problem = "does not exist; write it (it needs [registry] url = \"https://…\"), or name another one \
                               with --config";
                ConfigError::Incomplete { path, problem: problem.to_owned() }
            }
            other => other,
        })?;
        let mut files = vec![first];
        for path in drop_ins(&main)? {
            files.push(read(&path)?);
        }
        Ok(Self { main, files, groups: BTreeMap::new() })
    }

    /// The same with the numbers of its groups, as this host's database has them now: for whoever is to
    /// decide by them, or wants to know whether that can be done. Others need not wait for a directory service.
    ///
    /// # Errors
    /// What is wrong with the files; a group that does not exist, or of which nobody says whether it does, with
    /// file and line.
    pub fn with_groups(mut self) -> Result<Self, ConfigError> {
        let config = self.config()?;
        for (name, number) in numbers::look_up(config.access.groups()) {
            let number = number.map_err(|why| numbers::unknown(&config.access.setting_of(&name), why, &self.files))?;
            self.groups.insert(name, number);
        }
        Ok(self)
    }

    /// One file alone, which nobody has to have written.
    pub(crate) fn one(path: &Path, text: &str) -> Self {
        let main = path.to_owned();
        Self {
            files: vec![Text { path: main.clone(), text: text.to_owned(), public: false }],
            groups: BTreeMap::new(),
            main,
        }
    }

    /// What they say, with the defaults of this process's user.
    ///
    /// # Errors
    /// The first problem found, with its file and line.
    pub fn config(&self) -> Result<Config, ConfigError> {
        self.config_at(Places::of_this_user())
    }

    pub(super) fn config_at(&self, places: Places) -> Result<Config, ConfigError> {
        let mut config = file::merged(&self.main, &self.files, places)?;
        config.access = Arc::new(Access::clone(&config.access).with(self.groups.clone()));
        Ok(config)
    }

    /// What is wrong with a setting as its own text shows (`problem` begins with its name), with file and line.
    pub(crate) fn mistake(&self, problem: String) -> ConfigError {
        match place(&problem, &self.files) {
            Some((path, line)) => ConfigError::Invalid { path, line, problem },
            None => ConfigError::Incomplete { path: self.main.clone(), problem },
        }
    }

    /// The main file.
    pub fn main(&self) -> &Path {
        &self.main
    }
}

fn read(path: &Path) -> Result<Text, ConfigError> {
    let bytes = owned::read(path, FILE_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError::Invalid { path: path.to_owned(), line, problem: "is not UTF-8".to_owned() }
    })?;
    let public = path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
    Ok(Text { path: path.to_owned(), text, public })
}

/// `conf.d/*.toml` beside the main file, in name order; none if there is no such directory.
fn drop_ins(main: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = main.with_file_name("conf.d");
    let failed = |source| ConfigError::Directory { path: dir.clone(), source };
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
