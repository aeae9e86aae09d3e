//! The Python that a bundle is for: it runs pip, and compiles.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::PypiError;
use crate::bundle::workshop::{self, Job, Program, ToolError, Workshop};
use crate::bundle::{SourceError, Target};
use crate::fetch::FetchPolicy;

/// A version of Python, such as 3.11.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PythonVersion {
    minor: u8,
}

/// A Python with pip.
#[derive(Debug)]
pub(super) struct Python {
    pub(super) program: Program,
    pub(super) version: PythonVersion,
    configuration: Option<PathBuf>,
}

/// Prints what is to be known of an interpreter, one thing a line.
const FACTS: &str = "import sys, os\nprint('3.%d' % sys.version_info[1] if sys.version_info[0] == 3 else '')\n\
                     [print(os.path.realpath(p)) for p in (sys.executable, sys.prefix, sys.base_prefix)]";

impl Python {
    /// The Python of this version in PATH, or the one that is there.
    pub(super) fn find(wanted: Option<PythonVersion>, policy: &FetchPolicy) -> Result<Self, SourceError> {
        let names = wanted.map(|version| format!("python{version}")).into_iter().chain(["python3".to_owned()]);
        let found = names.filter_map(|name| Self::ask(&name));
        let mut fitting = found.filter(|python| wanted.is_none_or(|wanted| wanted == python.version));
        let mut python = match (fitting.next(), wanted) {
            (Some(python), _) => python,
            (None, Some(wanted)) => return Err(PypiError::NoPython(wanted).into()),
            (None, None) => return Err(ToolError::Missing { program: "python3", package: "python3-pip" }.into()),
        };
        if let Some(file) = &policy.tools.pip_conf {
            let file = file.canonicalize().map_err(workshop::at(file))?;
            python.program.sees.push(file.clone());
            python.configuration = Some(file);
        }
        Ok(python)
    }

    /// Asks an interpreter of this process's PATH about itself; it may be a script that starts another.
    fn ask(name: &str) -> Option<Self> {
        let mut asking = std::process::Command::new(name);
        asking.args(["-I", "-c", FACTS]).stdin(std::process::Stdio::null());
        let output = asking.output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?;
        let mut lines = text.lines();
        let version = lines.next()?.parse().ok()?;
        let executable = lines.next().map(PathBuf::from).filter(|path| path.is_absolute())?;
        let folders: BTreeSet<PathBuf> = lines.map(PathBuf::from).collect();
        let outside =
            |folder: &PathBuf| folder.is_absolute() && folder.parent().is_some() && !folder.starts_with("/usr");
        let sees = folders.into_iter().filter(outside).collect();
        let program = Program { name: "pip", start: vec![executable.into()], sees };
        Some(Self { program, version, configuration: None })
    }

    /// A command of pip's, with nothing that would ask or tell somebody. It starts in an empty
    /// folder: Python looks for its modules in the one where it starts.
    pub(super) fn pip<'a>(&'a self, workshop: &Workshop, folder: &'a Path, command: &str, target: &Target) -> Job<'a> {
        let mut arguments: Vec<OsString> = ["-I", "-m", "pip", command].map(OsString::from).into();
        arguments.extend(["--disable-pip-version-check", "--no-input", "--only-binary", ":all:"].map(OsString::from));
        arguments.extend(["--cache-dir".into(), workshop.path("pip").into()]);
        let (plain, abi) = (format!("3.{}", self.version.minor), format!("cp3{}", self.version.minor));
        arguments.extend(["--python-version", &plain, "--implementation", "cp"].map(OsString::from));
        for tag in target.wheels() {
            arguments.extend(["--platform".into(), tag.into()]);
        }
        if !target.is_any() {
            arguments.extend(["--abi", &abi, "--abi", "abi3"].map(OsString::from));
        }
        arguments.extend(["--abi", "none"].map(OsString::from));
        let job = Job::new(&self.program, folder).arguments(arguments);
        match &self.configuration {
            Some(file) => job.variable("PIP_CONFIG_FILE", file),
            None => job,
        }
    }
}

impl FromStr for PythonVersion {
    type Err = PypiError;

    fn from_str(text: &str) -> Result<Self, PypiError> {
        let minor = text.strip_prefix("3.").filter(|minor| minor.len() <= 2 && !minor.starts_with('0'));
        let minor = minor.and_then(|minor| minor.parse().ok()).filter(|minor| *minor >= 9);
        minor.map(|minor| Self { minor }).ok_or_else(|| PypiError::Version(text.chars().take(80).collect()))
    }
}

impl fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "3.{}", self.minor)
    }
}
