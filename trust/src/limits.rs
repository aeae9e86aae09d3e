//! Every bound in one place, each with its reason (docs/format.md section 3).
//!
//! A bound is checked before the allocation or the work that it bounds.

/// Deepest nesting of any JSON text; ours reach nine levels.
pub const JSON_DEPTH: usize = 16;

/// `trust.json`, bytes. A root with 64 keys and 100 scopes has about 30 kB.
pub const TRUST_ROOT_BYTES: u64 = 256 << 10;
/// Keys in a trust root.
pub const TRUST_ROOT_KEYS: usize = 64;

/// Bytes that may be signed (DSSE PAE): the smallest limit of the cloud KMS in use.
pub const SIGNED_BYTES: usize = 4096;
/// One signature, bytes: from the DER of two small numbers to that of two of 33 bytes.
pub const SIGNATURE_BYTES: std::ops::RangeInclusive<usize> = 8..=72;
/// Signatures in one envelope.
pub const SIGNATURES: usize = 16;

/// `head.json`, bytes: a base64 of 4,096 signed bytes and 16 signatures fit.
pub const HEAD_BYTES: u64 = 16 << 10;
/// Longest time from a head's `issued` to its `expires`, seconds (30 days).
pub const HEAD_LIFETIME_SECONDS: i64 = 30 * 86_400;
/// How far a signer's clock may be ahead of ours, or ours have gone back, seconds.
pub const CLOCK_SKEW_SECONDS: i64 = 300;

/// A catalogue, bytes: 256 bins at about 100 bytes.
pub const CATALOGUE_BYTES: u64 = 64 << 10;
/// Servers up to which a catalogue has one bin; above, it has 256.
pub const ONE_BIN_SERVERS: usize = 512;
/// One bin, bytes: 100,000 servers make 256 bins of about 60 kB.
pub const BIN_BYTES: u64 = 1 << 20;
/// An entry, bytes.
pub const ENTRY_BYTES: u64 = 1 << 20;
/// Releases that one entry lists.
pub const ENTRY_RELEASES: usize = 128;

/// The details of a release, bytes: about 30,000 packages.
pub const DETAILS_BYTES: u64 = 4 << 20;

/// Platforms of one release.
pub const PLATFORMS: usize = 8;
/// A stored chunk's decoded size, bytes.
pub const CHUNK_PLAIN_BYTES: u64 = 4 << 20;
/// A stored chunk, bytes: zstd's worst case for the above is below 1/256 more.
pub const CHUNK_STORED_BYTES: u64 = CHUNK_PLAIN_BYTES + (CHUNK_PLAIN_BYTES >> 8) + 64;
/// Chunks one entry lists for one tree or layout.
pub const LISTED_CHUNKS: usize = 512;
/// Content chunks an entry names for a cold launch.
pub const FIRST_CHUNKS: usize = 64;

/// Nodes of a tree.
pub const TREE_NODES: usize = 1_000_000;
/// An encoded tree, bytes: a million nodes of about 100 bytes.
pub const TREE_BYTES: u64 = 256 << 20;
/// Levels below a tree's root.
pub const TREE_DEPTH: usize = 64;
/// A file name, bytes (NAME_MAX).
pub const NAME_BYTES: usize = 255;
/// A path below the root, or a link's target, bytes (PATH_MAX).
pub const PATH_BYTES: usize = 4096;
/// Links followed to resolve one path (the kernel's own limit).
pub const LINK_DEPTH: usize = 40;
/// Steps all links of one tree may take together when a decoder checks them.
pub const LINK_STEPS: usize = 8_000_000;
/// An encoded layout, bytes.
pub const LAYOUT_BYTES: u64 = 64 << 20;
/// Content chunks of one layout: enough for a tree of 400 GiB.
pub const LAYOUT_CHUNKS: usize = 400_000;

/// Text fields of a recipe, bytes: together they must leave room below `SIGNED_BYTES`.
pub const TEXT_BYTES: usize = 1024;
/// Items of a list in a recipe.
pub const LIST_ITEMS: usize = 64;
/// Entries of `launch.env`.
pub const ENV_ITEMS: usize = 64;
/// Credentials of a release: all of them are named in one row of a host's audit.
pub const CREDENTIALS: usize = 16;
/// What a credential is called (`ref`), bytes.
pub const CREDENTIAL_REF_BYTES: usize = 200;
/// The first line of `run`, bytes: the kernel reads 256 including the newline.
pub const SHEBANG_BYTES: usize = 255;
