//! A bit of each kind of file that a host reads, and what a daemon then shows: what was published, or nothing.
//!
//! `flip` asks the verification and `mcpfs verify` at every byte; here the whole host is asked, at a few.

use std::collections::BTreeMap;
use std::path::Path;

use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::{Registry, files_below};
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_tests::{audit, forge};
use serde_json::Value;

use crate::boundary::SITE;
use crate::flip::{needed, small};
use crate::world::{errno, flip};

pub(crate) fn register(suite: &mut Suite) {
    suite.attack(
        Attack::new(
            SITE,
            "altered::a_daemon_shows_nothing_else",
            "a bit of a head, catalogue, bin, entry, tree, layout or chunk, at places all over each: what can be read \
             is what was published",
            &["DigestMismatch", "EIO"],
        ),
        a_daemon_shows_nothing_else,
    );
}

/// Where a bit of each file is changed: its first byte, its last one, and between.
const PLACES: usize = 3;

/// The files of each kind that the daemon reads of a small site, at least one of each.
fn kinds(site: &Path, registry: &Registry) -> BTreeMap<&'static str, Vec<String>> {
    let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let object = |chunk: &Value| {
        let digest = chunk["sha256"].as_str().unwrap();
        format!("objects/{}/{digest}", &digest[..2])
    };
    let all = files_below(&site.join("objects"));
    let mut contents: Vec<String> = all.iter().map(|file| format!("objects/{file}")).collect();
    for file in needed(registry) {
        let kind = match file.split('/').collect::<Vec<_>>().as_slice() {
            ["head.json"] => "head",
            ["catalogue", "bins", _] => "bin",
            ["catalogue", _] => "catalogue",
            ["entries", _] => "entry",
            _ => continue,
        };
        kinds.entry(kind).or_default().push(file.clone());
        if kind == "entry" {
            let entry = forge::read(&site.join(&file));
            for layout in entry["layout"].as_array().unwrap() {
                let listed = |list: &Value| list.as_array().unwrap().iter().map(object).collect::<Vec<_>>();
                kinds.entry("tree").or_default().extend(listed(&layout["tree"]));
                kinds.entry("layout").or_default().extend(listed(&layout["layout"]["chunks"]));
            }
            // Of other versions too: those are no content either.
            for earlier in entry["earlier"].as_array().into_iter().flatten() {
                for layout in earlier["layout"].as_array().unwrap() {
                    let lists = [&layout["tree"], &layout["layout"]["chunks"]];
                    contents.retain(|file| {
                        !lists.iter().any(|list| list.as_array().unwrap().iter().any(|it| object(it) == *file))
                    });
                }
            }
        }
    }
    contents.retain(|file| !["tree", "layout"].iter().any(|kind| kinds[kind].contains(file)));
    kinds.insert("chunk", contents);
    kinds
}

/// Reads everything that was published; how many files could not be.
fn compare(host: &Host, registry: &Registry) -> usize {
    let mut failed = 0;
    for (name, version) in [("words", "1.1.0"), ("words", "1.0.0"), ("bytes", "1.0.0")] {
        let source = registry.artefacts().join(format!("{name}-{version}"));
        for file in files_below(&source) {
            match std::fs::read(host.at(&format!("{name}/{version}/tree/{file}"))) {
                Ok(bytes) => {
                    assert!(
                        bytes == std::fs::read(source.join(&file)).unwrap(),
                        "{name}/{version}/{file} is another file"
                    );
                }
                Err(error) => {
                    if error.raw_os_error() == Some(libc::EIO) {
                        errno::<()>(Err(error));
                    }
                    failed += 1;
                }
            }
        }
    }
    failed
}

fn a_daemon_shows_nothing_else() {
    let registry = small();
    let copy = registry.site_copy();
    let site = Site::serve(&copy.path());
    let kinds = kinds(&copy.path(), &registry);
    assert_eq!(kinds.len(), 7, "{kinds:?}");
    let look = || {
        let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
        let mount = Mount::start(&host);
        // Followed or not: what counts is what can be read.
        host.mcpfs(["refresh"]).run();
        let failed = compare(&host, &registry);
        let said = audit::rows(&host).into_iter().any(|row| row.outcome == "DigestMismatch");
        if said {
            audit::expect(&host, "DigestMismatch", None);
        }
        mount.stop();
        (failed, said)
    };
    assert_eq!(look(), (0, false), "the sound site is read whole");
    for (kind, files) in &kinds {
        for place in 0..PLACES {
            let file = copy.path().join(&files[place % files.len()]);
            let length = file.metadata().unwrap().len() as usize;
            let at = (length - 1) * place / (PLACES - 1);
            flip(&file, at);
            let (failed, said) = look();
            // The key's name in a head is a hint, and white space says nothing.
            let without_effect = *kind == "head" && failed == 0;
            assert!(without_effect || failed > 0, "{kind}: byte {at} of {} had no effect", file.display());
            assert!(*kind == "head" || said, "{kind}: byte {at} of {}", file.display());
            flip(&file, at);
        }
    }
}
