//! docs/audit.md and docs/publishing.md: their commands and questions, typed as they stand there.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use mcpfs_tests::audit;
use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::host::Reads;
use mcpfs_tests::hsm::Hsm;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::{self, need};
use mcpfs_tests::suite::Suite;

use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("docs::the_audits_questions_have_answers", the_audits_questions_have_answers);
    suite.plain("docs::publishing_as_written", publishing_as_written);
}

/// The code blocks of a page that open with exactly this line.
pub(crate) fn blocks(page: &str, opening: &str) -> Vec<String> {
    blocks_of(&read(page), opening)
}

/// The same of a text; a block in a list is indented as its opening is.
pub(crate) fn blocks_of(text: &str, opening: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        let bare = line.trim_start();
        match (bare.starts_with("```"), inside) {
            (true, None) => {
                inside = Some((bare == opening, line.len() - bare.len()));
                if bare == opening {
                    found.push(String::new());
                }
            }
            (true, Some(_)) => inside = None,
            (false, Some((true, indent))) => {
                *found.last_mut().unwrap() += &format!("{}\n", line.get(indent..).unwrap_or_default());
            }
            (false, _) => {}
        }
    }
    found
}

/// The section of a page with this title.
pub(crate) fn section(page: &str, title: &str) -> String {
    let text = read(page);
    let (_, rest) = text.split_once(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no section {title:?}"));
    rest.split("\n## ").next().unwrap().to_owned()
}

fn read(page: &str) -> String {
    std::fs::read_to_string(scratch::repository().join("docs").join(page)).unwrap()
}

fn the_audits_questions_have_answers() {
    let world = World::new(Reads::Cached);
    let mount = Mount::start(&world.host);
    world.host.refresh();
    McpClient::start(&world.run("hello")).initialize();
    std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap();
    Run::new(world.run("hello")).arg("--evil").exits(77);
    let sqlite =
        |sql: &str| Run::new(need("sqlite3", "sqlite3")).arg("-readonly").arg(world.host.audit_db()).arg(sql).ok();
    let questions = blocks("audit.md", "```sql");
    assert_eq!(questions.len(), 14);
    let answers: Vec<usize> = questions.iter().map(|sql| sqlite(sql).stdout.lines().count()).collect();
    // Those that name nobody's data in particular have answers here.
    assert!([0, 3, 7].iter().all(|at| answers[*at] > 0), "{answers:?}");
    sqlite(&questions[1].replace("internal-postgres", "hello")).says("1.1.0");
    sqlite(&questions[3]).says("PolicyRefused");
    sqlite(&questions[6].replace("e.seq = 1", "e.event = 'launch'")).says("security@example.com");

    // The commands at the top of the page.
    let commands = blocks("audit.md", "```").remove(0);
    let mut typed = 0;
    for line in commands.lines() {
        let line =
            line.replace("sudo ", "").replace("/var/lib/mcpfs/audit.db", world.host.audit_db().to_str().unwrap());
        let bin = mcpfs_tests::binaries::bin("mcpfs");
        let line =
            line.replacen("mcpfs ", &format!("{} --config {} ", bin.display(), world.host.config().display()), 1);
        if line.ends_with("tail -f") {
            // It goes on until it is stopped; what came before is there at once.
            let mut child = Command::new("sh");
            let mut child = child.args(["-c", &format!("exec {line}")]).stdout(Stdio::piped()).spawn().unwrap();
            let shown = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let mut shown = shown.inspect(|line| println!("{line}"));
            assert!(shown.any(|line| line.contains("hello") && line.contains("launch")), "it ended without the launch");
            assert!(child.try_wait().unwrap().is_none(), "it goes on");
            child.kill().unwrap();
            child.wait().unwrap();
        } else {
            let ran = Run::new("sh").args(["-euc", &line]).ok();
            assert!(!ran.stdout.trim().is_empty(), "{ran}");
        }
        typed += 1;
    }
    assert!(typed >= 4, "{commands}");

    // Each filter finds what it names and nothing else.
    let query = |args: &[&str]| {
        let rows = world.host.mcpfs(["--json", "audit", "query"]).args(args).ok().stdout;
        rows.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let uid = rustix::process::getuid().as_raw().to_string();
    for (args, column, value) in [
        (&["--server", "hello"][..], "server_name", "hello"),
        (&["--server", "hello@1.1.0"], "version", "1.1.0"),
        (&["--event", "launch"], "event", "launch"),
        (&["--outcome", "refused", "--server", "hello"], "verification_outcome", "PolicyRefused"),
        (&["--outcome", "PolicyRefused"], "verification_outcome", "PolicyRefused"),
        (&["--user", &uid, "--event", "access", "--server", "files"], "server_name", "files"),
    ] {
        let rows = query(args);
        assert!(!rows.is_empty() && rows.iter().all(|row| row[column] == value), "{args:?}: {rows:?}");
    }
    assert!(query(&["--until", "2026-01-01"]).is_empty());
    assert_eq!(query(&["--limit", "1"]).len(), 1);
    assert_eq!(query(&["--limit", "0"]).len(), audit::rows(&world.host).len());
    mount.stop();

    // The seal that verify prints is an anchor: it shows a cut end.
    let seal = world.host.mcpfs(["audit", "verify"]).ok();
    let anchor = seal.stdout.split_whitespace().find(|word| word.len() > 65 && word.contains('@')).unwrap().to_owned();
    world.host.mcpfs(["audit", "verify", "--anchor", &anchor]).ok();
    audit::alter(
        &world.host,
        "DELETE FROM event WHERE seq > (SELECT max(last_seq) FROM seal WHERE last_seq < (SELECT max(last_seq) FROM seal)); \
         DELETE FROM seal WHERE last_seq = (SELECT max(last_seq) FROM seal)",
    );
    world.host.mcpfs(["audit", "verify", "--anchor", &anchor]).exits(4);
}

/// Also the lines that make a token: in the home of a user who has none yet.
fn publishing_as_written() {
    let (hsm, dir) = (Hsm::new(), scratch::dir());
    for name in ["servers", "artefacts"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let artefact = fixture::tar(&fixture::hello_tree(&dir.path().join("artefacts"), "1.0.0"));
    let recipe = Recipe::new("hello", "1.0.0", &artefact).with(fixture::HELLO_LAUNCH);
    std::fs::write(dir.path().join("servers/hello.yaml"), recipe.yaml()).unwrap();
    let site = dir.path().join("site");
    let bin = mcpfs_tests::binaries::bin("mcpfs");
    let path = format!("{}:{}", bin.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut typed = 0;
    for block in blocks("publishing.md", "```") {
        // The check of a pull request has tests of its own.
        if !block.contains("mcpfs-signer ") || block.starts_with("mcpfs-signer check ") {
            continue;
        }
        // Nobody answers questions here, packages are there, and sites of tests are not in /srv.
        let own = |line: &&str| !line.starts_with("apt-get") && !line.starts_with("M=");
        let lines: Vec<&str> = block.lines().filter(own).collect();
        let script = lines
            .join("\n")
            .replace("--label mcpfs ", "--label mcpfs --so-pin 31415926 --pin 846213 ")
            .replace("/srv/mcp", site.to_str().unwrap())
            .replace("--head-key URI", "--head-key \"pkcs11:token=mcpfs;object=head?module-path=$M\"");
        Run::new("sh")
            .args(["-euc", &script])
            .env("PATH", &path)
            .env("HOME", dir.path())
            .env("M", hsm.module())
            .env("MCPFS_PIN_FILE", hsm.pin_file())
            .env("MCPFS_SIGNER_STATE", dir.path().join("state"))
            .dir(dir.path())
            .ok();
        typed += 1;
    }
    assert_eq!(typed, 5, "keys, release, resign, the air gap and a collection");
    let log: Vec<String> = mcpfs_tests::registry::files_below(&site.join("log"));
    assert!(log.len() == 2 && log[0].starts_with("1-") && log[1].starts_with("2-"), "{log:?}");
    Run::new(bin).arg("verify").arg(&site).arg("--trust").arg(dir.path().join("trust.json")).ok();
}
