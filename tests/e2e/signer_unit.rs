//! The signing server's unit under real systemd: installed as docs/publishing.md says, at a forge, with a token,
//! a web server and a host in the same machine. Root only.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use mcpfs_tests::accepting::Accepting;
use mcpfs_tests::codehost::{BOT_TOKEN, Kind, Merge};
use mcpfs_tests::fixture;
use mcpfs_tests::gate::Gate;
use mcpfs_tests::installed::{configure, install, programs, write};
use mcpfs_tests::machine::Machine;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::scratch::{copy_dir, is_root, repository, wait_for};
use mcpfs_tests::signing::{self, HOOK_SECRET};
use mcpfs_tests::suite::Suite;
use serde_json::{Value, json};

use crate::desk::{Desk, head_version, statement};
use crate::docs::blocks;

pub(crate) fn register(suite: &mut Suite) {
    if !is_root() {
        return;
    }
    suite.plain("signer_unit::from_installation_to_launch", from_installation_to_launch);
    suite.plain("signer_unit::a_batch_goes_on_after_a_kill_and_a_stop", a_batch_goes_on_after_a_kill_and_a_stop);
    suite.plain("signer_unit::sandboxes_need_the_drop_in", sandboxes_need_the_drop_in);
}

const UNIT: &str = "mcpfs-signer.service";
const PIN: &str = "846213";
/// What a signing server has installed that makes sandboxes, too.
const PACKAGES: &[&str] =
    &["ca-certificates", "git", "softhsm2", "openssh-client", "bubblewrap", "strace", "nodejs", "npm"];
/// Where it listens, as the example of its configuration says.
const PORT: u16 = 8467;

/// The block of commands with this in its first line.
fn commands(first: &str) -> String {
    let blocks = blocks("publishing.md", "```sh");
    let found = blocks.into_iter().find(|block| block.lines().next().is_some_and(|line| line.contains(first)));
    found.unwrap_or_else(|| panic!("docs/publishing.md has no block that begins with {first:?}"))
}

/// The machine, and the forge that it reaches.
struct Server {
    machine: Machine,
    desk: Desk,
    _forge: Accepting,
}

impl Server {
    /// Everything is there, and it was never started.
    fn installed() -> Self {
        let desk = Desk::new(Kind::Github);
        let machine = Machine::boot_with(PACKAGES, |root| {
            programs(root);
            configure(&root.join("etc/mcpfs"), "http://127.0.0.1/", "");
            let site = "server { listen 127.0.0.1:80; root /srv/mcp/site; }\n";
            write(&root.join("etc/nginx/sites-enabled/default"), site);
            let clone = root.join("root/mcpfs");
            for folder in ["target/release", "signer"] {
                fs::create_dir_all(clone.join(folder)).unwrap();
            }
            install("mcpfs-signer", &clone.join("target/release/mcpfs-signer"));
            copy_dir(&repository().join("signer/systemd"), &clone.join("signer/systemd"));
            fs::create_dir(root.join("srv")).unwrap();
            copy_dir(&desk.registry.artefacts(), &root.join("srv/artefacts"));
        });
        let forge = machine.reaches(desk.forge.port());
        let server = Self { machine, desk, _forge: forge };
        server.machine.sh("systemd-sysusers && systemd-tmpfiles --create /usr/lib/tmpfiles.d/mcpfs.conf").ok();
        server.typed(&commands("target/release/mcpfs-signer"));
        for (name, secret) in [("pin", PIN), ("forge-token", BOT_TOKEN), ("hook-secret", HOOK_SECRET)] {
            let file = server.machine.path("/etc/mcpfs-signer/secrets").join(name);
            write(&file, &format!("{secret}\n"));
            fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
        }
        // The PINs that it asks for; the export is for the block that follows, in the same shell.
        let token = commands("/var/lib/mcpfs-signer/tokens");
        let token = token.replace("--label mcpfs", &format!("--label mcpfs --so-pin 31415926 --pin {PIN}"));
        server.typed(&(token + &commands("signer() {")));
        server.machine.sh("cp /etc/mcpfs-signer/trust.json /etc/mcpfs/").ok();
        server.configure("");
        server
    }

    fn started() -> Self {
        let server = Self::installed();
        server.typed(&commands("serve --check-config"));
        server
    }

    /// The shipped example, for this forge and these artefacts.
    fn configure(&self, more: &str) {
        let example = fs::read_to_string(repository().join("signer/systemd/serve.toml")).unwrap();
        let mut text = example;
        for (line, own) in [
            ("api = \"https://api.github.com\"", format!("api = \"{}\"", self.desk.forge.api_url())),
            ("url = \"https://github.com/acme/mcp-registry.git\"", format!("url = \"{}\"", self.desk.forge.git_url())),
            ("poll = \"5m\"", "poll = \"1h\"".to_owned()),
            ("alice-at-github = \"alice@example.com\"", "sec = \"security@example.com\"".to_owned()),
            (
                "bob-at-github = [\"bob@example.com\", \"bob@home.example\"]",
                "plat = [\"platform@example.com\", \"plat@home.example\"]".to_owned(),
            ),
            ("allow_hosts = [\"artefacts.example.com\"]", format!("file_root = \"/srv/artefacts\"\n{more}")),
        ] {
            assert!(text.contains(line), "the example has no {line}");
            text = text.replacen(line, &own, 1);
        }
        write(&self.machine.path("/etc/mcpfs-signer/serve.toml"), &text);
    }

    /// Runs commands as an administrator types them in the clone.
    fn typed(&self, commands: &str) {
        let ran = self.machine.sh(&format!("cd /root/mcpfs\n{commands}")).run();
        assert!(ran.code == 0, "{ran}\n{}", self.journal());
    }

    fn journal(&self) -> String {
        self.machine.journal(UNIT)
    }

    fn site(&self) -> std::path::PathBuf {
        self.machine.path("/srv/mcp/site")
    }

    /// The site, as a host verifies it.
    fn verify(&self) {
        let words = ["verify", "/srv/mcp/site", "--trust", "/etc/mcpfs-signer/trust.json"];
        self.machine.run("mcpfs").args(words).ok();
    }

    fn head(&self) -> u64 {
        head_version(&self.site())
    }

    fn ask(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> (u16, String) {
        signing::ask(self.machine.connect(PORT).expect("it listens"), method, path, headers, body)
    }

    /// The webhook of a push, as the forge sends it.
    fn hook(&self) {
        let body = r#"{"ref":"refs/heads/main"}"#;
        let headers = self.desk.forge.webhook_headers(HOOK_SECRET, body);
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        assert_eq!(self.ask("POST", "/hooks/github", &headers, body.as_bytes()).0, 202);
    }

    /// What waits, and why, once a pass has found it.
    fn refused(&self, name: &str) -> String {
        let recipe = format!("{name}.yaml");
        wait_for("the refusal", || {
            let ready: Value = serde_json::from_str(&self.ask("GET", "/readyz", &[], b"").1).unwrap();
            let text = ready.to_string();
            let pending = ready["pending"].as_array().or(ready["status"]["pending"].as_array());
            let pending = pending.unwrap_or_else(|| panic!("no list in {text}"));
            let one = pending.iter().find(|one| one["recipe"].as_str().is_some_and(|own| own.ends_with(&recipe)))?;
            one["reason"].as_str().map(str::to_owned)
        })
    }

    /// Waits until it says that the last pass left nothing to do, with this head.
    fn settles(&self, head: &str) {
        let line = format!("{head}; nothing to release");
        wait_for(&line, || (self.property("StatusText") == line).then_some(()));
    }

    fn property(&self, name: &str) -> String {
        self.machine.property(UNIT, name)
    }

    fn becomes(&self, state: &str) {
        wait_for(state, || (self.property("ActiveState") == state).then_some(()));
    }

    /// A request with a recipe of these lines behind the reviewed ones, approved and merged.
    fn accept(&self, name: &str, lines: &str, beside: &[(&str, &str)]) {
        let dora = self.desk.forge.clone_as("dora");
        dora.branch(name);
        for (file, text) in beside {
            dora.commit(file, text, "A lock");
        }
        let recipe = self.desk.recipe(name, "1.0.0");
        let reviewed = &recipe[..recipe.find("artefact:").unwrap()];
        dora.commit(&format!("servers/{name}.yaml"), &format!("{reviewed}{lines}"), name);
        dora.push(name).ok();
        let number = self.desk.forge.open("dora", name, name);
        ["sec", "plat"].iter().for_each(|reviewer| self.desk.forge.approve(number, reviewer));
        self.desk.forge.merge(number, "mona", Merge::Squash);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the journal\n{}", self.machine.journal("mcpfs*"));
        }
    }
}

fn from_installation_to_launch() {
    let server = Server::started();
    let (machine, desk) = (&server.machine, &server.desk);
    assert_eq!(server.ask("GET", "/healthz", &[], b""), (200, "ok\n".to_owned()));
    wait_for("the first pass", || (server.ask("GET", "/readyz", &[], b"").0 == 200).then_some(()));
    server.settles("no head yet");
    let dora = desk.forge.clone_as("dora");
    desk.accept(&dora, "hello", "1.0.0", Merge::Squash);
    server.hook();
    server.settles("head 1");
    // A host, by the web server that runs as somebody else.
    machine.systemctl(["restart", "nginx.service"]);
    machine.systemctl(["enable", "--now", "mcpfs.service"]);
    let launched = || McpClient::start_with(machine.command("/mcp/hello/run")).initialize()["serverInfo"].clone();
    assert_eq!(launched()["name"], "hello");
    server.verify();

    // Reload: a good configuration, one that is wrong, a new secret.
    let main = server.property("MainPID");
    server.machine.systemctl(["reload", UNIT]);
    assert!(server.journal().contains("the configuration was read again"), "{}", server.journal());
    let file = machine.path("/etc/mcpfs-signer/serve.toml");
    let good = fs::read(&file).unwrap();
    fs::write(&file, "nonsense = 1\n").unwrap();
    server.machine.systemctl(["reload", UNIT]);
    wait_for("the refusal", || server.journal().contains("the old configuration stays").then_some(()));
    assert_eq!((server.property("MainPID"), server.property("ActiveState")), (main, "active".to_owned()));
    // And a start with it fails, at once and for good.
    let restarted = machine.run("systemctl").args(["restart", UNIT]).run();
    assert!(restarted.code != 0, "{restarted}");
    server.becomes("failed");
    assert_eq!(server.property("ExecMainStatus"), "2");
    fs::write(&file, good).unwrap();
    desk.accept(&dora, "hello", "1.1.0", Merge::Squash);
    machine.systemctl(["reset-failed", UNIT]);
    machine.systemctl(["start", UNIT]);
    server.settles("head 2");
    machine.run("mcpfs").arg("refresh").ok();
    let version = statement(&server.site(), "hello")["predicate"]["version"].clone();
    assert_eq!(version, "1.1.0");
    machine.run("mcpfs").arg("ls").ok().says("1.1.0");
    machine.systemctl(["restart", UNIT]);
    server.settles("head 2");
    assert_eq!(server.head(), 2, "nothing is signed twice");
    machine.systemctl(["stop", UNIT]);
    assert_eq!((server.property("Result"), server.property("ExecMainStatus")), ("success".to_owned(), "0".to_owned()));

    // Nobody reads its secrets, nor its state.
    let journal = server.journal();
    for secret in [PIN, BOT_TOKEN, HOOK_SECRET] {
        assert!(!journal.contains(secret), "{journal}");
    }
    let state = machine.path("/var/lib/mcpfs-signer").metadata().unwrap();
    assert_eq!(state.permissions().mode() & 0o7777, 0o700);
    let found = machine.run("grep").args(["-rlE", &format!("{BOT_TOKEN}|{HOOK_SECRET}"), "/var/lib", "/srv"]).run();
    assert_eq!(found.stdout, "");
    says_its_exposure(machine);
}

/// The documentation has the figures of the unit alone, and with the drop-in.
fn says_its_exposure(machine: &Machine) {
    let figure = || {
        let said = machine.run("systemd-analyze").args(["security", "--no-pager", UNIT]).ok().stdout;
        let figure = said.lines().find_map(|line| line.split_once(&format!("exposure level for {UNIT}: ")));
        figure.unwrap_or_else(|| panic!("no figure in {said}")).1.split(' ').next().unwrap().to_owned()
    };
    let docs = fs::read_to_string(repository().join("docs/publishing.md")).unwrap();
    let said = machine.run("systemd-analyze").args(["verify", "--man=no", UNIT]).ok().text();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("mcpfs")).collect();
    assert_eq!(ours, Vec::<&str>::new());
    let alone = format!("exposure of {} (", figure());
    assert!(docs.contains(&alone), "docs/publishing.md does not say {alone}");
    machine.sh(&format!("cd /root/mcpfs\n{}", commands("sandboxes.conf"))).ok();
    let with_it = format!("(exposure {})", figure());
    assert!(docs.contains(&with_it), "docs/publishing.md does not say {with_it}");
}

fn a_batch_goes_on_after_a_kill_and_a_stop() {
    let server = Server::installed();
    let tar = server.desk.artefact();
    let gates = [1, 2].map(|_| Gate::in_machine(&server.machine, fs::read(tar).unwrap()));
    let hosts: Vec<String> = gates.iter().map(Gate::host).collect();
    server.configure(&format!("allow_hosts = {hosts:?}"));
    server.typed(&commands("serve --check-config"));
    let dora = server.desk.forge.clone_as("dora");
    let slow = |name: &str, gate: &Gate| {
        let artefact = format!("artefact:\n  url: {}\n  sha256: {}\n", gate.url(), fixture::sha256_of(tar));
        server.accept(name, &format!("{artefact}{}", fixture::HELLO_LAUNCH), &[]);
    };
    // In the order of their names.
    for name in ["a", "b", "d", "e", "g"] {
        server.desk.accept(&dora, name, "1.0.0", Merge::Squash);
    }
    slow("c", &gates[0]);
    slow("f", &gates[1]);
    server.hook();

    // Killed in the middle of the third of seven.
    gates[0].comes();
    assert_eq!(server.head(), 2, "{}", server.journal());
    server.machine.systemctl(["kill", "--signal=KILL", "--kill-whom=all", UNIT]);
    // It comes again by itself and goes on; what was in hand comes last, since it may have been what killed it.
    gates[1].comes();
    assert_eq!((server.head(), server.property("NRestarts")), (4, "1".to_owned()), "{}", server.journal());
    server.verify();

    // Asked to stop in the middle of the next slow one: that ends, and the others are left.
    server.machine.systemctl(["stop", "--no-block", UNIT]);
    server.becomes("deactivating");
    gates[1].open();
    server.becomes("inactive");
    let ended = (server.property("Result"), server.head());
    assert_eq!(ended, ("success".to_owned(), 5), "the release in hand ended: {}", server.journal());
    gates[0].open();
    server.machine.systemctl(["start", UNIT]);
    server.settles("head 7");
    assert_eq!(server.head(), 7, "each was released once: {}", server.journal());
    server.verify();
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        assert_eq!(statement(&server.site(), name)["predicate"]["version"], "1.0.0", "{name}");
    }
}

/// A registry of npm with one package, of files alone; gives the lock of it.
fn npm_registry(machine: &Machine) -> String {
    let package = machine.path("/srv/npm/package");
    fs::create_dir_all(&package).unwrap();
    let manifest = json!({"name": "notes", "version": "1.2.0", "bin": {"notes": "server.js"}, "license": "MIT"});
    fs::write(package.join("package.json"), manifest.to_string()).unwrap();
    let code = fs::read_to_string(repository().join("tests/e2e/sources/server.js")).unwrap();
    fs::write(package.join("server.js"), format!("#!/usr/bin/env node\n{code}")).unwrap();
    machine.sh("cd /srv/npm && tar -czf notes-1.2.0.tgz package").ok();
    let sum = machine.sh("openssl dgst -sha512 -binary /srv/npm/notes-1.2.0.tgz | base64 -w0").ok().stdout;
    let integrity = format!("sha512-{sum}");
    let mut version = manifest.clone();
    version["dist"] = json!({"tarball": "http://127.0.0.1:82/notes-1.2.0.tgz", "integrity": integrity});
    let document = json!({"name": "notes", "dist-tags": {"latest": "1.2.0"}, "versions": {"1.2.0": version}});
    fs::write(machine.path("/srv/npm/notes"), document.to_string()).unwrap();
    let served = "server { listen 127.0.0.1:82; root /srv/npm; default_type application/json; }\n";
    write(&machine.path("/etc/nginx/sites-enabled/npm"), served);
    machine.systemctl(["restart", "nginx.service"]);
    write(&machine.path("/etc/mcpfs-signer/npmrc"), "registry=http://127.0.0.1:82/\n");
    let entry = json!({"version": "1.2.0", "integrity": integrity, "license": "MIT", "bin": {"notes": "server.js"}});
    let project = json!({"name": "bundle", "dependencies": {"notes": "1.2.0"}});
    json!({"name": "bundle", "lockfileVersion": 3, "requires": true, "packages": {"": project, "node_modules/notes": entry}})
        .to_string()
}

fn sandboxes_need_the_drop_in() {
    let server = Server::installed();
    let machine = &server.machine;
    machine.sees_the_whole_of_proc();
    let lock = npm_registry(machine);
    write(&machine.path("/tmp/notes.lock.json"), &lock);
    server.configure("allow_registries = [\"npm\"]\nnpmrc = \"/etc/mcpfs-signer/npmrc\"");
    let file = machine.path("/etc/mcpfs-signer/serve.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("run = false"));
    fs::write(&file, text.replace("run = false", "run = true")).unwrap();
    server.typed(&commands("serve --check-config"));

    // A git tag below the artefacts, a package of npm, and an archive: one way into a sandbox each.
    let git = "git -c user.name=x -c user.email=x@example.com";
    let tree = format!(
        "cp -r /srv/artefacts/hello-1.0.0 /srv/artefacts/hello && cd /srv/artefacts/hello && {git} init -q && \
         {git} add . && {git} commit -qm hello && {git} tag v1 && chown -R mcpfs-signer: ."
    );
    machine.sh(&tree).ok();
    let bundled = |source: &str, more: [&str; 4]| {
        let words = ["bundle", source, "--out", "/tmp/bundle.tar"].into_iter().chain(more);
        let ran =
            machine.sh("exec setpriv --reuid mcpfs-signer --regid mcpfs-signer --clear-groups mcpfs-signer \"$@\"");
        let ran = ran.arg("sh").args(words).ok();
        ran.stdout.split_once('\n').unwrap().1.to_owned()
    };
    let from_git = bundled("git+file:hello#v1", ["--file-root", "/srv/artefacts", "--platform", "any"]);
    server.accept("tag", &format!("{from_git}{}", fixture::HELLO_LAUNCH), &[]);
    let npm = ["--npmrc", "/etc/mcpfs-signer/npmrc", "--lock", "/tmp/notes.lock.json"];
    let from_npm = bundled("npm:notes@1.2.0", npm);
    server.accept("notes", &from_npm, &[("servers/notes.lock.json", &lock)]);
    let dora = server.desk.forge.clone_as("dora");
    server.desk.accept(&dora, "hello", "1.0.0", Merge::Squash);

    // Without room for them each is refused by its own name, and the server stands.
    server.hook();
    for name in ["hello", "notes", "tag"] {
        let reason = server.refused(name);
        let says = if name == "hello" { "[run-impossible]" } else { "the sandbox cannot be made" };
        assert!(reason.contains(says), "{name}: {reason}");
    }
    assert_eq!(server.head(), 0);
    server.typed(&commands("sandboxes.conf"));
    // What was refused is tried again when there is something new.
    server.desk.forge.push_past_review("README.md", "A registry.\n", "root@example.com", "Wake up");
    server.hook();
    server.settles("head 3");
    server.verify();
    // Each was started once, and said what it offers.
    for (name, tool) in [("hello", "echo"), ("notes", "note"), ("tag", "echo")] {
        let page = fs::read_to_string(server.site().join(format!("browse/{name}/index.html"))).unwrap();
        assert!(page.contains(&format!("<dt><code dir=\"ltr\">{tool}</code>")), "{name}: {page}");
    }
    // Nothing is left of them; git may be looking at the branch once more.
    let work = machine.path("/var/lib/mcpfs-signer/work");
    wait_for("an empty work folder", || fs::read_dir(&work).unwrap().next().is_none().then_some(()));
    let processes = machine.run("pgrep").args(["-u", "mcpfs-signer", "-l"]).ok().stdout;
    for name in ["bwrap", "strace", "node", "npm", "hello-mcp"] {
        assert!(!processes.contains(name), "{processes}");
    }
}
