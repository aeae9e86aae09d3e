//! Who and what gets none, and what he reads then.

use mcpfs_tests::command::Run;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::wait_for;
use mcpfs_tests::suite::Suite;

use super::vault::{PG, Vault, digest, digest_of, holds, processes, row_of, secret};

pub(super) fn register(suite: &mut Suite) {
    suite.plain("credentials::a_source_that_gives_nothing", a_source_that_gives_nothing);
    suite.plain("credentials::mistakes_are_found_before", mistakes_are_found_before);
    suite.plain("credentials::another_servers_stay_its_own", another_servers_stay_its_own);
}

fn a_source_that_gives_nothing() {
    let vault = Vault::new(Reads::Cached, &[("pg", PG)]);
    let value = secret();
    let path = |name: &str| vault.host.path("etc").join(name).display().to_string();
    let open = vault.secret("open", value.as_bytes());
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let fetch = |name: &str, text: &str| format!("command = [{:?}]", vault.script(name, text));
    let file = |path: String| format!("file = {path:?}");
    let mark = format!("{}.5", 700_000 + std::process::id());
    let cases = [
        (file(path("none")), "No such file"),
        (file(open), "can be read by others (mode 0640)"),
        (file(path("conf.d")), "not a regular file"),
        (file(vault.secret("empty", b"\n")), "is empty"),
        (file(vault.secret("long", &vec![b'x'; (64 << 10) + 1])), "more than 64 KiB"),
        (file(vault.secret("nul", format!("{value}\0").as_bytes())), "has a NUL"),
        (fetch("fails", &format!("echo {value}; echo {value} >&2; exit 3")), "failed: exit status: 3"),
        (fetch("dies", "kill -9 $$"), "failed: signal: 9"),
        (fetch("silent", "true"), "is empty"),
        (fetch("endless", "exec cat /dev/zero"), "more than 64 KiB"),
        (fetch("hangs", &format!("sleep {mark} & sleep {mark}")) + "\ntimeout = \"1s\"", "did not end within 1 s"),
        (format!("command = [{:?}]", path("none")), "No such file"),
        (fetch("as", "true") + "\nuser = \"no-such-user\"", "there is no such user"),
        (file(vault.secret("pg", value.as_bytes())) + "\ngroups = [\"no-such-group\"]", "no group no-such-group"),
    ];
    let mount = Mount::start(&vault.host);
    for (source, says) in &cases {
        vault.gives("finance-dw/readonly", source, "pg");
        vault.reload();
        let ran = vault.refused("pg").says(says).says("finance-dw/readonly").says("LaunchUnsupported");
        assert!(!ran.text().contains(&value), "{ran}");
        let (outcome, detail) = row_of(&vault.host, "pg");
        assert_eq!((outcome.as_str(), detail.as_str()), ("LaunchUnsupported", ""), "{says}");
    }
    // What a command has started ends with it, and nothing of mcpfs's is left over.
    let of_it =
        |process: &std::path::PathBuf| std::fs::read(process.join("cmdline")).is_ok_and(|line| holds(&line, &mark));
    wait_for("the end of what hung", || (!processes().iter().any(of_it)).then_some(()));
    assert!(!mount.log().contains(&value), "{}", mount.log());
    // Once it is right the server starts.
    vault.gives("finance-dw/readonly", &file(vault.secret("pg", value.as_bytes())), "pg");
    vault.reload();
    let mut client = McpClient::start(&vault.run("pg"));
    client.initialize();
    assert_eq!(digest(&mut client, "PGPASSWORD"), digest_of(&value));
}

fn mistakes_are_found_before() {
    let vault = Vault::new(Reads::Cached, &[("pg", PG)]);
    let good = vault.secret("pg", b"x");
    let script = vault.script("fetch", "echo x");
    let check = || vault.host.mcpfs(["config", "check"]);
    for (source, says) in [
        (format!("file = {good:?}\nsystemd = \"x\""), "has two sources"),
        (String::new(), "has no source"),
        ("file = \"relative\"".to_owned(), "not an absolute path"),
        ("command = [\"fetch\"]".to_owned(), "not an absolute path"),
        (
            format!("file = {good:?}\ngroups = [\"no-such-group\"]"),
            ".toml:4: credentials.finance-dw/readonly.groups: this host has no group no-such-group",
        ),
        (
            format!("file = {good:?}\ngroups = []"),
            "50-credentials.toml:1: credentials.finance-dw/readonly: groups = [] lets nobody have it",
        ),
        (format!("file = {good:?}\ngroups = [\"5000\"]"), "a group's number stands without quotes"),
        (format!("command = [{script:?}]\ntimeout = \"1m\""), "longer than 8 s"),
        (format!("command = [{script:?}]\nuser = \"no-such-user\""), "no such user"),
        (format!("command = [{good:?}]"), "is not executable"),
        (format!("file = {:?}", vault.host.path("none")), "No such file"),
        (format!("file = {good:?}\nvalue = \"x\""), "unknown key \"value\""),
    ] {
        vault.gives("finance-dw/readonly", &source, "pg");
        check().exits(2).says(says);
    }
    vault.gives("finance-dw/readonly", &format!("file = {good:?}"), "pg");
    check().ok().says("refs      finance-dw/readonly: file for pg\n");
    vault.gives("finance-dw/readonly", &format!("command = [{script:?}, \"word\"]\ngroups = [\"root\", 5000]"), "pg");
    check().ok().says("refs      finance-dw/readonly: command for pg and members of root, 5000\n");
    let facts = vault.host.mcpfs(["--json", "config", "check"]).ok().json();
    assert_eq!(
        facts["credentials"][0],
        serde_json::json!({
            "ref": "finance-dw/readonly", "source": "command", "servers": ["pg"], "groups": ["root", "5000"],
        })
    );
    for (mode, path, says) in [(0o644, &good, "can be read by others"), (0o777, &script, "can be written by others")] {
        vault.gives(
            "finance-dw/readonly",
            &if *path == good { format!("file = {good:?}") } else { format!("command = [{script:?}]") },
            "pg",
        );
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let place = "50-credentials.toml:3: credentials.finance-dw/readonly.";
        check().exits(2).says(says).says(place).says("chmod ");
        vault.host.mcpfs(["doctor", "-q"]).exits(1).says(place).says(says);
    }
    // A mount starts all the same, and says what is lacking.
    vault.host.drop_in("50-credentials", "");
    let _mount = Mount::start(&vault.host);
    let doctor = vault.host.mcpfs(["doctor", "--json"]).run().json();
    let findings = doctor["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["code"] == "credentials").unwrap();
    assert_eq!(found["state"], "note", "{found}");
    let said = found["found"].as_str().unwrap();
    assert!(said.contains("1 server cannot start") && said.contains("pg: it needs the credential"), "{said}");
    vault.host.mcpfs(["explain", "pg"]).ok().says("finance-dw/readonly as PGPASSWORD; it needs the credential");
    // And which servers there are not.
    let entry = format!("[credentials.\"finance-dw/readonly\"]\nfile = {good:?}\nservers = [\"pg\", \"typo\"]\n");
    vault.host.drop_in("50-credentials", &entry);
    std::fs::set_permissions(&good, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    vault.reload();
    vault.host.mcpfs(["doctor"]).run().says("credentials.finance-dw/readonly: the registry has no server typo");
}

fn another_servers_stay_its_own() {
    let vault = Vault::new(Reads::Cached, &[("pg", PG), ("thief", PG)]);
    let file = vault.secret("pg", b"hunter2");
    vault.gives("finance-dw/readonly", &format!("file = {file:?}"), "pg");
    let _mount = Mount::start(&vault.host);
    vault.refused("thief").says("PolicyRefused").says("finance-dw/readonly is not for thief on this host");
    assert_eq!(row_of(&vault.host, "thief").0, "PolicyRefused");
    McpClient::start(&vault.run("pg")).initialize();
    vault.host.mcpfs(["explain", "thief"]).ok().says("is not for thief on this host");
}

/// One user's source that does not answer is in nobody's way but his own.
pub(super) fn a_slow_source_of_another() {
    let other = PG.replace("finance-dw/readonly", "slow");
    let vault = Vault::new(Reads::Cached, &[("pg", PG), ("slow", &other)]);
    let (value, begun, go) = (secret(), vault.host.path("begun"), vault.host.path("go"));
    let file = vault.secret("pg", value.as_bytes());
    let script =
        vault.script("fetch", &format!("echo x >>{begun:?}; until [ -e {go:?} ]; do sleep 0.02; done; echo x"));
    vault.host.drop_in(
        "50-credentials",
        &format!(
            "[credentials.slow]\ncommand = [{script:?}]\ntimeout = \"8s\"\nservers = [\"slow\"]\n\
             [credentials.\"finance-dw/readonly\"]\nfile = {file:?}\nservers = [\"pg\"]\n",
        ),
    );
    let _mount = Mount::start(&vault.host);
    let root = vault.host.path("root");
    std::fs::create_dir(&root).unwrap();
    let run = || Run::new(vault.run("slow")).env_clear().env("HOME", &root);
    std::thread::scope(|scope| {
        let slow: Vec<_> = (0..8).map(|_| scope.spawn(|| run().run())).collect();
        let running = || std::fs::read_to_string(&begun).is_ok_and(|text| text.lines().count() >= 4);
        wait_for("as many as one user may have read", || running().then_some(()));
        std::os::unix::fs::chown(vault.host.home(), Some(65_534), Some(65_534)).unwrap();
        let mut client = McpClient::start_with(as_user(&vault, "65534", "65534", ""));
        client.initialize();
        assert_eq!(digest(&mut client, "PGPASSWORD"), digest_of(&value));
        std::fs::write(&go, "").unwrap();
        for one in slow {
            // On a busy machine some waited too long.
            let ran = one.join().unwrap();
            assert!([0, 77].contains(&ran.code) || ran.stderr.contains("initialize"), "{ran}");
        }
    });
}

/// The server started by somebody else.
pub(super) fn as_user(vault: &Vault, uid: &str, gid: &str, groups: &str) -> std::process::Command {
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", uid, "--regid", gid]);
    command.args(if groups.is_empty() { vec!["--clear-groups"] } else { vec!["--groups", groups] });
    command.arg(vault.run("pg")).env_clear().env("HOME", vault.host.home()).env("PATH", "/usr/bin:/bin");
    command
}

/// Debian's own groups, which have no members.
const GROUP: &str = "games";

pub(super) fn only_members_of_its_groups() {
    let vault = Vault::new(Reads::Cached, &[("pg", PG)]);
    let value = secret();
    let file = vault.secret("pg", value.as_bytes());
    vault.gives("finance-dw/readonly", &format!("file = {file:?}\ngroups = [\"bin\", {GROUP:?}]"), "pg");
    let mount = Mount::start(&vault.host);
    let home = vault.host.home();
    let give = |user: u32| std::os::unix::fs::chown(&home, Some(user), Some(user)).unwrap();
    let number = |name: &str| {
        let line = Run::new("getent").args(["group", name]).ok().stdout;
        line.split(':').nth(2).unwrap().to_owned()
    };
    let user = |uid: &str, gid: &str, groups: &str| as_user(&vault, uid, gid, groups);
    let refused = |uid: &str, gid: &str, groups: &str| {
        let command = user(uid, gid, groups);
        let run = Run::new(command.get_program()).args(command.get_args()).env_clear().env("HOME", &home);
        vault.refused_by(run.env("PATH", "/usr/bin:/bin"))
    };
    give(65_534);
    let members = number(GROUP);
    let more = format!("{},{members}", number("audio"));
    for (gid, groups) in [(members.as_str(), ""), ("65534", members.as_str()), ("65534", more.as_str())] {
        let mut client = McpClient::start_with(user("65534", gid, groups));
        client.initialize();
        assert_eq!(digest(&mut client, "PGPASSWORD"), digest_of(&value));
    }
    let audio = number("audio");
    for groups in ["", audio.as_str()] {
        let ran = refused("65534", "65534", groups);
        ran.says("PolicyRefused").says("is for members of bin, games, and you are none");
    }
    assert_eq!(row_of(&vault.host, "pg").0, "PolicyRefused");
    mcpfs_tests::audit::expect(&vault.host, "PolicyRefused", Some("pg"));
    // Whoever has taken the worker over has no launch of his own to show.
    let worker = Run::new("id").args(["-u", "mcpfs"]).ok().stdout.trim().to_owned();
    give(worker.parse().unwrap());
    refused(&worker, &members, "").says("PolicyRefused").says("gets no credentials from this mount");
    assert!(!mount.log().contains(&value), "{}", mount.log());
}
