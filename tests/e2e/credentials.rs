//! Credentials: from their source to the one server that may have them, and nowhere else.

mod elsewhere;
mod hung;
mod refusals;
mod sandboxed;
mod vault;

use std::path::Path;

use mcpfs_tests::host::Reads;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::is_root;
use mcpfs_tests::suite::{Attack, Suite};
use serde_json::json;

use crate::boundary::{LOCAL_USER, WORKER};
use vault::{PG, Vault, digest, digest_of, holds, row_of, secret, tell};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("credentials::every_source", every_source);
    suite.mounted("credentials::a_rotated_secret_counts_at_the_next_launch", a_rotated_secret_counts);
    suite.mounted("credentials::a_reload_moves_them", a_reload_moves_them);
    suite.mounted_attack(
        Attack::new(
            WORKER,
            "credentials::a_value_is_in_the_server_alone",
            "a search for a value that a server was given: memory and files of mcpfs, arguments of all processes, what is \
             logged, recorded and answered",
            &["nowhere else"],
        ),
        a_value_is_in_the_server_alone,
    );
    suite.mounted("credentials::which_launches_had_it", which_launches_had_it);
    suite.root_attack(
        Attack::new(
            LOCAL_USER,
            "credentials::only_members_of_its_groups",
            "a user without the group that a credential is for, and the worker's own user",
            &["PolicyRefused", "exit 77"],
        ),
        refusals::only_members_of_its_groups,
    );
    refusals::register(suite);
    sandboxed::register(suite);
    if is_root() {
        elsewhere::register(suite);
        suite.plain(
            "credentials::a_source_that_hangs_is_in_nobody_elses_way",
            hung::a_source_that_hangs_is_in_nobody_elses_way,
        );
        suite.plain("credentials::a_slow_source_of_another", refusals::a_slow_source_of_another);
        suite.mounted("credentials::a_worker_that_dies_meanwhile", a_worker_that_dies_meanwhile);
    }
}

const THREE: &str =
    "credentials:\n  - {env: A, ref: by/file}\n  - {env: B, ref: by/systemd}\n  - {env: C, ref: by/command}\n";

fn every_source(reads: Reads) {
    let vault = Vault::new(reads, &[("three", THREE)]);
    let [one, two, three] = [secret(), secret(), secret()];
    let file = vault.secret("one", format!("{one}\n").as_bytes());
    vault.secret("credentials/two", two.as_bytes());
    let script = vault.script("fetch", &format!("echo '{three}'; echo noise >&2"));
    vault.host.drop_in(
        "50-credentials",
        &format!(
            "[credentials.\"by/file\"]\nfile = {file:?}\nservers = [\"three\"]\n[credentials.\"by/systemd\"]\n\
             systemd = \"two\"\nservers = [\"other\", \"three\"]\n[credentials.\"by/command\"]\n\
             command = [{script:?}, \"finance-dw\"]\nservers = [\"three\"]\n",
        ),
    );
    vault.host.mcpfs(["config", "check"]).ok();
    // As systemd does it for LoadCredential=.
    let mount = Mount::start_told(&vault.host, "CREDENTIALS_DIRECTORY", &vault.host.path("etc/credentials"));
    let mut client = McpClient::start(&vault.run("three"));
    client.initialize();
    for (name, value) in [("A", &one), ("B", &two), ("C", &three)] {
        assert_eq!(digest(&mut client, name), digest_of(value), "{name}");
    }
    client.end();
    let said = vault.host.mcpfs(["explain", "three"]).ok();
    said.says("credential  by/file as A\n").says("credential  by/systemd as B\n").says("credential  by/command as C\n");
    let facts = vault.host.mcpfs(["--json", "explain", "three"]).ok().json();
    assert_eq!(facts["credentials"][0], json!({"ref": "by/file", "env": "A"}), "{facts}");
    // Without what systemd hands over the server does not start, and says which name is missing.
    mount.stop();
    let _mount = Mount::start(&vault.host);
    let ran = vault.refused("three");
    assert!(ran.stderr.contains("by/systemd cannot be had") && ran.stderr.contains("LoadCredential=two:"), "{ran}");
}

fn a_rotated_secret_counts(reads: Reads) {
    let vault = Vault::new(reads, &[("pg", PG)]);
    let [old, new] = [secret(), secret()];
    let file = vault.secret("pg", old.as_bytes());
    vault.gives("finance-dw/readonly", &format!("file = {file:?}"), "pg");
    let _mount = Mount::start(&vault.host);
    let mut first = McpClient::start(&vault.run("pg"));
    first.initialize();
    assert_eq!(digest(&mut first, "PGPASSWORD"), digest_of(&old));
    vault.secret("pg", new.as_bytes());
    let mut second = McpClient::start(&vault.run("pg"));
    second.initialize();
    assert_eq!(digest(&mut second, "PGPASSWORD"), digest_of(&new));
    assert_eq!(digest(&mut first, "PGPASSWORD"), digest_of(&old), "who runs goes on with what it has");
}

fn a_reload_moves_them(reads: Reads) {
    let vault = Vault::new(reads, &[("pg", PG)]);
    let values = [secret(), secret(), secret()];
    let files = [0, 1, 2].map(|at| vault.secret(&format!("pg{at}"), values[at].as_bytes()));
    let of = |at: usize| vault.gives("finance-dw/readonly", &format!("file = {:?}", files[at]), "pg");
    let mount = Mount::start(&vault.host);
    vault.refused("pg").says("this host has no source for it");
    for at in [0, 1, 2, 0, 2, 1] {
        of(at);
        vault.reload();
        let mut client = McpClient::start(&vault.run("pg"));
        client.initialize();
        assert_eq!(digest(&mut client, "PGPASSWORD"), digest_of(&values[at]), "{}", mount.log());
    }
    // What is written and not taken over does not count, for a successor either.
    of(2);
    if is_root() {
        mount.kill_worker();
    }
    let mut client = McpClient::start(&vault.run("pg"));
    client.initialize();
    assert_eq!(digest(&mut client, "PGPASSWORD"), digest_of(&values[1]));
    // A reload that is refused takes nothing.
    vault.host.drop_in("60-bad", "[polcy]\n");
    tell(&vault.host, "reload").unwrap_err();
    let mut client = McpClient::start(&vault.run("pg"));
    client.initialize();
    assert_eq!(digest(&mut client, "PGPASSWORD"), digest_of(&values[1]));
    // And one that takes it away.
    for name in ["60-bad", "50-credentials"] {
        std::fs::remove_file(vault.host.path(&format!("etc/conf.d/{name}.toml"))).unwrap();
    }
    vault.reload();
    vault.refused("pg").says("this host has no source for it");
    vault.host.mcpfs(["explain", "pg"]).ok().says("finance-dw/readonly as PGPASSWORD; it needs the credential");
}

fn a_value_is_in_the_server_alone(reads: Reads) {
    let both = "  env: {PGPASSFILE: \"${CREDENTIALS}/pgpass\"}\ncredentials:\n  - {env: A, ref: by/file}\n  \
                - {env: B, ref: by/command}\n  - {file: pgpass, ref: by/file}\nsandbox: {network: none}\n";
    let vault = Vault::new(reads, &[("pg", PG), ("both", both)]);
    let [one, two] = [secret(), secret()];
    let file = vault.secret("one", one.as_bytes());
    let words = vault.secret("two", two.as_bytes());
    let script = vault.script("fetch", &format!("cat {words:?}"));
    vault.host.drop_in(
        "50-credentials",
        &format!(
            "[credentials.\"by/file\"]\nfile = {file:?}\nservers = [\"both\"]\n[credentials.\"by/command\"]\n\
             command = [{script:?}]\nservers = [\"both\"]\n[credentials.\"finance-dw/readonly\"]\nfile = {file:?}\n\
             servers = [\"pg\"]\n",
        ),
    );
    let mount = Mount::start(&vault.host);
    let mut clients = ["both", "pg"].map(|name| McpClient::start(&vault.run(name)));
    for client in &mut clients {
        client.initialize();
    }
    assert_eq!(digest(&mut clients[0], "B"), digest_of(&two));
    assert_eq!(digest(&mut clients[1], "PGPASSWORD"), digest_of(&one));
    let (_, row) = row_of(&vault.host, "both");
    assert!(row.contains("by/command"), "{row}");
    // The search finds what is there: in the server that has it.
    assert!(vault::remembers(clients[1].pid(), &one), "the search is blind");
    let daemons = [Some(mount.pid()), is_root().then(|| mount.server()), is_root().then(|| mount.standby())];
    for value in [&one, &two] {
        for daemon in daemons.into_iter().flatten() {
            assert!(!vault::remembers(daemon, value), "process {daemon} of mcpfs has had it in its memory");
        }
        for process in vault::processes() {
            let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
            assert!(!holds(&line, value), "it is an argument of {}", process.display());
        }
        for place in ["state", "cache", "run", "mount.log", "user"] {
            let found = vault::found_below(&vault.host.path(place), value);
            assert_eq!(found, Vec::<std::path::PathBuf>::new());
        }
        assert_eq!(vault::found_below(&vault.host.rundir(), value), Vec::<std::path::PathBuf>::new());
        for words in [
            &["--json", "status"][..],
            &["--json", "ls", "--all"],
            &["--json", "explain", "both"],
            &["--json", "ps"],
            &["--json", "audit", "query"],
            &["--json", "doctor"],
            &["--json", "config", "check"],
        ] {
            let said = vault.host.mcpfs(words).run().text();
            assert!(said.len() > 2 && !holds(said.as_bytes(), value), "{words:?}: {said}");
        }
    }
    let server = clients[1].pid();
    let limits = std::fs::read_to_string(format!("/proc/{server}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    // Of 1: for a limit of 0 a handler (systemd-coredump) would be started all the same.
    assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["1", "1", "bytes"], "{core}");
    let filter = std::fs::read_to_string(format!("/proc/{server}/coredump_filter")).unwrap();
    assert_eq!(filter.trim().trim_start_matches('0'), "", "an image would have some of its memory: {filter}");
    mcpfs_tests::proof::note("nowhere else");
}

/// The manual's question.
fn which_launches_had_it(reads: Reads) {
    let vault = Vault::new(reads, &[("pg", PG), ("hello", "")]);
    let file = vault.secret("pg", secret().as_bytes());
    vault.gives("finance-dw/readonly", &format!("file = {file:?}"), "pg");
    let mount = Mount::start(&vault.host);
    for name in ["pg", "hello", "pg"] {
        McpClient::start(&vault.run(name)).initialize();
    }
    std::fs::remove_file(file).unwrap();
    vault.refused("pg").says("No such file");
    vault.host.mcpfs(["audit", "verify"]).ok();
    mount.stop();
    let page = std::fs::read_to_string(mcpfs_tests::scratch::repository().join("docs/audit.md")).unwrap();
    let mut blocks = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let sql = blocks.find(|sql| sql.contains("'$.credentials'")).expect("the manual's question");
    let store = rusqlite::Connection::open(vault.host.audit_db()).unwrap();
    let mut query = store.prepare(&sql.replace("2026-04-15", "2020-01-01")).unwrap();
    let had = query.query_map([], |row| Ok((row.get("server_name")?, row.get("place")?))).unwrap();
    let had: Vec<(String, String)> = had.map(Result::unwrap).collect();
    let one = ("pg".to_owned(), "PGPASSWORD".to_owned());
    assert_eq!(had, [one.clone(), one], "two launches had it, and one was refused");
}

/// The launcher asks its successor, who has it read again.
fn a_worker_that_dies_meanwhile(reads: Reads) {
    let vault = Vault::new(reads, &[("pg", PG)]);
    let value = secret();
    let path = |name: &str| vault.host.path(name).display().to_string();
    let (begun, go) = (path("begun"), path("go"));
    let wait = format!("echo >> {begun:?}; until [ -e {go:?} ]; do sleep 0.02; done; echo '{value}'");
    let script = vault.script("fetch", &wait);
    vault.gives("finance-dw/readonly", &format!("command = [{script:?}]\ntimeout = \"8s\""), "pg");
    let mount = Mount::start(&vault.host);
    mount.standby();
    let mut client = McpClient::start(&vault.run("pg"));
    mcpfs_tests::scratch::wait_for("the command", || Path::new(&begun).exists().then_some(()));
    mount.kill_worker();
    std::fs::write(&go, "").unwrap();
    client.initialize();
    assert_eq!(digest(&mut client, "PGPASSWORD"), digest_of(&value));
    let rows = vault.host.mcpfs(["audit", "query", "--event", "launch", "--json"]).ok().stdout;
    assert_eq!(rows.matches("finance-dw/readonly").count(), 1, "it was recorded once it was given: {rows}");
}
