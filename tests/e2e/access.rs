//! `[access]`: a server is for the group that configuration gives it to, and for nobody else.

mod elsewhere;
mod lasting;
mod told;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use mcpfs_tests::audit::{self, Row};
use mcpfs_tests::control::asks;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::people::{Group, Person, rights};
use mcpfs_tests::proof;
use mcpfs_tests::scratch::is_root;
use mcpfs_tests::suite::{Attack, Suite};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use crate::boundary::LOCAL_USER;
use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.root_mounted_attack(
        Attack::new(
            LOCAL_USER,
            "access::members_start_it_and_nobody_else",
            "a server that `[access]` gives to a group: its directory, its files and its `run` by their paths, and a \
             launch asked for at the control socket, by somebody without the group",
            &["PolicyRefused", "EACCES"],
        ),
        members_start_it_and_nobody_else,
    );
    suite.root_mounted_attack(
        Attack::new(
            LOCAL_USER,
            "access::what_is_held_from_before_is_refused",
            "the same with a directory that was opened before the reload, or that somebody with rights passes on",
            &["PolicyRefused", "EACCES"],
        ),
        what_is_held_from_before_is_refused,
    );
    suite.root_mounted_attack(
        Attack::new(
            LOCAL_USER,
            "access::root_to_himself",
            "the same by somebody who is root in a user namespace of his own",
            &["PolicyRefused", "EACCES"],
        ),
        elsewhere::root_to_himself,
    );
    if is_root() {
        suite.plain("access::as_many_groups_as_there_can_be", as_many_groups_as_there_can_be);
        suite.plain("access::a_group_given_up_is_gone_for_io_uring", elsewhere::a_group_given_up);
        suite.plain("access::a_users_own_mount", elsewhere::a_users_own_mount);
        suite.plain("access::hidden_processes", elsewhere::hidden_processes);
        suite.plain("access::another_pid_namespace", elsewhere::another_pid_namespace);
        suite.plain("access::a_proc_of_another_namespace", elsewhere::a_proc_of_another_namespace);
        suite.mounted("access::a_reload_counts_at_once", a_reload_counts_at_once);
        suite.mounted("access::members_start_it_in_its_sandbox", members_start_it_in_its_sandbox);
        suite.plain("access::a_group_counts_from_the_next_log_in", told::a_group_counts_from_the_next_log_in);
        suite.mounted("access::a_crash_changes_nothing", lasting::a_crash_changes_nothing);
        suite.mounted("access::a_refused_name_is_its_members_business", a_refused_name_is_its_members_business);
        suite.plain("access::a_group_that_goes_keeps_its_number", lasting::a_group_that_goes_keeps_its_number);
    }
    suite.plain("access::what_is_no_rule", told::what_is_no_rule);
}

const STRANGER: u32 = 71_001;
const MEMBER: u32 = 71_002;
const PRIMARY: u32 = 71_003;

/// `[access]` with this for hello.
fn give(host: &Host, rule: &str) {
    let text = format!("[access]\ncontact = \"data@example.com\"\n[access.servers]\nhello = {rule}\n");
    host.drop_in("20-access", &text);
}

/// Takes over what is on the disk; returns when it holds.
fn reload(host: &Host) {
    let answer = asks(host, &json!({"v": 1, "op": "reload"}));
    assert_eq!(answer["ok"], json!({}), "{answer}");
}

fn launch(host: &Host, identity: &str) -> Value {
    asks(host, &json!({"v": 1, "op": "launch", "identity": identity, "args": []}))
}

/// What the first line of a `run` names.
fn identity(run: &Path) -> String {
    let line = fs::read_to_string(run).unwrap();
    line.trim_end().split_once(' ').unwrap().1.to_owned()
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_string().unwrap()));
    let mut names = entries.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn open_below(directory: &File, path: &str) -> io::Result<File> {
    Ok(rustix::fs::openat(directory, path, OFlags::RDONLY, Mode::empty())?.into())
}

fn text(mut file: File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

/// The rows of what this person was refused.
fn refused(host: &Host, person: &Person, event: &str) -> Vec<Row> {
    let his = |row: &Row| row.user == Some(i64::from(person.uid)) && row.event == event && row.outcome != "ok";
    audit::rows(host).into_iter().filter(his).collect()
}

/// A server that this person started through `run`.
fn starts(host: &Host, person: &Person, run: &Path) -> McpClient {
    let home = host.path(&format!("home-{}", person.uid));
    if !home.exists() {
        fs::create_dir(&home).unwrap();
        chown(&home, Some(person.uid), Some(person.gid)).unwrap();
    }
    let mut command = person.starts(run);
    command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").current_dir("/");
    McpClient::start_with(command)
}

fn members_start_it_and_nobody_else(reads: Reads) {
    let world = World::new(reads);
    let host = &world.host;
    let group = Group::new("finance");
    give(host, &format!("{:?}", group.name()));
    let _mount = Mount::start(host);
    let (stranger, member) = (Person::new(STRANGER), Person::new(MEMBER).member_of(&group));
    let primary = Person::new(PRIMARY).primarily_of(&group);
    let (hello, run) = (host.at("hello"), world.run("hello"));
    let version = hello.join("1.1.0/tree/bin/VERSION");

    for person in [&member, &primary] {
        assert_eq!(starts(host, person, &run).initialize()["serverInfo"]["version"], "1.1.0");
        assert_eq!(starts(host, person, &hello.join("1.0.0/run")).initialize()["serverInfo"]["version"], "1.0.0");
        assert_eq!(person.does(|| fs::read(&version)).unwrap(), fs::read(&version).unwrap());
        assert_eq!(person.does(|| names(&hello)).unwrap(), ["1.0.0", "1.1.0", "run"]);
    }
    // What there is does not depend on who looks, and says whom it is for.
    for person in [&stranger, &member] {
        assert_eq!(person.does(|| names(&host.mcp())).unwrap(), ["files", "hello"]);
        assert_eq!(person.does(|| rights(&hello)), (0, group.gid(), 0o550));
        assert_eq!(person.does(|| rights(&host.at("files"))), (0, 0, 0o555));
        assert_eq!(person.does(|| fs::read(host.at("files/1.0.0/tree/twin"))).unwrap(), b"deep\n");
    }
    let paths: [PathBuf; 5] =
        [run.clone(), version.clone(), hello.join("1.0.0/run"), hello.join("1.1.0/release.json"), hello.join("none")];
    assert_eq!(stranger.does(|| names(&hello).map_err(|error| error.raw_os_error())), Err(Some(libc::EACCES)));
    for path in &paths {
        assert_eq!(errno(stranger.does(|| File::open(path))), libc::EACCES, "{}", path.display());
    }
    for program in [&run, &hello.join("1.1.0/tree/bin/hello-mcp")] {
        let ran = stranger.runs("sh").args(["-c", "exec \"$0\""]).arg(program).exits(126);
        assert!(ran.stderr.contains("Permission denied"), "{ran}");
    }
    // The kernel has said no to all of this, and tells nobody.
    assert_eq!(refused(host, &stranger, "refusal"), []);
    // Who is not root and has a capability for all paths gets as far as we; setpriv keeps them until it execs.
    let ran = stranger.runs(&run).exits(126);
    assert!(ran.stderr.contains("Permission denied"), "{ran}");
    assert_eq!(refused(host, &stranger, "refusal").len(), 1);

    // By the line that `run` has, which anybody can write.
    let line = identity(&run);
    let answer = stranger.does(|| launch(host, &line));
    assert_eq!(answer["error"]["code"], "PolicyRefused", "{answer}");
    let message = format!("hello is for members of the group {} (access.servers.hello)", group.name());
    assert_eq!(answer["error"]["message"], json!(message));
    assert!(answer["error"]["advice"].as_str().unwrap().starts_with("ask data@example.com to make you a member of"));
    // By process, which is the test's own.
    let mut rows = audit::rows(host);
    rows.retain(|row| row.event == "launch" && row.outcome != "ok");
    assert_eq!((rows.len(), rows[0].outcome.as_str()), (1, "PolicyRefused"), "{}", audit::listing(&rows));
    assert_eq!((rows[0].server.as_deref(), rows[0].version.as_deref()), (Some("hello"), Some("1.1.0")));
    assert_eq!(rows[0].reason.as_deref(), Some(&*message));
    proof::note("PolicyRefused");
    assert_eq!(member.does(|| launch(host, &line))["ok"]["args"][0], "--state");
    // Through a launcher of one's own.
    let own = host.path("own");
    fs::write(&own, fs::read(&run).unwrap()).unwrap();
    fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ran = stranger.runs(&own).env("HOME", "/nonexistent").exits(77);
    assert!(ran.stderr.contains("is for members of the group") && ran.stdout.is_empty(), "{ran}");
    let rows = refused(host, &stranger, "launch");
    assert_eq!((rows.len(), rows[0].outcome.as_str()), (1, "PolicyRefused"), "{}", audit::listing(&rows));

    let mcpfs = |person: &Person, words: &[&str]| {
        person.runs(mcpfs_tests::binaries::bin("mcpfs")).arg("--config").arg(host.config()).args(words).ok().stdout
    };
    let explained = mcpfs(&stranger, &["explain", "hello"]);
    assert!(explained.starts_with(&format!("hello 1.1.0: refused: PolicyRefused ({message})\n")), "{explained}");
    assert!(explained.contains("  do          ask data@example.com to make you a member"), "{explained}");
    let by = format!("for members of the group {} ({}), by access.servers.hello", group.name(), group.gid());
    assert!(explained.contains(&by), "{explained}");
    let path = run.display().to_string();
    assert!(mcpfs(&stranger, &["explain", &path]).contains("refused: PolicyRefused"));
    let explained = mcpfs(&member, &["explain", "hello"]);
    assert!(explained.starts_with("hello 1.1.0: admitted") && explained.contains(&by), "{explained}");
    assert!(mcpfs(&stranger, &["explain", "files"]).starts_with("files 1.0.0: admitted"));
    let marked = |person| mcpfs(person, &["ls"]).lines().filter(|line| line.contains("[not for you")).count();
    assert_eq!((marked(&stranger), marked(&member), marked(&primary)), (1, 0, 0));
    let rows: Value = serde_json::from_str(&mcpfs(&stranger, &["--json", "ls"])).unwrap();
    assert_eq!((&rows[1]["group"], &rows[1]["denied"]), (&json!(group.name()), &json!(true)), "{rows}");
    // Root may.
    assert_eq!(McpClient::start(&run).initialize()["serverInfo"]["version"], "1.1.0");
    let checked = host.mcpfs(["config", "check"]).ok();
    assert!(checked.stdout.contains(&format!(
        "access    hello: {} ({}); others: everybody",
        group.name(),
        group.gid()
    )));
}

/// The kernel gives a process 65,536 at most.
fn as_many_groups_as_there_can_be() {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    let group = Group::new("finance");
    give(host, &format!("{:?}", group.name()));
    let _mount = Mount::start(host);
    let passed = File::open(host.at("hello/1.1.0/tree/bin")).unwrap();
    let line = identity(&world.run("hello"));
    // Of ten digits each, so that there is no longer list; one is left for the group.
    let mut stranger = Person::new(STRANGER);
    stranger.groups = (4_000_000_000..4_000_065_535).collect();
    let mut member = stranger.clone();
    member.groups.push(group.gid());
    assert_eq!(text(member.does(|| open_below(&passed, "VERSION")).unwrap()), "1.1.0\n");
    assert_eq!(errno(stranger.does(|| open_below(&passed, "VERSION"))), libc::EACCES);
    assert_eq!(member.does(|| launch(host, &line))["ok"]["args"][0], "--state");
    assert_eq!(stranger.does(|| launch(host, &line))["error"]["code"], "PolicyRefused");
    assert_eq!(member.does(|| names(&host.at("hello"))).unwrap(), ["1.1.0", "run"]);
}

/// Groups go along into it, though they have no names there.
fn members_start_it_in_its_sandbox(reads: Reads) {
    let world = World::new(reads);
    let host = &world.host;
    let group = Group::new("finance");
    give(host, &format!("{:?}", group.name()));
    host.drop_in("50-sandbox", "[policy]\nsandbox = \"required\"\n");
    let _mount = Mount::start(host);
    let primary = Person::new(PRIMARY).primarily_of(&group);
    for person in [Person::new(MEMBER).member_of(&group), primary] {
        let mut server = starts(host, &person, &world.run("hello"));
        assert_eq!(server.initialize()["serverInfo"]["version"], "1.1.0");
        let who: Value = serde_json::from_str(&server.call("whoami", &json!({}))).unwrap();
        assert_eq!(who["pid"], 2, "a process table of its own");
    }
}

fn what_is_held_from_before_is_refused(reads: Reads) {
    let world = World::new(reads);
    let host = &world.host;
    let group = Group::new("finance");
    let (stranger, member) = (Person::new(STRANGER), Person::new(MEMBER).member_of(&group));
    let primary = Person::new(PRIMARY).primarily_of(&group);
    let _mount = Mount::start(host);
    let whole = fs::read_to_string(host.at("hello/1.1.0/tree/bin/VERSION")).unwrap();
    let held = stranger.does(|| File::open(host.at("hello/1.1.0/tree/bin"))).unwrap();
    let version = stranger.does(|| File::open(host.at("hello/1.1.0"))).unwrap();
    let server = stranger.does(|| File::open(host.at("hello"))).unwrap();
    let open = stranger.does(|| open_below(&held, "VERSION")).unwrap();
    // A process that stands there, and one that is to be.
    let mut shell = stranger.starts("sh");
    shell.args(["-c", "read line; cat VERSION; ./hello-mcp"]).current_dir(host.at("hello/1.1.0/tree/bin"));
    let mut shell = shell
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    give(host, &format!("{:?}", group.name()));
    reload(host);

    let denied = |opened: io::Result<File>| assert_eq!(errno(opened), libc::EACCES);
    stranger.does(|| {
        for (directory, path) in [
            (&held, "VERSION"),
            (&held, "hello-mcp"),
            (&held, "."),
            (&version, "run"),
            (&version, "release.json"),
            (&version, "tree"),
            (&version, "."),
            (&server, "run"),
            (&server, "."),
        ] {
            let opened = open_below(directory, path);
            assert_eq!(opened.map(drop).map_err(|error| error.raw_os_error()), Err(Some(libc::EACCES)), "{path}");
        }
    });
    shell.stdin.take().unwrap().write_all(b"\n").unwrap();
    let ended = shell.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((said.matches("Permission denied").count(), ended.stdout.as_slice()), (2, &b""[..]), "{said}");
    // Each first one of its kind has its row.
    let rows = refused(host, &stranger, "refusal");
    assert!(rows.len() >= 3 && rows.iter().all(|row| row.outcome == "PolicyRefused"), "{}", audit::listing(&rows));
    assert!(rows.iter().all(|row| row.server.as_deref() == Some("hello")), "{}", audit::listing(&rows));
    proof::note("PolicyRefused");
    // Somebody who may passes on what he has open.
    let passed = File::open(host.at("hello/1.0.0/tree/bin")).unwrap();
    denied(stranger.does(|| open_below(&passed, "VERSION")));
    for person in [&member, &primary] {
        assert_eq!(text(person.does(|| open_below(&passed, "VERSION")).unwrap()), "1.0.0\n");
        assert_eq!(text(person.does(|| open_below(&held, "VERSION")).unwrap()), whole);
    }
    // The other name of what is open is another open of it; what is open stays so.
    use std::os::fd::AsRawFd;
    let other = format!("/proc/self/fd/{}", open.as_raw_fd());
    denied(stranger.does(|| File::open(&other)));
    assert_eq!(stranger.does(|| text(open)), whole);
}

fn a_reload_counts_at_once(reads: Reads) {
    let world = World::new(reads);
    let host = &world.host;
    let (one, other) = (Group::new("one"), Group::new("other"));
    let person = Person::new(MEMBER).member_of(&one);
    let _mount = Mount::start(host);
    let version = host.at("hello/1.1.0/tree/bin/VERSION");
    let reads_it = || person.does(|| (fs::read(&version).is_ok(), names(&host.at("hello")).is_ok()));
    for _ in 0..5 {
        // The kernel has just been told who may, and could remember it.
        assert_eq!(reads_it(), (true, true));
        give(host, &format!("{:?}", other.name()));
        reload(host);
        assert_eq!(reads_it(), (false, false));
        give(host, &one.gid().to_string());
        reload(host);
        assert_eq!(reads_it(), (true, true));
        host.drop_in("20-access", &format!("[access]\ndefault = {:?}\n", other.name()));
        reload(host);
        assert_eq!(reads_it(), (false, false));
        assert_eq!(rights(&host.at("files")), (0, other.gid(), 0o550));
        host.drop_in("21-access", "[access.servers]\n\"hel*\" = \"*\"\n");
        reload(host);
        assert_eq!(reads_it(), (true, true));
        assert_eq!((rights(&host.at("hello")), rights(&host.at("files"))), ((0, 0, 0o555), (0, other.gid(), 0o550)));
        fs::remove_file(host.path("etc/conf.d/21-access.toml")).unwrap();
        fs::remove_file(host.path("etc/conf.d/20-access.toml")).unwrap();
        reload(host);
    }
}

fn a_refused_name_is_its_members_business(reads: Reads) {
    let world = World::new(reads);
    let host = &world.host;
    let group = Group::new("finance");
    let (stranger, member) = (Person::new(STRANGER), Person::new(MEMBER).member_of(&group));
    give(host, &format!("{:?}", group.name()));
    host.drop_in("30-stop", "[stops]\nhello = \"odd traffic\"\n");
    let _mount = Mount::start(host);
    let run = world.run("hello");
    let ran = member.runs(&run).env("HOME", "/nonexistent").exits(77);
    assert!(ran.stderr.contains("odd traffic"), "{ran}");
    assert_eq!(errno(stranger.does(|| File::open(&run))), libc::EACCES);
    let passed = File::open(host.at("hello")).unwrap();
    assert_eq!(errno(stranger.does(|| open_below(&passed, "run"))), libc::EACCES);
    // What is wrong with it is said to those who could use it.
    let answer = stranger.does(|| launch(host, "hello@!"));
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("is for members of the group") && !message.contains("odd"), "{answer}");
    let answer = member.does(|| launch(host, "hello@!"));
    assert!(answer["error"]["message"].as_str().unwrap().contains("odd traffic"), "{answer}");
    // A name that nobody has leaves no row, whoever it would be for.
    let before = audit::rows(host).len();
    assert_eq!(stranger.does(|| launch(host, "made-up@!"))["error"]["code"], "NotFound");
    assert_eq!(audit::rows(host).len(), before);
}
