//! Any change of any byte of head, catalogue, bin, entry, tree, layout or chunk gives an error or the very
//! same thing, in the order in which a host reads them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::LazyLock;

use mcpfs_trust::catalogue::{Bin, Catalogue};
use mcpfs_trust::chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::Entry;
use mcpfs_trust::layout::Layout;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::tree::Tree;
use mcpfs_trust::verify::{self, AcceptedHead, Seen, Verified};
use proptest::prelude::*;

/// A published server, all that a host verified of it, and the bytes that it verified.
struct Published {
    site: support::Site,
    root: TrustRoot,
    head: AcceptedHead,
    catalogue: Verified<Catalogue>,
    bin: Verified<Bin>,
    entry: Verified<Entry>,
    tree: Tree,
}

static PUBLISHED: LazyLock<Published> = LazyLock::new(|| {
    let site = support::site("postgres", support::entry("postgres").encode());
    let root = support::root();
    let head = verify::head(&site.head, &root, &Seen::default(), support::time(support::NOW)).unwrap();
    let catalogue = verify::catalogue(&site.catalogue, &head).unwrap();
    let bin = verify::bin(&site.bin, &catalogue, 0).unwrap();
    let entry = verify::entry(&site.entry, &bin, &"postgres".parse().unwrap()).unwrap();
    Published { site, root, head, catalogue, bin, entry, tree: support::tree() }
});

/// With up to three changes; never what it was.
fn altered(bytes: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    support::edited(bytes.to_vec(), 1..4).prop_filter("a change", move |now| now != bytes)
}

fn kept(bytes: Vec<u8>) -> &'static [u8] {
    bytes.leak()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_head(bytes in altered(&PUBLISHED.site.head)) {
        let now = support::time(support::NOW);
        if let Ok(head) = verify::head(&bytes, &PUBLISHED.root, &Seen::default(), now) {
            prop_assert_eq!(&head, &PUBLISHED.head);
        }
    }

    #[test]
    fn a_catalogue(bytes in altered(&PUBLISHED.site.catalogue)) {
        prop_assert!(verify::catalogue(&bytes, &PUBLISHED.head).is_err());
    }

    #[test]
    fn a_bin(bytes in altered(&PUBLISHED.site.bin)) {
        prop_assert!(verify::bin(&bytes, &PUBLISHED.catalogue, 0).is_err());
    }

    /// Also one that its bin would name: a thief of a head key can do that, and the signature of the release holds.
    #[test]
    fn an_entry(bytes in altered(&PUBLISHED.site.entry)) {
        let name = "postgres".parse().unwrap();
        prop_assert!(verify::entry(&bytes, &PUBLISHED.bin, &name).is_err());
        let version = &PUBLISHED.entry.selected.release.version;
        let sound = verify::release(&PUBLISHED.entry, version, &PUBLISHED.root, None).unwrap();
        if let Ok(listed) = Entry::parse(&bytes)
            && let Some(listed) = listed.find(version)
            && let Ok(release) = verify::statement(&listed.envelope, &name, version, &PUBLISHED.root, None)
        {
            prop_assert_eq!(&*release, &*sound);
        }
    }

    #[test]
    fn a_tree(bytes in altered(kept(support::tree().encode()))) {
        prop_assert!(Tree::decode(&bytes, &PUBLISHED.tree.summary()).is_err());
    }

    /// By its digest in the entry. One that was published with the entry can only make a file unavailable: what it
    /// puts together is hashed against the tree.
    #[test]
    fn a_layout(bytes in altered(kept(support::layout().encode()))) {
        let sound = support::layout().encode();
        prop_assert!(chunk::expect("layout", &Digest::of(&sound), &bytes).is_err());
        let Ok(layout) = Layout::decode(&bytes, &PUBLISHED.tree) else { return Ok(()) };
        for (index, extent) in layout.contents.iter().enumerate() {
            let (size, _) = PUBLISHED.tree.content(index as u32).unwrap();
            prop_assert!(layout.span(*extent, size).is_some(), "it lies in its chunks");
        }
    }

    #[test]
    fn a_chunk(bytes in altered(kept(support::frame(support::SERVER)))) {
        let record = support::chunk(support::SERVER);
        prop_assert_eq!(record.decode(&support::frame(support::SERVER)).unwrap(), support::SERVER);
        prop_assert!(record.decode(&bytes).is_err());
    }
}
