//! Who uses the mount, each in a thread.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcpfs_trust::digest::Digest;
use serde_json::json;

use super::{FILLER_BYTES, World, fillers};
use crate::fixture;
use crate::mcp::McpClient;
use crate::registry::files_below;

use super::tally::{Here, Tally, Wants};

/// A file of the mount and what must be in it.
pub(super) struct Known {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Where the cache has it.
    cached: PathBuf,
}

/// What everybody reads, over and over.
pub(super) struct All {
    mount: PathBuf,
    files: Vec<Known>,
    /// Where the cache has the trees and layouts of these releases, once all was read.
    metadata: Vec<PathBuf>,
}

impl Known {
    /// What the cache has of it.
    fn here(&self) -> Here {
        if self.bytes.is_empty() { Some(Vec::new()) } else { here([&self.cached]) }
    }
}

impl All {
    /// Trees and layouts: a worker that has just begun needs them for everything.
    fn metadata(&self) -> Here {
        here(&self.metadata)
    }

    fn here(&self, known: &Known) -> Here {
        Some([known.here()?, self.metadata()?].concat())
    }
}

/// These files as they are now, if all of them are. One that was evicted and fetched again is another one.
fn here<'f>(files: impl IntoIterator<Item = &'f PathBuf>) -> Here {
    let one = |file: &PathBuf| {
        let metadata = file.metadata().ok()?;
        Some((metadata.ino(), metadata.created().ok()))
    };
    files.into_iter().map(one).collect()
}

/// A content's place below the cache.
fn cache_place(bytes: &[u8]) -> String {
    let sha256 = Digest::of(bytes).to_string();
    format!("files/{}/{sha256}", &sha256[..2])
}

fn said(path: &Path) -> impl Fn(io::Error) -> String + '_ {
    move |error| format!("{}: {error}", path.display())
}

/// Where the mount, its cache, and the sources of its releases `hello` and `files` are.
pub(super) struct Place {
    pub(super) mount: PathBuf,
    pub(super) cache: PathBuf,
    pub(super) sources: PathBuf,
}

/// Every file of what all read; reads it once, so that it is here.
pub(super) fn all(place: &Place, tally: &Tally) -> All {
    let trees = [("hello-1.1.0", "hello/1.1.0"), ("files", "files/1.0.0")];
    let Place { mount, cache, sources } = place;
    let of = |(directory, release): (&str, &str)| {
        let (source, tree) = (sources.join(directory), mount.join(release).join("tree"));
        let file = |name: String| {
            let bytes = std::fs::read(source.join(&name)).expect("ours");
            Known { path: tree.join(&name), cached: cache.join(cache_place(&bytes)), bytes }
        };
        files_below(&source).into_iter().filter(|name| source.join(name).is_file()).map(file).collect::<Vec<_>>()
    };
    let mut all = All { mount: mount.clone(), files: trees.into_iter().flat_map(of).collect(), metadata: Vec::new() };
    all.read(tally);
    let metadata = std::fs::read_dir(cache.join("metadata")).expect("the cache's");
    all.metadata = metadata.map(|entry| entry.expect("the cache's").path()).collect();
    assert!(!all.metadata.is_empty(), "trees and layouts are cached");
    all
}

impl All {
    fn compare(&self, known: &Known, tally: &Tally) {
        let wants = Wants::Files(&|| self.here(known));
        let read = tally.operation("a read", &wants, || std::fs::read(&known.path).map_err(said(&known.path)));
        if let Some(read) = read {
            tally.same(&known.path.display().to_string(), &read, &known.bytes);
        }
    }

    /// Reads each file once.
    pub(super) fn read(&self, tally: &Tally) {
        self.files.iter().for_each(|known| self.compare(known, tally));
    }
}

/// Opens, reads, compares, lists and stats; and keeps one file open for long.
pub(super) fn read(all: &All, tally: &Tally, seed: usize) {
    let kept = all.files.iter().max_by_key(|known| known.bytes.len()).expect("files");
    let open = File::open(&kept.path).expect("it was just read");
    let metadata = Wants::Files(&|| all.metadata());
    for turn in seed.. {
        if tally.is_over() {
            return;
        }
        let known = &all.files[(turn * 7919) % all.files.len()];
        all.compare(known, tally);
        let path = &known.path;
        let parent = path.parent().expect("below the mount");
        let listed = tally.operation("a listing", &metadata, || {
            let names = std::fs::read_dir(parent).and_then(|names| names.collect::<io::Result<Vec<_>>>());
            names.map_err(said(parent))
        });
        if let Some(listed) = listed
            && !listed.iter().any(|entry| entry.path() == *path)
        {
            tally.same(&format!("the listing of {}", parent.display()), b"", b"its file");
        }
        let missing = path.with_file_name("no-such-file");
        tally.operation("a lookup", &metadata, || match missing.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => Err(format!("{}: {other:?}", missing.display())),
        });
        let at = (turn * 65_537) % kept.bytes.len().saturating_sub(4096);
        let mut part = vec![0; 4096];
        let wants = Wants::Files(&|| all.here(kept));
        let read = || open.read_exact_at(&mut part, at as u64).map_err(said(&kept.path));
        if tally.operation("a read of what is open", &wants, read).is_some() {
            tally.same("what is open", &part, &kept.bytes[at..at + 4096]);
        }
    }
}

/// What the session's answers are counted as.
pub(super) const ANSWERS: &str = "answers of the session";

/// One session that goes on through everything.
pub(super) fn converse(mut session: McpClient, tally: &Tally) {
    while !tally.is_over() {
        let answered = tally.operation("a call", &Wants::Nothing, || {
            let answer = session.call("echo", &json!({"message": "still here"}));
            if answer == "still here" { Ok(()) } else { Err(answer) }
        });
        if answered.is_some() {
            tally.count(ANSWERS);
        }
        tally.sleep(Duration::from_millis(20));
    }
    session.end();
}

/// One launch of `hello` after the other.
pub(super) fn launch(start: &(dyn Fn() -> McpClient + Sync), all: &All, tally: &Tally) {
    let hello = all.mount.join("hello");
    let program: Vec<&Known> = all.files.iter().filter(|known| known.path.starts_with(&hello)).collect();
    let here = || program.iter().map(|known| all.here(known)).collect::<Option<Vec<_>>>().map(|each| each.concat());
    while !tally.is_over() {
        tally.attempt("a launch", &Wants::Files(&here), || {
            let launched = catch_unwind(AssertUnwindSafe(|| {
                let mut client = start();
                let version = client.initialize()["serverInfo"]["version"].clone();
                client.end();
                version
            }));
            let version = launched.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())?;
            if version == "1.1.0" { Ok(()) } else { Err(version.to_string()) }
        });
        tally.count("launches");
        tally.sleep(Duration::from_millis(200));
    }
}

/// New releases, followed and read at once.
pub(super) fn publish(world: &World, tally: &Tally) {
    while !tally.is_over() {
        let number = world.next_version();
        let version = format!("1.0.{number}");
        let bytes = fixture::bytes(number + 1_000, 300_000);
        let recipe = world.quick.recipe("churn", &version, &[("data", &bytes)]);
        world.quick.release(&recipe, &world.quick.site()).ok();
        tally.count("releases");
        let path = world.host.at(&format!("churn/{version}/tree/data"));
        let followed = tally.attempt("a refresh", &Wants::Site, || {
            let ran = world.host.mcpfs(["refresh"]).run();
            if ran.code == 0 { Ok(()) } else { Err(ran.to_string()) }
        });
        if followed.is_some()
            && let Some(read) =
                tally.attempt("a first read", &Wants::Site, || std::fs::read(&path).map_err(said(&path)))
        {
            tally.same(&path.display().to_string(), &read, &bytes);
            tally.count("releases read");
        }
        tally.sleep(Duration::from_secs(1));
    }
}

/// Reads more than the cache may hold, over and over.
pub(super) fn fill(world: &World, tally: &Tally) {
    for (name, seed) in fillers().collect::<Vec<_>>().into_iter().cycle() {
        if tally.is_over() {
            return;
        }
        let path = world.host.at(&format!("{name}/1.0.0/tree/data"));
        if let Some(read) = tally.attempt("a large read", &Wants::Site, || std::fs::read(&path).map_err(said(&path))) {
            tally.same(&name, &read, &fixture::bytes(seed, FILLER_BYTES));
            tally.count("large reads");
        }
        tally.sleep(Duration::from_millis(300));
    }
}

/// Alters a file of the cache that nobody has open, and reads it through the mount.
pub(super) fn alter(world: &World, tally: &Tally) {
    let bytes = fixture::bytes(99, FILLER_BYTES);
    let path = world.host.at("victim/1.0.0/tree/data");
    while !tally.is_over() {
        let read =
            tally.attempt("a read of what was altered", &Wants::Site, || std::fs::read(&path).map_err(said(&path)));
        if let Some(read) = read {
            tally.same("what was altered", &read, &bytes);
        }
        if world.cached_files_of(&bytes).into_iter().any(|file| flip(&file).is_ok()) {
            tally.count("cached files altered");
        }
        tally.sleep(Duration::from_millis(700));
    }
}

fn flip(file: &Path) -> io::Result<()> {
    std::fs::set_permissions(file, PermissionsExt::from_mode(0o644))?;
    let open = File::options().read(true).write(true).open(file)?;
    let mut byte = [0];
    open.read_exact_at(&mut byte, 4_000_000)?;
    open.write_all_at(&[byte[0] ^ 1], 4_000_000)
}

impl World {
    /// Files of the cache with this content; some may vanish meanwhile.
    fn cached_files_of(&self, bytes: &[u8]) -> Vec<PathBuf> {
        let found = crate::command::Run::new("find").arg(self.host.path("cache"));
        let found = found.args(["-type", "f", "-size", &format!("{}c", bytes.len())]).run().stdout;
        found.lines().map(PathBuf::from).filter(|file| std::fs::read(file).is_ok_and(|read| read == bytes)).collect()
    }
}
