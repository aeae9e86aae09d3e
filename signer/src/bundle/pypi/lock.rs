//! A lockfile of pip (`requirements.txt` with hashes), read so that it can only name wheels of
//! the index.
//!
//! Such a file may also say where to look, include others, name folders and addresses, and leave
//! lines out by markers. All of that is refused: each line is a project, its exact version and the
//! digests that its archive may have. What pip gets is written anew.

use std::collections::BTreeMap;

use super::{Project, PypiError, normal};

/// Most projects of one lock.
const PROJECTS: usize = 5_000;

/// A lock of one project and all that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lock {
    /// By normal name: the version, and digests in hexadecimal.
    projects: BTreeMap<String, (String, Vec<String>)>,
}

impl Lock {
    /// Reads the lock of `project`.
    pub(super) fn read(text: &str, project: &Project) -> Result<Self, PypiError> {
        let refuse = |line: usize, problem: String| PypiError::Lock { problem: format!("line {line}: {problem}") };
        let mut projects = BTreeMap::new();
        for (number, line) in lines(text) {
            let (name, version, hashes) = requirement(&line).map_err(|problem| refuse(number, problem))?;
            if projects.insert(name.clone(), (version, hashes)).is_some() {
                return Err(refuse(number, format!("names {name} a second time")));
            }
        }
        if projects.len() > PROJECTS {
            return Err(PypiError::Lock { problem: format!("names more than {PROJECTS} projects") });
        }
        match projects.get(&normal(&project.name)) {
            Some((version, _)) if *version == project.version => Ok(Self { projects }),
            Some((version, _)) => {
                Err(PypiError::Lock { problem: format!("holds {}=={version}, not {project}", project.name) })
            }
            None => Err(PypiError::Lock { problem: format!("does not hold {project}") }),
        }
    }

    /// A lock of what pip resolved: names, versions and digests.
    pub(super) fn of(found: impl IntoIterator<Item = (String, String, String)>) -> Self {
        let found = found.into_iter().map(|(name, version, hash)| (normal(&name), (version, vec![hash])));
        Self { projects: found.collect() }
    }

    /// The lock anew, for pip and to be committed.
    pub(super) fn text(&self) -> String {
        let line = |(name, (version, hashes)): (&String, &(String, Vec<String>))| {
            let hashes: String = hashes.iter().map(|hash| format!(" \\\n    --hash=sha256:{hash}")).collect();
            format!("{name}=={version}{hashes}\n")
        };
        self.projects.iter().map(line).collect()
    }

    /// Each project's normal name, version and digests.
    pub(super) fn projects(&self) -> impl Iterator<Item = (&str, &str, &[String])> {
        self.projects.iter().map(|(name, (version, hashes))| (name.as_str(), version.as_str(), hashes.as_slice()))
    }
}

/// Lines with their numbers: joined where they end in `\`, without comments, none empty.
fn lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let comment = line.trim_start().starts_with('#');
        let line = if comment { "" } else { line.split(" #").next().unwrap_or_default() };
        let (line, goes_on) = match line.trim_end().strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, comment && open.is_some()),
        };
        let (number, mut joined) = open.take().unwrap_or((index + 1, String::new()));
        joined.push_str(line);
        joined.push(' ');
        if goes_on {
            open = Some((number, joined));
        } else {
            lines.push((number, joined));
        }
    }
    lines.extend(open);
    lines
        .into_iter()
        .map(|(number, line)| (number, line.trim().to_owned()))
        .filter(|(_, line)| !line.is_empty())
        .collect()
}

/// `name[extra]==1.2.3 --hash=sha256:… …`
fn requirement(line: &str) -> Result<(String, String, Vec<String>), String> {
    let shown = mcpfs_trust::text::bounded(line);
    if line.starts_with('-') {
        return Err(format!("{shown:?} is an option; a lock only lists NAME==VERSION with hashes"));
    }
    if line.contains(';') {
        return Err(format!("{shown:?} has a marker; lock for one platform and Python, so that each line holds"));
    }
    let mut words = line.split_whitespace();
    let first = words.next().unwrap_or_default();
    let exact = first.split_once("==").map(|(name, version)| (name.split('[').next().unwrap_or_default(), version));
    let Some((name, version)) = exact.filter(|(name, version)| super::is_name(name) && super::is_version(version))
    else {
        return Err(format!("{shown:?} is not NAME==VERSION of the index"));
    };
    let mut hashes = Vec::new();
    for word in words {
        let hash = word.strip_prefix("--hash=sha256:").filter(|hash| is_sha256(hash));
        hashes.push(
            hash.ok_or_else(|| format!("{:?} is not --hash=sha256:…", mcpfs_trust::text::bounded(word)))?.to_owned(),
        );
    }
    hashes.sort();
    match hashes.is_empty() {
        true => Err(format!("{name}=={version} has no hash")),
        false => Ok((normal(name), version.to_owned(), hashes)),
    }
}

pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
