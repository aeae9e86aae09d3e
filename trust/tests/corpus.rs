//! The committed fuzz corpus begins with the golden vectors: this keeps the two together.
//! `MCPFS_BLESS=1 cargo test -p mcpfs-trust --test corpus` writes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod cases;
mod support;

use std::path::Path;

use cases::Input;

/// Seeds of the target `key`: each key of the tests in both forms, and P-256's signature of RFC 6979.
fn keys() -> Vec<(&'static str, Vec<u8>)> {
    let signature = support::ecdsa(support::P_TEAM, b"sample");
    let forms = [signature, signature.normalize_s()].map(|one| one.to_der().as_bytes().to_vec());
    let keys = [support::HEAD, support::P_TEAM].map(support::public);
    let keys = keys.iter().flat_map(|key| [key.to_bytes(), key.spki_der()]);
    keys.chain(forms).map(|bytes| ("key", bytes)).collect()
}

/// Seeds of the target `details`: all fields, none, and one that says nothing.
fn details() -> [(&'static str, Vec<u8>); 4] {
    let check = r#""check":{"at":"2026-04-20T08:00:00Z","by":"mcpfs-signer 0.1.0""#;
    let carried = r#""carried":[{"platform":"any","packages":[{"ecosystem":"npm","name":"zod","version":"4.1.0"}]}]"#;
    let text = |rest: String| format!(r#"{{"schema":"mcpfs.details/v1",{rest}}}"#);
    [
        format!(r#"{check},"warnings":1,"notes":3,"waivers":["w"],"looks":["l"],"tools":[{{"name":"q"}}]}},{carried}"#),
        format!("{check}}},{carried}"),
        format!("{check}}}"),
        format!(r#"{check},"warnings":0}}"#),
    ]
    .map(|rest| ("details", text(rest).into_bytes()))
}

/// The fuzz targets an input is a seed of, with the bytes each wants.
fn seeds(input: Input) -> Vec<(&'static str, Vec<u8>)> {
    match input {
        Input::TrustRoot { bytes, .. } => vec![("trust_root", bytes.0)],
        Input::Head { head, .. } => vec![("envelope", head.0)],
        Input::Release { catalogue, bin, entry, .. } => {
            vec![("catalogue", catalogue.0), ("catalogue", bin.0), ("entry", entry.0)]
        }
        Input::Tree { bytes, .. } => vec![("tree", bytes.0)],
        Input::Layout { tree, bytes } => {
            let length = u16::try_from(tree.0.len()).unwrap().to_be_bytes();
            vec![("layout", [&length, tree.0.as_slice(), &bytes.0].concat())]
        }
        Input::Chunk { record, bytes } => {
            let plain = [&record.plain_size.to_be_bytes()[..], record.plain_sha256.as_bytes()].concat();
            vec![("chunk", [plain, bytes.0].concat())]
        }
    }
}

#[test]
fn every_vector_is_a_seed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let write = std::env::var_os("MCPFS_BLESS").is_some();
    let mut count = 0;
    for (target, bytes) in
        cases::all().into_values().flat_map(|vector| seeds(vector.input)).chain(keys()).chain(details())
    {
        if bytes.len() > 100_000 {
            continue; // A bound's vector is mere length: nothing for a fuzzer.
        }
        let path = folder.join(target).join(mcpfs_trust::digest::Digest::of(&bytes).short());
        if write {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).ok(), Some(bytes), "{} is missing: bless it", path.display());
        count += 1;
    }
    assert!(count > 100, "{count} seeds");
}
