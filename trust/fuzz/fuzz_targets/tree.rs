//! A tree has one encoding, its links stay inside, and every node is found by its path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpfs_trust::tree::{NodeId, Tree};

fuzz_target!(|bytes: &[u8]| {
    let Ok(tree) = Tree::parse(bytes) else { return };
    assert_eq!(tree.encode(), bytes);
    for id in (0..tree.len().min(1000)).map(NodeId) {
        if let Some(node) = tree.node(id)
            && id != NodeId::ROOT
        {
            assert_eq!(tree.child(node.parent, node.name.as_bytes()), Some(id));
        }
        let _ = tree.resolve(&tree.path(id));
    }
});
