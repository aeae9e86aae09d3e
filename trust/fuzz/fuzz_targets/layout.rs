//! A layout has one encoding, and what it gives for a tree lies inside its chunks.
//!
//! The input is a length, an encoded tree of that length, and an encoded layout.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpfs_trust::layout::Layout;
use mcpfs_trust::tree::Tree;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let Some((tree, layout)) = rest.split_at_checked(u16::from_be_bytes(*length).into()) else { return };
    if let Ok(parsed) = Layout::parse(layout) {
        assert_eq!(parsed.encode(), layout);
    }
    let Ok(tree) = Tree::parse(tree) else { return };
    let Ok(layout) = Layout::decode(layout, &tree) else { return };
    for (index, extent) in layout.contents.iter().enumerate() {
        let (size, _) = tree.content(index as u32).expect("decode checked the count");
        assert!(layout.span(*extent, size).is_some());
    }
});
