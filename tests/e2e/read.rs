//! The mount shows exactly what was reviewed, and nothing can be changed.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mcpfs_tests::command::Run;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::need;
use mcpfs_tests::suite::Suite;

use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("read::the_tree_equals_its_source", the_tree_equals_its_source);
    suite.mounted("read::files_map_and_execute", files_map_and_execute);
    suite.mounted("read::nothing_can_be_written", nothing_can_be_written);
    suite.mounted("read::attributes_name_the_release", attributes_name_the_release);
    suite.mounted("read::the_top_lists_what_is_admitted", the_top_lists_what_is_admitted);
    suite.mounted("read::statfs_and_mount_options", statfs_and_mount_options);
    suite.mounted("read::chunks_are_fetched_once", chunks_are_fetched_once);
}

/// What a tree holds, by relative path.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let what = if meta.is_dir() {
                walk(root, &path, found);
                "directory".to_owned()
            } else if meta.is_symlink() {
                format!("-> {}", path.read_link().unwrap().display())
            } else {
                format!("{} bytes, {}", meta.size(), if meta.mode() & 0o111 == 0 { "plain" } else { "executable" })
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

fn the_tree_equals_its_source(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let (source, shown) = (world.source("files"), world.host.at("files/1.0.0/tree"));
    let (expected, found) = (listing(&source), listing(&shown));
    assert!(expected.len() > 320, "the fixture holds many files");
    assert_eq!(expected, found);
    let cached = || world.host.mcpfs(["--json", "status"]).ok().json()["cache_bytes"].as_u64().unwrap();
    let before = cached();
    for (path, what) in &expected {
        if what.ends_with("plain") || what.ends_with("executable") {
            let same = std::fs::read(source.join(path)).unwrap() == std::fs::read(shown.join(path)).unwrap();
            assert!(same, "{} differs", path.display());
            let mode = shown.join(path).metadata().unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, if what.ends_with("plain") { 0o444 } else { 0o555 }, "{}", path.display());
        }
    }
    assert_eq!(std::fs::read(shown.join("to-leaf")).unwrap(), b"deep\n");
    assert_eq!(std::fs::read_dir(shown.join("to-many")).unwrap().count(), 300);
    // Again by another program, in another order, now that everything is cached.
    Run::new("diff").args(["-r", "--no-dereference"]).arg(&source).arg(&shown).ok();
    assert!(cached() >= before + 320 * 4096, "status says what the cache holds: {before}, {}", cached());
}

fn files_map_and_execute(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let tree = world.host.at("files/1.0.0/tree");
    let ran = Run::new(tree.join("script.sh")).arg("x").ok();
    assert!(ran.stdout.starts_with("ran ") && ran.stdout.ends_with("with x\n"), "{ran}");
    // The dynamic loader maps the program: executing an ELF file is mmap(PROT_EXEC).
    let exe = world.host.at("hello/1.1.0/tree/bin/hello-mcp");
    assert_eq!(Run::new(&exe).stdin("").run().stdout, "");
    // A large file, mapped by a program that maps what it compares.
    Run::new("cmp").arg(world.source("files/large")).arg(tree.join("large")).ok();
    let script = format!(
        "import mmap,sys\nwith open(sys.argv[1],'rb') as f:\n m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\n print(m[{}])\n",
        9 << 19
    );
    let map = |file: PathBuf| Run::new(need("python3", "python3")).args(["-c", &script]).arg(file).ok().stdout;
    assert_eq!(map(tree.join("large")), map(world.source("files/large")));
    assert_eq!(errno(std::process::Command::new(tree.join("size-1")).status()), libc::EACCES);
}

fn nothing_can_be_written(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    for below in ["", "hello", "hello/1.1.0", "hello/1.1.0/tree", "hello/1.1.0/tree/bin"] {
        let dir = world.host.at(below);
        assert_eq!(errno(std::fs::write(dir.join("new"), "x")), libc::EROFS, "write in /{below}");
        assert_eq!(errno(std::fs::create_dir(dir.join("new"))), libc::EROFS, "mkdir in /{below}");
        assert_eq!(errno(std::os::unix::fs::symlink("x", dir.join("new"))), libc::EROFS, "symlink in /{below}");
    }
    for below in ["hello/run", "hello/1.1.0/run", "hello/1.1.0/release.json", "files/1.0.0/tree/size-1"] {
        let file = world.host.at(below);
        assert_eq!(errno(OpenOptions::new().write(true).open(&file)), libc::EROFS, "open {below} for writing");
        assert_eq!(errno(OpenOptions::new().append(true).open(&file)), libc::EROFS, "append to {below}");
        assert_eq!(errno(std::fs::remove_file(&file)), libc::EROFS, "unlink {below}");
        assert_eq!(errno(std::fs::rename(&file, world.host.at("hello/x"))), libc::EROFS, "rename {below}");
        assert_eq!(
            errno(std::fs::set_permissions(&file, PermissionsExt::from_mode(0o777))),
            libc::EROFS,
            "chmod {below}"
        );
        assert_eq!(errno(std::os::unix::fs::chown(&file, Some(1), None)), libc::EROFS, "chown {below}");
    }
}

fn attributes_name_the_release(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let attribute = |below: &str, name: &str| {
        let name = format!("user.mcpfs.{name}");
        let run = Run::new(need("getfattr", "attr")).args(["--absolute-names", "--only-values", "-n", &name]);
        run.arg(world.host.at(below)).ok().stdout
    };
    let file = "files/1.0.0/tree/size-4096";
    assert_eq!(attribute(file, "name"), "files");
    assert_eq!(attribute(file, "version"), "1.0.0");
    assert_eq!(attribute(file, "sha256"), mcpfs_tests::fixture::sha256_of(&world.source("files/size-4096")));
    let id = world.registry.hsm().key_id(mcpfs_tests::registry::RELEASE_KEY);
    assert!(attribute("files/1.0.0", "keys").contains(&id));
    let statement = attribute("files/1.0.0/run", "statement");
    let line = std::fs::read_to_string(world.host.at("files/1.0.0/run")).unwrap();
    assert!(line.lines().next().unwrap().ends_with(&format!("files@1.0.0#{statement}")), "{line}");
    let released = mcpfs_tests::fixture::sha256_of(&world.host.at("files/1.0.0/release.json"));
    assert_eq!(released, statement, "release.json is the statement itself");
}

fn the_top_lists_what_is_admitted(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    let names = |below: &str| {
        let entries = std::fs::read_dir(world.host.at(below)).unwrap();
        let mut names: Vec<String> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["files", "hello"]);
    assert!(names("hello").starts_with(&["1.1.0".to_owned()]) || names("hello").contains(&"1.1.0".to_owned()));
    assert!(names("hello").contains(&"run".to_owned()));
    assert_eq!(names("hello/1.1.0"), ["release.json", "run", "tree"]);
    let listed = world.host.mcpfs(["ls"]).ok().stdout;
    assert!(listed.contains("hello") && listed.contains("files"), "{listed}");
}

fn statfs_and_mount_options(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = world.host.mcp();
    let line = table.lines().find(|line| line.split(' ').nth(4) == at.to_str()).unwrap().to_owned();
    for option in ["ro", "nosuid", "nodev"] {
        assert!(line.split(' ').nth(5).unwrap().split(',').any(|it| it == option), "{option}: {line}");
    }
    assert!(line.contains("default_permissions"), "{line}");
    let facts = rustix::fs::statvfs(&at).unwrap();
    assert!(facts.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    assert_eq!(facts.f_namemax, 255);
    mount.stop();
}

fn chunks_are_fetched_once(reads: Reads) {
    let world = World::new(reads);
    // A machine that stands still for some seconds would rightly make it ask again.
    world.host.drop_in("50-network", "[network]\nstall = \"1h\"\nmetadata = \"1h\"\nobject = \"1h\"\n");
    let _mount = Mount::start(&world.host);
    let tree = world.host.at("files/1.0.0/tree/many");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for entry in std::fs::read_dir(&tree).unwrap() {
                    std::fs::read(entry.unwrap().path()).unwrap();
                }
            });
        }
    });
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for request in world.site.requests().into_iter().filter(|it| it.path.starts_with("/objects/")) {
        *counts.entry(request.path).or_default() += 1;
    }
    assert!(counts.values().all(|count| *count == 1), "fetched more than once: {counts:?}");
    assert!(counts.len() < 60, "300 small files must share chunks, {} requests", counts.len());
}
