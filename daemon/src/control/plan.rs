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
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{CredentialSource, DowngradePolicy};

    fn policy(sandbox: SandboxPolicy, allow_root: bool) -> Policy {
        Policy {
            sandbox,
            allow_root,
            downgrade: DowngradePolicy::Allow,
            expose: vec![],
            hide: vec![],
            scanners: vec![],
        }
    }

    fn release(change: impl FnOnce(&mut Value)) -> Release {
        let sha = "ab".repeat(32);
        let mut text = json!({
            "registry": "mcp.example.com/prod", "name": "hello", "version": "1.0.0",
            "maintainer": "team@example.com", "description": "d", "data_classification": "internal",
            "reviewed_at": "2026-04-15", "reviewers": ["r@example.com"],
            "artefact": {"platform": "any", "url": "file:///x.tar", "sha256": sha, "size": 1,
                         "tree": {"sha256": sha, "size": 1, "files": 1, "bytes": 1}},
            "launch": {"command": "bin/server", "args": ["--at=${TREE}"], "env": {"A": "${STATE}"}},
            "issued": "2026-04-15T09:30:00Z",
        });
        change(&mut text);
        serde_json::from_value(text).unwrap()
    }

    fn planned(release: &Release, policy: &Policy, uid: u32, args: &[&str]) -> Result<Launch, Refused> {
        planned_with("/bin/sh", release, policy, uid, args)
    }

    /// With this as bubblewrap, which is not started here.
    fn planned_with(
        bwrap: &str,
        release: &Release,
        policy: &Policy,
        uid: u32,
        args: &[&str],
    ) -> Result<Launch, Refused> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let runtimes = [
            ("sh".to_owned(), "/bin/sh".into()),
            ("gone".to_owned(), "/bin/no-such-program".into()),
            ("dir".to_owned(), "/usr".into()),
            ("bwrap".to_owned(), bwrap.into()),
        ]
        .into();
        let (file, tree) = (Path::new("/etc/mcpfs/mcpfs.toml"), Path::new("/mcp/hello/1.0.0/tree"));
        let credentials = credentials();
        plan(release, Terms { policy, runtimes: &runtimes, credentials: &credentials, file, uid, args: &args, tree })
    }

    /// This host gives `own` to `hello`, and `other` to another.
    fn credentials() -> BTreeMap<String, CredentialConfig> {
        let source = CredentialSource::File("/etc/secret".into());
        let of = |name: &str| {
            let servers = vec![name.parse().unwrap()];
            CredentialConfig { source: source.clone(), servers, groups: vec![] }
        };
        [("own".to_owned(), of("hello")), ("other".to_owned(), of("memory"))].into()
    }

    #[test]
    fn credentials_of_a_launch() {
        let off = policy(SandboxPolicy::Off, false);
        let with = |credentials: Value, sandbox: Value| {
            let release = release(|text| {
                text["credentials"] = credentials;
                if !sandbox.is_null() {
                    text["sandbox"] = sandbox;
                }
            });
            planned(&release, &off, 7, &[])
        };
        let boxed = || json!({"network": "none", "read": [], "write": []});
        let env = |name: &str| json!({"env": name, "ref": "own"});
        let file = json!({"file": "pgpass", "ref": "own", "scope": "read:x"});
        let launch = with(json!([env("P"), env("Q"), file]), boxed()).unwrap();
        let numbers: Vec<usize> = launch.credentials.iter().map(|given| given.descriptor).collect();
        assert_eq!(numbers, [0, 0, 0], "one ref is read once");
        assert_eq!(launch.credentials[2].file.as_deref(), Some("pgpass"));
        let row = crate::control::credentials::row(&launch.credentials);
        assert_eq!(row[1], json!({"ref": "own", "env": "Q"}));
        assert_eq!(row[2], json!({"ref": "own", "file": "pgpass"}));
        let many: Vec<Value> = (0..17).map(|number| env(&format!("P{number}"))).collect();
        let long = json!([
            env(&"P".repeat(1000)),
            env(&"Q".repeat(1000)),
            env(&"R".repeat(1000)),
            env(&"S".repeat(1000)),
            env(&"T".repeat(1000)),
            env(&"U".repeat(1000)),
            env(&"V".repeat(1000)),
            env(&"W".repeat(1000))
        ]);
        for (credentials, code, says) in [
            (json!([{"env": "P", "ref": "none"}]), Code::LaunchUnsupported, "no source for it"),
            (json!([{"env": "P", "ref": "other"}]), Code::PolicyRefused, "other is not for hello"),
            (json!([env("A")]), Code::LaunchUnsupported, "replace the variable A"),
            (json!([env("HOME")]), Code::LaunchUnsupported, "replace the variable HOME"),
            (json!([env("LC_ALL")]), Code::LaunchUnsupported, "replace the variable LC_ALL"),
            (json!([env("CREDENTIALS_DIRECTORY")]), Code::LaunchUnsupported, "replace the variable"),
            (json!([env("P"), env("P")]), Code::LaunchUnsupported, "two of its credentials go to P"),
            (json!([file]), Code::LaunchUnsupported, "only a sandbox has a place for"),
            (json!(many), Code::LaunchUnsupported, "more than 16 credentials"),
            (long, Code::LaunchUnsupported, "too long for one row"),
        ] {
            let refused = with(credentials, Value::Null).unwrap_err();
            assert_eq!(refused.outcome(), Some(code), "{says}: {refused:?}");
            assert!(refused.message.contains(says) && !refused.advice.is_empty(), "{says}: {refused:?}");
        }
        // A variable and a file may have one name.
        assert!(with(json!([env("P"), {"file": "P", "ref": "own"}]), boxed()).is_ok());
    }

    #[test]
    fn what_starts() {
        let off = policy(SandboxPolicy::Off, false);
        let launch = planned(&release(|_| ()), &off, 1000, &[]).unwrap();
        assert_eq!(launch.command, Path::new("/mcp/hello/1.0.0/tree/bin/server"));
        assert_eq!(launch.args, ["--at=${TREE}"]);
        assert_eq!(launch.env["A"], "${STATE}");
        assert_eq!(launch.state, ["mcp.example.com+prod", "hello"]);
        assert_eq!(launch.warning, None);

        let launch = planned(&release(|text| text["launch"]["command"] = json!("sh")), &off, 1000, &[]).unwrap();
        assert_eq!(launch.command, Path::new("/bin/sh"));
        assert!(planned(&release(|_| ()), &policy(SandboxPolicy::Off, true), 0, &[]).is_ok());
        let open = release(|text| text["launch"]["accept_args"] = json!(["--root=*"]));
        assert!(planned(&open, &off, 1000, &["--root=/srv"]).is_ok());
    }

    #[test]
    fn what_does_not() {
        use SandboxPolicy::Off;
        type Change = fn(&mut Value);
        type Case = (&'static str, Change, SandboxPolicy, bool, u32, &'static [&'static str], Code, &'static str);
        let table: [Case; 8] = [
            ("root", |_| (), Off, false, 0, &[], Code::PolicyRefused, "allow_root = true"),
            (
                "files only",
                |t| drop(t.as_object_mut().unwrap().remove("launch")),
                Off,
                false,
                7,
                &[],
                Code::LaunchUnsupported,
                "team@example.com",
            ),
            (
                "credentials",
                |t| t["credentials"] = json!([{"env": "P", "ref": "r"}]),
                Off,
                true,
                7,
                &[],
                Code::LaunchUnsupported,
                "[credentials.\"r\"] in /etc/mcpfs/mcpfs.toml",
            ),
            ("arguments", |_| (), Off, true, 7, &["--x"], Code::PolicyRefused, "\"--x\""),
            (
                "unlisted arguments",
                |t| t["launch"]["accept_args"] = json!(["--root=*"]),
                Off,
                true,
                7,
                &["--root=/", "--evil"],
                Code::PolicyRefused,
                "\"--evil\"",
            ),
            (
                "unknown runtime",
                |t| t["launch"]["command"] = json!("deno"),
                Off,
                true,
                7,
                &[],
                Code::LaunchUnsupported,
                "set deno = \"/absolute/path\" under [runtimes]",
            ),
            (
                "missing runtime",
                |t| t["launch"]["command"] = json!("gone"),
                Off,
                true,
                7,
                &[],
                Code::LaunchUnsupported,
                "cannot be found",
            ),
            (
                "no program",
                |t| t["launch"]["command"] = json!("dir"),
                Off,
                true,
                7,
                &[],
                Code::LaunchUnsupported,
                "not an executable file",
            ),
        ];
        for (case, change, sandbox, allow_root, uid, args, code, words) in table {
            let refused = planned(&release(change), &policy(sandbox, allow_root), uid, args).expect_err(case);
            assert_eq!(refused.outcome(), Some(code), "{case}: {refused:?}");
            let text = format!("{} {}", refused.message, refused.advice);
            assert!(text.contains(words), "{case}: {text} says nothing of {words}");
            assert!(!refused.advice.is_empty(), "{case}");
        }
    }

    #[test]
    fn walls() {
        use SandboxPolicy::{Off, Required};
        type Change = fn(&mut Value);
        let plain: Change = |_| ();
        let boxed: Change = |t| t["sandbox"] = json!({"network": "host", "read": ["/srv"], "write": []});
        let image: Change = |t| t["launch"] = json!({"command": "bin/server", "runtime": "image", "workdir": "/app"});
        let named: Change = |t| t["launch"] = json!({"command": "node", "runtime": "image"});
        // Off is for releases that declare none, and whose root is the host's.
        assert_eq!(planned(&release(plain), &policy(Off, false), 7, &[]).unwrap().sandbox, None);
        for (change, sandbox, image, network) in [
            (plain, Required, false, false),
            (boxed, Off, false, true),
            (boxed, Required, false, true),
            (image, Off, true, false),
        ] {
            let confinement = planned(&release(change), &policy(sandbox, false), 7, &[]).unwrap().sandbox.unwrap();
            assert_eq!((confinement.image, confinement.network), (image, network));
            assert_eq!(confinement.read.len(), usize::from(network), "what it may read");
        }
        let launch = planned(&release(image), &policy(Off, false), 7, &[]).unwrap();
        assert_eq!(launch.command, Path::new("/bin/server"));
        assert_eq!(launch.sandbox.unwrap().workdir.as_deref(), Some("/app"));
        assert_eq!(planned(&release(named), &policy(Off, false), 7, &[]).unwrap().command, Path::new("node"));
        // Without bubblewrap nothing of that starts, and the remedy is named.
        for (change, sandbox, off_helps) in [(plain, Required, true), (boxed, Off, false), (image, Off, false)] {
            let refused = planned_with("/bin/no-such", &release(change), &policy(sandbox, false), 7, &[]).unwrap_err();
            assert_eq!(refused.outcome(), Some(Code::LaunchUnsupported));
            assert!(refused.message.contains("needs bubblewrap, and /bin/no-such cannot be found"), "{refused:?}");
            assert!(refused.advice.contains("install the package bubblewrap"), "{refused:?}");
            assert_eq!(refused.advice.contains("sandbox = \"off\""), off_helps, "{refused:?}");
        }
    }

    #[test]
    fn runtimes_that_others_can_exchange() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("node");
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::write(&program, "").unwrap();
        mode(&program, 0o755);
        assert_eq!(unsafe_part(&program), None);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&program, &link).unwrap();
        assert_eq!(unsafe_part(&link), None);
        mode(&program, 0o775);
        assert!(unsafe_part(&link).is_some_and(|(part, _)| part == link));
        mode(&program, 0o644);
        assert!(unsafe_part(&program).is_some_and(|(_, problem)| problem.contains("executable")));
        mode(&program, 0o755);
        mode(dir.path(), 0o770);
        assert!(unsafe_part(&program).is_some_and(|(part, _)| part == dir.path()));
        mode(dir.path(), 0o700);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&program, Some(65_534), None).unwrap();
            assert!(unsafe_part(&program).is_some_and(|(_, problem)| problem.contains("65534")));
        }
    }

    #[test]
    fn staleness_is_announced() {
        let issued: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let day = 86_400;
        let at = |days: i64| stale_warning(issued, Duration::from_secs(30 * 86_400), issued.plus(days * day));
        assert_eq!(at(-1), None);
        assert_eq!(at(14), None);
        let half = at(15).unwrap();
        assert!(half.contains("for 15d 0h; in 15d 0h this") && !half.contains("administrator"), "{half}");
        assert!(at(24).unwrap().contains("Tell your administrator."));
        assert!(at(29).unwrap().contains("administrator now"));
        assert!(at(40).unwrap().contains("in 0 s"));
    }
}
