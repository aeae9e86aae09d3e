//! Where everything lies below a site's address: the one place that knows (docs/format.md section 4).

use crate::digest::Digest;
use crate::name::ServerName;

/// The head.
pub const HEAD: &str = "head.json";

/// A catalogue.
pub fn catalogue(sha256: &Digest) -> String {
    format!("catalogue/{sha256}.json")
}

/// A bin of a catalogue.
pub fn bin(sha256: &Digest) -> String {
    format!("catalogue/bins/{sha256}.json")
}

/// An entry.
pub fn entry(sha256: &Digest) -> String {
    format!("entries/{sha256}.json")
}

/// The same entry under the name that people ask for.
pub fn server(name: &ServerName) -> String {
    format!("servers/{name}.json")
}

/// The details of a release.
pub fn details(sha256: &Digest) -> String {
    format!("details/{sha256}.json")
}

/// A chunk.
pub fn object(sha256: &Digest) -> String {
    let name = sha256.to_string();
    format!("objects/{}/{name}", &name[..2])
}

/// An original artefact.
pub fn artefact(sha256: &Digest) -> String {
    format!("artefacts/{sha256}")
}

/// The segment of the signing log that belongs to a head; `head` is the digest of its payload.
pub fn log(head_version: u64, head: &Digest) -> String {
    format!("log/{head_version}-{head}.jsonl")
}

/// A head that was replaced by the next one.
pub fn earlier_head(head_version: u64, head: &Digest) -> String {
    format!("heads/{head_version}-{head}.json")
}
