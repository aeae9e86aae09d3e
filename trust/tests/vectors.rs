//! The golden vectors: `testdata/vectors/*.json`, good ones and one per way of being bad.
//!
//! Each file carries its whole input and the expected outcome, so that another
//! implementation can use it. Two things are tested: the verifier gives that outcome, and
//! the builders below still give those bytes (a format change is a decision, never an
//! accident). After such a decision: `MCPFS_BLESS=1 cargo test -p mcpfs-trust --test vectors`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod cases;
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use cases::{Input, Vector};
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::layout::Layout;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::tree::Tree;
use mcpfs_trust::verify::{self, Floor, Pin, Seen, SeenTrust};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/vectors")
}

fn stored() -> BTreeMap<String, Vector> {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let json = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    json.map(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())
    })
    .collect()
}

#[test]
fn the_bytes_are_frozen() {
    let built = cases::all();
    if std::env::var_os("MCPFS_BLESS").is_some() {
        for (name, vector) in &built {
            let text = serde_json::to_string_pretty(vector).unwrap() + "\n";
            std::fs::write(folder().join(format!("{name}.json")), text).unwrap();
        }
    }
    let stored = stored();
    let names = |map: &BTreeMap<String, Vector>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&built), names(&stored));
    for (name, vector) in built {
        assert!(vector == stored[&name], "{name} is built differently than its frozen file says");
    }
}

#[test]
fn every_vector_has_its_outcome() {
    let vectors = stored();
    for (name, vector) in &vectors {
        assert_eq!(vector.run(), vector.outcome, "{name}: {}", vector.about);
    }
    println!("{} vectors", vectors.len());
}

#[test]
fn every_error_of_this_crate_has_a_vector() {
    let seen: std::collections::BTreeSet<_> = stored().into_values().map(|vector| vector.outcome).collect();
    // What only a host (or the signer's own hand) can meet.
    let elsewhere = [
        "SelfVerifyFailed",
        "TooSlow",
        "Unreachable",
        "PolicyRefused",
        "LaunchUnsupported",
        "AuditUnavailable",
        "CacheFull",
        "CacheFault",
    ];
    for code in mcpfs_trust::error::Code::ALL.map(|code| code.to_string()) {
        assert_eq!(seen.contains(&code), !elsewhere.contains(&code.as_str()), "{code}");
    }
}

impl Vector {
    /// Does what a host does with such an input.
    fn run(&self) -> String {
        match self.input.verify() {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.code().to_string(),
        }
    }
}

impl Input {
    fn verify(&self) -> Result<(), VerifyError> {
        match self {
            Self::TrustRoot { bytes, seen } => {
                let seen = seen.as_ref().map(|seen| SeenTrust {
                    version: seen.version,
                    epoch: seen.epoch.unwrap_or(1),
                    sha256: seen.sha256,
                });
                verify::trust_root(&bytes.0, seen.as_ref()).map(drop)
            }
            Self::Head { trust, head, floor, signed_time, now } => {
                let (root, _) = verify::trust_root(&trust.0, None)?;
                let floor = floor.as_ref();
                let floor = floor.map(|seen| Floor { epoch: seen.epoch, version: seen.version, sha256: seen.sha256 });
                let seen = Seen { floor, signed_time: *signed_time };
                let accepted = verify::head(&head.0, &root, &seen, *now)?;
                // What was accepted once is accepted again, and can be taken up after a restart.
                assert_eq!(verify::head(&head.0, &root, &accepted.seen, *now).unwrap(), accepted);
                assert_eq!(verify::restored_head(&head.0, &root, &accepted.seen).unwrap(), accepted);
                Ok(())
            }
            Self::Release { trust, head, catalogue, bin, entry, now, name, pin, platform, published } => {
                let (root, _) = verify::trust_root(&trust.0, None)?;
                let accepted = verify::head(&head.0, &root, &Seen::default(), *now)?;
                let catalogue = verify::catalogue(&catalogue.0, &accepted)?;
                let index = mcpfs_trust::catalogue::bin_of(name, catalogue.bins.len());
                let bin = verify::bin(&bin.0, &catalogue, index)?;
                let entry = verify::entry(&entry.0, &bin, name)?;
                let pin = pin.clone().map(|pin| Pin { version: pin.version, artefact: pin.artefact });
                let listed = verify::select(&entry, pin.as_ref())?;
                let version = &listed.release.version;
                let release = verify::release(&entry, version, &root, published.as_ref())?;
                verify::artefact(&release, platform, pin.as_ref())?;
                Ok(())
            }
            Self::Tree { summary, bytes } => {
                let tree = Tree::decode(&bytes.0, summary)?;
                assert_eq!(tree.encode(), bytes.0);
                Ok(())
            }
            Self::Layout { tree, bytes } => {
                let layout = Layout::decode(&bytes.0, &Tree::parse(&tree.0)?)?;
                assert_eq!(layout.encode(), bytes.0);
                Ok(())
            }
            Self::Chunk { record, bytes } => record.decode(&bytes.0).map(drop),
        }
    }
}

/// An impossible threshold is told with its place and its range.
#[test]
fn an_impossible_threshold_is_named() {
    let good: serde_json::Value = serde_json::from_slice(&support::root().encode()).unwrap();
    let scope = good["release"][0]["scope"].as_str().unwrap();
    for (role, what) in [("/head", "head"), ("/release/0/require/0", scope)] {
        let keys = good.pointer(&format!("{role}/keys")).unwrap().as_array().unwrap().len();
        for threshold in [0, keys + 1] {
            let mut root = good.clone();
            *root.pointer_mut(&format!("{role}/threshold")).unwrap() = threshold.into();
            let said = TrustRoot::parse(&serde_json::to_vec(&root).unwrap()).unwrap_err().to_string();
            let wanted =
                format!("{what}: threshold is {threshold}; it must be from 1 to {keys}, the number of its keys");
            assert!(said.contains(&wanted), "{said}");
        }
    }
}
