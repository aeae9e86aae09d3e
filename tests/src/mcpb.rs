//! Bundles of MCPB, packed as its own packer packs them.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use zip::write::SimpleFileOptions;

use crate::registry::files_below;

/// Packs the files of `tree` with `manifest` into `file`: no links, no modes (all 0644), and the
/// block of a signature at the end, which nobody here looks at.
pub fn pack(tree: &Path, manifest: &Value, file: &Path) -> PathBuf {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(file).expect("own directory"));
    let options = SimpleFileOptions::default().unix_permissions(0o644);
    zip.start_file("manifest.json", options).expect("a new zip");
    zip.write_all(manifest.to_string().as_bytes()).expect("own file");
    for path in files_below(tree) {
        let from = tree.join(&path);
        if from.symlink_metadata().expect("exists").is_file() {
            zip.start_file(path, options).expect("a new entry");
            zip.write_all(&std::fs::read(from).expect("own file")).expect("own file");
        }
    }
    let mut done = zip.finish().expect("own file");
    done.write_all(b"MCPB_SIG_V1\x04\x00\x00\x00\x30\x02\x05\x00MCPB_SIG_END").expect("own file");
    file.to_owned()
}
