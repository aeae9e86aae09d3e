//! What a worker gives up before it meets the first hostile byte.
//!
//! Called while there is one thread: credentials, Landlock and seccomp are a thread's own, and all
//! later threads inherit them.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use super::calls;
use crate::config::Config;
use crate::supervisor::User;

/// The newest Landlock whose rules are asked for; an older kernel gives what it has.
const LANDLOCK: ABI = ABI::V6;

/// What a worker may touch.
#[derive(Debug, Default)]
pub struct Reach {
    /// Files and directories that it reads.
    reads: Vec<PathBuf>,
    /// Directories that are its own.
    writes: Vec<PathBuf>,
}

impl Reach {
    /// The files of the host that a worker under this configuration reads and writes.
    pub fn of(config: &Config) -> Self {
        let mut reach = Self::host();
        // A directory, since such a file is replaced by others of its name.
        reach.reads.extend(config.registry.ca_file.as_ref().and_then(|file| file.parent()).map(Path::to_owned));
        reach.reads.extend(config.registry.mirrors.iter().filter_map(|mirror| mirror.to_file_path().ok()));
        reach.reads.push(config.rundir.clone());
        reach.writes = vec![config.state.clone(), config.cache.dir.clone(), config.rundir.join("content")];
        // Only if it is the worker's own: metrics::open has seen to that.
        reach.writes.extend(config.metrics.textfile.as_ref().and_then(|file| file.parent()).map(Path::to_owned));
        reach
    }

    /// What every worker reads of the host: who asks (/proc), names of hosts and users, certificates,
    /// time zones, and the libraries that look names up.
    fn host() -> Self {
        let reads =
            ["/proc", "/etc", "/run/systemd", "/usr", "/lib", "/lib64", "/sys/devices/system/cpu", "/var/lib/sss"];
        let devices = ["/dev/null", "/dev/urandom"];
        Self { reads: reads.into_iter().chain(devices).map(PathBuf::from).collect(), writes: vec![] }
    }
}

/// Gives up everything.
///
/// # Errors
/// Which step failed; then the process must end.
pub fn confine(user: &User, reach: &Reach) -> io::Result<()> {
    let step = |what: &'static str| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    // The bounding set first: it takes a capability to give capabilities up for good.
    drop_bounding_set().map_err(step("giving up the bounding set"))?;
    become_user(user).map_err(step("becoming the worker's user"))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(|error| step("giving up capabilities")(error.into()))?;
    set_no_new_privs(true).map_err(|error| step("no_new_privs")(error.into()))?;
    // After the change of user, which clears it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| step("the death signal")(error.into()))?;
    landlock(reach).map_err(|error| step("Landlock")(io::Error::other(error)))?;
    calls::restrict().map_err(step("seccomp"))
}

fn drop_bounding_set() -> io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // A kernel before 4.3 has none to clear.
    Ok(clear_ambient_capability_set()?)
}

fn become_user(user: &User) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setgroups(&[gid])?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

fn landlock(reach: &Reach) -> Result<(), RulesetError> {
    let all = AccessFs::from_all(LANDLOCK);
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        // It listens nowhere; that it connects is its work.
        .handle_access(AccessNet::BindTcp)?
        // Signals would reach other processes of its user.
        .scope(Scope::Signal | Scope::AbstractUnixSocket)?
        .create()?;
    let rules = add(rules, &reach.reads, AccessFs::from_read(LANDLOCK))?;
    // Its own directories, but nothing in them is ever run.
    let rules = add(rules, &reach.writes, all & !AccessFs::Execute)?;
    let status = rules.restrict_self()?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        tracing::info!(status = ?status.ruleset, "this kernel confines the worker's files only in part (Landlock)");
    }
    Ok(())
}

fn add(
    rules: RulesetCreated,
    paths: &[PathBuf],
    access: landlock::BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    // What is not there cannot be reached either.
    let there = paths.iter().filter(|path| Path::exists(path));
    rules.add_rules(path_beneath_rules(there, access))
}
