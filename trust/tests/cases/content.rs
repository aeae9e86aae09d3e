//! Vectors of trees, layouts and chunks.

use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::layout::{Extent, Layout};
use mcpfs_trust::release::TreeSummary;
use mcpfs_trust::tree::TreeBuilder;

use super::{Add, Bytes, Input};
use crate::support;

/// A tree made by hand: records after the magic and the count.
struct Raw(Vec<u8>);

impl Raw {
    fn new(count: u8) -> Self {
        Self([b"mcpftre\x01".as_slice(), &[count]].concat())
    }

    fn directory(mut self, name: &str, children: u8) -> Self {
        self.0.push(name.len() as u8);
        self.0.extend(name.as_bytes());
        self.0.extend([0, children]);
        self
    }

    fn file(mut self, name: &str, size: u8, sha256: Digest) -> Self {
        self.0.push(name.len() as u8);
        self.0.extend(name.as_bytes());
        self.0.extend([1, 0, size]);
        self.0.extend(sha256.as_bytes());
        self
    }

    fn link(mut self, name: &str, target: &str) -> Self {
        self.0.push(name.len() as u8);
        self.0.extend(name.as_bytes());
        self.0.extend([2, target.len() as u8]);
        self.0.extend(target.as_bytes());
        self
    }

    fn input(self) -> Input {
        self.with(0, 0)
    }

    fn with(self, files: u64, bytes: u64) -> Input {
        let summary = TreeSummary { sha256: Digest::of(&self.0), size: self.0.len() as u64, files, bytes };
        Input::Tree { summary, bytes: Bytes(self.0) }
    }
}

pub(crate) fn trees(add: &mut Add<'_>) {
    let tree = support::tree();
    let bytes = tree.encode();
    add(
        "tree-good",
        "files, a copy, links, an empty file, unicode names",
        "ok",
        Input::Tree { summary: tree.summary(), bytes: Bytes(bytes.clone()) },
    );
    let empty = TreeBuilder::new().build().unwrap();
    add(
        "tree-empty",
        "a root and nothing in it",
        "ok",
        Input::Tree { summary: empty.summary(), bytes: Bytes(empty.encode()) },
    );
    let mut flipped = bytes.clone();
    flipped[40] ^= 1;
    add(
        "tree-flipped",
        "one bit of another tree",
        "DigestMismatch",
        Input::Tree { summary: tree.summary(), bytes: Bytes(flipped) },
    );
    let mut summary = tree.summary();
    summary.files += 1;
    add(
        "tree-other-count",
        "the statement promises more files",
        "Malformed",
        Input::Tree { summary, bytes: Bytes(bytes.clone()) },
    );
    let longer = [bytes.as_slice(), b"\0"].concat();
    let mut summary = tree.summary();
    add(
        "tree-longer-than-signed",
        "one byte more than the statement allows",
        "SizeExceeded",
        Input::Tree { summary, bytes: Bytes(longer.clone()) },
    );
    summary.sha256 = Digest::of(&longer);
    summary.size += 1;
    add("tree-trailing", "a byte after its end", "Malformed", Input::Tree { summary, bytes: Bytes(longer) });
    let mut other = bytes.clone();
    other[7] = 2;
    summary.sha256 = Digest::of(&other);
    summary.size -= 1;
    add("tree-version", "version 2 of the format", "Malformed", Input::Tree { summary, bytes: Bytes(other) });

    let bad = [
        ("tree-dotdot-name", "a file named ..", Raw::new(2).directory("", 1).file("..", 0, Digest::EMPTY)),
        ("tree-slash-name", "a file named a/b", Raw::new(2).directory("", 1).file("a/b", 0, Digest::EMPTY)),
        ("tree-control-name", "a newline in a name", Raw::new(2).directory("", 1).file("a\nb", 0, Digest::EMPTY)),
        ("tree-empty-name", "a nameless file", Raw::new(2).directory("", 1).file("", 0, Digest::EMPTY)),
        (
            "tree-unsorted",
            "b before a",
            Raw::new(3).directory("", 2).file("b", 0, Digest::EMPTY).file("a", 0, Digest::EMPTY),
        ),
        (
            "tree-duplicate",
            "a twice",
            Raw::new(3).directory("", 2).file("a", 0, Digest::EMPTY).file("a", 0, Digest::EMPTY),
        ),
        ("tree-named-root", "a root with a name", Raw::new(1).directory("x", 0)),
        ("tree-file-root", "a root that is a file", Raw::new(1).file("", 0, Digest::EMPTY)),
        ("tree-missing-child", "one child promised, none there", Raw::new(1).directory("", 1)),
        ("tree-extra-node", "a node outside every directory", Raw::new(2).directory("", 0).directory("a", 0)),
        ("tree-short", "two nodes promised, one there", Raw::new(2).directory("", 0)),
        ("tree-no-nodes", "not even a root", Raw::new(0)),
        (
            "tree-empty-file-digest",
            "an empty file with the digest of something",
            Raw::new(2).directory("", 1).file("a", 0, Digest::of(b"x")),
        ),
        (
            "tree-one-digest-two-sizes",
            "equal digests, different sizes",
            Raw::new(3).directory("", 2).file("a", 1, Digest::of(b"x")).file("b", 2, Digest::of(b"x")),
        ),
        ("tree-link-absolute", "a link to /etc/passwd", Raw::new(2).directory("", 1).link("a", "/etc/passwd")),
        ("tree-link-escape", "a link to ../x", Raw::new(2).directory("", 1).link("a", "../x")),
        (
            "tree-link-escape-by-chain",
            "each link is harmless, together they leave",
            Raw::new(4).directory("", 2).link("r", ".").directory("x", 1).link("l", "../r/.."),
        ),
        (
            "tree-link-escape-beyond-missing",
            "a missing directory, then out",
            Raw::new(2).directory("", 1).link("a", "no/../../x"),
        ),
        ("tree-link-loop", "a and b name each other", Raw::new(3).directory("", 2).link("a", "b").link("b", "a")),
        ("tree-link-empty", "a link to nothing", Raw::new(2).directory("", 1).link("a", "")),
    ];
    for (name, about, raw) in bad {
        add(name, about, "Malformed", raw.input());
    }
    add(
        "tree-link-dangling",
        "a link to what is not there: harmless",
        "ok",
        Raw::new(2).directory("", 1).link("a", "b").input(),
    );
    let mut overlong = Raw::new(1);
    overlong.0.pop();
    overlong.0.extend([0x81, 0x00]);
    add("tree-overlong-number", "a number in two bytes that needs one", "Malformed", overlong.directory("", 0).input());
    let mut deep = Raw::new(67);
    deep = deep.directory("", 1);
    for _ in 0..65 {
        deep = deep.directory("d", 1);
    }
    add("tree-deep", "66 levels", "Malformed", deep.directory("d", 0).input());
}

pub(crate) fn layouts_and_chunks(add: &mut Add<'_>) {
    let tree = Bytes(support::tree().encode());
    let good = support::layout();
    let mut layout = |name: &str, about: &str, outcome: &str, layout: &Layout| {
        add(name, about, outcome, Input::Layout { tree: tree.clone(), bytes: Bytes(layout.encode()) });
    };
    layout("layout-good", "two contents in one chunk", "ok", &good);
    let mut bad = good.clone();
    bad.contents.pop();
    layout("layout-other-tree", "one content too few", "Malformed", &bad);
    let mut bad = good.clone();
    bad.contents[1] = Extent { chunk: 1, offset: 0 };
    layout("layout-no-such-chunk", "a chunk that is not there", "Malformed", &bad);
    let mut bad = good.clone();
    bad.contents[1].offset += 1;
    layout("layout-outside-chunk", "a content that ends after its chunks", "Malformed", &bad);
    let mut bad = good.clone();
    bad.chunks[0].plain_size = 5 << 20;
    layout("layout-large-chunk", "a chunk of 5 MiB", "SizeExceeded", &bad);
    let bytes = [good.encode().as_slice(), b"x"].concat();
    add(
        "layout-trailing",
        "a byte after its end",
        "Malformed",
        Input::Layout { tree: tree.clone(), bytes: Bytes(bytes) },
    );

    let record = support::chunk(b"hello, chunk");
    let stored = support::frame(b"hello, chunk");
    let mut chunk = |name: &str, about: &str, outcome: &str, record: Chunk, bytes: &[u8]| {
        add(name, about, outcome, Input::Chunk { record, bytes: Bytes(bytes.to_vec()) });
    };
    chunk("chunk-good", "one raw block", "ok", record, &stored);
    let mut flipped = stored.clone();
    flipped[15] ^= 0x20;
    chunk("chunk-flipped", "one bit of the stored bytes", "DigestMismatch", record, &flipped);
    chunk("chunk-cut", "without its last byte", "DigestMismatch", record, &stored[..stored.len() - 1]);
    let lying = Chunk { plain_size: 11, ..record };
    chunk("chunk-longer-than-recorded", "a frame with more than was promised", "Malformed", lying, &stored);
    let lying = Chunk { plain_size: 13, ..record };
    chunk("chunk-shorter-than-recorded", "a frame with less than was promised", "Malformed", lying, &stored);
    let lying = Chunk { plain_sha256: Digest::of(b"x"), ..record };
    chunk("chunk-other-plain", "plain bytes of another digest", "DigestMismatch", lying, &stored);
    let lying = Chunk { sha256: Digest::of(b"no frame"), size: 8, ..record };
    chunk("chunk-no-frame", "bytes that are no zstd frame", "Malformed", lying, b"no frame");
    let bomb = Chunk { plain_size: u32::MAX, ..record };
    chunk("chunk-bomb", "4 GiB promised", "SizeExceeded", bomb, &stored);
}
