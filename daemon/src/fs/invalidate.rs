//! Taking back from the kernel what a new snapshot no longer shows.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::Arc;

use fuser::{INodeNo, Notifier};
use mcpfs_trust::name::ServerName;

use super::ino::{Ino, ServerPlace};
use super::vfs::RUN;
use crate::config::Access;
use crate::registry::{Registry, Server, Snapshot};

/// A name in a directory that the kernel is to ask for again.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    parent: Ino,
    name: String,
}

/// Follows the registry's snapshots in a thread of its own until `over` resolves. Never a FUSE
/// thread: the kernel may answer an invalidation only after a request that waits for one.
///
/// # Errors
/// If no thread can be started.
pub(super) fn follow(
    runtime: tokio::runtime::Handle,
    registry: Registry,
    notifier: Notifier,
    over: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let told = registry.clone();
    let following = async move {
        let mut changes = registry.changes();
        let mut shown = registry.snapshot();
        // What a predecessor told the kernel may be of a configuration that never came into force, or of one
        // that did in its last moment.
        regroup(&notifier, shown.servers.values().filter(|server| shown.access.group_of(&server.name).is_some()));
        registry.set_shown(Some(shown.generation));
        while changes.changed().await.is_ok() {
            let next = registry.snapshot();
            // First of all: until then the kernel lets in whom it let in before.
            regroup(&notifier, regrouped(&shown, &next));
            for Entry { parent, name } in differences(&shown, &next) {
                if let Err(error) = notifier.inval_entry(INodeNo(parent.0), OsStr::new(&name)) {
                    tracing::debug!(%error, name, "the kernel did not take an invalidation; it forgets within seconds");
                }
            }
            shown = next;
            registry.set_shown(Some(shown.generation));
        }
    };
    let both = async move {
        tokio::select! {
            () = over => {}
            () = following => {}
        }
        told.set_shown(None);
    };
    std::thread::Builder::new().name("fuse-invalidate".to_owned()).spawn(move || runtime.block_on(both)).map(drop)
}

/// Servers that are for another group than before.
fn regrouped<'a>(old: &Snapshot, new: &'a Snapshot) -> impl Iterator<Item = &'a Arc<Server>> {
    let same = old.access == new.access;
    let differs = move |server: &&Arc<Server>| {
        let gid = |access: &Access| access.group_of(&server.name).map(|group| group.gid);
        !same && gid(&old.access) != gid(&new.access)
    };
    new.servers.values().filter(differs)
}

/// Has the kernel ask for the attributes of their directories again.
fn regroup<'a>(notifier: &Notifier, servers: impl Iterator<Item = &'a Arc<Server>>) {
    for server in servers {
        let ino = Ino::server(server.slot, ServerPlace::Directory);
        // An offset below zero: attributes alone.
        match notifier.inval_inode(INodeNo(ino.0), -1, 0) {
            Ok(()) => {}
            // It keeps nothing of it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, name = %server.name, "the kernel did not take another group; it asks within seconds")
            }
        }
    }
}

/// The names that lead elsewhere, or nowhere, or that led nowhere before.
fn differences(old: &Snapshot, new: &Snapshot) -> Vec<Entry> {
    let names: BTreeSet<&ServerName> = old.servers.keys().chain(new.servers.keys()).collect();
    let mut entries = vec![];
    for name in names {
        let (before, after) = (old.servers.get(name), new.servers.get(name));
        match (before, after) {
            (Some(before), Some(after)) if Arc::ptr_eq(before, after) => {}
            (Some(before), Some(after)) if before.slot == after.slot => below(before, after, &mut entries),
            _ => entries.push(Entry { parent: Ino::ROOT, name: name.to_string() }),
        }
    }
    entries
}

fn below(before: &Server, after: &Server, entries: &mut Vec<Entry>) {
    let parent = Ino::server(after.slot, ServerPlace::Directory);
    let selected = |server: &Server| server.selected.as_ref().map(|admitted| admitted.slot).ok();
    if selected(before) != selected(after) {
        entries.push(Entry { parent, name: RUN.to_owned() });
    }
    let versions = |server: &Server| -> BTreeSet<String> {
        server.admitted().iter().map(|admitted| admitted.version().to_string()).collect()
    };
    let (before, after) = (versions(before), versions(after));
    entries.extend(before.symmetric_difference(&after).map(|name| Entry { parent, name: name.clone() }));
}
