//! tuf_conformance/test_basic.py: what is asked for, what is believed, and in which form.

use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::{Mount, is_mounted};
use mcpfs_tests::registry::HEAD_KEY;
use mcpfs_tests::{audit, forge};
use serde_json::{Value, json};

use super::roles::mount_refuses;
use super::{Port, Scenario, Settled, head_of, is_refused, shows_nothing};
use crate::world::{World, errno};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "test_basic_refresh_requests",
        here: "A first look asks for the head, its catalogue, its bins and their entries, in this order and each once.",
        port: Port::Plain(&["ok"], refresh_requests),
    },
    Scenario {
        name: "test_basic_refresh_trusted_data",
        here: "What `status` says of the head is what the site's head says; `verify` of the same site agrees.",
        port: Port::Plain(&["ok"], refresh_trusted_data),
    },
    Scenario {
        name: "test_implicit_refresh",
        here: "Nobody asked for a refresh, and a name that is not in the catalogue is opened.",
        port: Port::Mounted(&["ENOENT"], implicit_refresh),
    },
    Scenario {
        name: "test_invalid_initial_root",
        here: "trust.json without its version: nothing is mounted, nobody is asked.",
        port: Port::Plain(&["Malformed"], invalid_initial_root),
    },
    Scenario {
        name: "test_unsigned_initial_root",
        here: "Not ported: trust.json has no signature, the host's configuration is the authority. One that others \
               could have written is refused: `host::a_trust_root_that_others_can_write`.",
        port: Port::None,
    },
    Scenario {
        name: "test_unsigned_metadata[root, timestamp, snapshot, targets]",
        here: "A head without its signature; a catalogue with another byte; a release without its signature. \
               (A root is not fetched.)",
        port: Port::Plain(&["ThresholdNotMet", "DigestMismatch", "EACCES", "EIO"], unsigned_metadata),
    },
    Scenario {
        name: "test_timestamp_content_changes",
        here: "Another catalogue in a head of the same number. TUF's client goes on quietly; here the second head \
               is a refusal and the proof of one.",
        port: Port::Plain(&["HeadEquivocation"], timestamp_content_changes),
    },
    Scenario {
        name: "test_basic_metadata_hash_support",
        here: "A head that names a catalogue by its digest is followed; one that gives a wrong digest is not.",
        port: Port::Plain(&["ok", "DigestMismatch"], metadata_hash_support),
    },
    Scenario {
        name: "test_metadata_bytes_match",
        here: "A head in other white space is kept as it came: a restart without a network takes it up again.",
        port: Port::Plain(&["ok"], metadata_bytes_match),
    },
    Scenario {
        name: "test_custom_fields",
        here: "A further field of the envelope is ignored, as DSSE has it. A further field of what is signed is \
               refused, also where TUF would take it: a format has a version.",
        port: Port::Plain(&["ok", "Malformed"], custom_fields),
    },
    Scenario {
        name: "test_deprecated_keyid_hash_algorithms",
        here: "A key of trust.json with this field. TUF ignores it; here no field is ignored.",
        port: Port::Plain(&["Malformed"], deprecated_keyid_hash_algorithms),
    },
    Scenario {
        name: "test_incorrect_metadata_type",
        here: "A release statement, signed by the head key, as head.json.",
        port: Port::Plain(&["WrongPredicate", "EACCES"], incorrect_metadata_type),
    },
];

fn refresh_requests() {
    let world = World::new(Reads::Cached);
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    audit::wait(&world.host, "ok", None);
    let head = forge::payload(&forge::read(&world.file("head.json")));
    let catalogue = head["subject"][0]["digest"]["sha256"].as_str().unwrap().to_owned();
    let catalogue_path = format!("catalogue/{catalogue}.json");
    let bin = forge::read(&world.file(&catalogue_path))["bins"][0]["sha256"].as_str().unwrap().to_owned();
    let bin_path = format!("catalogue/bins/{bin}.json");
    let servers = forge::read(&world.file(&bin_path));
    let mut wanted: Vec<String> = vec!["/head.json".to_owned(), format!("/{catalogue_path}"), format!("/{bin_path}")];
    let entry = |server: &Value| format!("/entries/{}.json", server["sha256"].as_str().unwrap());
    wanted.extend(servers["servers"].as_array().unwrap().iter().map(entry));
    let mut asked: Vec<String> = world.site.requests().into_iter().map(|request| request.path).collect();
    // Later looks at the head, which did not change.
    let mut heads = 0;
    asked.retain(|path| path != "/head.json" || std::mem::replace(&mut heads, 1) == 0);
    // Entries come as they come.
    wanted[3..].sort();
    asked.get_mut(3..).expect("head, catalogue, bin").sort();
    assert_eq!(asked, wanted);
}

fn refresh_trusted_data() {
    let world = World::new(Reads::Cached);
    let settled = Settled::on(&world);
    let head = forge::payload(&forge::read(&world.file("head.json")));
    assert_eq!(json!(head_of(&world.host)), head["predicate"]["version"]);
    audit::wait(&world.host, "ok", None);
    let verified = world.host.mcpfs(["verify"]).arg(world.copy.path()).arg("--trust").arg(world.host.trust()).ok();
    assert!(verified.stdout.starts_with("0 problems; "), "{verified}");
    settled.is_unchanged();
}

fn implicit_refresh(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    assert_eq!(errno(std::fs::read(world.host.at("nobody/1.0.0/tree/README"))), libc::ENOENT);
    assert_eq!(world.site.requests()[0].path, "/head.json");
    let head = forge::payload(&forge::read(&world.file("head.json")));
    assert_eq!(json!(head_of(&world.host)), head["predicate"]["version"]);
}

fn invalid_initial_root() {
    let world = World::new(Reads::Cached);
    let mut root = forge::read(&world.host.trust());
    root.as_object_mut().unwrap().remove("version");
    forge::write(&world.host.trust(), &root);
    mount_refuses(&world.host, "Malformed");
    assert!(!is_mounted(&world.host.mcp()) && world.site.requests().is_empty(), "nobody was asked");
}

fn unsigned_metadata() {
    let world = World::new(Reads::Cached);
    let mut head = forge::read(&world.file("head.json"));
    head["signatures"] = json!([]);
    forge::write(&world.file("head.json"), &head);
    shows_nothing(&world, "ThresholdNotMet");

    let world = World::new(Reads::Cached);
    let head = forge::payload(&forge::read(&world.file("head.json")));
    let catalogue = head["subject"][0]["digest"]["sha256"].as_str().unwrap().to_owned();
    crate::world::flip(&world.file(&format!("catalogue/{catalogue}.json")), 100);
    shows_nothing(&world, "DigestMismatch");

    let world = World::new(Reads::Cached);
    forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| {
        entry["signature"]["signatures"] = json!([]);
    });
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    is_refused(&world, "hello", "1.1.0", "ThresholdNotMet");
    audit::expect(&world.host, "ThresholdNotMet", Some("hello"));
    assert_eq!(std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap(), b"deep\n", "others go on");
}

/// Signs the statement of the head again with the site's own key after a change.
fn change_head(world: &World, change: impl FnOnce(&mut Value)) {
    let hsm = world.registry.hsm();
    forge::resign(&world.file("head.json"), hsm, HEAD_KEY, &hsm.key_id(HEAD_KEY), change);
}

fn timestamp_content_changes() {
    let world = World::new(Reads::Cached);
    let settled = Settled::on(&world);
    change_head(&world, |head| head["subject"][0]["digest"]["sha256"] = json!("46".repeat(32)));
    settled.resists("HeadEquivocation");
    let last = world.site.requests().into_iter().next_back().unwrap();
    assert_eq!(last.path, "/head.json", "what it names is not asked for");
}

fn metadata_hash_support() {
    let world = World::new(Reads::Cached);
    let mut settled = Settled::on(&world);
    forge::replace_bins(&world.copy.path(), &world.registry, |_| ());
    settled.follows(1);
    let (real, wrong) = {
        let head = forge::payload(&forge::read(&world.file("head.json")));
        (head["subject"][0]["digest"]["sha256"].as_str().unwrap().to_owned(), "46".repeat(32))
    };
    forge::next_head(&world.copy.path(), &world.registry);
    change_head(&world, |head| head["subject"][0]["digest"]["sha256"] = json!(wrong));
    let place = |digest: &str| world.file(&format!("catalogue/{digest}.json"));
    std::fs::copy(place(&real), place(&wrong)).unwrap();
    settled.resists("DigestMismatch");
}

fn metadata_bytes_match() {
    let mut world = World::new(Reads::Cached);
    let head = std::fs::read_to_string(world.file("head.json")).unwrap();
    let spaced = format!("\n {} \n\n", head.replace("\":", "\"  :\t"));
    std::fs::write(world.file("head.json"), &spaced).unwrap();
    let before = Settled::on(&world).stop();
    world.site.stop();
    let _mount = Mount::start(&world.host);
    assert_eq!((head_of(&world.host), super::shown(&world.host)), before);
    audit::wait(&world.host, "ok", None);
}

fn custom_fields() {
    let world = World::new(Reads::Cached);
    let mut settled = Settled::on(&world);
    forge::next_head(&world.copy.path(), &world.registry);
    let mut head = forge::read(&world.file("head.json"));
    head["custom-field"] = json!("value");
    head["signatures"][0]["extra-field"] = json!({"a": 1, "b": 2});
    forge::write(&world.file("head.json"), &head);
    settled.follows(1);
    forge::next_head(&world.copy.path(), &world.registry);
    change_head(&world, |head| head["predicate"]["another-field"] = json!("value"));
    settled.resists("Malformed");
}

fn deprecated_keyid_hash_algorithms() {
    let world = World::new(Reads::Cached);
    let mut root = forge::read(&world.host.trust());
    root["keys"][0]["keyid_hash_algorithms"] = json!(["md5"]);
    forge::write(&world.host.trust(), &root);
    mount_refuses(&world.host, "Malformed");
}

fn incorrect_metadata_type() {
    let world = World::new(Reads::Cached);
    let hsm = world.registry.hsm();
    let statement = forge::payload(&forge::read(&world.file("servers/hello.json"))["signature"]);
    let bytes = serde_json::to_vec(&statement).unwrap();
    forge::write(&world.file("head.json"), &forge::envelope(hsm, HEAD_KEY, &hsm.key_id(HEAD_KEY), &bytes));
    shows_nothing(&world, "WrongPredicate");
}
