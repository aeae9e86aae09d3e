//! Decoded trees and layouts, up to a budget of memory.
//!
//! Node ids are positions in the verified tree, so a tree that was dropped and loaded again
//! is the same tree: dropping the least recently used one is always safe, and whoever holds
//! its `Arc` keeps it. One load per tree however many ask.

use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::Code;
use mcpfs_trust::layout::Layout;
use mcpfs_trust::tree::Tree;
use tokio::sync::Notify;

use super::Admitted;
use crate::content::{Content, ReleaseContent};
use crate::refusal::Refusal;

/// What all kept trees and layouts may take, bytes.
const BUDGET: u64 = 48 << 20;

/// The tree and the layout that a load gave.
type Key = (Digest, Digest);

#[derive(Debug)]
pub(super) struct Trees {
    kept: Mutex<Kept>,
    /// One load at a time for each of a few shares of the trees.
    loading: [tokio::sync::Mutex<()>; 8],
    came: Notify,
}

#[derive(Debug)]
struct Kept {
    by_key: LruCache<Key, (Arc<ReleaseContent>, u64)>,
    bytes: u64,
}

impl Default for Trees {
    fn default() -> Self {
        Self {
            kept: Mutex::new(Kept { by_key: LruCache::unbounded(), bytes: 0 }),
            loading: Default::default(),
            came: Notify::new(),
        }
    }
}

impl Trees {
    /// The content of a release.
    pub(super) async fn load(
        &self,
        content: &Content,
        admitted: &Arc<Admitted>,
    ) -> Result<Arc<ReleaseContent>, Refusal> {
        let tree = &admitted.artefact.tree;
        let layout = &admitted.layout.layout;
        let key = (tree.sha256, layout.sha256);
        if let Some(found) = self.find(&key) {
            return Ok(found);
        }
        let share = usize::from(tree.sha256.as_bytes()[0]) % self.loading.len();
        let _alone = self.loading[share].lock().await;
        if let Some(found) = self.find(&key) {
            return Ok(found);
        }
        let hold = content.hold([tree.sha256, layout.sha256]);
        let (tree_bytes, layout_bytes) = tokio::try_join!(
            content.metadata("tree", &tree.sha256, tree.size, &admitted.layout.tree),
            content.metadata("layout", &layout.sha256, layout.size, &layout.chunks),
        )?;
        // In memory, nodes and extents take about three times their encoded size.
        let cost = 3 * (tree_bytes.len() as u64 + layout_bytes.len() as u64);
        let summary = *tree;
        let decoded = tokio::task::spawn_blocking(move || {
            let tree = Tree::decode(&tree_bytes, &summary)?;
            let layout = Layout::decode(&layout_bytes, &tree)?;
            Ok::<_, Refusal>(ReleaseContent::new(tree, layout, Some(hold)))
        });
        let decoded = decoded.await.map_err(|_| Refusal::new(Code::Malformed, "decoding the tree was aborted"))?;
        let decoded = Arc::new(decoded.map_err(|refusal| refusal.of(admitted.name()))?);
        self.keep(key, &decoded, cost);
        self.came.notify_one();
        Ok(decoded)
    }

    /// Waits for the next tree that is loaded.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }

    fn find(&self, key: &Key) -> Option<Arc<ReleaseContent>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_key.get(key).map(|(content, _)| Arc::clone(content))
    }

    fn keep(&self, key: Key, content: &Arc<ReleaseContent>, cost: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, old)) = kept.by_key.put(key, (Arc::clone(content), cost)) {
            kept.bytes -= old;
        }
        kept.bytes += cost;
        // The one just loaded stays, even if it is larger than the budget.
        while kept.bytes > BUDGET && kept.by_key.len() > 1 {
            if let Some((_, (_, old))) = kept.by_key.pop_lru() {
                kept.bytes -= old;
            }
        }
    }
}
