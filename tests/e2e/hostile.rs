//! Authentic signatures over hostile content: what a stolen release or head key could publish.
//!
//! Each statement here verifies, so the refusal must come from the format behind it.

use mcpfs_tests::audit;
use mcpfs_tests::command::Run;
use mcpfs_tests::forge;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::RELEASE_KEY;
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_trust::digest::Digest;
use mcpfs_trust::layout::Layout;
use serde_json::{Value, json};

use crate::boundary::{HEAD_THIEF, LOCAL_ROOT, RELEASE_THIEF};
use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.attack(
        Attack::new(
            RELEASE_THIEF,
            "hostile::trees",
            "trees that are too deep, loop, leave themselves or name a file twice",
            &["EIO", "exit 4"],
        ),
        trees,
    );
    suite.attack(
        Attack::new(HEAD_THIEF, "hostile::names_in_a_bin", "a server called `..` or the like", &["Malformed"]),
        names_in_a_bin,
    );
    suite.attack(
        Attack::new(HEAD_THIEF, "hostile::names_in_an_entry", "the same in an entry", &["Malformed"]),
        names_in_an_entry,
    );
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "hostile::a_head_from_the_future",
            "a head signed for the year 2099",
            &["ClockRollback"],
        ),
        a_head_from_the_future,
    );
    suite.attack(
        Attack::new(
            LOCAL_ROOT,
            "hostile::a_clock_that_went_back",
            "a clock before the last signed time",
            &["ClockRollback"],
        ),
        a_clock_that_went_back,
    );
}

/// postcard's variable-length number.
fn number(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn text(text: &str, out: &mut Vec<u8>) {
    number(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// A node of an encoded tree (docs/format.md section 9), in preorder.
enum Raw<'a> {
    Directory(&'a str, u32),
    Link(&'a str, &'a str),
    Empty(&'a str),
}

/// An encoded tree that no builder makes, and how many files it has.
fn encoded(nodes: &[Raw<'_>]) -> (Vec<u8>, u64) {
    let mut out = b"mcpftre\x01".to_vec();
    number(nodes.len() as u64, &mut out);
    let mut files = 0;
    for node in nodes {
        match node {
            Raw::Directory(name, children) => {
                text(name, &mut out);
                number(0, &mut out);
                number(u64::from(*children), &mut out);
            }
            Raw::Empty(name) => {
                text(name, &mut out);
                number(1, &mut out);
                out.extend([0, 0]);
                out.extend(Digest::of(b"").as_bytes());
                files += 1;
            }
            Raw::Link(name, target) => {
                text(name, &mut out);
                number(2, &mut out);
                text(target, &mut out);
            }
        }
    }
    (out, files)
}

/// Publishes hello's selected release with this tree, validly signed by the release key.
fn publish(world: &World, tree: &[u8], files: u64) {
    let store = |bytes: &[u8]| {
        let stored = zstd::bulk::compress(bytes, 3).unwrap();
        let named = Digest::of(&stored);
        let object = world.file(&mcpfs_trust::site::object(&named));
        std::fs::create_dir_all(object.parent().unwrap()).unwrap();
        std::fs::write(object, &stored).unwrap();
        json!({"sha256": named, "size": stored.len(), "plain_sha256": Digest::of(bytes), "plain_size": bytes.len()})
    };
    let plain = Digest::of(tree);
    // These trees have no content, so the layout is an empty one.
    let layout = Layout { chunks: Vec::new(), contents: Vec::new() }.encode();
    let layout_chunk = store(&layout);
    let chunk = store(tree);
    let summary = json!({"sha256": plain, "size": tree.len(), "files": files, "bytes": 0});
    let hsm = world.registry.hsm();
    let keyid = hsm.key_id(RELEASE_KEY);
    forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| {
        let mut statement = forge::payload(&entry["signature"]);
        statement["predicate"]["artefact"]["tree"] = summary.clone();
        entry["artefact"]["tree"] = summary.clone();
        for subject in statement["subject"].as_array_mut().unwrap() {
            if subject["name"].as_str().unwrap().starts_with("tree") {
                subject["digest"]["sha256"] = json!(plain);
            }
        }
        entry["layout"] = json!([{
            "platform": entry["layout"][0]["platform"],
            "tree": [chunk],
            "layout": {"sha256": Digest::of(&layout), "size": layout.len(), "chunks": [layout_chunk]},
        }]);
        let payload = serde_json::to_vec(&statement).unwrap();
        entry["signature"] = forge::envelope(hsm, RELEASE_KEY, &keyid, &payload);
    });
}

fn trees() {
    let mut deep: Vec<Raw<'_>> = vec![Raw::Directory("", 1)];
    deep.extend((0..70).map(|level| Raw::Directory("d", u32::from(level < 69))));
    let hostile: [(&str, Vec<Raw<'_>>); 7] = [
        ("deep", deep),
        ("looping", vec![Raw::Directory("", 2), Raw::Link("a", "b"), Raw::Link("b", "a")]),
        ("escaping", vec![Raw::Directory("", 1), Raw::Link("a", "../../etc/passwd")]),
        ("absolute", vec![Raw::Directory("", 1), Raw::Link("a", "/etc/passwd")]),
        ("dots", vec![Raw::Directory("", 1), Raw::Empty("..")]),
        ("slash", vec![Raw::Directory("", 1), Raw::Empty("a/b")]),
        ("twice", vec![Raw::Directory("", 2), Raw::Empty("a"), Raw::Empty("a")]),
    ];
    // The same way with a sound tree works, so the refusals below are about the trees.
    let world = World::new(Reads::Cached);
    let (sound, files) = encoded(&[Raw::Directory("", 2), Raw::Empty("a"), Raw::Link("b", "a")]);
    publish(&world, &sound, files);
    let mount = Mount::start(&world.host);
    world.host.refresh();
    assert_eq!(std::fs::read(world.host.at("hello/1.1.0/tree/b")).unwrap(), b"");
    mount.stop();
    for (what, nodes) in hostile {
        let world = World::new(Reads::Cached);
        let (tree, files) = encoded(&nodes);
        publish(&world, &tree, files);
        let mount = Mount::start(&world.host);
        world.host.refresh();
        let below = errno(std::fs::read_dir(world.host.at("hello/1.1.0/tree")));
        assert_eq!(below, libc::EIO, "{what}");
        assert_eq!(errno(std::fs::read(world.host.at("hello/1.1.0/tree/a"))), libc::EIO, "{what}");
        let rows = audit::rows(&world.host);
        let told = rows
            .iter()
            .any(|row| row.outcome == "Malformed" && row.reason.as_ref().is_some_and(|it| it.contains("tree: ")));
        assert!(told, "{what}: {}", audit::listing(&rows));
        let ran = Run::new(world.run("hello")).exits(77);
        assert!(ran.stdout.is_empty() && !ran.text().contains("panicked"), "{what}: {ran}");
        // Others go on.
        assert_eq!(std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap(), b"deep\n", "{what}");
        assert!(!mount.log().contains("panicked"), "{what}: {}", mount.log());
        let verified = world.host.mcpfs(["verify"]).arg(world.copy.path()).arg("--trust").arg(world.host.trust());
        verified.exits(4).says("Malformed");
    }
}

/// A host whose first look finds what is wrong: nothing is shown, and `run` says why.
fn nothing_is_shown(world: &World, code: &str) {
    let mount = Mount::start(&world.host);
    world.host.refresh_fails(code);
    audit::wait(&world.host, code, None);
    let ran = Run::new(world.run("hello")).exits(77);
    assert!(ran.stderr.contains(code) && ran.stdout.is_empty(), "expected {code}: {ran}");
    assert_eq!(std::fs::read_dir(world.host.mcp()).unwrap().count(), 0);
    assert!(!mount.log().contains("panicked"), "{}", mount.log());
}

fn names_in_a_bin() {
    for name in ["..", ".", "../../etc/passwd", "a/b", "Upper", "", "run", "x\u{0}y"] {
        let world = World::new(Reads::Cached);
        forge::replace_bins(&world.copy.path(), &world.registry, |servers| {
            let mut other = servers[0].clone();
            other["name"] = json!(name);
            servers.insert(0, other);
        });
        nothing_is_shown(&world, "Malformed");
    }
}

fn names_in_an_entry() {
    for name in ["..", "../hello", "a/b"] {
        let world = World::new(Reads::Cached);
        forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| entry["name"] = json!(name));
        let mount = Mount::start(&world.host);
        world.host.refresh();
        let ran = Run::new(world.run("hello")).exits(77);
        assert!(ran.stderr.contains("Malformed") && ran.stdout.is_empty(), "{name}: {ran}");
        audit::expect(&world.host, "Malformed", Some("hello"));
        // One server's entry does not hide the others.
        assert_eq!(std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap(), b"deep\n");
        assert!(!mount.log().contains("panicked"), "{}", mount.log());
    }
}

fn a_head_from_the_future() {
    let world = World::new(Reads::Cached);
    let mount = Mount::start(&world.host);
    world.host.refresh();
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
    let year = |text: &Value| json!(format!("2099{}", &text.as_str().unwrap()[4..]));
    forge::next_head(&world.copy.path(), &world.registry);
    forge::resign_head(&world.copy.path(), &world.registry, |head| {
        (head["issued"], head["expires"]) = (year(&head["issued"]), year(&head["expires"]));
    });
    world.host.refresh_fails("ClockRollback");
    audit::wait(&world.host, "ClockRollback", None);
    world.host.mcpfs(["status"]).ok().says("ClockRollback");
    // It was not taken for the last signed time: what is admitted goes on.
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
    mount.stop();
}

fn a_clock_that_went_back() {
    let world = World::new(Reads::Cached);
    let mount = Mount::start(&world.host);
    world.host.refresh();
    mount.stop();
    // To set the clock of this machine back is to set forward what was signed last.
    let state = rusqlite::Connection::open(world.host.path("state/state.db")).unwrap();
    let changed = state.execute("UPDATE floor SET signed_time = signed_time + 86400", []).unwrap();
    assert_eq!(changed, 1);
    drop(state);
    let _mount = Mount::start(&world.host);
    world.host.refresh_fails("ClockRollback");
    audit::wait(&world.host, "ClockRollback", None);
    let said = world.host.mcpfs(["status"]).ok();
    assert!(said.stdout.contains("ClockRollback"), "{said}");
    // What was admitted before runs, recorded as stale; a name that was not is not admitted.
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
    let rows = audit::rows(&world.host);
    let launch = rows.iter().rfind(|row| row.event == "launch").unwrap();
    assert!(launch.stale && launch.outcome == "ok", "{}", audit::listing(&rows));
}
