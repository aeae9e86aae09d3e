//! The doors by which bytes of strangers come in, one function each: what fuzzing (`trust/fuzz`) and
//! the walk over its committed corpora (`tests/doors.rs`) go through.
//!
//! A decoder may refuse anything. It must not panic, and what it accepts was in its one form and holds
//! for the next step. Each says whether it accepted anything: a door that is closed for everything
//! is no strong one.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mcpfs_trust::catalogue::{Bin, Catalogue};
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::details::Details;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::Entry;
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::head::{HEAD_TYPE, Head};
use mcpfs_trust::key::{Algorithm, PublicKey};
use mcpfs_trust::layout::Layout;
use mcpfs_trust::release::{RELEASE_TYPE, Release};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::statement::Statement;
use mcpfs_trust::tree::{NodeId, Tree};
use serde_json::Value;

/// What takes the bytes, and says whether anything was accepted.
pub(crate) type Door = fn(&[u8]) -> bool;

/// All of them, by the names of their fuzz targets and corpora.
pub(crate) const ALL: [(&str, Door); 9] = [
    ("trust_root", trust_root),
    ("envelope", envelope),
    ("catalogue", catalogue),
    ("entry", entry),
    ("details", details),
    ("tree", tree),
    ("layout", layout),
    ("chunk", chunk),
    ("key", key),
];

fn value(text: &[u8]) -> Value {
    serde_json::from_slice(text).expect("it parses")
}

/// A trust root; what parses is the same after writing it again.
pub(crate) fn trust_root(bytes: &[u8]) -> bool {
    let Ok(root) = TrustRoot::parse(bytes) else { return false };
    let again = root.encode();
    assert_eq!(value(&again), value(bytes));
    assert_eq!(TrustRoot::parse(&again), Ok(root));
    true
}

/// An envelope has one meaning, also after writing it again; its statement is in its one form.
pub(crate) fn envelope(bytes: &[u8]) -> bool {
    let Ok(envelope) = Envelope::parse(bytes, 1 << 20, "fuzz") else { return false };
    assert_eq!(Envelope::parse(&envelope.encode(), 2 << 20, "fuzz").as_ref(), Ok(&envelope));
    statement(&envelope.payload);
    true
}

/// A statement of either kind.
pub(crate) fn statement(bytes: &[u8]) -> bool {
    if let Ok(statement) = Statement::<Head>::parse(bytes, HEAD_TYPE) {
        assert_eq!(value(&statement.encode(HEAD_TYPE)), value(bytes));
        return true;
    }
    let Ok(statement) = Statement::<Release>::parse(bytes, RELEASE_TYPE) else { return false };
    let _ = statement.predicate.validate();
    assert_eq!(value(&statement.encode(RELEASE_TYPE)), value(bytes));
    true
}

/// Catalogues and bins.
pub(crate) fn catalogue(bytes: &[u8]) -> bool {
    if let Ok(catalogue) = Catalogue::parse(bytes) {
        assert_eq!(value(&catalogue.encode()), value(bytes));
        assert_eq!(Catalogue::parse(&catalogue.encode()), Ok(catalogue));
        return true;
    }
    let Ok(bin) = Bin::parse(bytes, 0, 1) else { return false };
    assert_eq!(value(&bin.encode()), value(bytes));
    assert!(bin.servers.iter().all(|server| bin.find(&server.name) == Some(server)));
    true
}

/// An entry; the text was in its one form but for envelopes, which may have further fields.
pub(crate) fn entry(bytes: &[u8]) -> bool {
    fn without_envelopes(text: &[u8]) -> Value {
        let mut value = value(text);
        value["signature"].take();
        for earlier in value.get_mut("earlier").and_then(Value::as_array_mut).into_iter().flatten() {
            earlier["signature"].take();
        }
        value
    }
    let Ok(entry) = Entry::parse(bytes) else { return false };
    assert_eq!(without_envelopes(&entry.encode()), without_envelopes(bytes));
    assert_eq!(Entry::parse(&entry.encode()), Ok(entry));
    true
}

/// Details of a release.
pub(crate) fn details(bytes: &[u8]) -> bool {
    let read = |bytes: &[u8]| Details::read(bytes, &Digest::of(bytes));
    let Ok(details) = read(bytes) else { return false };
    assert_eq!(value(&details.encode()), value(bytes));
    assert_eq!(read(&details.encode()), Ok(details));
    true
}

/// A tree has one encoding, and every node is found by its path.
pub(crate) fn tree(bytes: &[u8]) -> bool {
    let Ok(tree) = Tree::parse(bytes) else { return false };
    assert_eq!(tree.encode(), bytes);
    for id in (0..tree.len().min(1000)).map(NodeId) {
        if let Some(node) = tree.node(id)
            && id != NodeId::ROOT
        {
            assert_eq!(tree.child(node.parent, node.name.as_bytes()), Some(id));
        }
        let _ = tree.resolve(&tree.path(id));
    }
    true
}

/// A length of two bytes, an encoded tree of that length, and an encoded layout: what the layout
/// gives for the tree lies inside its chunks.
pub(crate) fn layout(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return false };
    let Some((tree, layout)) = rest.split_at_checked(u16::from_be_bytes(*length).into()) else { return false };
    if let Ok(parsed) = Layout::parse(layout) {
        assert_eq!(parsed.encode(), layout);
    }
    let Ok(tree) = Tree::parse(tree) else { return false };
    let Ok(layout) = Layout::decode(layout, &tree) else { return false };
    for (index, extent) in layout.contents.iter().enumerate() {
        let (size, _) = tree.content(index as u32).expect("decode checked the count");
        assert!(layout.span(*extent, size).is_some());
    }
    true
}

/// The plain bytes' size in four bytes and their digest in 32, then a chunk as it is stored.
pub(crate) fn chunk(bytes: &[u8]) -> bool {
    let Some((plain_size, rest)) = bytes.split_first_chunk::<4>() else { return false };
    let Some((plain_sha256, stored)) = rest.split_first_chunk::<32>() else { return false };
    let record = Chunk {
        sha256: Digest::of(stored),
        size: stored.len() as u32,
        plain_sha256: Digest::from_bytes(*plain_sha256),
        plain_size: u32::from_be_bytes(*plain_size),
    };
    let Ok(plain) = record.decode(stored) else { return false };
    assert_eq!((plain.len() as u32, Digest::of(&plain)), (record.plain_size, record.plain_sha256));
    true
}

/// The key and the message of RFC 6979 A.2.5, whose signatures the corpus begins with.
const POINT: &[u8; 65] = b"\x04\x60\xfe\xd4\xba\x25\x5a\x9d\x31\xc9\x61\xeb\x74\xc6\x35\x6d\x68\xc0\x49\xb8\x92\x3b\x61\xfa\x6c\xe6\x69\x62\x2e\x60\xf2\x9f\xb6\x79\x03\xfe\x10\x08\xb8\xbc\x99\xa4\x1a\xe9\xe9\x56\x28\xbc\x64\xf2\xf1\xb2\x0c\x2d\x7e\x9f\x51\x77\xa3\xc2\x94\xd4\x46\x22\x99";
const MESSAGE: &[u8] = b"sample";
/// Its signature there, with the lower S.
const SIGNATURE: &[u8] = b"\x30\x45\x02\x21\x00\xef\xd4\x8b\x2a\xac\xb6\xa8\xfd\x11\x40\xdd\x9c\xd4\x5e\x81\xd6\x9d\x2c\x87\x7b\x56\xaa\xf9\x91\xc3\x4d\x0e\xa8\x4e\xaf\x37\x16\x02\x20\x08\x34\xe3\x6a\xd2\x9a\x83\xbf\x2b\xc9\x38\x5e\x49\x1d\x60\x99\xc8\xfd\xf9\xd1\xed\x67\xaa\x7e\xa5\xf5\x1f\x93\x78\x28\x57\xa9";

/// A public key or a signature; what is accepted was in its one form.
pub(crate) fn key(bytes: &[u8]) -> bool {
    let mut taken = false;
    if let Ok(key) = PublicKey::from_spki_der(bytes) {
        assert_eq!(key.spki_der(), bytes);
        taken = true;
    }
    for algorithm in Algorithm::ALL {
        if let Ok(key) = PublicKey::from_bytes(algorithm, bytes) {
            assert_eq!(key.to_bytes(), bytes);
            assert_eq!(PublicKey::from_spki_der(&key.spki_der()), Ok(key));
            taken = true;
        }
    }
    let key = PublicKey::from_bytes(Algorithm::EcdsaP256, POINT).expect("a good key");
    // Of this one's genuine signatures only one is in the corpus; to find another is not a fuzzer's work.
    let verified = key.verify(MESSAGE, bytes);
    assert_eq!(verified, bytes == SIGNATURE);
    taken || verified
}
