//! Whether and how one admitted release starts: the statement, the host's policy and the
//! caller come in, a command or the reason against it comes out. No I/O but a look at who
//! owns a runtime.
//!
//! What a release asks for and this host cannot give (credentials, a sandbox) is
//! refused, never left out: a server that starts without what its
//! reviewers approved is another server.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcpfs_trust::error::{Code, bounded};
use mcpfs_trust::release::{Network, Release, Runtime};
use mcpfs_trust::time::Timestamp;

use super::credentials::granted;
use crate::config::{CredentialConfig, Policy, SandboxPolicy};
use crate::control::protocol::{Confinement, Launch, Refused};
use crate::registry::{STEPS, share};
use crate::words::span;

/// The name under `[runtimes]` of another bubblewrap than the system's.
const BUBBLEWRAP: &str = "bwrap";

/// What the decision rests on besides the release.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms<'a> {
    pub(super) policy: &'a Policy,
    pub(super) runtimes: &'a BTreeMap<String, PathBuf>,
    pub(super) credentials: &'a BTreeMap<String, CredentialConfig>,
    /// The configuration's main file, for advice.
    pub(super) file: &'a Path,
    /// The caller.
    pub(super) uid: u32,
    /// What the host added behind `run`.
    pub(super) args: &'a [String],
    /// `<mount>/<name>/<version>/tree`
    pub(super) tree: &'a Path,
}

/// How `release` starts.
///
/// # Errors
/// `PolicyRefused` and `LaunchUnsupported`, each with what to set or whom to ask.
pub(super) fn plan(release: &Release, terms: Terms<'_>) -> Result<Launch, Refused> {
    let Terms { policy, runtimes, file, uid, args, tree, .. } = terms;
    let unsupported = |message: &str, advice: String| Err(Refused::new(Code::LaunchUnsupported, message, advice));
    let ask = format!("ask its maintainer, {}, for another release", bounded(&release.maintainer));
    if uid == 0 && !policy.allow_root {
        return Err(Refused::new(
            Code::PolicyRefused,
            "servers are not started as root",
            format!("start it as another user, or set allow_root = true under [policy] in {}", file.display()),
        ));
    }
    let Some(launch) = &release.launch else {
        return unsupported("the release has no launch section: it holds files only", ask);
    };
    if let Err(refused) = launch.accept_args.check(args) {
        return Err(Refused::new(
            Code::PolicyRefused,
            &format!("the reviewed release does not accept the argument {refused:?}"),
            "remove it from your MCP host's configuration",
        ));
    }
    let command = match (launch.runtime, launch.tree_path()) {
        (Runtime::Image, Some(path)) => Path::new("/").join(path),
        // Its own `PATH` finds it.
        (Runtime::Image, None) => PathBuf::from(&launch.command),
        (Runtime::Host, Some(path)) => tree.join(path),
        (Runtime::Host, None) => runtime(&launch.command, runtimes, file)?,
    };
    let sandbox = confinement(release, launch, terms)?;
    let credentials = granted(release, terms, sandbox.is_some())?;
    Ok(Launch {
        name: release.name.to_string(),
        version: release.version.to_string(),
        command,
        args: launch.args.clone(),
        env: launch.env.clone(),
        tree: tree.to_owned(),
        // A registry's name may have slashes; '+' is no letter of it, so no two registries meet.
        state: [release.registry.as_str().replace('/', "+"), release.name.to_string()],
        sandbox,
        credentials,
        warning: None,
    })
}

/// The walls of a launch. "off" takes them only from releases that declare none: what reviewers
/// approved is never less.
fn confinement(
    release: &Release,
    launch: &mcpfs_trust::release::Launch,
    terms: Terms<'_>,
) -> Result<Option<Confinement>, Refused> {
    let Terms { policy, runtimes, file, .. } = terms;
    let image = launch.runtime == Runtime::Image;
    if policy.sandbox == SandboxPolicy::Off && release.sandbox.is_none() && !image {
        return Ok(None);
    }
    let program = runtimes.get(BUBBLEWRAP).map_or(Path::new("/usr/bin/bwrap"), PathBuf::as_path);
    if let Some((part, problem)) = unsafe_part(program) {
        let message = format!("its sandbox needs bubblewrap, and {} {problem}", part.display());
        let mut advice = format!("install the package bubblewrap, or set bwrap under [runtimes] in {}", file.display());
        if !image && release.sandbox.is_none() {
            advice.push_str("; sandbox = \"off\" under [policy] there starts servers unconfined");
        }
        return Err(Refused::new(Code::LaunchUnsupported, &message, advice));
    }
    let declared = release.sandbox.clone();
    let network = declared.as_ref().is_some_and(|sandbox| sandbox.network == Network::Host);
    let (read, write) = declared.map_or_else(Default::default, |sandbox| (sandbox.read, sandbox.write));
    let program = program.to_owned();
    Ok(Some(Confinement { program, image, workdir: launch.workdir.clone(), network, read, write }))
}

/// The host's path of a runtime, once nobody but root and this user could have changed it.
fn runtime(name: &str, runtimes: &BTreeMap<String, PathBuf>, file: &Path) -> Result<PathBuf, Refused> {
    let refused = |message: String, advice: String| Refused::new(Code::LaunchUnsupported, &message, advice);
    let name = bounded(name);
    let Some(path) = runtimes.get(&name) else {
        return Err(refused(
            format!("it needs {name}, and this host names no such runtime"),
            format!("install it and set {name} = \"/absolute/path\" under [runtimes] in {}", file.display()),
        ));
    };
    match unsafe_part(path) {
        None => Ok(path.clone()),
        Some((part, problem)) => Err(refused(
            format!("the runtime {name} = {} cannot be used: {} {problem}", path.display(), part.display()),
            format!("correct it, or set {name} under [runtimes] in {}", file.display()),
        )),
    }
}

/// The first part of `path`, itself or a directory above it, on either side of its links,
/// that others could have exchanged.
fn unsafe_part(path: &Path) -> Option<(PathBuf, String)> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) => return Some((path.to_owned(), format!("cannot be found: {error}"))),
    };
    let this_user = rustix::process::geteuid().as_raw();
    for part in path.ancestors().chain(real.ancestors()) {
        let problem = match part.metadata() {
            Err(error) => Some(format!("cannot be looked at: {error}")),
            Ok(found) if found.uid() != 0 && found.uid() != this_user => {
                Some(format!("belongs to user {}", found.uid()))
            }
            // In a sticky directory nobody can exchange what belongs to another.
            Ok(found) if found.mode() & 0o022 != 0 && !(found.is_dir() && found.mode() & 0o1000 != 0) => {
                Some(format!("can be written by others (mode {:04o})", found.mode() & 0o7777))
            }
            Ok(found) if part == real && !(found.is_file() && found.permissions().mode() & 0o111 != 0) => {
                Some("is not an executable file".to_owned())
            }
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            return Some((part.to_owned(), problem));
        }
    }
    None
}

/// The line that a start on stale word leaves: nothing before half of `max_stale` is over.
pub(super) fn stale_warning(issued: Timestamp, max_stale: Duration, at: Timestamp) -> Option<String> {
    let age = u64::try_from(at.unix().saturating_sub(issued.unix())).unwrap_or(0);
    let end = max_stale.as_secs();
    let [half, soon, now] = STEPS;
    let urgency = match share(issued, max_stale, at) {
        over if over < half => return None,
        over if over < soon => "",
        over if over < now => "Tell your administrator. ",
        _ => "Tell your administrator now. ",
    };
    let left = span(end.saturating_sub(age));
    Some(format!(
        "the registry has not been heard of for {}; in {left} this server stops starting. {urgency}\
                  Details: mcpfs status",
        span(age)
    ))
}

#[cfg(test)]
mod tests;
