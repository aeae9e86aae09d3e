#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::config::{CredentialSource, DowngradePolicy};

fn policy(sandbox: SandboxPolicy, allow_root: bool) -> Policy {
    Policy { sandbox, allow_root, downgrade: DowngradePolicy::Allow, expose: vec![], hide: vec![], scanners: vec![] }
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
fn planned_with(bwrap: &str, release: &Release, policy: &Policy, uid: u32, args: &[&str]) -> Result<Launch, Refused> {
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
