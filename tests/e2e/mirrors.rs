//! A mirror that answers with wrong but well-formed bytes, alone and beside a good one.

use std::path::Path;

use mcpfs_tests::audit;
use mcpfs_tests::command::Run;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::{SiteCopy, files_below};
use mcpfs_tests::scratch::wait_for;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::{Attack, Suite};

use crate::boundary::SITE;
use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted_attack(
        Attack::new(
            SITE,
            "mirrors::a_lying_mirror_beside_a_good_one",
            "the same beside a mirror that does not lie: a request more, and a row that names the liar",
            &["the next mirror"],
        ),
        a_lying_mirror_beside_a_good_one,
    );
    suite.mounted_attack(
        Attack::new(SITE, "mirrors::a_lying_mirror_alone", "each file of the site with the bytes of another", &["EIO"]),
        a_lying_mirror_alone,
    );
}

/// Below `dir` every file gets the bytes of the next one: each is well-formed and what another was asked for.
fn rotate(dir: &Path) {
    let files: Vec<_> = files_below(dir).into_iter().map(|file| dir.join(file)).collect();
    assert!(files.len() > 1, "{}: nothing to mix up", dir.display());
    let mut all: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    all.rotate_left(1);
    for (file, bytes) in files.iter().zip(all) {
        std::fs::remove_file(file).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
}

/// What is larger than the file that was asked for is refused by its size, all else by its digest.
const WRONG: [&str; 2] = ["DigestMismatch", "SizeExceeded"];

fn has_wrong(world: &World, server: &str) -> bool {
    WRONG.iter().any(|code| audit::has(&world.host, code, Some(server)))
}

/// A copy of the site with another entry for each entry, and another version's objects for each object.
fn lying(world: &World) -> SiteCopy {
    let copy = world.registry.site_copy();
    for directory in ["entries", "objects"] {
        rotate(&copy.path().join(directory));
    }
    copy
}

fn a_lying_mirror_beside_a_good_one(reads: Reads) {
    let world = World::new(reads);
    let copy = lying(&world);
    let liar = Site::serve(&copy.path());
    world.host.configure_mirrors(&[&liar.url(), &world.site.url()]);
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    for file in ["large", "twin", "size-131073", "many/299.txt"] {
        let shown = std::fs::read(world.host.at(&format!("files/1.0.0/tree/{file}"))).unwrap();
        assert!(shown == std::fs::read(world.source("files").join(file)).unwrap(), "{file}");
    }
    for version in ["1.0.0", "1.1.0"] {
        let mut client = McpClient::start(&world.host.at(&format!("hello/{version}/run")));
        assert_eq!(client.initialize()["serverInfo"]["version"], version);
    }
    let asked = |kind: &str| liar.requests().iter().any(|request| request.path.starts_with(kind));
    assert!(asked("/entries/") && asked("/objects/"), "it was asked first");
    // The lies have rows that name the liar.
    let told = |why: &String| why.contains(liar.url().trim_end_matches('/'));
    wait_for("a row that names the liar", || {
        let rows = audit::rows(&world.host);
        let lie = |row: &audit::Row| WRONG.contains(&row.outcome.as_str()) && row.reason.as_ref().is_some_and(told);
        rows.iter().any(lie).then_some(())
    });
    mcpfs_tests::proof::note("the next mirror");
}

fn a_lying_mirror_alone(reads: Reads) {
    let world = World::new(reads);
    // Entries first: no name can be decided.
    let copy = lying(&world);
    let liar = Site::serve(&copy.path());
    world.host.configure(&liar.url());
    let mount = Mount::start(&world.host);
    world.host.refresh();
    let ran = Run::new(world.run("hello")).exits(77);
    assert!(ran.stdout.is_empty() && WRONG.iter().any(|code| ran.stderr.contains(code)), "{ran}");
    assert!(has_wrong(&world, "hello") && has_wrong(&world, "files"), "{}", audit::listing(&audit::rows(&world.host)));
    mount.stop();
    // Then objects alone: names are there, no byte is.
    let objects = world.registry.site_copy();
    rotate(&objects.path().join("objects"));
    let liar = Site::serve(&objects.path());
    world.host.configure(&liar.url());
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    assert_eq!(errno(std::fs::read(world.host.at("files/1.0.0/tree/twin"))), libc::EIO);
    assert!(has_wrong(&world, "files"), "{}", audit::listing(&audit::rows(&world.host)));
    let wrong = world.source("files/twin").metadata().unwrap().len();
    assert!(world.host.cached_files().iter().all(|file| file.metadata().unwrap().len() != wrong), "nothing is kept");
}
