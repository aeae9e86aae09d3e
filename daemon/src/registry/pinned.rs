//! What a pin keeps on the disk: all that is cached of a pinned release stays there.
//!
//! Whoever pins wants to start that release on a day on which the registry is gone. So the cache is told the
//! contents of its tree, from the tree on the disk: after each change of what is shown, and after a pinned tree has
//! come. What is unpinned or replaced by another version is evictable again.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::tree::Tree;

use super::{Admitted, Registry};

/// The contents of each pinned release whose tree is here, by tree and layout.
#[derive(Debug, Default)]
pub struct Pinned(BTreeMap<[Digest; 2], Arc<Vec<Digest>>>);

impl Registry {
    /// Tells the cache what is pinned now.
    pub async fn spare_pinned(&self, before: &mut Pinned) {
        let mut now = BTreeMap::new();
        for admitted in self.pinned() {
            let key = [admitted.artefact.tree.sha256, admitted.layout.layout.sha256];
            let known = match before.0.get(&key) {
                Some(known) => Some(Arc::clone(known)),
                None => self.contents_here(&admitted).await.map(Arc::new),
            };
            now.extend(known.map(|known| (key, known)));
        }
        if now.keys().eq(before.0.keys()) {
            return;
        }
        let contents = now.iter().flat_map(|(key, contents)| contents.iter().chain(key));
        self.0.content.keep(contents.copied().collect::<HashSet<_>>());
        *before = Pinned(now);
    }

    /// Tells the cache again whenever that may have changed, for as long as the registry is there.
    pub async fn follow_pinned(self, mut before: Pinned) {
        let mut changes = self.changes();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.0.trees.came() => {}
            }
            self.spare_pinned(&mut before).await;
        }
    }

    fn pinned(&self) -> Vec<Arc<Admitted>> {
        let (config, snapshot) = (self.config(), self.snapshot());
        let pins = config.pins.by_name.iter();
        pins.filter_map(|(name, pin)| snapshot.servers.get(name)?.find(&pin.version).cloned()).collect()
    }

    /// The contents of a release whose tree is cached.
    async fn contents_here(&self, admitted: &Arc<Admitted>) -> Option<Vec<Digest>> {
        let summary = admitted.artefact.tree;
        let bytes = self.0.content.cached_metadata(&summary.sha256, summary.size).await?;
        let contents = tokio::task::spawn_blocking(move || {
            let tree = Tree::decode(&bytes, &summary).ok()?;
            let contents = 0..u32::try_from(tree.contents().len()).ok()?;
            Some(contents.filter_map(|index| tree.content(index)).map(|(_, sha256)| sha256).collect())
        });
        contents.await.ok().flatten()
    }
}
