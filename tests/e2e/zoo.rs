//! The zoo: archives, recipes and addresses that try to be more than they seem, made by other
//! tools than ours (`zoo.py`). Of each: the check names the entry and the problem, within bounds of
//! memory and time; nothing is published; the site still verifies.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::Run;
use mcpfs_tests::registry::{RELEASE_KEY, Registry};
use mcpfs_tests::scratch::{self, need, repository};
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("zoo::archives", archives);
    suite.plain("zoo::recipes", recipes);
    suite.plain("zoo::policies", policies);
    suite.plain("zoo::addresses", addresses);
    suite.plain("zoo::a_tarball_changed_behind_its_address", a_tarball_changed_behind_its_address);
}

/// Address space of a check, KiB. A debug build of the signer itself wants a part of it.
const MEMORY: u64 = 1 << 21;

/// Each animal, the rule that finds it, and what is said.
const ARCHIVES: &[(&str, &str, &str)] = &[
    ("climbs.tar", "archive", "\"../../evil\" climbs with '..'"),
    ("climbs-in-the-middle.tar", "archive", "\"a/../../evil\" climbs with '..'"),
    ("pax-climbs.tar", "archive", "/../../evil\" climbs with '..'"),
    ("absolute.tar", "archive", "\"/etc/cron.d/evil\" is an absolute path"),
    ("link-out.tar", "archive", "out: a link that leads out of the tree"),
    ("link-chain.tar", "archive", "out: a link that leads out of the tree"),
    ("link-loop.tar", "archive", "a: a loop of links"),
    ("through-a-link.tar", "archive", "\"up/evil\" lies below a link"),
    ("hard-link-out.tar", "archive", "\"../../etc/shadow\" climbs with '..'"),
    ("hard-link-to-nothing.tar", "archive", "\"a\" is a hard link to something that is not a file before it"),
    ("device.tar", "archive", "\"sda\" is a device"),
    ("null.tar", "archive", "\"null\" is a device"),
    ("pipe.tar", "archive", "\"pipe\" is a named pipe"),
    ("unknown-kind.tar", "archive", "\"odd\" is of the unknown type 0x5a"),
    ("twice.tar", "archive", "\"run.sh\" stands there twice"),
    ("file-and-folder.tar", "archive", "\"a/b\" lies below a file"),
    ("not-utf-8.tar", "archive", "has a name that is not UTF-8"),
    ("newline.tar", "archive", "\"a\\\\nb\" not a file name"),
    ("deep.tar", "archive", "d/d/d"),
    ("long.tar", "archive", "nnn"),
    ("gnu-sparse.tar", "archive", "\"hole\" is a sparse file"),
    ("pax-sparse.tar", "archive", "a sparse file in pax form"),
    ("size-twice.tar", "archive", "\"a\" has two different sizes in its headers"),
    ("absurd-mode.tar", "archive", "when getting mode for a"),
    ("negative-size.tar", "archive", "size overflow"),
    ("announces-8-gib.tar", "archive", "\"a\" has 9728 bytes where 8589934591 were announced"),
    ("second-archive.tar", "archive", "bytes after the end of the archive"),
    ("cut.tar", "archive", "\"a\" has 188 bytes where 600 were announced"),
    ("bomb.tar.gz", "archive", "refused as a decompression bomb"),
    ("bomb-in-bomb.tar.gz", "archive", "damaged or cut off"),
    ("html.tar", "archive", "not a .tar, .tar.gz, .tar.zst or .zip archive"),
    ("empty.tar", "archive", "it begins with nothing"),
    ("climbs.zip", "archive", "\"../../evil\" climbs with '..'"),
    ("absolute.zip", "archive", "\"/etc/evil\" is an absolute path"),
    ("backslash.zip", "archive", "evil\" has a backslash in its name"),
    ("link-out.zip", "archive", "out: a link that leads out of the tree"),
    ("link-chain.zip", "archive", "out: a link that leads out of the tree"),
    ("through-a-link.zip", "archive", "\"up/evil\" lies below a link"),
    ("twice.zip", "archive", "\"README\" stands there twice"),
    ("device.zip", "archive", "\"sda\" is a device"),
    ("pipe.zip", "archive", "\"pipe\" is a named pipe"),
    ("absurd-mode.zip", "archive", "\"odd\" is of an unknown type"),
    ("bomb.zip", "archive", "refused as a decompression bomb"),
    ("two-names.zip", "archive", "\"evil\" has a local header that contradicts the directory"),
    ("two-sizes.zip", "archive", "\"evil\" has a local header that contradicts the directory"),
    ("two-sums.zip", "archive", "\"evil\" has a local header that contradicts the directory"),
    ("two-methods.zip", "archive", "\"evil\" has a local header that contradicts the directory"),
    ("encrypted.zip", "archive", "\"evil\" is encrypted"),
    ("overlapping.zip", "archive", "\"evil\" leaves a gap or overlaps with another entry"),
    ("not-utf-8.zip", "archive", "has a name that is not UTF-8"),
    ("unlisted.zip", "archive", "bytes between the last entry and the directory"),
    ("wrong-count.zip", "archive", "a zip file in several parts"),
    ("trailing.zip", "archive", "cut off, or bytes after it"),
    ("in-front.zip", "archive", "it begins with 23 21 2f 62"),
    ("cut.zip", "archive", "no zip directory at the end of the file"),
    // These have one meaning, so a reviewer decides.
    ("case.tar", "name-case", "differs from \"README\" beside it only in case"),
    ("case.zip", "name-case", "differs from \"README\" beside it only in case"),
    ("unicode.tar", "name-case", "only in case or Unicode form"),
    ("reversed.tar", "name-bidi", "has the invisible character U+202E"),
    ("special-bits.tar", "special-bits", "mode 6755: its special bits are dropped"),
    ("special-bits.zip", "special-bits", "mode 4755: its special bits are dropped"),
    ("all-mode-bits.tar", "special-bits", "mode 7777: its special bits are dropped"),
    ("dangling.tar", "link-dangling", "the link to \"nothing\" leads nowhere"),
    ("deep-manifest.zip", "bundle-unread", "nested too deeply"),
    ("two-manifests.zip", "bundle-unread", "duplicate key \"manifest_version\""),
];

/// A registry with one release; its site must be the same afterwards.
struct Zoo {
    registry: Registry,
    head: Vec<u8>,
}

impl Zoo {
    fn open() -> Self {
        let registry = Registry::new();
        registry.release(&registry.hello("1.0.0"));
        let head = std::fs::read(registry.site().join("head.json")).unwrap();
        Self { registry, head }
    }

    fn recipe(&self, url: &str, sha256: &str) -> PathBuf {
        let text = format!(
            "name: zoo\nversion: 1.0.0\nmaintainer: m@example.com\ndescription: an animal\n\
             data_classification: public\nreviewed_at: 2026-04-15\nreviewers: [r@example.com]\n\
             artefact:\n  url: \"{url}\"\n  sha256: {sha256}\nlaunch: {{command: node}}\n"
        );
        let path = self.registry.recipe("zoo");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn check(&self, recipe: &Path) -> Run {
        self.registry.signer().arg("check").arg(recipe).arg("--file-root").arg(self.registry.artefacts())
    }

    /// `release`, which must publish nothing.
    fn refuses(&self, recipe: &Path, allow: &[&str]) {
        let release = self.registry.publishing("release").arg(recipe).arg("--key");
        let release = release.arg(self.registry.hsm().uri(RELEASE_KEY));
        release.arg("--file-root").arg(self.registry.artefacts()).args(allow).exits(1);
        assert_eq!(std::fs::read(self.registry.site().join("head.json")).unwrap(), self.head, "{}", recipe.display());
    }

    /// The site is what it was, as a host sees it.
    fn close(&self) {
        assert_eq!(std::fs::read(self.registry.site().join("head.json")).unwrap(), self.head);
        assert!(!self.registry.site().join("servers/zoo.json").exists());
        let verify = Run::new(bin("mcpfs")).arg("verify").arg(self.registry.site());
        verify.arg("--trust").arg(self.registry.trust()).ok();
    }
}

fn archives() {
    let zoo = Zoo::open();
    let folder = zoo.registry.artefacts();
    let before: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name()).collect();
    Run::new(need("python3", "python3")).arg(repository().join("tests/e2e/zoo.py")).arg(&folder).ok();
    let made = std::fs::read_dir(&folder).unwrap().filter(|file| !before.contains(&file.as_ref().unwrap().file_name()));
    assert_eq!(made.count(), ARCHIVES.len(), "each animal has its line");
    for (name, rule, said) in ARCHIVES {
        let sha256 = mcpfs_tests::fixture::sha256_of(&folder.join(name));
        let recipe = zoo.recipe(&format!("file:{name}"), &sha256);
        let ran = zoo.check(&recipe).arg("--json").memory(MEMORY).run();
        let found = ran.json();
        let findings = found["findings"].as_array().unwrap();
        let about = findings.iter().filter(|one| one["rule"] == *rule);
        let line = |one: &serde_json::Value| {
            format!("{}: {}", one["subject"].as_str().unwrap(), one["message"].as_str().unwrap())
        };
        assert!(about.clone().any(|one| line(one).contains(said)), "{name}: {findings:#?}");
        let error = *rule == "archive";
        assert_eq!((ran.code, found["passed"] == false), (i32::from(error), error), "{name}: {ran}");
        if error {
            zoo.refuses(&recipe, &[]);
        }
    }
    zoo.close();
}

/// YAML that means more than a reviewer sees, or more than a reader can hold.
fn recipes() {
    let zoo = Zoo::open();
    let fine = std::fs::read_to_string(zoo.recipe("file:x.tar", &"0".repeat(64))).unwrap();
    let laughs = (1..10).fold("a0: &a0 [x, x]\n".to_owned(), |text, level| {
        let refers = vec![format!("*a{}", level - 1); 10].join(", ");
        format!("{text}a{level}: &a{level} [{refers}]\n")
    });
    let with = |from: &str, to: &str| fine.replace(from, to).into_bytes();
    let animals: Vec<(&str, Vec<u8>)> = vec![
        ("an anchor", with("description: an", "description: &d an")),
        ("an alias", with("maintainer: m@example.com", "maintainer: *d")),
        ("a merge key", format!("{fine}<<: {{version: 2.0.0}}\n").into_bytes()),
        ("a bomb of aliases", format!("{laughs}{fine}").into_bytes()),
        ("a tag", with("version: 1.0.0", "version: !!python/object/apply:os.system [id]")),
        ("a key twice", format!("{fine}version: 2.0.0\n").into_bytes()),
        ("a second document", format!("{fine}---\n{fine}").into_bytes()),
        ("deep brackets", format!("{fine}scope: {}\n", "[".repeat(10_000)).into_bytes()),
        ("deep braces", format!("{fine}sandbox: {}\n", "{a: ".repeat(5_000)).into_bytes()),
        ("more than 64 KiB", format!("{fine}# {}\n", "x".repeat(70_000)).into_bytes()),
        ("not UTF-8", [fine.as_bytes(), b"# \xff\xfe\n"].concat()),
        ("a NUL", with("an animal", "an\0animal")),
        ("an unknown field", format!("{fine}lawfull_basis: x\n").into_bytes()),
        ("another file's name", with("name: zoo", "name: ../zoo")),
        ("a list for a mapping", b"- name: zoo\n".to_vec()),
        ("nothing", Vec::new()),
    ];
    let path = zoo.registry.recipe("zoo");
    for (name, text) in animals {
        std::fs::write(&path, text).unwrap();
        let ran = zoo.check(&path).arg("--json").memory(MEMORY).run();
        let found = ran.json();
        assert_eq!((ran.code, &found["passed"]), (1, &serde_json::json!(false)), "{name}: {ran}");
        let first = &found["findings"][0];
        assert_eq!(first["rule"], "recipe", "{name}: {found:#}");
        zoo.refuses(&path, &[]);
    }
    zoo.close();
}

/// A policy or waivers file that cannot be read as it stands never counts as none.
fn policies() {
    let zoo = Zoo::open();
    std::fs::write(zoo.registry.recipe("hello"), zoo.registry.hello("1.0.1").yaml()).unwrap();
    let recipe = zoo.registry.recipe("hello");
    for (file, text) in [
        ("policy.yaml", &b"reviewers: &r {minimum: 1}\n"[..]),
        ("policy.yaml", b"severity: {digest: note}\n"),
        ("policy.yaml", b"\xff\xfe"),
        ("policy.yaml", b"require: [nothing]\n"),
        ("waivers.yaml", b"waivers: *all\n"),
        (
            "waivers.yaml",
            b"waivers:\n  - {rule: digest, server: hello, subject: '*', reason: x, by: y, expires: 2199-01-01}\n",
        ),
        ("waivers.yaml", b"waivers: {}\n"),
    ] {
        let path = zoo.registry.site().with_file_name(file);
        std::fs::write(&path, text).unwrap();
        let ran = zoo.check(&recipe).memory(MEMORY).exits(1);
        assert!(ran.stdout.contains("[policy-file]") || ran.stdout.contains("[waiver-refused]"), "{file}: {ran}");
        zoo.refuses(&recipe, &[]);
        std::fs::remove_file(path).unwrap();
    }
    zoo.close();
}

/// Counts who knocks at a port of loopback.
struct Door {
    port: u16,
    knocks: Arc<AtomicUsize>,
}

impl Door {
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let knocks = Arc::new(AtomicUsize::new(0));
        let count = knocks.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for _knock in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, knocks }
    }
}

/// Every way to write an address that a signing host must not ask.
fn addresses() {
    let zoo = Zoo::open();
    let door = Door::open();
    let port = door.port;
    let hosts = [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "ip6-localhost",
        "127.0.0.1.",
        "\u{2460}27.0.0.1",
        "127\u{3002}0\u{3002}0\u{3002}1",
        "artefacts.example.com@127.0.0.1",
        "artefacts.example.com:x@127.0.0.1",
        "127.0.0.1#@artefacts.example.com",
        "127.0.0.1\\\\@artefacts.example.com",
        "169.254.169.254",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "10.0.0.1",
        "metadata.google.internal",
        "artefacts.example.com.evil.example",
        "artefacts.example.com.",
    ];
    let allow = ["--allow-host", "artefacts.example.com"];
    let digest = "0".repeat(64);
    for host in hosts {
        for scheme in ["http", "https"] {
            let url = match host.split_once('#') {
                Some((host, rest)) => format!("{scheme}://{host}:{port}#{rest}"),
                None => format!("{scheme}://{host}:{port}/x.tar"),
            };
            let recipe = zoo.recipe(&url, &digest);
            let ran = zoo.check(&recipe).args(allow).memory(MEMORY).exits(1);
            assert!(ran.stdout.contains("[fetch]") || ran.stdout.contains("[recipe]"), "{url}: {ran}");
        }
    }
    for url in ["gopher://127.0.0.1/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "file:../../etc/passwd", "data:,x"] {
        let ran = zoo.check(&zoo.recipe(url, &digest)).args(allow).memory(MEMORY).exits(1);
        assert!(ran.stdout.contains("[fetch]") || ran.stdout.contains("[recipe]"), "{url}: {ran}");
    }
    // A listed name that leads to a private address, and a listed host that sends elsewhere.
    let named = format!("http://localhost.localdomain:{port}");
    let recipe = zoo.recipe(&format!("{named}/x.tar"), &digest);
    zoo.check(&recipe).args(["--allow-host", &named]).memory(MEMORY).exits(1).says("[fetch]");
    for to in [
        format!("http://127.0.0.1:{port}/x"),
        "http://169.254.169.254/latest/".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let sender = sends_to(&to);
        let listed = format!("http://127.0.0.1:{sender}");
        let recipe = zoo.recipe(&format!("{listed}/x.tar"), &digest);
        let allow = ["--allow-host", listed.as_str()];
        zoo.check(&recipe).args(allow).memory(MEMORY).exits(1).says("[fetch]");
        zoo.refuses(&recipe, &allow);
    }
    assert_eq!(door.knocks.load(Ordering::SeqCst), 0, "somebody was asked");
    drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
    zoo.close();
}

/// A server of loopback that redirects everybody; it ends with the test's process.
fn sends_to(location: &str) -> u16 {
    use std::io::{Read as _, Write as _};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer =
        format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _request = stream.read(&mut [0; 4096]);
            let _gone = stream.write_all(answer.as_bytes());
        }
    });
    port
}

fn a_tarball_changed_behind_its_address() {
    let zoo = Zoo::open();
    let folder = scratch::dir();
    let served = folder.path().join("served");
    std::fs::create_dir(&served).unwrap();
    let tree = mcpfs_tests::fixture::hello_tree(folder.path(), "2.0.0");
    let tar = mcpfs_tests::fixture::tar(&tree);
    std::fs::copy(&tar, served.join("x.tar")).unwrap();
    let site = Site::serve(&served);
    let url = format!("{}x.tar", site.url());
    let listed = site.url().trim_end_matches('/').to_owned();
    let allow = ["--allow-host", listed.as_str()];
    let recipe = zoo.recipe(&url, &mcpfs_tests::fixture::sha256_of(&tar));
    zoo.check(&recipe).args(allow).ok();
    // The same address, one byte more inside.
    std::fs::write(tree.join("README"), "changed\n").unwrap();
    std::fs::copy(mcpfs_tests::fixture::tar(&tree), served.join("x.tar")).unwrap();
    zoo.check(&recipe).args(allow).exits(1).says("[digest]").says("the recipe pins");
    zoo.refuses(&recipe, &allow);
    zoo.close();
}
