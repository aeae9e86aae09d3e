//! tuf_conformance/test_basic.py, the rest: what is not there, what lies in another's place, and time.

use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::files_below;
use mcpfs_tests::{audit, forge};

use super::{Port, Scenario, Settled, is_refused, is_shown_nothing, shows_nothing};
use crate::world::World;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "test_url_and_metadata_version_mismatch[root, snapshot, targets]",
        here: "An older catalogue, bin or entry, each well-formed, at the address of the newer one. (A root has \
               no address.)",
        port: Port::Plain(&["DigestMismatch", "EIO"], url_and_metadata_version_mismatch),
    },
    Scenario {
        name: "test_snapshot_404",
        here: "A new head whose catalogue is not there. Unlike TUF's client the host keeps the old head too, until \
               everything that the new one names down to the bins is there.",
        port: Port::Plain(&["Unreachable", "ok"], snapshot_404),
    },
    Scenario {
        name: "test_targets_404",
        here: "A new head whose bin is not there; then one whose entry is not: that one name cannot be decided.",
        port: Port::Plain(&["Unreachable", "EHOSTUNREACH"], targets_404),
    },
    Scenario { name: "test_timestamp_404", here: "No head.json.", port: Port::Plain(&["Unreachable"], timestamp_404) },
    Scenario {
        name: "test_faketime",
        here: "The daemon's clock (faketime) is eight days ahead of a head that lives for seven.",
        port: Port::Plain(&["HeadExpired", "EACCES"], faketime),
    },
];

/// Puts another, shorter file of `directory` in the place of `name`, with white space up to its length.
fn shorter_in_place_of(world: &World, directory: &str, name: &str, also: impl Fn(&[u8]) -> bool) {
    let place = world.file(&format!("{directory}/{name}.json"));
    let length = std::fs::metadata(&place).unwrap().len() as usize;
    let others = files_below(&world.file(directory)).into_iter().filter(|file| *file != format!("{name}.json"));
    let mut bytes = others.map(|file| std::fs::read(world.file(&format!("{directory}/{file}"))).unwrap());
    let mut other = bytes.find(|bytes| bytes.len() <= length && also(bytes)).expect("an older one is kept");
    other.resize(length, b' ');
    std::fs::write(place, other).unwrap();
}

fn names_of(world: &World) -> (String, String, String) {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let head = forge::payload(&forge::read(&world.file("head.json")));
    let catalogue = text(&head["subject"][0]["digest"]["sha256"]);
    let bin = text(&forge::read(&world.file(&format!("catalogue/{catalogue}.json")))["bins"][0]["sha256"]);
    let servers = forge::read(&world.file(&format!("catalogue/bins/{bin}.json")));
    let hello = servers["servers"].as_array().unwrap().iter().find(|server| server["name"] == "hello").unwrap();
    (catalogue, bin, text(&hello["sha256"]))
}

fn url_and_metadata_version_mismatch() {
    let world = World::new(Reads::Cached);
    let (catalogue, bin, entry) = names_of(&world);
    let keep = world.copy.path().with_extension("kept");
    mcpfs_tests::scratch::copy_dir(&world.copy.path(), &keep);
    // All catalogues lie beside the folder of the bins.
    let place = world.file(&format!("catalogue/{catalogue}.json"));
    let other = std::fs::read_dir(world.file("catalogue")).unwrap().map(|file| file.unwrap().path());
    let length = place.metadata().unwrap().len();
    let mut other = other.filter(|file| *file != place && file.is_file() && file.metadata().unwrap().len() <= length);
    let mut bytes = std::fs::read(other.next().expect("an older one is kept")).unwrap();
    bytes.resize(length as usize, b' ');
    std::fs::write(&place, bytes).unwrap();
    let mount = Mount::start(&world.host);
    is_shown_nothing(&world, "DigestMismatch");
    std::fs::copy(keep.join(format!("catalogue/{catalogue}.json")), &place).unwrap();
    shorter_in_place_of(&world, "catalogue/bins", &bin, |_| true);
    is_shown_nothing(&world, "DigestMismatch");
    std::fs::copy(keep.join(format!("catalogue/bins/{bin}.json")), world.file(&format!("catalogue/bins/{bin}.json")))
        .unwrap();
    shorter_in_place_of(&world, "entries", &entry, |bytes| String::from_utf8_lossy(bytes).contains("\"hello\""));
    world.host.refresh();
    is_refused(&world, "hello", "1.1.0", "DigestMismatch");
    audit::expect(&world.host, "DigestMismatch", Some("hello"));
    assert_eq!(std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap(), b"deep\n", "others go on");
    mount.stop();
    std::fs::remove_dir_all(keep).unwrap();
}

fn snapshot_404() {
    let world = World::new(Reads::Cached);
    let mut settled = Settled::on(&world);
    forge::replace_bins(&world.copy.path(), &world.registry, |_| ());
    let file = world.file(&format!("catalogue/{}.json", names_of(&world).0));
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    settled.resists("Unreachable");
    std::fs::write(&file, bytes).unwrap();
    settled.follows(1);
}

fn targets_404() {
    let world = World::new(Reads::Cached);
    let mut settled = Settled::on(&world);
    forge::replace_entry(&world.copy.path(), &world.registry, "files", |entry| {
        entry["status"] = serde_json::json!("active");
    });
    let (_, bin, _) = names_of(&world);
    let file = world.file(&format!("catalogue/bins/{bin}.json"));
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    settled.resists("Unreachable");
    std::fs::write(&file, bytes).unwrap();
    settled.follows(1);
    drop(settled);
    // A first look without the entry of one name.
    let world = World::new(Reads::Cached);
    let (_, _, entry) = names_of(&world);
    std::fs::remove_file(world.file(&format!("entries/{entry}.json"))).unwrap();
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    is_refused(&world, "hello", "1.1.0", "Unreachable");
    assert_eq!(std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap(), b"deep\n", "others go on");
}

fn timestamp_404() {
    let world = World::new(Reads::Cached);
    let settled = Settled::on(&world);
    std::fs::remove_file(world.file("head.json")).unwrap();
    settled.resists("Unreachable");
}

fn faketime() {
    let world = World::new(Reads::Cached);
    world.host.set_clock("+8d");
    shows_nothing(&world, "HeadExpired");
}
