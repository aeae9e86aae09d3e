//! `make demo`: the whole story with real parts, in about a minute.
//!
//! Each line is the result of a real command or a real access; a refusal that does not happen
//! ends the demo with an error. Everything lies below the directory named by the argument,
//! and stays there to be looked at. The parts are those of the end-to-end tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a demonstration: it stops with what went wrong"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mcpfs_tests::command::Run;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::{self, Mount};
use mcpfs_tests::registry::{RELEASE_KEY, Registry, UNKNOWN_KEY, files_below};
use mcpfs_tests::scratch::{self, need};
use mcpfs_tests::site::Site;
use mcpfs_tests::{audit, forge, guard};
use serde_json::json;

fn main() -> ExitCode {
    guard::run(demo)
}

fn demo() -> ExitCode {
    scratch::usual_umask();
    let dir = std::env::args_os().nth(1).map(PathBuf::from);
    if dir.as_ref().is_some_and(|dir| dir.as_os_str().as_encoded_bytes().starts_with(b"-")) {
        eprintln!("usage: mcpfs-demo [FOLDER]    (it is made anew; target/demo without one)");
        return ExitCode::from(2);
    }
    let dir = dir.unwrap_or_else(|| scratch::repository().join("target/demo"));
    // What an interrupted demo left behind.
    let mcp = dir.read_link().unwrap_or_else(|_| dir.clone()).join("host/mcp");
    if mount::is_mounted(&mcp) {
        mount::unmount(&mcp);
    }
    if let Ok(elsewhere) = dir.read_link() {
        // Already removed is as good.
        drop(fs::remove_dir_all(elsewhere));
        fs::remove_file(&dir).expect("target/demo is ours");
    } else if dir.exists() {
        let is_empty = fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_none());
        if !is_empty && !dir.join("host").is_dir() {
            eprintln!("{} is no folder of an earlier demo: name an empty one", dir.display());
            return ExitCode::from(2);
        }
        fs::remove_dir_all(&dir).expect("target/demo is ours");
    }
    fs::create_dir_all(&dir).expect("target/ is ours");
    let dir = safe(&dir);
    scratch::keep_in(&dir);
    // Programs such as nginx live where an ordinary user's PATH does not look: `need` knows.
    let story = Story { dir, started: Instant::now() };
    story.tell();
    ExitCode::SUCCESS
}

/// Where the story can be told: `dir` itself, or a directory below /tmp with a link from `dir` to
/// it. A host refuses a trust root where others could exchange it, and a clone made with a umask
/// of 002 is such a place; root's home is none for a worker that is another user.
fn safe(dir: &Path) -> PathBuf {
    let dir = dir.canonicalize().expect("just made");
    let problem = match (scratch::open_to_others(&dir), scratch::closed_to_others(&dir)) {
        (Some(open), _) => {
            format!("others may write {}, so a host would not believe a trust root in it", open.display())
        }
        (None, Some(closed)) if scratch::is_root() => {
            format!("mcpfs works as the user mcpfs here, whom {} does not let pass", closed.display())
        }
        _ => return dir,
    };
    let elsewhere = tempfile::Builder::new().prefix("mcpfs-demo-").tempdir_in("/tmp").expect("/tmp is for all").keep();
    fs::remove_dir(&dir).expect("just made");
    std::os::unix::fs::symlink(&elsewhere, &dir).expect("own directory");
    println!("{problem}:");
    println!("all of the demo is in {}, with a link from {}", elsewhere.display(), dir.display());
    elsewhere
}

struct Story {
    dir: PathBuf,
    started: Instant,
}

impl Story {
    fn line(&self, label: &str, text: &str) {
        println!("{:5.1} {label:<9}{text}", self.started.elapsed().as_secs_f64());
    }

    fn tell(&self) {
        let registry = self.publish();
        let site = Site::serve(&registry.site());
        let reads = Reads::usual();
        let host = Host::new(&registry.trust(), &site.url(), reads);
        let mount = Mount::start(&host);
        self.line(
            "mount",
            &format!("{} · trust root from {} · reads: {}", host.mcp().display(), host.trust().display(), reads.word()),
        );
        self.list(&host);
        self.launch(&registry, &host);
        self.tamper_site(&registry, &host);
        self.tamper_cache(&host);
        self.forge(&registry, &host);
        self.replay(&registry, &host);
        self.roll_back(&host);
        self.crash(&mount, &host);
        self.go_offline(site, &host);
        self.show_audit(&host);
        mount.stop();
        self.verify_audit(&host);
        let usual = scratch::repository().join("target/demo").canonicalize().is_ok_and(|usual| usual == self.dir);
        let removes = if usual { "`make demo-clean` removes it" } else { "remove it when you have seen enough" };
        self.line("end", &format!("unmounted; all of it is in {}: {removes}", self.dir.display()));
    }

    fn publish(&self) -> Registry {
        let registry = Registry::named("mcp.example.com/demo");
        let hsm = registry.hsm();
        let proof = hsm.signer().args(["keys", "prove", "--key"]).arg(hsm.uri(RELEASE_KEY)).ok();
        assert!(proof.stdout.contains("refused"), "{proof}");
        self.line(
            "key",
            &format!("ed25519 in SoftHSM, {}: export attempt refused by the token", hsm.access(RELEASE_KEY)),
        );
        let recipe = registry.hello("1.0.0");
        registry.release(&recipe);
        let second = registry.hello("1.1.0");
        fs::write(registry.recipe("hello"), second.yaml()).unwrap();
        let check = registry
            .signer()
            .arg("check")
            .arg(registry.recipe("hello"))
            .arg("--file-root")
            .arg(registry.artefacts())
            .ok();
        let verdict = check.text().lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned();
        registry.release_command("hello").ok();
        let files = files_below(&registry.site()).len();
        self.line("review", &format!("servers/hello.yaml: {verdict}"));
        self.line("sign", &format!("hello 1.0.0, 1.1.0 → site of {files} static files"));
        let page = registry.site().join("index.html");
        assert!(fs::read_to_string(&page).unwrap().contains("browse/hello/index.html"));
        self.line("pages", &format!("for people: file://{} (not signed); for IDEs: v0.1/servers", page.display()));
        // A third server, which nobody signed, is put into the site.
        let site = registry.site();
        let mut entry = forge::read(&site.join("servers/hello.json"));
        entry["name"] = json!("intruder");
        entry.as_object_mut().unwrap().remove("earlier");
        entry["signature"]["signatures"][0]["sig"] = json!(format!("{}==", "A".repeat(86)));
        let (sha256, size) = forge::store(&site.join("entries"), &serde_json::to_vec(&entry).unwrap());
        forge::replace_bins(&site, &registry, |servers| {
            servers.push(json!({"name": "intruder", "sha256": sha256, "size": size}));
        });
        registry
    }

    fn list(&self, host: &Host) {
        host.refresh();
        let mut names: Vec<String> =
            fs::read_dir(host.mcp()).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["hello"], "only what verifies is listed");
        let refused = Run::new(host.at("intruder/run")).exits(77).says("SignatureInvalid");
        self.line("ls", "hello        (the site also has an unsigned server: not shown)");
        self.line("", &format!("intruder/run → exit {}: {}", refused.code, refused.stderr.trim()));
    }

    fn launch(&self, registry: &Registry, host: &Host) {
        let time = |program: &Path, version: &str| -> (Duration, usize) {
            let mut client = McpClient::start(program);
            let answer = client.initialize();
            let took = client.since_start();
            assert_eq!(answer["serverInfo"]["version"], version);
            let tools = client.tools().len();
            assert_eq!(client.call("add", &json!({"a": 20, "b": 22})), "42");
            assert_eq!(client.end().code, 0);
            (took, tools)
        };
        let run = host.at("hello/run");
        let (cold, tools) = time(&run, "1.1.0");
        let (warm, _) = time(&run, "1.1.0");
        let (native, _) = time(&registry.artefacts().join("hello-1.1.0/bin/hello-mcp"), "1.1.0");
        let ms = |time: Duration| time.as_millis();
        self.line(
            "launch",
            &format!(
                "hello/run → MCP initialize ok, {tools} tools   cold {} ms; warm {} ms (native {} ms)",
                ms(cold),
                ms(warm),
                ms(native)
            ),
        );
    }

    fn tamper_site(&self, registry: &Registry, host: &Host) {
        let tree = host.at("hello/1.0.0/tree");
        // Names are known, content is not fetched yet.
        fs::read_dir(&tree).unwrap().for_each(drop);
        let objects = registry.site().join("objects");
        let flip_all = || files_below(&objects).iter().for_each(|file| flip(&objects.join(file)));
        flip_all();
        let error = fs::read(tree.join("README")).expect_err("altered bytes reached a reader");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
        audit::expect(host, "DigestMismatch", Some("hello"));
        self.line(
            "TAMPER",
            "one bit flipped in each object of the site → EIO DigestMismatch; nothing reached the process",
        );
        flip_all();
        assert_eq!(fs::read_to_string(tree.join("README")).unwrap(), "hello 1.0.0: echo, add, whoami\n");
    }

    fn tamper_cache(&self, host: &Host) {
        let content = b"1.1.0\n";
        let files = host.cached_files();
        let file =
            files.iter().find(|file| fs::read(file).is_ok_and(|bytes| bytes == content)).expect("VERSION is cached");
        let before = audit::rows(host).len();
        flip(file);
        assert_eq!(
            fs::read(host.at("hello/1.1.0/tree/bin/VERSION")).unwrap(),
            content,
            "altered bytes reached a reader"
        );
        let rows = audit::rows(host);
        assert!(
            rows[before..].iter().any(|row| row.outcome == "DigestMismatch"),
            "{}",
            audit::listing(&rows[before..])
        );
        self.line("TAMPER", "one bit flipped in the cache → healed: quarantined, refetched, same digest");
    }

    fn forge(&self, registry: &Registry, host: &Host) {
        let (site, hsm) = (registry.site(), registry.hsm());
        registry.generate(UNKNOWN_KEY);
        let good = forge::read(&site.join("servers/hello.json"));
        forge::replace_entry(&site, registry, "hello", |entry| {
            let mut statement = forge::payload(&entry["signature"]);
            statement["predicate"]["version"] = json!("6.6.6");
            entry["version"] = json!("6.6.6");
            let payload = serde_json::to_vec(&statement).unwrap();
            entry["signature"] = forge::envelope(hsm, UNKNOWN_KEY, &hsm.key_id(UNKNOWN_KEY), &payload);
        });
        host.refresh();
        let ran = Run::new(host.at("hello/run")).exits(77).says("KeyNotAuthorised");
        let error = fs::read_dir(host.at("hello/6.6.6/tree")).expect_err("a forged release is readable");
        assert!(matches!(error.raw_os_error(), Some(libc::EACCES | libc::ENOENT)), "{error}");
        self.line("FORGE", &format!("hello 6.6.6 signed by another key → {}", ran.stderr.trim()));
        forge::replace_entry(&site, registry, "hello", |entry| *entry = good);
        host.refresh();
        assert_eq!(version(host), "1.1.0");
    }

    fn replay(&self, registry: &Registry, host: &Host) {
        let file = registry.site().join("head.json");
        let old = fs::read(&file).unwrap();
        forge::next_head(&registry.site(), registry);
        host.refresh();
        let new = fs::read(&file).unwrap();
        let number =
            |bytes: &[u8]| forge::payload(&serde_json::from_slice(bytes).unwrap())["predicate"]["version"].clone();
        fs::write(&file, &old).unwrap();
        host.refresh_fails("HeadRollback");
        audit::wait(host, "HeadRollback", None);
        let status = host.mcpfs(["status"]).run().says(&format!("head {}", number(&new)));
        assert!(status.stdout.contains("HeadRollback"), "{status}");
        self.line(
            "REPLAY",
            &format!(
                "an older head served again → HeadRollback {} < {}; the mount stays on {}",
                number(&old),
                number(&new),
                number(&new)
            ),
        );
        fs::write(&file, &new).unwrap();
        host.refresh();
    }

    fn roll_back(&self, host: &Host) {
        let mut running = McpClient::start(&host.at("hello/run"));
        assert_eq!(running.initialize()["serverInfo"]["version"], "1.1.0");
        host.mcpfs(["pin", "hello", "1.0.0", "--reason", "demo"]).ok();
        assert_eq!(version(host), "1.0.0");
        assert_eq!(running.call("echo", &json!({"message": "here"})), "here");
        host.mcpfs(["unpin", "hello"]).ok();
        self.line("ROLLBACK", "mcpfs pin hello 1.0.0 → next launch 1.0.0; the running 1.1.0 untouched");
    }

    /// Root only: an ordinary user's daemon is one process, and what it serves ends with it.
    fn crash(&self, mount: &Mount<'_>, host: &Host) {
        if !scratch::is_root() {
            return;
        }
        let mut running = McpClient::start(&host.at("hello/run"));
        running.initialize();
        let killed = Instant::now();
        mount.kill_worker();
        assert_eq!(version(host), "1.1.0");
        let waited = killed.elapsed().as_millis();
        assert_eq!(running.call("echo", &json!({"message": "here"})), "here");
        self.line(
            "CRASH",
            &format!("kill -9 of the daemon's worker → the next launch waited {waited} ms; what runs goes on"),
        );
    }

    fn go_offline(&self, site: Site, host: &Host) {
        drop(site);
        host.refresh_fails("Unreachable");
        assert_eq!(version(host), "1.1.0");
        let rows = audit::rows(host);
        let last = rows.iter().rfind(|row| row.event == "launch").expect("a launch");
        assert!(last.stale && last.outcome == "ok", "{last:?}");
        self.line("OFFLINE", "registry stopped → the cached server launches, its audit row says stale=1");
    }

    fn show_audit(&self, host: &Host) {
        let columns = "user_id, server_name, version, verification_outcome";
        self.line("audit", &format!("SELECT {columns}, event, stale FROM access"));
        let sql = format!(
            "SELECT {columns}, event, stale FROM access WHERE event IN ('launch','refusal','refresh','access') ORDER BY seq"
        );
        let rows =
            Run::new(need("sqlite3", "sqlite3")).args(["-readonly", "-column"]).arg(host.audit_db()).arg(sql).ok();
        let lines: Vec<&str> = rows.stdout.lines().collect();
        assert!(lines.len() > 6, "{rows}");
        for line in &lines {
            println!("               {line}");
        }
    }

    fn verify_audit(&self, host: &Host) {
        host.mcpfs(["audit", "verify"]).ok();
        // On a copy: the real one stays sound for whoever looks later.
        let copy = host.path("altered.db");
        fs::copy(host.audit_db(), &copy).unwrap();
        let sql =
            "UPDATE event SET outcome = 'ok' WHERE seq = (SELECT max(seq) FROM event WHERE outcome = 'HeadRollback')";
        Run::new(need("sqlite3", "sqlite3")).arg(&copy).arg(sql).ok();
        let ran = host.mcpfs(["audit", "verify", "--db"]).arg(&copy).exits(4);
        let verdict = ran.text().lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned();
        self.line("verify", &format!("chain ok; then one row edited with sqlite3 → \"{verdict}\" (expected)"));
    }
}

fn version(host: &Host) -> String {
    let mut client = McpClient::start(&host.at("hello/run"));
    let answer = client.initialize();
    answer["serverInfo"]["version"].as_str().expect("a version").to_owned()
}

/// Flips one bit in the middle of a file.
fn flip(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mode = file.metadata().unwrap().permissions();
    fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(file, bytes).unwrap();
    fs::set_permissions(file, mode).unwrap();
}
