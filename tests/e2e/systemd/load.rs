//! What happens to the service while others use its mount.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mcpfs_tests::host::Reads;
use mcpfs_tests::installed::Installed;
use mcpfs_tests::registry::files_below;
use mcpfs_tests::scratch::{Until, wait_for};
use serde_json::json;

use crate::takeover::compare;

/// Does things to the service, one after the other, while others read, launch and talk: none of them may fail.
pub(crate) fn under_load(on: &Installed, things: &[(&str, &dyn Fn())]) {
    under_load_with(Reads::Passthrough, on, things);
}

pub(super) fn under_load_with(reads: Reads, on: &Installed, things: &[(&str, &dyn Fn())]) {
    let (tree, source) = (on.machine.path("/mcp/hello/1.1.0/tree"), on.registry.artefacts().join("hello-1.1.0"));
    let files = files_below(&source);
    let mut session = on.session();
    let mounts = on.machine.mounts_at("/mcp");
    assert_eq!(mounts.len(), 1);
    // As long as this is open the kernel gives the mount's number to no other.
    let held = fs::File::open(on.machine.path("/mcp")).unwrap();
    let (over, launched) = (AtomicBool::new(false), AtomicU64::new(0));
    let compared: u64 = std::thread::scope(|scope| {
        let until = Until(&over);
        let readers: Vec<_> = (0..2)
            .map(|seed| {
                let (tree, source, files, over) = (&tree, &source, &files, &over);
                scope.spawn(move || compare(tree, source, files, over, seed))
            })
            .collect();
        let launcher = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                drop(on.session());
                launched.fetch_add(1, Ordering::Relaxed);
            }
        });
        for (name, thing) in things {
            let before = launched.load(Ordering::Relaxed);
            thing();
            assert_eq!(session.call("echo", &json!({"message": name})), *name);
            wait_for("a launch after it", || {
                assert!(!launcher.is_finished(), "the launcher failed after {name}");
                (launched.load(Ordering::Relaxed) > before + 1).then_some(())
            });
            assert_eq!(on.machine.mounts_at("/mcp"), mounts, "{name}: another mount\n{}", on.journal());
        }
        drop(until);
        launcher.join().unwrap();
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert!(compared > 0);
    drop(held);
    on.mcpfs(["status"]).ok().says(&format!("reads {}", reads.word()));
    on.mcpfs(["audit", "verify"]).ok();
}
